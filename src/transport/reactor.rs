//! The plain sockets of an I/O thread, TCP and Unix: which of them has something to read, and what.
//!
//! They have an epoll of their own within that of the runtime, which so wakes one task for all of them. That task reads ahead
//! what has come on each that somebody waits for, one right behind the other, and wakes those who wait when it is
//! done. A system call leaves little of what was there in the processor's caches and branch predictors; what is made of a
//! reply does not stand between two of them. What was read ahead belongs to its connection, as if the system still had it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Token};
use socket2::Socket;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::task::spawn_local;

use super::dial::{Io, Look, Outlet};

/// Sockets that are looked at in one turn; the others have theirs when everyone else has had one.
const EVENTS: usize = 256;
/// Bytes of a connection that are read ahead: those of most replies, also if some were asked for together.
const AHEAD: usize = 4 * 1024;
/// Buffers for that which are kept.
const SPARES: usize = 64;

pub(super) struct Reactor {
    poll: RefCell<AsyncFd<mio::Poll>>,
    places: RefCell<Places>,
    spares: RefCell<Vec<Box<[u8]>>>,
    /// Those to wake at the end of a turn.
    woken: RefCell<Vec<Waker>>,
    /// Of its task.
    waker: RefCell<Option<Waker>>,
}

#[derive(Default)]
struct Places {
    /// By the number that their events have.
    lines: Vec<Option<Rc<Line>>>,
    vacant: Vec<usize>,
}

/// A socket, and what is known of it.
struct Line {
    socket: Socket,
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
    line: Rc<Line>,
    place: usize,
    reactor: Rc<Reactor>,
}

impl Reactor {
    /// Within a `LocalSet`, where its task runs until the reactor is dropped, which its sockets keep.
    pub(super) fn new() -> io::Result<Rc<Self>> {
        let poll = registered(mio::Poll::new()?)?;
        let reactor = Rc::new(Self {
            poll: RefCell::new(poll),
            places: RefCell::default(),
            spares: RefCell::default(),
            woken: RefCell::default(),
            waker: RefCell::default(),
        });
        spawn_local(serve(Rc::downgrade(&reactor)));
        Ok(reactor)
    }

    /// A connected socket that does not block.
    pub(super) fn add(self: &Rc<Self>, socket: Socket) -> io::Result<Plain> {
        let line = Rc::new(Line {
            socket,
            readable: Cell::new(false),
            closed: Cell::new(false),
            writable: Cell::new(true),
            reader: RefCell::default(),
            writer: RefCell::default(),
            ahead: RefCell::default(),
        });
        let place = self.places.borrow_mut().take(Rc::clone(&line));
        // First, so that the place is given back whatever comes.
        let plain = Plain { line, place, reactor: Rc::clone(self) };
        let fd = plain.line.socket.as_raw_fd();
        let interest = mio::Interest::READABLE | mio::Interest::WRITABLE;
        let poll = self.poll.borrow();
        poll.get_ref().registry().register(&mut SourceFd(&fd), Token(place), interest)?;
        Ok(plain)
    }

    /// Reads what has come and wakes who waits. Whether that was all there is.
    fn turn(&self, events: &mut Events) -> io::Result<bool> {
        self.poll.borrow_mut().get_mut().poll(events, Some(Duration::ZERO))?;
        let mut woken = self.woken.take();
        let mut count = 0;
        {
            let places = self.places.borrow();
            for event in events.iter() {
                count += 1;
                // A place that was given back: its socket was closed meanwhile.
                if let Some(Some(line)) = places.lines.get(event.token().0) {
                    self.hear(line, event, &mut woken);
                }
            }
        }
        // When nothing is borrowed.
        woken.drain(..).for_each(Waker::wake);
        self.woken.replace(woken);
        Ok(count < EVENTS)
    }

    fn hear(&self, line: &Line, event: &Event, woken: &mut Vec<Waker>) {
        let broken = event.is_error();
        if event.is_writable() || event.is_write_closed() || broken {
            line.writable.set(true);
            woken.extend(line.writer.take());
        }
        if event.is_read_closed() || broken {
            line.closed.set(true);
        }
        if event.is_readable() || event.is_read_closed() || broken {
            line.readable.set(true);
            if line.reader.borrow().is_some() && self.read_ahead(line) {
                woken.extend(line.reader.take());
            }
        }
    }

    /// Whether there is something for who waits.
    fn read_ahead(&self, line: &Line) -> bool {
        let mut ahead = line.ahead.borrow_mut();
        if ahead.is_some() {
            return true;
        }
        let spare = self.spares.borrow_mut().pop();
        let mut bytes = spare.unwrap_or_else(|| vec![0; AHEAD].into());
        let (filled, error) = match line.read(&mut bytes) {
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

/// Its task ends.
impl Drop for Reactor {
    fn drop(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[expect(unsafe_code, reason = "the runtime has no other way to wait for an epoll")]
fn registered(poll: mio::Poll) -> io::Result<AsyncFd<mio::Poll>> {
    // SAFETY: a `mio::Poll` has one descriptor for its life, and closes it when it is dropped; nobody takes it out of what
    // this returns, or puts another one in its place.
    Ok(unsafe { AsyncFd::register_with_interest(poll, Interest::READABLE) }?)
}

async fn serve(reactor: Weak<Reactor>) {
    let mut events = Events::with_capacity(EVENTS);
    let mut is_more = false;
    poll_fn(|cx| {
        loop {
            let Some(reactor) = reactor.upgrade() else { return Poll::Ready(()) };
            reactor.waker.borrow_mut().get_or_insert_with(|| cx.waker().clone());
            if !is_more {
                let poll = reactor.poll.borrow();
                match ready!(poll.poll_read_ready(cx)) {
                    // Before the turn: what comes later is heard of again.
                    Ok(mut guard) => guard.clear_ready(),
                    // The runtime ends.
                    Err(_) => return Poll::Ready(()),
                }
            }
            // Interrupted, it has not looked.
            is_more = !matches!(reactor.turn(&mut events), Ok(true));
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
    fn take(&mut self, line: Rc<Line>) -> usize {
        let place = self.vacant.pop().unwrap_or(self.lines.len());
        if place == self.lines.len() {
            self.lines.push(None);
        }
        self.lines[place] = Some(line);
        place
    }

    fn give_back(&mut self, place: usize) {
        self.lines[place] = None;
        self.vacant.push(place);
    }
}

impl Line {
    /// `None`: there is nothing.
    fn read(&self, into: &mut [u8]) -> Option<io::Result<usize>> {
        if !self.readable.get() && !self.closed.get() {
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
        let mut ahead = self.line.ahead.borrow_mut();
        let Some(found) = &mut *ahead else {
            let read = self.line.read(buf.initialize_unfilled())?;
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
                keep(cx.waker(), &self.line.reader);
                Poll::Pending
            },
            Poll::Ready,
        )
    }
}

impl AsyncWrite for Plain {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.line.write(bytes).map_or_else(
            || {
                keep(cx.waker(), &self.line.writer);
                Poll::Pending
            },
            Poll::Ready,
        )
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.line.socket.shutdown(Shutdown::Write))
    }
}

impl Io for Plain {
    fn look(&self) -> Look {
        match &*self.line.ahead.borrow() {
            Some(Ahead { error: Some(_), .. }) => Look::Closed,
            Some(_) => Look::Surplus,
            None => peek(&self.line.socket),
        }
    }

    fn read_now(&mut self, buf: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        self.try_read(buf)
    }

    fn outlet(&self) -> Option<Rc<dyn Outlet>> {
        Some(Rc::clone(&self.line) as Rc<dyn Outlet>)
    }
}

impl Outlet for Line {
    fn write_now(&self, bytes: &[u8]) -> Option<io::Result<usize>> {
        let is_silent = !self.readable.get() && !self.closed.get() && self.ahead.borrow().is_none();
        if is_silent { self.write(bytes) } else { None }
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
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::{LocalSet, yield_now};

    use super::*;

    async fn local(test: impl Future<Output = ()>) {
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, LocalSet::new().run_until(test)).await.expect("nobody is woken");
    }

    fn pair(reactor: &Rc<Reactor>) -> (Plain, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (reactor.add(ours.into()).unwrap(), theirs)
    }

    /// Waits until its task has heard of what has come.
    async fn until(holds: impl Fn() -> bool) {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn waits(plain: &mut Plain) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(plain).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    #[tokio::test]
    async fn what_was_read_ahead_belongs_to_its_connection_and_comes_before_what_is_still_to_be_read() {
        local(async {
            let reactor = Reactor::new().unwrap();
            let mut pairs: Vec<_> = (0..3).map(|_| pair(&reactor)).collect();
            for (index, (plain, theirs)) in pairs.iter_mut().enumerate() {
                assert!(waits(plain));
                theirs.write_all(format!("first of {index}, ").as_bytes()).unwrap();
            }
            let lines: Vec<_> = pairs.iter().map(|(plain, _)| Rc::clone(&plain.line)).collect();
            until(|| lines.iter().all(|line| line.ahead.borrow().is_some())).await;
            // Its place is given to another in between.
            drop(pairs.remove(1));
            pairs.push(pair(&reactor));
            for (plain, theirs) in &mut pairs {
                theirs.write_all(b"second").unwrap();
                theirs.shutdown(Shutdown::Write).unwrap();
                assert_eq!(plain.look(), Look::Surplus);
            }
            let mut read = Vec::new();
            for (plain, _) in &mut pairs {
                let (mut one, mut all) = ([0], String::new());
                plain.read_exact(&mut one).await.unwrap();
                plain.read_to_string(&mut all).await.unwrap();
                read.push(format!("{}{all}", char::from(one[0])));
            }
            assert_eq!(read, ["first of 0, second", "first of 2, second", "second"]);
            assert!(reactor.spares.borrow().len() >= 2, "buffers are used again");
        })
        .await;
    }

    #[tokio::test]
    async fn nothing_is_read_for_who_does_not_wait_and_who_is_not_silent_is_not_written_to() {
        local(async {
            let reactor = Reactor::new().unwrap();
            let (mut plain, mut theirs) = pair(&reactor);
            let outlet = plain.outlet().unwrap();
            assert!(matches!(outlet.write_now(b"asked"), Some(Ok(5))));
            theirs.write_all(b"x").unwrap();
            until(|| plain.line.readable.get()).await;
            assert!(plain.line.ahead.borrow().is_none());
            assert_eq!(plain.look(), Look::Surplus);
            assert!(outlet.write_now(b"asked").is_none(), "something has come that nobody asked for");
            let mut more = [0; 2];
            assert_eq!(plain.read(&mut more).await.unwrap(), 1);
            assert!(matches!(outlet.write_now(b"asked"), Some(Ok(5))));

            // The same where it was read ahead, and where the peer has gone.
            assert!(waits(&mut plain));
            theirs.write_all(b"y").unwrap();
            until(|| plain.line.ahead.borrow().is_some()).await;
            assert!(outlet.write_now(b"asked").is_none());
            assert_eq!(plain.read(&mut more).await.unwrap(), 1);
            drop(theirs);
            until(|| plain.line.closed.get()).await;
            assert!(outlet.write_now(b"asked").is_none());
            assert_eq!(plain.look(), Look::Closed);
            assert_eq!(plain.read(&mut more).await.unwrap(), 0);
            assert_eq!(plain.read(&mut more).await.unwrap(), 0, "the end stays");
        })
        .await;
    }

    #[tokio::test]
    async fn a_connection_that_breaks_says_so_behind_what_had_come() {
        local(async {
            let reactor = Reactor::new().unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            ours.set_nonblocking(true).unwrap();
            let theirs = Socket::from(listener.accept().unwrap().0);
            let mut plain = reactor.add(ours.into()).unwrap();
            assert!(waits(&mut plain));
            (&theirs).write_all(b"some").unwrap();
            until(|| plain.line.ahead.borrow().is_some()).await;
            theirs.set_linger(Some(Duration::ZERO)).unwrap();
            drop(theirs);
            until(|| plain.line.closed.get()).await;
            let mut four = [0; 4];
            plain.read_exact(&mut four).await.unwrap();
            assert_eq!(&four, b"some");
            assert_eq!(plain.read(&mut four).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        })
        .await;
    }

    #[tokio::test]
    async fn an_error_that_was_read_ahead_is_told_once() {
        local(async {
            let reactor = Reactor::new().unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            ours.set_nonblocking(true).unwrap();
            let theirs = Socket::from(listener.accept().unwrap().0);
            let mut plain = reactor.add(ours.into()).unwrap();
            assert!(waits(&mut plain));
            theirs.set_linger(Some(Duration::ZERO)).unwrap();
            drop(theirs);
            until(|| plain.line.ahead.borrow().is_some()).await;
            assert_eq!(plain.look(), Look::Closed);
            let mut byte = [0];
            assert_eq!(plain.read(&mut byte).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            assert_eq!(plain.read(&mut byte).await.unwrap(), 0);
        })
        .await;
    }

    #[tokio::test]
    async fn more_than_one_turn_holds_are_all_heard_of() {
        local(async {
            let reactor = Reactor::new().unwrap();
            let (ours, mut theirs): (Vec<_>, Vec<_>) = (0..EVENTS + 50).map(|_| pair(&reactor)).unzip();
            let reads = |mut plain: Plain| async move { (plain.read_u8().await.unwrap(), plain) };
            let reading: Vec<_> = ours.into_iter().map(|plain| spawn_local(reads(plain))).collect();
            // What was just added can be written to, which is an event too.
            tokio::time::sleep(Duration::from_millis(20)).await;
            for theirs in &mut theirs {
                theirs.write_all(b"7").unwrap();
            }
            let mut plain = Vec::new();
            for reads in reading {
                let (byte, read) = reads.await.unwrap();
                assert_eq!(byte, b'7');
                plain.push(read);
            }
            drop(plain);
            assert_eq!(reactor.places.borrow().vacant.len(), EVENTS + 50);
            assert!(reactor.spares.borrow().len() <= SPARES);
        })
        .await;
    }

    #[tokio::test]
    async fn who_finds_no_room_to_write_is_woken_when_there_is() {
        local(async {
            let reactor = Reactor::new().unwrap();
            let (mut plain, mut theirs) = pair(&reactor);
            let (outlet, line) = (plain.outlet().unwrap(), Rc::clone(&plain.line));
            let long = vec![b'a'; 4 * 1024 * 1024];
            let writes = spawn_local(async move {
                plain.write_all(&long).await.unwrap();
                drop(plain);
            });
            until(|| !line.writable.get()).await;
            assert!(outlet.write_now(b"more").is_none());
            drop((outlet, line));
            let reads = std::thread::spawn(move || {
                let mut all = Vec::new();
                theirs.read_to_end(&mut all).unwrap();
                all.len()
            });
            writes.await.unwrap();
            assert_eq!(reads.join().unwrap(), 4 * 1024 * 1024);
        })
        .await;
    }

    #[tokio::test]
    async fn its_task_ends_with_the_last_of_its_sockets() {
        let local = LocalSet::new();
        let (plain, weak, theirs) = local
            .run_until(async {
                let reactor = Reactor::new().unwrap();
                let weak = Rc::downgrade(&reactor);
                let (plain, theirs) = pair(&reactor);
                yield_now().await;
                (plain, weak, theirs)
            })
            .await;
        assert_eq!(weak.strong_count(), 1);
        drop(plain);
        assert_eq!(weak.strong_count(), 0);
        // Ends only when there is no task any more.
        local.await;
        drop(theirs);
    }
}
