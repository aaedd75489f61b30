//! Backends by name, through the system's resolver: names that fail, hang, move and stand for several addresses.
//!
//! Each test has a network of its own, with its own name server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alta_auth::{Cause, Check, Engine, Origin, Verdict};
use support::{
    Collect, Dns, Reply, Rerun, SLACK, Says, Scripted, ask, assert_backend, assert_default, bad, config,
    engine, until,
};

/// As often as it may be.
const REFRESH: (&str, &str) = ("dns.refresh", "1s");
/// The default action is the opposite of what the backends say.
const ALLOW: (&str, &str) = ("default_action", "allow");

/// An address of the loopback, by its last number.
fn at(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, last)
}

/// Backends at these addresses, with one port; each refuses, and says where it is.
fn backends<const N: usize>(lasts: [u8; N]) -> ([Scripted; N], u16) {
    let mut port = 0;
    let backends = lasts.map(|last| {
        let backend = Scripted::at((at(last), port), move |_| refusal(last));
        port = backend.address().port();
        backend
    });
    (backends, port)
}

fn refusal(last: u8) -> Reply {
    Reply::status(403, &format!("X-UserId: at-{last}\r\n"))
}

fn url(port: u16) -> String {
    format!("http://backend.test:{port}/auth")
}

/// Asks about a session of its own, and says where the backend is that answered.
#[track_caller]
fn answered(engine: &Engine, session: &str) -> String {
    let decision = ask(engine, &Check { session_id: session.as_bytes(), ..bad() });
    assert_backend(&decision, Verdict::Deny, 403);
    decision.user_id().to_owned()
}

/// Asks until the name server has been asked so many times more.
fn ask_until_asked(engine: &Engine, dns: &Dns, more: usize, each: impl Fn(&str)) {
    let (before, number) = (dns.asked(), Cell::new(0));
    until(|| {
        answered(engine, &format!("{before}-{}", number.replace(number.get() + 1)));
        dns.asked() >= before + more
    });
    each("all answered");
}

/// The threads of the engine, and of whatever they began: a thread has its parent's name until it takes another.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("alta-")).collect();
    names.sort();
    names
}

#[test]
fn a_name_that_was_never_found_is_an_outage_of_resolve_until_it_is_found() {
    if let Some(child) = Rerun::of("a_name_that_was_never_found_is_an_outage_of_resolve_until_it_is_found") {
        return child.with_names().map_or((), Rerun::run);
    }
    let ([backend], port) = backends([2]);
    let dns = Dns::new(Says::Fails);
    let keys = [ALLOW, REFRESH, ("breaker.failures", "0"), ("timeout", "5s"), ("connect_timeout", "300ms")];
    let engine = engine(&url(port), &keys);
    for says in [Says::Fails, Says::Unknown, Says::Nothing, Says::Addresses(vec![])] {
        let hangs = matches!(says, Says::Nothing);
        dns.say(says);
        for session in ["a", "b"] {
            let decision = ask(&engine, &Check { session_id: session.as_bytes(), ..bad() });
            assert_default(&decision, Verdict::Allow, Cause::Resolve);
            assert!(decision.latency < Duration::from_secs(1) + SLACK, "{:?}", decision.latency);
            assert!(decision.detail().contains("cannot resolve backend.test"), "{}", decision.detail());
            assert!(!hangs || decision.latency >= Duration::from_millis(300), "{:?}", decision.latency);
        }
    }
    assert_eq!(backend.connections(), 0);
    dns.say(Says::Addresses(vec![at(2)]));
    // The lookup that hung may still be under way.
    until(|| ask(&engine, &bad()).origin == Origin::Backend);
    assert_eq!(answered(&engine, "found"), "at-2");
}

#[test]
fn a_resolver_that_fails_or_hangs_changes_nothing_and_a_name_that_has_moved_is_followed() {
    if let Some(child) =
        Rerun::of("a_resolver_that_fails_or_hangs_changes_nothing_and_a_name_that_has_moved_is_followed")
    {
        return child.with_names().map_or((), Rerun::run);
    }
    let ([before, after], port) = backends([2, 3]);
    let dns = Dns::new(Says::Addresses(vec![at(2)]));
    // No connection is kept for long: each lookup that is used is used for a new one, too.
    let keys = [ALLOW, REFRESH, ("timeout", "5s"), ("connect_timeout", "5s"), ("pool.max_age", "1s")];
    let engine = engine(&url(port), &keys);
    assert_eq!(answered(&engine, "first"), "at-2");
    // Another one keeps the connection that it has.
    let keeping = support::engine(&url(port), &[ALLOW, REFRESH, ("pool.idle_timeout", "1m")]);
    assert_eq!(answered(&keeping, "first"), "at-2");
    let threads_before = threads();
    assert_eq!(threads_before.iter().filter(|name| name.trim() == "alta-dns").count(), 2, "one an engine");
    for says in [Says::Fails, Says::Unknown, Says::Nothing, Says::Addresses(vec![])] {
        dns.say(says.clone());
        // A lookup that has ended and the next, which may hang: two questions each, for IPv4 and IPv6.
        ask_until_asked(&engine, &dns, 4, |_| assert_eq!(threads(), threads_before, "{says:?}"));
    }
    assert_eq!(engine.stats().origins[Origin::Backend as usize], engine.stats().completed);
    assert_eq!(after.connections(), 0);
    // While it hangs, nobody waits for it.
    dns.say(Says::Nothing);
    let asked = dns.asked();
    until(|| {
        answered(&engine, "wait");
        dns.asked() > asked
    });
    for number in 0..50 {
        let decision = ask(&engine, &Check { session_id: format!("h{number}").as_bytes(), ..bad() });
        assert_backend(&decision, Verdict::Deny, 403);
        assert!(decision.latency < SLACK, "{:?}", decision.latency);
    }
    assert_eq!(threads(), threads_before);
    dns.say(Says::Addresses(vec![at(3)]));
    until(|| answered(&engine, "moved?") == "at-3");
    until(|| answered(&keeping, "moved?") == "at-3");
    let count = before.request_count();
    for number in 0..20 {
        assert_eq!(answered(&engine, &format!("m{number}")), "at-3");
    }
    assert_eq!(before.request_count(), count);
    before.wait_all_closed();
}

#[test]
fn what_was_asked_at_another_address_is_not_explained_as_asked_again_at_the_same() {
    if let Some(child) =
        Rerun::of("what_was_asked_at_another_address_is_not_explained_as_asked_again_at_the_same")
    {
        return child.with_names().map_or((), Rerun::run);
    }
    // Whichever of the two it is.
    let first = Arc::new(AtomicBool::new(true));
    let mut port = 0;
    let backends = [2, 3].map(|last| {
        let first = Arc::clone(&first);
        let backend = Scripted::at((at(last), port), move |_| {
            if first.swap(false, Ordering::SeqCst) { Reply::reset() } else { refusal(last) }
        });
        port = backend.address().port();
        backend
    });
    let _dns = Dns::new(Says::Addresses(vec![at(2), at(3)]));
    let config = config(&url(port), &[("timeout", "9s"), ("connect_timeout", "5s")]);
    let report = alta_auth::probe(&config, &bad()).unwrap().unwrap();
    assert_backend(&report.decision, Verdict::Deny, 403);
    assert_eq!(backends.each_ref().map(Scripted::request_count), [1, 1]);
    let endpoints = report.explanation.rules.iter().filter(|(about, _)| *about == "endpoint");
    let said = endpoints.map(|(_, said)| &said[..]).find(|said| said.contains(": asked ")).unwrap();
    let asked = format!("http://backend.test:{port}: asked 2 times, at 2 addresses of its name, answered");
    assert!(said.starts_with(&asked), "{said}");
}

#[test]
fn a_reload_while_the_resolver_fails_or_hangs_goes_on_with_what_was_found() {
    if let Some(child) = Rerun::of("a_reload_while_the_resolver_fails_or_hangs_goes_on_with_what_was_found") {
        return child.with_names().map_or((), Rerun::run);
    }
    let ([before, after], port) = backends([2, 3]);
    let dns = Dns::new(Says::Addresses(vec![at(2)]));
    let keys = [ALLOW, ("dns.refresh", "1h"), ("timeout", "5s"), ("connect_timeout", "300ms")];
    let engine = engine(&url(port), &keys);
    assert_eq!(answered(&engine, "first"), "at-2");
    for (round, says) in [Says::Fails, Says::Unknown, Says::Nothing].into_iter().enumerate() {
        dns.say(says);
        let asked = dns.asked();
        // The second forgets what is remembered, and does not know the backend's addresses.
        for (turn, more) in
            [("log.level", "debug"), ("header.X-Turn", ["1", "2", "3"][round])].iter().enumerate()
        {
            engine.reload(&config(&url(port), &[&keys[..], &[*more]].concat())).unwrap();
            for number in 0..3 {
                assert_eq!(answered(&engine, &format!("{round}-{turn}-{number}")), "at-2");
            }
        }
        until(|| dns.asked() > asked);
    }
    // And it is asked again at once, whatever `dns.refresh` says.
    dns.say(Says::Addresses(vec![at(3)]));
    engine.reload(&config(&url(port), &keys)).unwrap();
    until(|| answered(&engine, "moved?") == "at-3");
    assert_eq!(after.connections(), 1);
    before.wait_all_closed();
}

#[test]
fn the_first_check_after_a_pause_goes_to_the_name_s_new_address() {
    if let Some(child) = Rerun::of("the_first_check_after_a_pause_goes_to_the_name_s_new_address") {
        return child.with_names().map_or((), Rerun::run);
    }
    let ([two, three], port) = backends([2, 3]);
    let dns = Dns::new(Says::Addresses(vec![at(2)]));
    // When an idle connection is closed, nobody has used the name for three refreshes.
    let keys = [ALLOW, REFRESH, ("pool.idle_timeout", "3s"), ("timeout", "5s"), ("connect_timeout", "5s")];
    let engine = engine(&url(port), &keys);
    // To this one the answer is not of long ago.
    let content = support::engine(&url(port), &[&keys[..], &[("dns.refresh", "1h")]].concat());
    let number = Cell::new(0);
    let ask = |engine: &Engine| answered(engine, &number.replace(number.get() + 1).to_string());
    assert_eq!([ask(&engine), ask(&content)], ["at-2", "at-2"]);
    // Who does not wait for it has gone to the former address by then.
    dns.take(Duration::from_millis(30));
    let turn = Cell::new(0);
    // On a busy machine it may be slower than anybody waits for, and gets another pause.
    until(|| {
        let (before, last) = [(&two, 3), (&three, 2)][turn.replace(1 - turn.get())];
        before.wait_all_closed();
        dns.say(Says::Addresses(vec![at(last)]));
        let new = format!("at-{last}");
        let in_time = ask(&engine) == new;
        assert_eq!(ask(&content), "at-2");
        until(|| ask(&engine) == new);
        in_time
    });
}

/// One refuses connections, one takes them and says nothing, one works.
#[test]
fn addresses_of_one_name_that_are_dead_are_left_alone_and_found_again() {
    if let Some(child) = Rerun::of("addresses_of_one_name_that_are_dead_are_left_alone_and_found_again") {
        return child.with_names().map_or((), Rerun::run);
    }
    let ([works], port) = backends([4]);
    let hangs = Arc::new(AtomicBool::new(false));
    let hung = Arc::clone(&hangs);
    let moody =
        Scripted::at(
            (at(3), port),
            move |_| {
                if hung.load(Ordering::SeqCst) { Reply::silence() } else { refusal(3) }
            },
        );
    let _dns = Dns::new(Says::Addresses(vec![at(2), at(3), at(4)]));
    let keys = [ALLOW, REFRESH, ("backend.mode", "balance"), ("timeout", "9s"), ("connect_timeout", "5s")];
    let engine = engine(&url(port), &keys);
    let number = Cell::new(0);
    let crowd = |count: usize| {
        let collect = Collect::new();
        for index in 0..count {
            let id = format!("c{}", number.replace(number.get() + 1));
            let ip = format!("192.0.2.{}", index % 250);
            let check = Check { session_id: id.as_bytes(), ip: ip.as_bytes(), ..bad() };
            engine.submit(&check, &collect.receiver(), index).unwrap();
        }
        let decided = collect.wait(count);
        for (_, decision) in &decided {
            assert_backend(decision, Verdict::Deny, 403);
        }
        decided
    };
    let open = || {
        let endpoint = engine.stats().endpoints.swap_remove(0);
        let open = endpoint.addresses.iter().filter(|one| one.breaker_open).map(|one| one.address);
        (endpoint.breaker_open, endpoint.addresses.len(), open.collect::<Vec<IpAddr>>())
    };
    // The first check learns what the name stands for.
    crowd(1);
    hangs.store(true, Ordering::SeqCst);
    crowd(120);
    let (url_open, count, mut left_alone) = open();
    left_alone.sort();
    assert_eq!((url_open, count, left_alone), (false, 3, vec![at(2).into(), at(3).into()]));
    let page = engine.stats().prometheus();
    for (last, value) in [(2, 1), (3, 1), (4, 0)] {
        let labels = format!("endpoint=\"http://backend.test:{port}\",address=\"127.0.0.{last}\"");
        assert!(page.contains(&format!("alta_auth_address_breaker_open{{{labels}}} {value}\n")), "{page}");
    }
    let asked = (moody.request_count(), works.request_count());
    for (_, decision) in crowd(20) {
        assert_eq!(decision.user_id(), "at-4");
    }
    // Probes apart, of which each address may have had one in the meantime.
    assert!(moody.request_count() <= asked.0 + 1, "{} after {}", moody.request_count(), asked.0);
    assert_eq!(works.request_count(), asked.1 + 20);

    hangs.store(false, Ordering::SeqCst);
    let risen = Scripted::at((at(2), port), |_| refusal(2));
    until(|| {
        crowd(1);
        open() == (false, 3, vec![])
    });
    let before = [&risen, &moody, &works].map(Scripted::request_count);
    for _ in 0..60 {
        crowd(1);
    }
    let after = [&risen, &moody, &works].map(Scripted::request_count);
    for (before, after) in before.iter().zip(after) {
        assert!(after - before > 5, "{before:?} {after:?}");
    }
    assert_eq!(after.iter().sum::<usize>() - before.iter().sum::<usize>(), 60, "each was asked about once");
}
