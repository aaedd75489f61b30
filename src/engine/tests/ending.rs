//! The end of an engine while hosts submit: what was accepted is decided, once.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;

use crate::check::Check;
use crate::config::Config;
use crate::decision::Cause;
use crate::engine::completion::{Completed, Receiver, Tag};
use crate::engine::{Engine, SubmitError};
use crate::observe::{Log, LogLevel};

#[derive(Default)]
struct Causes(Mutex<Vec<Cause>>);

impl Receiver for Causes {
    fn receive(&self, batch: &mut Vec<Completed>) {
        let taken = batch.drain(..).filter_map(Completed::take);
        self.0.lock().extend(taken.map(|decision| decision.cause));
    }
}

/// Its backend never answers.
fn config(backend: &TcpListener) -> Config {
    let url = format!("http://{}/auth", backend.local_addr().unwrap());
    let mut config = Config::new();
    for (key, value) in [("backend.url", url.as_str()), ("default_action", "deny"), ("timeout", "60s")] {
        config.set(key, value).unwrap();
    }
    config
}

fn engine(backend: &TcpListener) -> Engine {
    Engine::new(&config(backend)).unwrap()
}

/// The engine ends between a submit's look whether it may and its message.
#[test]
fn a_check_that_the_end_overtakes_is_decided() {
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    for round in 0..200 {
        let engine = engine(&backend);
        let causes = Arc::new(Causes::default());
        let receiver: Arc<dyn Receiver> = Arc::clone(&causes) as _;
        thread::scope(|scope| {
            let check = Check { session_id: b"s", ..Check::default() };
            let begin_to_end = |_| {
                scope.spawn(|| engine.shutdown(Duration::ZERO));
                while !engine.core.is_closed() || round % 2 == 1 && !engine.core.inboxes[0].is_stopped() {
                    thread::yield_now();
                }
            };
            let tag = Tag { user_data: 7, owner: 0 };
            engine.batch(1).submit(&check, &receiver, tag, begin_to_end).expect("it was not closed yet");
        });
        assert_eq!(*causes.0.lock(), [Cause::Shutdown], "round {round}");
        let stats = engine.stats();
        assert_eq!((stats.submitted, stats.completed, stats.pending), (1, 1, 0));
        assert_eq!(
            engine.submit(&Check { session_id: b"s", ..Check::default() }, &receiver, 0),
            Err(SubmitError::Closed)
        );
        assert_eq!(engine.stats().submitted, 1, "a refused check leaves nothing");
    }
}

/// Puts aside what it gets, and does not shelve it: nobody has taken it, and it has not ended.
#[derive(Default)]
struct Kept(Mutex<Vec<Completed>>);

impl Receiver for Kept {
    fn receive(&self, batch: &mut Vec<Completed>) {
        self.0.lock().append(batch);
    }

    fn only_puts_aside(&self) -> bool {
        true
    }
}

#[test]
fn the_end_waits_for_no_decision_that_a_receiver_has_and_keeps() {
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let engine = Arc::new(engine(&backend));
    let kept = Arc::new(Kept::default());
    let receiver: Arc<dyn Receiver> = Arc::clone(&kept) as _;
    engine.submit(&Check { session_id: b"s", ..Check::default() }, &receiver, 7).unwrap();
    let (ended, is_ended) = std::sync::mpsc::channel();
    thread::spawn({
        let engine = Arc::clone(&engine);
        move || {
            engine.shutdown(Duration::ZERO);
            ended.send(()).unwrap();
        }
    });
    is_ended.recv_timeout(Duration::from_secs(30)).expect("it ends");
    assert_eq!(engine.stats().pending, 1, "not taken yet");
    let completed = kept.0.lock().pop().unwrap();
    assert_eq!((completed.user_data(), completed.take().unwrap().cause), (7, Cause::Shutdown));
    assert_eq!(engine.stats().completed, 1);
}

/// Keeps the thread of the resolver in a line until it is let go.
struct Held {
    begun: Sender<()>,
    go: crossbeam_channel::Receiver<()>,
    returned: AtomicBool,
}

impl Log for Held {
    fn log(&self, _: LogLevel, line: &str) {
        if line.contains("stands for") {
            self.begun.send(()).unwrap();
            self.go.recv().unwrap();
            self.returned.store(true, Ordering::SeqCst);
        }
    }
}

#[test]
fn no_line_of_the_log_is_in_the_host_s_hands_when_an_engine_is_gone() {
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let ((begun, has_begun), (go, goes)) = (bounded(1), bounded(1));
    let held = Arc::new(Held { begun, go: goes, returned: AtomicBool::new(false) });
    let mut config = config(&backend);
    let url = format!("http://localhost:{}/auth", backend.local_addr().unwrap().port());
    for (key, value) in [("backend.url", url.as_str()), ("log.level", "info")] {
        config.set(key, value).unwrap();
    }
    config.set_log(held.clone());
    let engine = Engine::new(&config).unwrap();
    let receiver: Arc<dyn Receiver> = Arc::new(Causes::default());
    engine.submit(&Check { session_id: b"s", ..Check::default() }, &receiver, 0).unwrap();
    has_begun.recv().unwrap();
    let log = Arc::clone(&engine.core.log);
    thread::scope(|scope| {
        scope.spawn(|| {
            drop(engine);
            assert!(held.returned.load(Ordering::SeqCst), "a line is in the host's hands");
        });
        while !log.calls().are_over() {
            thread::yield_now();
        }
        go.send(()).unwrap();
    });
}

/// The engine ends between a watch's look whether it may and its message.
#[test]
fn a_watch_that_the_end_overtakes_is_told_so_on_a_thread_of_the_engine() {
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(&backend);
    config.set("threads.callback", "0").unwrap();
    for round in 0..50 {
        let engine = Engine::new(&config).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let receiver = engine.callback({
            let told = Arc::clone(&told);
            move |_, decision| {
                let by = thread::current().name().unwrap_or_default().to_owned();
                told.lock().push((decision.cause, decision.last, by));
            }
        });
        thread::scope(|scope| {
            let begin_to_end = |_| {
                scope.spawn(|| engine.shutdown(Duration::ZERO));
                while !engine.core.inboxes[0].is_stopped() {
                    thread::yield_now();
                }
                // As if this thread got no more time for a while.
                (0..100).for_each(|_| thread::yield_now());
            };
            let check = Check { session_id: b"s", ..Check::default() };
            engine
                .batch(0)
                .watch(&check, &receiver, Tag::default(), begin_to_end)
                .expect("it was not closed yet");
        });
        assert_eq!(*told.lock(), [(Cause::Shutdown, true, "alta-io-0".to_owned())], "round {round}");
    }
}
