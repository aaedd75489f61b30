//! A network that swallows, refuses or does not know the backend: each check ends within its budget and says why, and the
//! backend is found again when the network is.
//!
//! Each test has a network of its own, with its own filters.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::process::Command;
use std::time::Duration;

use alta_auth::{Cause, Check, Decision, Verdict};
use support::{
    Collect, Reply, Rerun, SLACK, Scripted, ask, assert_backend, assert_default, bad, engine, good, sessions,
    until,
};

/// The default action is the opposite of what the backend says of [`bad`].
const ALLOW: (&str, &str) = ("default_action", "allow");

/// Refuses, and says whom.
fn backend() -> Scripted {
    Scripted::new(|request| Reply::status(403, &format!("X-UserId: {}\r\n", request.session())))
}

fn run(program: &str, words: &str) {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let output = Command::new(program).args(words.split(' ')).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{program} {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What goes to the backend meets this; what it sends passes.
fn filter(backend: &Scripted, target: &str) {
    run("iptables", &format!("-w -A OUTPUT -p tcp --dport {} -j {target}", backend.address().port()));
}

fn no_filters() {
    run("iptables", "-w -F OUTPUT");
}

fn named(session: &str) -> Check<'_> {
    Check { session_id: session.as_bytes(), ..bad() }
}

#[track_caller]
fn assert_refused(decision: &Decision, session: &str) {
    assert_backend(decision, Verdict::Deny, 403);
    assert_eq!(decision.user_id(), session, "another's answer");
}

#[test]
fn a_connection_that_is_swallowed_ends_with_the_budget_and_the_backend_is_found_again() {
    if let Some(child) =
        Rerun::of("a_connection_that_is_swallowed_ends_with_the_budget_and_the_backend_is_found_again")
    {
        return child.with_filters().map_or((), Rerun::run);
    }
    let backend = backend();
    let keys = [
        ALLOW,
        ("breaker.failures", "0"),
        ("timeout", "1s"),
        ("connect_timeout", "300ms"),
        ("pool.idle_timeout", "60s"),
    ];
    let engine = engine(&backend.url(), &keys);
    assert_refused(&ask(&engine, &named("before")), "before");

    filter(&backend, "DROP");
    // The kept connection takes the request; nothing says that it is gone.
    let swallowed = ask(&engine, &named("swallowed"));
    assert_default(&swallowed, Verdict::Allow, Cause::Timeout);
    assert!(swallowed.latency < Duration::from_secs(1) + SLACK, "{:?}", swallowed.latency);
    assert_eq!(engine.stats().retries, 0, "a timeout was asked about again");
    until(|| engine.stats().connections_open == 0);
    // It is not used again, and another does not come to be.
    let unconnected = ask(&engine, &named("unconnected"));
    assert_default(&unconnected, Verdict::Allow, Cause::Connect);
    assert!(unconnected.latency < Duration::from_millis(300) + SLACK, "{:?}", unconnected.latency);

    no_filters();
    for id in sessions(20) {
        assert_refused(&ask(&engine, &named(&id)), &id);
    }
    assert_eq!(engine.stats().connections_open, 1);
}

#[test]
fn many_connections_that_are_swallowed_at_once_end_with_the_budget() {
    if let Some(child) = Rerun::of("many_connections_that_are_swallowed_at_once_end_with_the_budget") {
        return child.with_filters().map_or((), Rerun::run);
    }
    let backend = Scripted::new(|request| {
        let reply = Reply::status(403, &format!("X-UserId: {}\r\n", request.session()));
        // Long enough that no connection is used twice.
        if request.session().starts_with("warm") { reply.after(Duration::from_millis(500)) } else { reply }
    });
    let keys = [
        ALLOW,
        ("timeout", "2s"),
        ("connect_timeout", "500ms"),
        ("pool.idle_timeout", "60s"),
        ("breaker.cooldown", "200ms"),
    ];
    let engine = engine(&backend.url(), &keys);
    let submit = |prefix: &str| {
        let collect = Collect::new();
        for index in 0..64 {
            let (id, ip) = (format!("{prefix}{index}"), format!("192.0.2.{index}"));
            let check = Check { ip: ip.as_bytes(), ..named(&id) };
            engine.submit(&check, &collect.receiver(), index).unwrap();
        }
        collect.wait(64)
    };
    for (index, decision) in submit("warm") {
        assert_refused(&decision, &format!("warm{index}"));
    }
    let kept = engine.stats().connections_idle;
    assert!(kept > 32, "{kept} connections: the test shows little");

    filter(&backend, "DROP");
    let decided = submit("swallowed");
    for (_, decision) in &decided {
        assert_eq!(decision.origin, alta_auth::Origin::Default);
        assert!(
            matches!(decision.cause, Cause::Timeout | Cause::Connect | Cause::BreakerOpen),
            "{decision:?}: {}",
            decision.detail()
        );
        assert!(decision.latency < Duration::from_secs(2) + SLACK, "{:?}", decision.latency);
    }
    assert!(decided.iter().any(|(_, decision)| decision.cause == Cause::Timeout));
    // The exchange began a moment after its check, and ends a moment after it.
    until(|| engine.stats().endpoints[0].breaker_open);

    no_filters();
    // The probe finds out; until then nobody is asked about.
    until(|| ask(&engine, &named("probe")).origin == alta_auth::Origin::Backend);
    assert!(!engine.stats().endpoints[0].breaker_open);
    for (index, decision) in submit("after") {
        assert_refused(&decision, &format!("after{index}"));
    }
}

/// A firewall that says so ends the wait at once.
#[test]
fn a_connection_that_is_rejected_is_an_outage_at_once_whatever_the_rejection_is() {
    if let Some(child) =
        Rerun::of("a_connection_that_is_rejected_is_an_outage_at_once_whatever_the_rejection_is")
    {
        return child.with_filters().map_or((), Rerun::run);
    }
    let kinds = [
        "tcp-reset",
        "icmp-port-unreachable",
        "icmp-host-unreachable",
        "icmp-net-unreachable",
        "icmp-admin-prohibited",
    ];
    for kind in kinds {
        let backend = backend();
        let keys = [ALLOW, ("breaker.failures", "0"), ("timeout", "25s"), ("connect_timeout", "20s")];
        let engine = engine(&backend.url(), &keys);
        filter(&backend, &format!("REJECT --reject-with {kind}"));
        let decision = ask(&engine, &named("rejected"));
        assert_default(&decision, Verdict::Allow, Cause::Connect);
        assert!(decision.latency < SLACK, "{kind}: {:?}", decision.latency);
        assert_eq!(backend.connections(), 0);
        no_filters();
        assert_refused(&ask(&engine, &named("after")), "after");
    }
}

/// The kept connection is reset by the request: that is asked again, once, and the new connection is rejected, too.
#[test]
fn a_kept_connection_that_is_rejected_is_asked_again_once() {
    if let Some(child) = Rerun::of("a_kept_connection_that_is_rejected_is_asked_again_once") {
        return child.with_filters().map_or((), Rerun::run);
    }
    let backend = backend();
    let keys = [ALLOW, ("breaker.failures", "0"), ("timeout", "25s"), ("pool.idle_timeout", "60s")];
    let engine = engine(&backend.url(), &keys);
    assert_refused(&ask(&engine, &named("before")), "before");
    filter(&backend, "REJECT --reject-with tcp-reset");
    let decision = ask(&engine, &named("rejected"));
    assert_default(&decision, Verdict::Allow, Cause::Connect);
    assert!(decision.latency < SLACK, "{:?}", decision.latency);
    assert_eq!((engine.stats().retries, backend.request_count()), (1, 1));
    no_filters();
    assert_refused(&ask(&engine, &named("after")), "after");
}

#[test]
fn a_backend_without_a_route_is_an_outage_of_connect_at_once() {
    if let Some(child) = Rerun::of("a_backend_without_a_route_is_an_outage_of_connect_at_once") {
        return child.with_filters().map_or((), Rerun::run);
    }
    // RFC 5737 and 3849: nobody's.
    for (route, address) in [
        ("", "198.51.100.1"),
        ("unreachable", "198.51.100.1"),
        ("prohibit", "198.51.100.1"),
        ("blackhole", "198.51.100.1"),
        ("", "[2001:db8::1]"),
    ] {
        if !route.is_empty() {
            run("ip", &format!("route add {route} 198.51.100.0/24"));
        }
        for (action, verdict) in [("allow", Verdict::Allow), ("deny", Verdict::Deny)] {
            let keys = [("default_action", action), ("timeout", "25s"), ("connect_timeout", "20s")];
            let decision = ask(&engine(&format!("http://{address}:6000/auth"), &keys), &good());
            assert_eq!(decision.cause, Cause::Connect, "{route} {address}: {}", decision.detail());
            assert_default(&decision, verdict, Cause::Connect);
            assert!(decision.latency < SLACK, "{route}: {:?}", decision.latency);
        }
        if !route.is_empty() {
            run("ip", "route flush 198.51.100.0/24");
        }
    }
}

#[test]
fn a_link_that_goes_down_is_an_outage_and_its_return_is_noticed() {
    if let Some(child) = Rerun::of("a_link_that_goes_down_is_an_outage_and_its_return_is_noticed") {
        return child.with_filters().map_or((), Rerun::run);
    }
    let backend = backend();
    let keys = [ALLOW, ("breaker.failures", "0"), ("timeout", "500ms"), ("pool.idle_timeout", "60s")];
    let engine = engine(&backend.url(), &keys);
    assert_refused(&ask(&engine, &named("before")), "before");
    run("ip", "link set lo down");
    for id in ["down", "still"] {
        let decision = ask(&engine, &named(id));
        assert_eq!((decision.verdict, decision.origin), (Verdict::Allow, alta_auth::Origin::Default));
        assert!(
            matches!(decision.cause, Cause::Timeout | Cause::Connect | Cause::Reset),
            "{decision:?}: {}",
            decision.detail()
        );
        assert!(decision.latency < Duration::from_millis(500) + SLACK, "{:?}", decision.latency);
    }
    run("ip", "link set lo up");
    until(|| ask(&engine, &named("probe")).origin == alta_auth::Origin::Backend);
    assert_refused(&ask(&engine, &named("after")), "after");
}
