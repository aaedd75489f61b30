//! The server: one thread, one current-thread runtime, one task a connection.
//!
//! Stopping drops the runtime and with it every connection, as a killed backend would: what is being
//! answered is cut. Started again on the same address, it takes over at once.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::oneshot;

use super::http::{Answer, Delivery, Parsed, Request};
use super::rule::Rule;
use crate::args::Framing;
use crate::redact;

/// How it behaves, whatever the rule.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) delay: Option<Duration>,
    /// Share of the requests that is cut, from 0 to 1.
    pub(crate) fail: f64,
    pub(crate) close: bool,
    pub(crate) framing: Framing,
    pub(crate) idle: Option<Duration>,
    pub(crate) reason: bool,
    pub(crate) log: LogTo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogTo {
    Nowhere,
    /// Standard error, query values masked.
    Redacted,
    /// Standard error, as it came.
    Full,
}

/// What was done so far; requests below `/_alta/` and connections with nothing else are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) connections: u64,
    pub(crate) allowed: u64,
    pub(crate) denied: u64,
    /// Cut by `--fail`, or not HTTP/1.
    pub(crate) failed: u64,
}

#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    connections: AtomicU64,
    allowed: AtomicU64,
    denied: AtomicU64,
    failed: AtomicU64,
}

impl Counters {
    fn now(&self) -> Counts {
        Counts {
            requests: self.requests.load(Relaxed),
            connections: self.connections.load(Relaxed),
            allowed: self.allowed.load(Relaxed),
            denied: self.denied.load(Relaxed),
            failed: self.failed.load(Relaxed),
        }
    }
}

/// A running backend. Dropping it stops it.
pub(crate) struct Server {
    url: String,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    socket_file: Option<PathBuf>,
}

struct Shared {
    rule: Rule,
    options: Options,
    counters: Counters,
}

enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Server {
    /// Binds here, serves on a thread of its own.
    pub(crate) fn start(listen: &str, rule: Rule, options: Options) -> io::Result<Self> {
        let (listener, url, socket_file) = if let Some(path) = listen.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            let listener = bind_unix(&path)?;
            listener.set_nonblocking(true)?;
            (Listener::Unix(listener), listen.to_owned(), Some(path))
        } else {
            let listener = std::net::TcpListener::bind(listen)?;
            listener.set_nonblocking(true)?;
            let url = format!("http://{}", listener.local_addr()?);
            (Listener::Tcp(listener), url, None)
        };
        let shared = Arc::new(Shared { rule, options, counters: Counters::default() });
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("alta-backend".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                runtime.block_on(async {
                    tokio::spawn(accept(listener, shared));
                    // Either a word or a dropped sender: both mean stop.
                    let _ = stopped.await;
                });
            }
        })?;
        Ok(Self { url, shared, stop: Some(stop), thread: Some(thread), socket_file })
    }

    /// `http://127.0.0.1:PORT`, or `unix:/path/to.sock`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn counts(&self) -> Counts {
        self.shared.counters.now()
    }

    /// Cuts every connection, frees the address, and returns the last counts.
    pub(crate) fn stop(mut self) -> Counts {
        self.halt();
        self.counts()
    }

    fn halt(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic over there has been printed over there.
            let _ = thread.join();
        }
        if let Some(path) = self.socket_file.take() {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.halt();
    }
}

/// A socket file that nobody listens on is left over from a killed process; anything else is not ours.
fn bind_unix(path: &PathBuf) -> io::Result<std::os::unix::net::UnixListener> {
    let in_use = std::os::unix::net::UnixStream::connect(path).is_ok();
    if !in_use && std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    std::os::unix::net::UnixListener::bind(path)
}

async fn accept(listener: Listener, shared: Arc<Shared>) {
    match listener {
        Listener::Tcp(listener) => {
            let listener =
                tokio::net::TcpListener::from_std(listener).expect("a listener in a runtime registers");
            loop {
                if let Some((stream, _)) = accepted(listener.accept().await).await {
                    let _ = stream.set_nodelay(true);
                    tokio::spawn(serve(stream, Arc::clone(&shared)));
                }
            }
        }
        Listener::Unix(listener) => {
            let listener =
                tokio::net::UnixListener::from_std(listener).expect("a listener in a runtime registers");
            loop {
                if let Some((stream, _)) = accepted(listener.accept().await).await {
                    tokio::spawn(serve(stream, Arc::clone(&shared)));
                }
            }
        }
    }
}

/// Out of descriptors, accept fails at once, again and again: wait a little instead of spinning.
async fn accepted<T>(result: io::Result<T>) -> Option<T> {
    if result.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    result.ok()
}

/// Bytes for one request, and whether the connection goes on after them.
struct Turn {
    bytes: Vec<u8>,
    close: bool,
    delayed: bool,
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, shared: Arc<Shared>) {
    let mut buffer = Vec::with_capacity(4096);
    let mut counted = false;
    loop {
        let (turn, used) = match Request::parse(&buffer) {
            Parsed::Complete { request, head, body } if buffer.len() >= head + body => {
                (shared.turn(&request, &mut counted), head + body)
            }
            Parsed::Complete { .. } | Parsed::Partial => {
                if !read(&mut stream, &mut buffer, shared.options.idle).await {
                    return;
                }
                continue;
            }
            Parsed::Bad(status) => {
                shared.counters.failed.fetch_add(1, Relaxed);
                let delivery =
                    Delivery { framing: Framing::Length, close: true, reason: true, head_only: false };
                let turn =
                    Turn { bytes: Answer::empty(status).framed(delivery), close: true, delayed: false };
                (turn, buffer.len())
            }
        };
        buffer.drain(..used);
        if let (true, Some(delay)) = (turn.delayed, shared.options.delay) {
            tokio::time::sleep(delay).await;
        }
        if stream.write_all(&turn.bytes).await.is_err() {
            return;
        }
        if turn.close {
            // Closing with unread bytes would reset the connection and take the answer with it.
            let _ = stream.shutdown().await;
            let mut rest = [0; 4096];
            let drain = async { while matches!(stream.read(&mut rest).await, Ok(read) if read > 0) {} };
            let _ = tokio::time::timeout(Duration::from_millis(500), drain).await;
            return;
        }
    }
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>, idle: Option<Duration>) -> bool {
    let read = stream.read_buf(buffer);
    let result = match idle {
        Some(idle) => tokio::time::timeout(idle, read).await.unwrap_or(Ok(0)),
        None => read.await,
    };
    matches!(result, Ok(read) if read > 0)
}

impl Shared {
    fn turn(&self, request: &Request<'_>, counted: &mut bool) -> Turn {
        let delivery = request.delivery(self.options.framing, self.options.close, self.options.reason);
        if let Some(answer) = self.own_pages(request) {
            return Turn { bytes: answer.framed(delivery), close: delivery.close, delayed: false };
        }
        let counters = &self.counters;
        if !std::mem::replace(counted, true) {
            counters.connections.fetch_add(1, Relaxed);
        }
        counters.requests.fetch_add(1, Relaxed);
        if self.options.fail > 0.0 && fastrand::f64() < self.options.fail {
            counters.failed.fetch_add(1, Relaxed);
            self.log(request, "cut");
            return Turn { bytes: b"HTTP/1.1 ".to_vec(), close: true, delayed: true };
        }
        let answer = self.rule.answer(request);
        if answer.allows { &counters.allowed } else { &counters.denied }.fetch_add(1, Relaxed);
        self.log(request, &answer.status.to_string());
        Turn { bytes: answer.framed(delivery), close: delivery.close, delayed: true }
    }

    fn own_pages(&self, request: &Request<'_>) -> Option<Answer> {
        match request.path {
            b"/_alta/stats" => {
                let Counts { requests, connections, allowed, denied, failed } = self.counters.now();
                let body = serde_json::json!({
                    "requests": requests, "connections": connections,
                    "allowed": allowed, "denied": denied, "failed": failed,
                });
                Some(Answer::with_body(200, "application/json", body.to_string().into_bytes()))
            }
            b"/_alta/create" => Some(self.rule.create(request)),
            _ => None,
        }
    }

    /// One line, as the reference script writes one: the verdict, the request, the five headers. A header
    /// that did not come is `-`, an empty one `""`.
    fn log(&self, request: &Request<'_>, outcome: &str) {
        let target = match self.options.log {
            LogTo::Nowhere => return,
            LogTo::Redacted => redact::target(request.target),
            LogTo::Full => request.target.to_vec(),
        };
        let mut line = format!("{outcome} {} {}", request.method, redact::printable(&target));
        for name in ["X-Session-Id", "X-Real-Ip", "X-Real-Path", "X-Real-Origin", "X-Real-Ua"] {
            match request.header(name) {
                Some(value) => line.extend([" ", name, "=\"", &redact::printable(value), "\""]),
                None => line.extend([" ", name, "=-"]),
            }
        }
        line.push('\n');
        // One write a line: lines of several threads do not mix. A closed log stops no backend.
        let _ = io::Write::write_all(&mut io::stderr(), line.as_bytes());
    }
}
