//! The HTTP/2 lane over hyper.
//!
//! One connection carries as many exchanges as its peer allows streams. It is used from the peer's first SETTINGS
//! on, which say how many; none for `connect_timeout` is a failed connection, at its beginning as well as later.
//!
//! A written request is never reset because its exchange was dropped: a task of its own waits for the reply and
//! drains it, so that an attacker who makes checks and cancels them does not turn us into a source of `RST_STREAM`.
//! It does not wait for ever: twice the budget of an exchange; nor on a connection that is retired once nobody waits for any
//! reply there: that hangs up, whole, and its place is free.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, Parts, Scheme};
use http::{Request, Uri, Version, header};
use http_body_util::Empty;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, timeout};

use super::body::Body;
use super::conn::Fault;
use super::dial::Link;
use super::gauges::Row;
use super::h1::{headers, read_map, target};
use super::head::{MAX_FIELDS, MAX_HEAD};
use super::pool::{Place, Pool};
use super::tap::{Tap, Wire};
use super::{Broken, Failure, Progress, ReplyHead, RequestHead, Stage};
use crate::decision::Cause;

/// Whatever a peer allows: one connection is not asked to carry more at a time.
const MAX_STREAMS: usize = 1000;
/// Replies are small. What is not read holds back its own stream, not the connection.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// hyper's own limit. A reply over it is an error without a status, and so no refusal: well above [`MAX_HEAD`], which
/// is judged with the status known.
const MAX_HEADER_LIST: u32 = 256 * 1024;
/// Streams that were cut off and are known for a second (about 500 bytes each): what of them is still on its way is thrown away.
/// Beyond that it counts as the peer's fault, of which a connection has a thousand in its life, and then ends for all who are on
/// it. So many cannot be: a body that nobody reads has 100 ms.
const CUT_OFF: usize = 10 * MAX_STREAMS;
/// A connection that died silently under its streams is found out.
const PING_INTERVAL: Duration = Duration::from_secs(5);

type Connection = http2::Connection<TokioIo<Tap>, Empty<Bytes>, LocalExecutor>;

pub(super) struct Conn {
    sender: RefCell<SendRequest<Empty<Bytes>>>,
    /// `None`: it has ended, and whoever was still in line for it has heard so.
    connection: Rc<RefCell<Option<Connection>>>,
    wire: Rc<Wire>,
    /// When it is too old for new streams.
    pub(super) retires_at: Instant,
    /// Since when it is to be replaced.
    pub(super) outdated: Cell<Option<Instant>>,
    pub(super) address: Option<IpAddr>,
    peer: String,
    tls: Option<String>,
    streams: Cell<usize>,
    /// Those of them whose reply nobody waits for.
    abandoned: Cell<usize>,
    used: Cell<bool>,
    /// No streams since then; counted as idle.
    idle: Cell<Option<Instant>>,
    retired: Cell<bool>,
    gauges: Row,
    pool: Weak<Pool>,
}

/// One stream's worth of a connection.
pub(super) struct Seat {
    conn: Rc<Conn>,
    abandoned: bool,
}

#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

impl Conn {
    /// Takes new streams, if not now then when one has ended.
    pub(super) fn is_open(&self) -> bool {
        !self.retired.get()
            && !self.wire.is_gone()
            && !self.wire.is_going_away()
            && !self.sender.borrow().is_closed()
    }

    pub(super) fn is_outdated(&self) -> bool {
        self.outdated.get().is_some()
    }

    pub(super) fn has_room(&self) -> bool {
        self.is_open() && self.streams.get() < self.allowed()
    }

    pub(super) fn seat(self: &Rc<Self>) -> Option<Seat> {
        self.has_room().then(|| {
            if self.streams.replace(self.streams.get() + 1) == 0 {
                self.count_idle(None);
                self.gauges.pipes.add(1);
            }
            self.gauges.piped.add(1);
            Seat { conn: Rc::clone(self), abandoned: false }
        })
    }

    fn allowed(&self) -> usize {
        let connection = self.connection.borrow();
        connection.as_ref().map_or(0, |it| it.current_max_send_streams().min(MAX_STREAMS))
    }

    /// Takes no new streams; closed when the last that somebody waits for has ended.
    pub(super) fn retire(&self) {
        self.retired.set(true);
        self.leave_if_unwanted();
    }

    fn leave_if_unwanted(&self) {
        if self.retired.get() && self.streams.get() == self.abandoned.get() {
            self.count_idle(None);
            self.wire.hang_up();
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.streams.get() == 0 && !self.is_open()
    }

    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.idle.get()
    }

    fn count_idle(&self, since: Option<Instant>) {
        match (self.idle.replace(since), since) {
            (None, Some(_)) => self.gauges.idle.add(1),
            (Some(_), None) => self.gauges.idle.sub(1),
            _ => {}
        }
    }
}

impl Seat {
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.conn.address
    }

    /// Nobody waits for its reply any more.
    fn abandon(&mut self) {
        if !std::mem::replace(&mut self.abandoned, true) {
            self.conn.abandoned.set(self.conn.abandoned.get() + 1);
            self.conn.leave_if_unwanted();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let conn = &self.conn;
        conn.gauges.piped.sub(1);
        conn.streams.set(conn.streams.get() - 1);
        conn.abandoned.set(conn.abandoned.get() - usize::from(self.abandoned));
        if conn.streams.get() == 0 {
            conn.gauges.pipes.sub(1);
        }
        let pool = conn.pool.upgrade();
        if let Some(pool) = &pool {
            pool.offer_seats();
        }
        if conn.streams.get() > 0 {
            return conn.leave_if_unwanted();
        }
        match pool {
            Some(pool) if conn.is_open() && !pool.is_closed() => {
                conn.count_idle(Some(Instant::now()));
                pool.shared_idled();
            }
            _ => conn.retire(),
        }
    }
}

/// Puts hyper on a new connection and waits for the peer's SETTINGS. With the first seat.
pub(super) async fn establish(
    pool: &Rc<Pool>,
    link: Link,
    place: Place,
) -> Result<(Rc<Conn>, Seat), Failure> {
    let label = pool.label();
    let wire = Wire::http2(link.io, place.open());
    let (sender, connection) = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_concurrent_reset_streams(CUT_OFF)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL)
        .handshake(TokioIo::new(wire.tap()))
        .await
        .map_err(|error| Failure::new(Cause::Reset, format!("no HTTP/2 with {label}: {error}")))?;
    let connection = Rc::new(RefCell::new(Some(connection)));
    spawn_local(run(Rc::clone(&connection)));
    let conn = Rc::new(Conn {
        sender: RefCell::new(sender),
        connection,
        wire,
        retires_at: Instant::now() + pool.limits.max_age,
        outdated: Cell::new(None),
        address: link.address,
        peer: link.peer,
        tls: link.tls,
        streams: Cell::new(0),
        abandoned: Cell::new(0),
        used: Cell::new(false),
        idle: Cell::new(None),
        retired: Cell::new(false),
        gauges: pool.gauges().clone(),
        pool: Rc::downgrade(pool),
    });
    let wire = &conn.wire;
    let limit = pool.limits.connect_timeout;
    let allowed = timeout(limit, async {
        while !wire.is_gone() && (!wire.has_settings() || conn.allowed() == 0) {
            wire.settled.notified().await;
            // hyper applies what the tap has only seen.
            yield_now().await;
        }
    });
    let failure = match (allowed.await, wire.fault()) {
        (Err(_), _) => {
            let what =
                if wire.has_settings() { "allows no HTTP/2 stream" } else { "sends no HTTP/2 SETTINGS" };
            Failure::new(Cause::Connect, format!("{label} {what} within {} ms", limit.as_millis()))
        }
        (Ok(()), None) if wire.is_going_away() => {
            Failure::new(Cause::Reset, format!("{label} takes leave as soon as it is connected"))
        }
        (Ok(()), fault) => match conn.seat() {
            Some(seat) => {
                spawn_local(tend(Rc::clone(&conn), limit));
                return Ok((conn, seat));
            }
            None => no_settings(label, fault, wire.received()),
        },
    };
    wire.hang_up();
    Err(failure)
}

/// Polls it to its end. What hyper has not taken from its line by then it never will: who waits there hears so when the
/// connection is dropped, not before.
async fn run(connection: Rc<RefCell<Option<Connection>>>) {
    poll_fn(|cx| match &mut *connection.borrow_mut() {
        // Its error has gone to the exchanges.
        Some(connection) => Pin::new(connection).poll(cx).map(drop),
        None => Poll::Ready(()),
    })
    .await;
    drop(connection.take());
}

fn no_settings(label: &str, fault: Option<Fault>, received: bool) -> Failure {
    match fault {
        Some(Fault::Tls(why)) => Failure::new(Cause::Tls, format!("TLS with {label} failed: {why}")),
        Some(Fault::Rule(_) | Fault::Surplus) => {
            Failure::new(Cause::Protocol, format!("{label} does not speak HTTP/2"))
        }
        None if !received => {
            Failure::new(Cause::Reset, format!("{label} closed before the first byte of HTTP/2"))
        }
        None => Failure::new(Cause::Protocol, format!("{label} closed while HTTP/2 began")),
    }
}

/// Follows a connection to its end, which may be after its pool's: new limits, and none at all for too long.
async fn tend(conn: Rc<Conn>, limit: Duration) {
    loop {
        let settled = conn.wire.settled.notified();
        if conn.allowed() > 0 {
            settled.await;
        } else if timeout(limit, settled).await.is_err() {
            conn.retire();
        }
        yield_now().await;
        let pool = conn.pool.upgrade();
        if conn.wire.is_gone() {
            conn.count_idle(None);
            if let Some(pool) = pool {
                pool.forget_shared(&conn);
            }
            return;
        }
        if conn.wire.is_going_away() {
            conn.retire();
        }
        if let Some(pool) = pool {
            pool.offer_seats();
        }
    }
}

pub(super) async fn exchange(
    mut seat: Seat,
    origin: &(Scheme, Authority),
    head: &dyn RequestHead,
    budget: Duration,
    progress: &Rc<Progress>,
    read: impl Fn(&ReplyHead<'_>),
) -> Result<Body, Broken> {
    let request = request(origin, head)?;
    let conn = Rc::clone(&seat.conn);
    let Some(pool) = conn.pool.upgrade() else { return Err(Broken::Unsent) };
    let reused = conn.used.replace(true);
    if let Some(trace) = &progress.trace {
        Link::describe(&conn.peer, conn.tls.as_deref(), true, reused, &mut trace.borrow_mut());
    }
    pool.gauges().exchanges.add(1);
    // From here on it may be on the wire at any time; hyper does not say.
    progress.enter(Stage::Written);
    let answer = conn.sender.borrow_mut().try_send_request(request);
    let (mut tell, told) = oneshot::channel();
    spawn_local(async move {
        let mut answer = pin!(timeout(budget * 2, answer));
        let outcome = poll_fn(|cx| {
            let outcome = answer.as_mut().poll(cx);
            if outcome.is_pending() && !seat.abandoned && tell.poll_closed(cx).is_ready() {
                seat.abandon();
            }
            outcome
        })
        .await;
        if let Err((Ok(Ok(late)), seat)) = tell.send((outcome, seat)) {
            Body::http2(late.into_body(), seat).discard();
        }
    });
    let label = pool.label();
    let Ok((outcome, seat)) = told.await else {
        return Err(Failure::new(Cause::Internal, "the task of an HTTP/2 exchange died").into());
    };
    match outcome {
        Ok(Ok(reply)) => {
            let (parts, incoming) = reply.into_parts();
            progress.enter(Stage::Replying);
            let status = parts.status.as_u16();
            if !(200..=599).contains(&status) {
                let detail = format!("the reply of {label} has a status outside 200 to 599");
                return Err(Failure::new(Cause::Protocol, detail).into());
            }
            progress.status_line.set(Some(status));
            let size: usize =
                parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
            let rule = if parts.headers.len() > MAX_FIELDS {
                Some("has more than 64 headers")
            } else {
                (size > MAX_HEAD).then_some("has a header section over 16 KiB")
            };
            if let Some(rule) = rule {
                return Err(Failure::new(Cause::Protocol, format!("the reply of {label} {rule}")).into());
            }
            progress.enter(Stage::Replied);
            read_map(status, &parts.headers, read);
            Ok(Body::http2(incoming, seat))
        }
        Ok(Err(mut error)) => {
            if error.take_message().is_some() {
                Err(Broken::Unsent)
            } else {
                Err(explain(label, &conn, error.error(), reused).into())
            }
        }
        Err(_) => Err(Failure::new(Cause::Timeout, format!("{label} has not answered")).into()),
    }
}

fn request(origin: &(Scheme, Authority), head: &dyn RequestHead) -> Result<Request<Empty<Bytes>>, Failure> {
    let mut uri = Parts::default();
    uri.scheme = Some(origin.0.clone());
    uri.authority = Some(origin.1.clone());
    uri.path_and_query = Some(target(head)?);
    let uri = Uri::from_parts(uri)
        .map_err(|error| Failure::new(Cause::Internal, format!("the request target is unfit: {error}")))?;
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    headers(head, |name, value| {
        // `:authority` says it.
        if name != header::HOST {
            request.headers_mut().append(name, value);
        }
    })?;
    Ok(request)
}

fn explain(label: &str, conn: &Conn, error: &hyper::Error, reused: bool) -> Failure {
    match conn.wire.fault() {
        Some(Fault::Tls(why)) => return Failure::new(Cause::Tls, format!("TLS with {label} failed: {why}")),
        Some(Fault::Rule(rule)) => {
            return Failure::new(Cause::Protocol, format!("the reply of {label} {rule}"));
        }
        Some(Fault::Surplus) | None => {}
    }
    if error.is_user() {
        // It was to be opened when the connection took leave, and may have been sent.
        return Failure::new(Cause::Reset, format!("{label} takes no more on its connection"));
    }
    let cause = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    let Some(cause) = cause else {
        let mut failure =
            Failure::new(Cause::Reset, format!("{label} closed before the first byte of an answer"));
        failure.retry_is_safe = reused;
        return failure;
    };
    let rejected = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
    // h2 gives this error to the streams above GOAWAY's last alone, as long as GOAWAY says no error.
    let beyond = cause.is_go_away() && cause.reason() == Some(h2::Reason::NO_ERROR);
    if cause.is_remote() && (rejected || beyond) {
        let mut failure = Failure::new(Cause::Reset, format!("{label} did not take the HTTP/2 stream"));
        failure.retry_is_safe = true;
        return failure;
    }
    if cause.is_io() {
        let mut failure =
            Failure::new(Cause::Reset, format!("{label} closed before the first byte of an answer"));
        failure.retry_is_safe = reused;
        return failure;
    }
    // Its text alone: that of the whole error has GOAWAY's debug data, in which a peer may repeat the query.
    let reason = cause.reason();
    let reason = reason.as_ref().map_or("no reason", h2::Reason::description);
    if cause.is_remote() {
        return Failure::new(Cause::Reset, format!("{label} reset the HTTP/2 stream: {reason}"));
    }
    Failure::new(Cause::Protocol, format!("the reply of {label} is malformed HTTP/2: {reason}"))
}
