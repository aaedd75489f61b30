//! A defect that ends the work of an I/O thread: everything it owed is answered, and the next check is asked.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::said::Lines;
use super::support::ALLOW;
use crate::check::Check;
use crate::config::Config;
use crate::decision::{Cause, Decision, Verdict};
use crate::engine::completion::{Completed, Receiver};
use crate::engine::inbox::News;
use crate::engine::{Engine, SubmitError};
use crate::observe::{Log, LogLevel};

/// Answers every request like this, but those that say `hang`.
fn backend(reply: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/auth", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while let Ok(1) = stream.read(&mut byte) {
                    head.push(byte[0]);
                    if head.ends_with(b"\r\n\r\n") {
                        if !head.windows(4).any(|part| part == b"hang") {
                            let _ = stream.write_all(reply.as_bytes());
                        }
                        head.clear();
                    }
                }
            });
        }
    });
    url
}

#[derive(Default)]
struct Told {
    decisions: Mutex<Vec<(usize, Decision)>>,
    more: Condvar,
    /// The last that told.
    thread: Mutex<Option<thread::ThreadId>>,
}

impl Receiver for Told {
    fn receive(&self, batch: &mut Vec<Completed>) {
        *self.thread.lock() = Some(thread::current().id());
        for completed in batch.drain(..) {
            completed.hand_over(|user_data, decision| self.decisions.lock().push((user_data, decision)));
        }
        self.more.notify_all();
    }
}

impl Told {
    fn wait(&self, count: usize) -> Vec<(usize, Decision)> {
        let mut decisions = self.decisions.lock();
        while decisions.len() < count {
            self.more.wait(&mut decisions);
        }
        decisions.clone()
    }
}

#[test]
fn a_defect_answers_everything_that_was_taken_in_and_the_thread_begins_anew() {
    let lines = Arc::new(Lines::default());
    let mut config = Config::new();
    for (key, value) in
        [("backend.url", backend(ALLOW).as_str()), ("default_action", "allow"), ("timeout", "60s")]
    {
        config.set(key, value).unwrap();
    }
    config.set_log(Arc::clone(&lines) as _);
    let engine = Engine::new(&config).unwrap();
    let told = Arc::new(Told::default());
    let receiver: Arc<dyn Receiver> = Arc::clone(&told) as _;
    let ask = |number: usize, query: &[u8]| -> Result<u64, SubmitError> {
        let id = format!("s{number}");
        engine.submit(&Check { session_id: id.as_bytes(), query, ..Check::default() }, &receiver, number)
    };
    let mut asked_by = None;
    for round in 1..=3 {
        told.decisions.lock().clear();
        for number in 0..1_000 {
            ask(number, b"hang=1").unwrap();
        }
        engine
            .watch(&Check { session_id: b"w", query: b"hang=1", ..Check::default() }, &receiver, 5_000)
            .unwrap();
        engine.core.inboxes[0].tell(News::Panic);
        let decisions = told.wait(1_001);
        assert_eq!(decisions.len(), 1_001, "each once");
        for (of, decision) in decisions {
            // A defect of ours lets nobody in.
            assert_eq!((decision.verdict, decision.cause), (Verdict::Deny, Cause::Internal), "{of}");
            assert_eq!(decision.last, of == 5_000);
        }
        told.decisions.lock().clear();
        ask(0, b"").unwrap();
        assert_eq!(told.wait(1)[0].1.cause, Cause::None);
        // The same one: where the system gives no thread, there is still one that asks.
        let thread = *told.thread.lock();
        assert_eq!(*asked_by.get_or_insert(thread), thread);
        let stats = engine.stats();
        assert_eq!((stats.restarts, stats.pending, stats.watching), (round, 0, 0));
    }
    drop(engine);
    let said = lines.said().iter().filter(|line| line.contains("begins anew")).count();
    assert_eq!(said, 3);
}

/// What it says may be a client's: where it was is all that is told, and only to the log.
#[test]
fn of_a_defect_the_log_says_where_it_was_and_nothing_is_printed() {
    // The hook is everybody's, and what is printed is looked at.
    let name = "engine::tests::rebirth::of_a_defect_the_log_says_where_it_was_and_nothing_is_printed";
    if let Some((_, errors)) = crate::own_process::printed(name, "") {
        assert!(errors.contains("the host's") && !errors.contains("token"), "{errors}");
        return;
    }
    crate::sys::silence_own_panics();
    let lines = Arc::new(Lines::default());
    let mut config = Config::new();
    config.set("backend.url", &backend(ALLOW)).unwrap();
    config.set("default_action", "deny").unwrap();
    config.set_log(Arc::clone(&lines) as Arc<dyn Log>);
    let engine = Engine::new(&config).unwrap();
    engine.core.inboxes[0].tell(News::Panic);
    let told = Arc::new(Told::default());
    let receiver: Arc<dyn Receiver> = Arc::clone(&told) as _;
    engine.submit(&Check { session_id: b"s", ..Check::default() }, &receiver, 1).unwrap();
    told.wait(1);
    let _ = thread::spawn(|| panic!("the host's")).join();
    drop(engine);
    let lines = lines.said();
    let places: Vec<_> = lines.iter().filter(|line| line.contains("please report it")).collect();
    assert!(matches!(places[..], [line] if line.contains("a defect at src/engine/shard.rs:")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("token")), "{lines:?}");
}

/// Panics in whatever it is called for.
#[derive(Default)]
struct Broken(Mutex<Vec<String>>);

impl Log for Broken {
    fn log(&self, _: LogLevel, line: &str) {
        self.0.lock().push(line.to_owned());
        panic!("the host's log");
    }
}

/// It goes where the host's panics go.
#[test]
fn a_panic_of_the_host_s_code_is_no_defect_of_ours() {
    let name = "engine::tests::rebirth::a_panic_of_the_host_s_code_is_no_defect_of_ours";
    if let Some((_, errors)) = crate::own_process::printed(name, "") {
        for code in ["the host's log", "the host's callback"] {
            assert!(errors.contains(code), "{code}: {errors}");
        }
        return;
    }
    crate::sys::silence_own_panics();
    let lines = Arc::new(Broken::default());
    let mut config = Config::new();
    // Nobody listens there: each check is a line.
    for (key, value) in [
        ("backend.url", "unix:/nowhere/socket:/auth"),
        ("default_action", "deny"),
        ("log.level", "debug"),
        ("breaker.failures", "1000"),
    ] {
        config.set(key, value).unwrap();
    }
    config.set_log(Arc::clone(&lines) as Arc<dyn Log>);
    let engine = Engine::new(&config).unwrap();
    let callback = engine.callback(|_, _| panic!("the host's callback"));
    for number in 0..3_u8 {
        engine.submit(&Check { session_id: &[b'a' + number], ..Check::default() }, &callback, 0).unwrap();
        assert!(engine.drain(Duration::MAX));
    }
    drop(engine);
    let lines = lines.0.lock();
    let said = |words: &str| lines.iter().filter(|line| line.contains(words)).count();
    assert_eq!(said("a callback panicked"), 3, "{lines:?}");
    assert!(said("/nowhere/socket") >= 3, "{lines:?}");
    assert_eq!(said("please report it"), 0, "{lines:?}");
}

/// What is done around a call of the host's code is ours.
#[test]
fn a_defect_of_ours_beside_a_callback_is_not_the_host_s() {
    let name = "engine::tests::rebirth::a_defect_of_ours_beside_a_callback_is_not_the_host_s";
    if let Some((_, errors)) = crate::own_process::printed(name, "") {
        assert!(!errors.contains("panicked"), "{errors}");
        return;
    }
    crate::sys::silence_own_panics();
    for threads in ["0", "1"] {
        let lines = Arc::new(Lines::default());
        let mut config = Config::new();
        for (key, value) in [
            ("backend.url", backend(ALLOW).as_str()),
            ("default_action", "deny"),
            ("threads.callback", threads),
        ] {
            config.set(key, value).unwrap();
        }
        config.set_log(Arc::clone(&lines) as Arc<dyn Log>);
        let engine = Engine::new(&config).unwrap();
        let called = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&called);
        let callback = engine.callback(move |_, _| *counter.lock() += 1);
        let inside = crate::sys::Inside::enter();
        callback.receive(&mut vec![Completed::taken()]);
        drop(inside);
        engine.submit(&Check { session_id: b"s", ..Check::default() }, &callback, 1).unwrap();
        assert!(engine.drain(Duration::MAX));
        drop(engine);
        assert_eq!(*called.lock(), 1);
        let lines = lines.said();
        let said = |words: &str| lines.iter().filter(|line| line.contains(words)).count();
        assert_eq!(said("a defect at src/engine/completion.rs:"), 1, "{lines:?}");
        assert_eq!(said("a callback panicked"), 0, "{lines:?}");
    }
}

/// Holds the I/O thread in its first delivery until it is let go.
struct Gate {
    entered: crossbeam_channel::Sender<()>,
    go_on: crossbeam_channel::Receiver<()>,
    told: Arc<Told>,
}

impl Receiver for Gate {
    fn receive(&self, batch: &mut Vec<Completed>) {
        let _ = self.entered.send(());
        let _ = self.go_on.recv();
        self.told.receive(batch);
    }
}

const PLACED: &str = "HTTP/1.1 200 OK\r\nX-AuthDuration: 1000\r\nX-UserId: u1\r\nX-Max-Sessions: 1\r\nContent-Length: 0\r\n\r\n";

fn engine(reply: &'static str, keys: &[(&str, &str)]) -> Engine {
    let mut config = Config::new();
    for (key, value) in
        [("backend.url", backend(reply).as_str()), ("default_action", "deny")].iter().chain(keys)
    {
        config.set(key, value).unwrap();
    }
    Engine::new(&config).unwrap()
}

fn named(id: &str) -> Check<'_> {
    Check { session_id: id.as_bytes(), ..Check::default() }
}

#[test]
fn what_was_decided_in_the_turn_of_a_defect_is_delivered() {
    let engine = engine(PLACED, &[]);
    let told = Arc::new(Told::default());
    let receiver: Arc<dyn Receiver> = Arc::clone(&told) as _;
    engine.submit(&named("s"), &receiver, 1).unwrap();
    told.wait(1);
    engine.watch(&named("w"), &receiver, 2).unwrap();
    told.wait(2);

    let (entered, has_entered) = crossbeam_channel::bounded(1);
    let (let_go, go_on) = crossbeam_channel::bounded(0);
    let gate: Arc<dyn Receiver> = Arc::new(Gate { entered, go_on, told: Arc::clone(&told) });
    engine.submit(&named("other"), &gate, 3).unwrap();
    has_entered.recv().unwrap();
    // All of this waits for one turn: a decision that is remembered, a revocation, and the defect.
    engine.submit(&named("s"), &receiver, 4).unwrap();
    engine.revoke(b"w");
    engine.core.inboxes[0].tell(News::Panic);
    let_go.send(()).unwrap();
    let told = told.wait(5);
    let of = |number| {
        told.iter()
            .filter(|told| told.0 == number)
            .map(|told| (told.1.verdict, told.1.last))
            .collect::<Vec<_>>()
    };
    assert_eq!(of(4), [(Verdict::Allow, false)]);
    assert_eq!(of(2), [(Verdict::Allow, false), (Verdict::Deny, true)]);
    assert_eq!(engine.stats().cancelled, 0);
}

#[test]
fn a_defect_gives_back_the_places_of_the_watches_that_it_ends() {
    let engine = engine(PLACED, &[("sessions.enforce", "newest"), ("sessions.idle", "1h")]);
    let told = Arc::new(Told::default());
    let receiver: Arc<dyn Receiver> = Arc::clone(&told) as _;
    engine.watch(&named("a"), &receiver, 1).unwrap();
    told.wait(1);
    engine.submit(&named("b"), &receiver, 2).unwrap();
    assert_eq!(told.wait(2)[1].1.verdict, Verdict::Deny, "the twin: the place is taken");
    engine.core.inboxes[0].tell(News::Panic);
    assert!(told.wait(3)[2].1.last);
    engine.submit(&named("c"), &receiver, 3).unwrap();
    assert_eq!(told.wait(4)[3].1.verdict, Verdict::Allow);
}

/// Twins: nothing was revoked.
#[test]
fn a_defect_lets_nobody_in_once_a_session_was_revoked() {
    for (revoked, verdict) in [(false, Verdict::Allow), (true, Verdict::Deny)] {
        let engine = engine(ALLOW, &[("default_action", "allow"), ("fail_open.overload", "on")]);
        let told = Arc::new(Told::default());
        let receiver: Arc<dyn Receiver> = Arc::clone(&told) as _;
        if revoked {
            engine.revoke(b"s");
        }
        engine.submit(&Check { query: b"hang=1", ..named("s") }, &receiver, 1).unwrap();
        engine.core.inboxes[0].tell(News::Panic);
        let (_, decision) = told.wait(1).remove(0);
        assert_eq!((decision.verdict, decision.cause), (verdict, Cause::Internal), "{revoked}");
    }
}
