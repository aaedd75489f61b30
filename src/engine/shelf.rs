//! Things that wait to be fetched, and a signal that says so.
//!
//! It is signalled once when the shelf goes from empty to not empty, and [`Shelf::take`] clears it before it
//! takes anything. What came in between the clearing and the taking is taken with the rest, so a signal can
//! stand with nothing to take, but is not silent with something for longer than whoever put it there needs to give it: safe
//! with level- and with edge-triggered polling, with any number of threads on either side.
//!
//! The signal is given when the lock is free again: where both sides share a core, whoever waits for it runs at once, and
//! would run into the lock. [`Shelf::close`] waits for who is giving it, so that a descriptor that was closed is never
//! written to.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::sync::Mutex;

/// Stands from `signal` to `clear`.
pub(super) trait Signal {
    fn signal(&self);
    fn clear(&self);
}

/// Memory for more than so many is not kept while it is empty.
const KEPT: usize = 4096;

/// Between two looks whether the signal is still being given.
const CLOSING_PAUSE: Duration = Duration::from_micros(20);

pub(super) struct Shelf<T, S>(Mutex<State<T, S>>);

struct State<T, S> {
    ready: VecDeque<T>,
    /// Empty; takes the place of `ready` when that is taken as a whole.
    spare: VecDeque<T>,
    /// `None`: the shelf is closed.
    signal: Option<Arc<S>>,
}

impl<T, S> State<T, S> {
    /// The signal of what waits.
    fn due(&self) -> Option<Arc<S>> {
        if self.ready.is_empty() { None } else { self.signal.clone() }
    }
}

impl<T, S: Signal> Shelf<T, S> {
    pub(super) fn new(signal: S) -> Self {
        Self(Mutex::new(State {
            ready: VecDeque::new(),
            spare: VecDeque::new(),
            signal: Some(Arc::new(signal)),
        }))
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
        let signal = if was_empty { state.signal.clone() } else { None };
        drop(state);
        if let Some(signal) = signal {
            signal.signal();
        }
    }

    /// Signals what waits: who has put it there may not have come to that yet.
    pub(super) fn signal(&self) {
        let signal = self.0.lock().due();
        if let Some(signal) = signal {
            signal.signal();
        }
    }

    /// Hands over, oldest first, until `each` has said true `max` times. Returns how often it did.
    pub(super) fn take(&self, max: usize, mut each: impl FnMut(T) -> bool) -> usize {
        let mut hand = Hand { shelf: self, things: VecDeque::new() };
        {
            let mut state = self.0.lock();
            if let Some(signal) = &state.signal {
                signal.clear();
            }
            if state.ready.len() <= max {
                let spare = std::mem::take(&mut state.spare);
                hand.things = std::mem::replace(&mut state.ready, spare);
            }
        }
        let mut taken = 0;
        while taken < max {
            // No lock is held while `each` runs, which is the host's code.
            let next = hand.things.pop_front().or_else(|| self.0.lock().ready.pop_front());
            let Some(thing) = next else { break };
            taken += usize::from(each(thing));
        }
        taken
    }

    /// What was not handed over, and the memory it lay in. What remains is signalled.
    fn put_back(&self, mut things: VecDeque<T>) {
        let mut state = self.0.lock();
        if state.signal.is_none() {
            // Dropped after the lock is.
            drop(state);
            return;
        }
        if !things.is_empty() {
            things.append(&mut state.ready);
            state.ready = things;
        } else if (1..=KEPT).contains(&things.capacity()) {
            state.spare = things;
        }
        let signal = state.due();
        drop(state);
        if let Some(signal) = signal {
            signal.signal();
        }
    }

    /// The end: everything that waits, and the signal, which nobody gives any more.
    pub(super) fn close(&self) -> (VecDeque<T>, Option<S>) {
        let (ready, signal) = {
            let mut state = self.0.lock();
            (std::mem::take(&mut state.ready), state.signal.take())
        };
        let signal = signal.map(|mut signal| {
            loop {
                match Arc::try_unwrap(signal) {
                    Ok(signal) => return signal,
                    // Being given at this moment.
                    Err(given) => signal = given,
                }
                // Not a yield: who gives it may run at a lower priority.
                std::thread::sleep(CLOSING_PAUSE);
            }
        });
        (ready, signal)
    }
}

/// What was taken off the shelf together. However the taking ends, what is left goes back, and is signalled.
struct Hand<'a, T, S: Signal> {
    shelf: &'a Shelf<T, S>,
    things: VecDeque<T>,
}

impl<T, S: Signal> Drop for Hand<'_, T, S> {
    fn drop(&mut self) {
        self.shelf.put_back(std::mem::take(&mut self.things));
    }
}
