//! The shards of an engine on the test's own runtime, nearly always one, against peers that are functions.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::panic;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Once};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::Instant;

use crate::check::Check;
use crate::config::Config;
use crate::decision::{Cause, Decision};
use crate::engine::batch::Batch;
use crate::engine::completion::{Completed, Receiver, Tag};
use crate::engine::core::Core;
use crate::engine::inbox::{Inbox, Outlet};
use crate::engine::ledger::Ticket;
use crate::engine::shard::Shard;
use crate::engine::transports::Transports;
use crate::engine::{Policy, SubmitError, core};
use crate::observe::{Log, LogLevel, Logger};
use crate::outage::Addresses;
use crate::transport::{Among, Counted, Dial, Failure, Link, Stage, Transport, Watch};

pub(super) type Script = Pin<Box<dyn Future<Output = ()>>>;

/// Where the engine's own code panics, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defect {
    /// While a connection is made, in the pool's task.
    Dialing,
    /// While an idle one is lent, in the exchange's own task.
    Lending,
    /// The same, for a question to the shadow.
    LendingToShadow,
}

const BACKEND: &str = "http://127.0.0.1:1/auth";

/// The shadow's endpoints are numbered from here.
pub(super) const SHADOW: usize = 100;

pub(super) type Look = Box<dyn FnMut() -> bool>;

/// A peer: what it does with each connection. Counts what the engine cannot lie about.
pub(super) struct Peer {
    connections: Cell<usize>,
    requests: RefCell<Vec<(usize, String)>>,
    defect: Cell<Option<Defect>>,
    /// Bytes that a connection takes, either way, before somebody has read them.
    pub(super) room: Cell<usize>,
    /// What the name of an endpoint stands for: a single one, unless a test says more.
    addresses: RefCell<Vec<IpAddr>>,
    /// Nothing comes back from the first endpoint, and no connection is made: how often that was tried.
    pub(super) silent: Cell<Option<usize>>,
    /// Of so many endpoints, from the first on.
    pub(super) silent_endpoints: Cell<usize>,
    /// Those of them that refuse connections.
    refusing: RefCell<Vec<IpAddr>>,
    /// Connections speak HTTP/2.
    pub(super) http2: Cell<bool>,
    /// An endpoint that refuses each connection.
    pub(super) closed: Cell<Option<usize>>,
    /// What comes of looking around.
    pub(super) looks: RefCell<Option<Look>>,
    serve: Box<dyn Fn(Rc<Peer>, usize, DuplexStream) -> Script>,
}

impl Peer {
    /// `serve` gets the endpoint and the server's end of each connection.
    pub(super) fn new<F>(serve: impl Fn(Rc<Self>, usize, DuplexStream) -> F + 'static) -> Rc<Self>
    where
        F: Future<Output = ()> + 'static,
    {
        let serve = Box::new(move |peer, endpoint, stream| Box::pin(serve(peer, endpoint, stream)) as Script);
        Rc::new(Self {
            connections: Cell::new(0),
            requests: RefCell::default(),
            defect: Cell::default(),
            room: Cell::new(64 * 1024),
            addresses: RefCell::new(vec![Ipv4Addr::LOCALHOST.into()]),
            silent: Cell::new(None),
            silent_endpoints: Cell::new(1),
            refusing: RefCell::default(),
            http2: Cell::new(false),
            closed: Cell::new(None),
            looks: RefCell::default(),
            serve,
        })
    }

    /// From now on the name of each endpoint stands for these. `serve` then gets, in the place of the endpoint, ten
    /// times that and the last number of the address.
    pub(super) fn stand_for(&self, core: &Core, addresses: &[IpAddr]) {
        self.will_stand_for(addresses);
        for known in core.policy().addresses.iter() {
            known.turn_to(addresses, Instant::now());
        }
    }

    /// The same, but nobody has looked yet.
    pub(super) fn will_stand_for(&self, addresses: &[IpAddr]) {
        self.addresses.replace(addresses.to_vec());
    }

    pub(super) fn refuse(&self, addresses: &[IpAddr]) {
        self.refusing.replace(addresses.to_vec());
    }

    /// Like the real thing: those that refuse are passed over.
    fn connect(&self, endpoint: usize, among: &Among, known: &Addresses) -> Result<(usize, IpAddr), Failure> {
        let refused = || Failure { cause: Cause::Connect, detail: "refused".into(), retry_is_safe: false };
        if self.closed.get() == Some(endpoint) {
            return Err(refused());
        }
        let addresses = self.addresses.borrow();
        if addresses.len() > 1 {
            known.turn_to(&addresses, Instant::now());
        }
        for &address in addresses.iter().filter(|&&address| among.takes(Some(address))) {
            if self.refusing.borrow().contains(&address) {
                known.unreachable(address, "connect");
                continue;
            }
            let IpAddr::V4(v4) = address else { panic!("an address of IPv4 is expected") };
            let many = addresses.len() > 1;
            let place = if many { 10 * endpoint + usize::from(v4.octets()[3]) } else { endpoint };
            return Ok((place, address));
        }
        Err(refused())
    }

    /// Answers every request with what `reply` makes of its target; `None`: never.
    pub(super) fn answering(reply: impl Fn(usize, &str) -> Option<String> + 'static) -> Rc<Self> {
        let reply = Rc::new(reply);
        Self::new(move |peer, endpoint, mut stream| {
            let reply = Rc::clone(&reply);
            async move {
                while let Some(target) = peer.request(endpoint, &mut stream).await {
                    match reply(endpoint, &target) {
                        // Whoever asked may have left.
                        Some(bytes) if stream.write_all(bytes.as_bytes()).await.is_err() => return,
                        Some(_) => {}
                        None => std::future::pending().await,
                    }
                }
            }
        })
    }

    /// Reads one request head; its target. `None`: the engine closed.
    pub(super) async fn request(&self, endpoint: usize, stream: &mut DuplexStream) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return None,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let target = head.split(' ').nth(1).unwrap().to_owned();
        self.requests.borrow_mut().push((endpoint, target.clone()));
        Some(target)
    }

    pub(super) fn targets(&self) -> Vec<String> {
        self.requests.borrow().iter().map(|(_, target)| target.clone()).collect()
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.borrow().len()
    }

    pub(super) fn requests_to(&self, endpoint: usize) -> usize {
        self.requests.borrow().iter().filter(|(to, _)| *to == endpoint).count()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.get()
    }

    pub(super) fn break_once(&self, defect: Defect) {
        self.defect.set(Some(defect));
    }

    fn panic_if(&self, here: Defect) {
        if self.defect.get() == Some(here) {
            self.defect.set(None);
            panic!("a defect: {here:?}");
        }
    }
}

struct Dialer {
    peer: Rc<Peer>,
    known: Arc<[Arc<Addresses>]>,
    /// 0, or `SHADOW`.
    first: usize,
}

impl Dial for Dialer {
    fn dial(
        &self,
        endpoint: usize,
        among: Among,
        watch: Rc<Watch>,
    ) -> Pin<Box<dyn Future<Output = Result<Link, Failure>>>> {
        let (peer, known, first) = (Rc::clone(&self.peer), Arc::clone(&self.known), self.first);
        Box::pin(async move {
            // As far as where the default action is usually taken.
            watch.enter(Stage::Handshaking);
            peer.panic_if(Defect::Dialing);
            peer.connections.set(peer.connections.get() + 1);
            if let Some(dials) = peer.silent.get()
                && endpoint < peer.silent_endpoints.get()
            {
                peer.silent.set(Some(dials + 1));
                std::future::pending::<()>().await;
            }
            let (place, address) = peer.connect(endpoint, &among, &known[endpoint])?;
            let (ours, theirs) = duplex(peer.room.get());
            spawn_local((peer.serve)(Rc::clone(&peer), first + place, theirs));
            let http2 = peer.http2.get();
            let (io, peer) = (Box::new(Counted::new(ours, Rc::default())), "scripted".to_owned());
            Ok(Link { io, peer, address: Some(address), tls: None, http2 })
        })
    }

    fn is_current(&self, _endpoint: usize, peer: IpAddr) -> bool {
        self.peer.panic_if(if self.first == SHADOW { Defect::LendingToShadow } else { Defect::Lending });
        self.peer.addresses.borrow().contains(&peer)
    }

    fn look_around(&self) -> bool {
        self.peer.looks.borrow_mut().as_mut().is_some_and(|look| look())
    }
}

/// Takes decisions, with the time at which each came.
#[derive(Default)]
pub(super) struct Collected(Mutex<HashMap<usize, (Decision, Instant)>>);

impl Receiver for Collected {
    fn receive(&self, batch: &mut Vec<Completed>) {
        for completed in batch.drain(..) {
            let user_data = completed.user_data();
            if let Some(decision) = completed.take() {
                let again = self.0.lock().insert(user_data, (decision, Instant::now()));
                assert!(again.is_none(), "delivered twice");
            }
        }
    }
}

pub(super) struct Bench {
    pub(super) core: Arc<Core>,
    pub(super) peer: Rc<Peer>,
    collected: Arc<Collected>,
    pub(super) began: Instant,
}

impl Bench {
    pub(super) fn submit(&self, check: &Check<'_>, user_data: usize) -> u64 {
        self.try_submit(check, user_data).expect("accepted")
    }

    pub(super) fn try_submit(&self, check: &Check<'_>, user_data: usize) -> Result<u64, SubmitError> {
        let receiver: Arc<dyn Receiver> = Arc::clone(&self.collected) as _;
        Batch::new(&self.core, 1).submit(check, &receiver, Tag { user_data, owner: 0 }, |_| ())
    }

    /// As one of several.
    pub(super) fn submit_in(&self, batch: &mut Batch<'_>, check: &Check<'_>, user_data: usize) -> u64 {
        let receiver: Arc<dyn Receiver> = Arc::clone(&self.collected) as _;
        batch.submit(check, &receiver, Tag { user_data, owner: 0 }, |_| ()).expect("accepted")
    }

    /// In one call.
    pub(super) fn try_submit_all(&self, checks: &[(Check<'_>, usize)]) -> Vec<Result<u64, SubmitError>> {
        let receiver: Arc<dyn Receiver> = Arc::clone(&self.collected) as _;
        let mut batch = Batch::new(&self.core, checks.len());
        let mut submit =
            |check, user_data| batch.submit(check, &receiver, Tag { user_data, owner: 0 }, |_| ());
        checks.iter().map(|(check, user_data)| submit(check, *user_data)).collect()
    }

    pub(super) fn cancel(&self, ticket: u64) -> bool {
        self.core.cancel(Ticket::from_number(ticket))
    }

    /// Other keys, beside those that every bench begins with and memory that ends when it says.
    pub(super) fn reload(&self, keys: &[(&str, &str)]) {
        self.core.set_policy(self.policy_of(keys));
    }

    /// What a reload with these keys would make the policy.
    pub(super) fn policy_of(&self, keys: &[(&str, &str)]) -> Policy {
        let mut config = Config::new();
        let first = [("backend.url", BACKEND), ("default_action", "deny"), ("ttl.jitter", "off")];
        for (key, value) in first.iter().chain(keys) {
            config.set(key, value).unwrap();
        }
        let (settings, before) = (Arc::new(config.settings().unwrap()), self.core.policy());
        Policy::new(settings, Some(&before), &self.core.log).unwrap()
    }

    /// Lets everything run that can run without time passing.
    pub(super) async fn settle(&self) {
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn decision(&self, user_data: usize) -> Option<Decision> {
        self.collected.0.lock().get(&user_data).map(|(decision, _)| decision.clone())
    }

    /// Drops the decision, of a test that makes very many.
    pub(super) fn forget(&self, user_data: usize) {
        self.collected.0.lock().remove(&user_data);
    }

    /// Waits for the decision; when it came, counted from the start.
    pub(super) async fn decided(&self, user_data: usize) -> (Decision, std::time::Duration) {
        loop {
            let found = self.collected.0.lock().get(&user_data).cloned();
            if let Some((decision, at)) = found {
                return (decision, at - self.began);
            }
            // Paused time moves on by itself when nothing else can run.
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
}

thread_local! {
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// Counts the panics of each thread, those that somebody catches included.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            others(info);
        }));
    });
}

/// A shard's surroundings, where they are not the usual ones.
#[derive(Default)]
pub(super) struct Surroundings {
    pub(super) log: Option<Arc<dyn Log>>,
    /// As in an engine, the runtime says when it parks (here it never does): cancels wait for the shard's turn.
    pub(super) hooked: bool,
    /// How many panics there will be; any other number fails the test.
    pub(super) panics: usize,
}

/// Runs `test` beside a shard with these keys (as many as `threads.io` says), on the paused runtime of the caller.
pub(super) async fn with_shard<F: Future<Output = ()>>(
    keys: &[(&str, &str)],
    peer: Rc<Peer>,
    test: impl FnOnce(Rc<Bench>) -> F,
) {
    with_shard_in(Surroundings::default(), keys, peer, test).await;
}

pub(super) async fn with_shard_in<F: Future<Output = ()>>(
    surroundings: Surroundings,
    keys: &[(&str, &str)],
    peer: Rc<Peer>,
    test: impl FnOnce(Rc<Bench>) -> F,
) {
    count_panics();
    PANICS.set(0);
    let mut config = Config::new();
    config.set("backend.url", BACKEND).unwrap();
    config.set("default_action", "deny").unwrap();
    for (key, value) in keys {
        config.set(key, value).unwrap();
    }
    let settings = Arc::new(config.settings().unwrap());
    let log = Arc::new(Logger::new(LogLevel::Warn, surroundings.log, Arc::default()));
    LocalSet::new()
        .run_until(async move {
            let (core, outlets) = core(settings, log).unwrap();
            let threads = outlets.len();
            let run = |(index, outlet): (usize, Outlet)| {
                let dialed = Rc::clone(&peer);
                let transports = Transports::new(outlet.poker(), move |policy| {
                    let first = if policy.settings.is_shadow { SHADOW } else { 0 };
                    let (settings, gauges) = (Arc::clone(&policy.settings), Arc::clone(&policy.gauges));
                    let (peer, known) = (Rc::clone(&dialed), Arc::clone(&policy.addresses));
                    let dialer = Rc::new(Dialer { peer, known, first });
                    Transport::with_dialer(settings, gauges, index, threads, dialer)
                });
                if surroundings.hooked {
                    let _ = outlet.hooks();
                }
                spawn_local(outlet.relay());
                spawn_local(Shard::new(Arc::clone(&core), outlet, transports, index).run())
            };
            let shards: Vec<_> = outlets.into_iter().enumerate().map(run).collect();
            let began = Instant::now();
            let collected = Arc::default();
            let bench = Rc::new(Bench { core, peer, collected, began });
            test(Rc::clone(&bench)).await;
            bench.settle().await;
            let stats = bench.core.stats();
            assert_eq!(stats.submitted, stats.completed + stats.cancelled + stats.pending);
            bench.core.ledger.close();
            bench.core.inboxes.iter().for_each(Inbox::stop);
            for shard in shards {
                shard.await.unwrap();
            }
            bench.settle().await;
            assert_eq!(bench.core.stats().pending, 0, "an engine that ended owes nothing");
        })
        .await;
    assert_eq!(PANICS.get(), surroundings.panics, "panics");
}

pub(super) fn check<'a>(session_id: &'a str, query: &'a str) -> Check<'a> {
    Check {
        session_id: session_id.as_bytes(),
        query: query.as_bytes(),
        path: b"/ch/index.m3u8",
        ip: b"192.0.2.1",
        ..Check::default()
    }
}

pub(super) const ALLOW: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
pub(super) const DENY: &str = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
