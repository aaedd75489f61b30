//! How a task of a run queue is woken, from whatever thread.
//!
//! A wake-up that was rung rings no more until its task is about to be polled; so whoever waits in a queue is there once:
//!
//! ```text
//! who wakes:  the news; rung = true ── was it false? ── yes ──▶ the task into the list
//! who polls:  the task out of the list; rung = false; look at the news
//! ```
//!
//! Both sides exchange `rung` (an acquire and a release): who wakes and finds it true is seen by the exchange that makes it false, and so is his
//! news by the poll behind that.

use std::sync::Arc;
use std::task::Waker;

use super::sync::Mutex;
use super::sync::atomic::{AtomicBool, Ordering};

/// A task's.
pub(super) struct Wakeup {
    task: usize,
    rung: AtomicBool,
    elsewhere: Arc<Elsewhere>,
}

/// What other threads see of a queue.
pub(super) struct Elsewhere {
    /// Something is in `woken`.
    any: AtomicBool,
    woken: Mutex<Vec<usize>>,
    /// Wakes who polls the tasks; `None`: that has not run yet, and looks here when it does.
    runner: Mutex<Option<Waker>>,
}

impl Wakeup {
    pub(super) fn new(task: usize, elsewhere: Arc<Elsewhere>) -> Self {
        Self { task, rung: AtomicBool::new(false), elsewhere }
    }

    /// `here` takes the task into the queue itself, if this is its thread.
    pub(super) fn ring(&self, here: impl FnOnce(&Arc<Elsewhere>, usize) -> bool) {
        if !self.rung.swap(true, Ordering::AcqRel) && !here(&self.elsewhere, self.task) {
            self.elsewhere.push(self.task);
        }
    }

    /// The task is about to be polled.
    pub(super) fn hear(&self) {
        // Where this shows an older `false`, the list has the task once more.
        if self.rung.load(Ordering::Relaxed) {
            self.rung.swap(false, Ordering::AcqRel);
        }
    }
}

impl Elsewhere {
    pub(super) fn new() -> Self {
        let (any, woken) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        Self { any, woken, runner: Mutex::new(None) }
    }

    fn push(&self, task: usize) {
        self.woken.lock().push(task);
        self.any.store(true, Ordering::Release);
        let runner = self.runner.lock().clone();
        if let Some(runner) = runner {
            runner.wake();
        }
    }

    /// Before the first [`Elsewhere::take`].
    pub(super) fn is_run_by(&self, runner: &Waker) {
        *self.runner.lock() = Some(runner.clone());
    }

    /// What was woken.
    pub(super) fn take(&self) -> Vec<usize> {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        // Before the list is taken: what comes into it later says so again.
        self.any.store(false, Ordering::Relaxed);
        std::mem::take(&mut *self.woken.lock())
    }
}
