//! `shadow.url`: a second backend hears what the first has answered, gets no secret that was not written for it, and is
//! heard by nobody but the counters.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::Duration;

use alta_auth::{Check, Engine, ShadowStats, Stats};
use support::{PATIENCE, Reply, Scripted, ask, config, engine, good, started, until};

fn shadow(stats: &Stats) -> &ShadowStats {
    stats.shadow.as_ref().expect("there is a shadow.url")
}

fn counted(engine: &Engine) -> u64 {
    let stats = engine.stats();
    let shadow = shadow(&stats);
    shadow.agreed + shadow.differed + shadow.denied + shadow.allowed + shadow.unavailable + shadow.skipped
}

#[test]
fn it_gets_the_client_s_question_and_of_the_operator_s_own_only_what_was_written_for_it() {
    let (backend, second) = (Scripted::always(Reply::allow()), Scripted::always(Reply::allow()));
    let url = format!("http://user:canary-password@{}/auth?own=canary-query", backend.address());
    let shadow_url = format!("http://{}/new?site=7", second.address());
    let keys = [
        ("header.X-Api-Key", "canary-header"),
        ("param.key", "canary-param"),
        ("param.from", "{ip}"),
        ("shadow.url", shadow_url.as_str()),
        ("shadow.header.X-New-Key", "new-header"),
        ("shadow.param.who", "{session_id}"),
    ];
    let engine = engine(&url, &keys);
    // The client tries to give what is for the operator alone to give, to either of them.
    let check =
        Check { query: b"token=123&own=forged&key=forged&from=forged&who=forged&site=forged", ..good() };
    assert!(ask(&engine, &check).allows());
    second.wait_requests(1);
    let (sent, told) = (backend.requests().remove(0), second.requests().remove(0));
    // "user:canary-password", as it goes out.
    let basic = "dXNlcjpjYW5hcnktcGFzc3dvcmQ=";
    let head = String::from_utf8_lossy(&sent.head);
    assert!(head.contains("canary-param") && head.contains(basic), "nothing was at stake");
    assert_eq!(told.target(), "/new?site=7&who=s1&token=123");
    let head = String::from_utf8_lossy(&told.head).into_owned();
    assert!(!head.contains("canary") && !head.contains(basic) && !head.contains("forged"), "{head}");
    assert_eq!(told.header("X-New-Key").unwrap(), b"new-header");
    for name in ["X-Session-Id", "X-Real-Ip", "X-Real-Path", "X-Real-Origin", "X-Real-Ua"] {
        assert_eq!(told.header(name), sent.header(name), "{name}");
        assert!(told.header(name).is_some(), "{name}");
    }
    assert!(told.header("X-Api-Key").is_none() && told.header("Authorization").is_none());
}

#[test]
fn each_exchange_is_counted_at_both_and_what_came_of_it_is_in_the_metrics() {
    let backend = Scripted::always(Reply::allow());
    let second = Scripted::new(|request| match request.session().as_str() {
        "denied" => Reply::deny(),
        "differed" => Reply::status(200, "X-Max-Sessions: 3\r\n"),
        "unavailable" => Reply::close(),
        _ => Reply::allow(),
    });
    let engine = engine(&backend.url(), &[("shadow.url", &second.url())]);
    for (session, times) in [("agreed", 4), ("denied", 3), ("differed", 2), ("unavailable", 1)] {
        for _ in 0..times {
            assert!(ask(&engine, &Check { session_id: session.as_bytes(), ..good() }).allows());
        }
    }
    until(|| counted(&engine) == 10);
    let stats = engine.stats();
    let said = shadow(&stats);
    assert_eq!((said.agreed, said.denied, said.differed, said.unavailable), (4, 3, 2, 1));
    assert_eq!((backend.request_count(), stats.exchanges), (10, 10));
    // Of a connection that died in use the safe retry asks again: as it would the backend, and out of its own budget.
    assert_eq!((second.request_count() as u64, stats.retries), (said.endpoints[0].exchanges, 0));
    let page = stats.prometheus();
    let label = format!("http://{}", second.address());
    for line in [
        "shadow_answers_total{shadow=\"agreed\"} 4",
        "shadow_answers_total{shadow=\"denied\"} 3",
        "shadow_answers_total{shadow=\"allowed\"} 0",
        "shadow_answers_total{shadow=\"differed\"} 2",
        "shadow_answers_total{shadow=\"unavailable\"} 1",
        "shadow_answers_total{shadow=\"skipped\"} 0",
        &format!("shadow_breaker_open{{endpoint=\"{label}\"}} 0"),
        &format!("shadow_exchanges_total{{endpoint=\"{label}\"}} {}", said.endpoints[0].exchanges),
        "endpoint_exchanges_total{endpoint=",
    ] {
        assert!(page.contains(&format!("\nalta_auth_{line}")), "{line} is not in\n{page}");
    }
    assert!(!page.contains(&format!("alta_auth_breaker_open{{endpoint=\"{label}\"}}")), "it is no backend");
}

#[test]
fn without_one_there_is_nothing_of_it_in_the_metrics() {
    let backend = Scripted::always(Reply::allow());
    let engine = engine(&backend.url(), &[]);
    ask(&engine, &good());
    assert!(engine.stats().shadow.is_none());
    assert!(!engine.stats().prometheus().contains("shadow"));
}

#[test]
fn its_own_body_rule_judges_it_and_the_backend_s_does_not() {
    let backend = Scripted::always(Reply::body("{\"error\":0}"));
    let second = Scripted::always(Reply::body("{\"ok\":false}"));
    let url = second.url();
    for (rule, denied) in [(None, 0), (Some("json:ok==true"), 1), (Some("json:ok==false"), 0)] {
        let mut keys = vec![("verdict.body", "json:error==0"), ("shadow.url", url.as_str())];
        keys.extend(rule.map(|rule| ("shadow.verdict.body", rule)));
        let engine = engine(&backend.url(), &keys);
        assert!(ask(&engine, &good()).allows());
        until(|| counted(&engine) == 1);
        let stats = engine.stats();
        assert_eq!((shadow(&stats).denied, shadow(&stats).agreed), (denied, 1 - denied), "{rule:?}");
    }
}

#[test]
fn the_end_of_an_engine_does_not_wait_for_it() {
    let (backend, second) = (Scripted::always(Reply::allow()), Scripted::always(Reply::silence()));
    let keys = [("shadow.url", second.url()), ("timeout", "1m".to_owned())];
    let keys = keys.each_ref().map(|(key, value)| (*key, value.as_str()));
    let engine = engine(&backend.url(), &keys);
    for client in 0..20 {
        let session = format!("s{client}");
        assert!(ask(&engine, &Check { session_id: session.as_bytes(), ..good() }).allows());
    }
    second.wait_requests(20);
    let began = tokio::time::Instant::now();
    assert!(engine.drain(Duration::ZERO), "a shadow is no pending check");
    assert!(engine.shutdown(PATIENCE));
    assert!(began.elapsed() < PATIENCE);
    let stats = engine.stats();
    assert_eq!((stats.submitted, stats.completed, stats.pending), (20, 20, 0));
    assert_eq!((counted(&engine), shadow(&stats).skipped), (20, 20), "asked, and not waited for");
    second.wait_all_closed();
}

#[test]
fn a_reload_turns_it_on_to_another_and_off_and_forgets_nothing() {
    let backend = Scripted::always(Reply::status(200, "X-AuthDuration: 600\r\n"));
    let (one, other) = (Scripted::always(Reply::deny()), Scripted::always(Reply::deny()));
    let engine = engine(&backend.url(), &[]);
    let asked = |session: &str| ask(&engine, &Check { session_id: session.as_bytes(), ..good() });
    asked("before");
    let turn_to = |keys: &[(&str, &str)]| engine.reload(&config(&backend.url(), keys)).unwrap();
    turn_to(&[("shadow.url", &one.url())]);
    asked("first");
    one.wait_requests(1);
    turn_to(&[("shadow.url", &other.url())]);
    asked("second");
    other.wait_requests(1);
    until(|| counted(&engine) == 2);
    turn_to(&[]);
    asked("third");
    assert!(engine.stats().shadow.is_none());
    for session in ["before", "first", "second", "third"] {
        assert!(asked(session).allows(), "{session}");
    }
    assert_eq!((backend.request_count(), one.request_count(), other.request_count()), (4, 1, 1));
    turn_to(&[("shadow.url", &one.url())]);
    assert_eq!(counted(&engine), 2, "what was counted stays");
    // Its connections went when it was turned off.
    other.wait_all_closed();
}

#[test]
fn a_shadow_that_is_not_there_is_logged_seldom_and_its_breaker_by_its_changes() {
    let backend = Scripted::always(Reply::allow());
    let lines = support::Lines::new();
    let mut config =
        config(&backend.url(), &[("shadow.url", "http://127.0.0.1:1/canary?canary"), ("log.level", "info")]);
    config.set_log(lines.clone());
    let engine = started(Engine::new(&config));
    for client in 0..50 {
        let (session, ip) = (format!("s{client}"), format!("192.0.2.{client}"));
        let check = Check { session_id: session.as_bytes(), ip: ip.as_bytes(), ..good() };
        assert!(ask(&engine, &check).allows());
    }
    until(|| counted(&engine) == 50);
    let stats = engine.stats();
    assert_eq!(shadow(&stats).unavailable, 50);
    assert!(engine.shutdown(PATIENCE));
    let lines: Vec<_> = lines.all().into_iter().map(|(_, line)| line).collect();
    let of = |words: &str| lines.iter().filter(|line| line.contains(words)).count();
    // The first at once; those after it, if the breaker let several through, at the engine's end.
    let said: Vec<_> =
        lines.iter().filter(|line| line.starts_with("no answer from the shadow (connect): ")).collect();
    assert!(matches!(said.len(), 1 | 2), "{lines:?}");
    assert!(!said[0].contains("more like it"), "{lines:?}");
    assert!(
        said.iter().skip(1).all(|line| line.contains(" more like it since the last such line")),
        "{lines:?}"
    );
    let open = "the shadow http://127.0.0.1:1 gives no answers: the breaker is open";
    assert!((1..10).contains(&of(open)), "{lines:?}");
    assert_eq!((of("canary"), of("the backend")), (0, 0), "{lines:?}");
}
