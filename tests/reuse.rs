//! Which answers may be reused, and for how long: only what the backend itself allows, status by status and word
//! by word. Jitter is off, so that every time is exact; requests are counted at the backend.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::Duration;

use alta_auth::{Cause, Check, Decision, Engine, Origin, Verdict};
use support::{Reply, Scripted, ask, assert_backend, engine, good};

/// One question of many to one backend.
fn question(id: &str) -> Check<'_> {
    Check { session_id: id.as_bytes(), ..good() }
}

/// A backend that gives each session the reply of its number, and an engine for it.
fn serving(replies: Vec<Reply>, keys: &[(&str, &str)]) -> (Scripted, Engine) {
    let backend = Scripted::new(move |request| replies[request.session().parse::<usize>().unwrap()].clone());
    let keys: Vec<_> = [("ttl.jitter", "off")].into_iter().chain(keys.iter().copied()).collect();
    let engine = engine(&backend.url(), &keys);
    (backend, engine)
}

/// Asks twice. The first decision, and whether the second came from memory; asserts that the two agree, with each
/// other and with the requests at the backend.
fn twice(backend: &Scripted, engine: &Engine, id: &str) -> (Decision, bool) {
    let first = ask(engine, &question(id));
    let before = backend.request_count();
    let second = ask(engine, &question(id));
    let remembered = backend.request_count() == before;
    assert_eq!(first.verdict, second.verdict);
    assert_eq!(second.origin == Origin::Memory, remembered, "{first:?}, {second:?}");
    assert_eq!(!first.ttl.is_zero(), remembered, "{first:?} says what is remembered");
    (first, remembered)
}

/// For each reply, as long as it may be reused by its own decision; zero is what was asked again.
#[track_caller]
fn assert_reused(rows: &[(&str, Reply, u64)], keys: &[(&str, &str)]) {
    let (backend, engine) = serving(rows.iter().map(|(_, reply, _)| reply.clone()).collect(), keys);
    for (index, (shown, _, seconds)) in rows.iter().enumerate() {
        let (decision, _) = twice(&backend, &engine, &index.to_string());
        // The time between the header section and the decision is no longer left.
        let (most, least) = (Duration::from_secs(*seconds), Duration::from_secs(seconds.saturating_sub(2)));
        assert!(
            (least..=most).contains(&decision.ttl),
            "{shown:?} {keys:?}: {:?}, not {most:?}",
            decision.ttl
        );
    }
}

/// 200 with these headers, a bar between two.
fn allow(headers: &str) -> Reply {
    Reply::status(200, &(headers.replace('|', "\r\n") + "\r\n"))
}

fn deny(headers: &str) -> Reply {
    Reply::status(403, &(headers.replace('|', "\r\n") + "\r\n"))
}

#[track_caller]
fn assert_allows_reused(rows: &[(&str, u64)], keys: &[(&str, &str)]) {
    let rows: Vec<_> = rows.iter().map(|(headers, seconds)| (*headers, allow(headers), *seconds)).collect();
    assert_reused(&rows, keys);
}

// Which statuses

/// 204 and 205 have no body, so no length.
fn of_status(status: u16, headers: &str) -> Reply {
    let length = if matches!(status, 204 | 205) { "" } else { "Content-Length: 0\r\n" };
    Reply::raw(format!("HTTP/1.1 {status} Status\r\n{length}{headers}\r\n"))
}

const STATUSES: [u16; 27] = [
    200, 201, 202, 203, 204, 206, 299, 300, 301, 302, 308, 400, 401, 402, 403, 404, 405, 408, 410, 418, 421,
    429, 451, 500, 502, 503, 504,
];

const INVITATIONS: [&str; 5] = [
    "X-AuthDuration: 600\r\n",
    "Cache-Control: max-age=600\r\n",
    "Cache-Control: public, s-maxage=600, immutable\r\n",
    "X-AuthDuration: 600\r\nRetry-After: 600\r\nLocation: /elsewhere\r\n",
    "",
];

#[test]
fn only_allowing_statuses_401_and_403_are_remembered_whatever_the_headers_invite_to() {
    // (allow_statuses, those that are remembered)
    let cases: [(&str, &[u16]); 4] = [
        ("200", &[200, 401, 403]),
        ("200,204", &[200, 204, 401, 403]),
        ("204", &[204, 401, 403]),
        ("200,404", &[200, 401, 403, 404]),
    ];
    for (allowing, remembered) in cases {
        let rows: Vec<_> =
            STATUSES.into_iter().flat_map(|status| INVITATIONS.map(|headers| (status, headers))).collect();
        let replies = rows.iter().map(|(status, headers)| of_status(*status, headers)).collect();
        let keys = [("allow_statuses", allowing), ("ttl.allow", "10m"), ("ttl.deny", "10m")];
        let (backend, engine) = serving(replies, &keys);
        for (index, (status, headers)) in rows.into_iter().enumerate() {
            let (decision, kept) = twice(&backend, &engine, &index.to_string());
            let allows = allowing.split(',').any(|listed| listed == status.to_string());
            assert_eq!(decision.allows(), allows, "{status}, allow_statuses = {allowing}");
            assert_eq!(decision.cause, Cause::None);
            let expected = remembered.contains(&status);
            assert_eq!(kept, expected, "{status} with {headers:?}, allow_statuses = {allowing}");
        }
    }
}

#[test]
fn an_unavailable_status_is_an_outage_and_not_remembered() {
    let replies = [500, 502, 503, 504].map(|status| Reply::status(status, "X-AuthDuration: 600\r\n"));
    let keys = [("unavailable_statuses", "5xx"), ("default_action", "allow"), ("ttl.deny", "10m")];
    let (backend, engine) = serving(replies.to_vec(), &keys);
    for id in ["0", "1", "2", "3"] {
        let (decision, kept) = twice(&backend, &engine, id);
        assert_eq!((decision.verdict, decision.cause, kept), (Verdict::Allow, Cause::Status, false));
    }
}

// For how long

#[test]
fn a_refusal_is_remembered_for_ttl_max_deny_at_most_and_an_allow_is_not_cut_by_it() {
    for status in [401, 403] {
        for (keys, seconds) in [
            (&[][..], 60),
            (&[("ttl.max_deny", "10s")], 10),
            (&[("ttl.max_deny", "1h")], 3600),
            (&[("ttl.max_deny", "24h")], 36000),
            (&[("ttl.max_deny", "1h"), ("ttl.max", "30s")], 30),
            (&[("ttl.max_deny", "0")], 0),
        ] {
            for headers in ["X-AuthDuration: 36000\r\n", "Cache-Control: max-age=36000\r\n"] {
                assert_reused(&[("deny", Reply::status(status, headers), seconds)], keys);
            }
        }
    }
    assert_reused(&[("short", deny("X-AuthDuration: 7"), 7)], &[]);
    assert_allows_reused(&[("X-AuthDuration: 36000", 36000)], &[("ttl.max_deny", "10s")]);
}

#[test]
fn where_the_backend_does_not_say_ttl_allow_and_ttl_deny_hold() {
    let silent = [("allow", allow("X-UserId: u")), ("deny", deny("X-UserId: u"))];
    for (keys, of_allow, of_deny) in [
        (&[][..], 0, 0),
        (&[("ttl.allow", "10m")], 600, 0),
        (&[("ttl.deny", "30s")], 0, 30),
        (&[("ttl.deny", "1h")], 0, 60),
        (&[("ttl.allow", "48h"), ("ttl.deny", "1h"), ("ttl.max_deny", "10m")], 86400, 600),
        (&[("ttl.allow", "48h"), ("ttl.max", "5s")], 5, 0),
    ] {
        let rows: Vec<_> = silent
            .iter()
            .zip([of_allow, of_deny])
            .map(|((shown, reply), seconds)| (*shown, reply.clone(), seconds))
            .collect();
        assert_reused(&rows, keys);
    }
    // Where it says, they do not.
    let says =
        ["X-AuthDuration: 20", "X-AuthDuration: 0", "Cache-Control: max-age=20", "Cache-Control: no-store"];
    let rows: Vec<_> = says.into_iter().zip([20, 0, 20, 0]).collect();
    assert_allows_reused(&rows, &[("ttl.allow", "10m")]);
}

#[test]
fn x_authduration_is_digits_and_what_is_none_stops_the_search() {
    let rows = [
        ("X-AuthDuration: 600", 600),
        ("x-authduration:600", 600),
        ("X-AuthDuration:   600  ", 600),
        ("X-AuthDuration: 86401", 86400),
        ("X-AuthDuration: 4294967297", 86400),
        ("X-AuthDuration: 18446744073709551617", 86400),
        ("X-AuthDuration: 99999999999999999999999999999999", 86400),
        ("X-AuthDuration: 600|X-AuthDuration: 300", 300),
        ("X-AuthDuration: 300|X-AuthDuration: 600", 300),
        ("X-AuthDuration: 600|X-AuthDuration: 0", 0),
        ("X-AuthDuration: 600|X-AuthDuration: ten", 0),
        ("X-AuthDuration: 0", 0),
        ("X-AuthDuration:", 0),
        ("X-AuthDuration: -600", 0),
        ("X-AuthDuration: +600", 0),
        ("X-AuthDuration: 600.5", 0),
        ("X-AuthDuration: 6e2", 0),
        ("X-AuthDuration: 0x258", 0),
        ("X-AuthDuration: 600s", 0),
        ("X-AuthDuration: 600, 600", 0),
        ("X-AuthDuration: 60 0", 0),
        ("X-AuthDuration: \"600\"", 0),
        ("X-AuthDuration: ten", 0),
    ];
    assert_allows_reused(&rows, &[]);
    // Nor is there another that could be asked.
    let stopped: Vec<_> = rows
        .iter()
        .filter(|(_, seconds)| *seconds == 0)
        .map(|(headers, _)| format!("{headers}|Cache-Control: max-age=600"))
        .collect();
    let stopped: Vec<_> = stopped.iter().map(|headers| (headers.as_str(), 0)).collect();
    assert_allows_reused(&stopped, &[("ttl.allow", "10m")]);
}

#[test]
fn cache_control_has_words_that_forbid_and_ages_that_count() {
    let rows = [
        ("Cache-Control: max-age=600", 600),
        ("cache-control: MAX-AGE=600", 600),
        ("Cache-Control: public,max-age=600 , immutable", 600),
        ("Cache-Control: max-age=600, must-revalidate", 600),
        ("Cache-Control: s-maxage=300", 300),
        ("Cache-Control: s-maxage=300, max-age=600", 300),
        ("Cache-Control: max-age=300, s-maxage=600", 600),
        ("Cache-Control: max-age=600, max-age=300", 300),
        ("Cache-Control: max-age=300|Cache-Control: max-age=600", 300),
        ("Cache-Control: public|Cache-Control: max-age=600", 600),
        ("Cache-Control: max-age=99999999999999999999", 86400),
        ("Cache-Control: max-age=0", 0),
        ("Cache-Control: s-maxage=0, max-age=600", 0),
        ("Cache-Control: max-age=-1", 0),
        ("Cache-Control: max-age=+600", 0),
        ("Cache-Control: max-age=600.5", 0),
        ("Cache-Control: max-age=600s", 0),
        ("Cache-Control: max-age=ten", 0),
        ("Cache-Control: max-age=", 0),
        ("Cache-Control: max-age", 0),
        ("Cache-Control: s-maxage=ten, max-age=600", 0),
        ("Cache-Control: no-store", 0),
        ("Cache-Control: no-store, max-age=600", 0),
        ("Cache-Control: max-age=600, no-store", 0),
        ("Cache-Control: max-age=600, No-Store", 0),
        ("Cache-Control: max-age=600|Cache-Control: no-store", 0),
        ("Cache-Control: no-cache, s-maxage=600", 0),
        ("Cache-Control: max-age=600, NO-CACHE", 0),
        ("Cache-Control: private, max-age=600", 0),
        ("Cache-Control: s-maxage=600,private", 0),
        // Words are whole words.
        ("Cache-Control: max-age=600, x-no-store, not-private", 600),
        ("Cache-Control: x-max-age=600", 0),
    ];
    assert_allows_reused(&rows, &[]);
    // A refusal is told alike.
    let refusals: Vec<_> = rows.iter().map(|(headers, s)| (*headers, deny(headers), (*s).min(60))).collect();
    assert_reused(&refusals, &[]);
}

#[test]
fn the_first_header_of_ttl_headers_that_is_present_decides_alone() {
    let both = "X-AuthDuration: 600|Cache-Control: max-age=300";
    let forbidden = "X-AuthDuration: 600|Cache-Control: no-store|Vary: *";
    let one = "X-AuthDuration: 600";
    let other = "Cache-Control: max-age=300";
    for (listened, rows) in [
        ("x-authduration,cache-control", [(both, 600), (forbidden, 600), (one, 600), (other, 300)]),
        ("cache-control,x-authduration", [(both, 300), (forbidden, 0), (one, 600), (other, 300)]),
        ("x-authduration", [(both, 600), (forbidden, 600), (one, 600), (other, 60)]),
        ("cache-control", [(both, 300), (forbidden, 0), (one, 60), (other, 300)]),
        ("", [(both, 60), (forbidden, 60), (one, 60), (other, 60)]),
    ] {
        assert_allows_reused(&rows, &[("ttl.headers", listened), ("ttl.allow", "1m")]);
    }
}

#[test]
fn an_answer_that_varies_with_what_was_not_sent_is_not_remembered() {
    let rows = [
        ("Vary: X-Session-Id", 600),
        ("vary: x-real-ip, X-REAL-UA", 600),
        ("Vary: X-Real-Origin|Vary: X-Real-Path", 600),
        ("Vary: Host", 600),
        ("Vary: X-Api-Key", 600),
        ("Vary:", 600),
        ("Vary: *", 0),
        ("Vary: X-Session-Id, *", 0),
        ("Vary: Accept-Encoding", 0),
        ("Vary: Cookie", 0),
        ("Vary: User-Agent", 0),
        ("Vary: Accept", 0),
        ("Vary: X-Session-Id, Cookie", 0),
        ("Vary: X-Session-Id|Vary: Cookie", 0),
        ("Vary: X-Other-Key", 0),
    ]
    .map(|(vary, seconds)| (format!("Cache-Control: max-age=600|{vary}"), seconds));
    let rows: Vec<_> = rows.iter().map(|(headers, seconds)| (headers.as_str(), *seconds)).collect();
    assert_allows_reused(&rows, &[("header.X-Api-Key", "secret")]);
    // It counts where Cache-Control decided, and nowhere else.
    let elsewhere = [("X-AuthDuration: 600|Vary: Cookie", 600), ("Vary: *", 60)];
    assert_allows_reused(&elsewhere, &[("ttl.allow", "1m")]);
}

#[test]
fn an_answer_that_varies_with_the_path_is_remembered_where_the_path_is_part_of_the_question() {
    let vary = |name| format!("Cache-Control: max-age=600|Vary: {name}");
    let (path, ip) = (vary("X-Real-IP, x-real-path"), vary("X-Real-IP"));
    for (keys, seconds) in [
        (&[][..], 600),
        (&[("scope", "directory")], 0),
        (&[("scope", "session")], 0),
        (&[("scope", "session"), ("param.p", "{path}")], 600),
    ] {
        assert_allows_reused(&[(&path, seconds), (&ip, 600)], keys);
    }
    // By a scope that the host names.
    for (reply, scope, requests) in [(&path, "", 1), (&path, "ch", 2), (&ip, "ch", 1)] {
        let (backend, engine) = serving(vec![allow(reply)], &[]);
        for _ in 0..2 {
            ask(&engine, &Check { scope: scope.as_bytes(), ..question("0") });
        }
        assert_eq!(backend.request_count(), requests, "{reply} {scope:?}");
    }
}

#[test]
fn an_answer_that_varies_with_credentials_that_were_not_sent_is_not_remembered() {
    assert_allows_reused(&[("Cache-Control: max-age=600|Vary: Authorization", 0)], &[]);
}

#[test]
fn an_answer_that_varies_with_the_credentials_of_the_url_is_remembered_when_they_were_sent() {
    let backend = Scripted::always(allow("Cache-Control: max-age=600|Vary: Authorization"));
    let engine = engine(&format!("http://user:secret@{}/auth", backend.address()), &[]);
    assert!(twice(&backend, &engine, "0").1);
}

// What is no sound answer

#[test]
fn a_refusal_that_breaks_a_rule_refuses_and_is_not_remembered() {
    let head = "X-AuthDuration: 60\r\nCache-Control: max-age=60\r\n";
    for (broken, sound) in [
        ("Content-Length: 0\r\nContent-Length: 1\r\n\r\n", false),
        ("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", false),
        ("Content-Length: 1x\r\n\r\n", false),
        ("Content-Length: 0\r\nno colon\r\n\r\n", false),
        ("Content-Length: 0\r\nX-Session-Id: another\r\n\r\n", false),
        // Cut short.
        ("Content-Length: 0\r\n", false),
        ("Content-Len", false),
        // Its twin, with nothing wrong.
        ("Content-Length: 0\r\n\r\n", true),
    ] {
        for status in [401, 403] {
            let reply =
                Reply::raw(format!("HTTP/1.1 {status} Status\r\n{head}{broken}")).then(Reply::close());
            let keys = [("ttl.deny", "1m"), ("default_action", "allow")];
            let (backend, engine) = serving(vec![reply], &keys);
            let (decision, kept) = twice(&backend, &engine, "0");
            assert_backend(&decision, Verdict::Deny, status);
            assert_eq!(kept, sound, "{broken:?}");
        }
    }
}

#[test]
fn an_allow_needs_everything_right_to_be_remembered() {
    for rest in ["Content-Length: 0\r\nContent-Length: 1\r\n\r\n", "Content-Length: 0\r\n"] {
        let reply =
            Reply::raw(format!("HTTP/1.1 200 OK\r\nX-AuthDuration: 600\r\n{rest}")).then(Reply::close());
        let (backend, engine) = serving(vec![reply], &[("ttl.allow", "10m")]);
        let (decision, kept) = twice(&backend, &engine, "0");
        assert_eq!((decision.origin, kept), (Origin::Default, false), "{rest:?}");
    }
}

#[test]
fn the_verdict_of_a_body_is_remembered_as_that_of_a_status() {
    let with_body = |headers: &str, body: &str| {
        let length = body.len();
        Reply::raw(format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {length}\r\n\r\n{body}"))
    };
    let long = "X-AuthDuration: 600\r\n";
    let keys = [("verdict.body", "json:error==0"), ("ttl.allow", "20s"), ("ttl.deny", "10s")];
    let rows = [
        ("allows", with_body(long, "{\"error\":0}"), 600, true),
        ("refuses", with_body(long, "{\"error\":1}"), 60, false),
        ("allows, without a word", with_body("", "{\"error\":0}"), 20, true),
        ("refuses, without a word", with_body("", "{\"error\":1}"), 10, false),
        ("no document", with_body(long, "error"), 60, false),
        ("a 403 needs no body", Reply::status(403, long), 60, false),
    ];
    let (backend, engine) = serving(rows.iter().map(|row| row.1.clone()).collect(), &keys);
    for (index, (shown, .., allows)) in rows.iter().enumerate() {
        let (decision, _) = twice(&backend, &engine, &index.to_string());
        assert_eq!((decision.allows(), decision.origin), (*allows, Origin::Backend), "{shown}");
    }
    let rows: Vec<_> = rows.into_iter().map(|(shown, reply, seconds, _)| (shown, reply, seconds)).collect();
    assert_reused(&rows, &keys);
    // A body cut short is no answer.
    let cut = Reply::raw(format!("HTTP/1.1 200 OK\r\n{long}Content-Length: 11\r\n\r\n{{\"err"))
        .then(Reply::close());
    let (backend, engine) = serving(vec![cut], &keys);
    let (decision, kept) = twice(&backend, &engine, "0");
    assert_eq!((decision.cause, kept), (Cause::Reset, false));
}
