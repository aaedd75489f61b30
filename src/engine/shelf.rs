//! Things that wait to be fetched, and a signal that says so.
//!
//! It is signalled once when the shelf goes from empty to not empty, and [`Shelf::take`] clears it before it
//! takes anything. What came in between the clearing and the taking is taken with the rest, so a signal can
//! stand with nothing to take, but is never silent with something: safe with level- and with edge-triggered
//! polling, with any number of threads on either side.
//!
//! The signal is given under the lock, so that it is gone for good once [`Shelf::close`] has returned it: a
//! descriptor that was closed is never written to.

use std::collections::VecDeque;

use super::sync::Mutex;

/// Stands from `signal` to `clear`.
pub(super) trait Signal {
    fn signal(&self);
    fn clear(&self);
}

pub(super) struct Shelf<T, S>(Mutex<State<T, S>>);

struct State<T, S> {
    ready: VecDeque<T>,
    /// `None`: the shelf is closed.
    signal: Option<S>,
}

impl<T, S: Signal> Shelf<T, S> {
    pub(super) fn new(signal: S) -> Self {
        Self(Mutex::new(State { ready: VecDeque::new(), signal: Some(signal) }))
    }

    /// `batch` is advanced under the lock. Once the shelf is closed, what comes is dropped.
    pub(super) fn put(&self, batch: impl Iterator<Item = T>) {
        // Dropped after the lock is.
        let mut orphans = Vec::new();
        let mut state = self.0.lock();
        let was_empty = state.ready.is_empty();
        if state.signal.is_some() {
            state.ready.extend(batch);
        } else {
            orphans.extend(batch);
        }
        if was_empty && let Some(signal) = &state.signal {
            signal.signal();
        }
        drop(state);
    }

    /// Hands over, oldest first, until `each` has said true `max` times. Returns how often it did.
    pub(super) fn take(&self, max: usize, mut each: impl FnMut(T) -> bool) -> usize {
        if let Some(signal) = &self.0.lock().signal {
            signal.clear();
        }
        let mut taken = 0;
        while taken < max {
            // One at a time: `each` is the host's code, and no lock is held while it runs.
            let Some(thing) = self.0.lock().ready.pop_front() else { return taken };
            taken += usize::from(each(thing));
        }
        let state = self.0.lock();
        if !state.ready.is_empty()
            && let Some(signal) = &state.signal
        {
            signal.signal();
        }
        taken
    }

    /// The end: everything that waits, and the signal.
    pub(super) fn close(&self) -> (VecDeque<T>, Option<S>) {
        let mut state = self.0.lock();
        (std::mem::take(&mut state.ready), state.signal.take())
    }
}
