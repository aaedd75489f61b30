//! Every accepted check is answered exactly once, whatever ends first; and an engine leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use alta_auth::{Cause, Check, Completed, Engine, Receiver, Stats, SubmitError, Verdict};
use parking_lot::Mutex;
use support::{Collect, Gate, Reply, Rerun, Scripted, ask, assert_default, engine, good, sessions, until};

fn balanced(stats: &Stats) -> bool {
    stats.submitted == stats.completed + stats.cancelled + stats.pending
}

#[test]
fn drain_waits_for_what_was_accepted_and_stops_nothing() {
    let gate = Gate::default();
    let backend = Scripted::always(Reply::allow().when(&gate));
    let engine = engine(&backend.url(), &[]);
    let collect = Collect::new();
    assert!(engine.drain(Duration::ZERO), "nothing is pending");
    engine.submit(&good(), &collect.receiver(), 0).unwrap();
    assert!(!engine.drain(Duration::ZERO), "a poll");
    assert!(!engine.drain(Duration::from_millis(50)));
    backend.wait_requests(1);
    gate.open();
    assert!(engine.drain(support::PATIENCE));
    assert_eq!(collect.delivered(), 1);
    assert!(ask(&engine, &good()).allows(), "submits go on");
}

#[test]
fn shutdown_answers_what_is_pending_with_the_default_action() {
    for (action, verdict) in [("allow", Verdict::Allow), ("deny", Verdict::Deny)] {
        let backend = Scripted::always(Reply::silence());
        let engine = engine(&backend.url(), &[("default_action", action)]);
        let (ids, collect) = (sessions(20), Collect::new());
        for (index, id) in ids.iter().enumerate() {
            let check = Check { session_id: id.as_bytes(), ..good() };
            engine.submit(&check, &collect.receiver(), index).unwrap();
        }
        assert!(!engine.shutdown(Duration::from_millis(50)), "20 were left");
        assert_eq!(collect.delivered(), 20);
        for (_, decision) in collect.wait(20) {
            assert_default(&decision, verdict, Cause::Shutdown);
        }
        let stats = engine.stats();
        assert_eq!((stats.completed, stats.pending), (20, 0));
    }
}

#[test]
fn shutdown_waits_for_answers_that_are_on_their_way() {
    let gate = Gate::default();
    let backend = Scripted::always(Reply::allow().when(&gate));
    let engine = engine(&backend.url(), &[]);
    let collect = Collect::new();
    engine.submit(&good(), &collect.receiver(), 0).unwrap();
    backend.wait_requests(1);
    std::thread::scope(|scope| {
        let ending = scope.spawn(|| engine.shutdown(support::PATIENCE));
        // It is closed at once, and waits.
        while engine.submit(&good(), &collect.receiver(), 1) != Err(SubmitError::Closed) {
            std::thread::yield_now();
        }
        gate.open();
        assert!(ending.join().unwrap(), "nothing was left");
    });
    assert!(collect.wait(1).iter().all(|(_, decision)| decision.allows()));
}

/// Holds the I/O thread that delivers to it.
#[derive(Default)]
struct Holding {
    inside: Gate,
    go: Gate,
}

impl Receiver for Holding {
    fn receive(&self, batch: &mut Vec<Completed>) {
        self.inside.open();
        self.go.wait_open();
        batch.drain(..).for_each(|completed| drop(completed.take()));
    }
}

#[test]
fn a_second_shutdown_waits_like_the_first() {
    let backend = Scripted::always(Reply::silence());
    let engine = engine(&backend.url(), &[("timeout", "60s")]);
    let (holding, returned) = (Arc::new(Holding::default()), Arc::new(AtomicBool::new(false)));
    let called: Arc<Mutex<Vec<(String, bool)>>> = Arc::default();
    let callback = engine.callback({
        let (returned, called) = (Arc::clone(&returned), Arc::clone(&called));
        move |_, _| {
            let thread = std::thread::current().name().unwrap_or_default().to_owned();
            called.lock().push((thread, returned.load(Ordering::SeqCst)));
        }
    });
    let held: Arc<dyn Receiver> = Arc::clone(&holding) as _;
    engine.submit(&good(), &held, 0).unwrap();
    engine.submit(&Check { session_id: b"s2", ..good() }, &callback, 0).unwrap();
    backend.wait_requests(2);
    std::thread::scope(|scope| {
        scope.spawn(|| engine.shutdown(Duration::ZERO));
        holding.inside.wait_open();
        let (tell, told) = std::sync::mpsc::channel();
        let (second, returned) = (&engine, &returned);
        scope.spawn(move || {
            second.shutdown(Duration::ZERO);
            returned.store(true, Ordering::SeqCst);
            tell.send(()).unwrap();
        });
        let early = told.recv_timeout(Duration::from_millis(100));
        holding.go.open();
        assert!(early.is_err(), "it returned while a receiver was running");
        told.recv_timeout(support::PATIENCE).unwrap();
    });
    assert_eq!(*called.lock(), [("alta-cb-0".to_owned(), false)], "thread, and whether it was too late");
}

#[test]
fn after_shutdown_nothing_is_accepted_and_the_rest_still_works() {
    let backend = Scripted::always(Reply::allow());
    let engine = engine(&backend.url(), &[("default_action", "allow")]);
    let collect = Collect::new();
    let ticket = engine.submit(&good(), &collect.receiver(), 0).unwrap();
    collect.wait(1);
    assert!(engine.shutdown(support::PATIENCE));
    assert_eq!(engine.submit(&good(), &collect.receiver(), 1), Err(SubmitError::Closed));
    assert_eq!(engine.check_blocking(&good()).unwrap_err(), SubmitError::Closed);
    let mut outcomes = Vec::new();
    engine.submit_batch([(good(), 2), (good(), 3)], &collect.receiver(), |outcome| outcomes.push(outcome));
    assert_eq!(outcomes, [Err(SubmitError::Closed); 2]);
    assert!(!engine.cancel(ticket));
    assert!(engine.shutdown(Duration::ZERO), "again");
    assert_eq!(engine.default_action(), Verdict::Allow);
    assert_eq!(engine.stats().completed, 1);
}

#[test]
fn dropping_an_engine_is_quick_and_answers_everyone() {
    let backend = Scripted::always(Reply::silence());
    let engine = engine(&backend.url(), &[("timeout", "60s")]);
    let (ids, collect) = (sessions(1_000), Collect::new());
    let checks =
        ids.iter().enumerate().map(|(index, id)| (Check { session_id: id.as_bytes(), ..good() }, index));
    engine.submit_batch(checks, &collect.receiver(), |outcome| {
        outcome.unwrap();
    });
    let begun = tokio::time::Instant::now();
    drop(engine);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    for (_, decision) in collect.wait(1_000) {
        assert_default(&decision, Verdict::Deny, Cause::Shutdown);
    }
}

#[test]
fn inbox_capacity_bounds_what_is_pending_exactly() {
    let gate = Gate::default();
    let backend = Scripted::always(Reply::allow().when(&gate));
    let engine = engine(&backend.url(), &[("inbox.capacity", "100")]);
    let (ids, collect) = (sessions(150), Collect::new());
    let outcomes: Vec<_> = ids
        .iter()
        .enumerate()
        .map(|(index, id)| {
            let check = Check { session_id: id.as_bytes(), ..good() };
            engine.submit(&check, &collect.receiver(), index)
        })
        .collect();
    assert!(outcomes[..100].iter().all(Result::is_ok));
    assert!(outcomes[100..].iter().all(|outcome| *outcome == Err(SubmitError::Full)));
    assert_eq!((engine.stats().pending, engine.stats().refused), (100, 50));
    // A place that a cancel makes free is free, as soon as the I/O thread has let go of it.
    assert!(engine.cancel(outcomes[7].unwrap()));
    let more = Check { session_id: b"more", ..good() };
    until(|| engine.submit(&more, &collect.receiver(), 200) != Err(SubmitError::Full));
    assert_eq!(engine.submit(&good(), &collect.receiver(), 201), Err(SubmitError::Full));
    gate.open();
    assert!(collect.wait(100).iter().all(|(_, decision)| decision.allows()));
    assert!(engine.drain(support::PATIENCE));
    engine.submit(&good(), &collect.receiver(), 202).unwrap();
    collect.wait(101);
}

#[test]
fn every_check_ends_once_under_threads_that_submit_and_cancel() {
    const THREADS: usize = 4;
    const EACH: usize = 3_000;
    // A third answers, a third a little later, a third is denied: so that cancels meet every state.
    let backend = Scripted::new(|request| match request.head.len() % 3 {
        0 => Reply::allow(),
        1 => Reply::allow().after(Duration::from_micros(300)),
        _ => Reply::deny(),
    });
    let engine = engine(&backend.url(), &[("threads.io", "2"), ("pool.max_connections", "32")]);
    let collect = Collect::new();
    let cancelled = AtomicUsize::new(0);
    let watching = AtomicUsize::new(THREADS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (engine, collect, cancelled, watching) = (&engine, &collect, &cancelled, &watching);
            scope.spawn(move || {
                for index in 0..EACH {
                    // Few sessions, so that checks join each other; ids of different lengths.
                    let id = format!("{:0width$}", index % 40, width = 3 + index % 5);
                    let check = Check { session_id: id.as_bytes(), ..good() };
                    let ticket = engine.submit(&check, &collect.receiver(), thread * EACH + index).unwrap();
                    if index % 3 == thread % 3 {
                        if index % 2 == 0 {
                            std::thread::yield_now();
                        }
                        if engine.cancel(ticket) {
                            cancelled.fetch_add(1, Ordering::Relaxed);
                            assert!(!engine.cancel(ticket), "cancelled twice");
                        }
                    }
                }
                watching.fetch_sub(1, Ordering::Relaxed);
            });
        }
        while watching.load(Ordering::Relaxed) > 0 {
            let stats = engine.stats();
            assert!(balanced(&stats), "{stats:?}");
            std::thread::yield_now();
        }
    });
    assert!(engine.drain(support::PATIENCE));
    let cancelled = cancelled.into_inner();
    let decided = collect.wait(THREADS * EACH - cancelled);
    let mut times: HashMap<usize, usize> = HashMap::new();
    for (index, _) in &decided {
        *times.entry(*index).or_default() += 1;
    }
    assert_eq!(times.len(), THREADS * EACH - cancelled);
    assert!(times.values().all(|count| *count == 1), "delivered twice");
    assert!(cancelled > 0, "no cancel came in time: the test shows nothing");
    let stats = engine.stats();
    assert!(balanced(&stats), "{stats:?}");
    assert_eq!((stats.submitted, stats.pending), ((THREADS * EACH) as u64, 0));
    assert_eq!(stats.cancelled, cancelled as u64);
    assert_eq!(stats.allowed + stats.denied, stats.completed);
    assert_eq!(stats.origins.iter().sum::<u64>(), stats.completed);
    assert_eq!(stats.causes.iter().sum::<u64>(), stats.completed);
}

#[test]
fn tickets_are_never_zero_and_never_used_again() {
    let backend = Scripted::always(Reply::allow());
    let engine = engine(&backend.url(), &[]);
    let collect = Collect::new();
    let mut seen = std::collections::HashSet::new();
    for round in 0..20 {
        for index in 0..100 {
            let ticket = engine.submit(&good(), &collect.receiver(), index).unwrap();
            assert_ne!(ticket, 0);
            assert!(seen.insert(ticket), "{ticket} again");
        }
        collect.wait((round + 1) * 100);
    }
    assert!(seen.iter().all(|ticket| !engine.cancel(*ticket)), "all were delivered");
    assert!(!engine.cancel(0));
    assert!(!engine.cancel(u64::MAX));
    assert_eq!(engine.stats().cancelled, 0);
}

#[test]
fn a_decision_carries_the_ticket_of_its_check() {
    let backend = Scripted::always(Reply::allow());
    let engine = engine(&backend.url(), &[]);
    let collect = Collect::new();
    let tickets: Vec<u64> =
        (0..50).map(|index| engine.submit(&good(), &collect.receiver(), index).unwrap()).collect();
    for (index, decision) in collect.wait(50) {
        assert_eq!(decision.ticket, tickets[index]);
    }
}

#[test]
fn an_engine_outlives_none_of_its_receivers_and_none_it() {
    let backend = Scripted::always(Reply::silence());
    let engine = engine(&backend.url(), &[]);
    let collect = Collect::new();
    engine.submit(&good(), &collect.receiver(), 0).unwrap();
    drop(engine);
    let weak = Arc::downgrade(&collect);
    collect.wait(1);
    drop(collect);
    assert!(weak.upgrade().is_none(), "the engine kept a receiver");
}

#[test]
fn a_dropped_future_cancels_its_check() {
    let gate = Gate::default();
    let backend = Scripted::always(Reply::allow().when(&gate));
    let engine = engine(&backend.url(), &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let check = good();
        let waited = tokio::time::timeout(Duration::from_millis(50), engine.check(&check)).await;
        assert!(waited.is_err());
        gate.open();
        assert!(engine.check(&check).await.unwrap().allows());
    });
    assert!(engine.drain(support::PATIENCE));
    let stats = engine.stats();
    assert_eq!((stats.submitted, stats.completed, stats.cancelled), (2, 1, 1));
}

// What belongs to the whole process is looked at in a process of its own.

/// KILL and STOP, and the two signals that the C library keeps for itself.
const UNBLOCKABLE: u64 = 1 << (9 - 1) | 1 << (19 - 1) | 1 << (32 - 1) | 1 << (33 - 1);

#[test]
fn threads_have_names_and_leave_signals_to_the_host() {
    if let Some(child) = Rerun::of("threads_have_names_and_leave_signals_to_the_host") {
        return child.run();
    }
    let backend = Scripted::always(Reply::allow());
    let engine = engine(&backend.url(), &[("threads.io", "3")]);
    assert!(ask(&engine, &good()).allows());
    let ours = || threads().into_iter().filter(|(name, _)| name.starts_with("alta-"));
    // A thread names itself: one that had nothing to do for the check may not have come to it yet.
    until(|| {
        let mut names: Vec<_> = ours().map(|(name, _)| name).collect();
        names.retain(|name| name.starts_with("alta-io-"));
        names.sort();
        names == ["alta-io-0", "alta-io-1", "alta-io-2"]
    });
    for (name, blocked) in ours() {
        assert_eq!(blocked | UNBLOCKABLE, u64::MAX, "{name} takes signals: {blocked:x}");
    }
    drop(engine);
    // A thread that was joined may be listed for a moment yet.
    until(|| threads().iter().all(|(name, _)| !name.starts_with("alta-")));
}

#[test]
fn a_hundred_engines_leave_no_thread_and_no_descriptor() {
    if let Some(child) = Rerun::of("a_hundred_engines_leave_no_thread_and_no_descriptor") {
        return child.run();
    }
    let backend = Scripted::always(Reply::allow());
    let one = || {
        let engine = engine(&backend.url(), &[("threads.io", "2")]);
        let collect = Collect::new();
        for index in 0..4 {
            let id = format!("s{index}");
            engine
                .submit(&Check { session_id: id.as_bytes(), ..good() }, &collect.receiver(), index)
                .unwrap();
        }
        collect.wait(1);
        drop(engine);
        // The backend's side belongs to this process too.
        backend.wait_all_closed();
    };
    one();
    let (threads_before, open_before) = (ours(), descriptors());
    for _ in 0..100 {
        one();
    }
    assert_eq!(ours(), threads_before);
    assert_eq!(descriptors(), open_before);
}

/// Threads of the library now.
fn ours() -> usize {
    threads().iter().filter(|(name, _)| name.starts_with("alta-")).count()
}

/// Name and blocked signals of each thread of this process.
fn threads() -> Vec<(String, u64)> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok())
        .map(|status| {
            let field = |name: &str| {
                status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap().to_owned()
            };
            (field("Name:"), u64::from_str_radix(&field("SigBlk:"), 16).unwrap())
        })
        .collect()
}

/// Without the one that counts them.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

#[test]
fn engines_do_not_know_each_others_tickets() {
    let backend = Scripted::always(Reply::silence());
    let (one, other): (Engine, Engine) = (engine(&backend.url(), &[]), engine(&backend.url(), &[]));
    let collect = Collect::new();
    let ticket = one.submit(&good(), &collect.receiver(), 0).unwrap();
    let _ = other.cancel(ticket);
    assert_eq!(other.stats().cancelled, 0);
    assert_eq!(one.stats().pending, 1);
    assert!(one.cancel(ticket));
}
