//! `http.pipeline`: a connection that carries several requests at once, answered in their order.
//!
//! A pipe is a leased connection for as long as it is busy: it begins with the first exchange and ends when nobody is on
//! it any more; then the connection goes back to the pool, or is closed. In between whoever finds no idle connection
//! takes a [`Seat`] in its window. A task of its own (`driver.rs`) writes and reads; exchanges wait for their [`Slot`].
//!
//! Requests that come while more than half of the window is unanswered wait, and go out together in one write. Replies
//! are told apart by their order alone, so everything that puts the order in doubt ends the pipe: a reply that does not
//! say where it ends or that ends the connection, bytes that nobody asked for (looked for before requests go out while no
//! reply is awaited), a broken rule, a reply that its own check rejects. A reply counts for its check when those before it have been judged, never sooner. Who leaves keeps its place:
//! its reply is read and thrown away.
//!
//! A reply that does not come holds up those behind it for a quarter of `timeout`, at most twice that; and for a moment
//! only once its own check has given it up.
//!
//! What becomes of those on a pipe that ends: no byte of the request sent, it goes to another connection as if nothing
//! had been; sent, and no byte of the reply came, it may be asked again (the engine decides, on a fresh connection);
//! anything else is an outage, as without pipelining.

mod driver;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::time::Instant;

use super::held::Held;
use super::write_request;
use crate::decision::Cause;
use crate::transport::body::{Body, BodyError};
use crate::transport::conn::{Ending, Fault};
use crate::transport::pool::{Lease, Pool};
use crate::transport::{Broken, Failure, Progress, ReplyHead, RequestHead, Stage};

/// A peer that says that it closes after so many answers keeps its word about the requests behind, and will take as many on
/// the next connection: that is no failure if there were so many answers for each request that is lost.
const TENFOLD: u64 = 10;

pub(in crate::transport) struct Pipe {
    pool: Rc<Pool>,
    pub(in crate::transport) address: Option<IpAddr>,
    pub(in crate::transport) retires_at: Instant,
    /// Its connection was made for its first exchange.
    new: bool,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Seats whose requests have not come yet.
    seats: usize,
    /// Not sent yet.
    waiting: VecDeque<Rc<Slot>>,
    /// Sent, in their order. Those answered stay until they are judged.
    sent: VecDeque<Rc<Slot>>,
    /// So many of `sent`, from the front, are read to their end.
    answered: usize,
    /// Bytes of requests that were handed to the system.
    written: u64,
    /// Takes nobody any more.
    closing: bool,
    /// Its connection is closed when it is done.
    retired: bool,
    /// The connection is of no more use.
    ended: bool,
    driver: Option<Waker>,
}

/// One request, and what is known of its reply.
struct Slot {
    progress: Rc<Progress>,
    /// Until it is sent.
    request: RefCell<Vec<u8>>,
    /// Where its bytes begin and end among all that this pipe sends.
    begins: Cell<u64>,
    ends: Cell<u64>,
    /// The connection had carried another exchange before, or had lain in the pool.
    reused: Cell<bool>,
    /// Another request was unanswered on the connection when it was sent.
    behind: Cell<bool>,
    /// Another request was unanswered on the connection at some time while this was.
    shared: Cell<bool>,
    /// Something of the reply has come.
    received: Cell<bool>,
    /// Some of it came before the whole request was sent.
    early: Cell<bool>,
    /// Its final status line. Its exchange is shown that when those before it have been judged.
    status: Cell<Option<u16>>,
    /// The header section, or why it is not complete; until the exchange takes it.
    outcome: RefCell<Option<Result<Held, Broken>>>,
    taken: Cell<bool>,
    body: Cell<End>,
    kept: RefCell<Vec<u8>>,
    /// The exchange has what it needs, or is gone.
    judged: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Which replies are not believed any more that were read and that nobody has judged yet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doubt {
    None,
    /// Those that could be told from others by their order alone.
    Shared,
    All,
}

/// Of a body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Coming,
    Whole,
    Cut,
}

/// A place in a pipe's window.
pub(in crate::transport) struct Seat {
    pipe: Rc<Pipe>,
}

/// An exchange on a pipe; and the rest of its reply.
pub(crate) struct Tail {
    pipe: Rc<Pipe>,
    slot: Rc<Slot>,
}

/// A pipe on this connection, and the first seat in it.
pub(in crate::transport) fn begin(lease: Lease) -> Seat {
    let pool = lease.pool().rc();
    let conn = lease.conn();
    let (address, retires_at, new) = (conn.address, conn.retires_at, !conn.is_old());
    let pipe = Rc::new(Pipe { pool, address, retires_at, new, state: RefCell::default() });
    let seat = pipe.seat();
    pipe.pool.admit(&pipe);
    driver::start(Rc::clone(&pipe), lease);
    pipe.pool.offer_window(&pipe);
    seat
}

pub(in crate::transport) async fn exchange(
    seat: Seat,
    head: &dyn RequestHead,
    progress: &Rc<Progress>,
    read: impl Fn(&ReplyHead<'_>),
) -> Result<Body, Broken> {
    let mut tail = seat.join(head, progress)?;
    let held = poll_fn(|cx| tail.poll_head(cx)).await?;
    held.read(read);
    tail.pipe.pool.desk.spares.put(held.into_buffer());
    Ok(Body::Piped(tail))
}

impl Pipe {
    /// The caller has seen that there is room.
    pub(in crate::transport) fn seat(self: &Rc<Self>) -> Seat {
        self.state.borrow_mut().seats += 1;
        self.pool.gauges().piped.add(1);
        Seat { pipe: Rc::clone(self) }
    }

    /// How many are on it, if it takes more.
    pub(in crate::transport) fn load(&self) -> Option<usize> {
        let state = self.state.borrow();
        (!state.closing).then(|| state.seats + state.waiting.len() + state.sent.len())
    }

    /// Takes nobody any more, and closes its connection when those on it are answered.
    pub(in crate::transport) fn retire(&self) {
        let mut state = self.state.borrow_mut();
        state.closing = true;
        state.retired = true;
    }

    /// Everyone who is still without a reply learns that there will be none. `fault` is of the reply that is being read, or
    /// would be.
    fn end(&self, fault: Option<Fault>, write_error: Option<&str>, doubt: Doubt) {
        let label = self.pool.label();
        let mut state = self.state.borrow_mut();
        let doubted = |slot: &&Rc<Slot>| doubt == Doubt::All || doubt == Doubt::Shared && slot.shared.get();
        let doubts = state.sent.iter().filter(doubted).filter(|slot| slot.distrust(label)).count();
        if std::mem::replace(&mut state.ended, true) {
            return;
        }
        state.closing = true;
        let mut fault = fault;
        // Its header section, or its status line alone, may refuse: it has its place among those that are judged in turn.
        let begun = |slot: &&Rc<Slot>| slot.has_head() || slot.status.get().is_some();
        let read = state.sent.get(state.answered).filter(begun).cloned();
        state.answered += usize::from(read.is_some());
        let (answered, written) = (state.answered, state.written);
        let lost = state.sent.split_off(answered);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        if let Some(read) = &read {
            let fault = fault.take();
            if read.has_head() {
                read.cut();
            } else {
                read.lose(label, fault, write_error, written);
            }
        }
        for (index, slot) in lost.iter().chain(&waiting).enumerate() {
            // Of those that nothing was sent for, it concerns the one that the connection was made for.
            let first = self.new && written == 0 && index == 0;
            if index < lost.len() {
                let fault = fault.take_if(|_| first || slot.begins.get() < written);
                slot.lose(label, fault, write_error, written);
            } else {
                slot.unsend(label, fault.take_if(|_| first), first);
            }
        }
        self.wake_driver();
        // What was not begun to be sent is not to be blamed on the others.
        let unanswered = |slot: &Rc<Slot>| slot.shared.get() && slot.begins.get() < written;
        if doubts > 0 || read.iter().chain(&lost).any(unanswered) {
            self.pool.window_broke();
        }
    }

    /// Those behind the reply that is being read are not answered on this connection any more. If one of them was to be
    /// sent: where the request that is being answered ends. `announced`: the peer has said so, after so many answers.
    fn cut_behind(&self, announced: u64) -> Option<u64> {
        let label = self.pool.label();
        let mut state = self.state.borrow_mut();
        state.closing = true;
        let (written, behind) = (state.written, (state.answered + 1).min(state.sent.len()));
        let ends = state.sent.get(state.answered).map_or(written, |slot| slot.ends.get());
        let lost = state.sent.split_off(behind);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for slot in &lost {
            slot.lose(label, None, None, written);
        }
        for slot in &waiting {
            slot.unsend(label, None, false);
        }
        let begun = lost.iter().filter(|slot| slot.begins.get() < written).count() as u64;
        // Asking them again is within the tenth that may be.
        if announced < TENFOLD * begun {
            self.pool.window_broke();
        }
        (!lost.is_empty()).then_some(ends)
    }

    /// Nobody else is sent on it: who has not been goes elsewhere.
    pub(in crate::transport) fn turn_away(&self) {
        let mut state = self.state.borrow_mut();
        state.closing = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for slot in &waiting {
            slot.unsend(self.pool.label(), None, false);
        }
    }

    /// The driver had a defect: nobody is to take that for the backend's silence.
    fn crash(&self) {
        let mut state = self.state.borrow_mut();
        (state.closing, state.ended) = (true, true);
        let all = [std::mem::take(&mut state.sent), std::mem::take(&mut state.waiting)];
        state.answered = 0;
        drop(state);
        for slot in all.iter().flatten() {
            slot.status.set(None);
            slot.cut();
            slot.fail(Failure::new(Cause::Internal, "a defect while exchanging, caught").into());
        }
    }

    /// What was not begun to be written will not be.
    fn cut_unsent(&self) {
        let label = self.pool.label();
        let mut state = self.state.borrow_mut();
        state.closing = true;
        let written = state.written;
        let begun = state.sent.iter().take_while(|slot| slot.begins.get() < written).count();
        let unsent = state.sent.split_off(begun);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        unsent.iter().chain(&waiting).for_each(|slot| slot.unsend(label, None, false));
    }

    /// Whether everyone before it has been judged.
    fn is_next(&self, slot: &Rc<Slot>) -> bool {
        let state = self.state.borrow();
        state.sent.iter().find(|slot| !slot.judged.get()).is_none_or(|next| Rc::ptr_eq(next, slot))
    }

    /// How far its reply has come, to its exchange, if that is still there and would be believed.
    fn show(&self, slot: &Rc<Slot>) {
        if !slot.judged.get() && self.is_next(slot) {
            slot.progress.status_line.set(slot.status.get());
        }
    }

    /// Lets go of those that are answered and judged; tells the next that it is. True: nobody waits for anything on it.
    fn settle(self: &Rc<Self>) -> bool {
        let mut state = self.state.borrow_mut();
        let mut left = false;
        while state.answered > 0 && state.sent.front().is_some_and(|slot| slot.judged.get()) {
            state.sent.pop_front();
            state.answered -= 1;
            left = true;
        }
        let next = state.sent.iter().find(|slot| !slot.judged.get()).cloned();
        let quiet = next.is_none() && state.waiting.is_empty();
        drop(state);
        if let Some(next) = next {
            next.progress.status_line.set(next.status.get());
            if next.outcome.borrow().is_some() {
                next.wake();
            }
        }
        if left {
            self.pool.offer_window(self);
        }
        quiet
    }

    fn wake_driver(&self) {
        let driver = self.state.borrow_mut().driver.take();
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// The exchange is over.
    fn leave(self: &Rc<Self>, slot: &Rc<Slot>) {
        slot.judged.set(true);
        let mut state = self.state.borrow_mut();
        let front = state.sent.get(state.answered).is_some_and(|front| Rc::ptr_eq(front, slot));
        let mut given_up = false;
        if !slot.taken.get() {
            if let Some(index) = state.waiting.iter().position(|other| Rc::ptr_eq(other, slot)) {
                state.waiting.remove(index);
            }
            // Nobody is sent after a request that was given up.
            given_up =
                slot.body.get() == End::Coming && state.sent.iter().any(|other| Rc::ptr_eq(other, slot));
        }
        drop(state);
        if given_up {
            self.turn_away();
        }
        let quiet = self.settle();
        if front || quiet {
            self.wake_driver();
        }
    }
}

impl Slot {
    fn has_head(&self) -> bool {
        self.taken.get() || matches!(&*self.outcome.borrow(), Some(Ok(_)))
    }

    fn wake(&self) {
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn listen(&self, cx: &Context<'_>) {
        self.waker.replace(Some(cx.waker().clone()));
    }

    fn fail(&self, broken: Broken) {
        if !self.taken.get() {
            self.outcome.replace(Some(Err(broken)));
        }
        self.wake();
    }

    /// Its connection has ended, on which so much was written.
    fn lose(&self, label: &str, fault: Option<Fault>, write_error: Option<&str>, written: u64) {
        let ending = Ending {
            fault,
            // Of several on one connection, the last may have ended it.
            reused: self.reused.get() || self.shared.get(),
            written: self.begins.get() < written,
            received: self.received.get(),
            write_error: write_error.map(str::to_owned),
            malformed: None,
        };
        self.fail(ending.explain(label));
    }

    /// Nothing of it was sent. `first`: nor of anything else on its connection, which was made for it.
    fn unsend(&self, label: &str, fault: Option<Fault>, first: bool) {
        let (write_error, malformed) = (None, None);
        let ending =
            Ending { fault, reused: !first, written: false, received: false, write_error, malformed };
        self.fail(ending.explain(label));
    }

    /// Its body does not come.
    fn cut(&self) {
        self.body.set(End::Cut);
        self.wake();
    }

    /// A reply that came on the same connection, before or behind it, shows that the order cannot be relied on: nothing
    /// of its own counts any more, nor does its status line.
    fn distrust(&self, label: &str) -> bool {
        self.status.set(None);
        if !self.judged.get() {
            self.progress.status_line.set(None);
            if self.taken.get() && self.shared.get() {
                self.cut();
            }
        }
        let doubted = !self.taken.get() && self.has_head();
        if doubted {
            let detail = format!("the reply of {label} came on a connection whose replies are in doubt");
            self.fail(Failure::new(Cause::Protocol, detail).into());
        }
        doubted
    }
}

impl Seat {
    pub(in crate::transport) fn address(&self) -> Option<IpAddr> {
        self.pipe.address
    }

    fn join(self, head: &dyn RequestHead, progress: &Rc<Progress>) -> Result<Tail, Broken> {
        let mut request = self.pipe.pool.desk.spares.take();
        request.clear();
        write_request(head, &mut request)?;
        let slot = Rc::new(Slot {
            progress: Rc::clone(progress),
            request: RefCell::new(request),
            begins: Cell::default(),
            ends: Cell::default(),
            reused: Cell::default(),
            behind: Cell::default(),
            shared: Cell::default(),
            received: Cell::default(),
            early: Cell::default(),
            status: Cell::default(),
            outcome: RefCell::default(),
            taken: Cell::default(),
            body: Cell::new(End::Coming),
            kept: RefCell::default(),
            judged: Cell::default(),
            waker: RefCell::default(),
        });
        let mut state = self.pipe.state.borrow_mut();
        if state.closing {
            return Err(Broken::Unsent);
        }
        state.waiting.push_back(Rc::clone(&slot));
        drop(state);
        self.pipe.pool.gauges().piped.add(1);
        Ok(Tail { pipe: Rc::clone(&self.pipe), slot })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.pipe.state.borrow_mut().seats -= 1;
        self.pipe.pool.gauges().piped.sub(1);
        // For a request, or to see that nobody is left.
        self.pipe.wake_driver();
    }
}

impl Tail {
    fn poll_head(&mut self, cx: &Context<'_>) -> Poll<Result<Held, Broken>> {
        let ready = match &*self.slot.outcome.borrow() {
            // Its status line may refuse by itself.
            Some(Err(_)) if self.slot.status.get().is_none() => true,
            Some(_) => self.pipe.is_next(&self.slot),
            None => false,
        };
        match ready.then(|| self.slot.outcome.take()).flatten() {
            Some(outcome) => {
                if outcome.is_ok() {
                    self.slot.taken.set(true);
                    self.slot.progress.status_line.set(self.slot.status.get());
                    self.slot.progress.enter(Stage::Replied);
                }
                Poll::Ready(outcome)
            }
            None => {
                self.slot.listen(cx);
                Poll::Pending
            }
        }
    }

    /// The complete body, for a verdict.
    pub(in crate::transport) async fn collect(self, limit: usize) -> Result<Bytes, BodyError> {
        let kept = poll_fn(|cx| {
            let slot = &*self.slot;
            if slot.kept.borrow().len() > limit {
                return Poll::Ready(Err(BodyError::TooLong));
            }
            match slot.body.get() {
                End::Whole => Poll::Ready(Ok(slot.kept.take())),
                End::Cut => Poll::Ready(Err(BodyError::Cut)),
                End::Coming => {
                    slot.listen(cx);
                    Poll::Pending
                }
            }
        });
        let kept = kept.await?;
        self.discard();
        Ok(kept.into())
    }

    /// Nobody needs what has not come yet.
    pub(in crate::transport) fn discard(self) {
        self.pipe.leave(&self.slot);
    }

    /// A reply that its check has rejected may be another's; so may those behind it.
    pub(in crate::transport) fn close(self) {
        self.slot.judged.set(true);
        self.pipe.end(None, None, Doubt::All);
        self.pipe.leave(&self.slot);
    }
}

impl Drop for Tail {
    /// Given up: that says nothing about the order.
    fn drop(&mut self) {
        if !self.slot.judged.get() {
            self.pipe.leave(&self.slot);
        }
        self.pipe.pool.gauges().piped.sub(1);
    }
}
