//! A system that gives no thread or no memory: an engine that cannot be made says so and leaves nothing, one that runs goes
//! on, and what was refused once is asked for again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what a pending check takes is of interest")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alta_auth::{Cause, Check, Engine, StartError, SubmitError, Verdict};
use support::{
    Collect, Figures, Limit, Reply, Rerun, Scripted, ask, assert_backend, assert_default, bad, become_nobody,
    config, engine, good, not_possible_here, until,
};

const URL: &str = "ALTA_AUTH_TEST_URL";
const MIB: usize = 1 << 20;

/// The backend lives in this process, the test goes on in another one.
fn beside(child: Rerun, backend: &Scripted, url: &str) {
    // The allocator reserves 64 MiB and more for each thread, if it may; that is not what is looked at here.
    let printed = child.env(URL, url).env("MALLOC_ARENA_MAX", "1").printed();
    printed.lines().filter(|line| line.starts_with("memory:")).for_each(|line| println!("{line}"));
    assert!(backend.request_count() > 0, "nothing was asked");
}

fn url() -> String {
    std::env::var(URL).unwrap()
}

#[track_caller]
fn refused(made: Result<impl Sized, StartError>) -> String {
    match made {
        Err(StartError::System(error)) => StartError::System(error).to_string(),
        Err(other) => panic!("not the system: {other}"),
        Ok(_) => panic!("nothing was refused"),
    }
}

/// Whether this process can be refused a thread.
fn may_have_none(test: &str) -> bool {
    let one_more = || std::thread::Builder::new().spawn(|| ()).map(|thread| thread.join().unwrap());
    let alone = become_nobody();
    let limit = Limit::threads(0);
    let granted = one_more().is_ok();
    drop(limit);
    one_more().unwrap();
    if !alone || granted {
        not_possible_here(
            test,
            "a user of its own (`setresuid`), who may have no more threads (RLIMIT_NPROC)",
        );
    }
    alone && !granted
}

#[test]
fn an_engine_that_is_refused_a_thread_says_which_and_leaves_nothing_and_the_next_one_starts() {
    const TEST: &str =
        "an_engine_that_is_refused_a_thread_says_which_and_leaves_nothing_and_the_next_one_starts";
    if let Some(child) = Rerun::of(TEST) {
        let backend = Scripted::always(Reply::allow());
        // A name: the resolver is a thread, too.
        let url = backend.url().replace("127.0.0.1", "localhost");
        return beside(child, &backend, &url);
    }
    let keys = [("threads.io", "2"), ("threads.callback", "2")];
    if may_have_none(TEST) {
        let before = Figures::now();
        let threads = ["alta-dns", "alta-cb-0", "alta-cb-1", "alta-io-0", "alta-io-1"];
        for (granted, next) in threads.iter().enumerate() {
            let hooks = Arc::new(AtomicUsize::new(0));
            let hook = || {
                let hooks = Arc::clone(&hooks);
                Some(Arc::new(move || {
                    let _ = hooks.fetch_add(1, Ordering::SeqCst);
                }) as Arc<dyn Fn() + Send + Sync>)
            };
            let mut config = config(&url(), &keys);
            config.set_thread_hooks(hook(), hook());
            let limit = Limit::threads(granted);
            let why = refused(Engine::new(&config));
            let called = hooks.load(Ordering::SeqCst);
            drop(limit);
            assert!(why.contains(next), "after {granted}: {why}");
            let now = Figures::with_threads(before.threads);
            assert_eq!((now.threads, now.descriptors), (before.threads, before.descriptors), "{next}");
            assert_eq!(hooks.load(Ordering::SeqCst), called, "{next}: called after the refusal");
            assert_eq!(called % 2, 0, "{next}: each thread that started has stopped");
        }
    }
    assert_backend(&ask(&engine(&url(), &keys), &good()), Verdict::Allow, 200);
}

#[test]
fn a_reload_that_is_refused_a_thread_changes_nothing_and_one_that_needs_none_is_made() {
    const TEST: &str = "a_reload_that_is_refused_a_thread_changes_nothing_and_one_that_needs_none_is_made";
    if let Some(child) = Rerun::of(TEST) {
        let backend = Scripted::new(|request| match request.target() {
            target if target.starts_with("/new") => Reply::deny(),
            _ => Reply::allow(),
        });
        return beside(child, &backend, &backend.url());
    }
    let engine = engine(&url(), &[]);
    assert_backend(&ask(&engine, &good()), Verdict::Allow, 200);
    if may_have_none(TEST) {
        let limit = Limit::threads(0);
        let named = url().replace("127.0.0.1", "localhost").replace("/auth", "/new");
        let why = refused(engine.reload(&config(&named, &[])));
        assert!(why.contains("alta-dns"), "{why}");
        assert_backend(&ask(&engine, &good()), Verdict::Allow, 200);
        let new = url().replace("/auth", "/new");
        engine.reload(&config(&new, &[])).unwrap();
        assert_backend(&ask(&engine, &good()), Verdict::Deny, 403);
        drop(limit);
        engine.reload(&config(&named, &[])).unwrap();
    }
    assert!(engine.drain(support::PATIENCE));
    let _ = ask(&engine, &good());
}

/// A little more memory each time, until it is enough: each allocation in turn is the one that is refused.
#[test]
fn an_engine_whose_tables_find_no_memory_is_refused_and_the_process_lives() {
    if let Some(child) = Rerun::of("an_engine_whose_tables_find_no_memory_is_refused_and_the_process_lives") {
        let backend = Scripted::always(Reply::allow());
        return beside(child, &backend, &backend.url());
    }
    let cases: [&[(&str, &str)]; 4] = [
        &[("inbox.capacity", "1048576"), ("overload", "default")],
        &[("inbox.capacity", "65536"), ("threads.io", "4")],
        &[("memory.max_decisions", "100000000"), ("memory.max_bytes", "64GiB")],
        &[("threads.io", "8"), ("threads.callback", "8"), ("inbox.capacity", "8")],
    ];
    for keys in cases {
        let before = Figures::now();
        let mut refusals = 0;
        let mut more = 0;
        loop {
            let limit = Limit::memory(more);
            let made = Engine::new(&config(&url(), keys));
            drop(limit);
            match made {
                Ok(engine) => {
                    assert_backend(&ask(&engine, &good()), Verdict::Allow, 200);
                    break;
                }
                made => drop(refused(made)),
            }
            let now = Figures::with_threads(before.threads);
            assert_eq!(now.descriptors, before.descriptors, "{keys:?} with {more} bytes");
            refusals += 1;
            more += (more / 4).max(256 * 1024);
        }
        assert!(refusals > 0, "{keys:?}: enough from the start");
    }
}

/// As many checks as may be pending, three times, and nobody answers one.
#[test]
fn a_full_engine_before_a_backend_that_hangs_lives_under_a_limit_of_memory() {
    const CAPACITY: usize = 16_384;
    if let Some(child) = Rerun::of("a_full_engine_before_a_backend_that_hangs_lives_under_a_limit_of_memory")
    {
        let backend = Scripted::always(Reply::silence());
        return beside(child, &backend, &backend.url());
    }
    let keys = [
        ("timeout", "1m"),
        ("breaker.failures", "0"),
        ("inbox.capacity", "16384"),
        ("pool.max_connections", "16"),
    ];
    let engine = engine(&url(), &keys);
    // Of so many few are under way, at 4 KiB without optimisations; the others stand by, at one.
    let limit = Limit::memory(64 * MIB);
    let (before, mut peak) = (Figures::now(), None);
    let collect = Collect::new();
    let (query, agent) = ("q".repeat(200), "a".repeat(100));
    let mut tickets = Vec::new();
    for round in 0..3 {
        for ticket in tickets.drain(..) {
            engine.cancel(ticket);
        }
        assert!(engine.drain(support::PATIENCE));
        loop {
            let id = format!("session-{round}-{}", tickets.len());
            let check = Check {
                session_id: id.as_bytes(),
                query: query.as_bytes(),
                user_agent: agent.as_bytes(),
                ..bad()
            };
            match engine.submit(&check, &collect.receiver(), round) {
                Ok(ticket) => tickets.push(ticket),
                Err(SubmitError::Full) => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(tickets.len(), CAPACITY);
        // Once each has come to where it waits for a connection, or has one.
        until(|| engine.stats().connections_waiting >= (CAPACITY - 16) as u64);
        let full = Figures::now();
        let peak = *peak.get_or_insert(full.resident);
        let each = (peak - before.resident) / CAPACITY;
        println!("\nmemory: {each} bytes a check that is pending");
        assert!(each < 2048, "{each} bytes a check");
        assert!(full.resident < peak + peak / 4, "more each time: {peak}, {full:?}");
    }
    assert!(!engine.shutdown(std::time::Duration::ZERO));
    for (round, decision) in collect.wait(CAPACITY) {
        assert_eq!(round, 2, "those before were cancelled");
        assert_default(&decision, Verdict::Deny, Cause::Shutdown);
    }
    let stats = engine.stats();
    assert_eq!((stats.completed, stats.cancelled), (CAPACITY as u64, 2 * CAPACITY as u64));
    drop(limit);
}
