//! A remembered decision is delivered as any other: once, the way the host chose, and never from inside submit. It
//! needs no backend and no I/O thread.
//!
//! In every test the backend answers one request and hangs from then on: whatever asked it would wait. Queues are in
//! `memory_queue.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::cell::Cell;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker};
use std::thread::ThreadId;

use alta_auth::{Check, Completed, Decision, Engine, Receiver};
use parking_lot::Mutex;
use support::{Collect, Gate, PATIENCE, ask, assert_remembered, good, reaped, until, warmed};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `call`, inside which nothing may be delivered on this thread.
fn inside<T>(call: impl FnOnce() -> T) -> T {
    INSIDE.set(true);
    let outcome = call();
    INSIDE.set(false);
    outcome
}

/// Where and to what each decision was delivered.
#[derive(Default)]
struct Places(Mutex<Vec<(usize, String, ThreadId)>>);

impl Places {
    fn note(&self, user_data: usize, decision: &Decision) {
        assert!(!INSIDE.get(), "inside submit");
        assert_remembered(decision);
        let thread = std::thread::current();
        self.0.lock().push((user_data, thread.name().unwrap_or_default().to_owned(), thread.id()));
    }

    /// Waits for `count`, each once, each on a thread of this name and none on the caller's.
    #[track_caller]
    fn assert_all_on(&self, count: usize, name: &str) {
        until(|| self.0.lock().len() >= count);
        let mut places = self.0.lock();
        places.sort_unstable_by_key(|(user_data, ..)| *user_data);
        assert!(places.iter().map(|(user_data, ..)| *user_data).eq(0..count), "each once");
        for (_, on, id) in places.iter() {
            assert!(on.starts_with(name), "{on}, not {name}");
            assert_ne!(*id, std::thread::current().id());
        }
    }
}

impl Receiver for Places {
    fn receive(&self, batch: &mut Vec<Completed>) {
        for completed in batch.drain(..) {
            let user_data = completed.user_data();
            self.note(user_data, &completed.take().expect("not cancelled"));
        }
    }
}

// Where it is delivered

#[test]
fn to_a_callback_it_goes_on_a_callback_thread_or_without_any_on_an_io_thread() {
    for (threads, name) in [("1", "alta-cb-"), ("3", "alta-cb-"), ("0", "alta-io-")] {
        let (backend, engine) = warmed(&[("threads.callback", threads), ("threads.io", "2")]);
        let places = Arc::new(Places::default());
        let told = Arc::clone(&places);
        let callback = engine.callback(move |user_data, decision| told.note(user_data, &decision));
        inside(|| {
            for user_data in 0..500 {
                engine.submit(&good(), &callback, user_data).unwrap();
            }
            engine.submit_batch((500..1_000).map(|index| (good(), index)), &callback, |outcome| {
                outcome.unwrap();
            });
        });
        places.assert_all_on(1_000, name);
        assert_eq!(backend.request_count(), 1);
    }
}

#[test]
fn to_a_receiver_it_goes_on_an_io_thread() {
    let (backend, engine) = warmed(&[("threads.io", "2")]);
    let places = Arc::new(Places::default());
    let receiver: Arc<dyn Receiver> = Arc::clone(&places) as _;
    inside(|| {
        for user_data in 0..500 {
            engine.submit(&good(), &receiver, user_data).unwrap();
        }
        engine.submit_batch((500..1_000).map(|index| (good(), index)), &receiver, |outcome| {
            outcome.unwrap();
        });
    });
    places.assert_all_on(1_000, "alta-io-");
    let stats = engine.stats();
    assert_eq!((stats.submitted, stats.pending), (1_001, 0));
    assert_eq!(backend.request_count(), 1);
}

/// Only a receiver that offers it is called on the thread that submits.
#[test]
fn to_a_receiver_that_only_puts_aside_it_goes_before_submit_returns() {
    #[derive(Default)]
    struct Aside(Places);
    impl Receiver for Aside {
        fn receive(&self, batch: &mut Vec<Completed>) {
            self.0.receive(batch);
        }
        fn only_puts_aside(&self) -> bool {
            true
        }
    }
    let (backend, engine) = warmed(&[]);
    let aside = Arc::new(Aside::default());
    let receiver: Arc<dyn Receiver> = Arc::clone(&aside) as _;
    for user_data in 0..100 {
        engine.submit(&good(), &receiver, user_data).unwrap();
        let places = aside.0.0.lock();
        assert_eq!(places.len(), user_data + 1);
        assert_eq!(places[user_data].2, std::thread::current().id());
    }
    assert_eq!(backend.request_count(), 1);
}

#[test]
fn to_a_thread_that_waits_and_to_a_future_it_comes_too() {
    let (backend, engine) = warmed(&[]);
    for _ in 0..100 {
        assert_remembered(&ask(&engine, &good()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for _ in 0..100 {
        assert_remembered(&runtime.block_on(engine.check(&good())).unwrap());
    }
    // A future that is dropped after its first look owes nothing.
    let check = good();
    let mut dropped = Box::pin(engine.check(&check));
    let first = dropped.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(match first {
        Poll::Ready(decision) => decision.is_ok(),
        Poll::Pending => true,
    });
    drop(dropped);
    until(|| engine.stats().pending == 0);
    assert_eq!(backend.request_count(), 1);
}

/// What a callback has to know to submit to itself.
type Known = (Weak<Engine>, Weak<dyn Receiver>);

#[test]
fn inside_a_callback_a_remembered_check_is_accepted_and_delivered_after_it() {
    for threads in ["0", "1"] {
        let (backend, engine) = warmed(&[("threads.callback", threads)]);
        let engine = Arc::new(engine);
        let own: Arc<OnceLock<Known>> = Arc::default();
        let (known, called) = (Arc::clone(&own), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&called);
        let callback = engine.callback(move |left, decision| {
            assert!(!INSIDE.get(), "inside the submit of a callback");
            assert_remembered(&decision);
            let (engine, receiver) = known.get().unwrap();
            if let (Some(engine), Some(receiver)) = (engine.upgrade(), receiver.upgrade())
                && left > 0
            {
                inside(|| engine.submit(&good(), &receiver, left - 1).unwrap());
            }
            counted.fetch_add(1, Ordering::SeqCst);
        });
        assert!(own.set((Arc::downgrade(&engine), Arc::downgrade(&callback))).is_ok());
        engine.submit(&good(), &callback, 1_000).unwrap();
        until(|| called.load(Ordering::SeqCst) == 1_001);
        assert!(engine.drain(PATIENCE));
        assert_eq!(backend.request_count(), 1);
    }
}

/// Submits another check for each that it gets, until none is left.
struct Again {
    own: OnceLock<(Weak<Engine>, Weak<Again>)>,
    got: AtomicUsize,
}

impl Receiver for Again {
    fn receive(&self, batch: &mut Vec<Completed>) {
        assert!(!INSIDE.get(), "inside the submit of a receiver");
        for completed in batch.drain(..) {
            let left = completed.user_data();
            assert_remembered(&completed.take().expect("not cancelled"));
            let (engine, own) = self.own.get().unwrap();
            if let (Some(engine), Some(own)) = (engine.upgrade(), own.upgrade())
                && left > 0
            {
                let receiver: Arc<dyn Receiver> = own;
                inside(|| engine.submit(&good(), &receiver, left - 1).unwrap());
            }
            self.got.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[test]
fn inside_a_receiver_a_remembered_check_is_accepted_and_delivered_after_it() {
    let (backend, engine) = warmed(&[]);
    let engine = Arc::new(engine);
    let again = Arc::new(Again { own: OnceLock::new(), got: AtomicUsize::new(0) });
    assert!(again.own.set((Arc::downgrade(&engine), Arc::downgrade(&again))).is_ok());
    let receiver: Arc<dyn Receiver> = Arc::clone(&again) as _;
    engine.submit(&good(), &receiver, 1_000).unwrap();
    until(|| again.got.load(Ordering::SeqCst) == 1_001);
    assert_eq!(backend.request_count(), 1);
}

// What it does not need

#[test]
fn a_backend_that_hangs_and_checks_that_wait_for_it_are_in_nobody_s_way() {
    let (backend, engine) = warmed(&[("pool.max_connections", "1")]);
    let queue = engine.queue().unwrap();
    let collect = Collect::new();
    for user_data in 0..100 {
        let silent = Check { session_id: b"silent", ..good() };
        engine.submit(&silent, &collect.receiver(), user_data).unwrap();
    }
    backend.wait_requests(2);
    for user_data in 0..1_000 {
        queue.submit(&good(), user_data).unwrap();
    }
    assert!(reaped(&queue, usize::MAX).into_iter().eq(0..1_000), "in order");
    assert_remembered(&ask(&engine, &good()));
    assert_eq!((backend.request_count(), collect.delivered()), (2, 0));
}

#[test]
fn an_io_thread_that_the_host_holds_up_delays_no_queue_and_no_lookup() {
    struct Held(Gate, Gate);
    impl Receiver for Held {
        fn receive(&self, batch: &mut Vec<Completed>) {
            batch.drain(..).for_each(drop);
            self.0.open();
            self.1.wait_open();
        }
    }
    let (_backend, engine) = warmed(&[("threads.callback", "1")]);
    let (inside, go) = (Gate::default(), Gate::default());
    let held: Arc<dyn Receiver> = Arc::new(Held(inside.clone(), go.clone()));
    engine.submit(&good(), &held, 0).unwrap();
    // The one I/O thread is in there now.
    inside.wait_open();
    let queue = engine.queue().unwrap();
    for user_data in 0..10 {
        queue.submit(&good(), user_data).unwrap();
        assert_eq!(reaped(&queue, 10), [user_data]);
    }
    assert_remembered(&engine.lookup(&good()).unwrap().unwrap());
    let places = Arc::new(Places::default());
    let told = Arc::clone(&places);
    let callback = engine.callback(move |user_data, decision| told.note(user_data, &decision));
    engine.submit(&good(), &callback, 0).unwrap();
    places.assert_all_on(1, "alta-cb-");
    go.open();
    assert!(engine.drain(PATIENCE));
}
