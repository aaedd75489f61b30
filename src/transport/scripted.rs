//! Scripted peers in the place of the network, for tests and for what is fuzzed: on paused time, inside a `LocalSet`, like
//! an I/O thread.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod counted;

#[cfg(test)]
pub(crate) use counted::Counted;
#[cfg(not(test))]
use counted::Counted;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::sleep;

use super::dial::{Dial, Dialing, Link, Watch};
use super::{Among, Body, Failure, PoolGauges, Progress, ReplyHead, RequestHead, Stage, Transport};
use crate::config::{Config, HttpVersion};

/// A request by its target.
pub(super) struct Ask(pub(super) &'static str);

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
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

pub(super) async fn ask_for(
    target: &'static str,
    transport: &Rc<Transport>,
    fresh: bool,
    progress: &Rc<Progress>,
) -> Result<Reply, Failure> {
    let read = RefCell::new(None);
    let copy = |head: &ReplyHead<'_>| {
        let headers = head.headers.iter().map(|(name, value)| {
            (HeaderName::from_bytes(name).unwrap(), HeaderValue::from_bytes(value).unwrap())
        });
        read.replace(Some((head.status, headers.collect())));
    };
    let body = transport.exchange(0, &Ask(target), fresh, progress, &copy).await?;
    let (status, headers) = read.take().expect("a reply was read");
    Ok(Reply { status, headers, body })
}

/// The other end of a connection.
pub(super) struct Peer(pub(super) DuplexStream);

impl Peer {
    pub(super) async fn reply(&mut self, bytes: &[u8]) {
        // A connection that was closed because of what came before is no failure of the script.
        let _ = self.0.write_all(bytes).await;
    }
}

/// Makes connections whose other ends come out of `World::peers`.
pub(super) struct Scripted {
    pub(super) peers: mpsc::UnboundedSender<Peer>,
    /// Before a connection is there.
    pub(super) delay: Cell<Duration>,
    /// Failures for the next attempts.
    pub(super) failures: RefCell<VecDeque<Failure>>,
    /// What a peer says as soon as it is connected.
    pub(super) greeting: Cell<&'static [u8]>,
    /// Bytes that a connection takes, either way, before somebody has read them.
    pub(super) room: Cell<usize>,
    pub(super) http2: Cell<bool>,
    pub(super) current: Cell<bool>,
    /// Where the name has moved to: connections go there, wherever they were to go.
    pub(super) moved: Cell<Option<IpAddr>>,
    /// By all connections.
    pub(super) writes: Rc<Cell<u64>>,
}

impl Dial for Scripted {
    fn dial(&self, _: usize, among: Among, watch: Rc<Watch>) -> Dialing {
        watch.enter(Stage::Connecting);
        let known = among.0.as_ref().map_or(IpAddr::from([192, 0, 2, 1]), |these| these[0]);
        let address = self.moved.get().unwrap_or(known);
        let failure = self.failures.borrow_mut().pop_front();
        let greeting = self.greeting.get();
        let (peers, delay, http2) = (self.peers.clone(), self.delay.get(), self.http2.get());
        let room = self.room.get();
        let writes = Rc::clone(&self.writes);
        Box::pin(async move {
            sleep(delay).await;
            if let Some(failure) = failure {
                return Err(failure);
            }
            let (ours, mut theirs) = duplex(room);
            theirs.write_all(greeting).await.unwrap();
            let _ = peers.send(Peer(theirs));
            let (peer, address) = ("peer".to_owned(), Some(address));
            Ok(Link { io: Box::new(Counted::new(ours, writes)), peer, address, tls: None, http2 })
        })
    }

    fn is_current(&self, _: usize, _: IpAddr) -> bool {
        self.current.get()
    }
}

/// A transport with one endpoint, and the other ends of its connections.
pub(super) struct World {
    pub(super) transport: Rc<Transport>,
    pub(super) gauges: Arc<[PoolGauges]>,
    #[cfg_attr(not(test), expect(dead_code, reason = "it is for tests to change"))]
    pub(super) dialer: Rc<Scripted>,
    pub(super) peers: mpsc::UnboundedReceiver<Peer>,
}

impl World {
    pub(super) fn new(set: &[(&str, &str)]) -> Self {
        let mut config = Config::new();
        config.set("backend.url", "http://backend.test:6000/auth").unwrap();
        config.set("default_action", "deny").unwrap();
        let (lane, window) = LANE.get();
        config.set("http.lane", lane).unwrap();
        config.set("http.pipeline", window).unwrap();
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
            room: Cell::new(256 * 1024),
            http2: Cell::new(settings.http_version == HttpVersion::H2c),
            current: Cell::new(true),
            moved: Cell::default(),
            writes: Rc::default(),
        });
        let dial = Rc::clone(&dialer) as Rc<dyn Dial>;
        let transport = Transport::with_dialer(settings, Arc::clone(&gauges), 0, 1, dial);
        Self { transport, gauges, dialer, peers }
    }

    pub(super) async fn peer(&mut self) -> Peer {
        self.peers.recv().await.expect("a connection")
    }

    /// In a task of its own.
    pub(super) fn asking(&self, fresh: bool) -> JoinHandle<(Result<Reply, Failure>, Rc<Progress>)> {
        let transport = Rc::clone(&self.transport);
        spawn_local(async move {
            let progress = Rc::<Progress>::default();
            (ask_for("/auth?token=123", &transport, fresh, &progress).await, progress)
        })
    }

    /// opened, open, idle, waiting
    pub(super) fn gauges(&self) -> (u64, u64, u64, u64) {
        let gauges = &self.gauges[0];
        let read = |gauge: &super::Gauge| gauge.get();
        (read(&gauges.opened), read(&gauges.open), read(&gauges.idle), read(&gauges.waiting))
    }
}

thread_local! {
    /// The lane of every `World` of this thread, and its window, unless its settings say another.
    pub(super) static LANE: Cell<(&'static str, &'static str)> = const { Cell::new(("auto", "1")) };
}

/// Lets every task run until it waits for something.
pub(super) async fn settle() {
    sleep(Duration::from_micros(1)).await;
}
