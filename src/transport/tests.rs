//! Scripted peers on paused time. Each test runs inside a `LocalSet`, like an I/O thread.

mod addresses;
mod bodies;
mod differential;
mod lanes;
mod network;
mod pooling;
mod replies;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

use super::*;
use crate::config::Config;

const OK_EMPTY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const OK_CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";

/// A request by its target.
struct Ask(&'static str);

impl RequestHead for Ask {
    fn write_target(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.as_bytes());
    }
    fn each_header(&self, each: &mut dyn FnMut(&str, &[u8])) {
        each("Host", b"backend.test:6000");
        each("X-Session-Id", b"7");
        each("X-Real-Ip", b"");
        each("X-Real-Ua", b"a\tb \xff");
    }
}

/// A reply, with a copy of its header section.
struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Body,
}

async fn ask_for(
    target: &'static str,
    transport: &Rc<Transport>,
    fresh: bool,
    progress: &Rc<Progress>,
) -> Result<Reply, Failure> {
    let copy = |head: &ReplyHead<'_>| {
        let headers = head.headers.iter().map(|(name, value)| {
            (HeaderName::from_bytes(name).unwrap(), HeaderValue::from_bytes(value).unwrap())
        });
        (head.status, headers.collect())
    };
    let super::Reply { head: (status, headers), body } =
        transport.exchange(0, &Ask(target), fresh, progress, &copy).await?;
    Ok(Reply { status, headers, body })
}

/// The other end of a connection.
struct Peer(DuplexStream);

impl Peer {
    /// One request's head; panics at the end of the connection.
    async fn request(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.expect("a request"));
        }
        String::from_utf8_lossy(&head).into_owned()
    }

    async fn reply(&mut self, bytes: &[u8]) {
        // A connection that was closed because of what came before is no failure of the script.
        let _ = self.0.write_all(bytes).await;
    }

    /// Waits until the connection is closed by the transport.
    async fn closed(mut self) {
        let mut rest = Vec::new();
        let _ = self.0.read_to_end(&mut rest).await;
    }
}

/// Makes connections whose other ends come out of `World::peers`.
struct Scripted {
    peers: mpsc::UnboundedSender<Peer>,
    /// Before a connection is there.
    delay: Cell<Duration>,
    /// Failures for the next attempts.
    failures: RefCell<VecDeque<Failure>>,
    /// What a peer says as soon as it is connected.
    greeting: Cell<&'static [u8]>,
    http2: Cell<bool>,
    current: Cell<bool>,
}

impl Dial for Scripted {
    fn dial(&self, _: usize, among: Among, watch: Rc<Watch>) -> Dialing {
        watch.enter(Stage::Connecting);
        let address = among.0.as_ref().map_or(IpAddr::from([192, 0, 2, 1]), |these| these[0]);
        let failure = self.failures.borrow_mut().pop_front();
        let greeting = self.greeting.get();
        let (peers, delay, http2) = (self.peers.clone(), self.delay.get(), self.http2.get());
        Box::pin(async move {
            sleep(delay).await;
            if let Some(failure) = failure {
                return Err(failure);
            }
            let (ours, mut theirs) = duplex(256 * 1024);
            theirs.write_all(greeting).await.unwrap();
            let _ = peers.send(Peer(theirs));
            let (peer, address) = ("peer".to_owned(), Some(address));
            Ok(Link { io: Box::new(ours), peer, address, tls: None, http2 })
        })
    }

    fn is_current(&self, _: usize, _: IpAddr) -> bool {
        self.current.get()
    }
}

/// A transport with one endpoint, and the other ends of its connections.
struct World {
    transport: Rc<Transport>,
    gauges: Arc<[PoolGauges]>,
    dialer: Rc<Scripted>,
    peers: mpsc::UnboundedReceiver<Peer>,
}

impl World {
    fn new(set: &[(&str, &str)]) -> Self {
        let mut config = Config::new();
        config.set("backend.url", "http://backend.test:6000/auth").unwrap();
        config.set("default_action", "deny").unwrap();
        config.set("http.lane", LANE.get()).unwrap();
        for (key, value) in set {
            config.set(key, value).unwrap();
        }
        let settings = Arc::new(config.settings().unwrap());
        let gauges: Arc<[PoolGauges]> = Arc::new([PoolGauges::default()]);
        let (sender, peers) = mpsc::unbounded_channel();
        let dialer = Rc::new(Scripted {
            peers: sender,
            delay: Cell::default(),
            failures: RefCell::default(),
            greeting: Cell::default(),
            http2: Cell::new(settings.http_version == HttpVersion::H2c),
            current: Cell::new(true),
        });
        let dial = Rc::clone(&dialer) as Rc<dyn Dial>;
        let transport = Transport::with_dialer(settings, Arc::clone(&gauges), 0, 1, dial);
        Self { transport, gauges, dialer, peers }
    }

    /// Every connection gets `reply` for each request.
    fn always(set: &[(&str, &str)], reply: &'static [u8]) -> Self {
        let mut world = Self::new(set);
        let (_, empty) = mpsc::unbounded_channel();
        let mut peers = std::mem::replace(&mut world.peers, empty);
        spawn_local(async move {
            while let Some(mut peer) = peers.recv().await {
                spawn_local(async move {
                    let mut seen = Vec::new();
                    while let Ok(byte) = peer.0.read_u8().await {
                        seen.push(byte);
                        if seen.ends_with(b"\r\n\r\n") {
                            peer.reply(reply).await;
                            seen.clear();
                        }
                    }
                });
            }
        });
        world
    }

    async fn peer(&mut self) -> Peer {
        self.peers.recv().await.expect("a connection")
    }

    async fn ask(&self) -> Result<Reply, Failure> {
        self.exchange(false).await.0
    }

    async fn exchange(&self, fresh: bool) -> (Result<Reply, Failure>, Rc<Progress>) {
        let progress = Rc::<Progress>::default();
        (ask_for("/auth?token=123", &self.transport, fresh, &progress).await, progress)
    }

    /// In a task of its own.
    fn asking(&self, fresh: bool) -> tokio::task::JoinHandle<(Result<Reply, Failure>, Rc<Progress>)> {
        let transport = Rc::clone(&self.transport);
        spawn_local(async move {
            let progress = Rc::<Progress>::default();
            (ask_for("/auth?token=123", &transport, fresh, &progress).await, progress)
        })
    }

    /// opened, open, idle, waiting
    fn gauges(&self) -> (u64, u64, u64, u64) {
        let gauges = &self.gauges[0];
        let read = |gauge: &AtomicU64| gauge.load(Relaxed);
        (read(&gauges.opened), read(&gauges.open), read(&gauges.idle), read(&gauges.waiting))
    }
}

/// Runs a test as an I/O thread would.
async fn local<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(test).await
}

thread_local! {
    /// The lane of every `World` of this thread, unless its settings say another.
    static LANE: Cell<&'static str> = const { Cell::new("auto") };
}

/// A promise of HTTP/1.1, whoever speaks it.
async fn in_each_lane(test: impl AsyncFn()) {
    for lane in ["hyper", "wire"] {
        LANE.set(lane);
        eprintln!("in the lane {lane}:");
        local(test()).await;
    }
}

/// Lets every task run until it waits for something.
async fn settle() {
    sleep(Duration::from_micros(1)).await;
}

/// The one failure of an exchange against a peer that says `reply` and closes.
async fn failure_of(reply: &[u8]) -> (Failure, Option<u16>) {
    let mut world = World::new(&[]);
    let asking = world.asking(true);
    let mut peer = world.peer().await;
    peer.request().await;
    peer.reply(reply).await;
    drop(peer);
    let (outcome, progress) = asking.await.unwrap();
    let Err(failure) = outcome else { panic!("{} was taken for a reply", reply.escape_ascii()) };
    settle().await;
    assert_eq!(world.gauges().1, 0, "the connection is closed");
    (failure, progress.status_line.get())
}
