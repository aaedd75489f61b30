//! nginx and php-fpm, the vendor's advice for production: connections are kept, and lost without a loss.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::Duration;

use alta_auth::{Cause, Check, Engine, Field, Origin, SubmitError, Verdict};
use support::{
    Authority, Collect, Fpm, Nginx, NginxOptions, Scripted, Served, Wire, ask, assert_backend,
    assert_default, bad, engine, good, sessions,
};

fn connections(served: &[Served]) -> usize {
    let mut seen: Vec<&str> = served.iter().map(|served| served.connection.as_str()).collect();
    seen.sort_unstable();
    seen.dedup();
    seen.len()
}

/// One check after another, each of its own session.
fn ask_in_turn(engine: &Engine, count: usize) {
    for id in sessions(count) {
        let check = Check { session_id: id.as_bytes(), ..good() };
        assert_backend(&ask(engine, &check), Verdict::Allow, 200);
    }
}

/// Keeps `at_once` checks under way until `total` are decided.
fn flood(engine: &Engine, total: usize, at_once: usize) -> Vec<(usize, alta_auth::Decision)> {
    let (ids, collect) = (sessions(total), Collect::new());
    for (index, id) in ids.iter().enumerate() {
        if index >= at_once {
            collect.wait_for(index - at_once + 1);
        }
        let check = Check { session_id: id.as_bytes(), ..good() };
        engine.submit(&check, &collect.receiver(), index).unwrap();
    }
    collect.wait(total)
}

#[test]
fn two_hundred_checks_with_an_empty_chunked_answer_use_one_connection() {
    let fpm = Fpm::new();
    let nginx = Nginx::new(Some(&fpm), NginxOptions::default());
    let engine = engine(&nginx.url(), &[]);
    ask_in_turn(&engine, 200);
    assert_eq!(engine.stats().connections_opened, 1);
    drop(engine);
    assert_eq!(fpm.log.count(), 200);
    let served = nginx.finish();
    assert_eq!((served.len(), connections(&served)), (200, 1));
}

#[test]
fn keepalive_requests_of_three_takes_a_connection_for_three() {
    let fpm = Fpm::new();
    let nginx =
        Nginx::new(Some(&fpm), NginxOptions { http: "keepalive_requests 3;", ..NginxOptions::default() });
    let engine = engine(&nginx.url(), &[]);
    ask_in_turn(&engine, 30);
    drop(engine);
    let served = nginx.finish();
    assert_eq!((served.len(), connections(&served)), (30, 10));
}

/// nginx closes after a second; the engine would keep for much longer. The check after that still gets its
/// answer, and reaches the backend once.
#[test]
fn an_idle_connection_that_nginx_closes_costs_no_check() {
    let fpm = Fpm::new();
    let nginx =
        Nginx::new(Some(&fpm), NginxOptions { http: "keepalive_timeout 1s;", ..NginxOptions::default() });
    let engine = engine(&nginx.url(), &[("pool.idle_timeout", "60s"), ("default_action", "allow")]);
    assert_backend(&ask(&engine, &good()), Verdict::Allow, 200);
    support::until(|| {
        nginx.error_log().contains("closed keepalive connection") || engine.stats().connections_open == 0
    });
    assert_backend(&ask(&engine, &bad()), Verdict::Deny, 403);
    drop(engine);
    let served = nginx.finish();
    assert_eq!((served.len(), connections(&served)), (2, 2));
}

#[test]
fn a_reload_under_load_loses_no_check() {
    let fpm = Fpm::new();
    let nginx = Nginx::new(Some(&fpm), NginxOptions::default());
    // A refusal is what the backend never gives here: each allow is an answer.
    let engine = engine(&nginx.url(), &[]);
    let (ids, collect) = (sessions(3_000), Collect::new());
    for (index, id) in ids.iter().enumerate() {
        if index >= 32 {
            collect.wait_for(index - 31);
        }
        if index % 1_000 == 500 {
            nginx.reload();
        }
        let check = Check { session_id: id.as_bytes(), ..good() };
        engine.submit(&check, &collect.receiver(), index).unwrap();
    }
    for (_, decision) in collect.wait(3_000) {
        assert_backend(&decision, Verdict::Allow, 200);
    }
}

#[test]
fn dead_fpm_is_a_refusal_unless_the_operator_says_that_it_is_an_outage() {
    let mut fpm = Fpm::new();
    let nginx = Nginx::new(Some(&fpm), NginxOptions::default());
    let deny = engine(&nginx.url(), &[("default_action", "allow")]);
    assert_backend(&ask(&deny, &good()), Verdict::Allow, 200);
    fpm.process.kill();
    assert_backend(&ask(&deny, &good()), Verdict::Deny, 502);
    let keys = [("default_action", "allow"), ("unavailable_statuses", "502")];
    let decision = ask(&engine(&nginx.url(), &keys), &good());
    assert_default(&decision, Verdict::Allow, Cause::Status);
    assert_eq!(decision.http_status, Some(502));
}

#[test]
fn killed_nginx_is_an_outage_and_gets_the_default_action() {
    for (action, verdict) in [("allow", Verdict::Allow), ("deny", Verdict::Deny)] {
        let fpm = Fpm::new();
        let mut nginx = Nginx::new(Some(&fpm), NginxOptions::default());
        let engine = engine(&nginx.url(), &[("default_action", action)]);
        assert_backend(&ask(&engine, &bad()), Verdict::Deny, 403);
        nginx.process.kill();
        assert_default(&ask(&engine, &bad()), verdict, Cause::Connect);
        assert_eq!(fpm.log.count(), 1);
    }
}

/// The kernel goes on accepting for it, and on the kept connection too only the budget notices.
#[test]
fn stopped_nginx_is_an_outage_that_only_the_budget_notices() {
    for (action, verdict) in [("allow", Verdict::Allow), ("deny", Verdict::Deny)] {
        let fpm = Fpm::new();
        let nginx = Nginx::new(Some(&fpm), NginxOptions::default());
        let engine = engine(&nginx.url(), &[("default_action", action)]);
        assert_backend(&ask(&engine, &bad()), Verdict::Deny, 403);
        nginx.process.signal_all("STOP");
        assert_times_out(&engine, verdict);
        assert_eq!(fpm.log.count(), 1, "nginx was not stopped");
        nginx.process.signal_all("CONT");
        assert_backend(&ask(&engine, &bad()), Verdict::Deny, 403);
    }
}

/// nginx waits for it longer than any check does.
#[test]
fn stopped_fpm_is_an_outage_that_only_the_budget_notices() {
    for (action, verdict) in [("allow", Verdict::Allow), ("deny", Verdict::Deny)] {
        let fpm = Fpm::new();
        let nginx = Nginx::new(Some(&fpm), NginxOptions::default());
        let engine = engine(&nginx.url(), &[("default_action", action)]);
        assert_backend(&ask(&engine, &bad()), Verdict::Deny, 403);
        fpm.process.signal_all("STOP");
        assert_times_out(&engine, verdict);
        assert_eq!(fpm.log.count(), 1, "FPM was not stopped");
        fpm.process.signal_all("CONT");
        assert_backend(&ask(&engine, &bad()), Verdict::Deny, 403);
    }
}

#[track_caller]
fn assert_times_out(engine: &Engine, verdict: Verdict) {
    let budget = Duration::from_secs(2);
    let decision = ask(engine, &Check { timeout: Some(budget), ..bad() });
    assert_default(&decision, verdict, Cause::Timeout);
    assert!(decision.latency >= budget, "{:?}", decision.latency);
}

/// A reload kills what FPM is serving unless it may finish, and nginx says 502 for that: a refusal. What comes
/// during the reload waits in the socket, and is lost in neither case.
#[test]
fn a_reload_of_fpm_loses_no_check_if_fpm_may_finish_and_allows_nobody_if_not() {
    const SLOW: &str = "<?php touch(__DIR__ . '/asked');
        while (!file_exists(__DIR__ . '/go')) { usleep(1000); clearstatcache(); }
        http_response_code($_GET['token'] === '123' ? 200 : 403);";
    for (global, status) in [("", 502), ("process_control_timeout = 20s", 403)] {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("slow.php"), SLOW).unwrap();
        let fpm = Fpm::with(global);
        let location = format!(
            "fastcgi_pass unix:{}; fastcgi_param SCRIPT_FILENAME {};
             fastcgi_param QUERY_STRING $query_string; fastcgi_param REQUEST_METHOD $request_method;",
            fpm.socket().display(),
            at("slow.php").display()
        );
        let nginx = Nginx::new(None, NginxOptions { location: &location, ..NginxOptions::default() });
        let engine = engine(&nginx.url(), &[("default_action", "allow")]);
        let collect = Collect::new();
        engine.submit(&bad(), &collect.receiver(), 0).unwrap();
        support::until(|| at("asked").exists());

        fpm.process.signal("USR2");
        support::until(|| fpm.reloads() == 1);
        if status == 502 {
            collect.wait_for(1);
        }
        std::fs::write(at("go"), "").unwrap();
        assert_backend(&collect.wait(1)[0].1, Verdict::Deny, status);
        // Until it has begun anew, nginx says 502 in its place.
        support::until(|| fpm.starts() == 2);
        assert_backend(&ask(&engine, &good()), Verdict::Allow, 200);
    }
}

/// Such a listener speaks HTTP/2 only. Its answer to anything else is SETTINGS, which is no HTTP/1.1.
#[test]
fn a_listener_for_http_2_without_tls_answers_h2c_and_is_an_outage_for_http_1_1() {
    let fpm = Fpm::new();
    let nginx = Nginx::new(Some(&fpm), NginxOptions { listen: "http2", ..NginxOptions::default() });
    let mut wire = Wire::connect(nginx.port);
    wire.ask("/auth.php?token=123");
    let bytes = wire.read_to_close();
    // The length of the first frame, its type SETTINGS, no flag, stream 0.
    assert_eq!((bytes[0], &bytes[3..9]), (0, &[4, 0, 0, 0, 0, 0][..]), "{bytes:?}");

    for (action, verdict) in [("allow", Verdict::Allow), ("deny", Verdict::Deny)] {
        let engine = engine(&nginx.url(), &[("default_action", action)]);
        assert_default(&ask(&engine, &bad()), verdict, Cause::Protocol);
    }
    assert_eq!(fpm.log.count(), 0);

    let engine = engine(&nginx.url(), &[("http.version", "h2c"), ("default_action", "allow")]);
    // The first alone, so that the connection is there for the rest.
    assert_backend(&ask(&engine, &bad()), Verdict::Deny, 403);
    for (_, decision) in flood(&engine, 100, 16) {
        assert_backend(&decision, Verdict::Allow, 200);
    }
    assert_eq!(engine.stats().connections_opened, 1);
    assert_eq!(fpm.log.count(), 101);
}

/// The connection of a 414 is gone, and with it nothing else.
#[test]
fn a_query_that_nginx_does_not_take_is_refused_and_its_connection_closed() {
    let fpm = Fpm::new();
    let nginx = Nginx::new(Some(&fpm), NginxOptions::default());
    let mut wire = Wire::connect(nginx.port);
    wire.ask(&format!("/auth.php?token=123&x={}", "x".repeat(20 * 1024)));
    let reply = String::from_utf8(wire.read_to_close()).unwrap();
    assert!(reply.starts_with("HTTP/1.1 414 "), "{reply:?}");
    assert!(reply.contains("\r\nConnection: close\r\n"), "{reply:?}");

    let engine = engine(&nginx.url(), &[("default_action", "allow"), ("pool.idle_timeout", "60s")]);
    let query = format!("token=123&x={}", "x".repeat(12 * 1024)).into_bytes();
    assert_backend(&ask(&engine, &Check { query: &query, ..good() }), Verdict::Deny, 414);
    assert_backend(&ask(&engine, &good()), Verdict::Allow, 200);
    assert_backend(&ask(&engine, &bad()), Verdict::Deny, 403);
    assert_eq!((engine.stats().connections_opened, engine.stats().retries), (2, 0));
    assert_eq!(fpm.log.count(), 2);
}

#[test]
fn ten_thousand_checks_open_no_more_connections_than_the_pool_may() {
    let nginx = Nginx::new(None, NginxOptions { location: "return 200;", ..NginxOptions::default() });
    for maximum in [256, 16] {
        let maximum_text = maximum.to_string();
        // Kept throughout, so that the count is not one of how often this machine stalled.
        let keys = [("pool.max_connections", maximum_text.as_str()), ("pool.idle_timeout", "60s")];
        let engine = engine(&nginx.url(), &keys);
        for (_, decision) in flood(&engine, 10_240, 256) {
            assert_backend(&decision, Verdict::Allow, 200);
        }
        let stats = engine.stats();
        assert!(stats.connections_opened <= maximum, "{} opened, {maximum} may be", stats.connections_opened);
        assert_eq!(stats.exchanges, 10_240);
    }
    let served = nginx.finish();
    assert_eq!(served.len(), 2 * 10_240);
    assert!(connections(&served) <= 256 + 16, "{} connections at nginx", connections(&served));
}

/// Distinct checks with distinct answers, several on each connection at once: nginx says so itself.
#[test]
fn hundreds_of_checks_share_a_few_connections_and_each_gets_its_own_answer() {
    const CHECKS: usize = 4_000;
    let location = "add_header X-UserId $arg_user always; if ($arg_token = 123) { return 200; } return 403;";
    let nginx = Nginx::new(None, NginxOptions { location, ..NginxOptions::default() });
    let keys = [("http.pipeline", "8"), ("pool.max_connections", "4"), ("pool.idle_timeout", "60s")];
    let engine = engine(&nginx.url(), &keys);
    let (ids, collect) = (sessions(CHECKS), Collect::new());
    for (index, id) in ids.iter().enumerate() {
        if index >= 400 {
            collect.wait_for(index - 399);
        }
        let query = format!("token={}&user=u{index}", if index % 3 == 0 { 9 } else { 123 });
        let check = Check { session_id: id.as_bytes(), query: query.as_bytes(), ..good() };
        engine.submit(&check, &collect.receiver(), index).unwrap();
    }
    for (index, decision) in collect.wait(CHECKS) {
        let (verdict, status) = if index % 3 == 0 { (Verdict::Deny, 403) } else { (Verdict::Allow, 200) };
        assert_backend(&decision, verdict, status);
        assert_eq!(decision.user_id(), format!("u{index}"), "the answer to another check");
    }
    let stats = engine.stats();
    assert_eq!((stats.exchanges, stats.retries, stats.connections_opened), (CHECKS as u64, 0, 4));
    // A connection comes back when those on it have gone, which is just after their decisions.
    support::until(|| {
        let stats = engine.stats();
        (stats.connections_open, stats.connections_idle) == (4, 4)
    });
    drop(engine);
    let served = nginx.finish();
    let pipelined = served.iter().filter(|served| served.pipelined).count();
    assert!(pipelined > CHECKS / 2, "{pipelined} of {} were pipelined", served.len());
    assert_eq!((served.len(), connections(&served)), (CHECKS, 4));
}

/// Through php-fpm, whose answers are chunked; and nginx closes each connection after so many.
#[test]
fn a_pipelined_connection_that_nginx_closes_after_so_many_requests_costs_no_check() {
    let fpm = Fpm::new();
    let options = NginxOptions { http: "keepalive_requests 150;", ..NginxOptions::default() };
    let nginx = Nginx::new(Some(&fpm), options);
    let engine = engine(&nginx.url(), &[("http.pipeline", "4"), ("pool.max_connections", "2")]);
    for (_, decision) in flood(&engine, 2_000, 16) {
        assert_backend(&decision, Verdict::Allow, 200);
    }
    let stats = engine.stats();
    drop(engine);
    // Those behind the last answer of a connection were not served, and are asked again.
    assert_eq!(fpm.log.count(), 2_000);
    assert!(stats.retries < 100, "{} of 2,000 were asked again", stats.retries);
    let pipelined = nginx.finish().iter().filter(|served| served.pipelined).count();
    assert!(pipelined > 1_000, "{pipelined} of 2,000 were pipelined");
}

/// What a cache answers may be any age, whatever the backend allows.
#[test]
fn an_answer_out_of_a_cache_in_between_is_not_remembered() {
    let backend = Scripted::new(|_| {
        support::Reply::status(200, "X-AuthDuration: 3600\r\nCache-Control: max-age=3600\r\n")
    });
    let folder = tempfile::tempdir().unwrap();
    let http = format!("proxy_cache_path {} keys_zone=answers:1m;", folder.path().display());
    let location = format!(
        "proxy_pass http://{}; proxy_cache answers; proxy_cache_key all; add_header X-Cache $upstream_cache_status;",
        backend.address()
    );
    let options = NginxOptions { http: &http, location: &location, ..NginxOptions::default() };
    let nginx = Nginx::new(None, options);
    let engine = engine(&nginx.url(), &[("ttl.jitter", "0")]);

    let from_backend = ask(&engine, &good());
    assert_backend(&from_backend, Verdict::Allow, 200);
    let from_cache = ask(&engine, &Check { session_id: b"s2", ..good() });
    assert_backend(&from_cache, Verdict::Allow, 200);
    assert_eq!(backend.request_count(), 1, "nginx did not cache: the test shows nothing");
    assert_eq!(from_cache.ttl, Duration::ZERO);
    assert!(from_backend.ttl > Duration::from_mins(50), "{:?}", from_backend.ttl);
    assert_eq!(engine.stats().replies_from_cache, 1);
}

#[test]
fn http_2_is_agreed_on_by_alpn_and_carries_everything_on_one_connection() {
    let (fpm, authority) = (Fpm::new(), Authority::new());
    let identity = authority.server("127.0.0.1");
    let certificate = format!(
        "ssl_certificate {}; ssl_certificate_key {};",
        identity.certificate.display(),
        identity.key.display()
    );
    let options = NginxOptions { listen: "ssl http2", server: &certificate, ..NginxOptions::default() };
    let nginx = Nginx::new(Some(&fpm), options);
    let ca = authority.file();
    let engine = engine(&nginx.https("127.0.0.1"), &[("tls.ca_file", ca.to_str().unwrap())]);
    for (_, decision) in flood(&engine, 400, 64) {
        assert_backend(&decision, Verdict::Allow, 200);
    }
    assert_backend(&ask(&engine, &bad()), Verdict::Deny, 403);
    drop(engine);
    let request = &fpm.log.requests()[0];
    assert!(request.headers.iter().all(Option::is_some), "{request:?}");
    let served = nginx.finish();
    assert!(served.iter().all(|served| served.protocol == "HTTP/2.0"), "{served:?}");
    assert_eq!(connections(&served), 1);
}

#[test]
fn http_1_1_is_asked_for_when_the_operator_says_so() {
    let authority = Authority::new();
    let identity = authority.server("127.0.0.1");
    let certificate = format!(
        "ssl_certificate {}; ssl_certificate_key {};",
        identity.certificate.display(),
        identity.key.display()
    );
    let options = NginxOptions {
        listen: "ssl http2",
        server: &certificate,
        location: "return 200;",
        ..NginxOptions::default()
    };
    let nginx = Nginx::new(None, options);
    let ca = authority.file();
    let keys = [("tls.ca_file", ca.to_str().unwrap()), ("http.version", "1.1")];
    let engine = engine(&nginx.https("127.0.0.1"), &keys);
    ask_in_turn(&engine, 20);
    drop(engine);
    let served = nginx.finish();
    assert!(served.iter().all(|served| served.protocol == "HTTP/1.1"), "{served:?}");
    assert_eq!(connections(&served), 1);
}

#[test]
fn a_unix_socket_is_a_backend_like_any_other() {
    let fpm = Fpm::new();
    let nginx = Nginx::new(Some(&fpm), NginxOptions::default());
    let engine = engine(&nginx.unix_url(), &[]);
    ask_in_turn(&engine, 50);
    assert_backend(&ask(&engine, &bad()), Verdict::Deny, 403);
    drop(engine);
    assert_eq!(fpm.log.requests()[0].uri, b"/auth.php?token=123");
    assert_eq!(connections(&nginx.finish()), 1);
}

/// nginx answers what does not fit its buffers with 414 and a close: a refusal like any other.
#[test]
fn no_size_of_a_query_makes_nginx_allow() {
    let fpm = Fpm::new();
    let nginx = Nginx::new(Some(&fpm), NginxOptions::default());
    let engine = engine(&nginx.url(), &[("default_action", "allow")]);
    for kilobytes in [1, 7, 8, 9, 12, 16, 20, 40, 80, 200] {
        let query = format!("token=9&x={}", "x".repeat(kilobytes * 1024 - 10)).into_bytes();
        let check = Check { query: &query, ..bad() };
        match engine.check_blocking(&check) {
            Ok(decision) => {
                assert!(kilobytes <= 16, "{kilobytes} KiB were accepted");
                let status = if kilobytes <= 7 { 403 } else { 414 };
                assert_backend(&decision, Verdict::Deny, status);
            }
            Err(SubmitError::Invalid(invalid)) => {
                assert!(kilobytes > 16, "{kilobytes} KiB were refused");
                assert_eq!(invalid.field(), Field::Query);
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(engine.stats().origins[Origin::Default as usize], 0, "every answer was nginx's");
}

/// Every field at its limit, and bytes that take three each. What does not fit nginx's four buffers of 8 KB is
/// refused by nginx (414, or 400 for the headers), what does not fit the library's limit by the library.
#[test]
fn no_size_of_a_whole_request_makes_nginx_allow() {
    let fpm = Fpm::new();
    let nginx = Nginx::new(Some(&fpm), NginxOptions::default());
    let engine = engine(&nginx.url(), &[("default_action", "allow")]);
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
    let (mut by_php, mut by_nginx, mut by_us) = (0, 0, 0);
    for kilobytes in (1..=16).chain([20, 40, 80, 200]) {
        let query = [b"token=9&x=".as_slice(), &vec![0xFF; kilobytes * 1024 - 10]].concat();
        match engine.check_blocking(&Check { query: &query, ..full }) {
            Ok(decision) => {
                let status = decision.http_status.unwrap_or_default();
                assert_backend(&decision, Verdict::Deny, status);
                match status {
                    403 => by_php += 1,
                    400 | 414 => by_nginx += 1,
                    other => panic!("{other} for {kilobytes} KiB"),
                }
            }
            Err(SubmitError::Invalid(invalid)) => {
                let field = if kilobytes <= 16 { Field::Request } else { Field::Query };
                assert_eq!(invalid.field(), field, "{kilobytes} KiB");
                by_us += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(by_php > 0 && by_nginx > 0 && by_us > 4, "{by_php}, {by_nginx}, {by_us}");
    assert_eq!(fpm.log.count(), by_php);
    assert_eq!(engine.stats().origins[Origin::Default as usize], 0, "every answer was nginx's");
}
