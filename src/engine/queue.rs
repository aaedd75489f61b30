//! Completion queues: decisions that a host fetches on its own thread, beside its other events.
//!
//! The descriptor is readable while decisions wait: see `shelf.rs`.
//!
//! The intended use is a queue for each of the host's threads. Any number of threads may submit to one and reap
//! from one.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::SubmitError;
use super::batch::Batch;
use super::completion::{Completed, Receiver, Tag};
use super::core::Core;
use super::shelf::{Shelf, Signal};
use crate::check::Check;
use crate::decision::Decision;
use crate::sys::EventFd;

/// A queue of decisions, and a descriptor to poll. Dropped, it cancels the checks that were submitted to it and
/// are pending, and drops what was not fetched, which counts as cancelled too.
pub struct Queue {
    core: Arc<Core>,
    waiting: Arc<Waiting>,
    /// Names this queue among the receivers of the engine.
    owner: u64,
    fd: RawFd,
}

/// What waits to be fetched. Checks that an I/O thread has not let go of yet keep it alive after the queue.
pub(super) type Waiting = Shelf<Completed, EventFd>;

impl Signal for EventFd {
    fn signal(&self) {
        self.signal();
    }
    fn clear(&self) {
        self.clear();
    }
}

impl Receiver for Waiting {
    fn receive(&self, batch: &mut Vec<Completed>) {
        // Shelved under the lock: whoever learns that it is ready finds it here.
        self.put(batch.drain(..).inspect(Completed::shelve));
    }

    fn only_puts_aside(&self) -> bool {
        true
    }

    fn shelves_all(&self) -> bool {
        true
    }
}

impl Queue {
    pub(crate) fn new(core: Arc<Core>, owner: u64) -> io::Result<Self> {
        let event = EventFd::new()?;
        let fd = event.raw();
        let waiting = Arc::new(Shelf::new(event));
        core.queues.lock().insert(owner, Arc::downgrade(&waiting));
        Ok(Self { core, waiting, owner, fd })
    }

    /// Readable while decisions wait. Only the queue itself may read it.
    pub fn fd(&self) -> RawFd {
        self.fd
    }

    /// As [`crate::Engine::submit`]; the decision comes out of [`Queue::reap`].
    pub fn submit(&self, check: &Check<'_>, user_data: usize) -> Result<u64, SubmitError> {
        let receiver: Arc<dyn Receiver> = Arc::clone(&self.waiting) as _;
        let tag = Tag { user_data, owner: self.owner };
        self.batch(1).submit(check, &receiver, tag, |_| ())
    }

    /// As [`crate::Engine::watch`]; the decisions come out of [`Queue::reap`].
    pub fn watch(&self, check: &Check<'_>, user_data: usize) -> Result<u64, SubmitError> {
        let (receiver, owner) = self.receiver();
        self.batch(0).watch(check, &receiver, Tag { user_data, owner }, |_| ())
    }

    /// What the queue's checks are submitted with.
    pub(crate) fn receiver(&self) -> (Arc<dyn Receiver>, u64) {
        (Arc::clone(&self.waiting) as _, self.owner)
    }

    /// As [`super::Engine::batch`].
    pub(crate) fn batch(&self, checks: usize) -> Batch<'_> {
        Batch::new(&self.core, checks)
    }

    pub(crate) fn is_forked(&self) -> bool {
        !self.core.fork.is_here()
    }

    /// Hands up to `max` decisions to `each`, oldest first, with what was passed with the check. Returns how
    /// many. Never blocks, never waits for the network.
    pub fn reap(&self, max: usize, mut each: impl FnMut(usize, Decision)) -> usize {
        self.take(max, |completed| completed.hand_over(&mut each).is_some())
    }

    /// As [`Queue::reap`], where none of the host's code runs in `each`: what the checks held is given back together, at
    /// the end.
    pub(crate) fn fetch(&self, max: usize, mut each: impl FnMut(usize, Decision)) -> usize {
        let mut fetch = self.core.ledger.fetch();
        self.take(max, |completed| completed.fetch(&mut fetch, &mut each))
    }

    fn take(&self, max: usize, each: impl FnMut(Completed) -> bool) -> usize {
        if self.core.freed.load(Ordering::SeqCst) {
            // Nothing comes any more: what waits is dropped, and its signal with it.
            self.waiting.take(usize::MAX, |_| true);
            return 0;
        }
        self.waiting.take(max, each)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.core.queues.lock().remove(&self.owner);
        self.core.cancel_of(self.owner);
        // Dropped outside the lock; each counts as cancelled.
        drop(self.waiting.close());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::config::Config;
    use crate::engine::Engine;
    use crate::engine::awaiting::One;

    #[test]
    fn after_four_billion_queues_one_s_end_still_cancels_no_check_but_its_own() {
        let backend = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = Config::new();
        config.set("backend.url", &format!("http://{}/auth", backend.local_addr().unwrap())).unwrap();
        config.set("default_action", "deny").unwrap();
        let engine = Engine::new(&config).unwrap();
        let receiver: Arc<dyn Receiver> = Arc::new(One::default());
        let check = Check { session_id: b"s", ..Check::default() };
        engine.submit(&check, &receiver, 0).unwrap();
        engine.queues.store(u32::MAX.into(), Ordering::Relaxed);
        for pending in [2, 2] {
            let queue = engine.queue().unwrap();
            queue.submit(&check, 0).unwrap();
            assert_eq!(engine.stats().pending, pending);
            drop(queue);
            assert_eq!(engine.stats().pending, 1);
        }
    }
}
