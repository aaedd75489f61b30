//! A backend whose every byte the test decides, and which counts what reaches it.
//!
//! One thread accepts and one serves each connection, one request after another. A reply is a list of steps, each write of
//! it a record of its own where there is TLS; dropping the backend ends every step that still waits. It speaks HTTP/1.1, or
//! HTTP/2 as far as [`frames`](super::frames) goes: whole frames, whose making is the test's.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustls::{ServerConnection, StreamOwned};
use tokio::time::Instant;

use super::{Identity, PATIENCE, frames};

pub(crate) struct Scripted {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    tls: Option<Arc<rustls::ServerConfig>>,
    /// What is sent before anything is asked; with it, HTTP/2 is spoken.
    greeting: Option<Box<dyn Fn(usize) -> Reply + Send + Sync>>,
    answer: Box<dyn Fn(&Request) -> Reply + Send + Sync>,
    state: Mutex<State>,
    changed: Condvar,
    stopping: AtomicBool,
    keeps_requests: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Connections that are open, to be shut when the backend is dropped.
    open: HashMap<usize, TcpStream>,
    most_open: usize,
    accepted: usize,
    arrived: usize,
    requests: Vec<Request>,
}

/// A request head, as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Which connection of the backend, from 0.
    pub(crate) connection: usize,
    /// Which request of that connection, from 0.
    pub(crate) sequence: usize,
    /// HTTP/1.1: the head. HTTP/2: the frames since the last request.
    pub(crate) head: Vec<u8>,
    /// HTTP/2: which stream.
    pub(crate) stream: u32,
}

/// What is done about a request.
#[derive(Clone, Default)]
pub(crate) struct Reply(Vec<Step>);

#[derive(Clone)]
enum Step {
    Send(Vec<u8>),
    After(Duration),
    When(Gate),
    Hang,
    Open(Gate),
    Close,
    Reset,
}

/// Opened once; replies wait behind it.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Scripted {
    pub(crate) fn new(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::serving(None, None, Box::new(answer))
    }

    /// Where others are to be found by another address of the same name.
    pub(crate) fn at(
        address: impl ToSocketAddrs,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listening(TcpListener::bind(address).unwrap(), None, None, Box::new(answer))
    }

    /// Over TLS.
    pub(crate) fn tls(
        identity: &Identity,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serving(Some(identity.server_config(&[])), None, Box::new(answer))
    }

    /// The same, by a configuration of the test's own.
    pub(crate) fn tls_by(
        config: rustls::ServerConfig,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serving(Some(Arc::new(config)), None, Box::new(answer))
    }

    /// In HTTP/2. `greeting` is what the connection of that number begins with; SETTINGS and PING are acknowledged.
    pub(crate) fn http2(
        greeting: impl Fn(usize) -> Reply + Send + Sync + 'static,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serving(None, Some(Box::new(greeting)), Box::new(answer))
    }

    fn serving(
        tls: Option<Arc<rustls::ServerConfig>>,
        greeting: Option<Box<dyn Fn(usize) -> Reply + Send + Sync>>,
        answer: Box<dyn Fn(&Request) -> Reply + Send + Sync>,
    ) -> Self {
        Self::listening(TcpListener::bind("127.0.0.1:0").unwrap(), tls, greeting, answer)
    }

    fn listening(
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        greeting: Option<Box<dyn Fn(usize) -> Reply + Send + Sync>>,
        answer: Box<dyn Fn(&Request) -> Reply + Send + Sync>,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            tls,
            greeting,
            answer,
            state: Mutex::default(),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
            keeps_requests: AtomicBool::new(true),
        });
        let accepting = Arc::clone(&shared);
        let listening = listener.try_clone().unwrap();
        let acceptor = std::thread::spawn(move || accept(&listening, &accepting));
        Self { listener, address, shared, acceptor: Some(acceptor) }
    }

    /// The same reply to everyone.
    pub(crate) fn always(reply: Reply) -> Self {
        Self::new(move |_| reply.clone())
    }

    /// Counts requests and keeps none: for more of them than there is memory.
    pub(crate) fn forgetting(self) -> Self {
        self.shared.keeps_requests.store(false, Ordering::Relaxed);
        self
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/auth", self.address)
    }

    /// Connections that were made so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.state.lock().accepted
    }

    /// The most that were open at one time.
    pub(crate) fn most_connections(&self) -> usize {
        self.shared.state.lock().most_open
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.state.lock().requests.clone()
    }

    pub(crate) fn request_count(&self) -> usize {
        self.shared.state.lock().arrived
    }

    /// Waits for the arrival of that many requests in all.
    #[track_caller]
    pub(crate) fn wait_requests(&self, count: usize) {
        self.wait_until("requests", |state| state.arrived >= count);
    }

    /// Waits until no connection is open.
    #[track_caller]
    pub(crate) fn wait_all_closed(&self) {
        self.wait_until("closed connections", |state| state.accepted > 0 && state.open.is_empty());
    }

    #[track_caller]
    fn wait_until(&self, what: &str, holds: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.shared.state.lock();
        while !holds(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            let timed_out = self.shared.changed.wait_for(&mut state, left).timed_out();
            assert!(!timed_out, "no {what}: {} requests on {} connections", state.arrived, state.accepted);
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for stream in self.shared.state.lock().open.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the acceptor. A connection would need a port, which a test may have taken away.
        let _ = socket2::SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Request {
    pub(crate) fn line(&self) -> &[u8] {
        self.head.split(|&byte| byte == b'\r').next().unwrap_or_default()
    }

    /// Between `GET ` and ` HTTP/1.1`.
    pub(crate) fn target(&self) -> String {
        let line = String::from_utf8_lossy(self.line()).into_owned();
        let target = line.strip_prefix("GET ").and_then(|rest| rest.strip_suffix(" HTTP/1.1"));
        target.unwrap_or_else(|| panic!("not a request line: {line}")).to_owned()
    }

    /// Names and values in order, exactly as they came.
    pub(crate) fn headers(&self) -> Vec<(String, Vec<u8>)> {
        let text = self.head.strip_suffix(b"\r\n\r\n").unwrap();
        let mut lines = text.split(|&byte| byte == b'\n').skip(1);
        std::iter::from_fn(|| lines.next())
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .map(|line| {
                let colon = line.iter().position(|&byte| byte == b':').unwrap();
                let value = line[colon + 1..].strip_prefix(b" ").unwrap_or(&line[colon + 1..]);
                (String::from_utf8(line[..colon].to_vec()).unwrap(), value.to_vec())
            })
            .collect()
    }

    /// `None`: not sent.
    pub(crate) fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.headers().into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn session(&self) -> String {
        String::from_utf8_lossy(&self.header("X-Session-Id").unwrap_or_default()).into_owned()
    }
}

impl Reply {
    /// 200 with an empty body of known length.
    pub(crate) fn allow() -> Self {
        Self::status(200, "")
    }

    /// 403, likewise.
    pub(crate) fn deny() -> Self {
        Self::status(403, "")
    }

    /// Any status; `headers` are whole lines, each with its CRLF.
    pub(crate) fn status(status: u16, headers: &str) -> Self {
        Self::raw(format!("HTTP/1.1 {status} Status\r\nContent-Length: 0\r\n{headers}\r\n"))
    }

    /// 200 with this body.
    pub(crate) fn body(body: &str) -> Self {
        Self::raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }

    /// These bytes.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self(vec![Step::Send(bytes.into())])
    }

    /// Nothing at all, on a connection that stays open.
    pub(crate) fn silence() -> Self {
        Self(vec![Step::Hang])
    }

    /// Nothing but a close.
    pub(crate) fn close() -> Self {
        Self(vec![Step::Close])
    }

    /// Nothing but a reset.
    pub(crate) fn reset() -> Self {
        Self(vec![Step::Reset])
    }

    /// Nothing; tells the test that all before it was sent.
    pub(crate) fn opening(gate: &Gate) -> Self {
        Self(vec![Step::Open(gate.clone())])
    }

    /// These bytes in one write, or each in a write of its own, unless they are many: the long ones are about their
    /// length.
    pub(crate) fn pieces(bytes: &[u8], in_bytes: bool) -> Self {
        let size = if in_bytes && bytes.len() < 1000 { 1 } else { usize::MAX };
        Self(bytes.chunks(size).map(|piece| Step::Send(piece.to_vec())).collect())
    }

    pub(crate) fn then(mut self, next: Self) -> Self {
        self.0.extend(next.0);
        self
    }

    /// All of it, once the gate is open.
    pub(crate) fn when(mut self, gate: &Gate) -> Self {
        self.0.insert(0, Step::When(gate.clone()));
        self
    }

    /// All of it, so much later.
    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.0.insert(0, Step::After(delay));
        self
    }
}

/// What a mark of the corpora does between the bytes.
pub(crate) fn step(mark: &str) -> Option<Reply> {
    match mark {
        "close" => Some(Reply::close()),
        "reset" => Some(Reply::reset()),
        "later" => Some(Reply::raw("").after(Duration::from_millis(20))),
        "wait" | "hang" => Some(Reply::silence()),
        _ => None,
    }
}

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }

    #[track_caller]
    pub(crate) fn wait_open(&self) {
        let mut open = self.0.0.lock();
        while !*open {
            assert!(!self.0.1.wait_for(&mut open, PATIENCE).timed_out(), "never opened");
        }
    }

    fn wait(&self, stopping: &AtomicBool) {
        let mut open = self.0.0.lock();
        while !*open && !stopping.load(Ordering::SeqCst) {
            self.0.1.wait_for(&mut open, Duration::from_millis(50));
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for number in 0.. {
        let Ok((stream, _)) = listener.accept() else { return };
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let _ = stream.set_nodelay(true);
        {
            let mut state = shared.state.lock();
            state.accepted += 1;
            state.open.insert(number, stream.try_clone().unwrap());
            state.most_open = state.most_open.max(state.open.len());
        }
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let _ = serve(&stream, number, &shared);
            // The copy goes first: a reset takes effect when the last descriptor is closed.
            shared.state.lock().open.remove(&number);
            drop(stream);
            shared.changed.notify_all();
        });
    }
}

pub(super) trait Io: Read + Write {}
impl<T: Read + Write> Io for T {}

fn serve(stream: &TcpStream, connection: usize, shared: &Shared) -> std::io::Result<()> {
    let io: &mut dyn Io = match &shared.tls {
        Some(config) => {
            let server = ServerConnection::new(Arc::clone(config)).unwrap();
            &mut StreamOwned::new(server, stream)
        }
        None => &mut &*stream,
    };
    if let Some(greeting) = &shared.greeting {
        frames::accept(io)?;
        if !perform(greeting(connection), io, stream, shared)? {
            return Ok(());
        }
    }
    let mut received = Vec::new();
    for sequence in 0.. {
        let (head, stream_id) = match &shared.greeting {
            Some(_) => frames::next_request(io)?,
            None => (next_head(io, &mut received)?, 0),
        };
        let request = Request { connection, sequence, head, stream: stream_id };
        // Decided before the request is told of: who waits for its arrival may change what comes next.
        let reply = (shared.answer)(&request);
        {
            let mut state = shared.state.lock();
            state.arrived += 1;
            if shared.keeps_requests.load(Ordering::Relaxed) {
                state.requests.push(request);
            }
        }
        shared.changed.notify_all();
        if !perform(reply, io, stream, shared)? {
            return Ok(());
        }
    }
    Ok(())
}

/// False: the connection is over.
fn perform(reply: Reply, io: &mut dyn Io, socket: &TcpStream, shared: &Shared) -> std::io::Result<bool> {
    for step in reply.0 {
        match step {
            Step::Send(bytes) => {
                io.write_all(&bytes)?;
                io.flush()?;
            }
            Step::After(delay) => std::thread::sleep(delay),
            Step::When(gate) => gate.wait(&shared.stopping),
            Step::Open(gate) => gate.open(),
            Step::Hang => while io.read(&mut [0; 1024])? > 0 {},
            Step::Close => return Ok(false),
            Step::Reset => {
                socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO))?;
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Up to the empty line; what follows stays for the next call.
pub(super) fn next_head(
    stream: &mut (impl Read + ?Sized),
    received: &mut Vec<u8>,
) -> std::io::Result<Vec<u8>> {
    loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = received.split_off(end + 4);
            return Ok(std::mem::replace(received, rest));
        }
        let mut piece = [0; 16 * 1024];
        match stream.read(&mut piece)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => received.extend_from_slice(&piece[..count]),
        }
    }
}
