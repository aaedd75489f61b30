//! Requests that go out one right behind the other.
//!
//! A system call leaves little of what was there in the processor's caches, and finds little of its own: with an exchange's
//! work between any two that send, both pay for it each time. So an exchange leaves its request here and waits for its
//! reply; a task sends what has come together when the tasks before it in line have had their turn. Nobody waits for more to
//! come.
//!
//! Plain sockets only: TLS keeps its own buffers. Before any is sent, the system is asked once what has come on all of them: a
//! connection that is not silent any more is not written to. What the system does not take whole goes back to its exchange,
//! which goes on as if it had sent it itself. Whoever leaves before takes its request back: it was never sent.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

use super::Desk;
use crate::clock;
use crate::transport::anew;
use crate::transport::dial::WriteHalf;
use crate::transport::{Failure, Progress};

/// So many are sent at once, whoever is still in line: the first of them has waited long enough.
const MOST: usize = 64;
/// Bytes; the same.
const MOST_BYTES: usize = 64 * 1024;

#[derive(Default)]
pub(super) struct SendQueue {
    state: RefCell<State>,
    /// There is a task that sends.
    started: Cell<bool>,
    /// Of that task, once it has run.
    sender: RefCell<Option<Waker>>,
}

#[derive(Default)]
struct State {
    /// The ticket of the first that waits.
    first: u64,
    waiting: Vec<Waiting>,
    /// Their requests, one behind the other.
    bytes: Vec<u8>,
    /// By ticket, until their exchanges take them back.
    returned: Vec<(u64, Returned)>,
}

struct Waiting {
    /// `None`: it was taken back.
    writer: Option<Rc<dyn WriteHalf>>,
    /// Where its request ends; it begins where the one before ends.
    end: usize,
    progress: Rc<Progress>,
}

/// A request of which the system did not take all.
pub(super) struct Returned {
    pub(super) request: Vec<u8>,
    /// As [`WriteHalf::write_now`] said it.
    pub(super) written: Option<io::Result<usize>>,
}

/// What has become of a request.
pub(super) enum Sent {
    Not,
    Whole,
    /// Its exchange has to see to the rest.
    Returned(Returned),
}

/// A request in the queue. Dropped while it waits there, it is not sent.
pub(super) struct Posted {
    desk: Rc<Desk>,
    ticket: u64,
}

impl Posted {
    /// Queues what `write` appends. Whoever waits for something to read is woken if it comes back, and not when it is sent.
    pub(super) fn new(
        desk: &Rc<Desk>,
        writer: Rc<dyn WriteHalf>,
        progress: &Rc<Progress>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let queue = &desk.sends;
        let (ticket, count, full) = {
            let State { first, waiting, bytes, .. } = &mut *queue.state.borrow_mut();
            // Whatever became of who wrote last: nothing stands before what is written now but what waits.
            bytes.truncate(waiting.last().map_or(0, |last| last.end));
            write(bytes)?;
            let ticket = *first + waiting.len() as u64;
            waiting.push(Waiting { writer: Some(writer), end: bytes.len(), progress: Rc::clone(progress) });
            (ticket, waiting.len(), waiting.len() >= MOST || bytes.len() >= MOST_BYTES)
        };
        if full {
            queue.send();
        } else if count == 1 {
            queue.wake(desk);
        }
        Ok(Self { desk: Rc::clone(desk), ticket })
    }

    pub(super) fn outcome(&self) -> Sent {
        let state = &mut *self.desk.sends.state.borrow_mut();
        if state.first <= self.ticket {
            return Sent::Not;
        }
        match state.returned.iter().position(|&(ticket, _)| ticket == self.ticket) {
            Some(at) => Sent::Returned(state.returned.swap_remove(at).1),
            None => Sent::Whole,
        }
    }
}

impl Drop for Posted {
    fn drop(&mut self) {
        let state = &mut *self.desk.sends.state.borrow_mut();
        match self.ticket.checked_sub(state.first) {
            Some(place) => state.waiting[place as usize].writer = None,
            None => state.returned.retain(|&(ticket, _)| ticket != self.ticket),
        }
    }
}

impl SendQueue {
    /// Its task runs when those before it in line have.
    fn wake(&self, desk: &Rc<Desk>) {
        if let Some(sender) = &*self.sender.borrow() {
            sender.wake_by_ref();
        } else if !self.started.replace(true) {
            // Without it nothing would be sent any more.
            let served = Rc::downgrade(desk);
            anew::spawn(move || serve(served.clone()));
        }
    }

    fn send(&self) {
        let any = self.state.borrow().waiting.iter().find_map(|waiting| waiting.writer.clone());
        if let Some(any) = any {
            any.look_around();
        }
        let State { first, waiting, bytes, returned } = &mut *self.state.borrow_mut();
        // Should a defect end this, the rest counts as sent and is not: nobody gets another's ticket.
        let tickets = *first..;
        *first += waiting.len() as u64;
        let mut begin = 0;
        for (ticket, Waiting { writer, end, progress }) in tickets.zip(waiting.drain(..)) {
            let request = &bytes[begin..end];
            begin = end;
            let Some(writer) = writer.filter(|_| !progress.given_up.get()) else { continue };
            let written = writer.write_now(request);
            let count = if let Some(Ok(count)) = written { count } else { 0 };
            if count > 0 {
                progress.send(request);
            }
            if count < request.len() {
                returned.push((ticket, Returned { request: request.to_vec(), written }));
                writer.wake();
            }
        }
        bytes.clear();
        bytes.shrink_to(2 * MOST_BYTES);
        clock::read_again();
    }
}

/// Its task ends.
impl Drop for SendQueue {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            sender.wake();
        }
    }
}

async fn serve(desk: Weak<Desk>) {
    let mut is_known = false;
    poll_fn(|cx| {
        let Some(desk) = desk.upgrade() else { return Poll::Ready(()) };
        if !std::mem::replace(&mut is_known, true) {
            *desk.sends.sender.borrow_mut() = Some(cx.waker().clone());
        }
        desk.sends.send();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;
    use crate::decision::Cause;
    use crate::transport::Stage;

    /// What the system takes of a request.
    #[derive(Clone, Copy, Default, PartialEq)]
    enum Takes {
        #[default]
        All,
        Some(usize),
        /// There is no room.
        Nothing,
        Panic,
    }

    /// Writes down what is written, and how often its reader was woken.
    #[derive(Default)]
    struct Scripted {
        written: RefCell<Vec<Vec<u8>>>,
        takes: Cell<Takes>,
        woken: Cell<usize>,
    }

    impl WriteHalf for Scripted {
        fn write_now(&self, bytes: &[u8]) -> Option<io::Result<usize>> {
            self.written.borrow_mut().push(bytes.to_vec());
            match self.takes.get() {
                Takes::All => Some(Ok(bytes.len())),
                Takes::Some(count) => Some(Ok(count)),
                Takes::Nothing => None,
                Takes::Panic => panic!("a defect"),
            }
        }
        fn wake(&self) {
            self.woken.set(self.woken.get() + 1);
        }
    }

    struct Sender {
        desk: Rc<Desk>,
        writer: Rc<Scripted>,
        progress: Rc<Progress>,
    }

    impl Sender {
        fn new(desk: &Rc<Desk>) -> Self {
            Self { desk: Rc::clone(desk), writer: Rc::default(), progress: Rc::default() }
        }

        fn post(&self, request: &str) -> Posted {
            let writer = Rc::clone(&self.writer) as Rc<dyn WriteHalf>;
            let write = |out: &mut Vec<u8>| {
                out.extend_from_slice(request.as_bytes());
                Ok(())
            };
            Posted::new(&self.desk, writer, &self.progress, write).unwrap()
        }

        fn written(&self) -> Vec<String> {
            let written = self.writer.written.borrow();
            written.iter().map(|bytes| String::from_utf8(bytes.clone()).unwrap()).collect()
        }
    }

    #[tokio::test]
    async fn what_is_posted_in_one_pass_goes_out_when_those_in_line_have_had_their_turn_each_where_it_belongs()
     {
        LocalSet::new()
            .run_until(async {
                let desk = Rc::<Desk>::default();
                for round in 0..3 {
                    let senders: Vec<_> = (0..5).map(|_| Rc::new(Sender::new(&desk))).collect();
                    let tasks = senders.iter().cloned().enumerate().map(|(index, sender)| {
                        let all = senders.clone();
                        spawn_local(async move {
                            let posted = sender.post(&format!("request {index} of {round}"));
                            assert!(all.iter().all(|sender| sender.written().is_empty()));
                            assert!(matches!(posted.outcome(), Sent::Not));
                            assert_eq!(sender.progress.stage(), Stage::Queued);
                            yield_now().await;
                            posted
                        })
                    });
                    let tasks: Vec<_> = tasks.collect();
                    for (index, (task, sender)) in tasks.into_iter().zip(&senders).enumerate() {
                        let posted = task.await.unwrap();
                        assert_eq!(sender.written(), [format!("request {index} of {round}")]);
                        assert!(matches!(posted.outcome(), Sent::Whole));
                        assert_eq!(sender.progress.stage(), Stage::Written);
                        assert_eq!(sender.writer.woken.get(), 0);
                    }
                }
            })
            .await;
    }

    #[tokio::test]
    async fn whoever_leaves_before_is_not_sent_and_the_others_are() {
        LocalSet::new()
            .run_until(async {
                let desk = Rc::<Desk>::default();
                let [first, leaves, last] = std::array::from_fn(|_| Sender::new(&desk));
                drop(leaves.post("alone"));
                yield_now().await;
                yield_now().await;
                let kept = [first.post("first"), last.post("second")];
                drop(leaves.post("never"));
                assert_eq!(Rc::strong_count(&leaves.writer), 1, "its connection can be closed");
                let third = last.post("third");
                yield_now().await;
                assert_eq!(first.written(), ["first"]);
                assert_eq!(last.written(), ["second", "third"]);
                assert_eq!((leaves.written().len(), leaves.progress.stage()), (0, Stage::Queued));
                assert!(kept.iter().chain([&third]).all(|posted| matches!(posted.outcome(), Sent::Whole)));
            })
            .await;
    }

    #[tokio::test]
    async fn what_the_system_does_not_take_comes_back_to_its_exchange_and_holds_up_nobody() {
        LocalSet::new()
            .run_until(async {
                let desk = Rc::<Desk>::default();
                let [part, nothing, whole] = std::array::from_fn(|_| Sender::new(&desk));
                part.writer.takes.set(Takes::Some(3));
                nothing.writer.takes.set(Takes::Nothing);
                let posted = [part.post("partly"), nothing.post("not at all"), whole.post("whole")];
                let forgotten = part.post("forgotten");
                yield_now().await;
                drop(forgotten);
                let Sent::Returned(of_part) = posted[0].outcome() else { panic!("a part was sent") };
                assert_eq!((of_part.request, of_part.written.unwrap().unwrap()), (b"partly".to_vec(), 3));
                let Sent::Returned(of_nothing) = posted[1].outcome() else { panic!("nothing was sent") };
                assert_eq!(of_nothing.request, b"not at all");
                assert!(of_nothing.written.is_none());
                assert!(matches!(posted[2].outcome(), Sent::Whole));
                let woken = [&part, &nothing, &whole].map(|sender| sender.writer.woken.get());
                let stages = [&part, &nothing, &whole].map(|sender| sender.progress.stage());
                assert_eq!(woken, [2, 1, 0]);
                assert_eq!(stages, [Stage::Written, Stage::Queued, Stage::Written]);
                assert!(
                    desk.sends.state.borrow().returned.is_empty(),
                    "each was taken back, or nobody wants it"
                );
            })
            .await;
    }

    #[tokio::test]
    async fn many_or_long_ones_do_not_wait_and_their_memory_is_not_kept() {
        LocalSet::new()
            .run_until(async {
                let desk = Rc::<Desk>::default();
                let sender = Sender::new(&desk);
                let posted: Vec<_> = (0..MOST).map(|_| sender.post("request")).collect();
                assert_eq!(sender.written().len(), MOST);
                assert!(posted.iter().all(|posted| matches!(posted.outcome(), Sent::Whole)));
                let long = "a".repeat(3 * MOST_BYTES);
                let posted = sender.post(&long);
                assert_eq!(sender.written().last(), Some(&long));
                assert!(matches!(posted.outcome(), Sent::Whole));
                assert!(desk.sends.state.borrow().bytes.capacity() <= 2 * MOST_BYTES);
                let _next = sender.post("next");
                assert_eq!(sender.written().len(), MOST + 1);
                yield_now().await;
                yield_now().await;
                assert_eq!(sender.written().len(), MOST + 2);
            })
            .await;
    }

    #[tokio::test]
    async fn of_what_cannot_be_written_nothing_is_left() {
        LocalSet::new()
            .run_until(async {
                let desk = Rc::<Desk>::default();
                let sender = Sender::new(&desk);
                let _before = sender.post("before, ");
                let unfit = Posted::new(&desk, Rc::clone(&sender.writer) as _, &sender.progress, |out| {
                    out.extend_from_slice(b"half of");
                    Err(Failure::new(Cause::Internal, "unfit"))
                });
                assert_eq!(unfit.err().unwrap().cause, Cause::Internal);
                let _behind = sender.post("behind");
                yield_now().await;
                assert_eq!(sender.written(), ["before, ", "behind"]);
            })
            .await;
    }

    #[tokio::test]
    async fn what_was_given_up_is_not_sent_though_its_exchange_has_not_left_yet() {
        LocalSet::new()
            .run_until(async {
                let desk = Rc::<Desk>::default();
                let [given_up, other] = std::array::from_fn(|_| Sender::new(&desk));
                let _posted = [given_up.post("given up"), other.post("other")];
                given_up.progress.given_up.set(true);
                yield_now().await;
                assert_eq!((given_up.written().len(), other.written()), (0, vec!["other".to_owned()]));
                assert_eq!(given_up.progress.stage(), Stage::Queued);
            })
            .await;
    }

    #[tokio::test]
    async fn a_defect_while_a_request_is_written_leaves_nothing_before_the_next() {
        LocalSet::new()
            .run_until(async {
                let desk = Rc::<Desk>::default();
                let sender = Sender::new(&desk);
                let _before = sender.post("before");
                let panics = Sender::new(&desk);
                let task = spawn_local(async move {
                    let _ = Posted::new(&panics.desk, panics.writer, &panics.progress, |out| {
                        out.extend_from_slice(b"half of");
                        panic!("a defect")
                    });
                });
                assert!(task.await.unwrap_err().is_panic());
                let other = Sender::new(&desk);
                let _posted = other.post("whole");
                yield_now().await;
                yield_now().await;
                assert_eq!(
                    (sender.written(), other.written()),
                    (vec!["before".to_owned()], vec!["whole".to_owned()])
                );
            })
            .await;
    }

    #[tokio::test]
    async fn a_defect_while_sending_stops_nobody_else_and_gives_nobody_anothers_outcome() {
        LocalSet::new()
            .run_until(async {
                let desk = Rc::<Desk>::default();
                let [first, panics, lost, next] = std::array::from_fn(|_| Sender::new(&desk));
                first.writer.takes.set(Takes::Some(2));
                panics.writer.takes.set(Takes::Panic);
                let posted = [first.post("first"), panics.post("panics"), lost.post("lost")];
                yield_now().await;
                assert!(matches!(posted[0].outcome(), Sent::Returned(of) if of.request == b"first"));
                assert!(lost.written().is_empty());
                next.writer.takes.set(Takes::Nothing);
                let posted_next = next.post("next");
                while next.written().is_empty() {
                    yield_now().await;
                }
                assert!(matches!(posted_next.outcome(), Sent::Returned(of) if of.request == b"next"));
                assert!(
                    matches!(posted[2].outcome(), Sent::Whole),
                    "it waits for a reply that does not come"
                );
            })
            .await;
    }

    #[tokio::test]
    async fn its_task_ends_with_the_desk() {
        let local = LocalSet::new();
        local
            .run_until(async {
                let desk = Rc::<Desk>::default();
                let _posted = Sender::new(&desk).post("request");
                yield_now().await;
            })
            .await;
        // Ends only when there is no task any more.
        local.await;
    }
}
