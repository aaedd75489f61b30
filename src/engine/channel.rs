//! From the threads of hosts to one I/O thread: what waits changes hands as a whole, and memory for what is sent next comes
//! back the other way under the same lock, so that a check costs a move and a batch costs a lock.
//!
//! Whoever takes never waits for one who was interrupted while he sent, and both sides use the same few pages again and
//! again: a ring for as many as may be pending would walk through all of its memory.
//!
//! Not bounded here: what is sent holds a slot of the ledger, of which there is a fixed number.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// A buffer for more than so many is given back when it is empty.
const KEPT: usize = 4096;
/// Spares that lie ready for each side.
const SPARES: usize = 256;

/// `T` is sent, `S` comes back.
pub(super) struct Sender<T, S>(Arc<Channel<T, S>>);

pub(super) struct Receiver<T, S> {
    channel: Arc<Channel<T, S>>,
    /// Ours already; empty between bursts.
    taken: RefCell<VecDeque<T>>,
    spares: RefCell<Vec<S>>,
}

/// Looks whether anything waits, and does not keep the channel open.
pub(super) struct Watcher<T, S>(Arc<Channel<T, S>>);

struct Channel<T, S> {
    state: Mutex<State<T, S>>,
    /// How many wait: to be looked at without the lock.
    count: AtomicUsize,
}

struct State<T, S> {
    waiting: VecDeque<T>,
    spares: Vec<S>,
    receivers: usize,
}

/// Why nothing was sent; all is where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    /// Nobody will ever take it.
    Closed,
    NoMemory,
}

pub(super) fn channel<T, S>() -> (Sender<T, S>, Receiver<T, S>) {
    let state = Mutex::new(State { waiting: VecDeque::new(), spares: Vec::new(), receivers: 1 });
    let channel = Arc::new(Channel { state, count: AtomicUsize::new(0) });
    (Sender(Arc::clone(&channel)), Receiver::of(channel))
}

/// Moves from one to the other as many as it may hold.
fn top_up<S>(spares: &mut Vec<S>, from: &mut Vec<S>) {
    let room = SPARES.saturating_sub(spares.len());
    spares.extend(from.drain(from.len().saturating_sub(room)..));
}

impl<T, S> Sender<T, S> {
    /// All of them, in their order. `batch` keeps its memory; what has come back is put to `spares`.
    pub(super) fn send(&self, batch: &mut Vec<T>, spares: &mut Vec<S>) -> Result<(), Unsent> {
        let mut state = self.0.state.lock();
        if state.receivers == 0 {
            return Err(Unsent::Closed);
        }
        state.waiting.try_reserve(batch.len()).map_err(|_| Unsent::NoMemory)?;
        state.waiting.extend(batch.drain(..));
        self.0.count.store(state.waiting.len(), Ordering::Release);
        top_up(spares, &mut state.spares);
        Ok(())
    }
}

impl<T, S> Receiver<T, S> {
    fn of(channel: Arc<Channel<T, S>>) -> Self {
        Self { channel, taken: RefCell::default(), spares: RefCell::default() }
    }

    /// For whoever sends next.
    pub(super) fn give_back(&self, spare: S) {
        let mut spares = self.spares.borrow_mut();
        if spares.len() < SPARES {
            spares.push(spare);
        }
    }

    pub(super) fn next(&self) -> Option<T> {
        let taken = &mut *self.taken.borrow_mut();
        if let Some(next) = taken.pop_front() {
            return Some(next);
        }
        if self.channel.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        // Begins at the beginning of its memory again.
        taken.clear();
        if taken.capacity() > KEPT {
            *taken = VecDeque::new();
        }
        let mut state = self.channel.state.lock();
        std::mem::swap(taken, &mut state.waiting);
        self.channel.count.store(0, Ordering::Release);
        top_up(&mut state.spares, &mut self.spares.borrow_mut());
        drop(state);
        taken.pop_front()
    }

    /// For another one who takes what comes, after this one.
    pub(super) fn again(&self) -> Self {
        self.channel.state.lock().receivers += 1;
        Self::of(Arc::clone(&self.channel))
    }

    pub(super) fn watcher(&self) -> Watcher<T, S> {
        Watcher(Arc::clone(&self.channel))
    }
}

impl<T, S> Watcher<T, S> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.count.load(Ordering::Acquire) == 0
    }
}

/// What it had taken and not begun is the next one's. Of the last one, it is dropped.
impl<T, S> Drop for Receiver<T, S> {
    fn drop(&mut self) {
        let mut rest = self.taken.take();
        let mut state = self.channel.state.lock();
        rest.append(&mut state.waiting);
        state.receivers -= 1;
        let last = state.receivers == 0;
        let count = if last { 0 } else { rest.len() };
        self.channel.count.store(count, Ordering::Release);
        if !last {
            state.waiting = std::mem::take(&mut rest);
        }
        // To drop what is left may run anybody's code: not under the lock.
        drop(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel<T>() -> (Sender<T, ()>, Receiver<T, ()>) {
        super::channel()
    }

    fn send<T, S>(sender: &Sender<T, S>, batch: &mut Vec<T>) -> Result<(), Unsent> {
        sender.send(batch, &mut Vec::new())
    }

    fn all<T, S>(receiver: &Receiver<T, S>) -> Vec<T> {
        std::iter::from_fn(|| receiver.next()).collect()
    }

    #[test]
    fn what_was_sent_comes_in_order_and_who_sent_keeps_his_memory() {
        let (sender, receiver) = channel();
        assert_eq!(receiver.next(), None);
        let mut batch = Vec::with_capacity(16);
        batch.extend([1, 2]);
        send(&sender, &mut batch).unwrap();
        assert_eq!(receiver.next(), Some(1));
        batch.push(3);
        send(&sender, &mut batch).unwrap();
        assert!(batch.is_empty() && batch.capacity() == 16);
        assert_eq!(all(&receiver), [2, 3]);
        assert!(receiver.watcher().is_empty());
    }

    #[test]
    fn what_one_had_taken_and_not_begun_is_the_next_ones_before_what_came_since() {
        let (sender, first) = channel();
        send(&sender, &mut vec![1, 2, 3]).unwrap();
        let second = first.again();
        assert_eq!(first.next(), Some(1));
        send(&sender, &mut vec![4]).unwrap();
        drop(first);
        assert!(!second.watcher().is_empty());
        assert_eq!(all(&second), [2, 3, 4]);
    }

    #[test]
    fn after_the_last_receiver_nothing_is_taken_on_and_nothing_is_kept() {
        let (sender, receiver) = channel();
        let kept = Arc::new(());
        send(&sender, &mut vec![Arc::clone(&kept), Arc::clone(&kept)]).unwrap();
        let first = receiver.next();
        assert!(first.is_some());
        send(&sender, &mut vec![Arc::clone(&kept)]).unwrap();
        drop((first, receiver));
        assert_eq!(Arc::strong_count(&kept), 1);
        let mut batch = vec![Arc::clone(&kept)];
        assert_eq!(send(&sender, &mut batch), Err(Unsent::Closed));
        assert_eq!(batch.len(), 1, "who sent still has it");
    }

    #[test]
    fn spares_come_back_and_are_bounded_on_each_side() {
        let (sender, receiver) = super::channel();
        let mut spares = Vec::new();
        for round in 0..5 {
            for _ in 0..3 * SPARES {
                receiver.give_back(round);
            }
            sender.send(&mut vec![0], &mut spares).unwrap();
            assert_eq!(receiver.next(), Some(0));
        }
        assert_eq!(spares.len(), SPARES);
        assert_eq!(receiver.channel.state.lock().spares.len(), SPARES);
        assert!(receiver.spares.borrow().len() <= SPARES);
        sender.send(&mut vec![0], &mut spares).unwrap();
        assert_eq!(spares.len(), SPARES, "who has enough gets no more");
    }

    #[test]
    fn the_memory_of_a_burst_is_not_kept() {
        let (sender, receiver) = channel();
        for _ in 0..2 {
            send(&sender, &mut (0..3 * KEPT).collect()).unwrap();
            assert_eq!(all(&receiver).len(), 3 * KEPT);
        }
        for _ in 0..2 {
            send(&sender, &mut vec![0]).unwrap();
            assert_eq!(all(&receiver), [0]);
        }
        let capacity = receiver.taken.borrow().capacity() + receiver.channel.state.lock().waiting.capacity();
        assert!(capacity <= 2 * KEPT, "{capacity}");
    }

    #[test]
    fn nothing_is_lost_or_doubled_between_threads() {
        const EACH: usize = 2000;
        let (sender, receiver) = channel();
        let sender = Arc::new(sender);
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let sender = Arc::clone(&sender);
                std::thread::spawn(move || {
                    for number in 0..EACH {
                        send(&sender, &mut vec![(thread, number)]).unwrap();
                    }
                })
            })
            .collect();
        let mut next = [0; 4];
        while next != [EACH; 4] {
            match receiver.next() {
                Some((thread, number)) => {
                    assert_eq!(next[thread], number);
                    next[thread] += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(receiver.next(), None);
    }
}
