//! What a reload leaves of what is remembered: nothing, if it changes who is asked, what is asked, how the answer is
//! judged or how long it holds; all of it otherwise.
//!
//! One case for each configuration key, which a key without a case fails.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::path::Path;
use std::time::Duration;

use alta_auth::{Check, Config, Engine, Origin, StartError};
use support::{
    Authority, Collect, Gate, Nginx, NginxOptions, Reply, Scripted, ask, config, engine, good, until,
};
use tempfile::TempDir;

/// A question whose key no configuration changes: its scope is the host's.
fn scoped() -> Check<'static> {
    Check { scope: b"ch", ..good() }
}

fn refused() -> Check<'static> {
    Check { session_id: b"refused", ..scoped() }
}

/// Answers for ten minutes whatever is asked, and a body that `verdict.body` would like.
fn backend() -> Scripted {
    Scripted::new(|request| match request.session().as_str() {
        "refused" => Reply::status(403, "X-AuthDuration: 600\r\n"),
        _ => Reply::raw("HTTP/1.1 200 OK\r\nX-AuthDuration: 600\r\nContent-Length: 11\r\n\r\n{\"error\":0}"),
    })
}

fn knows(engine: &Engine, check: &Check<'_>) -> bool {
    engine.lookup(check).unwrap().is_some()
}

#[track_caller]
fn reload(engine: &Engine, url: &str, keys: &[(&str, &str)]) {
    engine.reload(&config(url, keys)).unwrap_or_else(|error| panic!("{keys:?}: {error}"));
}

/// Two certificates of one private key, and two files of one key: what a renewal brings.
struct Files {
    ca: String,
    cert: [String; 2],
    key: [String; 2],
    _directory: (TempDir, Authority),
}

impl Files {
    fn new() -> Self {
        let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let client = authority.client();
        let text = |path: &Path| std::fs::read_to_string(path).unwrap();
        let beside = |name: &str, content: String| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        };
        Self {
            cert: [
                beside("cert-1", text(&client.certificate)),
                beside("cert-2", text(&client.certificate) + &text(&authority.file())),
            ],
            key: [
                beside("key-1", text(&client.key)),
                beside("key-2", format!("renewed\n{}", text(&client.key))),
            ],
            ca: authority.file().to_str().unwrap().to_owned(),
            _directory: (directory, authority),
        }
    }
}

type Keys = Vec<(&'static str, String)>;

/// Before and after: the one key that differs, and what it cannot be without. `None`: no case for this key.
fn case(key: &str, url: &str, files: &Files) -> Option<(Keys, Keys)> {
    let one = |key: &'static str, after: &str| Some((vec![], vec![(key, after.to_owned())]));
    let pair = |cert: usize, key: usize| {
        vec![("tls.client_cert", files.cert[cert].clone()), ("tls.client_key", files.key[key].clone())]
    };
    match key {
        "backend.url" => one("backend.url", &url.replace("/auth", "/other")),
        // Of what it sets, nothing is left to be set.
        "backend.preset" => one("backend.preset", "iptvportal"),
        "default_action" => one("default_action", "allow"),
        "fail_open.overload" => one("fail_open.overload", "on"),
        "allow_statuses" => one("allow_statuses", "200,204"),
        "unavailable_statuses" => one("unavailable_statuses", "503"),
        "verdict.body" => one("verdict.body", "json:error==0"),
        "verdict.max_body" => one("verdict.max_body", "1KiB"),
        "timeout" => one("timeout", "11s"),
        "connect_timeout" => one("connect_timeout", "6s"),
        "scope" => one("scope", "session"),
        "path.check" => one("path.check", "off"),
        "protect_params" => one("protect_params", "name"),
        "param.NAME" => one("param.name", "ch"),
        "header.NAME" => one("header.X-Site", "one"),
        "ttl.headers" => one("ttl.headers", "cache-control,x-authduration"),
        "ttl.allow" => one("ttl.allow", "1h"),
        "ttl.deny" => one("ttl.deny", "30s"),
        "ttl.max" => one("ttl.max", "12h"),
        "ttl.max_deny" => one("ttl.max_deny", "30s"),
        "ttl.jitter" => one("ttl.jitter", "off"),
        "last_known" => one("last_known", "10m"),
        "refresh" => one("refresh", "never"),
        "refresh.ahead" => one("refresh.ahead", "10%"),
        "expired" => one("expired", "keep"),
        "expired.idle" => one("expired.idle", "5m"),
        "memory.max_decisions" => one("memory.max_decisions", "1000"),
        "memory.max_bytes" => one("memory.max_bytes", "64MiB"),
        "backend.mode" => one("backend.mode", "balance"),
        "any.deny" => one("any.deny", "first"),
        "breaker.failures" => one("breaker.failures", "7"),
        "breaker.rate" => one("breaker.rate", "50%"),
        "breaker.cooldown" => one("breaker.cooldown", "2s"),
        "breaker.max_cooldown" => one("breaker.max_cooldown", "9s"),
        "fail_open" => one("fail_open", "corroborated"),
        "overload" => one("overload", "default"),
        "hedge.after" => one("hedge.after", "p95"),
        // In force only with hedge.after.
        "hedge.max" => one("hedge.max", "10%"),
        "limit.per_ip" => one("limit.per_ip", "100/s"),
        "limit.max_addresses" => one("limit.max_addresses", "1000"),
        "watch.max" => one("watch.max", "10"),
        "watch.max_rate" => one("watch.max_rate", "10"),
        "watch.interval" => one("watch.interval", "10s"),
        "sessions.enforce" => one("sessions.enforce", "newest"),
        "sessions.idle" => one("sessions.idle", "10s"),
        "pool.max_connections" => one("pool.max_connections", "8"),
        "pool.idle_timeout" => one("pool.idle_timeout", "1s"),
        "pool.max_age" => one("pool.max_age", "1m"),
        "http.version" => one("http.version", "1.1"),
        "http.lane" => one("http.lane", "hyper"),
        "http.pipeline" => one("http.pipeline", "4"),
        "dns.refresh" => one("dns.refresh", "10s"),
        "unix.peer_uid" => one("unix.peer_uid", "0"),
        "tls.ca_file" => one("tls.ca_file", &files.ca),
        "tls.client_cert" => Some((pair(0, 0), pair(1, 0))),
        "tls.client_key" => Some((pair(0, 0), pair(0, 1))),
        "tls.server_name" => one("tls.server_name", "backend.example.com"),
        "tls.verify" => one("tls.verify", "off"),
        "tls.mixed" => one("tls.mixed", "on"),
        "shadow.url" => one("shadow.url", &url.replace("/auth", "/shadow")),
        "shadow.share" => one("shadow.share", "10%"),
        "shadow.max_pending" => one("shadow.max_pending", "7"),
        "shadow.verdict.body" => one("shadow.verdict.body", "json:error==0"),
        "shadow.param.NAME" => one("shadow.param.name", "ch"),
        "shadow.header.NAME" => one("shadow.header.X-Site", "one"),
        "inbox.capacity" => one("inbox.capacity", "77"),
        "threads.io" => one("threads.io", "2"),
        "threads.callback" => one("threads.callback", "2"),
        "log.level" => one("log.level", "info"),
        _ => None,
    }
}

fn borrowed<'a>(keys: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
    keys.iter().map(|(key, value)| (*key, value.as_str())).collect()
}

#[test]
fn a_new_value_of_each_key_keeps_or_forgets_as_its_documentation_says() {
    let files = Files::new();
    for doc in Config::keys() {
        let backend = backend();
        let (url, key) = (backend.url(), doc.name);
        let (before, after) = case(key, &url, &files).unwrap_or_else(|| panic!("no case for {key}"));
        let (before, after) = (borrowed(&before), borrowed(&after));
        let engine = engine(&url, &before);
        assert!(ask(&engine, &scoped()).allows() && !ask(&engine, &refused()).allows());
        assert!(knows(&engine, &scoped()) && knows(&engine, &refused()), "{key}");
        match engine.reload(&config(&url, &after)) {
            Ok(()) => assert!(doc.reload, "{key} is taken over"),
            Err(StartError::Config(error)) => {
                assert!(!doc.reload, "{key}: {error}");
                assert!(error.to_string().contains(key), "{key}: {error}");
            }
            Err(error) => panic!("{key}: {error}"),
        }
        for check in [scoped(), refused()] {
            assert_eq!(knows(&engine, &check), !doc.forgets, "{key}: lookup after the reload");
            let decision = ask(&engine, &check);
            assert_eq!(decision.origin == Origin::Memory, !doc.forgets, "{key}: {decision:?}");
        }
        assert_eq!(backend.request_count(), if doc.forgets { 4 } else { 2 }, "{key}");
    }
}

/// Written down once more, apart from the table of keys: what shapes request, verdict, lifetime or TLS. `ttl.max` is
/// no such key, because a lower one cuts what is remembered, below.
const MUST_FORGET: [&str; 25] = [
    // Who is asked, and what.
    "backend.mode",
    "any.deny",
    "backend.url",
    "scope",
    "path.check",
    "protect_params",
    "param.NAME",
    "header.NAME",
    "unix.peer_uid",
    // How the answer is judged.
    "allow_statuses",
    "unavailable_statuses",
    "verdict.body",
    "verdict.max_body",
    // How long it holds.
    "ttl.headers",
    "ttl.allow",
    "ttl.deny",
    "ttl.max_deny",
    "ttl.jitter",
    "expired",
    // By whom it was said.
    "tls.ca_file",
    "tls.client_cert",
    "tls.client_key",
    "tls.server_name",
    "tls.verify",
    "tls.mixed",
];

#[test]
fn every_key_that_shapes_request_verdict_lifetime_or_tls_forgets() {
    for name in MUST_FORGET {
        let doc = Config::keys().find(|doc| doc.name == name).unwrap_or_else(|| panic!("no key {name}"));
        assert!(doc.forgets, "{name}");
    }
    for doc in Config::keys().filter(|doc| !doc.reload) {
        assert!(!doc.forgets, "{}: what is refused changes nothing", doc.name);
    }
    // A new key of TLS belongs in the list.
    for doc in Config::keys().filter(|doc| doc.name.starts_with("tls.")) {
        assert!(MUST_FORGET.contains(&doc.name), "{}", doc.name);
    }
}

#[test]
fn the_same_configuration_again_keeps_all() {
    let (backend, files) = (backend(), Files::new());
    let keys = [
        ("tls.ca_file", files.ca.as_str()),
        ("scope", "session"),
        ("header.X-Site", "one"),
        ("ttl.allow", "1h"),
    ];
    let engine = engine(&backend.url(), &keys);
    ask(&engine, &scoped());
    for _ in 0..10 {
        reload(&engine, &backend.url(), &keys);
        assert_eq!(ask(&engine, &scoped()).origin, Origin::Memory);
    }
    assert_eq!(backend.request_count(), 1);
}

#[test]
fn a_default_that_is_written_out_changes_nothing() {
    let backend = backend();
    let engine = engine(&backend.url(), &[]);
    ask(&engine, &scoped());
    // Those of the test's own configuration apart.
    let own = ["timeout", "connect_timeout"];
    let docs: Vec<_> =
        Config::keys().filter(|doc| !doc.default.is_empty() && !own.contains(&doc.name)).collect();
    let keys: Vec<_> = docs.iter().map(|doc| (doc.name, doc.default)).collect();
    reload(&engine, &backend.url(), &keys);
    assert_eq!(ask(&engine, &scoped()).origin, Origin::Memory);
    assert_eq!(backend.request_count(), 1);
}

#[test]
fn what_was_forgotten_does_not_come_back_with_the_old_configuration() {
    let backend = backend();
    let engine = engine(&backend.url(), &[]);
    ask(&engine, &scoped());
    reload(&engine, &backend.url(), &[("header.X-Site", "one")]);
    reload(&engine, &backend.url(), &[]);
    assert!(!knows(&engine, &scoped()));
    assert_eq!(ask(&engine, &scoped()).origin, Origin::Backend);
    assert_eq!(backend.request_count(), 2);
}

#[test]
fn a_preset_forgets_by_what_it_sets() {
    for (preset, forgets) in [("custom", false), ("iptvportal", false), ("ministra", true), ("smarty", true)]
    {
        let backend = backend();
        let engine = engine(&backend.url(), &[]);
        ask(&engine, &scoped());
        reload(&engine, &backend.url(), &[("backend.preset", preset)]);
        assert_eq!(knows(&engine, &scoped()), !forgets, "{preset}");
    }
}

#[test]
fn a_lower_ttl_max_cuts_at_once_what_was_remembered_under_a_higher_one() {
    let backend = backend();
    let engine = engine(&backend.url(), &[("ttl.jitter", "off")]);
    let keys = |ttl_max| [("ttl.jitter", "off"), ("ttl.max", ttl_max)];
    ask(&engine, &scoped());
    reload(&engine, &backend.url(), &keys("5m"));
    let cut = ask(&engine, &scoped());
    assert_eq!(cut.origin, Origin::Memory);
    assert!(cut.ttl <= Duration::from_mins(5), "{:?}", cut.ttl);
    reload(&engine, &backend.url(), &keys("1s"));
    until(|| !knows(&engine, &scoped()));
    assert_eq!(ask(&engine, &scoped()).origin, Origin::Backend);
    reload(&engine, &backend.url(), &keys("0"));
    assert!(!knows(&engine, &scoped()), "at once");
    let after = ask(&engine, &scoped());
    assert_eq!((after.origin, after.ttl), (Origin::Backend, Duration::ZERO));
    assert_eq!(backend.request_count(), 3);
}

#[test]
fn a_ttl_max_that_is_lowered_and_raised_again_revives_nothing() {
    let backend = backend();
    let engine = engine(&backend.url(), &[("ttl.jitter", "off")]);
    let keys = |ttl_max| [("ttl.jitter", "off"), ("ttl.max", ttl_max)];
    ask(&engine, &scoped());
    reload(&engine, &backend.url(), &keys("1h"));
    reload(&engine, &backend.url(), &keys("24h"));
    assert!(knows(&engine, &scoped()), "it had not ended");
    reload(&engine, &backend.url(), &keys("0"));
    reload(&engine, &backend.url(), &keys("24h"));
    assert!(!knows(&engine, &scoped()));
    assert_eq!(ask(&engine, &scoped()).origin, Origin::Backend);
    assert_eq!(backend.request_count(), 2);
}

#[test]
fn an_answer_that_was_on_its_way_when_a_reload_forgot_is_not_remembered() {
    let gate = Gate::default();
    let held = gate.clone();
    let backend = Scripted::new(move |request| match request.header("X-Site") {
        None => Reply::status(200, "X-AuthDuration: 600\r\n").when(&held),
        Some(_) => Reply::status(403, "X-AuthDuration: 60\r\n"),
    });
    let engine = engine(&backend.url(), &[]);
    let collect = Collect::new();
    engine.submit(&scoped(), &collect.receiver(), 0).unwrap();
    backend.wait_requests(1);
    reload(&engine, &backend.url(), &[("header.X-Site", "one")]);
    gate.open();
    let (_, old) = collect.wait(1).remove(0);
    assert!(old.allows() && old.origin == Origin::Backend, "it ends as it began");
    assert!(!knows(&engine, &scoped()));
    assert!(!ask(&engine, &scoped()).allows());
    assert_eq!(ask(&engine, &scoped()).origin, Origin::Memory);
    assert_eq!(backend.request_count(), 2);
}

// The same path, another content

#[test]
fn another_content_of_a_file_of_a_header_or_parameter_forgets_and_the_same_content_does_not() {
    for key in ["header.X-Api-Key", "param.key"] {
        let (backend, directory) = (backend(), tempfile::tempdir().unwrap());
        let path = directory.path().join("key");
        let value = format!("@{}", path.display());
        let keys = [(key, value.as_str())];
        std::fs::write(&path, "one").unwrap();
        let engine = engine(&backend.url(), &keys);
        ask(&engine, &scoped());
        std::fs::write(&path, "one").unwrap();
        reload(&engine, &backend.url(), &keys);
        assert!(knows(&engine, &scoped()), "{key}: the same");
        std::fs::write(&path, "t&o\n").unwrap();
        assert!(knows(&engine, &scoped()), "{key}: nobody said reload");
        reload(&engine, &backend.url(), &keys);
        assert!(!knows(&engine, &scoped()), "{key}");
        ask(&engine, &scoped());
        let requests = backend.requests();
        let sent: Vec<_> =
            requests.iter().map(|request| (request.target(), request.header("X-Api-Key"))).collect();
        let expected = match key {
            "param.key" => [("/auth?key=one&token=123", None), ("/auth?key=t%26o&token=123", None)],
            _ => [("/auth?token=123", Some(b"one")), ("/auth?token=123", Some(b"t&o"))],
        };
        assert_eq!(sent.len(), 2, "{key}");
        for (sent, (target, header)) in sent.iter().zip(expected) {
            assert_eq!(
                (sent.0.as_str(), sent.1.as_deref()),
                (target, header.map(<[u8; 3]>::as_slice)),
                "{key}"
            );
        }
    }
}

#[test]
fn another_content_of_a_file_of_tls_forgets_and_the_same_content_does_not() {
    let files = Files::new();
    let other = Authority::new();
    let keys = [
        ("tls.ca_file", files.ca.as_str()),
        ("tls.client_cert", &files.cert[0]),
        ("tls.client_key", &files.key[0]),
    ];
    let changed = [
        (
            &files.ca,
            std::fs::read_to_string(&files.ca).unwrap() + &std::fs::read_to_string(other.file()).unwrap(),
        ),
        (&files.cert[0], std::fs::read_to_string(&files.cert[1]).unwrap()),
        (&files.key[0], std::fs::read_to_string(&files.key[1]).unwrap()),
    ];
    for (path, content) in changed {
        let backend = backend();
        let engine = engine(&backend.url(), &keys);
        ask(&engine, &scoped());
        std::fs::write(path, std::fs::read(path).unwrap()).unwrap();
        reload(&engine, &backend.url(), &keys);
        assert!(knows(&engine, &scoped()), "{path}: the same");
        std::fs::write(path, content).unwrap();
        reload(&engine, &backend.url(), &keys);
        assert!(!knows(&engine, &scoped()), "{path}");
    }
}

#[test]
fn an_authority_that_is_no_longer_trusted_takes_with_it_what_was_said_under_it() {
    let (authority, other, directory) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let identity = authority.server("localhost");
    let server = format!(
        "ssl_certificate {}; ssl_certificate_key {};",
        identity.certificate.display(),
        identity.key.display()
    );
    let location = "add_header X-AuthDuration 600; return 200;";
    let trusted = directory.path().join("trusted.pem");
    let keys = [("tls.ca_file", trusted.to_str().unwrap()), ("last_known", "1h")];
    // A file of TLS may hold what no other file of a configuration may: other bytes than text, and very many.
    let (latin_1, long) = (b"# \xE9\n".to_vec(), b"# one line of very many\n".repeat(50_000));
    for before_it in [b"".as_slice(), &latin_1, &long] {
        let trust = |authority: &Authority| {
            std::fs::write(&trusted, [before_it, &std::fs::read(authority.file()).unwrap()].concat())
                .unwrap();
        };
        let options = NginxOptions { listen: "ssl", server: &server, location, ..NginxOptions::default() };
        let nginx = Nginx::new(None, options);
        let url = nginx.https("localhost");
        trust(&authority);
        let engine = engine(&url, &keys);
        for _ in 0..2 {
            assert!(ask(&engine, &scoped()).allows());
        }
        reload(&engine, &url, &keys);
        assert!(knows(&engine, &scoped()), "the same");
        trust(&other);
        reload(&engine, &url, &keys);
        let refused = ask(&engine, &scoped());
        assert_eq!((refused.allows(), refused.origin), (false, Origin::Default), "nor is it repeated");
        drop(engine);
        assert_eq!(nginx.finish().len(), 1);
    }
}
