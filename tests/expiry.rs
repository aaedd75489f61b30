//! Certificates that expire, and are replaced, while an engine runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alta_auth::{Cause, Check, Decision, Engine, Verdict};
use support::{
    Authority, Collect, Gate, Reply, Rerun, Scripted, Shown, ask, assert_backend, assert_default, bad,
    config, engine, started, until,
};

/// Long enough for what is done before, on a busy machine.
const VALID: Duration = Duration::from_secs(6);
const KEPT: (&str, &str) = ("pool.idle_timeout", "1m");
/// The default action is the opposite of what the backend says.
const ALLOW: (&str, &str) = ("default_action", "allow");
const NO_BREAKER: (&str, &str) = ("breaker.failures", "0");

/// An end that is [`VALID`] from now, from 1970.
fn soon() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Duration::from_secs((now + VALID).as_secs())
}

fn wait_past(end: Duration) {
    // It is valid up to and with that second.
    until(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap() > end + Duration::from_secs(1));
}

fn trusting(authority: &Authority) -> String {
    authority.file().to_str().unwrap().to_owned()
}

fn named(session: &str) -> Check<'_> {
    Check { session_id: session.as_bytes(), ..bad() }
}

/// Refuses: sessions that are named `slow` when the gate opens.
fn backend(config: rustls::ServerConfig, gate: &Gate) -> Scripted {
    let gate = gate.clone();
    Scripted::tls_by(config, move |request| {
        if request.session().starts_with("slow") { Reply::deny().when(&gate) } else { Reply::deny() }
    })
}

fn url(backend: &Scripted) -> String {
    format!("https://{}/auth", backend.address())
}

/// What a check gets for which no connection is free, as `slow` keeps the one that there is.
fn on_a_new_connection(engine: &Engine, backend: &Scripted, session: &str, gate: &Gate) -> Decision {
    let (collect, before) = (Collect::new(), backend.request_count());
    let slow = format!("slow-{session}");
    engine.submit(&named(&slow), &collect.receiver(), 0).unwrap();
    backend.wait_requests(before + 1);
    let decision = ask(engine, &named(session));
    gate.open();
    assert_backend(&collect.wait(1)[0].1, Verdict::Deny, 403);
    decision
}

#[test]
fn what_is_connected_goes_on_when_a_certificate_expires_and_what_is_not_is_an_outage_until_it_is_replaced() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let (authority, end) = (Authority::new(), soon());
        let shown = Shown::new(&authority.server_until("127.0.0.1", end));
        let gate = Gate::default();
        let backend = backend(shown.server_config(&[version]), &gate);
        let ca = trusting(&authority);
        let keys = [("tls.ca_file", ca.as_str()), KEPT, ALLOW, NO_BREAKER];
        let keeps = engine(&url(&backend), &keys);
        let ages = engine(&url(&backend), &[&keys[..], &[("pool.max_age", "1s")]].concat());
        for engine in [&keeps, &ages] {
            assert_backend(&ask(engine, &named("before")), Verdict::Deny, 403);
        }
        wait_past(end);
        let before = (backend.connections(), backend.request_count());
        for session in ["a", "b"] {
            assert_backend(&ask(&keeps, &named(session)), Verdict::Deny, 403);
        }
        assert_eq!((backend.connections(), backend.request_count()), (before.0, before.1 + 2));
        // Sessions that were begun in time could be resumed; they prove nothing any more.
        let requests = backend.request_count();
        for refused in [ask(&ages, &named("old")), on_a_new_connection(&keeps, &backend, "more", &gate)] {
            assert_default(&refused, Verdict::Allow, Cause::Tls);
            assert!(refused.detail().contains("certificate expired"), "{}", refused.detail());
        }
        assert_eq!(backend.request_count(), requests + 1, "nothing was asked but what was kept waiting");

        shown.change(&authority.server("127.0.0.1"));
        assert_backend(&ask(&ages, &named("new")), Verdict::Deny, 403);
        assert_backend(&ask(&keeps, &named("kept")), Verdict::Deny, 403);
    }
}

/// The session of the first connection is resumed by the second: of a backend whose certificate was replaced in time nobody
/// notices anything.
#[test]
fn a_certificate_that_is_replaced_before_its_end_costs_no_check_though_sessions_of_the_old_one_are_resumed() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let (authority, end) = (Authority::new(), soon());
        let shown = Shown::new(&authority.server_until("127.0.0.1", end));
        let backend = backend(shown.server_config(&[version]), &Gate::default());
        let ca = trusting(&authority);
        // A connection for each check.
        let keys = [("tls.ca_file", ca.as_str()), ALLOW, NO_BREAKER, ("pool.idle_timeout", "1ms")];
        let engine = engine(&url(&backend), &keys);
        for session in ["a", "b"] {
            assert_backend(&ask(&engine, &named(session)), Verdict::Deny, 403);
            backend.wait_all_closed();
        }
        shown.change(&authority.server("127.0.0.1"));
        wait_past(end);
        for session in ["c", "d", "e"] {
            assert_backend(&ask(&engine, &named(session)), Verdict::Deny, 403);
            backend.wait_all_closed();
        }
        // One more than checks: the one that was resumed, and not believed.
        assert_eq!((backend.request_count(), backend.connections()), (5, 6));
    }
}

/// A session that has outlived its certificate takes a second connection, and the engine's process can have no more.
#[test]
fn a_descriptor_that_is_missing_to_be_shown_the_certificate_is_our_own_lack_and_no_outage_of_tls() {
    const NAME: &str =
        "a_descriptor_that_is_missing_to_be_shown_the_certificate_is_our_own_lack_and_no_outage_of_tls";
    let names = ["ALTA_TEST_URL", "ALTA_TEST_CA", "ALTA_TEST_END"];
    if let Some(child) = Rerun::of(NAME) {
        let (authority, end) = (Authority::new(), soon());
        let shown = Shown::new(&authority.server_until("127.0.0.1", end));
        let backend = backend(shown.server_config(rustls::ALL_VERSIONS), &Gate::default());
        let told = [url(&backend), trusting(&authority), end.as_secs().to_string()];
        let child = child.with_open_files(64);
        names.iter().zip(told).fold(child, |child, (name, value)| child.env(name, &value)).run();
        assert_eq!(backend.connections(), 2, "the second was let go");
        return;
    }
    let [url, ca, end] = names.map(|name| std::env::var(name).unwrap());
    let keys = [("tls.ca_file", ca.as_str()), ALLOW, NO_BREAKER, ("pool.idle_timeout", "1ms")];
    let engine = engine(&url, &keys);
    assert_backend(&ask(&engine, &named("a")), Verdict::Deny, 403);
    wait_past(Duration::from_secs(end.parse().unwrap()));
    let mut hoard = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    hoard.pop();
    assert_default(&ask(&engine, &named("b")), Verdict::Deny, Cause::Overload);
    drop(hoard);
}

#[test]
fn a_reload_reads_the_authorities_anew() {
    let (old, new) = (Authority::new(), Authority::new());
    let shown = Shown::new(&old.server("127.0.0.1"));
    let backend = backend(shown.server_config(rustls::ALL_VERSIONS), &Gate::default());
    let ca = trusting(&old);
    let keys = [("tls.ca_file", ca.as_str()), ALLOW, NO_BREAKER, ("pool.idle_timeout", "1ms")];
    let configured = config(&url(&backend), &keys);
    let engine = started(Engine::new(&configured));
    assert_backend(&ask(&engine, &named("a")), Verdict::Deny, 403);
    backend.wait_all_closed();
    // The session was begun under the old one, and the server would resume it; a new engine knows none.
    shown.change(&new.server("127.0.0.1"));
    std::fs::copy(new.file(), old.file()).unwrap();
    let fresh = started(Engine::new(&configured));
    assert_backend(&ask(&fresh, &named("b")), Verdict::Deny, 403);
    engine.reload(&configured).unwrap_or_else(|error| panic!("{error}"));
    assert_backend(&ask(&engine, &named("c")), Verdict::Deny, 403);
    // And the other way round: what is not trusted any more is not resumed.
    std::fs::copy(Authority::new().file(), old.file()).unwrap();
    engine.reload(&configured).unwrap_or_else(|error| panic!("{error}"));
    assert_default(&ask(&engine, &named("d")), Verdict::Allow, Cause::Tls);
}
