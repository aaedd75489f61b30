//! Callbacks run on the engine's threads, one decision at a time for each, and cannot harm the engine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use alta_auth::{Cause, Check, Decision, Engine, LogLevel, SubmitError};
use parking_lot::Mutex;
use support::{Gate, Lines, Reply, Scripted, config, engine, good, sessions, started, until};

const THREADS: [&str; 3] = ["0", "1", "3"];

fn own_name() -> String {
    std::thread::current().name().unwrap_or_default().to_owned()
}

thread_local! {
    static SUBMITTING: Cell<bool> = const { Cell::new(false) };
}

#[test]
fn callbacks_run_on_the_threads_that_were_asked_for_and_never_inside_submit() {
    for threads in THREADS {
        let backend = Scripted::always(Reply::allow());
        let engine = engine(&backend.url(), &[("threads.callback", threads), ("threads.io", "2")]);
        let names: Arc<Mutex<Vec<String>>> = Arc::default();
        let told = Arc::clone(&names);
        let callback = engine.callback(move |_, _| {
            assert!(!SUBMITTING.get(), "inside submit");
            told.lock().push(own_name());
        });
        SUBMITTING.set(true);
        for (index, id) in sessions(200).iter().enumerate() {
            engine.submit(&Check { session_id: id.as_bytes(), ..good() }, &callback, index).unwrap();
            assert!(engine.submit(&Check::default(), &callback, index).is_err(), "no session");
        }
        assert!(engine.drain(support::PATIENCE));
        assert!(engine.shutdown(support::PATIENCE));
        assert_eq!(engine.submit(&good(), &callback, 0), Err(SubmitError::Closed));
        SUBMITTING.set(false);
        let names = names.lock();
        assert_eq!(names.len(), 200);
        let expected: Vec<String> = match threads {
            "0" => (0..2).map(|index| format!("alta-io-{index}")).collect(),
            _ => (0..threads.parse().unwrap()).map(|index: usize| format!("alta-cb-{index}")).collect(),
        };
        assert!(names.iter().all(|name| expected.contains(name)), "{threads}: {names:?}");
    }
}

#[test]
fn as_many_callbacks_run_at_one_time_as_there_are_threads() {
    for threads in [1, 3] {
        let backend = Scripted::always(Reply::allow());
        let engine = engine(&backend.url(), &[("threads.callback", &threads.to_string())]);
        let (inside, go) = (Arc::new(AtomicUsize::new(0)), Gate::default());
        let (counted, held) = (Arc::clone(&inside), go.clone());
        let callback = engine.callback(move |_, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            held.wait_open();
        });
        // One after the other, so that no two are of one turn.
        for index in 0..threads {
            engine.submit(&good(), &callback, index).unwrap();
            until(|| inside.load(Ordering::SeqCst) == index + 1);
        }
        engine.submit(&good(), &callback, threads).unwrap();
        // The I/O thread goes on meanwhile.
        assert!(support::ask(&engine, &good()).allows());
        assert_eq!(inside.load(Ordering::SeqCst), threads);
        go.open();
        assert!(engine.drain(support::PATIENCE));
        assert_eq!(inside.load(Ordering::SeqCst), threads + 1);
    }
}

#[test]
fn a_panic_in_a_callback_is_its_own() {
    for threads in THREADS {
        let gate = Gate::default();
        let backend = Scripted::always(Reply::allow().when(&gate));
        let lines = Lines::new();
        let mut config = config(&backend.url(), &[("threads.callback", threads)]);
        config.set_log(Arc::clone(&lines) as _);
        let engine = started(Engine::new(&config));
        let called: Arc<Mutex<Vec<usize>>> = Arc::default();
        let told = Arc::clone(&called);
        let callback = engine.callback(move |user_data, _| {
            told.lock().push(user_data);
            assert_ne!(user_data, 3, "the host's own defect");
        });
        for user_data in 0..10 {
            engine.submit(&good(), &callback, user_data).unwrap();
        }
        backend.wait_requests(1);
        gate.open();
        assert!(engine.drain(support::PATIENCE));
        engine.submit(&good(), &callback, 10).unwrap();
        assert!(engine.drain(support::PATIENCE), "the thread lives");
        assert!(called.lock().iter().copied().eq(0..=10), "threads.callback = {threads}");
        let stats = engine.stats();
        assert_eq!((stats.completed, stats.cancelled, stats.pending), (11, 0, 0), "it was delivered");
        let said = lines.all().iter().filter(|(level, _)| *level == LogLevel::Error).count();
        assert_eq!(said, 1, "{:?}", lines.all());
    }
}

/// An engine that its own callbacks know.
fn known(url: &str, threads: &str) -> (Arc<Engine>, Arc<OnceLock<Weak<Engine>>>) {
    let engine = Arc::new(engine(url, &[("threads.callback", threads), ("timeout", "60s")]));
    let own = Arc::new(OnceLock::new());
    own.set(Arc::downgrade(&engine)).unwrap();
    (engine, own)
}

#[test]
fn an_engine_knows_who_is_inside_a_callback_of_its_own() {
    for threads in THREADS {
        let backend = Scripted::always(Reply::allow());
        let (engine, own) = known(&backend.url(), threads);
        let (other, _) = known(&backend.url(), threads);
        let seen: Arc<Mutex<Vec<(bool, bool)>>> = Arc::default();
        let (told, stranger) = (Arc::clone(&seen), Arc::clone(&other));
        let callback = engine.callback(move |_, _| {
            let own = own.get().unwrap().upgrade().unwrap();
            told.lock().push((own.is_calling(), stranger.is_calling()));
        });
        assert!(!engine.is_calling());
        engine.submit(&good(), &callback, 0).unwrap();
        assert!(engine.drain(support::PATIENCE));
        assert_eq!(*seen.lock(), [(true, false)], "threads.callback = {threads}");
        assert!(!engine.is_calling());
    }
}

#[test]
fn a_callback_may_submit_cancel_and_read_statistics() {
    const CHAIN: usize = 50;
    for threads in THREADS {
        let backend = Scripted::new(|request| match request.session().as_str() {
            "silent" => Reply::silence(),
            _ => Reply::allow(),
        });
        let (engine, own) = known(&backend.url(), threads);
        let (cancelled, called) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
        let again = Arc::new(OnceLock::new());
        let callback = engine.callback({
            let (again, cancelled, called) =
                (Arc::clone(&again), Arc::clone(&cancelled), Arc::clone(&called));
            move |step, decision: Decision| {
                called.fetch_add(1, Ordering::SeqCst);
                assert!(decision.allows());
                let engine = own.get().unwrap().upgrade().unwrap();
                let weak: &Weak<dyn alta_auth::Receiver> = again.get().unwrap();
                let callback = weak.upgrade().unwrap();
                let silent = Check { session_id: b"silent", ..good() };
                let ticket = engine.submit(&silent, &callback, CHAIN).unwrap();
                cancelled.fetch_add(u64::from(engine.cancel(ticket)), Ordering::SeqCst);
                assert!(!engine.cancel(decision.ticket), "this one is being delivered");
                let stats = engine.stats();
                assert_eq!(stats.submitted, stats.completed + stats.cancelled + stats.pending);
                if step < CHAIN {
                    engine.submit(&good(), &callback, step + 1).unwrap();
                }
            }
        });
        assert!(again.set(Arc::downgrade(&callback)).is_ok());
        engine.submit(&good(), &callback, 1).unwrap();
        until(|| called.load(Ordering::SeqCst) == CHAIN);
        assert!(engine.drain(support::PATIENCE));
        let stats = engine.stats();
        let counts = (stats.submitted, stats.completed, stats.cancelled, stats.pending);
        assert_eq!(counts, (2 * CHAIN as u64, CHAIN as u64, CHAIN as u64, 0), "threads.callback = {threads}");
        assert_eq!(cancelled.load(Ordering::SeqCst), CHAIN as u64);
    }
}

#[test]
fn drain_waits_until_callbacks_have_returned() {
    for threads in THREADS {
        let backend = Scripted::always(Reply::allow());
        let engine = engine(&backend.url(), &[("threads.callback", threads)]);
        let (inside, go, returned) = (Gate::default(), Gate::default(), Arc::new(AtomicBool::new(false)));
        let (entered, held, told) = (inside.clone(), go.clone(), Arc::clone(&returned));
        let callback = engine.callback(move |_, _| {
            entered.open();
            held.wait_open();
            told.store(true, Ordering::SeqCst);
        });
        engine.submit(&good(), &callback, 0).unwrap();
        inside.wait_open();
        assert!(!engine.drain(Duration::from_millis(50)), "threads.callback = {threads}");
        go.open();
        assert!(engine.drain(support::PATIENCE));
        assert!(returned.load(Ordering::SeqCst), "threads.callback = {threads}");
    }
}

#[test]
fn dropping_an_engine_calls_everyone_before_it_returns_and_nobody_after() {
    for threads in THREADS {
        let backend = Scripted::always(Reply::silence());
        let engine = engine(&backend.url(), &[("threads.callback", threads), ("timeout", "60s")]);
        let (called, strangers) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (inside, go) = (Gate::default(), Gate::default());
        let callback = engine.callback({
            let (called, strangers) = (Arc::clone(&called), Arc::clone(&strangers));
            let (inside, go) = (inside.clone(), go.clone());
            move |_, decision: Decision| {
                inside.open();
                go.wait_open();
                assert_eq!(decision.cause, Cause::Shutdown);
                called.fetch_add(1, Ordering::SeqCst);
                if !own_name().starts_with("alta-") {
                    strangers.lock().push(own_name());
                }
            }
        });
        for (index, id) in sessions(500).iter().enumerate() {
            engine.submit(&Check { session_id: id.as_bytes(), ..good() }, &callback, index).unwrap();
        }
        let (tell, told) = std::sync::mpsc::channel();
        let ending = std::thread::spawn(move || {
            drop(engine);
            tell.send(()).unwrap();
        });
        inside.wait_open();
        let early = told.recv_timeout(Duration::from_millis(100));
        go.open();
        ending.join().unwrap();
        assert!(early.is_err(), "it returned while a callback was running");
        assert_eq!(called.load(Ordering::SeqCst), 500, "threads.callback = {threads}");
        assert!(strangers.lock().is_empty(), "{strangers:?}");
        drop(callback);
        assert_eq!(Arc::strong_count(&called), 1, "nothing is left that could call");
    }
}
