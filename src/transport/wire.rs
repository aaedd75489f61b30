//! The HTTP/1.1 lane of our own: over any stream (TCP, Unix socket, TLS), one write and one read a check.
//!
//! No task of its own: the exchange itself writes and reads. The request goes out in one write, and on a plain socket right
//! behind those of other exchanges (`send_queue.rs`); what does not fit is kept by its exchange. The reply is
//! read into a shared buffer and understood where it lies (`reply.rs`); if it does not come as a whole, the parts go
//! through `head.rs`. Only the end of the body is looked for (`framing.rs`), nothing of it is kept unless
//! `verdict.body` wants it. In steady state nothing is allocated.
//!
//! Strict: a reply that breaks a rule is no reply, and its connection is closed. Bytes that nobody asked for are found
//! before a request goes out ([`Conn::glance`], by the pool; on plain sockets, of which that only asks what this process
//! knows, once more when it is sent), and behind a reply when that is read; either way the connection is closed. A reply that begins before the whole request was sent is read for its
//! status line only ([`Fault::EARLY`]). Race window: bytes that come after that look and before the reply cannot be told from
//! an early answer. A plain connection is looked at together with all others before the requests go out that
//! were ready at the same time, 64 at most; a peer that can aim between the two can answer the request as well.
//!
//! [`Conn::glance`]: super::conn::Conn::glance

mod fit;
mod framing;
mod held;
pub(super) mod pipe;
mod reply;
mod send_queue;

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::ReadBuf;
use tokio::task::spawn_local;
use tokio::time::timeout;

use fit::is_fit;
use framing::{BadChunk, Framing};
use held::Spares;
use reply::{Section, parse};
use send_queue::{Posted, Returned, SendQueue, Sent};

use super::body::{Body, BodyError, DRAIN_BYTES, DRAIN_TIME};
use super::conn::{Conn, Ending, Fault, Speech, probe};
use super::dial::{Io, Link, Look};
use super::head::{Fed, HeadReader, MAX_HEAD};
use super::pool::{Lease, Place};
use super::{Broken, Failure, Progress, ReplyHead, RequestHead, Stage};
use crate::decision::Cause;

/// A connection of this lane: a socket, and its place in the pool.
pub(super) struct Stream {
    pub(super) io: Box<dyn Io>,
    /// After the socket: its place is free when that is closed.
    _place: Place,
}

/// What the connections of a thread share.
pub(super) struct Desk {
    /// This and the next are used from beginning to end within one poll.
    request: RefCell<Vec<u8>>,
    reply: RefCell<Box<[u8]>>,
    /// For what waits on pipes.
    spares: Spares,
    sends: SendQueue,
}

impl Default for Desk {
    fn default() -> Self {
        let reply = RefCell::new(vec![0; 2 * MAX_HEAD].into());
        Self { request: RefCell::default(), reply, spares: Spares::default(), sends: SendQueue::default() }
    }
}

pub(super) fn establish(link: Link, place: Place, max_age: Duration) -> Box<Conn> {
    let stream = Stream { io: link.io, _place: place.open() };
    Conn::new(Speech::Wire(stream), link.address, link.peer, link.tls, max_age)
}

fn stream(lease: &mut Lease) -> &mut Stream {
    match &mut lease.conn_mut().speech {
        Speech::Wire(stream) => stream,
        Speech::Hyper(_) => unreachable!("the lane of a connection is chosen where it is established"),
    }
}

pub(super) async fn exchange(
    mut lease: Lease,
    head: &dyn RequestHead,
    progress: &Rc<Progress>,
    read: impl Fn(&ReplyHead<'_>),
) -> Result<Body, Broken> {
    let reused = lease.conn().is_old();
    lease.conn().describe(progress);
    let desk = Rc::clone(&lease.pool().desk);
    let most = lease.pool().limits.max_body;
    let mut talk = Talk {
        reused,
        sending: Sending::Begin,
        written: false,
        received: false,
        early: false,
        awaits: false,
        reader: None,
    };
    lease.ask();
    let outcome = poll_fn(|cx| {
        let stream = &mut *stream(&mut lease).io;
        talk.hear();
        talk.awaits = talk.is_sent();
        if talk.is_cut() {
            // What has come by now came before the rest is sent.
            let heard = talk.receive(cx, stream, &desk, progress, most, &read);
            if heard.is_ready() {
                return heard;
            }
        }
        if !talk.awaits {
            ready!(talk.send(cx, stream, &desk, head, progress))?;
        }
        talk.receive(cx, stream, &desk, progress, most, &read)
    });
    match outcome.await {
        Ok(Received { framing, persistent, kept }) => {
            let traced = progress.trace.is_some().then(|| Rc::clone(progress));
            let rest = Rest { lease, desk, framing, persistent, kept, most, traced };
            Ok(Body::Wire(rest))
        }
        Err(Trouble::Unfit(failure)) => Err(failure.into()),
        Err(Trouble::Ended(ending)) => Err(ending.explain(lease.pool().label())),
    }
}

/// What `read` makes of a whole header section, for who measures that.
#[cfg(feature = "steps")]
pub(crate) fn read_section<T>(bytes: &[u8], read: impl FnOnce(&ReplyHead<'_>) -> T) -> Option<T> {
    parse(bytes, read).map(|(_, made)| made)
}

/// One request and its reply.
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one exchange")]
struct Talk {
    reused: bool,
    sending: Sending,
    /// The first byte was handed to the system.
    written: bool,
    /// Something of the reply has come.
    received: bool,
    /// Some of it came before the whole request was sent.
    early: bool,
    /// This is a wake-up: what was waited for should be there.
    awaits: bool,
    /// The header section, where it did not come as a whole.
    reader: Option<Box<HeadReader>>,
}

enum Sending {
    Begin,
    /// It goes out with others.
    Posted(Posted),
    /// It was to, and the system did not take all of it.
    Returned(Returned),
    /// So much of these is sent.
    Rest(Vec<u8>, usize),
    Flushing,
    Done,
    /// The peer has stopped reading, perhaps because it has answered (414).
    Refused(String),
}

enum Trouble {
    /// The request would not be one.
    Unfit(Failure),
    Ended(Ending),
}

/// A complete header section, and as much of the body as came with it.
struct Received {
    framing: Result<Framing, BadChunk>,
    persistent: bool,
    kept: Vec<u8>,
}

impl Talk {
    /// Nothing more can be.
    fn is_sent(&self) -> bool {
        matches!(self.sending, Sending::Done | Sending::Refused(_))
    }

    /// Something of it was to be sent, and not all of it was.
    fn is_cut(&self) -> bool {
        matches!(self.sending, Sending::Returned(_) | Sending::Rest(..) | Sending::Flushing)
    }

    /// Whether what was posted has gone out by now.
    fn hear(&mut self) {
        if let Sending::Posted(posted) = &self.sending {
            match posted.outcome() {
                Sent::Not => {}
                Sent::Whole => (self.written, self.sending) = (true, Sending::Done),
                Sent::Returned(returned) => {
                    self.written = matches!(returned.written, Some(Ok(1..)));
                    self.sending = Sending::Returned(returned);
                }
            }
        }
    }

    /// Ready as soon as a reply may come: something was sent, or is about to be.
    fn send(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut dyn Io,
        desk: &Rc<Desk>,
        head: &dyn RequestHead,
        progress: &Rc<Progress>,
    ) -> Poll<Result<(), Trouble>> {
        loop {
            let polled = match &mut self.sending {
                Sending::Posted(_) | Sending::Done | Sending::Refused(_) => return Poll::Ready(Ok(())),
                Sending::Flushing => Pin::new(&mut *io).poll_flush(cx).map_ok(|()| None),
                Sending::Begin => {
                    if let Some(writer) = io.write_half() {
                        let write = |out: &mut Vec<u8>| write_request(head, out);
                        let posted = Posted::new(desk, writer, progress, write);
                        self.sending = Sending::Posted(posted.map_err(Trouble::Unfit)?);
                        self.hear();
                        continue;
                    }
                    let request = &mut *desk.request.borrow_mut();
                    request.clear();
                    write_request(head, request).map_err(Trouble::Unfit)?;
                    let polled = Pin::new(&mut *io).poll_write(cx, request);
                    let sent = if let Poll::Ready(Ok(sent)) = polled { sent } else { 0 };
                    if sent > 0 {
                        progress.send(request);
                    }
                    self.sending = match sent == request.len() {
                        true => Sending::Flushing,
                        false => Sending::Rest(request.clone(), sent),
                    };
                    polled.map_ok(Some)
                }
                Sending::Returned(Returned { request, written }) => {
                    let (request, written) = (std::mem::take(request), written.take());
                    let sent = if let Some(Ok(sent)) = written { sent } else { 0 };
                    self.sending = Sending::Rest(request, sent);
                    let Some(written) = written else {
                        // There was no room, or something had come by then.
                        let fault = match probe(io) {
                            Look::Nothing | Look::Unknown => continue,
                            Look::Surplus => Some(Fault::Surplus),
                            Look::Closed => None,
                        };
                        return Poll::Ready(Err(Trouble::Ended(self.ending(fault))));
                    };
                    Poll::Ready(written.map(Some))
                }
                Sending::Rest(request, sent) => {
                    let polled = Pin::new(&mut *io).poll_write(cx, &request[*sent..]);
                    if let Poll::Ready(Ok(more)) = polled {
                        if *sent == 0 && more > 0 {
                            progress.send(request);
                        }
                        let all = *sent + more == request.len();
                        match &mut self.sending {
                            Sending::Rest(_, sent) if !all => *sent += more,
                            sending => *sending = Sending::Flushing,
                        }
                    }
                    polled.map_ok(Some)
                }
            };
            match polled {
                Poll::Ready(Ok(None)) => self.sending = Sending::Done,
                Poll::Ready(Ok(Some(0))) => return Poll::Ready(Err(Trouble::Ended(self.ending(None)))),
                Poll::Ready(Ok(_)) => self.written = true,
                Poll::Ready(Err(error)) if self.written => self.sending = Sending::Refused(error.to_string()),
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(Trouble::Ended(self.ending(Fault::of_tls(&error)))));
                }
                // Whoever answers a request that is not all there may have stopped reading.
                Poll::Pending if self.written => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn receive(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut dyn Io,
        desk: &Desk,
        progress: &Progress,
        most: usize,
        read: impl Fn(&ReplyHead<'_>),
    ) -> Poll<Result<Received, Trouble>> {
        loop {
            let room = &mut *desk.reply.borrow_mut();
            let mut buf = ReadBuf::new(room);
            let at_once = if std::mem::take(&mut self.awaits) { io.read_now(&mut buf) } else { None };
            let polled = match at_once {
                Some(read) => read,
                None => ready!(Pin::new(&mut *io).poll_read(cx, &mut buf)),
            };
            let bytes = match polled {
                Ok(()) if buf.filled().is_empty() => {
                    return Poll::Ready(Err(Trouble::Ended(self.ending(None))));
                }
                Ok(()) => buf.filled(),
                Err(error) => {
                    return Poll::Ready(Err(Trouble::Ended(self.ending(Fault::of_tls(&error)))));
                }
            };
            self.received |= !bytes.is_empty();
            self.early |= !matches!(self.sending, Sending::Done);
            if let Some(trace) = &progress.trace {
                trace.borrow_mut().received.extend_from_slice(bytes);
            }
            // Of a request that has not gone out nobody knows.
            if progress.stage() < Stage::Written {
                return Poll::Ready(Err(Trouble::Ended(self.ending(Some(Fault::Surplus)))));
            }
            progress.enter(Stage::Replying);
            let Some((section, body)) = self.understand(bytes, progress, &read)? else { continue };
            progress.status_line.set(Some(section.status));
            if self.early {
                return Poll::Ready(Err(Trouble::Ended(self.ending(Some(Fault::EARLY)))));
            }
            progress.enter(Stage::Replied);
            let (mut framing, mut kept) = (section.framing, Vec::new());
            let eaten = framing.eat(body, |data| keep(&mut kept, data, most));
            // Bytes behind the end of the body: nobody asked for them.
            let persistent = section.persistent && eaten == Ok(body.len());
            return Poll::Ready(Ok(Received { framing: eaten.map(|_| framing), persistent, kept }));
        }
    }

    /// The header section, once it is complete and read, and what comes behind it.
    fn understand<'a>(
        &mut self,
        bytes: &'a [u8],
        progress: &Progress,
        read: impl Fn(&ReplyHead<'_>),
    ) -> Result<Option<(Section, &'a [u8])>, Trouble> {
        if self.reader.is_none()
            && let Some((section, ())) = parse(bytes, &read)
        {
            return Ok(Some((section, &bytes[section.len..])));
        }
        let reader = self.reader.get_or_insert_default();
        match reader.feed(bytes) {
            Fed::Partial(status) => {
                progress.status_line.set(status);
                Ok(None)
            }
            Fed::Broken(rule, status) => {
                progress.status_line.set(status);
                Err(Trouble::Ended(self.ending(Some(Fault::Rule(rule)))))
            }
            Fed::Complete(status) => {
                progress.status_line.set(Some(status));
                let body = &bytes[bytes.len() - reader.rest()..];
                match parse(reader.section(), read) {
                    Some((section, ())) => Ok(Some((section, body))),
                    None => Err(Trouble::Ended(self.ending(Some(Fault::Rule("cannot be read"))))),
                }
            }
        }
    }

    fn ending(&self, fault: Option<Fault>) -> Ending {
        let write_error = match &self.sending {
            Sending::Refused(why) => Some(why.clone()),
            _ => None,
        };
        let (reused, written, received) = (self.reused, self.written, self.received);
        Ending { fault, reused, written, received, write_error, malformed: None }
    }
}

/// Appends the whole head, `GET` to the empty line.
fn write_request(head: &dyn RequestHead, out: &mut Vec<u8>) -> Result<(), Failure> {
    let begin = out.len();
    let mut written = head.write_http1(out);
    written.target_end -= begin;
    let unfit = || Failure::new(Cause::Internal, "the request has a byte that no request may have");
    is_fit(&out[begin..], written).then_some(()).ok_or_else(unfit)
}

/// At most one byte more than `most`: that there is more has to be known.
fn keep(kept: &mut Vec<u8>, data: &[u8], most: usize) {
    if most > 0 {
        let room = (most + 1).saturating_sub(kept.len());
        kept.extend_from_slice(&data[..room.min(data.len())]);
    }
}

/// The rest of a reply: its body, as far as it has not come yet.
pub(crate) struct Rest {
    lease: Lease,
    desk: Rc<Desk>,
    framing: Result<Framing, BadChunk>,
    /// Another request may follow.
    persistent: bool,
    kept: Vec<u8>,
    most: usize,
    traced: Option<Rc<Progress>>,
}

impl Rest {
    pub(super) async fn collect(mut self, limit: usize) -> Result<Bytes, BodyError> {
        while !self.is_complete()? && self.kept.len() <= limit && self.more().await? > 0 {}
        if self.kept.len() > limit {
            return Err(BodyError::TooLong);
        }
        let kept = std::mem::take(&mut self.kept);
        self.settle();
        Ok(kept.into())
    }

    pub(super) fn discard(mut self) {
        match self.framing {
            Err(BadChunk) => {}
            Ok(framing) if framing.is_complete() => self.settle(),
            _ => {
                self.most = 0;
                spawn_local(async move {
                    if let Ok(Ok(())) = timeout(DRAIN_TIME, self.drain()).await {
                        self.settle();
                    }
                });
            }
        }
    }

    async fn drain(&mut self) -> Result<(), BodyError> {
        let mut left = DRAIN_BYTES;
        while !self.is_complete()? {
            match self.more().await? {
                0 => return Ok(()),
                more => left = left.checked_sub(more).ok_or(BodyError::TooLong)?,
            }
        }
        Ok(())
    }

    fn is_complete(&self) -> Result<bool, BodyError> {
        self.framing.map(|framing| framing.is_complete()).map_err(|BadChunk| BodyError::Cut)
    }

    /// What comes next; nothing: the connection, and with it the body, has ended.
    async fn more(&mut self) -> Result<usize, BodyError> {
        let Self { lease, desk, framing, persistent, kept, most, traced } = self;
        poll_fn(|cx| {
            let room = &mut *desk.reply.borrow_mut();
            let mut buf = ReadBuf::new(room);
            let read = ready!(Pin::new(&mut *stream(lease).io).poll_read(cx, &mut buf));
            let bytes = buf.filled();
            if let Some(trace) = traced.as_ref().and_then(|progress| progress.trace.as_ref()) {
                trace.borrow_mut().received.extend_from_slice(bytes);
            }
            let known = framing.as_mut().map_err(|_| BodyError::Cut)?;
            match read {
                Ok(()) if bytes.is_empty() => {
                    *persistent = false;
                    let ends = matches!(known, Framing::UntilClose);
                    return Poll::Ready(if ends { Ok(0) } else { Err(BodyError::Cut) });
                }
                Ok(()) => {}
                Err(_) => return Poll::Ready(Err(BodyError::Cut)),
            }
            match known.eat(bytes, |data| keep(kept, data, *most)) {
                Ok(eaten) => *persistent &= eaten == bytes.len(),
                Err(bad) => *framing = Err(bad),
            }
            Poll::Ready(Ok(bytes.len()))
        })
        .await
    }

    /// The body has been read to its end.
    fn settle(self) {
        if self.persistent && self.is_complete() == Ok(true) {
            self.lease.give_back();
        }
    }
}
