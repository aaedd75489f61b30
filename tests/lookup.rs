//! A lookup says what is remembered, on the spot: it asks nobody, counts nothing, and invents nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alta_auth::{Cause, Check, Engine, Origin, SubmitError, Verdict};
use support::{Collect, Reply, Scripted, ask, bad, engine, good, twins, until};

/// Allows the good token for ten minutes and refuses any other for one.
fn backend() -> Scripted {
    Scripted::new(|request| match request.target().contains("token=123") {
        true => Reply::status(200, "X-AuthDuration: 600\r\nX-UserId: user-42\r\nX-Max-Sessions: 3\r\n"),
        false => Reply::status(403, "X-AuthDuration: 60\r\nLocation: /login\r\n"),
    })
}

fn knows(engine: &Engine, check: &Check<'_>) -> bool {
    engine.lookup(check).unwrap().is_some()
}

#[test]
fn it_says_what_submit_would_deliver() {
    let backend = backend();
    let engine = engine(&backend.url(), &[]);
    for check in [good(), bad()] {
        ask(&engine, &check);
        let found = engine.lookup(&check).unwrap().unwrap();
        let delivered = ask(&engine, &check);
        assert_eq!((found.origin, found.cause), (Origin::Memory, Cause::None));
        assert_eq!((delivered.origin, delivered.verdict), (found.origin, found.verdict));
        assert_eq!((delivered.http_status, delivered.user_id()), (found.http_status, found.user_id()));
        assert_eq!((delivered.max_sessions, delivered.unique), (found.max_sessions, found.unique));
        assert_eq!(delivered.location(), found.location());
        assert!(found.ttl >= delivered.ttl && found.ttl.abs_diff(delivered.ttl) < Duration::from_secs(30));
        assert!(!delivered.ttl.is_zero());
    }
    assert_eq!(backend.request_count(), 2);
}

#[test]
fn of_an_unknown_question_it_finds_nothing_and_asks_nobody() {
    let backend = backend();
    let engine = engine(&backend.url(), &[]);
    for _ in 0..100 {
        assert!(!knows(&engine, &good()));
    }
    assert_eq!(engine.stats().submitted, 0);
    assert!(engine.drain(Duration::ZERO));
    ask(&engine, &good());
    let path = ("path", Check { path: b"/ch/segment-1.ts", ..good() });
    for (field, twin) in twins(good()).into_iter().chain([path]) {
        assert!(!knows(&engine, &twin), "{field}");
    }
    assert!(knows(&engine, &good()));
    assert_eq!((backend.request_count(), backend.connections()), (1, 1));
}

#[test]
fn it_is_no_check_and_moves_no_counter() {
    let backend = backend();
    let engine = engine(&backend.url(), &[("refresh.ahead", "50%"), ("pool.idle_timeout", "10m")]);
    ask(&engine, &good());
    until(|| engine.stats().connections_idle == 1);
    let before = format!("{:?}", engine.stats());
    for _ in 0..1_000 {
        assert!(knows(&engine, &good()));
        assert!(!knows(&engine, &bad()));
        assert!(engine.lookup(&Check::default()).is_err());
    }
    let after = format!("{:?}", engine.stats());
    assert_eq!(before, after);
    assert_eq!(backend.request_count(), 1);
}

#[test]
fn it_refuses_what_submit_refuses_and_nothing_else() {
    let backend = backend();
    let engine = engine(&backend.url(), &[]);
    let (long, many) = (vec![b'x'; 20 * 1024], ["a"; 257].join("&").into_bytes());
    let wide = vec![0xFF; 16 * 1024];
    let base = good();
    let cases = [
        ("no session", Check { session_id: b"", ..base }, false),
        ("nothing but space for a session", Check { session_id: b"  ", ..base }, false),
        ("a line break in an address", Check { ip: b"1\r\nX: 1", ..base }, false),
        ("a NUL in a query", Check { query: b"token=123\0", ..base }, false),
        ("a line break in a user agent", Check { user_agent: b"VLC\n", ..base }, false),
        ("a dot segment", Check { path: b"/ch/../paid", ..base }, false),
        ("an encoded dot segment", Check { path: b"/ch/%2e%2e/paid", ..base }, false),
        ("a long session", Check { session_id: &long[..1025], ..base }, false),
        ("a long path", Check { path: &long[..4097], ..base }, false),
        ("a long query", Check { query: &long[..=16 * 1024], ..base }, false),
        ("a long scope", Check { scope: &long[..1025], ..base }, false),
        ("many parameters", Check { query: &many, ..base }, false),
        ("a long request, once encoded", Check { query: &wide, ..base }, false),
        ("a long user agent is cut", Check { user_agent: &long, ..base }, true),
        ("an empty query", Check { query: b"", ..base }, true),
        ("an empty path", Check { path: b"", ..base }, true),
        ("a query at its limit", Check { query: &long[..16 * 1024], ..base }, true),
    ];
    let collect = Collect::new();
    for (what, check, accepted) in cases {
        let looked_up = engine.lookup(&check);
        let submitted = engine.submit(&check, &collect.receiver(), 0);
        match (looked_up, submitted) {
            (Ok(None), Ok(_)) => assert!(accepted, "{what}"),
            (Err(one), Err(other)) => {
                assert_eq!(one, other, "{what}");
                assert!(matches!(one, SubmitError::Invalid(_)) && !accepted, "{what}");
            }
            (looked_up, submitted) => panic!("{what}: {looked_up:?}, {submitted:?}"),
        }
    }
    assert!(engine.drain(support::PATIENCE));
}

#[test]
fn a_decision_that_has_expired_is_not_found_though_it_would_be_repeated_in_an_outage() {
    let up = Arc::new(AtomicBool::new(true));
    let answers = Arc::clone(&up);
    let backend = Scripted::new(move |_| match answers.load(Ordering::SeqCst) {
        true => Reply::status(200, "X-AuthDuration: 1\r\n"),
        false => Reply::close(),
    });
    let engine = engine(&backend.url(), &[("ttl.jitter", "off"), ("last_known", "1h")]);
    let began = tokio::time::Instant::now();
    ask(&engine, &good());
    up.store(false, Ordering::SeqCst);
    until(|| !knows(&engine, &good()));
    // Lifetimes are kept in milliseconds, and both ends are rounded so that nothing is kept for too long.
    let kept = began.elapsed();
    assert!(kept >= Duration::from_millis(998), "it was kept for all its time: {kept:?}");
    assert_eq!(backend.request_count(), 1);
    let repeated = ask(&engine, &good());
    assert_eq!((repeated.verdict, repeated.origin), (Verdict::Allow, Origin::LastKnown));
    assert!(!knows(&engine, &good()), "and what was repeated is not remembered for it");
}

#[test]
fn full_is_no_reason_not_to_find() {
    let backend = Scripted::new(|request| match request.session().as_str() {
        "silent" => Reply::silence(),
        _ => Reply::status(200, "X-AuthDuration: 600\r\n"),
    });
    let engine = engine(&backend.url(), &[("inbox.capacity", "1"), ("timeout", "60s")]);
    ask(&engine, &good());
    let collect = Collect::new();
    engine.submit(&Check { session_id: b"silent", ..good() }, &collect.receiver(), 0).unwrap();
    assert_eq!(engine.submit(&good(), &collect.receiver(), 1), Err(SubmitError::Full));
    assert!(knows(&engine, &good()));
}
