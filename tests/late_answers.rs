//! The answer to one check is never read as the answer to another: not a late one, not a surplus one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use alta_auth::{Cause, Check, Verdict};
use parking_lot::Mutex;
use support::{
    Collect, Gate, Reply, Request, Scripted, ask, assert_backend, assert_default, engine, good, until,
};

/// A generator that needs no state but the last number: the step of `SplitMix64`.
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Names the session it answers; the session's number decides the verdict and the framing.
fn answer_to(request: &Request) -> Vec<u8> {
    let id = request.session();
    let number: u64 = id[1..].parse().unwrap();
    let status = if allowed(number) { "200 OK" } else { "403 Forbidden" };
    match mixed(number) % 3 {
        0 => format!("HTTP/1.1 {status}\r\nX-UserId: {id}\r\nContent-Length: 0\r\n\r\n"),
        1 => format!("HTTP/1.1 {status}\r\nX-UserId: {id}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        _ => format!("HTTP/1.1 {status}\r\nX-UserId: {id}\r\nContent-Length: {}\r\n\r\n{id}", id.len()),
    }
    .into_bytes()
}

fn allowed(number: u64) -> bool {
    mixed(number ^ 0xA5A5).is_multiple_of(2)
}

#[test]
fn thousands_of_interleavings_with_timeouts_and_cancels_never_mix_two_answers() {
    interleave(&[("pool.max_connections", "16")]);
}

/// The same with up to eight requests on each of three connections.
#[test]
fn thousands_of_interleavings_never_mix_two_answers_that_are_told_apart_by_their_order() {
    interleave(&[("pool.max_connections", "3"), ("http.pipeline", "8")]);
}

fn interleave(keys: &[(&str, &str)]) {
    const CHECKS: usize = 8_000;
    const AT_ONCE: usize = 24;
    // One in fifty answers comes late, by about as much as the impatient checks wait; some in two pieces.
    let backend = Scripted::new(|request| {
        let number: u64 = request.session()[1..].parse().unwrap();
        let bytes = answer_to(request);
        let draw = mixed(number ^ 0x5A5A);
        let late = Duration::from_micros(1_000 + draw % 8_000);
        match draw % 50 {
            0 => Reply::raw(bytes).after(late),
            1 => {
                let (first, second) = bytes.split_at(1 + (draw as usize / 50) % (bytes.len() - 1));
                Reply::raw(first).then(Reply::raw(second).after(late))
            }
            _ => Reply::raw(bytes),
        }
    });
    let keys = [&[("default_action", "allow"), ("pool.idle_timeout", "30s")], keys].concat();
    let engine = engine(&backend.url(), &keys);
    let ids: Vec<String> = (0..CHECKS).map(|number| format!("s{number}")).collect();
    let (collect, mut cancelled) = (Collect::new(), 0);
    for (number, id) in ids.iter().enumerate() {
        if number >= AT_ONCE + cancelled {
            collect.wait_for(number + 1 - AT_ONCE - cancelled);
        }
        let draw = mixed(number as u64 ^ 0x1234);
        let impatient = draw.is_multiple_of(40);
        let timeout = impatient.then(|| Duration::from_millis(1 + draw % 6));
        let check = Check { session_id: id.as_bytes(), timeout, ..good() };
        let ticket = engine.submit(&check, &collect.receiver(), number).unwrap();
        if draw.is_multiple_of(61) && engine.cancel(ticket) {
            cancelled += 1;
        }
    }

    let decided = collect.wait(CHECKS - cancelled);
    assert!(engine.drain(support::PATIENCE));
    assert_eq!(collect.delivered(), CHECKS - cancelled);
    let (mut answered, mut cut, mut timed_out) = (0, 0, 0);
    for (number, decision) in &decided {
        match decision.cause {
            Cause::None => {
                assert_eq!(decision.allows(), allowed(*number as u64), "{number}");
                if decision.user_id().is_empty() {
                    // A refusal is one from its status line on, even if time ends before the rest.
                    assert!(!decision.allows());
                    cut += 1;
                } else {
                    assert_eq!(decision.user_id(), ids[*number], "the answer to another check");
                    answered += 1;
                }
            }
            // Late, or it had no time to wait for a connection.
            Cause::Timeout | Cause::Overload => timed_out += 1,
            other => panic!("{other:?}: {}", decision.detail()),
        }
    }
    assert!(cut < CHECKS / 100, "{cut} refusals name nobody");
    assert!(timed_out > 0, "nothing came late: the test shows nothing");
    assert!(answered > CHECKS * 8 / 10, "{answered} answers");
    let first_of_connection = backend.connections();
    let reused = backend.request_count() - first_of_connection;
    assert!(
        reused * 10 > backend.request_count() * 9,
        "{reused} of {} on reused connections",
        backend.request_count()
    );
}

/// Also if it comes together with the answer to the check before it on its connection.
#[test]
fn a_refusal_that_is_broken_or_cut_refuses_on_a_connection_that_others_are_on_too() {
    for rest in ["X-Echo: a\x01b\r\nContent-Length: 0\r\n\r\n", "X-Echo: a"] {
        for window in ["1", "16"] {
            let backend = Scripted::new(move |request| {
                let refusal = format!("HTTP/1.1 403 Forbidden\r\n{rest}");
                let refuses = request.session() == "s1";
                match (window, refuses) {
                    ("1", true) => Reply::raw(refusal).then(Reply::close()),
                    ("1", false) => Reply::raw(ALLOW),
                    (_, true) => Reply::raw(format!("{ALLOW}{refusal}")).then(Reply::close()),
                    (_, false) => Reply::default(),
                }
            });
            let keys = [
                ("default_action", "allow"),
                ("http.pipeline", window),
                ("pool.max_connections", "1"),
                ("threads.io", "1"),
            ];
            let engine = engine(&backend.url(), &keys);
            let collect = Collect::new();
            for (number, id) in support::sessions(2).iter().enumerate() {
                let check = Check { session_id: id.as_bytes(), ..good() };
                engine.submit(&check, &collect.receiver(), number).unwrap();
                backend.wait_requests(number + 1);
            }
            for (number, decision) in collect.wait(2) {
                match number {
                    0 => assert_backend(&decision, Verdict::Allow, 200),
                    _ => assert_backend(&decision, Verdict::Deny, 403),
                }
            }
            assert_eq!((backend.request_count(), backend.connections()), (2, 1), "window {window}: {rest:?}");
        }
    }
}

/// Those behind it on its connection, if any were, are asked again in good time.
#[test]
fn behind_a_check_whose_answer_hangs_the_others_have_theirs_within_their_own_time() {
    let gate = Gate::default();
    let held = gate.clone();
    let backend = Scripted::new(move |request| {
        let reply = Reply::raw(answer_to(request));
        if request.session() == "s2" { reply.when(&held) } else { reply }
    });
    let keys = [("pool.max_connections", "2"), ("http.pipeline", "8"), ("timeout", "4s")];
    let engine = engine(&backend.url(), &keys);
    let ids: Vec<String> = (0..10).map(|number| format!("s{number}")).collect();
    let collect = Collect::new();
    for (number, id) in ids.iter().enumerate().take(2) {
        let check = Check { session_id: id.as_bytes(), ..good() };
        engine.submit(&check, &collect.receiver(), number).unwrap();
    }
    // Two have shown that the backend can.
    collect.wait_for(2);
    for (number, id) in ids.iter().enumerate().skip(2) {
        let check = Check { session_id: id.as_bytes(), ..good() };
        engine.submit(&check, &collect.receiver(), number).unwrap();
    }
    for (number, decision) in collect.wait(10) {
        if number == 2 {
            assert_default(&decision, Verdict::Deny, Cause::Timeout);
        } else {
            assert_eq!((decision.user_id(), decision.allows()), (&*ids[number], allowed(number as u64)));
        }
    }
    gate.open();
}

/// The connection of an exchange that timed out is never used again, however soon the answer comes.
#[test]
fn the_connection_of_a_timeout_is_gone() {
    let gate = Gate::default();
    let held = gate.clone();
    let backend = Scripted::new(move |request| {
        let reply = Reply::raw(answer_to(request));
        if request.session() == "s0" { reply.when(&held) } else { reply }
    });
    let engine = engine(&backend.url(), &[("timeout", "2s")]);
    let late = ask(&engine, &Check { session_id: b"s0", ..good() });
    assert_default(&late, Verdict::Deny, Cause::Timeout);
    // The exchange began a moment after the check, and ends a moment after it.
    until(|| engine.stats().connections_open == 0);
    gate.open();
    for number in 1..50 {
        let id = format!("s{number}");
        let decision = ask(&engine, &Check { session_id: id.as_bytes(), ..good() });
        assert_eq!(decision.user_id(), id);
    }
    assert_eq!(on_connection_of(&backend, "s0"), ["s0"], "a check went out behind one whose answer was late");
}

/// A check that has less time than the exchange leaves it. The exchange runs on and takes its own answer, so
/// that nobody else can read it.
#[test]
fn the_answer_to_a_check_that_left_is_taken_by_its_own_exchange() {
    let gate = Gate::default();
    let held = gate.clone();
    let backend = Scripted::new(move |request| {
        let reply = Reply::raw(answer_to(request));
        if request.session() == "s0" { reply.when(&held) } else { reply }
    });
    let engine = engine(&backend.url(), &[("pool.max_connections", "1")]);
    let timeout = Some(Duration::from_secs(1));
    let left = ask(&engine, &Check { session_id: b"s0", timeout, ..good() });
    assert_default(&left, Verdict::Deny, Cause::Timeout);
    let collect = Collect::new();
    engine.submit(&Check { session_id: b"s1", ..good() }, &collect.receiver(), 1).unwrap();
    gate.open();
    assert_eq!(collect.wait(1)[0].1.user_id(), "s1");
}

/// The sessions that were asked about on the connection that carried this one.
fn on_connection_of(backend: &Scripted, session: &str) -> Vec<String> {
    let requests = backend.requests();
    let connection = requests.iter().find(|request| request.session() == session).unwrap().connection;
    requests.iter().filter(|request| request.connection == connection).map(Request::session).collect()
}

const ALLOW: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const REFUSALS: [&str; 2] = [
    "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
];

/// A refusal, and in the same piece the allow that the next check was to read.
#[test]
fn surplus_behind_a_reply_does_not_decide_the_next_check() {
    for refusal in REFUSALS {
        let backend = Scripted::always(Reply::raw(format!("{refusal}{ALLOW}")));
        let engine = engine(&backend.url(), &[]);
        for id in support::sessions(50) {
            assert_backend(&ask(&engine, &Check { session_id: id.as_bytes(), ..good() }), Verdict::Deny, 403);
        }
        assert_eq!(backend.connections(), 50);
    }
}

#[test]
fn behind_a_reply_that_names_another_session_nobody_is_asked_about_on_its_connection() {
    let keys = [("unavailable_statuses", "503"), ("breaker.failures", "0")];
    for status in [200, 403, 503] {
        for (named, kept) in [("another", false), ("s0", true)] {
            let backend = Scripted::new(move |request| match request.sequence + request.connection {
                0 => Reply::status(status, &format!("X-Session-Id: {named}\r\n")),
                _ => Reply::status(403, ""),
            });
            let engine = engine(&backend.url(), &keys);
            for session in ["s0", "s1"] {
                ask(&engine, &Check { session_id: session.as_bytes(), ..good() });
            }
            let connections: Vec<_> = backend.requests().iter().map(|request| request.connection).collect();
            assert_eq!(connections, [0, usize::from(!kept)], "{status} of {named}");
        }
    }
}

/// An allow that comes while nobody has asked, at whatever moment: the request that follows has not been
/// written when it arrives, so it answers nothing.
#[test]
fn a_reply_that_begins_before_its_request_decides_nothing() {
    for refusal in REFUSALS {
        // When to send what nobody asked for, and that it was sent; anew for each check.
        let turn = Arc::new(Mutex::new((Gate::default(), Gate::default())));
        let turns = Arc::clone(&turn);
        let backend = Scripted::new(move |_| {
            let (now, sent) = turns.lock().clone();
            Reply::raw(refusal).then(Reply::raw(ALLOW).when(&now)).then(Reply::opening(&sent))
        });
        let engine = engine(&backend.url(), &[("pool.idle_timeout", "30s")]);
        for id in support::sessions(200) {
            let (now, sent) = turn.lock().clone();
            assert_backend(&ask(&engine, &Check { session_id: id.as_bytes(), ..good() }), Verdict::Deny, 403);
            *turn.lock() = (Gate::default(), Gate::default());
            now.open();
            sent.wait_open();
        }
    }
}

/// A body longer than its stated length is surplus, too.
#[test]
fn a_body_beyond_its_length_does_not_decide_the_next_check() {
    let backend = Scripted::always(Reply::raw(
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ));
    let engine = engine(&backend.url(), &[]);
    for number in 0..30 {
        let id = format!("s{number}");
        let decision = ask(&engine, &Check { session_id: id.as_bytes(), ..good() });
        assert_backend(&decision, Verdict::Deny, 403);
    }
    assert_eq!(backend.connections(), 30);
}
