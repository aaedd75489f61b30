//! What an operator is promised about configuration: every mistake is named with its key and a way out, a
//! failed call changes nothing, and a secret is never repeated.

mod file;
mod named;
mod secrets;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use alta_auth::{Config, ConfigError};

/// A configuration that is complete but for what a test adds.
fn with(keys: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut config = Config::new();
    config.set("backend.url", "http://127.0.0.1:6000/auth")?;
    config.set("default_action", "deny")?;
    for (key, value) in keys {
        config.set(key, value)?;
    }
    Ok(config)
}

/// What setting these keys, or making settings of them, complains about.
fn error(keys: &[(&str, &str)]) -> String {
    let result = with(keys).and_then(|config| config.validate());
    result.expect_err(&format!("{keys:?} was accepted")).to_string()
}

fn warnings(keys: &[(&str, &str)]) -> Vec<String> {
    with(keys).and_then(|config| config.validate()).unwrap_or_else(|error| panic!("{keys:?}: {error}"))
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).expect("a writable directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a file of our own");
        path
    }

    fn load(&self, text: &str) -> Result<Config, ConfigError> {
        let mut config = Config::new();
        config.load(&self.write("auth.toml", text, 0o600)).map(|()| config)
    }
}

#[test]
fn every_bad_value_is_told_with_its_key_and_a_way_out() {
    let table = [
        ("time_out", "2s", r#"unknown key "time_out"; did you mean "timeout"?"#),
        ("Timeout", "2s", r#"unknown key "Timeout"; did you mean "timeout"?"#),
        ("backend_url", "x", r#"unknown key "backend_url"; did you mean "backend.url"?"#),
        ("url", "x", r#"unknown key "url"; did you mean "backend.url"?"#),
        ("headers.X-Key", "x", r#"unknown key "headers.X-Key"; did you mean "header.X-Key"?"#),
        ("", "x", r#"unknown key ""; the command `alta-auth config` lists every key"#),
        ("a\nb", "x", r#"unknown key "a…"; the command `alta-auth config` lists every key"#),
        ("param.", "x", r#""param." lacks a name; write param.NAME"#),
        ("header.", "x", r#""header." lacks a name; write header.NAME"#),
        ("timeout", "2", r#"timeout: "2" has no unit; write 2s or 2000ms"#),
        (
            "timeout",
            "",
            r#"timeout: "" is not a duration; write a whole number with ms, s, m or h, e.g. 500ms"#,
        ),
        (
            "timeout",
            "1.5s",
            r#"timeout: "1.5s" is not a duration; write a whole number with ms, s, m or h, e.g. 500ms"#,
        ),
        (
            "timeout",
            "-2s",
            r#"timeout: "-2s" is not a duration; write a whole number with ms, s, m or h, e.g. 500ms"#,
        ),
        (
            "timeout",
            "2 s",
            r#"timeout: "2 s" is not a duration; write a whole number with ms, s, m or h, e.g. 500ms"#,
        ),
        ("timeout", "0", "timeout: 0 is too low; write 1ms to 1m"),
        ("timeout", "2m", "timeout: 2m is too high; write 1ms to 1m"),
        ("timeout", "99999999999999999999h", "is too high; write 1ms to 1m"),
        ("connect_timeout", "0ms", "connect_timeout: 0 is too low; write 1ms to 1h"),
        ("ttl.allow", "721h", "ttl.allow: 721h is too high; write 0 to 720h"),
        ("ttl.max_deny", "25h", "ttl.max_deny: 25h is too high; write 0 to 24h"),
        ("pool.max_age", "999ms", "pool.max_age: 999ms is too low; write 1s to 24h"),
        ("pool.idle_timeout", "0", "pool.idle_timeout: 0 is too low; write 1ms to 1h"),
        ("dns.refresh", "0", "dns.refresh: 0 is too low; write 1s to 24h"),
        (
            "verdict.max_body",
            "64KB",
            r#"verdict.max_body: "64KB" is not a size; write a whole number of bytes, or with KiB, MiB or GiB, e.g. 64KiB"#,
        ),
        ("verdict.max_body", "65KiB", "verdict.max_body: 65KiB is too high; write 1 to 64KiB"),
        ("verdict.max_body", "0", "verdict.max_body: 0 is too low; write 1 to 64KiB"),
        (
            "pool.max_connections",
            "many",
            r#"pool.max_connections: "many" is not a whole number; write e.g. 1"#,
        ),
        ("pool.max_connections", "0", "pool.max_connections: 0 is too low; write 1 to 65536"),
        ("pool.max_connections", "+1", r#"pool.max_connections: "+1" is not a whole number; write e.g. 1"#),
        ("threads.io", "65", "threads.io: 65 is too high; write 1 to 64"),
        ("inbox.capacity", "1048577", "inbox.capacity: 1048577 is too high; write 1 to 1048576"),
        ("unix.peer_uid", "4294967295", "unix.peer_uid: 4294967295 is too high; write 0 to 4294967294"),
        ("unix.peer_uid", "www-data", r#"unix.peer_uid: "www-data" is not a whole number; write e.g. 0"#),
        (
            "default_action",
            "permit",
            r#"default_action: "permit" is not one of allow, deny; write one of them"#,
        ),
        ("default_action", "", r#"default_action: "" is not one of allow, deny; write one of them"#),
        (
            "default_action",
            "Allow",
            r#"default_action: "Allow" is not one of allow, deny; write one of them"#,
        ),
        ("scope", "host", r#"scope: "host" is not one of path, directory, session; write one of them"#),
        ("path.check", "true", r#"path.check: "true" is not one of on, off; write one of them"#),
        ("tls.verify", "no", r#"tls.verify: "no" is not one of on, off; write one of them"#),
        (
            "backend.preset",
            "flussonic",
            r#"backend.preset: "flussonic" is not one of custom, ministra, iptvportal, smarty; write one of them"#,
        ),
        ("http.version", "3", r#"http.version: "3" is not one of auto, 1.1, 2, h2c; write one of them"#),
        ("http.lane", "curl", r#"http.lane: "curl" is not one of auto, hyper, wire; write one of them"#),
        (
            "log.level",
            "trace",
            r#"log.level: "trace" is not one of off, error, warn, info, debug; write one of them"#,
        ),
        ("ttl.jitter", "5%", r#"ttl.jitter: "5%" is not one of on, off, 0; write one of them"#),
        (
            "ttl.headers",
            "expires",
            r#"ttl.headers: "expires" is not one of x-authduration, cache-control; write one of them"#,
        ),
        (
            "ttl.headers",
            "cache-control,Cache-Control",
            "ttl.headers: cache-control is there twice; remove one",
        ),
        (
            "allow_statuses",
            "ok",
            r#"allow_statuses: "ok" is not a status; write numbers such as 204 or classes such as 5xx, separated by commas"#,
        ),
        (
            "allow_statuses",
            "100,200",
            "allow_statuses: 100 is not possible here; write statuses from 200 to 599",
        ),
        (
            "allow_statuses",
            "200,,204",
            "allow_statuses: there is nothing between two commas; remove one of them",
        ),
        ("allow_statuses", "", "allow_statuses: empty, so no client would ever be let in; write e.g. 200"),
        (
            "unavailable_statuses",
            "404,5xx",
            "unavailable_statuses: 404 is not possible here; write statuses from 500 to 599",
        ),
        ("protect_params", "ip,", "protect_params: there is nothing between two commas; remove one of them"),
        (
            "tls.server_name",
            "a b",
            r#"tls.server_name: "a b" has no valid host name; it is made of letters, digits, - and dots"#,
        ),
        ("tls.ca_file", "/a\0b", "tls.ca_file: a path cannot hold a NUL byte; remove it"),
        (
            "backend.url",
            "",
            "backend.url: the URL has no scheme; write http://HOST/PATH, https://HOST/PATH or unix:/path/to.sock:/request/path",
        ),
        (
            "backend.url",
            "127.0.0.1:6000/auth",
            "backend.url: the URL has no scheme; write http://HOST/PATH, https://HOST/PATH or unix:/path/to.sock:/request/path",
        ),
        (
            "backend.url",
            "http://a/,ftp://b/",
            "backend.url: URL 2 has an unknown scheme; write http://, https:// or unix:/",
        ),
        (
            "backend.url",
            "http://a/x#y",
            "backend.url: the URL has a fragment (#…), which is never sent; remove it, or write %23 for a # that is meant",
        ),
        (
            "header.X-Key",
            "@keys/auth",
            "header.X-Key: a value that begins with @ names a file; write its absolute path: @/path",
        ),
        (
            "header.X-Key",
            "@/nowhere/key",
            "header.X-Key: /nowhere/key cannot be read: No such file or directory (os error 2)",
        ),
        // Keys of later versions do nothing yet, and are no keys.
        (
            "retry.attempts",
            "5",
            r#"unknown key "retry.attempts"; the command `alta-auth config` lists every key"#,
        ),
    ];
    for (key, value, expected) in table {
        let error = error(&[(key, value)]);
        assert!(
            error == expected || (expected.starts_with("is ") && error.ends_with(expected)),
            "{key} = {value:?}\n{error}\n{expected}"
        );
    }
}

const SAME: &str =
    "shadow.url: a URL of backend.url too, so it could only agree with itself; name another backend";
const CLEAR: &str = "shadow.url: http, while a backend is asked by https, so what is kept from listeners there would be told here; \
     write https, or accept that with tls.mixed = on";

#[test]
fn keys_that_contradict_each_other_are_refused() {
    let table: &[(&[(&str, &str)], &str)] = &[
        (
            &[("allow_statuses", "200,503"), ("unavailable_statuses", "5xx")],
            "unavailable_statuses: 503 is in allow_statuses too; remove it from one of them",
        ),
        (
            &[("pool.max_connections", "3"), ("threads.io", "4")],
            "pool.max_connections: 3 connections cannot be divided among 4 I/O threads; raise it or lower threads.io",
        ),
        (
            &[("backend.url", "https://a.example/,http://b.example/")],
            "backend.url: https and http in one list, so whoever blocks https gets the checks in clear text; \
             write https everywhere, or accept that with tls.mixed = on",
        ),
        (
            &[("backend.url", "https://127.0.0.1/,http://b.example/")],
            "backend.url: https and http in one list, so whoever blocks https gets the checks in clear text; \
             write https everywhere, or accept that with tls.mixed = on",
        ),
        (
            &[("http.version", "2")],
            "http.version: 2 is agreed on within TLS, and a URL in backend.url is http or unix; \
             write h2c for HTTP/2 without TLS",
        ),
        (
            &[("http.version", "2"), ("backend.url", "https://a.example/,unix:/run/a.sock:/x")],
            "http.version: 2 is agreed on within TLS, and a URL in backend.url is http or unix; \
             write h2c for HTTP/2 without TLS",
        ),
        (
            &[("http.version", "h2c"), ("backend.url", "https://a.example/")],
            "http.version: h2c is HTTP/2 without TLS, and a URL in backend.url is https; write 2 for HTTP/2 within TLS",
        ),
        (
            &[("tls.client_cert", "/a.pem")],
            "tls.client_cert: set without tls.client_key; set both or neither",
        ),
        (
            &[("breaker.failures", "0"), ("breaker.rate", "50%")],
            "breaker.rate: 50%, but with breaker.failures = 0 a backend is never left alone; \
             raise breaker.failures or remove breaker.rate",
        ),
        (
            &[("http.pipeline", "4"), ("http.lane", "hyper")],
            "http.pipeline: 4, which http.lane = hyper cannot do; write http.lane = wire, or remove it",
        ),
        (
            &[("http.pipeline", "2"), ("backend.preset", "ministra")],
            "http.pipeline: 2, but a token of backend.preset = ministra is not to be asked about twice; \
             remove http.pipeline",
        ),
        (
            &[("http.pipeline", "2"), ("backend.preset", "iptvportal")],
            "http.pipeline: 2, but a token of backend.preset = iptvportal is not to be asked about twice; \
             remove http.pipeline",
        ),
        (
            &[("http.pipeline", "2"), ("http.version", "h2c")],
            "http.pipeline: 2, but http.version says HTTP/2, which needs no pipelining; \
             remove it, or write http.version = 1.1",
        ),
        (
            &[("http.pipeline", "2"), ("http.version", "2"), ("backend.url", "https://a.example/")],
            "http.pipeline: 2, but http.version says HTTP/2, which needs no pipelining; \
             remove it, or write http.version = 1.1",
        ),
        (&[("tls.client_key", "/a.pem")], "tls.client_key: set without tls.client_cert; set both or neither"),
        (
            &[("backend.url", "http://user:word@127.0.0.1/"), ("header.Authorization", "Bearer x")],
            "header.authorization: backend.url has a user and password, which make the same header; use one of them",
        ),
        (
            &[("shadow.url", "http://user:word@127.0.0.1/"), ("shadow.header.Authorization", "Bearer x")],
            "shadow.header.authorization: shadow.url has a user and password, which make the same header; use one of them",
        ),
        (&[("backend.url", "http://a.example/x"), ("shadow.url", "http://A.example:80/x")], SAME),
        (
            &[
                ("backend.url", "http://u@a.example/x"),
                ("shadow.url", "http://b.example/,http://v@a.example/x"),
            ],
            SAME,
        ),
        (&[("backend.url", "unix:/run/a.sock:/x"), ("shadow.url", "unix:/run/a.sock:/x")], SAME),
        (&[("backend.url", "https://a.example/"), ("shadow.url", "http://b.example/")], CLEAR),
        (&[("shadow.url", "https://b.example/,http://b.example/")], CLEAR),
        (
            &[("shadow.url", "http://b.example/"), ("shadow.max_pending", "3"), ("threads.io", "4")],
            "shadow.max_pending: 3 cannot be divided among 4 I/O threads; raise it or lower threads.io",
        ),
    ];
    for (keys, expected) in table {
        assert_eq!(error(keys), *expected, "{keys:?}");
    }

    let many = format!("http://127.0.0.1/?{}", vec!["a=1"; 256].join("&"));
    assert_eq!(
        error(&[("backend.url", "http://a.example/"), ("shadow.url", &many)]),
        "shadow.url: its query and shadow.param.NAME make 256 parameters of the 256 that a request may have; use fewer"
    );
    assert_eq!(
        error(&[("backend.url", &many)]),
        "backend.url: its query and param.NAME make 256 parameters of the 256 that a request may have; use fewer"
    );
}

#[test]
fn combinations_that_are_meant_are_accepted() {
    for keys in [
        &[("backend.url", "https://a.example/,http://127.0.0.1/,unix:/run/a.sock:/x")][..],
        &[("backend.url", "https://a.example/,http://b.example/"), ("tls.mixed", "on")],
        &[("http.version", "2"), ("backend.url", "https://a.example/")],
        &[("http.version", "h2c"), ("backend.url", "http://a.example/,unix:/run/a.sock:/x")],
        &[("connect_timeout", "10s"), ("timeout", "1s")],
        // Another question at the same place; nobody in between; a shadow that hides more than the backend does.
        &[("backend.url", "http://a.example/x"), ("shadow.url", "http://a.example/y")],
        &[("backend.url", "http://a.example/x?v=1"), ("shadow.url", "http://a.example/x?v=2")],
        &[("backend.url", "https://a.example/"), ("shadow.url", "http://127.0.0.1/")],
        &[("backend.url", "http://a.example/"), ("shadow.url", "https://b.example/")],
        &[("backend.url", "https://a.example/"), ("shadow.url", "http://b.example/"), ("tls.mixed", "on")],
        &[
            ("http.version", "h2c"),
            ("backend.url", "http://a.example/"),
            ("shadow.url", "https://b.example/"),
        ],
        &[("shadow.url", ""), ("shadow.max_pending", "1"), ("threads.io", "4")],
        &[("pool.max_connections", "4"), ("threads.io", "4")],
        &[("breaker.failures", "0")],
        &[("breaker.failures", "0"), ("breaker.rate", "0%")],
        &[("breaker.failures", "1"), ("breaker.rate", "50%")],
        &[("last_known", "0"), ("memory.max_decisions", "0")],
        &[("last_known", "1h"), ("memory.max_decisions", "1")],
        &[("allow_statuses", "200,204"), ("unavailable_statuses", "5xx")],
        &[
            ("ttl.headers", ""),
            ("protect_params", ""),
            ("tls.ca_file", ""),
            ("verdict.body", ""),
            ("unix.peer_uid", ""),
        ],
        &[("timeout", " 2s "), ("timeout", "60s"), ("default_action", " allow ")],
        &[("param.ip", "{ip}"), ("header.X-Api-Key", "k")],
    ] {
        assert_eq!(warnings(keys), [""; 0], "{keys:?}");
    }
}

#[test]
fn both_required_keys_are_asked_for() {
    let mut config = Config::new();
    let missing = |config: &Config| config.validate().unwrap_err().to_string();
    assert_eq!(
        missing(&config),
        "backend.url: required and not set; write one, e.g. http://127.0.0.1:6000/auth"
    );
    config.set("backend.url", "http://127.0.0.1:6000/auth").unwrap();
    assert_eq!(
        missing(&config),
        "default_action: required and not set; write allow or deny: what a client gets when the backend gives no answer"
    );
    config.set("default_action", "deny").unwrap();
    assert_eq!(config.validate(), Ok(Vec::new()));
    assert_eq!(config.set("timeout", "2").unwrap_err().key(), Some("timeout"));
    assert_eq!(config.set("tiemout", "2").unwrap_err().key(), None);
}

#[test]
fn a_failed_set_changes_nothing_and_the_last_one_wins() {
    let mut config = with(&[("timeout", "3s")]).unwrap();
    config.set("timeout", "4").unwrap_err();
    assert!(format!("{config:?}").contains(r#""timeout": "3s""#), "{config:?}");
    config.set("timeout", "5s").unwrap();
    assert!(format!("{config:?}").contains(r#""timeout": "5s""#), "{config:?}");
    config.set("header.X-Key", "a").unwrap();
    config.set("header.x-key", "b").unwrap();
    assert_eq!(format!("{config:?}").matches("header").count(), 1, "a header's name has no case: {config:?}");
}

#[test]
fn presets_fill_in_what_was_not_set_in_any_order() {
    let validate = |keys: &[(&str, &str)]| {
        let mut config = Config::new();
        config.set("default_action", "deny").unwrap();
        for (key, value) in keys {
            config.set(key, value).unwrap();
        }
        config.validate().map_err(|error| error.to_string())
    };
    assert_eq!(validate(&[("backend.preset", "iptvportal")]), Ok(Vec::new()), "its URL is known");
    assert!(validate(&[("backend.preset", "ministra")]).unwrap_err().starts_with("backend.url: required"));

    let (url, preset, scope) =
        (("backend.url", "http://a/"), ("backend.preset", "ministra"), ("scope", "path"));
    let by_preset = validate(&[url, preset]).unwrap();
    assert!(by_preset[0].starts_with("scope = session: "), "{by_preset:?}");
    for keys in [[url, preset, scope], [scope, preset, url], [preset, scope, url]] {
        assert_eq!(validate(&keys), Ok(Vec::new()), "{keys:?}");
    }
    assert_eq!(validate(&[url, preset, ("backend.preset", "custom")]), Ok(Vec::new()));
}

#[test]
fn what_may_not_be_meant_is_warned_about() {
    let only = |keys: &[(&str, &str)], expected: &str| {
        let warnings = warnings(keys);
        assert!(warnings.len() == 1 && warnings[0].contains(expected), "{keys:?}: {warnings:?}");
    };
    only(&[("scope", "session")], "one decision covers all that a session id plays");
    only(&[("tls.verify", "off")], "no certificate is verified");
    only(&[("ttl.allow", "48h")], "ttl.allow = 48h is cut to 24h: see ttl.max");
    let once = [("refresh", "never"), ("shadow.url", "http://127.0.0.1:2/")];
    only(&once, "a shadow that shares the backend's records");
    assert_eq!(warnings(&once[1..]), [""; 0]);
    only(&[("ttl.deny", "5m")], "ttl.deny = 5m is cut to 1m: see ttl.max_deny");
    only(
        &[("last_known", "1h"), ("memory.max_decisions", "0")],
        "last_known = 1h with memory.max_decisions = 0: nothing is remembered, so nothing is repeated in an outage",
    );
    for (ttl_max, shown) in [("0", "ttl.max = 0"), ("999ms", "ttl.max = 999ms")] {
        let keys = [("ttl.max", ttl_max), ("default_action", "allow")];
        only(
            &keys,
            &format!(
                "{shown} with default_action = allow: while the backend gives no answer, a revoked session"
            ),
        );
        assert_eq!(warnings(&keys[..1]), [""; 0]);
    }
    assert_eq!(warnings(&[("ttl.max", "1s"), ("default_action", "allow")]), [""; 0]);
}

/// Who wrote them believes that they hold.
#[test]
fn keys_without_effect_are_warned_about() {
    let certificate = [("tls.client_cert", "/a.pem"), ("tls.client_key", "/nowhere/a.key")];
    let https = ("backend.url", "https://a.example/");
    let shadow = ("shadow.url", "https://b.example/");
    for (keys, expected) in [
        (
            &[("tls.ca_file", "/a.pem")][..],
            "tls.ca_file without an https URL: no certificate is looked at; write https, or remove it",
        ),
        (
            &certificate,
            "tls.client_cert without an https URL in backend.url: it is shown to nobody; write https, or remove it \
             with tls.client_key",
        ),
        (
            &[certificate[0], certificate[1], shadow],
            "tls.client_cert without an https URL in backend.url: it is shown to nobody; write https, or remove it \
             with tls.client_key",
        ),
        (
            &[("tls.server_name", "a.example")],
            "tls.server_name without an https URL in backend.url: it is expected of nobody; write https, or remove it",
        ),
        (
            &[https, ("unix.peer_uid", "33")],
            "unix.peer_uid = 33 without a unix URL: of no other connection is it known who owns its end; remove it",
        ),
        (
            &[("shadow.share", "1%")],
            "shadow.share without shadow.url: there is no shadow; write shadow.url, or remove it",
        ),
        (
            &[("shadow.header.X-Key", "k")],
            "shadow.header.x-key without shadow.url: there is no shadow; write shadow.url, or remove it",
        ),
        (
            &[("refresh.ahead", "10%"), ("memory.max_decisions", "0")],
            "refresh.ahead = 10% with memory.max_decisions = 0: nothing is remembered, so nothing is asked for ahead",
        ),
        (
            &[("expired", "keep"), ("memory.max_decisions", "0")],
            "expired = keep with memory.max_decisions = 0: nothing is remembered, so nothing is kept",
        ),
        (
            &[("breaker.cooldown", "31s")],
            "breaker.max_cooldown = 30s is below breaker.cooldown = 31s: nothing doubles; raise it",
        ),
    ] {
        assert_eq!(warnings(keys), [expected], "{keys:?}");
    }
    let files = Files::new();
    let pem = named::identity(&files);
    let pem = pem.to_str().expect("ASCII");
    for keys in [
        &[https, ("tls.client_cert", pem), ("tls.client_key", pem), ("tls.server_name", "b.example")][..],
        &[shadow, ("tls.ca_file", pem)],
        &[("backend.url", "http://a.example/,unix:/run/a.sock:/x"), ("unix.peer_uid", "33")],
        &[("shadow.url", "unix:/run/a.sock:/x"), ("unix.peer_uid", "0"), ("shadow.share", "1%")],
        &[("expired", "keep"), ("refresh.ahead", "10%"), ("memory.max_decisions", "1")],
        &[("breaker.cooldown", "30s")],
        &[("breaker.failures", "0"), ("breaker.cooldown", "31s")],
    ] {
        assert_eq!(warnings(keys), [""; 0], "{keys:?}");
    }
}

#[test]
fn the_table_of_keys_is_open_to_every_reader() {
    let names: BTreeSet<_> = Config::keys().map(|key| key.name).collect();
    for name in ["backend.url", "default_action", "param.NAME", "header.NAME", "threads.io"] {
        assert!(names.contains(name), "{name}");
    }
    for key in Config::keys() {
        // What is documented as a default can be written.
        if !key.default.is_empty() {
            Config::new().set(key.name, key.default).unwrap_or_else(|error| panic!("{error}"));
        }
        assert!(!key.required || key.default.is_empty(), "{}", key.name);
        assert!(!key.text.is_empty() && !key.kind.is_empty(), "{}", key.name);
    }
    let fixed: Vec<_> = Config::keys().filter(|key| !key.reload).map(|key| key.name).collect();
    assert_eq!(fixed, ["overload", "inbox.capacity", "threads.io", "threads.callback"]);
    for preset in Config::presets() {
        let mut config = Config::new();
        config.set("backend.preset", preset.name).unwrap();
        for (key, value) in preset.defaults {
            config.set(key, value).unwrap_or_else(|error| panic!("{}: {error}", preset.name));
        }
    }
}
