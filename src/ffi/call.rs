//! Calling the host: its callbacks, its log, its hooks.

use std::ffi::c_void;

use super::pointers::{DECISION, message, view};
use super::types::*;
use crate::decision::Decision;
use crate::observe::{Log, LogLevel};

type Callback = unsafe extern "C" fn(*mut c_void, *const alta_auth_decision);

/// Calls a host's callback. The decision, and its texts, live until it has returned.
pub(super) fn deliver(function: Callback, user_data: usize, decision: &Decision) {
    let view = view(decision, DECISION);
    // SAFETY: the function and what it expects of its arguments are the host's, who promised in the header that it
    // may be called on any thread and neither throws nor jumps.
    unsafe { function(std::ptr::with_exposed_provenance_mut(user_data), &raw const view) };
}

pub(super) struct HostLog {
    function: unsafe extern "C" fn(*mut c_void, i32, alta_auth_str),
    user_data: usize,
}

impl HostLog {
    pub(super) fn new(
        function: unsafe extern "C" fn(*mut c_void, i32, alta_auth_str),
        user_data: *mut c_void,
    ) -> Self {
        Self { function, user_data: user_data.expose_provenance() }
    }
}

impl Log for HostLog {
    fn log(&self, level: LogLevel, line: &str) {
        let level = match level {
            LogLevel::Off | LogLevel::Error => ALTA_AUTH_LOG_ERROR,
            LogLevel::Warn => ALTA_AUTH_LOG_WARN,
            LogLevel::Info => ALTA_AUTH_LOG_INFO,
            LogLevel::Debug => ALTA_AUTH_LOG_DEBUG,
        };
        // SAFETY: as in `deliver`; the text lives until the function has returned.
        unsafe {
            (self.function)(std::ptr::with_exposed_provenance_mut(self.user_data), level, message(line));
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct HostHook {
    function: unsafe extern "C" fn(*mut c_void),
    user_data: usize,
}

impl HostHook {
    pub(super) fn new(function: unsafe extern "C" fn(*mut c_void), user_data: *mut c_void) -> Self {
        Self { function, user_data: user_data.expose_provenance() }
    }

    pub(super) fn call(self) {
        // SAFETY: as in `deliver`.
        unsafe { (self.function)(std::ptr::with_exposed_provenance_mut(self.user_data)) };
    }
}
