//! Each preset against the stand-in of its backend (`alta-auth backend`), with every framing of the answers:
//! what the backend says is what the decision says. The default action is to allow throughout, so that a
//! refusal here is the backend's own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(not(feature = "command"))]
compile_error!("run with --features command, as make test does");

#[path = "command/support.rs"]
mod command;
mod support;

use std::time::Duration;

use alta_auth::{Check, Config, Decision, Engine, Origin, Verdict};
use command::Backend;
use support::{Authority, Nginx, NginxOptions, ask, assert_backend, bad, good, started};

const FRAMINGS: [&str; 3] = ["length", "chunked", "close"];
const MINISTRA: &str = "/stalker_portal/server/api/chk_flussonic_tmp_link.php";
const SMARTY: &str = "/tvmiddleware/api/streamservice/token/check/";

/// Only what an operator with this preset writes, and time enough for a busy machine.
fn configured(preset: &str, keys: &[(&str, &str)]) -> Config {
    let mut config = Config::new();
    let first = [("backend.preset", preset), ("default_action", "allow"), ("connect_timeout", "5s")];
    for (key, value) in first.iter().chain(keys) {
        config.set(key, value).unwrap_or_else(|error| panic!("{key} = {value}: {error}"));
    }
    config
}

fn engine(preset: &str, url: &str, keys: &[(&str, &str)]) -> Engine {
    let first = [("backend.url", url), ("timeout", "10s")];
    let keys: Vec<_> = first.iter().chain(keys).copied().collect();
    started(Engine::new(&configured(preset, &keys)))
}

fn stand_in(rule: &str, framing: &str) -> Backend {
    Backend::start(&["--rule", rule, "--framing", framing])
}

/// The stand-in makes a token as the portal does when a client opens a stream.
fn create(backend: &Backend, query: &str) -> String {
    let reply = backend.get(&format!("/_alta/create?{query}"));
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{reply}");
    // Chunked: the size, the token, and the last chunk.
    let mut lines = body.split("\r\n");
    if head.contains("chunked") {
        lines.next();
    }
    lines.next().unwrap().to_owned()
}

/// Asserts what the backend itself counted.
#[track_caller]
fn assert_counted(backend: &Backend, allowed: u64, denied: u64) {
    let stats = backend.stats();
    assert_eq!(
        [&stats["requests"], &stats["allowed"], &stats["denied"]],
        [&serde_json::Value::from(allowed + denied), &allowed.into(), &denied.into()]
    );
}

/// Asserts a decision with nothing beside its verdict.
#[track_caller]
fn assert_plain(decision: &Decision, verdict: Verdict, status: u16) {
    assert_backend(decision, verdict, status);
    let rest =
        (decision.ttl, decision.unique, decision.max_sessions, decision.user_id(), decision.location());
    assert_eq!(rest, (Duration::ZERO, false, 0, "", ""), "{decision:?}");
}

fn default_of(preset: &str, key: &str) -> Option<&'static str> {
    let preset = Config::presets().find(|found| found.name == preset).unwrap();
    preset.defaults.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
}

// ministra

#[test]
fn ministra_allows_its_token_for_ten_hours_to_one_user_with_ten_sessions() {
    for framing in FRAMINGS {
        let backend = stand_in("ministra", framing);
        let url = format!("{}{MINISTRA}", backend.url);
        let query = format!("token={}", create(&backend, "user=42"));
        let check = Check { query: query.as_bytes(), ..good() };

        let decision = ask(&engine("ministra", &url, &[("ttl.jitter", "off")]), &check);
        assert_backend(&decision, Verdict::Allow, 200);
        assert_eq!(decision.ttl, Duration::from_hours(10));
        assert!(decision.unique);
        assert_eq!((decision.max_sessions, decision.user_id()), (10, "42"));

        // The token is not consumed, and the jitter takes no more than it may.
        let jittered = ask(&engine("ministra", &url, &[]), &Check { session_id: b"s2", ..check });
        assert_backend(&jittered, Verdict::Allow, 200);
        let seconds = jittered.ttl.as_secs_f64();
        assert!((35_970.0..=36_000.0).contains(&seconds), "{seconds}");
        assert_counted(&backend, 2, 0);
    }
}

#[test]
fn ministra_refuses_what_is_no_token_of_its_own() {
    for framing in FRAMINGS {
        let backend = stand_in("ministra", framing);
        let engine = engine("ministra", &format!("{}{MINISTRA}", backend.url), &[]);
        create(&backend, "token=0");
        create(&backend, "token=old&lifetime=0");
        let queries = ["", "token=", "token=0", "token=unknown", "token=old"];
        for query in queries {
            let decision = ask(&engine, &Check { query: query.as_bytes(), ..bad() });
            assert_plain(&decision, Verdict::Deny, 403);
        }
        assert_counted(&backend, 0, queries.len() as u64);
    }
}

/// A token that is refused five seconds later must be asked about once, whatever the session plays meanwhile.
#[test]
fn ministra_is_asked_once_for_all_that_a_session_opens_at_once() {
    let backend = Backend::start(&["--rule", "ministra", "--delay", "500ms"]);
    let engine = engine("ministra", &format!("{}{MINISTRA}", backend.url), &[]);
    let query = format!("token={}", create(&backend, "user=42"));
    let collect = support::Collect::new();
    let paths = ["/ch/index.m3u8", "/ch/1.ts", "/other/index.m3u8"];
    for (index, path) in paths.iter().enumerate() {
        let check = Check { query: query.as_bytes(), path: path.as_bytes(), ..good() };
        engine.submit(&check, &collect.receiver(), index).unwrap();
    }
    for (_, decision) in collect.wait(paths.len()) {
        assert_backend(&decision, Verdict::Allow, 200);
        assert_eq!(decision.user_id(), "42");
    }
    assert_counted(&backend, 1, 0);
}

/// The answer is for all that was asked but the path: it is not for the session's id alone.
#[test]
fn ministra_is_asked_again_where_anything_but_the_path_is_not_as_it_opened_the_session() {
    let backend = stand_in("ministra", "length");
    let engine = engine("ministra", &format!("{}{MINISTRA}", backend.url), &[]);
    create(&backend, "token=t");
    let opened = Check { query: b"token=t", ..good() };
    assert_backend(&ask(&engine, &opened), Verdict::Allow, 200);
    // Its five seconds are over.
    create(&backend, "token=t&lifetime=0");
    let later = ask(&engine, &Check { path: b"/ch/1.ts", ..opened });
    assert_eq!((later.verdict, later.origin), (Verdict::Allow, Origin::Memory), "{later:?}");
    assert_counted(&backend, 1, 0);
    let others = [
        Check { ip: b"192.0.2.8", ..opened },
        Check { user_agent: b"VLC/3.1", ..opened },
        Check { origin: b"https://other.example.com", ..opened },
        Check { query: b"token=t&n=2", ..opened },
    ];
    for (asked, check) in (1..).zip(&others) {
        assert_backend(&ask(&engine, check), Verdict::Deny, 403);
        assert_counted(&backend, 1, asked);
    }
    let kept = ask(&engine, &opened);
    assert_eq!((kept.verdict, kept.origin), (Verdict::Allow, Origin::Memory), "{kept:?}");
}

#[test]
fn ministra_gives_up_well_inside_the_life_of_a_token() {
    assert_eq!(default_of("ministra", "timeout"), Some("2s"));
}

// smarty

/// Whether a refusal is 403 or 200 is not documented, so both variants must refuse.
const VARIANTS: [(&str, u16); 2] = [("smarty", 403), ("smarty-200", 200)];

#[test]
fn smarty_decides_by_its_body_whichever_status_a_refusal_has() {
    for ((rule, refusal), framing) in
        VARIANTS.into_iter().flat_map(|rule| FRAMINGS.map(|framing| (rule, framing)))
    {
        let backend = stand_in(rule, framing);
        let engine = engine("smarty", &format!("{}{SMARTY}", backend.url), &[]);
        create(&backend, "token=t&ip=192.0.2.7&name=ch");
        create(&backend, "token=old&ip=192.0.2.7&lifetime=0");
        for query in ["token=t", "token=t&name=ch"] {
            let decision = ask(&engine, &Check { query: query.as_bytes(), ..good() });
            assert_plain(&decision, Verdict::Allow, 200);
        }
        for query in ["token=old", "token=t&name=other", "token=unknown", "token=", ""] {
            let decision = ask(&engine, &Check { query: query.as_bytes(), ..bad() });
            assert_plain(&decision, Verdict::Deny, refusal);
        }
        assert_counted(&backend, 2, 5);
    }
}

/// Smarty compares the address only if it is passed: the preset passes it, and no client can pass another.
#[test]
fn smarty_is_told_the_address_and_refuses_a_token_of_another() {
    for (rule, refusal) in VARIANTS {
        let backend = stand_in(rule, "length");
        let engine = engine("smarty", &format!("{}{SMARTY}", backend.url), &[]);
        create(&backend, "token=t&ip=192.0.2.7");
        create(&backend, "token=six&ip=2001:db8::7");
        let allowed: [(&[u8], &[u8]); 2] = [(b"192.0.2.7", b"token=t"), (b"2001:db8::7", b"token=six")];
        for (ip, query) in allowed {
            assert_plain(&ask(&engine, &Check { ip, query, ..good() }), Verdict::Allow, 200);
        }
        let refused: [(&[u8], &[u8]); 6] = [
            (b"192.0.2.8", b"token=t"),
            (b"192.0.2.8", b"token=t&ip=192.0.2.7"),
            (b"192.0.2.8", b"ip=192.0.2.7&token=t"),
            (b"192.0.2.8", b"token=t&%69p=192.0.2.7"),
            (b"2001:db8::8", b"token=six"),
            (b"", b"token=t"),
        ];
        for (ip, query) in refused {
            assert_plain(&ask(&engine, &Check { ip, query, ..bad() }), Verdict::Deny, refusal);
        }
        assert_counted(&backend, 2, 6);
    }
}

/// For viewers who change their network there is no address that could be compared.
#[test]
fn smarty_is_told_no_address_where_param_ip_is_empty() {
    let backend = Backend::start(&["--rule", "smarty", "--show-secrets"]);
    create(&backend, "token=t&ip=192.0.2.7");
    let url = format!("{}{SMARTY}", backend.url);
    // In whatever order.
    let mut before = configured("custom", &[("param.ip", ""), ("backend.url", &url), ("timeout", "10s")]);
    before.set("backend.preset", "smarty").unwrap();
    let after = configured("smarty", &[("param.ip", " "), ("backend.url", &url), ("timeout", "10s")]);
    for config in [before, after] {
        let engine = started(Engine::new(&config));
        let check = Check { ip: b"192.0.2.8", query: b"token=t", ..good() };
        assert_plain(&ask(&engine, &check), Verdict::Allow, 200);
    }
    assert_counted(&backend, 2, 0);
    let log = backend.log();
    assert_eq!(log.matches(&format!("200 GET {SMARTY}?token=t ")).count(), 2, "{log}");
}

#[test]
fn smarty_without_its_last_slash_redirects_and_that_refuses() {
    for (rule, _) in VARIANTS {
        let backend = stand_in(rule, "length");
        let url = format!("{}{}", backend.url, SMARTY.trim_end_matches('/'));
        create(&backend, "token=t&ip=192.0.2.7");
        let decision = ask(&engine("smarty", &url, &[]), &Check { query: b"token=t", ..good() });
        assert_backend(&decision, Verdict::Deny, 301);
        // Followed, it would be a second request, and an allow.
        assert_eq!(backend.stats()["requests"], 1);
    }
}

// iptvportal

/// The portal is on the Internet, where no test goes: its address is looked at, and everything else is asked
/// of a stand-in behind nginx, which takes no connection but TLS that names the host.
#[test]
fn iptvportal_is_asked_by_https_with_the_name_of_the_host() {
    let (authority, backend) = (Authority::new(), Backend::start(&["--show-secrets"]));
    let identity = authority.server("localhost");
    let server = format!(
        "ssl_certificate {}; ssl_certificate_key {}; if ($ssl_server_name != localhost) {{ return 421; }}",
        identity.certificate.display(),
        identity.key.display()
    );
    let location = format!("proxy_pass {};", backend.url);
    let nginx = Nginx::new(
        None,
        NginxOptions { listen: "ssl", server: &server, location: &location, ..NginxOptions::default() },
    );
    let url = nginx.https("localhost").replace("/auth.php", "/auth/arescrypt/");
    let ca = authority.file();
    let engine = engine("iptvportal", &url, &[("tls.ca_file", ca.to_str().unwrap())]);
    assert_plain(&ask(&engine, &good()), Verdict::Allow, 200);
    assert_plain(&ask(&engine, &bad()), Verdict::Deny, 403);
    assert_counted(&backend, 1, 1);
    // The token is opaque: it arrives as the client sent it.
    assert!(backend.log().starts_with("200 GET /auth/arescrypt/?token=123 "), "{}", backend.log());
}

#[test]
fn iptvportal_brings_its_address_and_every_other_preset_asks_for_one() {
    assert_eq!(default_of("iptvportal", "backend.url"), Some("https://go.iptvportal.cloud/auth/arescrypt/"));
    assert_eq!(configured("iptvportal", &[]).validate().unwrap(), Vec::<String>::new());
    for preset in ["custom", "ministra", "smarty"] {
        let error = configured(preset, &[]).validate().unwrap_err();
        assert!(error.to_string().contains("backend.url"), "{preset}: {error}");
    }
}

// custom

#[test]
fn custom_adds_nothing_to_the_reference_rule() {
    for framing in FRAMINGS {
        let backend = stand_in("custom", framing);
        let engine = engine("custom", &format!("{}/any/path.php", backend.url), &[]);
        assert_plain(&ask(&engine, &good()), Verdict::Allow, 200);
        let refused: [&[u8]; 4] = [b"token=9", b"token=", b"", b"token=123&token=9"];
        for query in refused {
            assert_plain(&ask(&engine, &Check { query, ..bad() }), Verdict::Deny, 403);
        }
        assert_counted(&backend, 1, 4);
        assert!(backend.log().starts_with("200 GET /any/path.php?token=… X-Session-Id"), "{}", backend.log());
    }
}
