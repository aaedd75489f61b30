//! Figures: as a struct and as Prometheus text.

use std::ffi::c_char;

use super::engine::{alta_auth_engine, engine};
use super::pointers::{room, write_struct, write_text};
use super::types::*;
use super::{guarded, status};
use crate::decision::Origin;

/// Reads the counters. submitted = completed + cancelled + pending holds at every reading.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_stats_read(
    handle: *const alta_auth_engine,
    out: *mut alta_auth_stats,
) -> i32 {
    status(|| {
        // SAFETY: the contract of the header.
        let (handle, size) = unsafe { (engine(handle)?, room(out.cast_const())?) };
        let stats = handle.engine.stats();
        let from = |origin: Origin| stats.origins[origin as usize];
        let value = alta_auth_stats {
            struct_size: size as u32,
            reserved: 0,
            submitted: stats.submitted,
            completed: stats.completed,
            cancelled: stats.cancelled,
            pending: stats.pending,
            refused: stats.refused,
            allowed: stats.allowed,
            denied: stats.denied,
            from_backend: from(Origin::Backend),
            from_memory: from(Origin::Memory),
            from_last_known: from(Origin::LastKnown),
            from_default: from(Origin::Default),
            coalesced: stats.coalesced,
            exchanges: stats.exchanges,
            retries: stats.retries,
            connections_opened: stats.connections_opened,
            connections_open: stats.connections_open,
            connections_idle: stats.connections_idle,
            remembered: stats.remembered,
            revoked: stats.revoked,
            causes: stats.causes,
        };
        // SAFETY: the contract of the header.
        unsafe { write_struct(out, size, value) };
        Ok(())
    })
}

/// The counters as Prometheus text (exposition format 0.0.4). Like snprintf: writes what fits in len bytes, NUL-terminated,
/// and returns the full length without the NUL. 0 for NULL and in a forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_metrics_text(
    handle: *const alta_auth_engine,
    buffer: *mut c_char,
    len: usize,
) -> usize {
    guarded(0, || {
        // SAFETY: the contract of the header.
        let Ok(handle) = (unsafe { engine(handle) }) else { return 0 };
        let text = handle.engine.stats().prometheus();
        // SAFETY: the contract of the header.
        unsafe { write_text(buffer, len, &text) }
    })
}
