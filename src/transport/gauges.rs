//! The state of the pools, for statistics and for who balances: a row an I/O thread and endpoint, each with one writer, so that
//! threads do not meet in what nobody reads most of the time.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Written by one thread at a time, read by any.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    pub(crate) fn add(&self, count: u64) {
        // Nobody else writes: not an exchange, which would cost ten times as much.
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    pub(crate) fn sub(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(count), Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn set(&self, count: u64) {
        self.0.store(count, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Of one pool: an endpoint's, on one I/O thread. Its own lines of the cache.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct PoolGauges {
    /// Connections established since the engine began.
    pub(crate) opened: Gauge,
    pub(crate) open: Gauge,
    pub(crate) idle: Gauge,
    /// Exchanges waiting for a connection.
    pub(crate) waiting: Gauge,
    /// Connections that exchanges share, pipes and those of HTTP/2 that have streams; and exchanges on them.
    pub(crate) pipes: Gauge,
    pub(crate) piped: Gauge,
    /// Exchanges begun: requests handed to a connection.
    pub(crate) exchanges: Gauge,
}

impl PoolGauges {
    /// Exchanges that have a connection or wait for one.
    pub(crate) fn in_use(&self) -> u64 {
        let alone = self.open.get().saturating_sub(self.idle.get()).saturating_sub(self.pipes.get());
        alone + self.piped.get() + self.waiting.get()
    }
}

/// One of them, kept.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) all: Arc<[PoolGauges]>,
    pub(super) index: usize,
}

impl Deref for Row {
    type Target = PoolGauges;

    fn deref(&self) -> &PoolGauges {
        &self.all[self.index]
    }
}

/// A row for each of so many I/O threads and endpoints: all of the first thread, then of the second.
pub(crate) fn gauges(threads: usize, endpoints: usize) -> Arc<[PoolGauges]> {
    (0..threads * endpoints).map(|_| PoolGauges::default()).collect()
}

/// The rows of one of so many endpoints, of all threads.
pub(crate) fn of_endpoint(
    gauges: &[PoolGauges],
    endpoint: usize,
    endpoints: usize,
) -> impl Iterator<Item = &PoolGauges> {
    gauges.iter().skip(endpoint).step_by(endpoints)
}
