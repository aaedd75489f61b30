//! The tap: sits above TLS and under hyper, and sees every plain byte of a connection.
//!
//! hyper's errors do not tell a close at 0 bytes from one in the middle, and it neither counts interim replies
//! nor keeps the status line of a reply that breaks off. The tap does, and stops the connection at the first
//! broken rule, before hyper sees the bytes. It also owns the connection's place in the pool, and gives it up in
//! the moment in which the socket is closed.
//!
//! HTTP/1.1: one exchange at a time is armed. Bytes that come before its first byte was written are nobody's.
//! Race window: bytes that reach the system between the pool's look at the socket and the write of the request
//! cannot be told from an early answer. It is some microseconds wide, and a peer that can aim at it can answer
//! the request as well.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::conn::Fault;
use super::dial::{Io, Look};
use super::frames::FrameReader;
use super::head::{Fed, HeadReader};
use super::pool::Place;
use super::{Progress, Stage};

/// What is spoken on the connection, as far as the tap must know.
enum Speech {
    /// HTTP/1.1, nothing asked, or asked and nothing written.
    Silent,
    /// HTTP/1.1, the reply's header section.
    Head(Box<HeadReader>),
    /// HTTP/1.1, after it.
    Body,
    Frames(FrameReader),
}

/// The half of the tap that stays with the pool and the lane.
pub(super) struct Wire {
    io: RefCell<Option<Box<dyn Io>>>,
    place: RefCell<Option<Place>>,
    /// Who reads, to be told when the connection is closed from this side.
    reader: RefCell<Option<Waker>>,
    speech: RefCell<Speech>,
    /// Of the exchange under way.
    progress: RefCell<Option<Rc<Progress>>>,
    received: Cell<bool>,
    /// HTTP/1.1: bytes of the request that the system has not taken yet.
    unsent: Cell<usize>,
    /// HTTP/1.1: the whole request is on its way.
    sent: Cell<bool>,
    /// HTTP/1.1: some of the reply came before that.
    early: Cell<bool>,
    fault: RefCell<Option<Fault>>,
    /// A write failed after others had succeeded.
    write_error: RefCell<Option<io::Error>>,
    /// HTTP/2: a SETTINGS frame came, or the end.
    pub(super) settled: Notify,
}

/// The half that hyper reads and writes.
pub(super) struct Tap(Rc<Wire>);

impl Wire {
    pub(super) fn http1(io: Box<dyn Io>, place: Place) -> Rc<Self> {
        Self::new(io, place, Speech::Silent)
    }

    pub(super) fn http2(io: Box<dyn Io>, place: Place) -> Rc<Self> {
        Self::new(io, place, Speech::Frames(FrameReader::default()))
    }

    fn new(io: Box<dyn Io>, place: Place, speech: Speech) -> Rc<Self> {
        Rc::new(Self {
            io: RefCell::new(Some(io)),
            place: RefCell::new(Some(place)),
            reader: RefCell::default(),
            speech: RefCell::new(speech),
            progress: RefCell::default(),
            received: Cell::new(false),
            unsent: Cell::new(0),
            sent: Cell::new(false),
            early: Cell::new(false),
            fault: RefCell::default(),
            write_error: RefCell::default(),
            settled: Notify::new(),
        })
    }

    pub(super) fn tap(self: &Rc<Self>) -> Tap {
        Tap(Rc::clone(self))
    }

    /// An HTTP/1.1 request is about to be written.
    pub(super) fn arm(&self, progress: &Rc<Progress>) {
        self.progress.replace(Some(Rc::clone(progress)));
        self.received.set(false);
        self.sent.set(false);
        self.early.set(false);
        *self.speech.borrow_mut() = Speech::Silent;
    }

    /// The HTTP/1.1 exchange is over; what comes now is nobody's.
    pub(super) fn disarm(&self) {
        self.progress.replace(None);
        *self.speech.borrow_mut() = Speech::Silent;
    }

    /// Closes the socket and gives up the place, now.
    pub(super) fn hang_up(&self) {
        let io = self.io.take();
        drop(io);
        let place = self.place.take();
        drop(place);
        self.settled.notify_one();
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.io.borrow().is_none()
    }

    pub(super) fn look(&self) -> Look {
        self.io.borrow().as_ref().map_or(Look::Closed, |io| io.look())
    }

    /// Something of a reply has come since the request was armed; over HTTP/2, since the connection began.
    pub(super) fn received(&self) -> bool {
        self.received.get()
    }

    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault.borrow().clone()
    }

    /// The request could not be written whole. Such a connection is not used again.
    pub(super) fn write_error(&self) -> Option<String> {
        self.write_error.borrow().as_ref().map(ToString::to_string)
    }

    /// HTTP/2: the peer's SETTINGS are in.
    pub(super) fn has_settings(&self) -> bool {
        matches!(&*self.speech.borrow(), Speech::Frames(frames) if frames.has_settings())
    }

    /// HTTP/2: the peer takes no new streams.
    pub(super) fn is_going_away(&self) -> bool {
        matches!(&*self.speech.borrow(), Speech::Frames(frames) if frames.is_going_away())
    }

    fn written(&self, bytes: &[u8]) {
        let progress = self.progress.borrow();
        if let Some(progress) = &*progress {
            progress.enter(Stage::Written);
            if let Some(trace) = &progress.trace {
                trace.borrow_mut().sent.extend_from_slice(bytes);
            }
        }
        let mut speech = self.speech.borrow_mut();
        if progress.is_some() && matches!(*speech, Speech::Silent) {
            *speech = Speech::Head(Box::default());
        }
    }

    fn heard(&self, bytes: &[u8]) -> Result<(), Fault> {
        self.received.set(self.received.get() || !bytes.is_empty());
        let progress = self.progress.borrow();
        if let Some(trace) = progress.as_ref().and_then(|progress| progress.trace.as_ref()) {
            trace.borrow_mut().received.extend_from_slice(bytes);
        }
        let mut speech = self.speech.borrow_mut();
        match &mut *speech {
            Speech::Silent => Err(Fault::Surplus),
            Speech::Body => Ok(()),
            Speech::Head(reader) => {
                let early = self.early.get() || !self.sent.get();
                self.early.set(early);
                let fed = reader.feed(bytes);
                let (Fed::Partial(status) | Fed::Broken(_, status)) = fed else {
                    let Fed::Complete(status) = fed else { unreachable!("the other two are above") };
                    *speech = Speech::Body;
                    if let Some(progress) = &*progress {
                        progress.enter(Stage::Replying);
                        progress.status_line.set(Some(status));
                        if !early {
                            progress.enter(Stage::Replied);
                        }
                    }
                    return if early { Err(Fault::EARLY) } else { Ok(()) };
                };
                if let Some(progress) = &*progress {
                    progress.enter(Stage::Replying);
                    progress.status_line.set(status);
                }
                if let Fed::Broken(rule, _) = fed { Err(Fault::Rule(rule)) } else { Ok(()) }
            }
            Speech::Frames(frames) => {
                let settings = frames.feed(bytes).map_err(Fault::Rule)?;
                if settings {
                    self.settled.notify_one();
                }
                Ok(())
            }
        }
    }
}

impl Drop for Tap {
    /// hyper is done with the connection.
    fn drop(&mut self) {
        self.0.hang_up();
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "closed by this side")
}

impl AsyncRead for Tap {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = &*self.0;
        let before = buf.filled().len();
        let polled = match &mut *wire.io.borrow_mut() {
            Some(io) => Pin::new(&mut **io).poll_read(cx, buf),
            None => return Poll::Ready(Err(gone())),
        };
        let fault = match polled {
            Poll::Pending => {
                let mut reader = wire.reader.borrow_mut();
                if !reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
                    *reader = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
            Poll::Ready(Ok(())) => {
                let bytes = &buf.filled()[before..];
                if bytes.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                match wire.heard(bytes) {
                    Ok(()) => return Poll::Ready(Ok(())),
                    Err(fault) => fault,
                }
            }
            Poll::Ready(Err(error)) => match Fault::of_tls(&error) {
                Some(fault) => fault,
                None => return Poll::Ready(Err(error)),
            },
        };
        wire.fault.borrow_mut().get_or_insert(fault);
        wire.hang_up();
        Poll::Ready(Err(gone()))
    }
}

impl AsyncWrite for Tap {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wire = &*self.0;
        if wire.write_error.borrow().is_some() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let polled = match &mut *wire.io.borrow_mut() {
            Some(io) => Pin::new(&mut **io).poll_write(cx, bytes),
            None => return Poll::Ready(Err(gone())),
        };
        match polled {
            Poll::Ready(Ok(written)) => {
                wire.unsent.set(bytes.len() - written);
                wire.sent.set(false);
                wire.written(&bytes[..written]);
                Poll::Ready(Ok(written))
            }
            // The peer has stopped reading, perhaps because it has answered (414). hyper would drop what came
            // in: let it believe that all is written, and read on until the reply, or the end, is there.
            Poll::Ready(Err(error)) if matches!(*wire.speech.borrow(), Speech::Head(_) | Speech::Body) => {
                wire.write_error.replace(Some(error));
                Poll::Ready(Ok(bytes.len()))
            }
            other => other,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = &*self.0;
        if wire.write_error.borrow().is_some() {
            return Poll::Ready(Ok(()));
        }
        let polled = match &mut *wire.io.borrow_mut() {
            Some(io) => Pin::new(&mut **io).poll_flush(cx),
            None => return Poll::Ready(Err(gone())),
        };
        match polled {
            Poll::Ready(Ok(())) => {
                wire.sent.set(wire.unsent.get() == 0);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) if matches!(*wire.speech.borrow(), Speech::Head(_) | Speech::Body) => {
                wire.write_error.replace(Some(error));
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.0.io.borrow_mut() {
            Some(io) => Pin::new(&mut **io).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}
