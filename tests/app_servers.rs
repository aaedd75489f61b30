//! The servers that backends are written with: each frames an empty answer in its own way, and keeps or
//! closes its connections in its own way. The rows of the table of servers in docs/protocol.md.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use alta_auth::{Check, Engine, Field, Origin, SubmitError, Verdict};
use support::{Collect, Framing, Server, Wire, ask, assert_backend, bad, engine, good, sessions};

const CHECKS: usize = 60;

/// Checks in turn, the last a refusal. Which connection carried each, as the server saw it.
fn carriers(engine: &Engine) -> Vec<String> {
    let mut carriers: Vec<String> = sessions(CHECKS)
        .iter()
        .map(|id| {
            let decision = ask(engine, &Check { session_id: id.as_bytes(), ..good() });
            assert_backend(&decision, Verdict::Allow, 200);
            // The decision is made before the reply's last byte, which may be a packet of its own.
            support::until(|| {
                let stats = engine.stats();
                stats.connections_idle == stats.connections_open
            });
            decision.user_id().to_owned()
        })
        .collect();
    let refused = ask(engine, &bad());
    assert_backend(&refused, Verdict::Deny, 403);
    carriers.push(refused.user_id().to_owned());
    assert!(carriers.iter().all(|carrier| !carrier.is_empty()));
    carriers.sort_unstable();
    carriers.dedup();
    carriers
}

/// How many connections carried the checks.
fn connections_of(framing: Framing) -> usize {
    let server = Server::new(framing);
    // Kept throughout, so that the count is not one of how often this machine stalled.
    let engine = engine(&server.url(), &[("default_action", "allow"), ("pool.idle_timeout", "60s")]);
    let carriers = carriers(&engine).len();
    let opened = engine.stats().connections_opened;
    assert!(carriers as u64 <= opened, "{carriers} carriers of {opened} connections");
    assert_eq!(engine.stats().exchanges, CHECKS as u64 + 1);
    carriers
}

/// The bytes of an allow and, on the same connection, of a refusal; each ends with `end`.
fn two_replies(framing: Framing, end: &str) -> [String; 2] {
    let server = Server::new(framing);
    let mut wire = Wire::connect(server.port);
    ["123", "9"].map(|token| {
        wire.ask(&format!("/auth?token={token}"));
        wire.read_to(end)
    })
}

/// Asserts a reply of this status line that says a length of 0 and nothing of chunks.
#[track_caller]
fn assert_length(reply: &str, line: &str) {
    let lower = reply.to_ascii_lowercase();
    assert!(reply.starts_with(&format!("{line}\r\n")), "{reply:?}");
    assert!(lower.contains("\r\ncontent-length: 0\r\n"), "{reply:?}");
    assert!(!lower.contains("transfer-encoding"), "{reply:?}");
    assert_eq!(reply.find("\r\n\r\n"), Some(reply.len() - 4), "a body: {reply:?}");
}

/// Asserts a reply that is an empty body in chunks, after these words on its connection.
#[track_caller]
fn assert_chunked(reply: &str, line: &str, connection: &str) {
    assert!(reply.starts_with(&format!("{line}\r\n")), "{reply:?}");
    assert!(reply.contains(&format!("\r\nConnection: {connection}\r\n")), "{reply:?}");
    assert!(reply.contains("\r\nTransfer-Encoding: chunked\r\n"), "{reply:?}");
    assert!(!reply.to_ascii_lowercase().contains("content-length"), "{reply:?}");
    assert!(reply.ends_with("\r\n\r\n0\r\n\r\n"), "{reply:?}");
}

#[test]
fn uvicorn_says_a_length_and_keeps_its_connection() {
    let [allow, deny] = two_replies(Framing::Uvicorn, "\r\n\r\n");
    assert_length(&allow, "HTTP/1.1 200 OK");
    assert_length(&deny, "HTTP/1.1 403 Forbidden");
    assert_eq!(connections_of(Framing::Uvicorn), 1);
}

/// uvicorn closes after 5 s; the engine would keep for much longer.
#[test]
fn an_idle_connection_that_uvicorn_closes_costs_no_check() {
    let server = Server::new(Framing::Uvicorn);
    let engine = engine(&server.url(), &[("pool.idle_timeout", "60s"), ("default_action", "allow")]);
    let before = ask(&engine, &good());
    assert_backend(&before, Verdict::Allow, 200);
    support::until(|| engine.stats().connections_open == 0);
    let after = ask(&engine, &bad());
    assert_backend(&after, Verdict::Deny, 403);
    assert_ne!(before.user_id(), after.user_id(), "carried by the connection that was closed");
    assert_eq!((engine.stats().connections_opened, engine.stats().exchanges), (2, 2));
}

#[test]
fn gunicorns_sync_worker_sends_chunks_and_closes_each_connection() {
    let server = Server::new(Framing::GunicornSync);
    for (token, line) in [("123", "HTTP/1.1 200 OK"), ("9", "HTTP/1.1 403 Forbidden")] {
        let mut wire = Wire::connect(server.port);
        wire.ask(&format!("/auth?token={token}"));
        assert_chunked(&String::from_utf8(wire.read_to_close()).unwrap(), line, "close");
    }
    assert_eq!(connections_of(Framing::GunicornSync), CHECKS + 1);
}

#[test]
fn gunicorns_threads_send_chunks_and_keep_their_connection() {
    let [allow, deny] = two_replies(Framing::GunicornThreads, "\r\n0\r\n\r\n");
    assert_chunked(&allow, "HTTP/1.1 200 OK", "keep-alive");
    assert_chunked(&deny, "HTTP/1.1 403 Forbidden", "keep-alive");
    // The end of its empty body is a packet of its own, for which a drain waits 100 ms: a machine that stalls
    // for longer costs a connection.
    assert!(connections_of(Framing::GunicornThreads) <= 3);
}

#[test]
fn hypercorn_has_no_words_after_its_status_and_keeps_its_connection() {
    let [allow, deny] = two_replies(Framing::Hypercorn, "\r\n\r\n");
    assert_length(&allow, "HTTP/1.1 200 ");
    assert_length(&deny, "HTTP/1.1 403 ");
    assert_eq!(connections_of(Framing::Hypercorn), 1);
}

#[test]
fn node_says_a_length_and_keeps_its_connection() {
    let [allow, deny] = two_replies(Framing::Node, "\r\n\r\n");
    assert_length(&allow, "HTTP/1.1 200 OK");
    assert_length(&deny, "HTTP/1.1 403 Forbidden");
    assert_eq!(connections_of(Framing::Node), 1);
}

#[test]
fn h2c_carries_many_checks_at_once_on_one_connection() {
    let server = Server::new(Framing::Hypercorn);
    let engine = engine(&server.url(), &[("http.version", "h2c")]);
    // The first alone, so that the connection is there for the rest. Hypercorn takes 100 streams at once.
    assert_backend(&ask(&engine, &bad()), Verdict::Deny, 403);
    let (ids, collect) = (sessions(90), Collect::new());
    let checks =
        ids.iter().enumerate().map(|(index, id)| (Check { session_id: id.as_bytes(), ..good() }, index));
    engine.submit_batch(checks, &collect.receiver(), |outcome| {
        outcome.unwrap();
    });
    let decided = collect.wait(90);
    for (_, decision) in &decided {
        assert_backend(decision, Verdict::Allow, 200);
    }
    let first = decided[0].1.user_id();
    assert!(decided.iter().all(|(_, decision)| decision.user_id() == first), "more than one connection");
    assert_eq!(engine.stats().connections_opened, 1);
}

/// Prior knowledge is the operator's word; a server without HTTP/2 answers with something else.
#[test]
fn h2c_to_a_server_without_it_is_an_outage_and_no_allow() {
    let server = Server::new(Framing::Node);
    let engine = engine(&server.url(), &[("http.version", "h2c")]);
    let decision = ask(&engine, &good());
    assert_eq!((decision.verdict, decision.origin), (Verdict::Deny, Origin::Default), "{decision:?}");
}

/// What each size of query is answered with, in KiB, up to the limit of the library; 403 is the script's own word. Each is
/// followed by a check that is allowed.
fn assert_no_size_allows(framing: Framing, keys: &[(&str, &str)], expected: impl Fn(usize) -> u16) {
    let server = Server::new(framing);
    let keys: Vec<_> = [("default_action", "allow")].iter().chain(keys).copied().collect();
    let engine = engine(&server.url(), &keys);
    let long = vec![b'x'; 4096];
    for kilobytes in [1, 3, 4, 8, 12, 15, 16, 17, 64] {
        let query = format!("token=9&x={}", "x".repeat(kilobytes * 1024 - 10)).into_bytes();
        let check = Check { query: &query, ..bad() };
        match engine.check_blocking(&check) {
            Ok(decision) => {
                assert!(kilobytes <= 16, "{kilobytes} KiB were accepted");
                assert_backend(&decision, Verdict::Deny, expected(kilobytes));
            }
            Err(SubmitError::Invalid(invalid)) => {
                assert_eq!((invalid.field(), kilobytes > 16), (Field::Query, true), "{kilobytes} KiB");
            }
            Err(other) => panic!("{other}"),
        }
        // Every other field at its limit, too: whatever refuses, refuses.
        let full = Check {
            session_id: &long[..1024],
            ip: &long[..1024],
            path: &[b"/", &long[1..]].concat(),
            origin: &long[..1024],
            user_agent: &long[..2048],
            scope: &long[..1024],
            ..check
        };
        if let Ok(decision) = engine.check_blocking(&full) {
            assert_eq!(
                (decision.verdict, decision.origin),
                (Verdict::Deny, Origin::Backend),
                "{kilobytes} KiB"
            );
        }
        assert_backend(&ask(&engine, &good()), Verdict::Allow, 200);
    }
}

#[test]
fn no_size_makes_uvicorn_allow() {
    assert_no_size_allows(Framing::Uvicorn, &[], |_| 403);
}

/// Its request line has a limit of 4,094 bytes.
#[test]
fn no_size_makes_gunicorn_allow() {
    for framing in [Framing::GunicornSync, Framing::GunicornThreads] {
        assert_no_size_allows(framing, &[], |kilobytes| if kilobytes < 4 { 403 } else { 414 });
    }
}

#[test]
fn no_size_makes_hypercorn_allow_in_either_version() {
    assert_no_size_allows(Framing::Hypercorn, &[], |_| 403);
    assert_no_size_allows(Framing::Hypercorn, &[("http.version", "h2c")], |_| 403);
}

/// It takes 16 KiB of request line and headers.
#[test]
fn no_size_makes_node_allow() {
    assert_no_size_allows(Framing::Node, &[], |kilobytes| if kilobytes < 16 { 403 } else { 431 });
}
