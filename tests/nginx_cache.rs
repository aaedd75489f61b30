//! A cache between us and the backend: what comes out of it decides the check that asked, and is never reused. It is
//! not known for whom it was said, nor for how long it still holds.
//!
//! With real nginx and its `proxy_cache`, then word by word.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use alta_auth::{Check, Engine, Origin, Verdict};
use support::{Nginx, NginxOptions, Reply, Scripted, ask, assert_backend, bad, engine, good};
use tempfile::TempDir;

fn of_session<'a>(id: &'a str, base: &Check<'a>) -> Check<'a> {
    Check { session_id: id.as_bytes(), ..*base }
}

/// nginx before a backend, with a cache that does not know sessions: its key is the request's target. The lines
/// say how a hit shows.
fn caching(backend: &Scripted, lines: &str) -> (Nginx, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let http = format!(
        "proxy_cache_path {} keys_zone=answers:1m; map $upstream_cache_status $seconds {{ HIT 7; default ''; }}",
        directory.path().display()
    );
    let location = format!(
        "proxy_pass http://{}; proxy_cache answers; proxy_cache_key $request_uri; proxy_cache_valid any 10m; \
         proxy_http_version 1.1; {lines}",
        backend.address()
    );
    let options = NginxOptions { http: &http, location: &location, ..NginxOptions::default() };
    (Nginx::new(None, options), directory)
}

/// Asks twice; whether the second came from memory.
fn kept(engine: &Engine, check: &Check<'_>, verdict: Verdict, status: u16) -> bool {
    let first = ask(engine, check);
    assert_backend(&first, verdict, status);
    let second = ask(engine, check);
    assert_eq!((second.verdict, second.http_status), (verdict, Some(status)));
    let kept = second.origin == Origin::Memory;
    assert_eq!(!first.ttl.is_zero(), kept, "{first:?}");
    assert_eq!(engine.lookup(check).unwrap().is_some(), kept);
    kept
}

/// Allows the good token, refuses others, both to be reused; counts what nginx lets through.
fn backend() -> Scripted {
    Scripted::new(|request| {
        let status = if request.target().contains("token=123") { 200 } else { 403 };
        Reply::status(status, "X-AuthDuration: 600\r\nCache-Control: max-age=600\r\n")
    })
}

#[test]
fn what_comes_out_of_nginx_s_cache_decides_and_is_asked_again() {
    for shown in ["add_header X-Cache $upstream_cache_status always;", "add_header Age $seconds always;"] {
        let backend = backend();
        let (nginx, _directory) = caching(&backend, shown);
        let engine = engine(&nginx.url(), &[]);
        for (base, verdict, status) in [(good(), Verdict::Allow, 200), (bad(), Verdict::Deny, 403)] {
            // A miss comes from the backend itself, and is remembered.
            assert!(kept(&engine, &of_session("first", &base), verdict, status), "{shown} {status}");
            for id in ["second", "third"] {
                assert!(!kept(&engine, &of_session(id, &base), verdict, status), "{shown} {status}");
            }
        }
        assert_eq!(backend.request_count(), 2, "a miss each: the rest were hits");
        assert_eq!(engine.stats().replies_from_cache, 8, "counted");
        // Two misses, and four sessions that asked twice.
        assert_eq!(nginx.finish().len(), 2 + 8);
    }
}

#[test]
fn a_hit_is_no_reason_to_keep_what_was_remembered_before_it() {
    let backend = backend();
    let (nginx, _directory) = caching(&backend, "add_header X-Cache $upstream_cache_status always;");
    let engine = engine(&nginx.url(), &[]);
    assert!(kept(&engine, &good(), Verdict::Allow, 200));
    assert_backend(&ask(&engine, &Check { fresh: true, ..good() }), Verdict::Allow, 200);
    assert!(engine.lookup(&good()).unwrap().is_none());
}

#[test]
fn age_above_zero_and_any_word_for_a_hit_mean_a_cache() {
    let fresh = ["Age: 0", "X-Cache: MISS", "X-Cache: Miss from cloudfront", "X-Cache: TCP_MISS"];
    let cached = [
        "Age: 1",
        "age: 599",
        "Age: 99999999999999999999",
        "Age: 0\r\nAge: 7",
        "X-Cache: HIT",
        "x-cache: hit",
        "X-Cache: Hit from cloudfront",
        "X-Cache: HIT from proxy.example.com:3128",
        "X-Cache: TCP_HIT",
        "X-Cache: TCP_MEM_HIT from a23-45",
        "X-Cache: MISS, HIT",
        "X-Cache: MISS\r\nX-Cache: HIT",
    ];
    let lines = [&fresh[..], &cached].concat();
    // Whatever it is that would let it be reused.
    for says in ["X-AuthDuration: 600\r\n", "Cache-Control: max-age=600\r\n", ""] {
        let replies: Vec<_> =
            lines.iter().map(|line| Reply::status(200, &format!("{says}{line}\r\n"))).collect();
        let backend =
            Scripted::new(move |request| replies[request.session().parse::<usize>().unwrap()].clone());
        let engine = engine(&backend.url(), &[("ttl.allow", "10m")]);
        for (index, line) in lines.iter().enumerate() {
            let remembered = kept(&engine, &of_session(&index.to_string(), &good()), Verdict::Allow, 200);
            assert_eq!(remembered, index < fresh.len(), "{line:?} with {says:?}");
        }
        assert_eq!(backend.request_count(), fresh.len() + 2 * cached.len());
        assert_eq!(engine.stats().replies_from_cache, 2 * cached.len() as u64, "counted");
    }
}
