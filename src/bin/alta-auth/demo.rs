//! `alta-auth demo`: what the engine does for a media server, in half a minute and without anything else
//! installed. It checks what it shows: whoever runs it after a change learns that something broke.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use alta_auth::{
    Cause, Check, Completed, Config, Decision, Engine, Origin, Receiver, StartError, SubmitError, Verdict,
};
use crossbeam_channel as channel;
use socket2::{Domain, Socket, Type};
use tokio::time::Instant;

use crate::args::{Framing, RuleName};
use crate::backend::{LogTo, Options, Rule, Server};
use crate::config::{self, complain};
use crate::exit;
use crate::human::{self, Latencies};

const SESSIONS: usize = 10_000;
const CHECKS: usize = 100_000;
const ROUND: usize = 10_000;
const WINDOW: usize = 1_000;
/// One session in five has a bad token.
const BAD_EVERY: usize = 5;
/// Longer than any breaker's first pause.
const RECOVERY: Duration = Duration::from_secs(10);

/// `alta-auth demo`.
pub(crate) fn run() -> u8 {
    match show() {
        Ok(wrong) if wrong.is_empty() => {
            println!("\nEverything was as expected. Next: alta-auth check --help, alta-auth verify --help");
            exit::SUCCESS
        }
        Ok(wrong) => {
            for what in wrong {
                println!("\nNOT AS EXPECTED: {what}");
            }
            exit::FAILED
        }
        Err(Failure::Start(error)) => config::report_start(&error),
        Err(Failure::Other(what)) => {
            complain(&what);
            exit::SYSTEM
        }
    }
}

enum Failure {
    Start(StartError),
    Other(String),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Other(format!("the embedded backend: {error}"))
    }
}

/// Shows everything; returns what was not as expected.
fn show() -> Result<Vec<String>, Failure> {
    let mut wrong = Expectations(Vec::new());
    let (_place, address) = hold_port()?;
    let mut server = backend(address)?;
    let engine = engine(server.url()).map_err(Failure::Start)?;
    let sessions = sessions();
    let mut load = Load::new(&engine, &sessions);

    println!("alta-auth demo: a media server asks its billing backend, \"may this client watch?\"\n");
    println!("An embedded backend listens on {}; it allows who has token=123.", server.url());
    println!("The engine asks it over at most 64 connections. Its default_action, for when the backend");
    println!("gives no answer, is deny.\n");

    println!(
        "1. {} checks of {} sessions, {} at a time, the popular ones most often (Zipf);",
        human::count(CHECKS as u64),
        human::count(SESSIONS as u64),
        human::count(WINDOW as u64)
    );
    println!("   one session in five has a bad token.");
    let first = load.run(&picks(CHECKS), || {})?;
    let (counts, stats) = (server.counts(), engine.stats());
    row("allowed", first.allowed, "by the backend: the good tokens, and no other");
    row("denied", first.denied, "by the backend: the bad tokens, and no other");
    row("by default", first.by_default(), "nothing had to be guessed");
    row("coalesced", stats.coalesced, "equal checks at the same time share one request");
    row("requests", stats.exchanges, &format!("the backend counted {}", human::count(counts.requests)));
    row(
        "connections",
        stats.connections_opened,
        &format!(
            "kept open: {} requests on each",
            human::count(stats.exchanges / stats.connections_opened.max(1))
        ),
    );
    println!("   latency      {}", first.latencies.line());
    println!(
        "                (most of it waiting in line: {} checks share 64 connections)",
        human::count(WINDOW as u64)
    );
    println!(
        "   rate         {} checks/s, the backend on the same machine included",
        human::count(human::per_second(CHECKS as u64, first.took))
    );
    wrong.expect(first.misjudged == 0, "a good token was denied or a bad one allowed");
    wrong.expect(first.by_default() == 0, "the default action decided though the backend was there");
    wrong.expect(first.decided() == CHECKS as u64, "some checks got no decision, or two");
    wrong.equal("requests sent and received", stats.exchanges, counts.requests);
    wrong.equal("connections opened and accepted", stats.connections_opened, counts.connections);
    wrong.equal("the backend's verdicts and its requests", counts.allowed + counts.denied, counts.requests);
    wrong.expect(stats.connections_opened <= 64, "more connections than pool.max_connections");
    wrong.equal(
        "checks, and those that were sent or joined",
        CHECKS as u64,
        stats.exchanges - stats.retries + stats.coalesced,
    );

    println!("\n2. {} more; half-way the backend is killed.", human::count(2 * ROUND as u64));
    let mut running = Some(server);
    let second = load.run(&picks(2 * ROUND), || drop(running.take()))?;
    row("by the backend", second.decided() - second.by_default(), "before that");
    row("by default", second.by_default(), "after it: denied, since default_action is deny");
    println!("                because of: {}", second.causes_line());
    println!("   latency      {}", second.latencies.line());
    wrong.expect(second.misjudged == 0, "in the outage somebody was allowed whom the backend did not allow");
    wrong.expect(second.by_default() > 0, "the outage was not noticed");
    wrong.expect(second.decided() == 2 * ROUND as u64, "some checks got no decision, or two");

    println!("\n3. The backend comes back on the same port.");
    let back = Instant::now();
    server = backend(address)?;
    match recovery(&engine, &sessions[0]) {
        Some(denied) => println!(
            "   first answer after {}, {} by default until then; no restart, no intervention",
            human::time(back.elapsed()),
            human::counted(denied, "check")
        ),
        None => wrong.expect(false, "the backend is back, but the engine does not ask it"),
    }
    let third = load.run(&picks(ROUND), || {})?;
    row("by the backend", third.decided() - third.by_default(), "all of the next checks");
    wrong.expect(third.misjudged == 0, "after the outage a good token was denied or a bad one allowed");
    wrong.expect(third.by_default() == 0, "after the recovery the default action still decides");

    wrong.expect(engine.drain(Duration::from_secs(5)), "checks are left over");
    let stats = engine.stats();
    println!(
        "\nEach check got exactly one decision: {} submitted, {} decided, {} pending.",
        human::count(stats.submitted),
        human::count(stats.completed),
        stats.pending
    );
    wrong.equal("checks submitted and decided", stats.submitted, stats.completed);
    server.stop();
    Ok(wrong.0)
}

fn row(what: &str, number: u64, meaning: &str) {
    println!("   {what:<14} {:>9}  {meaning}", human::count(number));
}

/// Keeps the port while the backend is away. Without it a connection attempt to a port of the ephemeral
/// range may be given that very port as its own end, and so connect to itself.
fn hold_port() -> std::io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    let address = socket.local_addr()?.as_socket().expect("an IPv4 socket has an IPv4 address");
    Ok((socket, address))
}

fn backend(address: SocketAddr) -> std::io::Result<Server> {
    let options = Options {
        delay: None,
        fail: 0.0,
        close: false,
        framing: Framing::Chunked,
        idle: None,
        reason: true,
        log: LogTo::Nowhere,
    };
    Server::start(&address.to_string(), Rule::new(RuleName::Custom), options)
}

fn engine(url: &str) -> Result<Engine, StartError> {
    let mut config = Config::new();
    for (key, value) in [
        ("backend.url", format!("{url}/auth").as_str()),
        ("default_action", "deny"),
        ("pool.max_connections", "64"),
        ("timeout", "5s"),
    ] {
        config.set(key, value).map_err(StartError::Config)?;
    }
    Engine::new(&config)
}

struct Session {
    id: String,
    ip: String,
    path: String,
    query: &'static str,
}

impl Session {
    fn check(&self) -> Check<'_> {
        Check {
            session_id: self.id.as_bytes(),
            ip: self.ip.as_bytes(),
            path: self.path.as_bytes(),
            query: self.query.as_bytes(),
            origin: b"https://live.example.com",
            user_agent: b"alta-auth demo",
            ..Check::default()
        }
    }
}

fn is_good(session: usize) -> bool {
    !session.is_multiple_of(BAD_EVERY) || session == 0
}

fn sessions() -> Vec<Session> {
    (0..SESSIONS)
        .map(|index| Session {
            id: format!("session-{index}"),
            ip: format!("198.51.{}.{}", index / 256, index % 256),
            path: format!("/channel-{}/index.m3u8", index % 100),
            query: if is_good(index) { "token=123" } else { "token=124" },
        })
        .collect()
}

/// Which sessions ask, in order: each once if there are enough, the rest by Zipf's law; the same every time.
fn picks(checks: usize) -> Vec<usize> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut total = 0.0;
    let mut cumulative = Vec::with_capacity(SESSIONS);
    for rank in 1..=u32::try_from(SESSIONS).expect("SESSIONS is small") {
        total += 1.0 / f64::from(rank);
        cumulative.push(total);
    }
    let mut picks: Vec<usize> = if checks > SESSIONS { (0..SESSIONS).collect() } else { Vec::new() };
    while picks.len() < checks {
        let at = random.f64() * total;
        picks.push(cumulative.partition_point(|&sum| sum < at).min(SESSIONS - 1));
    }
    random.shuffle(&mut picks);
    picks
}

/// What one round came to.
struct Outcome {
    allowed: u64,
    denied: u64,
    origins: [u64; Origin::ALL.len()],
    causes: [u64; Cause::ALL.len()],
    /// Decisions that the token does not explain.
    misjudged: u64,
    latencies: Latencies,
    took: Duration,
}

impl Outcome {
    fn add(&mut self, session: usize, decision: &Decision) {
        if decision.allows() {
            self.allowed += 1;
        } else {
            self.denied += 1;
        }
        self.origins[decision.origin as usize] += 1;
        self.causes[decision.cause as usize] += 1;
        let expected = decision.origin != Origin::Default && is_good(session);
        self.misjudged += u64::from(decision.allows() != expected);
        self.latencies.record(decision.latency);
    }

    fn decided(&self) -> u64 {
        self.origins.iter().sum()
    }

    fn by_default(&self) -> u64 {
        self.origins[Origin::Default as usize]
    }

    fn causes_line(&self) -> String {
        let causes: Vec<String> = Cause::ALL
            .into_iter()
            .filter(|cause| *cause != Cause::None && self.causes[*cause as usize] > 0)
            .map(|cause| format!("{} {}", cause.name(), human::count(self.causes[cause as usize])))
            .collect();
        causes.join(", ")
    }
}

type Decided = Vec<(usize, Decision)>;

struct ToChannel(channel::Sender<Decided>);

impl Receiver for ToChannel {
    fn receive(&self, batch: &mut Vec<Completed>) {
        let decided = batch.drain(..).filter_map(|completed| {
            let session = completed.user_data();
            completed.take().map(|decision| (session, decision))
        });
        let _ = self.0.send(decided.collect());
    }
}

/// Keeps [`WINDOW`] checks under way.
struct Load<'a> {
    engine: &'a Engine,
    sessions: &'a [Session],
    receiver: Arc<dyn Receiver>,
    decided: channel::Receiver<Decided>,
}

impl<'a> Load<'a> {
    fn new(engine: &'a Engine, sessions: &'a [Session]) -> Self {
        let (sender, decided) = channel::unbounded();
        Self { engine, sessions, receiver: Arc::new(ToChannel(sender)), decided }
    }

    /// `half_way` is called once, when half of the checks are decided and others are under way.
    fn run(&mut self, picks: &[usize], half_way: impl FnOnce()) -> Result<Outcome, Failure> {
        let mut half_way = Some(half_way);
        let began = Instant::now();
        let mut outcome = Outcome {
            allowed: 0,
            denied: 0,
            origins: [0; Origin::ALL.len()],
            causes: [0; Cause::ALL.len()],
            misjudged: 0,
            latencies: Latencies::new(),
            took: Duration::ZERO,
        };
        let (mut submitted, mut decided) = (0, 0);
        while decided < picks.len() {
            let next = &picks[submitted..picks.len().min(decided + WINDOW)];
            let checks = next.iter().map(|&session| (self.sessions[session].check(), session));
            let mut refused: Option<SubmitError> = None;
            self.engine.submit_batch(checks, &self.receiver, |result| match result {
                Ok(_) => submitted += 1,
                Err(error) => refused = Some(error),
            });
            if let Some(error) = refused {
                return Err(Failure::Other(format!("a check was not accepted: {error}")));
            }
            if decided >= picks.len() / 2
                && let Some(half_way) = half_way.take()
            {
                half_way();
            }
            let Ok(batch) = self.decided.recv_timeout(Duration::from_secs(20)) else {
                return Err(Failure::Other("no decision came for 20 s".to_owned()));
            };
            decided += batch.len();
            for (session, decision) in &batch {
                outcome.add(*session, decision);
            }
        }
        outcome.took = began.elapsed();
        Ok(outcome)
    }
}

/// Asks until the backend answers; how often the default action decided before.
fn recovery(engine: &Engine, session: &Session) -> Option<u64> {
    let began = Instant::now();
    let mut defaults = 0;
    while began.elapsed() < RECOVERY {
        match engine.check_blocking(&session.check()) {
            Ok(decision) if decision.origin == Origin::Backend => {
                return (decision.verdict == Verdict::Allow).then_some(defaults);
            }
            Ok(_) => defaults += 1,
            Err(_) => return None,
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

struct Expectations(Vec<String>);

impl Expectations {
    fn expect(&mut self, holds: bool, otherwise: &str) {
        if !holds {
            self.0.push(otherwise.to_owned());
        }
    }

    fn equal(&mut self, what: &str, left: u64, right: u64) {
        if left != right {
            self.0.push(format!("{what} differ: {} and {}", human::count(left), human::count(right)));
        }
    }
}
