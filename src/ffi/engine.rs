//! Engines: start, reload, endings.

use std::ffi::c_char;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use super::config::alta_auth_config;
use super::pointers::{hand_out, object, object_mut, read, take_back, write};
use super::types::*;
use super::{call, explained, guarded, status};
use crate::engine::{Engine, Receiver};
use crate::observe::LogLevel;
use crate::sys;

/// An engine: asks backends, on threads of its own. Every function but free may be called from any thread.
pub struct alta_auth_engine {
    pub(super) engine: Engine,
    /// A receiver for each callback that was ever passed: hosts have one or two.
    callbacks: RwLock<Vec<(usize, Arc<dyn Receiver>)>>,
}

impl alta_auth_engine {
    pub(super) fn receiver(
        &self,
        function: unsafe extern "C" fn(*mut std::ffi::c_void, *const alta_auth_decision),
    ) -> Arc<dyn Receiver> {
        let address = function as usize;
        let find = |known: &[(usize, Arc<dyn Receiver>)]| {
            known.iter().find(|(of, _)| *of == address).map(|(_, receiver)| Arc::clone(receiver))
        };
        if let Some(receiver) = find(&self.callbacks.read()) {
            return receiver;
        }
        let mut known = self.callbacks.write();
        if let Some(receiver) = find(&known) {
            return receiver;
        }
        let receiver =
            self.engine.callback(move |user_data, decision| call::deliver(function, user_data, &decision));
        known.push((address, Arc::clone(&receiver)));
        receiver
    }
}

/// The engine behind a handle, unless this process is a fork of the one that made it.
pub(super) unsafe fn engine<'a>(handle: *const alta_auth_engine) -> Result<&'a alta_auth_engine, i32> {
    // SAFETY: the contract of the header.
    let handle = unsafe { object(handle)? };
    if handle.engine.is_forked() { Err(ALTA_AUTH_ERR_FORKED) } else { Ok(handle) }
}

/// Checks the configuration as a whole and starts an engine. Takes the configuration on ALTA_AUTH_OK only; otherwise
/// error says why. A backend that cannot be reached is no error: it is an outage, when it is asked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_engine_new(
    config: *mut alta_auth_config,
    out: *mut *mut alta_auth_engine,
    error: *mut c_char,
    error_len: usize,
) -> i32 {
    let make = || {
        // SAFETY: the contract of the header.
        let engine = unsafe {
            read(out.cast_const())?;
            sys::silence_own_panics();
            Engine::new(&object_mut(config)?.config)?
        };
        let engine = alta_auth_engine { engine, callbacks: RwLock::default() };
        // SAFETY: the contract of the header.
        unsafe {
            drop(take_back(config));
            write(out, hand_out(engine));
        }
        Ok(())
    };
    // SAFETY: the contract of the header.
    unsafe { explained(error, error_len, make) }
}

/// Turns a running engine to another configuration: backends, policy, credentials and log at once. Checks in flight end
/// under the old one; a check submitted after this never joins an exchange that began before it. Takes the
/// configuration on ALTA_AUTH_OK only; otherwise nothing has changed and error says why. threads.io, threads.callback,
/// inbox.capacity and overload cannot be changed. The log before must outlive this: see alta_auth_config_set_log.
/// ALTA_AUTH_ERR_CLOSED: the engine is shutting down or shut down.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_engine_reload(
    handle: *mut alta_auth_engine,
    config: *mut alta_auth_config,
    error: *mut c_char,
    error_len: usize,
) -> i32 {
    let reload = || {
        // SAFETY: the contract of the header.
        let (engine, new) = unsafe { (&engine(handle)?.engine, object_mut(config)?) };
        engine.reload(&new.config)?;
        // SAFETY: the contract of the header.
        drop(unsafe { take_back(config) });
        Ok(())
    };
    // SAFETY: the contract of the header.
    unsafe { explained(error, error_len, reload) }
}

/// Waits until each check that was accepted before this is decided and its callback has returned; not for reap. Does not
/// stop submits. 0 asks without waiting, UINT32_MAX waits for ever. ALTA_AUTH_ERR_TIMEOUT: some are pending.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_engine_drain(handle: *mut alta_auth_engine, timeout_ms: u32) -> i32 {
    // SAFETY: the contract of the header.
    status(|| unsafe { ended(handle, timeout_ms, Engine::drain) })
}

/// Stops accepting, waits until the deadline, then completes the rest with the default action and
/// ALTA_AUTH_CAUSE_SHUTDOWN (and returns ALTA_AUTH_ERR_TIMEOUT). Reap, cancel and statistics work after it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_engine_shutdown(handle: *mut alta_auth_engine, timeout_ms: u32) -> i32 {
    // SAFETY: the contract of the header.
    status(|| unsafe { ended(handle, timeout_ms, Engine::shutdown) })
}

unsafe fn ended(
    handle: *mut alta_auth_engine,
    timeout_ms: u32,
    end: fn(&Engine, Duration) -> bool,
) -> Result<(), i32> {
    // SAFETY: the contract of the header.
    let engine = unsafe { &engine(handle)?.engine };
    if engine.is_calling() {
        return Err(ALTA_AUTH_ERR_THREAD);
    }
    let timeout = match timeout_ms {
        u32::MAX => Duration::MAX,
        timeout_ms => Duration::from_millis(u64::from(timeout_ms)),
    };
    if end(engine, timeout) { Ok(()) } else { Err(ALTA_AUTH_ERR_TIMEOUT) }
}

/// Shuts down at once if that was not done, and frees. After it has returned no callback and no log callback runs again.
/// Queues may be freed before or after. Refused, and logged, from inside a callback of the same engine (from inside its log
/// callback only refused). In a forked child it does nothing, and closes no descriptor. NULL is accepted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_engine_free(handle: *mut alta_auth_engine) {
    guarded((), || {
        // SAFETY: the contract of the header.
        let Ok(engine) = (unsafe { object(handle.cast_const()) }) else { return };
        if engine.engine.is_forked() {
            // What it holds belongs to threads that do not exist here: no destructor may run. And no descriptor is closed by
            // its number: a child that closed what it was given may have the number for something of its own, and a
            // queue's eventfd looks like any other.
            return;
        }
        if engine.engine.is_calling() {
            let refused = "alta_auth_engine_free from inside a callback is refused: it would wait for itself";
            engine.engine.log().log(LogLevel::Error, || refused.to_owned());
            return;
        }
        // SAFETY: the contract of the header.
        drop(unsafe { take_back(handle) });
    });
}

/// The configured default_action, ALTA_AUTH_ALLOW or ALTA_AUTH_DENY: what a host does where a check is not accepted for
/// want of room. ALTA_AUTH_DENY for NULL and in a forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_default_action(handle: *const alta_auth_engine) -> i32 {
    guarded(ALTA_AUTH_DENY, || {
        // SAFETY: the contract of the header.
        unsafe { engine(handle) }.map_or(ALTA_AUTH_DENY, |engine| engine.engine.default_action() as i32)
    })
}
