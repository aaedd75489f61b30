//! The plain sockets of the lane `wire` of an I/O thread, TCP and Unix: which of them has something to read, and what.
//!
//! They have an epoll of their own within that of the runtime, which so wakes one task for all of them. That task reads ahead
//! what has come on each that somebody waits for, one right behind the other, and wakes those who wait when it is
//! done. A system call leaves little of what was there in the processor's caches and branch predictors; what is made of a
//! reply does not stand between two of them. What was read ahead belongs to its connection, as if the system still had it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Token};
use socket2::Socket;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::anew;
use super::dial::{Io, Look, WriteHalf};
use crate::sys::within_runtime;

/// Sockets that are looked at in one turn; the others have theirs when everyone else has had one.
const EVENTS: usize = 256;
/// So many in a row, where all are to be looked at: what is not seen then is seen by the next turn.
const TURNS: usize = 64;
/// Bytes of a connection that are read ahead: those of most replies, also if some were asked for together.
const AHEAD: usize = 4 * 1024;
/// Buffers for that which are kept.
const SPARES: usize = 64;

pub(super) struct Reactor {
    poll: RefCell<AsyncFd<mio::Poll>>,
    events: RefCell<Events>,
    places: RefCell<Places>,
    spares: RefCell<Vec<Box<[u8]>>>,
    /// Those to wake at the end of a turn.
    woken: RefCell<VecDeque<Waker>>,
    /// Of its task.
    waker: RefCell<Option<Waker>>,
}

#[derive(Default)]
struct Places {
    /// By the number that their events have.
    sources: Vec<Option<Rc<Source>>>,
    vacant: Vec<usize>,
}

/// A socket, and what is known of it.
struct Source {
    socket: Socket,
    reactor: Weak<Reactor>,
    /// A read may find something.
    readable: Cell<bool>,
    /// The peer sends no more, or the connection is broken: a read finds something whenever it is tried.
    closed: Cell<bool>,
    /// A write may find room.
    writable: Cell<bool>,
    /// Who waits for something to read, and for room to write.
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
    ahead: RefCell<Option<Ahead>>,
}

/// What was read ahead: bytes, or an error.
struct Ahead {
    bytes: Box<[u8]>,
    taken: usize,
    filled: usize,
    error: Option<io::Error>,
}

/// One of the sockets. Closed when it is dropped.
pub(super) struct Plain {
    source: Rc<Source>,
    place: usize,
    reactor: Rc<Reactor>,
}

impl Reactor {
    /// Within a `LocalSet`, where its task runs until the reactor is dropped, which its sockets keep.
    pub(super) fn new() -> io::Result<Rc<Self>> {
        let poll = within_runtime(mio::Poll::new()?)?;
        let reactor = Rc::new(Self {
            poll: RefCell::new(poll),
            events: RefCell::new(Events::with_capacity(EVENTS)),
            places: RefCell::default(),
            spares: RefCell::default(),
            woken: RefCell::default(),
            waker: RefCell::default(),
        });
        // Without it its sockets would be silent for ever.
        let served = Rc::downgrade(&reactor);
        anew::spawn(move || serve(served.clone()));
        Ok(reactor)
    }

    /// A connected socket that does not block.
    pub(super) fn add(self: &Rc<Self>, socket: Socket) -> io::Result<Plain> {
        let source = Rc::new(Source {
            socket,
            reactor: Rc::downgrade(self),
            readable: Cell::new(false),
            closed: Cell::new(false),
            writable: Cell::new(true),
            reader: RefCell::default(),
            writer: RefCell::default(),
            ahead: RefCell::default(),
        });
        let place = self.places.borrow_mut().take(Rc::clone(&source));
        // First, so that the place is given back whatever comes.
        let plain = Plain { source, place, reactor: Rc::clone(self) };
        let fd = plain.source.socket.as_raw_fd();
        let interest = mio::Interest::READABLE | mio::Interest::WRITABLE;
        let poll = self.poll.borrow();
        poll.get_ref().registry().register(&mut SourceFd(&fd), Token(place), interest)?;
        Ok(plain)
    }

    /// Reads what has come and wakes who waits. Whether somebody was woken.
    pub(super) fn look_around(&self) -> bool {
        let mut anybody = false;
        for _ in 0..TURNS {
            let turn = self.turn();
            anybody |= turn.anybody;
            if turn.all {
                break;
            }
        }
        anybody
    }

    fn turn(&self) -> Turn {
        let events = &mut *self.events.borrow_mut();
        if let Err(error) = self.poll.borrow_mut().get_mut().poll(events, Some(Duration::ZERO)) {
            return Turn { all: error.kind() != io::ErrorKind::Interrupted, anybody: false };
        }
        let all = Unheard(self);
        let mut count = 0;
        {
            let places = self.places.borrow();
            for event in events.iter() {
                count += 1;
                // A place that was given back has nobody who could be told.
                if let Some(Some(source)) = places.sources.get(event.token().0) {
                    self.hear(source, event);
                }
            }
        }
        // When nothing is borrowed that they may need.
        let mut anybody = false;
        while let Some(waker) = self.next_woken() {
            anybody = true;
            waker.wake();
        }
        std::mem::forget(all);
        Turn { all: count < EVENTS, anybody }
    }

    fn next_woken(&self) -> Option<Waker> {
        self.woken.borrow_mut().pop_front()
    }

    fn hear(&self, source: &Source, event: &Event) {
        let mut woken = self.woken.borrow_mut();
        let broken = event.is_error();
        if event.is_writable() || event.is_write_closed() || broken {
            source.writable.set(true);
            woken.extend(source.writer.take());
        }
        if event.is_read_closed() || broken {
            source.closed.set(true);
        }
        if event.is_readable() || event.is_read_closed() || broken {
            source.readable.set(true);
            if source.reader.borrow().is_some() && self.read_ahead(source) {
                woken.extend(source.reader.take());
            }
        }
    }

    /// Whether there is something for who waits.
    fn read_ahead(&self, source: &Source) -> bool {
        let mut ahead = source.ahead.borrow_mut();
        if ahead.is_some() {
            return true;
        }
        let spare = self.spares.borrow_mut().pop();
        let mut bytes = spare.unwrap_or_else(|| vec![0; AHEAD].into());
        let (filled, error) = match source.read(&mut bytes) {
            Some(Ok(filled @ 1..)) => (filled, None),
            Some(Err(error)) => (0, Some(error)),
            nothing => {
                self.put_back(bytes);
                // The end can be read again.
                return nothing.is_some();
            }
        };
        *ahead = Some(Ahead { bytes, taken: 0, filled, error });
        true
    }

    fn put_back(&self, bytes: Box<[u8]>) {
        let mut spares = self.spares.borrow_mut();
        if spares.len() < SPARES {
            spares.push(bytes);
        }
    }
}

/// What became of a turn.
struct Turn {
    /// That was all there is.
    all: bool,
    /// Somebody was woken.
    anybody: bool,
}

/// A turn that a defect may end. Then nobody knows what was heard of: everyone looks for himself.
struct Unheard<'a>(&'a Reactor);

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        let Self(reactor) = self;
        for source in reactor.places.borrow().sources.iter().flatten() {
            source.readable.set(true);
            source.writable.set(true);
            let waiting = [&source.reader, &source.writer].into_iter().filter_map(RefCell::take);
            reactor.woken.borrow_mut().extend(waiting);
        }
        while let Some(waker) = reactor.next_woken() {
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }
}

/// Its task ends.
impl Drop for Reactor {
    fn drop(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

async fn serve(reactor: Weak<Reactor>) {
    let (mut is_known, mut is_more) = (false, true);
    poll_fn(|cx| {
        loop {
            let Some(reactor) = reactor.upgrade() else { return Poll::Ready(()) };
            if !std::mem::replace(&mut is_known, true) {
                *reactor.waker.borrow_mut() = Some(cx.waker().clone());
            }
            if !is_more {
                let poll = reactor.poll.borrow();
                match ready!(poll.poll_read_ready(cx)) {
                    // Before the turn: what comes later is heard of again.
                    Ok(mut guard) => guard.clear_ready(),
                    // The runtime ends.
                    Err(_) => return Poll::Ready(()),
                }
            }
            is_more = !reactor.turn().all;
            if is_more {
                // The others in line first.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    })
    .await;
}

impl Places {
    fn take(&mut self, source: Rc<Source>) -> usize {
        let place = self.vacant.pop().unwrap_or(self.sources.len());
        if place == self.sources.len() {
            self.sources.push(None);
        }
        self.sources[place] = Some(source);
        place
    }

    fn give_back(&mut self, place: usize) {
        self.sources[place] = None;
        self.vacant.push(place);
    }
}

impl Source {
    /// A read may find something.
    fn is_heard(&self) -> bool {
        self.readable.get() || self.closed.get()
    }

    /// `None`: there is nothing.
    fn read(&self, into: &mut [u8]) -> Option<io::Result<usize>> {
        if !self.is_heard() {
            return None;
        }
        let read = (&self.socket).read(into);
        match &read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable.set(false);
                self.closed.set(false);
                return None;
            }
            // There is no more of it: epoll(7), question 9.
            Ok(count) if (1..into.len()).contains(count) => self.readable.set(false),
            _ => {}
        }
        Some(read)
    }

    /// `None`: there is no room.
    fn write(&self, bytes: &[u8]) -> Option<io::Result<usize>> {
        if !self.writable.get() {
            return None;
        }
        // A host may not have told the system to leave SIGPIPE alone.
        let written = self.socket.send_with_flags(bytes, libc::MSG_NOSIGNAL);
        if matches!(&written, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.writable.set(false);
            return None;
        }
        Some(written)
    }
}

impl Plain {
    /// What was read ahead, or else what can be read.
    fn try_read(&self, buf: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        let mut ahead = self.source.ahead.borrow_mut();
        let Some(found) = &mut *ahead else {
            if !self.source.is_heard() {
                return None;
            }
            let read = self.source.read(buf.initialize_unfilled())?;
            return Some(read.map(|count| buf.advance(count)));
        };
        let count = buf.remaining().min(found.filled - found.taken);
        buf.put_slice(&found.bytes[found.taken..found.taken + count]);
        found.taken += count;
        let error = found.error.take();
        if found.taken == found.filled {
            let Some(Ahead { bytes, .. }) = ahead.take() else { unreachable!("it is taken here only") };
            self.reactor.put_back(bytes);
        }
        Some(error.map_or(Ok(()), Err))
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // By name: the descriptor may live on in a child of the host's.
        let fd = self.source.socket.as_raw_fd();
        let _ = self.reactor.poll.borrow().get_ref().registry().deregister(&mut SourceFd(&fd));
        self.reactor.places.borrow_mut().give_back(self.place);
    }
}

/// `waker` is woken from there.
fn keep(waker: &Waker, place: &RefCell<Option<Waker>>) {
    let mut place = place.borrow_mut();
    match &mut *place {
        Some(kept) => kept.clone_from(waker),
        None => *place = Some(waker.clone()),
    }
}

impl AsyncRead for Plain {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.try_read(buf).map_or_else(
            || {
                keep(cx.waker(), &self.source.reader);
                Poll::Pending
            },
            Poll::Ready,
        )
    }
}

impl AsyncWrite for Plain {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.source.write(bytes).map_or_else(
            || {
                keep(cx.waker(), &self.source.writer);
                Poll::Pending
            },
            Poll::Ready,
        )
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.source.socket.shutdown(Shutdown::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            shut => Poll::Ready(shut),
        }
    }
}

impl Io for Plain {
    fn look(&self) -> Look {
        match &*self.source.ahead.borrow() {
            Some(Ahead { error: Some(_), .. }) => Look::Closed,
            Some(_) => Look::Surplus,
            None => peek(&self.source.socket),
        }
    }

    fn read_now(&mut self, buf: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        self.try_read(buf)
    }

    fn write_half(&self) -> Option<Rc<dyn WriteHalf>> {
        Some(Rc::clone(&self.source) as Rc<dyn WriteHalf>)
    }
}

impl WriteHalf for Source {
    fn write_now(&self, bytes: &[u8]) -> Option<io::Result<usize>> {
        if self.is_heard() || self.ahead.borrow().is_some() { None } else { self.write(bytes) }
    }

    fn look_around(&self) {
        if let Some(reactor) = self.reactor.upgrade() {
            reactor.look_around();
        }
    }

    fn wake(&self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// What there is to read, without reading it. The socket does not block, so neither does this.
pub(super) fn peek(socket: &Socket) -> Look {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    match socket.peek(&mut byte) {
        Ok(0) => Look::Closed,
        Ok(_) => Look::Surplus,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Look::Nothing,
        Err(_) => Look::Closed,
    }
}

#[cfg(test)]
mod tests;
