//! A running engine turns to another configuration, and forgets a session: what is asked after it is asked anew,
//! what was asked before ends as it began.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use alta_auth::{Cause, Check, Engine, Log, LogLevel, StartError, Verdict};
use support::{
    Collect, Gate, Reply, Request, Rerun, Scripted, ask, assert_backend, assert_default, config, engine,
    good, until,
};

fn of_session(id: &str) -> Check<'_> {
    Check { session_id: id.as_bytes(), ..good() }
}

#[track_caller]
fn reload(engine: &Engine, url: &str, keys: &[(&str, &str)]) {
    engine.reload(&config(url, keys)).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_check_after_a_reload_goes_to_the_new_backend() {
    let (old, new) = (Scripted::always(Reply::allow()), Scripted::always(Reply::deny()));
    let engine = engine(&old.url(), &[]);
    assert_backend(&ask(&engine, &good()), Verdict::Allow, 200);
    reload(&engine, &new.url(), &[]);
    for _ in 0..3 {
        assert_backend(&ask(&engine, &good()), Verdict::Deny, 403);
    }
    assert_eq!((old.request_count(), new.request_count()), (1, 3));
    old.wait_all_closed();
    assert_eq!(engine.stats().exchanges, 4, "counted across reloads");
}

#[test]
fn a_check_after_a_reload_joins_no_exchange_begun_before_and_those_in_flight_end_as_they_began() {
    let gate = Gate::default();
    let old = Scripted::always(Reply::allow().when(&gate));
    let new = Scripted::always(Reply::deny());
    let engine = engine(&old.url(), &[]);
    let collect = Collect::new();
    for user_data in 0..3 {
        engine.submit(&good(), &collect.receiver(), user_data).unwrap();
    }
    old.wait_requests(1);
    reload(&engine, &new.url(), &[]);
    assert_backend(&ask(&engine, &good()), Verdict::Deny, 403);
    assert_eq!(collect.delivered(), 0);
    gate.open();
    for (_, decision) in collect.wait(3) {
        assert_backend(&decision, Verdict::Allow, 200);
    }
    assert_eq!((old.request_count(), new.request_count()), (1, 1));
    old.wait_all_closed();
}

#[test]
fn a_check_after_a_reload_in_the_middle_of_a_batch_is_judged_by_the_new_configuration() {
    let backend = Scripted::always(Reply::allow());
    let engine = engine(&backend.url(), &[("path.check", "on")]);
    let dotted = Check { path: b"/a/../b", ..good() };
    let checks = (0..2).map(|index| {
        if index == 1 {
            reload(&engine, &backend.url(), &[("path.check", "off")]);
        }
        (dotted, index)
    });
    let (collect, mut outcomes) = (Collect::new(), Vec::new());
    engine.submit_batch(checks, &collect.receiver(), |outcome| outcomes.push(outcome.is_ok()));
    assert_eq!(outcomes, [false, true]);
    assert!(engine.drain(support::PATIENCE));
    assert_eq!(backend.request_count(), 1);
}

#[test]
fn the_same_configuration_again_is_another_one() {
    let gate = Gate::default();
    let backend = Scripted::always(Reply::allow().when(&gate));
    let engine = engine(&backend.url(), &[]);
    let collect = Collect::new();
    engine.submit(&good(), &collect.receiver(), 0).unwrap();
    backend.wait_requests(1);
    reload(&engine, &backend.url(), &[]);
    engine.submit(&good(), &collect.receiver(), 1).unwrap();
    backend.wait_requests(2);
    gate.open();
    assert!(collect.wait(2).iter().all(|(_, decision)| decision.allows() && !decision.coalesced));
}

#[test]
fn credentials_and_policy_change_at_once() {
    let backend = Scripted::new(|request| match request.session().as_str() {
        "lost" => Reply::close(),
        _ => Reply::status(204, ""),
    });
    let with = |user: &str| format!("http://{user}:x@{}/auth", backend.address());
    let engine = engine(&with("one"), &[("default_action", "allow")]);
    let authorisation = |request: &Request| request.header("Authorization").unwrap();
    assert_backend(&ask(&engine, &good()), Verdict::Deny, 204);
    assert_default(&ask(&engine, &of_session("lost")), Verdict::Allow, Cause::Reset);
    let before = backend.request_count();
    let keys = [("default_action", "deny"), ("allow_statuses", "204"), ("header.X-Site", "two")];
    reload(&engine, &with("two"), &keys);
    assert_eq!(engine.default_action(), Verdict::Deny);
    assert_backend(&ask(&engine, &good()), Verdict::Allow, 204);
    assert_default(&ask(&engine, &of_session("lost")), Verdict::Deny, Cause::Reset);
    let requests = backend.requests();
    let (before, after) = requests.split_at(before);
    assert!(before.iter().all(|request| authorisation(request) == b"Basic b25lOng="));
    for request in after {
        assert_eq!(authorisation(request), b"Basic dHdvOng=");
        assert_eq!(request.header("X-Site").unwrap(), b"two");
    }
    assert!(
        before.iter().all(|request| request.connection != after[0].connection),
        "nor is a connection shared"
    );
}

#[test]
fn what_cannot_change_is_refused_by_name_and_nothing_has_changed() {
    let (old, new) = (Scripted::always(Reply::allow()), Scripted::always(Reply::deny()));
    let engine = engine(&old.url(), &[("default_action", "allow"), ("threads.io", "2")]);
    for (key, value, what) in [
        ("threads.io", "3", "from 2 to 3"),
        ("threads.callback", "2", "from 1 to 2"),
        ("inbox.capacity", "77", "to 77"),
        ("overload", "default", "from refuse to default"),
        ("tls.ca_file", "/nowhere/authority.pem", "/nowhere/authority.pem"),
    ] {
        let keys = [("threads.io", "2"), ("default_action", "deny"), (key, value)];
        let url = if key.starts_with("tls") { "https://127.0.0.1:1/auth" } else { &new.url() };
        match engine.reload(&config(url, &keys)) {
            Err(StartError::Config(error)) => {
                let said = error.to_string();
                assert!(said.contains(key) && said.contains(what), "{key}: {said}");
            }
            other => panic!("{key}: {other:?}"),
        }
        assert_eq!(engine.default_action(), Verdict::Allow, "{key}");
        assert_backend(&ask(&engine, &good()), Verdict::Allow, 200);
    }
    assert_eq!((old.request_count(), old.connections(), new.request_count()), (5, 1, 0));
}

#[test]
fn fifty_reloads_under_load_lose_no_check_and_leave_nothing() {
    const THREADS: usize = 2;
    if let Some(child) = Rerun::of("fifty_reloads_under_load_lose_no_check_and_leave_nothing") {
        return child.run();
    }
    let quiet = Scripted::always(Reply::allow());
    let busy = [Scripted::always(Reply::allow()), Scripted::always(Reply::deny())];
    let keys = [("threads.io", "2"), ("pool.max_connections", "8")];
    let engine = engine(&quiet.url(), &keys);
    assert!(ask(&engine, &good()).allows());
    let before = open_now();

    let (collect, over) = (Collect::new(), AtomicBool::new(false));
    let mut submitted = 0;
    std::thread::scope(|scope| {
        let submitters: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    let mut count = 0;
                    while !over.load(Ordering::Relaxed) {
                        let id = (count % 97).to_string();
                        // At most so many at a time: a full inbox would say nothing about reloads.
                        match engine.submit(&of_session(&id), &collect.receiver(), 0) {
                            Ok(_) => count += 1,
                            Err(error) => panic!("{error}"),
                        }
                        if count % 200 == 0 {
                            assert!(engine.drain(support::PATIENCE));
                        }
                    }
                    count
                })
            })
            .collect();
        for index in 0..50 {
            let delivered = collect.delivered();
            reload(&engine, &busy[index % 2].url(), &keys);
            // Under each of them something was decided.
            collect.wait_for(delivered + 100);
        }
        over.store(true, Ordering::Relaxed);
        submitted = submitters.into_iter().map(|submitter| submitter.join().unwrap()).sum();
    });
    assert!(engine.drain(support::PATIENCE));
    let decided = collect.wait(submitted);
    assert_eq!(decided.len(), submitted);
    for (_, decision) in &decided {
        assert_eq!((decision.origin, decision.cause), (alta_auth::Origin::Backend, Cause::None));
    }
    assert!(busy.iter().all(|backend| backend.request_count() > 0));
    let stats = engine.stats();
    let all = submitted as u64 + 1;
    assert_eq!((stats.submitted, stats.completed, stats.cancelled, stats.pending), (all, all, 0, 0));
    let asked = quiet.request_count() + busy.iter().map(Scripted::request_count).sum::<usize>();
    assert_eq!(stats.exchanges, asked as u64, "each exchange is counted once");

    reload(&engine, &quiet.url(), &keys);
    assert!(ask(&engine, &good()).allows());
    busy.iter().for_each(Scripted::wait_all_closed);
    until(|| open_now() == before);
    assert_eq!(engine.stats().connections_open, 1);
}

/// Descriptors and threads of this process, those of its backends included.
fn open_now() -> (usize, usize) {
    let count = |directory: &str| std::fs::read_dir(directory).unwrap().count();
    (count("/proc/self/fd"), count("/proc/self/task"))
}

// Revocation

#[test]
fn a_check_after_a_revocation_does_not_join_what_was_asked_before_it() {
    let (gate, revoked) = (Gate::default(), Arc::new(AtomicBool::new(false)));
    let (held, after) = (gate.clone(), Arc::clone(&revoked));
    let backend = Scripted::new(move |_| match after.load(Ordering::SeqCst) {
        false => Reply::allow().when(&held),
        true => Reply::deny().when(&held),
    });
    let engine = engine(&backend.url(), &[]);
    let collect = Collect::new();
    for (user_data, session) in [(0, "s1"), (1, "twin")] {
        engine.submit(&of_session(session), &collect.receiver(), user_data).unwrap();
    }
    backend.wait_requests(2);
    revoked.store(true, Ordering::SeqCst);
    engine.revoke(b"s1");
    for (user_data, session) in [(2, "s1"), (3, "s1"), (4, "twin")] {
        engine.submit(&of_session(session), &collect.receiver(), user_data).unwrap();
    }
    backend.wait_requests(3);
    gate.open();
    let mut decided = collect.wait(5);
    decided.sort_by_key(|(user_data, _)| *user_data);
    let decided: Vec<_> = decided.iter().map(|(_, it)| (it.verdict, it.coalesced)).collect();
    let (allow, deny) = (Verdict::Allow, Verdict::Deny);
    assert_eq!(decided, [(allow, false), (allow, false), (deny, false), (deny, true), (allow, true)]);
    assert_eq!((backend.request_count(), engine.stats().revoked), (3, 1));
}

#[test]
fn a_revoked_session_is_denied_by_default_until_the_backend_has_answered() {
    let up = Arc::new(AtomicBool::new(false));
    let answers = Arc::clone(&up);
    let backend =
        Scripted::new(move |_| if answers.load(Ordering::SeqCst) { Reply::allow() } else { Reply::close() });
    let engine = engine(&backend.url(), &[("default_action", "allow")]);
    let by_default =
        |session: &str, verdict| assert_default(&ask(&engine, &of_session(session)), verdict, Cause::Reset);
    by_default("s1", Verdict::Allow);
    engine.revoke(b"s1");
    for _ in 0..2 {
        by_default("s1", Verdict::Deny);
        by_default("twin", Verdict::Allow);
    }
    // Another answer says nothing about this session.
    up.store(true, Ordering::SeqCst);
    assert_backend(&ask(&engine, &of_session("twin")), Verdict::Allow, 200);
    up.store(false, Ordering::SeqCst);
    by_default("s1", Verdict::Deny);
    // A reload forgets nothing of it.
    reload(&engine, &backend.url(), &[("default_action", "allow")]);
    by_default("s1", Verdict::Deny);

    up.store(true, Ordering::SeqCst);
    assert_backend(&ask(&engine, &of_session("s1")), Verdict::Allow, 200);
    up.store(false, Ordering::SeqCst);
    by_default("s1", Verdict::Allow);
}

#[test]
fn a_revoked_session_is_denied_at_shutdown_and_by_an_answer_that_was_on_its_way_it_is_not_revived() {
    let gate = Gate::default();
    let held = gate.clone();
    let backend = Scripted::new(move |request| match request.session().as_str() {
        "held" => Reply::allow().when(&held),
        _ => Reply::silence(),
    });
    let engine = engine(&backend.url(), &[("default_action", "allow"), ("timeout", "60s")]);
    let collect = Collect::new();
    engine.submit(&of_session("held"), &collect.receiver(), 0).unwrap();
    backend.wait_requests(1);
    engine.revoke(b"held");
    engine.revoke(b"s1");
    gate.open();
    assert_backend(&collect.wait(1)[0].1, Verdict::Allow, 200);
    // On the gate no more: what follows about this session is silence at the old backend's place.
    let silent = Scripted::always(Reply::silence());
    reload(&engine, &silent.url(), &[("default_action", "allow"), ("timeout", "60s")]);
    for (user_data, session) in [(1, "held"), (2, "s1"), (3, "twin")] {
        engine.submit(&of_session(session), &collect.receiver(), user_data).unwrap();
    }
    silent.wait_requests(3);
    assert!(!engine.shutdown(std::time::Duration::ZERO));
    for (user_data, decision) in &collect.wait(4)[1..] {
        let verdict = if *user_data == 3 { Verdict::Allow } else { Verdict::Deny };
        assert_default(decision, verdict, Cause::Shutdown);
    }
}

/// Reloads the engine, on a thread of its own, within a warning of a reload.
#[derive(Default)]
struct Reloading {
    engine: OnceLock<(Weak<Engine>, String)>,
    reloaded: AtomicBool,
}

impl Log for Reloading {
    fn log(&self, _: LogLevel, _: &str) {
        let Some((engine, url)) = self.engine.get().cloned() else { return };
        let (done, is_done) = crossbeam_channel::bounded(1);
        std::thread::spawn(move || done.send(engine.upgrade().unwrap().reload(&config(&url, &[])).is_ok()));
        self.reloaded.store(is_done.recv_timeout(support::PATIENCE) == Ok(true), Ordering::SeqCst);
    }
}

#[test]
fn no_lock_is_held_while_a_reload_warns() {
    let backend = Scripted::always(Reply::allow());
    let engine = Arc::new(engine(&backend.url(), &[]));
    let reloading = Arc::new(Reloading::default());
    assert!(reloading.engine.set((Arc::downgrade(&engine), backend.url())).is_ok());
    let mut warns = config(&backend.url(), &[("scope", "session")]);
    warns.set_log(reloading.clone());
    engine.reload(&warns).unwrap();
    assert!(reloading.reloaded.load(Ordering::SeqCst));
}

/// What an engine was is let go of, though a connection that was opened under it stays open.
#[test]
fn watches_that_stay_open_keep_no_former_configuration_alive() {
    if let Some(child) = Rerun::of("watches_that_stay_open_keep_no_former_configuration_alive") {
        return child.run();
    }
    let resolvers = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
        names.filter(|name| name.trim() == "alta-dns").count()
    };
    let backend = Scripted::always(Reply::status(200, "X-AuthDuration: 36000\r\n"));
    let url = format!("http://localhost:{}/", backend.address().port());
    let engine = engine(&url, &[]);
    let collect = Collect::new();
    for number in 1..=30 {
        engine.watch(&of_session(&format!("s{number}")), &collect.receiver(), number).unwrap();
        let told = collect.wait(number).pop().unwrap();
        assert_backend(&told.1, Verdict::Allow, 200);
        reload(&engine, &url, &[]);
    }
    until(|| resolvers() == 1);
    assert_eq!((engine.stats().watching, backend.request_count()), (30, 30));
}
