//! The real connections: TCP by Happy Eyeballs (RFC 8305), Unix sockets, TLS.
//!
//! `connect_timeout` is the time of one attempt: TCP and the TLS handshake on it together (and, before them, of
//! waiting for a first answer of the resolver). With several addresses each attempt has its own (`race.rs`); the
//! first that connects goes on to TLS. A descriptor, port or buffer that the system does not have is our own failure
//! (OVERLOAD), not the backend's, and so is a name that could not be looked up for want of one.

mod race;

use std::cell::OnceCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(super) use race::interleave;
use race::race;

use super::dial::{Dial, Dialing, Io, Link, Look, Watch};
use super::reactor::{Reactor, peek};
use super::records::Records;
use super::{Among, Failure, Shared, Stage, tls};
use crate::config::{Address, BackendUrl, HttpLane, HttpVersion, Scheme};
use crate::decision::Cause;

/// Between two knocks at a Unix socket whose backlog is full.
const BACKLOG_DELAY: Duration = Duration::from_millis(5);

pub(super) struct Connector {
    shared: Arc<Shared>,
    /// Of the plain ones, once there is one.
    reactor: Rc<OnceCell<Rc<Reactor>>>,
    /// Of each endpoint: attempts beside those that have a place in its pool.
    spares: Rc<[Semaphore]>,
}

/// The fewest of them.
const SPARES: usize = 16;

impl Connector {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let settings = &shared.settings;
        let connections = settings.pool.max_connections / settings.threads_io.max(1);
        let spare = |_| Semaphore::new((connections / 4).max(SPARES));
        let spares = settings.backends.iter().map(spare).collect();
        Self { shared, reactor: Rc::default(), spares }
    }
}

impl Dial for Connector {
    fn dial(&self, endpoint: usize, among: Among, watch: Rc<Watch>) -> Dialing {
        let (shared, reactor) = (Arc::clone(&self.shared), Rc::clone(&self.reactor));
        let spares = Rc::clone(&self.spares);
        Box::pin(async move {
            let url = &shared.settings.backends[endpoint];
            match &url.address {
                Address::Tcp { host, port } => {
                    tcp(&shared, &reactor, &spares[endpoint], endpoint, (host, *port), &among, &watch).await
                }
                Address::Unix(path) => unix(&shared, &reactor, url, path, &watch).await,
            }
        })
    }

    fn is_current(&self, endpoint: usize, peer: IpAddr) -> bool {
        match (&self.shared.settings.backends[endpoint].address, &self.shared.names) {
            (Address::Tcp { host, .. }, Some(names)) => names.is_current(host, peer),
            _ => true,
        }
    }

    fn look_around(&self) -> bool {
        self.reactor.get().is_some_and(|reactor| reactor.look_around())
    }
}

async fn tcp(
    shared: &Shared,
    reactor: &OnceCell<Rc<Reactor>>,
    spares: &Semaphore,
    endpoint: usize,
    (host, port): (&str, u16),
    among: &Among,
    watch: &Watch,
) -> Result<Link, Failure> {
    let url = &shared.settings.backends[endpoint];
    let limit = shared.settings.connect_timeout;
    let label = url.label();
    let literal = host.parse::<IpAddr>().ok();
    let mut addresses = match (literal, &shared.names) {
        (Some(address), _) => vec![address],
        (None, Some(names)) => {
            watch.enter(Stage::Resolving);
            let found = timeout_at(Instant::now() + limit, names.addresses(host)).await;
            let found = found.unwrap_or_else(|_| {
                Err(match shortage() {
                    Some(error) => (Cause::Overload, error.to_string()),
                    None => (Cause::Resolve, "the resolver does not answer".to_owned()),
                })
            });
            found.map_err(|(cause, why)| Failure::new(cause, format!("cannot resolve {host}: {why}")))?
        }
        (None, None) => return Err(Failure::new(Cause::Resolve, format!("cannot resolve {host}"))),
    };
    if addresses.iter().any(|&address| among.takes(Some(address))) {
        addresses.retain(|&address| among.takes(Some(address)));
    }
    watch.enter(Stage::Connecting);
    let unreachable = |peer: SocketAddr, error: &io::Error| {
        if !is_local(error) {
            shared.addresses[endpoint].unreachable(peer.ip(), Cause::Connect.name());
        }
    };
    let enough = shared.settings.timeout / 2;
    let attempt = |peer: SocketAddr| {
        let trying = Trying { peer, began: Instant::now(), enough, watch, unreachable: &unreachable };
        async move {
            let _trying = trying;
            open(peer).await
        }
    };
    let order = interleave(&addresses).into_iter().map(|address| SocketAddr::new(address, port)).collect();
    let (stream, peer, deadline) = race(order, limit, spares, attempt, unreachable)
        .await
        .map_err(|(peer, error)| refused(&label, &peer.to_string(), &error, limit))?;
    let name = literal.is_none().then_some(host);
    let address = name.map(|_| peer.ip());
    watch.reached(address);
    let link = if url.scheme == Scheme::Https {
        watch.enter(Stage::Handshaking);
        let shaken = timeout_at(deadline, handshake(shared, &label, host, stream, peer)).await;
        let (io, tls, http2) = shaken.unwrap_or_else(|_| {
            let why = format!("the handshake was not done within {} ms", limit.as_millis());
            Err(no_tls(&label, peer, &why))
        })?;
        Link { io, peer: peer.to_string(), address, tls: Some(tls), http2 }
    } else {
        let http2 = shared.settings.http_version == HttpVersion::H2c;
        let io = plain(shared, reactor, http2, stream, |stream| Ok(stream.into_std()?.into()));
        let io = io.map_err(|error| refused(&label, &peer.to_string(), &error, limit))?;
        Link { io, peer: peer.to_string(), address, tls: None, http2 }
    };
    if let (Some(name), Some(names)) = (name, &shared.names) {
        names.worked(name, peer.ip());
    }
    Ok(link)
}

/// An attempt at one address. If it is dropped to make way, that is a failure too, unless it had begun late in the time of a check.
struct Trying<'a> {
    peer: SocketAddr,
    began: Instant,
    enough: Duration,
    watch: &'a Watch,
    unreachable: &'a dyn Fn(SocketAddr, &io::Error),
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        if self.watch.makes_way() && self.began.elapsed() >= self.enough {
            (self.unreachable)(self.peer, &io::ErrorKind::TimedOut.into());
        }
    }
}

/// Of the lane that will speak on it: the reference lane, hyper, has the runtime's own sockets.
fn plain<S: Io>(
    shared: &Shared,
    reactor: &OnceCell<Rc<Reactor>>,
    http2: bool,
    stream: S,
    socket: impl FnOnce(S) -> io::Result<Socket>,
) -> io::Result<Box<dyn Io>> {
    if http2 || shared.settings.http_lane != HttpLane::Wire {
        return Ok(Box::new(stream));
    }
    if reactor.get().is_none() {
        let _ = reactor.set(Reactor::new()?);
    }
    let plain = reactor.get().expect("it was made just now").add(socket(stream)?)?;
    Ok(Box::new(plain))
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // An exchange is one small write; waiting to fill a segment would cost it 40 ms.
    let _ = stream.set_nodelay(true);
    if reaches_itself(&stream) { Err(io::ErrorKind::ConnectionRefused.into()) } else { Ok(stream) }
}

/// While nothing listens on a local port of the ephemeral range, the system may give a connection to it that
/// very port as its own, and TCP then connects it to itself: it would read its own request as the reply.
fn reaches_itself(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(local), Ok(peer)) if local == peer)
}

async fn unix(
    shared: &Shared,
    reactor: &OnceCell<Rc<Reactor>>,
    url: &BackendUrl,
    path: &Path,
    watch: &Watch,
) -> Result<Link, Failure> {
    watch.enter(Stage::Connecting);
    let limit = shared.settings.connect_timeout;
    let label = url.label();
    let peer = path.display().to_string();
    let connected = match timeout_at(Instant::now() + limit, open_unix(path)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    let stream = connected.map_err(|error| refused(&label, &peer, &error, limit))?;
    if let Some(wanted) = shared.settings.unix_peer_uid {
        let uid = stream.peer_cred().map(|peer| peer.uid());
        if !matches!(uid, Ok(uid) if uid == wanted) {
            let who = uid.map_or_else(|error| error.to_string(), |uid| format!("user {uid}"));
            let detail = format!("{label} is served by {who}, not by unix.peer_uid = {wanted}");
            return Err(Failure::new(Cause::Connect, detail));
        }
    }
    let http2 = shared.settings.http_version == HttpVersion::H2c;
    let io = plain(shared, reactor, http2, stream, |stream| Ok(stream.into_std()?.into()));
    let io = io.map_err(|error| refused(&label, &peer, &error, limit))?;
    Ok(Link { io, peer, address: None, tls: None, http2 })
}

/// A full backlog is no failure yet. TCP waits for room by itself; here the system only says that there is none.
async fn open_unix(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(BACKLOG_DELAY).await,
            other => return other,
        }
    }
}

/// The stream, what was agreed to show, and whether HTTP/2 was.
async fn handshake(
    shared: &Shared,
    label: &str,
    host: &str,
    stream: TcpStream,
    peer: SocketAddr,
) -> Result<(Box<dyn Io>, String, bool), Failure> {
    let settings = &shared.settings;
    let failed = |why: String| no_tls(label, peer, &why);
    let tls = shared.tls.as_ref().expect("made at start for every list with an https URL");
    let name = tls::server_name(&settings.tls, host).map_err(failed)?;
    let mut stream = shake_hands(&tls.config, name.clone(), stream).await.map_err(failed)?;
    if tls.has_outlived(stream.get_ref().1, &name) {
        // The backend may have another certificate by now: it is asked to show it.
        let again = open(peer).await;
        let again =
            again.map_err(|error| refused(label, &peer.to_string(), &error, settings.connect_timeout))?;
        stream = shake_hands(&tls.config, name.clone(), again).await.map_err(failed)?;
        if tls.has_outlived(stream.get_ref().1, &name) {
            return Err(failed("certificate expired".to_owned()));
        }
    }
    let session = stream.get_ref().1;
    let http2 = session.alpn_protocol() == Some(b"h2");
    if settings.http_version == HttpVersion::Http2 && !http2 {
        return Err(failed("the backend does not offer HTTP/2 (ALPN): see http.version".to_owned()));
    }
    let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS");
    let resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    let shown = format!(
        "{}, {}{}",
        version.replace("v1_", "v1."),
        if http2 { "h2" } else { "http/1.1" },
        if resumed { ", resumed" } else { "" }
    );
    Ok((Box::new(Records::new(stream)), shown, http2))
}

pub(super) async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(
    config: &Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
    stream: S,
) -> Result<TlsStream<S>, String> {
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map_err(|error| {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(error) => tls::explain(error),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                "closed during the handshake (does it speak TLS on this port?)".to_owned()
            }
            None => error.to_string(),
        }
    })
}

/// Our own system's lack, not the backend's.
pub(super) fn is_local(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                // epoll: fs.epoll.max_user_watches.
                | libc::ENOSPC
                | libc::EADDRNOTAVAIL
        )
    )
}

/// Whether there is no descriptor to be had. A resolver without one says that the name is unknown, or nothing.
pub(super) fn shortage() -> Option<io::Error> {
    Socket::new(Domain::UNIX, Type::DGRAM, None).err().filter(is_local)
}

fn no_tls(label: &str, peer: SocketAddr, why: &str) -> Failure {
    Failure::new(Cause::Tls, format!("TLS with {label} ({peer}) failed: {why}"))
}

fn refused(label: &str, peer: &str, error: &io::Error, limit: Duration) -> Failure {
    if is_local(error) {
        return Failure::new(Cause::Overload, format!("this system has no connection to spare: {error}"));
    }
    Failure::new(
        Cause::Connect,
        match error.kind() {
            io::ErrorKind::ConnectionRefused => format!("connection refused by {label} ({peer})"),
            io::ErrorKind::TimedOut => {
                format!("no connection to {label} ({peer}) within {} ms", limit.as_millis())
            }
            _ => format!("no connection to {label} ({peer}): {error}"),
        },
    )
}

impl Io for TcpStream {
    fn look(&self) -> Look {
        peek(&SockRef::from(self))
    }
}

impl Io for UnixStream {
    fn look(&self) -> Look {
        peek(&SockRef::from(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(500);

    #[tokio::test]
    async fn a_socket_that_reached_itself_is_told_from_one_that_reached_a_peer() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let own = socket.local_addr().unwrap();
        assert!(reaches_itself(&socket.connect(own).await.unwrap()));

        let peer = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert!(!reaches_itself(&open(peer.local_addr().unwrap()).await.unwrap()));
    }

    #[test]
    fn our_own_shortages_are_overload() {
        for code in
            [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::ENOSPC, libc::EADDRNOTAVAIL]
        {
            let failure = refused("http://a", "a", &io::Error::from_raw_os_error(code), LIMIT);
            assert_eq!(failure.cause, Cause::Overload, "{code}");
        }
        for code in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::ETIMEDOUT, libc::ENOENT]
        {
            let failure = refused("http://a", "a", &io::Error::from_raw_os_error(code), LIMIT);
            assert_eq!(failure.cause, Cause::Connect, "{code}");
        }
    }
}
