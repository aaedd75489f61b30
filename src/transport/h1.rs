//! The HTTP/1.1 lane over hyper.
//!
//! The request goes out as its head gives it: target byte for byte, names in title case (as the vendor writes
//! them), order kept, nothing added. The tap under hyper decides what is a reply; hyper parses it.

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::Empty;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;

use super::body::Body;
use super::conn::{Conn, Ending, Speech};
use super::dial::Link;
use super::head::{MAX_FIELDS, MAX_HEAD};
use super::pool::{Lease, Place, Pool};
use super::tap::Wire;
use super::{Broken, Failure, Progress, ReplyHead, RequestHead, Stage};
use crate::decision::Cause;

/// hyper on a connection, as the pool keeps it.
pub(super) struct Speaker {
    pub(super) sender: SendRequest<Empty<Bytes>>,
    pub(super) wire: Rc<Wire>,
}

/// Which connection; outlives it.
pub(super) struct Id(Rc<Wire>);

impl Id {
    pub(super) fn names(&self, conn: &Conn) -> bool {
        matches!(&conn.speech, Speech::Hyper(speaker) if Rc::ptr_eq(&speaker.wire, &self.0))
    }
}

impl Speaker {
    pub(super) fn is_alive(&self, unused: bool) -> bool {
        let ready = if unused { !self.sender.is_closed() } else { self.sender.is_ready() };
        ready && !self.wire.is_gone() && self.wire.write_error().is_none()
    }
}

/// Puts hyper on a new connection.
pub(super) async fn establish(pool: &Rc<Pool>, link: Link, place: Place) -> Result<Box<Conn>, Failure> {
    let wire = Wire::http1(link.io, place.open());
    let (sender, connection) = http1::Builder::new()
        .writev(false)
        .title_case_headers(true)
        // The tap has refused what exceeds these; they only have to be large enough.
        .max_headers(MAX_FIELDS)
        .max_buf_size(2 * MAX_HEAD)
        .handshake(TokioIo::new(wire.tap()))
        .await
        .map_err(|error| Failure::new(Cause::Internal, format!("hyper refused a connection: {error}")))?;
    let (weak, id) = (Rc::downgrade(pool), Id(Rc::clone(&wire)));
    spawn_local(async move {
        // Its error has gone to the exchange, if there was one.
        let _ = connection.await;
        if let Some(pool) = weak.upgrade() {
            pool.forget(&id);
        }
    });
    let speech = Speech::Hyper(Speaker { sender, wire });
    Ok(Conn::new(speech, link.address, link.peer, link.tls, pool.limits.max_age))
}

pub(super) async fn exchange(
    mut lease: Lease,
    head: &dyn RequestHead,
    progress: &Rc<Progress>,
    read: impl Fn(&ReplyHead<'_>),
) -> Result<Body, Broken> {
    let request = request(head)?;
    let reused = lease.conn().is_old();
    lease.conn().describe(progress);
    let speaker = speaker(lease.ask());
    speaker.wire.arm(progress);
    let sent = speaker.sender.try_send_request(request);
    match sent.await {
        Ok(reply) => {
            let (parts, incoming) = reply.into_parts();
            read_map(parts.status.as_u16(), &parts.headers, read);
            Ok(Body::http1(incoming, lease))
        }
        Err(error) => Err(explain(&mut lease, error.error(), reused, progress)),
    }
}

/// hyper, on a connection that it speaks on.
pub(super) fn speaker(conn: &mut Conn) -> &mut Speaker {
    match &mut conn.speech {
        Speech::Hyper(speaker) => speaker,
        Speech::Wire(_) => unreachable!("the lane of a connection is chosen where it is established"),
    }
}

/// Has a header section read that hyper has parsed.
pub(super) fn read_map(status: u16, headers: &HeaderMap, read: impl Fn(&ReplyHead<'_>)) {
    let headers: Vec<(&[u8], &[u8])> =
        headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())).collect();
    read(&ReplyHead { status, headers: &headers });
}

fn request(head: &dyn RequestHead) -> Result<Request<Empty<Bytes>>, Failure> {
    let target = target(head)?;
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = target.into();
    headers(head, |name, value| {
        request.headers_mut().append(name, value);
    })?;
    Ok(request)
}

/// The request target. `http` keeps every byte that a target may hold.
pub(super) fn target(head: &dyn RequestHead) -> Result<http::uri::PathAndQuery, Failure> {
    let mut target = Vec::with_capacity(512);
    head.write_target(&mut target);
    if target.contains(&b'#') {
        // `http` would take it for the beginning of a fragment and drop the rest.
        target = target
            .iter()
            .flat_map(|byte| if *byte == b'#' { b"%23" } else { std::slice::from_ref(byte) })
            .copied()
            .collect();
    }
    http::uri::PathAndQuery::from_maybe_shared(Bytes::from(target))
        .map_err(|error| Failure::new(Cause::Internal, format!("the request target is unfit: {error}")))
}

pub(super) fn headers(
    head: &dyn RequestHead,
    mut each: impl FnMut(HeaderName, HeaderValue),
) -> Result<(), Failure> {
    let mut unfit = None;
    head.each_header(&mut |name, value| match (
        HeaderName::from_bytes(name.as_bytes()),
        HeaderValue::from_bytes(value),
    ) {
        (Ok(name), Ok(value)) => each(name, value),
        _ => unfit = Some(Failure::new(Cause::Internal, format!("the request header {name} is unfit"))),
    });
    unfit.map_or(Ok(()), Err)
}

/// Why there is no reply: what the tap saw, not what hyper made of it.
fn explain(lease: &mut Lease, error: &hyper::Error, reused: bool, progress: &Progress) -> Broken {
    let wire = Rc::clone(&speaker(lease.conn_mut()).wire);
    Ending {
        fault: wire.fault(),
        reused,
        written: progress.stage() >= Stage::Written,
        received: wire.received(),
        write_error: wire.write_error(),
        malformed: (progress.stage() >= Stage::Replied).then(|| error.to_string()),
    }
    .explain(lease.pool().label())
}
