//! The steps of a check, one by one: validate and key, lookup, submit, join, serialise, parse, complete.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use alta_auth::steps::Steps;
use alta_auth::{Check, Completed, Config, Engine, Receiver};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Type: text/plain\r\nX-UserId: u1\r\n\
    X-AuthDuration: 60\r\nContent-Length: 0\r\n\r\n";
const IN_FLIGHT: usize = 1000;

fn check(session_id: &[u8]) -> Check<'_> {
    Check {
        session_id,
        ip: b"203.0.113.77",
        path: b"/channels/first/index.m3u8",
        query: b"token=8d1c2a7be7e84ac1b5a3f0f4d9a1c333&device=stb-4711",
        origin: b"cdn.example.com",
        user_agent: b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
        ..Check::default()
    }
}

/// Answers every request, or none.
fn backend(reply: Option<&'static [u8]>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/auth", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|read| read > 0) {
                    if let Some(reply) = reply {
                        let _ = stream.write_all(reply);
                    }
                }
            });
        }
    });
    url
}

fn config(url: &str) -> Config {
    let mut config = Config::new();
    for (key, value) in [
        ("backend.url", url),
        ("default_action", "deny"),
        ("timeout", "60s"),
        ("threads.callback", "0"),
        ("inbox.capacity", "1000000"),
    ] {
        config.set(key, value).unwrap();
    }
    config
}

#[derive(Default)]
struct Counted(AtomicUsize);

impl Receiver for Counted {
    fn receive(&self, batch: &mut Vec<Completed>) {
        let taken = batch.drain(..).filter_map(Completed::take).count();
        self.0.fetch_add(taken, Ordering::Relaxed);
    }
}

fn steps(criterion: &mut Criterion) {
    let mut steps = Steps::new(&config("http://127.0.0.1:9/auth?key=1"));
    criterion.bench_function("validate and key", |bencher| bencher.iter(|| steps.key(&check(b"a-session"))));
    let asked = steps.question(&check(b"a-session"));
    criterion.bench_function("serialise", |bencher| bencher.iter(|| steps.serialise(&asked)));
    criterion.bench_function("parse and judge", |bencher| bencher.iter(|| assert!(steps.parse(REPLY))));
    criterion.bench_function("complete", |bencher| bencher.iter(|| assert!(steps.complete())));
}

fn engine(criterion: &mut Criterion) {
    let answering = Engine::new(&config(&backend(Some(REPLY)))).unwrap();
    answering.check_blocking(&check(b"a-session")).unwrap();
    criterion.bench_function("lookup", |bencher| {
        bencher.iter(|| assert!(answering.lookup(&check(b"a-session")).unwrap().is_some()));
    });

    // Its thread sleeps in between: with the wake-up of the first.
    let hung = Engine::new(&config(&backend(None))).unwrap();
    let counted = Arc::new(Counted::default());
    let receiver: Arc<dyn Receiver> = Arc::clone(&counted) as _;
    let many = |same: bool| {
        let ids: Vec<_> = (0..IN_FLIGHT).map(|n| format!("s{}", if same { 0 } else { n })).collect();
        let tickets: Vec<_> =
            ids.iter().map(|id| hung.submit(&check(id.as_bytes()), &receiver, 0).unwrap()).collect();
        tickets
    };
    for (name, same) in [("submit, 1,000 sessions", false), ("join, 1,000 of one session", true)] {
        criterion.bench_function(name, |bencher| {
            bencher.iter_batched(
                || (),
                |()| {
                    for ticket in many(same) {
                        hung.cancel(ticket);
                    }
                },
                BatchSize::PerIteration,
            );
        });
    }
}

criterion_group!(benches, steps, engine);
criterion_main!(benches);
