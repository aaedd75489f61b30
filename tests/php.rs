//! The vendor's way to run the reference script, `php -S`, and what it does when it is treated badly.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::Duration;

use alta_auth::{Cause, Check, Field, SubmitError, Verdict};
use support::{
    Collect, PREFACE, Php, Rerun, Wire, ask, assert_backend, assert_default, bad, engine, good, sessions,
};

#[test]
fn the_reference_script_allows_its_token_and_no_other() {
    let php = Php::new();
    let engine = engine(&php.url(), &[]);
    assert_backend(&ask(&engine, &good()), Verdict::Allow, 200);
    assert_backend(&ask(&engine, &bad()), Verdict::Deny, 403);
    assert_backend(&ask(&engine, &Check { query: b"", ..bad() }), Verdict::Deny, 403);
    assert_eq!(php.log.count(), 3);
}

/// It answers two requests on one connection with nothing. They are asked again, and nobody is asked like that for a while.
#[test]
fn pipelining_costs_two_checks_a_second_request_and_no_answer() {
    let php = Php::new();
    let engine = engine(&php.url(), &[("http.pipeline", "8"), ("pool.max_connections", "2")]);
    let (ids, collect) = (sessions(60), Collect::new());
    for (index, id) in ids.iter().enumerate() {
        let check = Check { session_id: id.as_bytes(), ..if index % 2 == 0 { good() } else { bad() } };
        engine.submit(&check, &collect.receiver(), index).unwrap();
    }
    for (index, decision) in collect.wait(60) {
        let (verdict, status) = if index % 2 == 0 { (Verdict::Allow, 200) } else { (Verdict::Deny, 403) };
        assert_backend(&decision, verdict, status);
    }
    let retries = engine.stats().retries;
    assert!((1..=2).contains(&retries), "{retries} were asked again");
}

/// The operators' page prints it; whoever copies it must get what the page says, whatever PHP is configured to do.
#[test]
fn the_script_that_the_documentation_prints_is_strict() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/backends.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("```php\n").expect("docs/backends.md prints a script");
    let (script, _) = rest.split_once("```").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("auth.php");
    std::fs::write(&file, script).unwrap();
    for options in [&[][..], &["-n"], &["-d", "display_errors=0"]] {
        let php = Php::with(options, &file);
        let engine = engine(&php.url(), &[("default_action", "allow")]);
        assert_backend(&ask(&engine, &good()), Verdict::Allow, 200);
        for query in LOOSELY_EQUAL.into_iter().chain(["", "token=", "token=9", "token[]=123", "token"]) {
            let check = Check { query: query.as_bytes(), ..bad() };
            let decision = ask(&engine, &check);
            assert_eq!(decision.verdict, Verdict::Deny, "{query} with {options:?}");
            assert_backend(&decision, Verdict::Deny, 403);
        }
    }
}

/// What PHP's `==` takes for 123. `%2B` is a plus sign.
const LOOSELY_EQUAL: [&str; 4] = ["token=0123", "token=%2B123", "token=123.0", "token=1.23e2"];

/// The backend's business: such a token reaches PHP as the client wrote it, and PHP's answer counts.
#[test]
fn the_vendors_loose_comparison_is_the_backends_own_affair() {
    let php = Php::new();
    let engine = engine(&php.url(), &[]);
    for query in LOOSELY_EQUAL {
        let check = Check { query: query.as_bytes(), ..bad() };
        assert_backend(&ask(&engine, &check), Verdict::Allow, 200);
        assert_eq!(php.log.requests().pop().unwrap().uri, format!("/auth?{query}").into_bytes());
    }
    for query in ["token=1234", "token=123x", "token=0x7B", "token=1.24e2"] {
        assert_backend(&ask(&engine, &Check { query: query.as_bytes(), ..bad() }), Verdict::Deny, 403);
    }
}

#[test]
fn php_ends_its_reply_by_closing_and_takes_one_connection_a_check() {
    let php = Php::new();
    let mut wire = Wire::connect(php.port);
    wire.ask("/auth?token=123");
    let reply = String::from_utf8(wire.read_to_close()).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply:?}");
    assert!(reply.contains("\r\nConnection: close\r\n"), "{reply:?}");
    let lower = reply.to_ascii_lowercase();
    assert!(!lower.contains("content-length") && !lower.contains("transfer-encoding"), "{reply:?}");
    assert_eq!(reply.find("\r\n\r\n"), Some(reply.len() - 4), "a body: {reply:?}");

    let engine = engine(&php.url(), &[]);
    for id in sessions(20) {
        let check = Check { session_id: id.as_bytes(), ..good() };
        assert_backend(&ask(&engine, &check), Verdict::Allow, 200);
    }
    let stats = engine.stats();
    assert_eq!((stats.connections_opened, stats.exchanges, stats.retries), (20, 20, 0));
    assert_eq!(php.log.count(), 21);
}

/// So no request is ever written behind another, and HTTP/2 without TLS only where the operator says so. A
/// preface that arrives before its SETTINGS is a request to PHP, of an unknown method: that 501 is no refusal.
#[test]
fn php_answers_neither_two_requests_in_one_write_nor_an_http_2_preface() {
    let php = Php::new();
    let request = b"GET /auth?token=123 HTTP/1.1\r\nHost: a\r\n\r\n";
    for bytes in [&request.repeat(2)[..], PREFACE] {
        let mut wire = Wire::connect(php.port);
        wire.send(bytes);
        assert_eq!(String::from_utf8_lossy(&wire.read_to_close()), "");
    }
    for (action, verdict) in [("allow", Verdict::Allow), ("deny", Verdict::Deny)] {
        let engine = engine(&php.url(), &[("http.version", "h2c"), ("default_action", action)]);
        let decision = ask(&engine, &good());
        // Which of the two depends on how the preface and SETTINGS are cut into packets.
        assert!(matches!(decision.cause, Cause::Reset | Cause::Protocol), "{decision:?}");
        assert_default(&decision, verdict, decision.cause);
        assert_eq!(engine.stats().connections_opened, 1, "asked again");
    }
    assert_eq!(php.log.count(), 0, "the script ran");
}

#[test]
fn php_reads_the_headers_and_the_query_as_the_host_gave_them() {
    let php = Php::new();
    let engine = engine(&php.url(), &[]);
    let check = Check {
        session_id: b"session/\xFF-1",
        ip: b"2001:db8::7",
        path: b"/ch/\xD0\xBF.m3u8",
        query: b"token=123&a=%2525+%zz&&b",
        origin: b"https://[2001:db8::1]:8443",
        user_agent: b"VLC/3.0 \xE9 (\"x\")",
        ..Check::default()
    };
    assert_backend(&ask(&engine, &check), Verdict::Allow, 200);
    let logged = php.log.requests().remove(0);
    assert_eq!(logged.uri, b"/auth?token=123&a=%2525+%zz&&b");
    let sent = [check.session_id, check.ip, check.path, check.origin, check.user_agent];
    assert_eq!(logged.headers, sent.map(|value| Some(value.to_vec())));
}

#[test]
fn php_sees_all_five_headers_even_when_nothing_is_known() {
    let php = Php::new();
    let engine = engine(&php.url(), &[]);
    let check = Check { session_id: b"s1", query: b"token=123", ..Check::default() };
    assert_backend(&ask(&engine, &check), Verdict::Allow, 200);
    let empty = Some(Vec::new());
    assert_eq!(
        php.log.requests()[0].headers,
        [Some(b"s1".to_vec()), empty.clone(), empty.clone(), empty.clone(), empty]
    );
}

#[test]
fn a_hundred_checks_at_once_are_all_answered_by_a_server_of_one() {
    let php = Php::new();
    let engine = engine(&php.url(), &[]);
    let (ids, collect) = (sessions(100), Collect::new());
    for (index, id) in ids.iter().enumerate() {
        let query: &[u8] = if index % 2 == 0 { b"token=123" } else { b"token=9" };
        let check = Check { session_id: id.as_bytes(), query, ..good() };
        engine.submit(&check, &collect.receiver(), index).unwrap();
    }
    for (index, decision) in collect.wait(100) {
        let (verdict, status) = if index % 2 == 0 { (Verdict::Allow, 200) } else { (Verdict::Deny, 403) };
        assert_backend(&decision, verdict, status);
    }
    assert_eq!(php.log.count(), 100);
}

#[test]
fn killed_php_is_an_outage_and_gets_the_default_action() {
    for (action, verdict) in [("allow", Verdict::Allow), ("deny", Verdict::Deny)] {
        let mut php = Php::new();
        let engine = engine(&php.url(), &[("default_action", action)]);
        assert_backend(&ask(&engine, &bad()), Verdict::Deny, 403);
        php.process.kill();
        assert_default(&ask(&engine, &bad()), verdict, Cause::Connect);
    }
}

#[test]
fn stopped_php_still_accepts_and_only_the_budget_notices() {
    let php = Php::new();
    let engine = engine(&php.url(), &[("default_action", "allow"), ("timeout", "300ms")]);
    php.process.signal("STOP");
    let decision = ask(&engine, &bad());
    assert_default(&decision, Verdict::Allow, Cause::Timeout);
    assert!(decision.latency >= Duration::from_millis(300), "{:?}", decision.latency);
    php.process.signal("CONT");
    // It first works off what it was asked while it was stopped; the new check waits its turn.
    let patient = support::engine(&php.url(), &[]);
    assert_backend(&ask(&patient, &bad()), Verdict::Deny, 403);
}

#[test]
fn no_size_of_a_query_makes_php_allow() {
    let php = Php::new();
    let engine = engine(&php.url(), &[("default_action", "allow")]);
    for kilobytes in [1, 4, 8, 12, 15, 16, 17, 20, 40, 64, 80, 100, 150, 200] {
        let query = format!("token=9&x={}", "x".repeat(kilobytes * 1024 - 10)).into_bytes();
        let check = Check { query: &query, ..bad() };
        if kilobytes <= 16 {
            assert_backend(&ask(&engine, &check), Verdict::Deny, 403);
        } else {
            assert_eq!(refused_field(&engine, &check), Field::Query, "{kilobytes} KiB");
        }
    }
}

/// Every field at once, and bytes that take three each: up to the limit of a whole request PHP refuses, beyond
/// it the library does.
#[test]
fn no_size_of_a_whole_request_makes_php_allow() {
    let php = Php::new();
    let engine = engine(&php.url(), &[("default_action", "allow")]);
    let long = vec![b'/'; 4096];
    let full = Check {
        session_id: &long[..1024],
        ip: &long[..1024],
        path: &long,
        origin: &long[..1024],
        user_agent: &long[..2048],
        scope: &long[..1024],
        ..bad()
    };
    let query_of = |bytes: usize| [b"token=9&x=".as_slice(), &vec![0xFF; bytes - 10]].concat();
    let (mut asked, mut refused) = (0, 0);
    for bytes in (1..=16).map(|kilobytes| kilobytes * 1024) {
        let query = query_of(bytes);
        match engine.check_blocking(&Check { query: &query, ..full }) {
            Ok(decision) => {
                assert_backend(&decision, Verdict::Deny, 403);
                assert_eq!(refused, 0, "{bytes} bytes pass and fewer do not");
                asked += 1;
            }
            Err(SubmitError::Invalid(invalid)) => {
                assert_eq!(invalid.field(), Field::Request, "{bytes} bytes");
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(asked >= 7 && refused >= 1, "{asked} asked, {refused} refused");
    assert_eq!(php.log.count(), asked);
    for kilobytes in [20, 64, 200] {
        let query = query_of(kilobytes * 1024);
        assert_eq!(refused_field(&engine, &Check { query: &query, ..full }), Field::Query);
    }
}

#[test]
fn over_long_fields_are_refused_at_submit_and_a_user_agent_is_cut() {
    let php = Php::new();
    let engine = engine(&php.url(), &[]);
    let long = vec![b'/'; 200 * 1024];
    for (field, limit, check) in [
        (Field::SessionId, 1024, (|value| Check { session_id: value, ..bad() }) as fn(&[u8]) -> Check<'_>),
        (Field::Ip, 1024, |value| Check { ip: value, ..bad() }),
        (Field::Origin, 1024, |value| Check { origin: value, ..bad() }),
        (Field::Scope, 1024, |value| Check { scope: value, ..bad() }),
        (Field::Path, 4096, |value| Check { path: value, ..bad() }),
    ] {
        assert_backend(&ask(&engine, &check(&long[..limit])), Verdict::Deny, 403);
        for length in [limit + 1, 16 * 1024, 80 * 1024, 200 * 1024] {
            assert_eq!(refused_field(&engine, &check(&long[..length])), field, "{length}");
        }
    }
    let before = php.log.count();
    assert_backend(&ask(&engine, &Check { user_agent: &long, ..bad() }), Verdict::Deny, 403);
    let agent = php.log.requests()[before].headers[4].clone().unwrap();
    assert_eq!(agent, &long[..2048]);
}

fn refused_field(engine: &alta_auth::Engine, check: &Check<'_>) -> Field {
    match engine.check_blocking(check) {
        Err(SubmitError::Invalid(invalid)) => invalid.field(),
        other => panic!("accepted: {other:?}"),
    }
}

/// With its built-in configuration PHP prints a warning before the refusal, and the refusal becomes 200. It
/// warns of more than 1,000 parameters, so no client may send as many.
#[test]
fn junk_parameters_do_not_turn_a_refusal_of_plain_php_into_an_allow() {
    let php = Php::with_built_in_configuration();
    let engine = engine(&php.url(), &[]);
    let query_of = |parameters: usize| format!("token=9{}", "&a".repeat(parameters - 1)).into_bytes();
    assert_backend(&ask(&engine, &Check { query: &query_of(256), ..bad() }), Verdict::Deny, 403);
    let before = php.log.count();
    for count in [257, 1_000, 1_001, 1_005, 5_000] {
        let query = query_of(count);
        let outcome = engine.check_blocking(&Check { query: &query, ..bad() });
        assert!(matches!(outcome, Err(SubmitError::Invalid(_))), "{count} parameters: {outcome:?}");
    }
    assert_eq!(php.log.count(), before, "none of it reached PHP");
}

/// What the library cannot know and the operator must: such a PHP allows a client without a token. The test
/// shows that the hazard is real, so that `alta-auth check --probe` has something to look for.
#[test]
fn plain_php_allows_a_missing_token_and_the_packaged_configuration_does_not() {
    let missing = Check { query: b"", ..bad() };
    let plain = Php::with_built_in_configuration();
    assert_backend(&ask(&engine(&plain.url(), &[]), &missing), Verdict::Allow, 200);
    let packaged = Php::new();
    assert_backend(&ask(&engine(&packaged.url(), &[]), &missing), Verdict::Deny, 403);
}

/// PHP takes the last of two parameters, and reads names in many spellings as one.
#[test]
fn a_client_cannot_override_the_operators_token() {
    let php = Php::new();
    let engine = engine(&format!("{}?token=9", php.url()), &[]);
    for query in [
        "token=123",
        "a=1&token=123",
        "tok%65n=123",
        "%74oken=123",
        "token%00x=123",
        "+token=123",
        "%20token=123",
        "token[]=123",
        "TOKEN=123&token=123",
    ] {
        assert_backend(&ask(&engine, &Check { query: query.as_bytes(), ..bad() }), Verdict::Deny, 403);
    }
    assert_eq!(php.log.requests()[0].uri, b"/auth?token=9", "the forged one is gone, with its separator");
}

/// No proxy variable is read: the backend is asked, not what the environment names.
#[test]
fn a_poisoned_environment_changes_nothing() {
    let poisoned = "http://127.0.0.1:1";
    if let Some(mut child) = Rerun::of("a_poisoned_environment_changes_nothing") {
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            child = child.env(name, poisoned);
        }
        return child.env("SSL_CERT_FILE", "/nonexistent").env("SSL_CERT_DIR", "/nonexistent").run();
    }
    assert_eq!(std::env::var("http_proxy").as_deref(), Ok(poisoned));
    let php = Php::new();
    assert_backend(&ask(&engine(&php.url(), &[]), &good()), Verdict::Allow, 200);
}
