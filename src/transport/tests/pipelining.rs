//! `http.pipeline`: answers go to those who asked, whatever the peer does with the order, the framing or the connection.

mod bodies;
mod elsewhere;
mod faults;
mod given_up;
mod order;
mod windows;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::replies::HalfDeaf;
use super::*;
use crate::transport::pool::windows::REST;
use crate::transport::scripted::Scripted;

const TARGETS: [&str; 24] = [
    "/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8", "/9", "/10", "/11", "/12", "/13", "/14", "/15",
    "/16", "/17", "/18", "/19", "/20", "/21", "/22", "/23",
];

/// The status and who it is for, or what went wrong.
type Got = Result<(u16, String), Failure>;

struct Pipelined {
    world: World,
    peer: Peer,
}

impl Pipelined {
    /// One connection with a window of `window`, on which two were answered already.
    async fn new(window: &'static str) -> Self {
        Self::with(window, &[]).await
    }

    async fn with(window: &'static str, set: &[(&str, &str)]) -> Self {
        let world = untried(window, set);
        let two = [asking(&world, 22), asking(&world, 23)];
        let mut world = world;
        let mut peer = world.peer().await;
        for asked in ["/22", "/23"] {
            assert_eq!(peer.target().await, asked);
        }
        peer.reply(&[reply("/22"), reply("/23")].concat()).await;
        for asking in two {
            assert!(asking.await.unwrap().is_ok());
        }
        settle().await;
        assert_eq!(world.gauges(), (1, 1, 1, 0));
        Self { world, peer }
    }

    /// All at once.
    async fn ask(&mut self, count: usize) -> Vec<JoinHandle<Got>> {
        let asking = (0..count).map(|index| asking(&self.world, index)).collect();
        settle().await;
        asking
    }
}

fn untried(window: &'static str, set: &[(&str, &str)]) -> World {
    let keys = [("http.lane", "wire"), ("http.pipeline", window), ("pool.max_connections", "1")];
    World::new(&[&keys, set].concat())
}

fn asking(world: &World, index: usize) -> JoinHandle<Got> {
    asking_with(world, index, false, Rc::default())
}

fn asking_with(world: &World, index: usize, fresh: bool, progress: Rc<Progress>) -> JoinHandle<Got> {
    let transport = Rc::clone(&world.transport);
    spawn_local(async move {
        let reply = ask_for(TARGETS[index], &transport, fresh, &progress).await?;
        let user = reply.headers.get("x-userid").map(|user| user.to_str().unwrap().to_owned());
        reply.body.discard();
        Ok((reply.status, user.unwrap_or_default()))
    })
}

/// Of two verdicts in turn.
fn status(target: &str) -> u16 {
    if target.len() % 2 == target.bytes().last().map_or(0, usize::from) % 2 { 200 } else { 403 }
}

fn reply(target: &str) -> Vec<u8> {
    format!("HTTP/1.1 {} X\r\nX-UserId: {target}\r\nContent-Length: 2\r\n\r\nok", status(target)).into_bytes()
}

fn replies(of: std::ops::Range<usize>) -> Vec<u8> {
    of.flat_map(|index| reply(TARGETS[index])).collect()
}

async fn is_its_own(asking: JoinHandle<Got>, index: usize) {
    let target = TARGETS[index];
    assert_eq!(asking.await.unwrap().unwrap(), (status(target), target.to_owned()));
}

/// Of one that nobody else wakes.
async fn has_joined<T>(exchange: &mut std::pin::Pin<Box<impl Future<Output = T>>>) {
    for _ in 0..4 {
        assert!(timeout(Duration::ZERO, exchange.as_mut()).await.is_err());
        settle().await;
    }
}

async fn failure(asking: JoinHandle<Got>) -> (Cause, bool) {
    let failure = asking.await.unwrap().expect_err("no reply");
    (failure.cause, failure.retry_is_safe)
}

/// Sent, and no byte of its reply came.
const AGAIN: (Cause, bool) = (Cause::Reset, true);
const BROKEN: (Cause, bool) = (Cause::Protocol, false);

impl Peer {
    async fn target(&mut self) -> String {
        self.request().await.split(' ').nth(1).unwrap().to_owned()
    }

    /// The targets of all that has been sent so far.
    async fn targets(&mut self) -> Vec<String> {
        settle().await;
        let mut bytes = Vec::new();
        while let Ok(Ok(1..)) = timeout(Duration::ZERO, self.0.read_buf(&mut bytes)).await {}
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.is_empty() || text.ends_with("\r\n\r\n"), "{text:?}");
        text.split_terminator("\r\n\r\n").map(|head| head.split(' ').nth(1).unwrap().to_owned()).collect()
    }

    async fn is_closed(&mut self) -> bool {
        settle().await;
        let mut bytes = Vec::new();
        matches!(timeout(Duration::ZERO, self.0.read_to_end(&mut bytes)).await, Ok(Ok(_)))
    }
}

/// What a check comes to: the status and the user, or the cause and whether it may be asked again.
type Comes = Result<(u16, String), (Cause, bool)>;

/// Its first connection is a deaf or defective one; the others are scripted.
struct Deaf(RefCell<Option<Box<dyn Io>>>, Rc<Scripted>);

impl Dial for Deaf {
    fn dial(&self, endpoint: usize, among: Among, watch: Rc<Watch>) -> Dialing {
        let Some(io) = self.0.take() else { return self.1.dial(endpoint, among, watch) };
        let peer = String::new();
        Box::pin(async move { Ok(Link { io, peer, address: None, tls: None, http2: false }) })
    }
}

/// Over this connection first.
fn first_over(io: Box<dyn Io>) -> World {
    let mut world = untried("4", &[]);
    let mut config = Config::new();
    for (key, value) in [
        ("backend.url", "http://192.0.2.1/auth"),
        ("default_action", "deny"),
        ("http.pipeline", "4"),
        ("pool.max_connections", "1"),
    ] {
        config.set(key, value).unwrap();
    }
    let (settings, gauges) = (Arc::new(config.settings().unwrap()), Arc::clone(&world.gauges));
    let dialer = Rc::new(Deaf(RefCell::new(Some(io)), Rc::clone(&world.dialer)));
    world.transport = Transport::with_dialer(settings, gauges, 0, 1, dialer);
    world
}
