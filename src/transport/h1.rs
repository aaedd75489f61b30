//! The HTTP/1.1 lane over hyper.
//!
//! The request goes out as its head gives it: target byte for byte, names in title case (as the vendor writes
//! them), order kept, nothing added. The tap under hyper decides what is a reply; hyper parses it.

use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use http_body_util::Empty;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::body::Body;
use super::dial::Link;
use super::head::{MAX_FIELDS, MAX_HEAD};
use super::pool::{Lease, Place, Pool};
use super::tap::{Fault, Wire};
use super::{Broken, Failure, Progress, Reply, RequestHead};
use crate::decision::Cause;

pub(super) struct Conn {
    pub(super) sender: SendRequest<Empty<Bytes>>,
    pub(super) wire: Rc<Wire>,
    pub(super) born: Instant,
    /// Requests handed to it.
    pub(super) uses: u64,
    pub(super) address: Option<IpAddr>,
    peer: String,
    tls: Option<String>,
}

/// Which connection; outlives it.
pub(super) struct Id(Rc<Wire>);

impl Conn {
    pub(super) fn is(&self, id: &Id) -> bool {
        Rc::ptr_eq(&self.wire, &id.0)
    }

    /// Takes a request now, as far as can be known without reading.
    pub(super) fn is_alive(&self) -> bool {
        let ready = if self.uses == 0 { !self.sender.is_closed() } else { self.sender.is_ready() };
        ready && !self.wire.is_gone() && self.wire.write_error().is_none()
    }
}

/// Puts hyper on a new connection.
pub(super) async fn establish(pool: &Rc<Pool>, link: Link, place: Place) -> Result<Conn, Failure> {
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
    let born = Instant::now();
    Ok(Conn { sender, wire, born, uses: 0, address: link.address, peer: link.peer, tls: link.tls })
}

pub(super) async fn exchange(
    mut lease: Lease,
    head: &dyn RequestHead,
    progress: &Rc<Progress>,
) -> Result<Reply, Broken> {
    let request = request(head)?;
    let reused = lease.conn().uses > 0;
    if let Some(trace) = &progress.trace {
        let conn = lease.conn();
        Link::describe(&conn.peer, conn.tls.as_deref(), false, reused, &mut trace.borrow_mut());
    }
    let conn = lease.ask();
    conn.wire.arm(progress);
    let sent = conn.sender.try_send_request(request);
    match sent.await {
        Ok(reply) => {
            let (parts, incoming) = reply.into_parts();
            let body = Body::http1(incoming, lease);
            Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body })
        }
        Err(error) => Err(explain(&lease, error.error(), reused, progress)),
    }
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
fn explain(lease: &Lease, error: &hyper::Error, reused: bool, progress: &Progress) -> Broken {
    let label = lease.pool().label();
    let wire = &lease.conn().wire;
    let written = progress.stage.get() >= super::Stage::Written;
    match wire.fault() {
        Some(Fault::Rule(rule)) => {
            return Failure::new(Cause::Protocol, format!("the reply of {label} {rule}")).into();
        }
        Some(Fault::Tls(why)) => {
            return Failure::new(Cause::Tls, format!("TLS with {label} failed: {why}")).into();
        }
        // On a used connection they were the end of something older; another connection will do.
        Some(Fault::Surplus) if !reused => {
            return Failure::new(Cause::Protocol, format!("{label} sent bytes before it was asked")).into();
        }
        Some(Fault::Surplus) | None => {}
    }
    if reused && !written {
        return Broken::Unsent;
    }
    if wire.received() == 0 {
        let detail = match wire.write_error() {
            Some(why) => format!("{label} closed while the request was being written ({why})"),
            None => format!("{label} closed before the first byte of an answer"),
        };
        let mut failure = Failure::new(Cause::Reset, detail);
        failure.retry_is_safe = reused;
        return failure.into();
    }
    let detail = if progress.stage.get() < super::Stage::Replied {
        format!("{label} closed within the header section of its reply")
    } else {
        format!("the reply of {label} is malformed: {error}")
    };
    Failure::new(Cause::Protocol, detail).into()
}
