//! Things that wait to be fetched, and a signal that says so.
//!
//! It is signalled once when the shelf goes from empty to not empty, and [`Shelf::take`] clears it before it
//! takes anything. What came in between the clearing and the taking is taken with the rest, so a signal can
//! stand with nothing to take, but is never silent with something: safe with level- and with edge-triggered
//! polling, with any number of threads on either side.

use std::collections::VecDeque;

use super::sync::Mutex;

/// Stands from `signal` to `clear`.
pub(super) trait Signal {
    fn signal(&self);
    fn clear(&self);
}

pub(super) struct Shelf<T, S> {
    ready: Mutex<VecDeque<T>>,
    signal: S,
}

impl<T, S: Signal> Shelf<T, S> {
    pub(super) fn new(signal: S) -> Self {
        Self { ready: Mutex::new(VecDeque::new()), signal }
    }

    pub(super) fn signal(&self) -> &S {
        &self.signal
    }

    /// `batch` is advanced under the lock.
    pub(super) fn put(&self, batch: impl Iterator<Item = T>) {
        let was_empty = {
            let mut ready = self.ready.lock();
            let was_empty = ready.is_empty();
            ready.extend(batch);
            was_empty
        };
        if was_empty {
            self.signal.signal();
        }
    }

    /// Hands over, oldest first, until `each` has said true `max` times. Returns how often it did.
    pub(super) fn take(&self, max: usize, mut each: impl FnMut(T) -> bool) -> usize {
        self.signal.clear();
        let mut taken = 0;
        while taken < max {
            // One at a time: `each` is the host's code, and no lock is held while it runs.
            let Some(thing) = self.ready.lock().pop_front() else { return taken };
            taken += usize::from(each(thing));
        }
        if !self.ready.lock().is_empty() {
            self.signal.signal();
        }
        taken
    }

    /// Everything, without a word to who polls: for the end.
    pub(super) fn take_all(&self) -> VecDeque<T> {
        std::mem::take(&mut *self.ready.lock())
    }
}
