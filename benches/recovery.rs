//! What `make bench-recovery` runs: an outage of a minute under full load, and the return of the backend.
//!
//! The backend is a process of its own, this program again, which counts what it is asked. It is killed (connections are
//! refused) or stopped (they are accepted and nothing comes), for [`OUTAGE`]; the engine has the defaults of its
//! configuration. Checks come at a steady rate, each of another session, from 250 addresses.
//!
//! A recovery's length depends on when the outage ends between two probes, so there is no bound here that could fail:
//! `breaker.max_cooldown` and a tenth is what it is bounded by.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, for who runs it")]
#![expect(clippy::unchecked_time_subtraction, reason = "what is subtracted was before")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alta_auth::{Cause, Check, Config, Decision, Engine, Origin, Receiver};
use parking_lot::Mutex;

/// Of normal load before, and of load after the return.
const BEFORE: Duration = Duration::from_secs(5);
const OUTAGE: Duration = Duration::from_mins(1);
const AFTER: Duration = Duration::from_secs(10);
/// The longest that is waited for the first answer.
const PATIENCE: Duration = Duration::from_secs(90);
/// Percent of what the backend answers at most.
const LOAD: usize = 60;
/// What is counted together.
const STEP: Duration = Duration::from_millis(100);

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, word, port] = &arguments[..]
        && word == "backend"
    {
        return serve(port.parse().unwrap());
    }
    let seconds = std::env::var("ALTA_AUTH_OUTAGE").ok().map(|text| text.parse().unwrap());
    let outage = seconds.map_or(OUTAGE, Duration::from_secs);
    for form in [Form::Killed, Form::Stopped] {
        measure(form, outage);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Killed,
    Stopped,
}

// The backend.

/// Allows whatever it is asked, and says every 10 ms what it was asked since: the time, requests, connections so far.
fn serve(port: u16) {
    static REQUESTS: AtomicU64 = AtomicU64::new(0);
    static ACCEPTED: AtomicUsize = AtomicUsize::new(0);
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    println!("port {}", listener.local_addr().unwrap().port());
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_millis(10));
            let (requests, accepted) = (REQUESTS.swap(0, Ordering::SeqCst), ACCEPTED.load(Ordering::SeqCst));
            if requests > 0 {
                println!("{} {requests} {accepted}", now().as_micros());
            }
        }
    });
    for stream in listener.incoming() {
        ACCEPTED.fetch_add(1, Ordering::SeqCst);
        let stream = stream.unwrap();
        let _ = stream.set_nodelay(true);
        std::thread::spawn(move || answer(stream, &REQUESTS));
    }
}

fn answer(mut stream: TcpStream, requests: &AtomicU64) -> Option<()> {
    let (mut received, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut piece).ok()? {
            0 => return None,
            count => received.extend_from_slice(&piece[..count]),
        }
        if received.ends_with(b"\r\n\r\n") {
            received.clear();
            requests.fetch_add(1, Ordering::SeqCst);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").ok()?;
        }
    }
}

/// What the backend has said: when, how many requests since, how many connections in all.
type Said = Arc<Mutex<Vec<(Duration, u64, usize)>>>;

struct Backend {
    process: Child,
    port: u16,
    said: Said,
}

impl Backend {
    fn start(port: u16) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["backend", &port.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.next().unwrap().strip_prefix("port ").unwrap().parse().unwrap();
        let said = Said::default();
        let listened = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in lines {
                let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
                listened.lock().push((Duration::from_micros(numbers[0]), numbers[1], numbers[2] as usize));
            }
        });
        Self { process, port, said }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.process.id().to_string()]).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

// The load.

/// When, by whom, why, and how long it took.
type Decided = (Duration, Origin, Cause, Duration);

#[derive(Default)]
struct Tally {
    pending: AtomicUsize,
    decided: Mutex<Vec<Decided>>,
}

struct Load<'a> {
    engine: &'a Engine,
    tally: Arc<Tally>,
    receiver: Arc<dyn Receiver>,
    number: usize,
    refused: usize,
}

impl<'a> Load<'a> {
    fn new(engine: &'a Engine) -> Self {
        let tally = Arc::<Tally>::default();
        let told = Arc::clone(&tally);
        let receiver = engine.callback(move |_, decision: Decision| {
            told.pending.fetch_sub(1, Ordering::SeqCst);
            told.decided.lock().push((now(), decision.origin, decision.cause, decision.latency));
        });
        Self { engine, tally, receiver, number: 0, refused: 0 }
    }

    fn submit(&mut self) {
        let (id, ip) = (format!("s{}", self.number), format!("192.0.2.{}", self.number % 250));
        let check = Check {
            session_id: id.as_bytes(),
            ip: ip.as_bytes(),
            path: b"/ch/index.m3u8",
            query: b"token=123",
            ..Check::default()
        };
        self.number += 1;
        self.tally.pending.fetch_add(1, Ordering::SeqCst);
        if self.engine.submit(&check, &self.receiver, 0).is_err() {
            self.tally.pending.fetch_sub(1, Ordering::SeqCst);
            self.refused += 1;
        }
    }

    /// As fast as they are answered, 512 at a time; how many a second were.
    fn most(&mut self) -> usize {
        const SECONDS: usize = 3;
        let (began, time) = (now(), Duration::from_secs(SECONDS as u64));
        while now() < began + time {
            while self.tally.pending.load(Ordering::SeqCst) < 512 {
                self.submit();
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        self.take().len() / SECONDS
    }

    /// So many a second, until `over`.
    fn steady(&mut self, rate: usize, mut over: impl FnMut(&Tally) -> bool) {
        let (began, first) = (now(), self.number);
        while !over(&self.tally) {
            let due = first + (now() - began).as_micros() as usize * rate / 1_000_000;
            while self.number < due {
                self.submit();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn take(&self) -> Vec<Decided> {
        std::mem::take(&mut *self.tally.decided.lock())
    }
}

fn causes(decided: &[Decided]) -> String {
    let count = |cause: &Cause| decided.iter().filter(|one| one.2 == *cause).count();
    let met = Cause::ALL.iter().filter(|cause| count(cause) > 0);
    met.fold(String::new(), |text, cause| format!("{text} {cause:?} {}", count(cause)))
}

fn slowest(decided: &[Decided]) -> Duration {
    decided.iter().map(|one| one.3).max().unwrap_or_default()
}

fn measure(form: Form, outage: Duration) {
    let mut backend = Backend::start(0);
    let mut config = Config::new();
    let url = format!("http://127.0.0.1:{}/auth", backend.port);
    config.set("backend.url", &url).unwrap();
    config.set("default_action", "deny").unwrap();
    let engine = Engine::new(&config).unwrap();
    let mut load = Load::new(&engine);
    let most = load.most();
    let rate = most * LOAD / 100;
    println!("{form:?} for {} s; the backend answers {most} checks/s, load {rate}/s", outage.as_secs());

    let began = now();
    load.steady(rate, |_| now() - began > BEFORE);
    let normal = load.take();
    println!("  before: {} decisions:{}, slowest {:?}", normal.len(), causes(&normal), slowest(&normal));

    match form {
        Form::Killed => backend.signal("KILL"),
        Form::Stopped => backend.signal("STOP"),
    }
    let gone = now();
    load.steady(rate, |_| now() - gone > outage);
    let meanwhile = load.take();
    let answered = meanwhile.iter().filter(|one| one.1 == Origin::Backend).count();
    println!(
        "  meanwhile: {} decisions, {answered} by the backend (before it was gone):{}; slowest {:?}; not accepted {}",
        meanwhile.len(),
        causes(&meanwhile),
        slowest(&meanwhile),
        load.refused
    );

    let (known, back) = (backend.said.lock().last().map_or(0, |said| said.2), now());
    let known = match form {
        Form::Stopped => {
            backend.signal("CONT");
            known
        }
        Form::Killed => {
            let port = backend.port;
            drop(backend);
            backend = Backend::start(port);
            0
        }
    };
    let first_of = |tally: &Tally| {
        let decided = tally.decided.lock();
        decided.iter().find(|one| one.1 == Origin::Backend).map(|one| one.0)
    };
    let mut first = None;
    load.steady(rate, |tally| {
        first = first.or_else(|| first_of(tally));
        first.is_some_and(|first| now() - first > AFTER) || now() - back > PATIENCE
    });
    let Some(first) = first else {
        println!("  after: no decision by the backend within {PATIENCE:?}");
        return;
    };
    let after = load.take();
    let unanswered: Vec<_> = after.iter().filter(|one| one.1 == Origin::Default).copied().collect();
    let last = unanswered.iter().map(|one| one.0).max().unwrap_or(back);
    println!(
        "  after: first decision by the backend {:?} after its return; by default{}, the last {:?} after the first; \
         slowest {:?}",
        first - back,
        causes(&unanswered),
        last.saturating_sub(first),
        slowest(&after)
    );

    let said = backend.said.lock().clone();
    let since = |from: Duration, time: Duration| {
        let within = said.iter().filter(|one| one.0 >= from && one.0 < from + time);
        within.fold((0, known), |(requests, most), one| (requests + one.1, most.max(one.2)))
    };
    let (at_return, connections) = since(back, Duration::from_secs(1));
    println!(
        "  in the second after its return: {at_return} requests at the backend, {} new connections",
        connections - known
    );
    let (requests, connections) = since(first - Duration::from_millis(20), Duration::from_secs(1));
    println!(
        "  in the second after the first: {requests} requests at the backend, {} new connections",
        connections - known
    );
    let wanted = rate * STEP.as_millis() as usize / 1000 * 9 / 10;
    let usual = (0..100).map(|step| STEP * step).find(|from| {
        let answered = |one: &&Decided| {
            one.1 == Origin::Backend && one.0 >= first + *from && one.0 < first + *from + STEP
        };
        after.iter().filter(answered).count() >= wanted
    });
    println!(
        "  nine tenths of the load are answered, first in the 0.1 s that begin {usual:?} after the first"
    );
    println!("  the breaker opened {} times", engine.stats().endpoints[0].breaker_opened);
}
