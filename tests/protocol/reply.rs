//! What each answer means: the verdict, what becomes of the connection, and what else is read.

use std::time::Duration;

use alta_auth::{Cause, Check, Decision, Verdict};

use crate::support::{Reply, Scripted, ask, assert_backend, assert_default, engine, good, sessions};

/// The one decision about a good token when the backend replies so.
fn decided(reply: Reply, keys: &[(&str, &str)]) -> Decision {
    let backend = Scripted::always(reply);
    let decision = ask(&engine(&backend.url(), keys), &good());
    assert_eq!(backend.request_count(), 1, "asked once: {decision:?}");
    decision
}

/// With the default action that a mistaken outage would show by.
fn against(verdict: Verdict, reply: Reply, keys: &[(&str, &str)]) -> Decision {
    let action = if verdict == Verdict::Allow { "deny" } else { "allow" };
    let keys: Vec<_> = keys.iter().copied().chain([("default_action", action)]).collect();
    decided(reply, &keys)
}

// The verdict

#[test]
fn ok_allows() {
    assert_backend(&against(Verdict::Allow, Reply::status(200, ""), &[]), Verdict::Allow, 200);
}

#[test]
fn every_other_final_status_denies() {
    for status in [
        201, 202, 203, 204, 205, 206, 207, 226, 299, 300, 304, 400, 401, 402, 403, 404, 407, 408, 410, 414,
        418, 421, 425, 429, 431, 451, 499, 500, 501, 502, 503, 504, 511, 599,
    ] {
        assert_backend(&against(Verdict::Deny, Reply::status(status, ""), &[]), Verdict::Deny, status);
    }
}

#[test]
fn a_redirect_is_never_followed_and_its_location_is_reported() {
    let login = Scripted::always(Reply::allow());
    for status in [301, 302, 303, 307, 308] {
        let location = format!("http://{}/login", login.address());
        let decision = decided(Reply::status(status, &format!("Location: {location}\r\n")), &[]);
        assert_backend(&decision, Verdict::Deny, status);
        assert_eq!(decision.location(), location);
    }
    assert_eq!(login.connections(), 0, "nobody asked the login page");
}

#[test]
fn allow_statuses_replace_200() {
    let keys = [("allow_statuses", "200,204")];
    assert_backend(
        &against(Verdict::Allow, Reply::raw("HTTP/1.1 204 No Content\r\n\r\n"), &keys),
        Verdict::Allow,
        204,
    );
    assert_backend(&decided(Reply::status(201, ""), &keys), Verdict::Deny, 201);
    let keys = [("allow_statuses", "204")];
    assert_backend(&decided(Reply::status(200, ""), &keys), Verdict::Deny, 200);
}

#[test]
fn unavailable_statuses_are_an_outage() {
    for (keys, status, unavailable) in [
        ([("unavailable_statuses", "502,503,504")], 503, true),
        ([("unavailable_statuses", "502,503,504")], 500, false),
        ([("unavailable_statuses", "5xx")], 500, true),
        ([("unavailable_statuses", "5xx")], 404, false),
    ] {
        let decision = against(Verdict::Deny, Reply::status(status, ""), &keys);
        if unavailable {
            assert_default(&decision, Verdict::Allow, Cause::Status);
            assert_eq!(decision.http_status, Some(status));
        } else {
            assert_backend(&decision, Verdict::Deny, status);
        }
    }
}

#[test]
fn interim_replies_are_skipped_and_do_not_go_on_for_ever() {
    let interim = |count: usize| "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(count);
    let allow = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let deny = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
    assert_backend(&decided(Reply::raw(interim(1) + allow), &[]), Verdict::Allow, 200);
    assert_backend(&decided(Reply::raw(interim(8) + allow), &[]), Verdict::Allow, 200);
    assert_backend(&decided(Reply::raw(interim(3) + deny), &[]), Verdict::Deny, 403);
    assert_default(&decided(Reply::raw(interim(9) + allow), &[]), Verdict::Deny, Cause::Protocol);
}

#[test]
fn switching_protocols_and_statuses_that_are_none_are_malformed() {
    for line in
        ["HTTP/1.1 101 Switching Protocols", "HTTP/1.1 600 Six", "HTTP/1.1 999 Nine", "HTTP/1.1 000 None"]
    {
        let decision = decided(Reply::raw(format!("{line}\r\nContent-Length: 0\r\n\r\n")), &[]);
        assert_default(&decision, Verdict::Deny, Cause::Protocol);
    }
}

#[test]
fn a_status_line_without_words_is_a_status_line() {
    for line in ["HTTP/1.1 200 ", "HTTP/1.1 200"] {
        let decision = decided(Reply::raw(format!("{line}\r\nContent-Length: 0\r\n\r\n")), &[]);
        assert_backend(&decision, Verdict::Allow, 200);
    }
}

#[test]
fn what_is_no_http_is_malformed() {
    for bytes in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "\u{0}\u{0}\u{6}\u{4}\u{0}\u{0}\u{0}\u{0}\u{0}\r\n\r\n",
        "HTTP/1.1 abc\r\n\r\n",
    ] {
        let decision = decided(Reply::raw(bytes).then(Reply::close()), &[]);
        assert_default(&decision, Verdict::Deny, Cause::Protocol);
    }
}

/// An allow needs everything right, a refusal only a status line.
#[test]
fn a_header_section_that_breaks_the_rules_spoils_an_allow_and_no_refusal() {
    let many = "X-More: 1\r\n".repeat(65);
    let long = format!("X-Long: {}\r\n", "x".repeat(17 * 1024));
    let broken = [
        "Content-Length: 0\r\nContent-Length: 1\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 1x\r\n",
        "no colon\r\n",
        "Name with space: 1\r\n",
        many.as_str(),
        long.as_str(),
    ];
    for headers in broken {
        let reply = |status| {
            Reply::raw(format!("HTTP/1.1 {status} Status\r\n{headers}\r\n0\r\n\r\n")).then(Reply::close())
        };
        let shown = &headers[..headers.len().min(60)];
        let allow = decided(reply(200), &[]);
        assert_eq!((allow.verdict, allow.cause), (Verdict::Deny, Cause::Protocol), "{shown}: {allow:?}");
        let deny = against(Verdict::Deny, reply(403), &[]);
        assert_eq!((deny.verdict, deny.cause), (Verdict::Deny, Cause::None), "{shown}: {deny:?}");
        assert_eq!(deny.http_status, Some(403));
    }
}

#[test]
fn a_refusal_that_is_cut_short_is_a_refusal() {
    for cut in [
        "HTTP/1.1 403 Forbidden\r\n",
        "HTTP/1.1 403 Forbidden\r\nContent-Le",
        "HTTP/1.1 403 Forbidden\r\nX: 1\r\n",
    ] {
        assert_backend(
            &against(Verdict::Deny, Reply::raw(cut).then(Reply::close()), &[]),
            Verdict::Deny,
            403,
        );
    }
    for cut in ["HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"] {
        let decision = decided(Reply::raw(cut).then(Reply::close()), &[]);
        assert_eq!((decision.verdict, decision.origin), (Verdict::Deny, alta_auth::Origin::Default), "{cut}");
    }
}

#[test]
fn without_a_body_verdict_the_body_decides_nothing() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
    for rest in [Reply::close(), Reply::silence(), Reply::reset(), Reply::raw("x".repeat(1_000_000))] {
        assert_backend(&decided(Reply::raw(head).then(rest), &[]), Verdict::Allow, 200);
    }
}

// The connection

/// How many connections 50 checks in turn need when every reply is this.
fn connections_for(reply: &Reply) -> usize {
    let backend = Scripted::always(reply.clone());
    let engine = engine(&backend.url(), &[("pool.idle_timeout", "30s")]);
    for id in sessions(50) {
        assert!(ask(&engine, &Check { session_id: id.as_bytes(), ..good() }).allows());
    }
    assert_eq!(backend.request_count(), 50);
    backend.connections()
}

#[test]
fn every_framing_that_ends_keeps_its_connection() {
    for reply in [
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\nb\r\nhello world\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n0\r\nTrailer: 1\r\n\r\n",
        "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ] {
        assert_eq!(connections_for(&Reply::raw(reply)), 1, "{reply:?}");
    }
}

#[test]
fn a_connection_that_the_backend_will_close_is_not_used_again() {
    for reply in [
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    ] {
        assert_eq!(connections_for(&Reply::raw(reply).then(Reply::close())), 50, "{reply:?}");
    }
}

#[test]
fn a_refusal_that_names_another_session_closes_its_connection() {
    // In turn, for the same session: nothing is remembered, every check is asked.
    let connections = |named: &str| {
        let backend = Scripted::always(Reply::status(403, &format!("X-Session-Id: {named}\r\n")));
        let engine = engine(&backend.url(), &[]);
        for _ in 0..3 {
            assert_backend(&ask(&engine, &good()), Verdict::Deny, 403);
        }
        assert_eq!(backend.request_count(), 3);
        backend.connections()
    };
    assert_eq!(connections("s1"), 1);
    assert_eq!(connections("another"), 3, "who knows whose answer comes next on it");
}

#[test]
fn a_connection_that_dies_idle_costs_one_safe_retry_and_no_check() {
    // Every connection answers once and dies on its second request, without a byte.
    let backend =
        Scripted::new(|request| if request.sequence == 0 { Reply::allow() } else { Reply::close() });
    let engine = engine(&backend.url(), &[]);
    assert!(ask(&engine, &good()).allows());
    assert!(ask(&engine, &Check { session_id: b"s2", ..good() }).allows());
    assert_eq!((backend.request_count(), backend.connections()), (3, 2));
    assert_eq!(engine.stats().retries, 1);
}

#[test]
fn nothing_but_a_reused_connection_is_asked_twice() {
    for reply in [Reply::close(), Reply::reset(), Reply::raw("HTTP/1.1 2").then(Reply::close())] {
        let decision = decided(reply, &[]);
        assert_eq!(decision.origin, alta_auth::Origin::Default);
    }
    // A reused connection that dies with a byte of the answer is not asked again either.
    let backend = Scripted::new(|request| {
        if request.sequence == 0 { Reply::allow() } else { Reply::raw("H").then(Reply::close()) }
    });
    let engine = engine(&backend.url(), &[]);
    assert!(ask(&engine, &good()).allows());
    assert!(!ask(&engine, &Check { session_id: b"s2", ..good() }).allows());
    assert_eq!(backend.request_count(), 2);
}

// What else it says

/// The remembered time of an allow, in seconds.
fn seconds(headers: &str, keys: &[(&str, &str)]) -> u64 {
    let keys: Vec<_> = keys.iter().copied().chain([("ttl.jitter", "0")]).collect();
    let decision = decided(Reply::status(200, headers), &keys);
    assert_backend(&decision, Verdict::Allow, 200);
    // What is left: a moment has passed since the reply.
    decision.ttl.as_millis().div_ceil(1_000).try_into().unwrap()
}

#[test]
fn how_long_a_decision_may_be_reused() {
    for (headers, expected) in [
        ("", 0),
        ("X-AuthDuration: 60\r\n", 60),
        ("X-AuthDuration: 36000\r\nCache-Control: max-age=5\r\n", 36_000),
        ("Cache-Control: max-age=60\r\n", 60),
        ("Cache-Control: max-age=60, s-maxage=30\r\n", 30),
        ("Cache-Control: public, max-age=60\r\n", 60),
        ("Cache-Control: no-store, max-age=60\r\n", 0),
        ("Cache-Control: no-cache, max-age=60\r\n", 0),
        ("Cache-Control: private, max-age=60\r\n", 0),
        ("X-AuthDuration: 60\r\nCache-Control: no-store\r\n", 60),
        ("X-AuthDuration: 0\r\nCache-Control: max-age=60\r\n", 0),
        ("X-AuthDuration: abc\r\nCache-Control: max-age=60\r\n", 0),
        ("X-AuthDuration: -5\r\n", 0),
        ("X-AuthDuration: 1.5\r\n", 0),
        ("X-AuthDuration: +60\r\n", 0),
        ("X-AuthDuration: 99999999999999999999999999\r\n", 86_400),
        ("X-AuthDuration: 86401\r\n", 86_400),
        ("X-AuthDuration: 60\r\nX-AuthDuration: 30\r\n", 30),
        ("Cache-Control: max-age=60\r\nVary: Cookie\r\n", 0),
        ("X-AuthDuration: 60\r\nAge: 10\r\n", 0),
        ("X-AuthDuration: 60\r\nAge: 0\r\n", 60),
        ("X-AuthDuration: 60\r\nX-Cache: HIT\r\n", 0),
        ("X-AuthDuration: 60\r\nX-Cache: MISS\r\n", 60),
    ] {
        assert_eq!(seconds(headers, &[]), expected, "{headers:?}");
    }
}

#[test]
fn the_operators_times_count_where_the_backend_says_nothing() {
    assert_eq!(seconds("", &[("ttl.allow", "30s")]), 30);
    assert_eq!(seconds("X-AuthDuration: 60\r\n", &[("ttl.allow", "30s")]), 60);
    assert_eq!(seconds("X-AuthDuration: 0\r\n", &[("ttl.allow", "30s")]), 0);
    assert_eq!(seconds("X-AuthDuration: 3600\r\n", &[("ttl.max", "60s")]), 60);
    assert_eq!(
        seconds("X-AuthDuration: 60\r\nCache-Control: max-age=5\r\n", &[("ttl.headers", "cache-control")]),
        5
    );
    assert_eq!(seconds("X-AuthDuration: 60\r\n", &[("ttl.headers", "")]), 0);
}

#[test]
fn jitter_only_shortens() {
    let jittered = |_| decided(Reply::status(200, "X-AuthDuration: 600\r\n"), &[]).ttl;
    let times: Vec<Duration> = (0..8).map(jittered).collect();
    for time in &times {
        assert!(*time <= Duration::from_mins(10) && *time >= Duration::from_secs(568), "{time:?}");
    }
    assert!(times.iter().any(|time| *time < Duration::from_secs(599)), "{times:?}");
}

#[test]
fn only_401_and_403_of_the_refusals_are_remembered_and_for_a_minute() {
    for (status, expected) in [(401, 60), (403, 60), (404, 0), (429, 0), (500, 0), (302, 0), (204, 0)] {
        let decision =
            decided(Reply::status(status, "Cache-Control: max-age=3600\r\n"), &[("ttl.jitter", "0")]);
        assert_eq!(decision.ttl.as_millis().div_ceil(1_000), expected, "{status}");
    }
}

#[test]
fn what_the_backend_adds_is_in_the_decision() {
    let headers = "X-AuthDuration: 36000\r\nX-Unique: true\r\nX-Max-Sessions: 10\r\nX-UserId: user-7\r\n";
    let decision = decided(Reply::status(200, headers), &[("ttl.jitter", "0")]);
    assert!(decision.unique);
    assert_eq!(decision.max_sessions, 10);
    assert_eq!(decision.user_id(), "user-7");
    let plain = decided(Reply::allow(), &[]);
    assert_eq!((plain.unique, plain.max_sessions, plain.user_id(), plain.location()), (false, 0, "", ""));
}

#[test]
fn x_location_goes_before_location_and_unfit_texts_are_empty() {
    for (headers, location, user) in [
        ("Location: /a\r\nX-Location: /b\r\n", "/b", ""),
        ("Location: https://example.com/a\r\n", "https://example.com/a", ""),
        ("Location: //evil.example.com/\r\n", "", ""),
        ("Location: javascript:alert(1)\r\n", "", ""),
        ("X-UserId: a b\r\n", "", ""),
        ("X-UserId: \u{430}\r\n", "", ""),
        ("X-UserId: first\r\nX-UserId: second\r\n", "", "first"),
    ] {
        let decision = decided(Reply::status(302, headers), &[]);
        assert_eq!((decision.location(), decision.user_id()), (location, user), "{headers}");
    }
    let long = format!("X-UserId: {}\r\n", "u".repeat(257));
    assert_eq!(decided(Reply::status(200, &long), &[]).user_id(), "");
}

#[test]
fn a_reply_that_names_another_session_is_no_answer() {
    let named = |id: &str| decided(Reply::status(200, &format!("X-Session-Id: {id}\r\n")), &[]);
    assert_backend(&named("s1"), Verdict::Allow, 200);
    assert_default(&named("s2"), Verdict::Deny, Cause::Protocol);
}

#[test]
fn the_verdict_may_be_in_the_body() {
    let keys = [("verdict.body", "json:error==0")];
    for body in ["{\"error\":0}", "{\"a\":[1,{\"error\":1}],\"error\": 0 }", " {\"error\":0}\n"] {
        assert_backend(&against(Verdict::Allow, Reply::body(body), &keys), Verdict::Allow, 200);
    }
    for body in [
        "{\"error\":1}",
        "{\"error\":\"0\"}",
        "{\"error\":null}",
        "{\"error\":0.0}",
        "{\"error\":false}",
        "{}",
        "[]",
        "",
        "{\"error\":0,\"error\":1}",
        "{\"error\":1,\"error\":0}",
        "{\"error\":0} {}",
        "{\"error\":0",
        "{\"data\":{\"error\":0}}",
        "error=0",
        "{\"Error\":0}",
    ] {
        assert_backend(&against(Verdict::Deny, Reply::body(body), &keys), Verdict::Deny, 200);
    }
    // Never asked of a refusal, and a body that does not arrive is no verdict.
    let refusal = Reply::raw("HTTP/1.1 403 Forbidden\r\nContent-Length: 11\r\n\r\n{\"error\":0}");
    assert_backend(&against(Verdict::Deny, refusal, &keys), Verdict::Deny, 403);
    let cut = Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"error\":").then(Reply::close());
    assert_default(&against(Verdict::Allow, cut, &keys), Verdict::Deny, Cause::Reset);
}

#[test]
fn other_forms_of_a_body_verdict() {
    for (rule, body, verdict) in [
        ("json:data.ok==true", "{\"data\":{\"ok\":true}}", Verdict::Allow),
        ("json:data.ok==true", "{\"data\":{\"ok\":\"true\"}}", Verdict::Deny),
        ("json:status==\"ok\"", "{\"status\":\"ok\"}", Verdict::Allow),
        ("json:status==\"ok\"", "{\"status\":\"OK\"}", Verdict::Deny),
        ("json:error!=1", "{\"error\":2}", Verdict::Allow),
        ("json:error!=1", "{\"error\":1}", Verdict::Deny),
        ("json:error==null", "{\"error\":null}", Verdict::Allow),
    ] {
        let decision = decided(Reply::body(body), &[("verdict.body", rule)]);
        assert_backend(&decision, verdict, 200);
    }
    let long = Reply::body(&format!("{{\"pad\":\"{}\",\"error\":0}}", "x".repeat(70 * 1024)));
    assert_backend(&decided(long, &[("verdict.body", "json:error==0")]), Verdict::Deny, 200);
}
