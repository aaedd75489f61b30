//! When an I/O thread must be woken, and when it looks for itself.
//!
//! Wake-ups cost a system call and, when the core sleeps, 13 us, so there is one a batch, and none while the
//! thread is busy: it looks at the inbox itself each time before it parks. The two sides meet at one flag:
//!
//! ```text
//! submit:      send; fence;  parked? ── yes ──▶ parked = false; notify
//! I/O thread:  parked = true; fence; inbox empty? ── no ──▶ notify itself ── yes ──▶ park
//! ```
//!
//! Each writes before it reads what the other writes, with a `SeqCst` fence between: at least one of them sees
//! the other, so no message is left while the thread sleeps.

use super::sync::atomic::{AtomicBool, Ordering, fence};

pub(super) struct Parked(AtomicBool);

impl Parked {
    /// A thread that has not run yet is woken by its first message.
    pub(super) fn new() -> Self {
        Self(AtomicBool::new(true))
    }

    /// Any thread, after it has sent.
    pub(super) fn wake(&self, notify: impl FnOnce()) {
        fence(Ordering::SeqCst);
        if self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed) {
            notify();
        }
    }

    /// The I/O thread has nothing left to run and is about to wait for the system.
    pub(super) fn before_park(&self, is_empty: impl FnOnce() -> bool, notify: impl FnOnce()) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !is_empty() {
            self.0.store(false, Ordering::Relaxed);
            notify();
        }
    }

    /// The I/O thread runs again.
    pub(super) fn after_park(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
