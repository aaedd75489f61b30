//! Calling the host: its callbacks, its log, its hooks. Who calls these functions takes a panic for the host's own, but what
//! is around the host's function here is ours.

use std::ffi::c_void;

use super::guarded;
use super::pointers::{DECISION, message, view};
use super::types::*;
use crate::decision::Decision;
use crate::observe::{Log, LogLevel};
use crate::sys::Inside;

type Callback = unsafe extern "C" fn(*mut c_void, *const alta_auth_decision);

/// Calls a host's callback. The decision, and its texts, live until it has returned.
pub(super) fn deliver(function: Callback, user_data: usize, decision: &Decision) {
    guarded((), || {
        let view = view(decision, DECISION);
        let _host = Inside::leave();
        // SAFETY: the function and what it expects of its arguments are the host's, who promised in the header that it
        // may be called on any thread and neither throws nor jumps.
        unsafe { function(std::ptr::with_exposed_provenance_mut(user_data), &raw const view) };
    });
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
        guarded((), || {
            let level = match level {
                LogLevel::Off | LogLevel::Error => ALTA_AUTH_LOG_ERROR,
                LogLevel::Warn => ALTA_AUTH_LOG_WARN,
                LogLevel::Info => ALTA_AUTH_LOG_INFO,
                LogLevel::Debug => ALTA_AUTH_LOG_DEBUG,
            };
            let line = message(line);
            let _host = Inside::leave();
            // SAFETY: as in `deliver`; the text lives until the function has returned.
            unsafe {
                (self.function)(std::ptr::with_exposed_provenance_mut(self.user_data), level, line);
            }
        });
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

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::calls;
    use crate::decision::{Cause, Origin, Texts, Verdict};
    use crate::sys::{own_panics, silence_own_panics};

    static CALLED: AtomicUsize = AtomicUsize::new(0);

    /// A host in Rust that catches what it begins itself.
    unsafe extern "C" fn of_the_host(_: *mut c_void, _: *const alta_auth_decision) {
        CALLED.fetch_add(1, Ordering::Relaxed);
        let _ = catch_unwind(|| panic!("the host's"));
    }

    #[test]
    fn only_what_the_host_s_function_does_is_the_host_s() {
        // The hook is everybody's, and what is printed is looked at.
        let name = "ffi::call::tests::only_what_the_host_s_function_does_is_the_host_s";
        if let Some((_, errors)) = crate::own_process::printed(name, "") {
            assert!(errors.contains("the host's") && !errors.contains("out of range"), "{errors}");
            return;
        }
        silence_own_panics();
        let mut decision = Decision::new(Verdict::Allow, Origin::Backend, Cause::None, "");
        let calls = |decision: &Decision| calls::returns(|| deliver(of_the_host, 0, decision));
        assert!(calls(&decision));
        assert_eq!((CALLED.load(Ordering::Relaxed), own_panics()), (1, Vec::new()));

        // A defect: there is less text than it says.
        decision.texts = Texts::answered(&Arc::from(*b"token"), 9, 0);
        assert!(calls(&decision), "it is not taken for the host's");
        assert_eq!(CALLED.load(Ordering::Relaxed), 1);
        let places = own_panics();
        assert!(matches!(&places[..], [place] if place.starts_with("src/decision.rs:")), "{places:?}");
    }
}
