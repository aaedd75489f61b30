//! Completion queues: decisions that a host fetches on its own thread, beside its other events.
//!
//! The descriptor is readable while decisions wait: it is signalled once when the queue goes from empty to not
//! empty, and [`Queue::reap`] clears it before it takes anything. What came in between the clearing and the
//! taking is taken with the rest, so a descriptor can be readable with nothing to reap, but never silent with
//! something: safe with level- and with edge-triggered polling.
//!
//! The intended use is a queue for each of the host's threads. Any number of threads may submit to one and reap
//! from one.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::SubmitError;
use super::completion::{Completed, Receiver, Tag};
use super::core::{Batch, Core};
use crate::check::Check;
use crate::decision::Decision;
use crate::sys::EventFd;

/// A queue of decisions, and a descriptor to poll. Dropped, it cancels the checks that were submitted to it and
/// are pending, and drops what was not fetched, which counts as cancelled too.
pub struct Queue {
    core: Arc<Core>,
    waiting: Arc<Waiting>,
    /// Names this queue among the receivers of the engine.
    owner: u32,
    fd: RawFd,
}

/// What waits to be fetched. Checks that an I/O thread has not let go of yet keep it alive after the queue.
struct Waiting(Mutex<State>);

struct State {
    ready: VecDeque<Completed>,
    /// `None`: the queue is gone, and its descriptor with it.
    event: Option<EventFd>,
}

impl Receiver for Waiting {
    fn receive(&self, batch: &mut Vec<Completed>) {
        // Dropped after the lock is, should the queue be gone: each gives its slot back then.
        let mut orphans = Vec::new();
        let mut state = self.0.lock();
        if state.event.is_none() {
            orphans.append(batch);
        }
        let was_empty = state.ready.is_empty();
        for completed in batch.drain(..) {
            // Under the lock: whoever learns that it is ready finds it here.
            completed.shelve();
            state.ready.push_back(completed);
        }
        if was_empty && let Some(event) = &state.event {
            event.signal();
        }
        drop(state);
    }
}

impl Queue {
    pub(crate) fn new(core: Arc<Core>, owner: u32) -> io::Result<Self> {
        let event = EventFd::new()?;
        let fd = event.raw();
        let waiting = Waiting(Mutex::new(State { ready: VecDeque::new(), event: Some(event) }));
        Ok(Self { core, waiting: Arc::new(waiting), owner, fd })
    }

    /// Readable while decisions wait. Only the queue itself may read it.
    pub fn fd(&self) -> RawFd {
        self.fd
    }

    /// As [`crate::Engine::submit`]; the decision comes out of [`Queue::reap`].
    pub fn submit(&self, check: &Check<'_>, user_data: usize) -> Result<u64, SubmitError> {
        let receiver: Arc<dyn Receiver> = Arc::clone(&self.waiting) as _;
        let tag = Tag { user_data, owner: self.owner };
        self.batch().submit(check, &receiver, tag, |_| ())
    }

    /// What the queue's checks are submitted with.
    pub(crate) fn receiver(&self) -> (Arc<dyn Receiver>, u32) {
        (Arc::clone(&self.waiting) as _, self.owner)
    }

    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch::new(&self.core)
    }

    /// For a forked child, where nothing else of a queue may be touched.
    pub(crate) fn close_descriptor(&self) {
        EventFd::close_copy(self.fd);
    }

    pub(crate) fn is_forked(&self) -> bool {
        !self.core.fork.is_here()
    }

    /// Hands up to `max` decisions to `each`, oldest first, with what was passed with the check. Returns how
    /// many. Never blocks, never waits for the network.
    pub fn reap(&self, max: usize, mut each: impl FnMut(usize, Decision)) -> usize {
        if self.core.freed.load(Ordering::SeqCst) {
            return 0;
        }
        if let Some(event) = &self.waiting.0.lock().event {
            event.clear();
        }
        let mut reaped = 0;
        while reaped < max {
            // One at a time: `each` is the host's code, and no lock is held while it runs.
            let Some(completed) = self.waiting.0.lock().ready.pop_front() else { return reaped };
            if completed.hand_over(&mut each).is_some() {
                reaped += 1;
            }
        }
        let state = self.waiting.0.lock();
        if !state.ready.is_empty()
            && let Some(event) = &state.event
        {
            event.signal();
        }
        reaped
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.core.cancel_of(self.owner);
        // What was not fetched is dropped outside the lock; each counts as cancelled.
        let (event, unfetched) = {
            let mut state = self.waiting.0.lock();
            (state.event.take(), std::mem::take(&mut state.ready))
        };
        drop((event, unfetched));
    }
}
