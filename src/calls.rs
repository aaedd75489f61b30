//! Calls of the host's code by one engine: callbacks, lines of the log, thread hooks.
//!
//! A thread inside one may not wait for that engine: it would wait for itself. And none runs once the engine is gone. On
//! threads that its end joins this needs no care. On others (a host's own, and `alta-dns`, which nobody joins as it may hang in
//! the resolver) a call is part of a visit: the end lets none begin any more, and waits for those that have begun.

use std::cell::RefCell;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};

use crate::config::ThreadHooks;
use crate::sys::{Inside, ThreadId};

thread_local! {
    /// Whose calls this thread is inside; the innermost is the last. A thread that has ended so far that it has no such
    /// variable any more is taken to be inside none.
    static INSIDE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

pub(crate) struct Calls {
    hooks: ThreadHooks,
    visits: Mutex<Visits>,
    left: Condvar,
    over: Receiver<Infallible>,
}

struct Visits {
    /// By whom, once for each.
    threads: Vec<ThreadId>,
    /// `None`: it is over.
    open: Option<Sender<Infallible>>,
}

/// While this lives, the calling thread is inside a call.
pub(crate) struct Call(());

/// While this lives, the end of the engine waits.
pub(crate) struct Visit<'a>(&'a Calls);

/// A thread of the engine.
pub(crate) struct Thread<'a>(&'a Calls);

impl Calls {
    pub(crate) fn new(hooks: ThreadHooks) -> Self {
        let (open, over) = bounded(0);
        let visits = Visits { threads: Vec::new(), open: Some(open) };
        Self { hooks, visits: Mutex::new(visits), left: Condvar::new(), over }
    }

    pub(crate) fn call(&self) -> Call {
        let _ = INSIDE.try_with(|inside| inside.borrow_mut().push(self.name()));
        Call(())
    }

    /// Whether the calling thread is inside a call, be it inside another engine's by now.
    pub(crate) fn are_here(&self) -> bool {
        INSIDE.try_with(|inside| inside.borrow().contains(&self.name())).unwrap_or(false)
    }

    /// Runs the host's `start` now and its `stop` when the guard is dropped, at the thread's end.
    pub(crate) fn thread(&self) -> Thread<'_> {
        self.run(self.hooks.start.as_deref());
        Thread(self)
    }

    fn run(&self, hook: Option<&(dyn Fn() + Send + Sync)>) {
        let _call = self.call();
        if let Some(hook) = hook {
            let _host = Inside::leave();
            hook();
        }
    }

    /// `None`: the engine is gone; nothing of the host's may be called.
    pub(crate) fn visit(&self) -> Option<Visit<'_>> {
        let mut visits = self.visits.lock();
        visits.open.as_ref()?;
        visits.threads.push(ThreadId::here());
        Some(Visit(self))
    }

    /// Disconnected when it is over, for who visits and waits.
    pub(crate) fn over(&self) -> &Receiver<Infallible> {
        &self.over
    }

    /// Waits for the visits of other threads; one of its own thread would be waited for by itself.
    pub(crate) fn end(&self) {
        let here = ThreadId::here();
        let mut visits = self.visits.lock();
        visits.open = None;
        while visits.threads.iter().any(|thread| *thread != here) {
            self.left.wait(&mut visits);
        }
    }

    #[cfg(test)]
    pub(crate) fn are_over(&self) -> bool {
        self.visits.lock().open.is_none()
    }

    /// No other living engine has it.
    fn name(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

/// Runs the host's code and nothing else: a panic in it is the host's own, and no defect. Whether it returned.
pub(crate) fn returns(code: impl FnOnce()) -> bool {
    let _host = Inside::leave();
    catch_unwind(AssertUnwindSafe(code)).is_ok()
}

/// No hooks.
impl Default for Calls {
    fn default() -> Self {
        Self::new(ThreadHooks::default())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let _ = INSIDE.try_with(|inside| inside.borrow_mut().pop());
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        let here = ThreadId::here();
        let mut visits = self.0.visits.lock();
        if let Some(place) = visits.threads.iter().position(|thread| *thread == here) {
            visits.threads.swap_remove(place);
        }
        drop(visits);
        self.0.left.notify_all();
    }
}

impl Thread<'_> {
    /// Without `stop`.
    pub(crate) fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Thread<'_> {
    fn drop(&mut self) {
        self.0.run(self.0.hooks.stop.as_deref());
    }
}
