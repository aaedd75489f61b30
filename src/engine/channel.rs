//! From the threads of hosts to one I/O thread: what waits changes hands as a whole, and memory for what is sent next comes
//! back the other way under the same lock, so that a check costs a move and a batch costs a lock.
//!
//! There are two buffers, that of who sends and that of who takes, with room for as many as are usually pending at most from
//! the beginning; each is filled from its beginning, so that little traffic stays within few pages. What is sent holds a slot
//! of the ledger, which is the bound: only a flood of cancelled checks makes a buffer grow.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// Spares that lie ready for those who send.
const SPARES: usize = 256;
/// Those that one who sends takes along: there may be very many of them.
const TAKEN_ALONG: usize = 32;

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

/// Nobody will ever take it; all is where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed;

/// With room for so many at once. `None`: the system has no memory for it.
pub(super) fn channel<T, S>(usual: usize) -> Option<(Sender<T, S>, Receiver<T, S>)> {
    let (mut waiting, mut taken) = (VecDeque::new(), VecDeque::new());
    waiting.try_reserve_exact(usual).ok()?;
    taken.try_reserve_exact(usual).ok()?;
    let state = Mutex::new(State { waiting, spares: Vec::new(), receivers: 1 });
    let channel = Arc::new(Channel { state, count: AtomicUsize::new(0) });
    Some((Sender(Arc::clone(&channel)), Receiver::of(channel, taken)))
}

/// Moves from one to the other, which may hold so many.
fn top_up<S>(spares: &mut Vec<S>, most: usize, from: &mut Vec<S>) {
    let room = most.saturating_sub(spares.len());
    spares.extend(from.drain(from.len().saturating_sub(room)..));
}

impl<T, S> Sender<T, S> {
    /// All of them, in their order. `batch` keeps its memory; what has come back is put to `spares`.
    pub(super) fn send(&self, batch: &mut Vec<T>, spares: &mut Vec<S>) -> Result<(), Closed> {
        let mut state = self.0.state.lock();
        if state.receivers == 0 {
            return Err(Closed);
        }
        state.waiting.extend(batch.drain(..));
        self.0.count.store(state.waiting.len(), Ordering::Release);
        top_up(spares, TAKEN_ALONG, &mut state.spares);
        Ok(())
    }
}

impl<T, S> Receiver<T, S> {
    fn of(channel: Arc<Channel<T, S>>, taken: VecDeque<T>) -> Self {
        Self { channel, taken: RefCell::new(taken), spares: RefCell::default() }
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
        let mut state = self.channel.state.lock();
        std::mem::swap(taken, &mut state.waiting);
        self.channel.count.store(0, Ordering::Release);
        top_up(&mut state.spares, SPARES, &mut self.spares.borrow_mut());
        drop(state);
        taken.pop_front()
    }

    /// For another one who takes what comes, after this one.
    pub(super) fn again(&self) -> Self {
        self.channel.state.lock().receivers += 1;
        Self::of(Arc::clone(&self.channel), VecDeque::new())
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
        super::channel(8).expect("memory")
    }

    fn send<T, S>(sender: &Sender<T, S>, batch: &mut Vec<T>) -> Result<(), Closed> {
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
        assert_eq!(send(&sender, &mut batch), Err(Closed));
        assert_eq!(batch.len(), 1, "who sent still has it");
    }

    #[test]
    fn spares_come_back_and_are_bounded_on_each_side() {
        let (sender, receiver) = super::channel(8).expect("memory");
        let mut spares = Vec::new();
        for round in 0..5 {
            for _ in 0..3 * SPARES {
                receiver.give_back(round);
            }
            sender.send(&mut vec![0], &mut spares).unwrap();
            assert_eq!(receiver.next(), Some(0));
        }
        assert_eq!(spares.len(), TAKEN_ALONG);
        assert_eq!(receiver.channel.state.lock().spares.len(), SPARES);
        assert!(receiver.spares.borrow().len() <= SPARES);
        sender.send(&mut vec![0], &mut spares).unwrap();
        assert_eq!(spares.len(), TAKEN_ALONG, "who has enough gets no more");
    }

    #[test]
    fn as_many_as_are_usual_take_no_memory_however_they_come() {
        let (sender, receiver) = super::channel::<usize, ()>(100).expect("memory");
        let room = || {
            let waiting = &sender.0.state.lock().waiting;
            (waiting.capacity(), receiver.taken.borrow().capacity())
        };
        let before = room();
        assert!(before.0 >= 100 && before.1 >= 100);
        let mut batch = Vec::new();
        for round in 1..=100 {
            batch.extend(0..round);
            send(&sender, &mut batch).unwrap();
            batch.extend(round..100);
            send(&sender, &mut batch).unwrap();
            assert_eq!(all(&receiver), (0..100).collect::<Vec<_>>());
        }
        assert!(room() == before || room() == (before.1, before.0));
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
