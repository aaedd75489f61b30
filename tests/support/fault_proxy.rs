//! A TCP proxy in front of a real backend that spoils the replies it is told to spoil.
//!
//! One thread accepts and one serves each connection, with a connection of its own to the backend. A reply is read whole
//! from the backend before anything is done to it, so that what the client receives is the same bytes at the same places
//! whatever the backend's timing. Understands the framing of the backends here: a length, chunks without an extension or
//! trailer, or neither and no body. Dropping the proxy closes every connection and ends every thread.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::process::free_port;
use super::scripted::next_head;
use super::{PATIENCE, Request};

/// What is done to a reply, from its first byte `n` that is not sent as it came. Where the rest is sent, it goes out in the
/// same write as what precedes it, unless the fault is a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Nothing,
    /// Nothing for so long, then the rest.
    Pause(Duration),
    /// A byte, again and again, after so long.
    Drip(Duration),
    /// The connection is closed.
    Close,
    /// The connection is reset.
    Reset,
    /// This side is closed and the other still read.
    HalfClose,
    /// The `n` bytes a second time, and then the rest.
    Duplicate,
    /// What is no HTTP in place of the rest; the connection stays open.
    Garbage,
    /// The highest bit of the next byte is another.
    Garble,
    /// Nothing any more, on a connection that stays open.
    Stop,
    /// The connection is closed, as is any other, and no more are accepted.
    Refuse,
}

/// Short of what any check has.
pub(crate) const PAUSE: Fault = Fault::Pause(Duration::from_millis(20));
/// Beyond what any check has, where more than a few bytes are to come.
pub(crate) const DRIP: Fault = Fault::Drip(Duration::from_millis(250));

/// Where in a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Byte(usize),
    BeforeReply,
    /// In the middle of the status line.
    StatusLine,
    /// In the name of the first header.
    Headers,
    /// Between the header section and the body.
    HeadEnd,
    Body,
    AfterReply,
}

/// Sent as garbage: no HTTP wherever it begins, and with ends of lines, so that nobody waits for one.
pub(super) const GARBAGE: &[u8] = b"\x16\x03\x01\0garbage\xff\r\n\r\nmore of it\r\n\r\n";

pub(crate) struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

type Plan = dyn Fn(&Request) -> (Fault, Place) + Send + Sync;

struct Shared {
    backend: SocketAddr,
    plan: Box<Plan>,
    listener: TcpListener,
    state: Mutex<State>,
    stopping: AtomicBool,
    changed: Condvar,
    keeps_requests: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Both ends of each connection that is open.
    open: HashMap<usize, Vec<TcpStream>>,
    accepted: usize,
    requests: Vec<Request>,
}

impl FaultProxy {
    /// `plan` says what becomes of the reply to a request. It is asked before the backend is.
    pub(crate) fn new(
        backend: SocketAddr,
        plan: impl Fn(&Request) -> (Fault, Place) + Send + Sync + 'static,
    ) -> Self {
        // A number of our own choice stays ours when we refuse: one that the system chose would be given away.
        let listener = loop {
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", free_port())) {
                break listener;
            }
        };
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            backend,
            plan: Box::new(plan),
            listener,
            state: Mutex::default(),
            stopping: AtomicBool::new(false),
            changed: Condvar::new(),
            keeps_requests: AtomicBool::new(true),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || accept(&accepting));
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// Keeps no request: for more of them than there is memory.
    pub(crate) fn forgetting(self) -> Self {
        self.shared.keeps_requests.store(false, Ordering::Relaxed);
        self
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/auth.php", self.address)
    }

    /// Every request that came, on whatever connection.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.state.lock().requests.clone()
    }

    /// Connections that were made so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.state.lock().accepted
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.refuse();
        self.shared.changed.notify_all();
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    /// Closes what listens and what is open. The port stays bound, so that nobody else answers on it.
    fn refuse(&self) {
        let _ = socket2::SockRef::from(&self.listener).shutdown(Shutdown::Both);
        for stream in self.state.lock().open.values().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// As sleep, but the end of the proxy ends it.
    fn pause(&self, time: Duration) {
        let mut state = self.state.lock();
        if !self.stopping.load(Ordering::SeqCst) {
            self.changed.wait_for(&mut state, time);
        }
    }
}

fn accept(shared: &Arc<Shared>) {
    for number in 0.. {
        let Ok((client, _)) = shared.listener.accept() else { return };
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let _ = client.set_nodelay(true);
        let Ok(backend) = TcpStream::connect(shared.backend) else { continue };
        let _ = backend.set_read_timeout(Some(PATIENCE));
        {
            let mut state = shared.state.lock();
            state.accepted += 1;
            state.open.insert(number, vec![client.try_clone().unwrap(), backend.try_clone().unwrap()]);
        }
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let _ = serve(&client, &backend, number, &shared);
            // The copies go first: a close takes effect with the last descriptor.
            shared.state.lock().open.remove(&number);
            drop(client);
        });
    }
}

fn serve(
    mut client: &TcpStream,
    mut backend: &TcpStream,
    connection: usize,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut received = Vec::new();
    for sequence in 0.. {
        let head = next_head(&mut client, &mut received)?;
        let request = Request { connection, sequence, head, stream: 0 };
        let (fault, place) = (shared.plan)(&request);
        backend.write_all(&request.head)?;
        if shared.keeps_requests.load(Ordering::Relaxed) {
            shared.state.lock().requests.push(request);
        }
        let reply = next_reply(backend)?;
        let at = place.offset(&reply);
        let (sent, rest) = reply.split_at(at);
        match fault {
            Fault::Nothing => client.write_all(&reply)?,
            Fault::Pause(time) => {
                client.write_all(sent)?;
                shared.pause(time);
                client.write_all(rest)?;
            }
            Fault::Drip(interval) => {
                client.write_all(sent)?;
                for byte in rest.chunks(1) {
                    shared.pause(interval);
                    client.write_all(byte)?;
                }
            }
            Fault::Close => {
                client.write_all(sent)?;
                return Ok(());
            }
            Fault::Reset => {
                client.write_all(sent)?;
                return socket2::SockRef::from(client).set_linger(Some(Duration::ZERO));
            }
            Fault::HalfClose => {
                client.write_all(sent)?;
                client.shutdown(Shutdown::Write)?;
                return read_to_end(client);
            }
            Fault::Duplicate => client.write_all(&[sent, sent, rest].concat())?,
            Fault::Garble => {
                let mut garbled = reply.clone();
                garbled[at] ^= 0x80;
                client.write_all(&garbled)?;
            }
            Fault::Garbage => {
                client.write_all(&[sent, GARBAGE].concat())?;
                return read_to_end(client);
            }
            Fault::Stop => {
                client.write_all(sent)?;
                return read_to_end(client);
            }
            Fault::Refuse => {
                client.write_all(sent)?;
                shared.refuse();
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Until the other side closes.
fn read_to_end(mut client: &TcpStream) -> std::io::Result<()> {
    while client.read(&mut [0; 1024])? > 0 {}
    Ok(())
}

fn next_reply(mut backend: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut reply = Vec::new();
    while !is_complete(&reply) {
        let mut piece = [0; 16 * 1024];
        match backend.read(&mut piece)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => reply.extend_from_slice(&piece[..count]),
        }
    }
    Ok(reply)
}

fn is_complete(reply: &[u8]) -> bool {
    if find(reply, b"\r\n\r\n").is_none() {
        return false;
    }
    let (head, body) = reply.split_at(head_end(reply));
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    if head.contains("transfer-encoding: chunked") {
        body == b"0\r\n\r\n" || body.ends_with(b"\r\n0\r\n\r\n")
    } else {
        length.is_none_or(|length| body.len() >= length.trim().parse().unwrap())
    }
}

/// The first byte after the status line.
pub(crate) fn status_line_end(reply: &[u8]) -> usize {
    find(reply, b"\r\n").unwrap() + 2
}

/// The first byte after the header section.
pub(crate) fn head_end(reply: &[u8]) -> usize {
    find(reply, b"\r\n\r\n").unwrap() + 4
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

impl Place {
    fn offset(self, reply: &[u8]) -> usize {
        match self {
            Self::Byte(byte) => byte.min(reply.len()),
            Self::BeforeReply => 0,
            Self::StatusLine => "HTTP/1.1 ".len(),
            Self::Headers => status_line_end(reply) + 3,
            Self::HeadEnd => head_end(reply),
            Self::Body => usize::midpoint(head_end(reply), reply.len()),
            Self::AfterReply => reply.len(),
        }
    }
}

/// Runs each of the cases, so many at a time.
pub(crate) fn at_once<T: Sync>(threads: usize, cases: &[T], run: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(cases.len()) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    run(case);
                }
            });
        }
    });
}
