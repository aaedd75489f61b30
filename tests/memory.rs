//! What the backend said of a question is asked once, and answers that question and no other.
//!
//! Requests are counted at the backend. A test of what is shared has twins that differ in one field and are asked.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::Duration;

use alta_auth::{Cause, Check, Decision, Engine, Origin, Verdict};
use support::{Collect, Gate, Reply, Scripted, ask, assert_backend, bad, engine, good, twins, until};

const TEN_MINUTES: &str = "X-AuthDuration: 600\r\n";

/// Answers its requests in this order, the last one for ever.
fn in_turn(replies: Vec<Reply>) -> Scripted {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    Scripted::new(move |_| {
        let index = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        replies[index.min(replies.len() - 1)].clone()
    })
}

/// 200 for ten minutes, of this user.
fn allow_of(user: &str) -> Reply {
    Reply::status(200, &format!("{TEN_MINUTES}X-UserId: {user}\r\n"))
}

#[track_caller]
fn assert_memory(decision: &Decision, verdict: Verdict, status: u16) {
    assert_eq!(
        (decision.verdict, decision.origin, decision.cause, decision.http_status),
        (verdict, Origin::Memory, Cause::None, Some(status)),
        "{decision:?}: {}",
        decision.detail()
    );
    assert!(!decision.ttl.is_zero() && !decision.coalesced && decision.ticket != 0, "{decision:?}");
}

#[test]
fn an_allow_is_asked_once_and_then_answered_from_memory_with_all_that_came_with_it() {
    let more = "X-UserId: user-42\r\nX-Max-Sessions: 3\r\nX-Unique: true\r\nX-Location: /welcome\r\n";
    let backend = Scripted::always(Reply::status(200, &format!("{TEN_MINUTES}{more}")));
    let engine = engine(&backend.url(), &[("ttl.jitter", "off")]);
    let all = |decision: &Decision| {
        (
            decision.user_id().to_owned(),
            decision.max_sessions,
            decision.unique,
            decision.location().to_owned(),
        )
    };
    let first = ask(&engine, &good());
    assert_backend(&first, Verdict::Allow, 200);
    assert_eq!(all(&first), ("user-42".to_owned(), 3, true, "/welcome".to_owned()));
    let mut last = first.clone();
    for _ in 0..50 {
        let next = ask(&engine, &good());
        assert_memory(&next, Verdict::Allow, 200);
        assert_eq!(all(&next), all(&first));
        assert!(next.ttl <= last.ttl, "{:?} after {:?}", next.ttl, last.ttl);
        assert_ne!(next.ticket, last.ticket);
        last = next;
    }
    until(|| ask(&engine, &good()).ttl < last.ttl);
    assert!(first.ttl <= Duration::from_mins(10));
    assert_eq!((backend.request_count(), backend.connections()), (1, 1));
    let stats = engine.stats();
    assert_eq!(stats.origins[Origin::Backend as usize], 1);
    assert_eq!(stats.origins[Origin::Memory as usize], stats.completed - 1);
    assert_eq!(stats.allowed, stats.completed);
}

#[test]
fn without_a_word_about_reuse_every_check_asks() {
    for reply in [Reply::allow(), Reply::deny()] {
        let backend = Scripted::always(reply);
        let engine = engine(&backend.url(), &[]);
        for _ in 0..3 {
            let decision = ask(&engine, &good());
            assert_eq!((decision.origin, decision.ttl), (Origin::Backend, Duration::ZERO));
            assert!(engine.lookup(&good()).unwrap().is_none());
        }
        assert_eq!(backend.request_count(), 3);
    }
}

// Whom it covers

/// The first request is allowed and the second refused, both to be remembered: asks about `first`, then `second`,
/// then both again. How many requests that took.
fn requests(first: Check<'_>, second: Check<'_>, keys: &[(&str, &str)]) -> usize {
    let backend =
        in_turn(vec![allow_of("one"), Reply::status(403, "X-AuthDuration: 60\r\nX-UserId: two\r\n")]);
    let engine = engine(&backend.url(), keys);
    assert_backend(&ask(&engine, &first), Verdict::Allow, 200);
    let other = ask(&engine, &second);
    let requests = backend.request_count();
    if requests == 1 {
        assert_memory(&other, Verdict::Allow, 200);
    } else {
        assert_backend(&other, Verdict::Deny, 403);
        let again = ask(&engine, &second);
        assert_memory(&again, Verdict::Deny, 403);
        assert_eq!(again.user_id(), "two");
    }
    let again = ask(&engine, &first);
    assert_memory(&again, Verdict::Allow, 200);
    assert_eq!(again.user_id(), "one");
    assert_eq!(backend.request_count(), requests, "both are remembered by now");
    requests
}

#[test]
fn a_difference_in_any_one_field_is_asked_and_each_keeps_its_own_decision() {
    let base = good();
    assert_eq!(requests(base, base, &[]), 1, "the same");
    let path = ("path", Check { path: b"/ch/segment-1.ts", ..base });
    for (field, twin) in twins(base).into_iter().chain([path]) {
        assert_eq!(requests(base, twin, &[]), 2, "{field}");
        assert_eq!(requests(twin, base, &[]), 2, "{field}, the other way");
    }
}

#[test]
fn under_no_scope_is_a_field_but_the_path_shared() {
    let scopes: [&[u8]; 2] = [b"", b"ch"];
    for configured in ["path", "directory", "session"] {
        for scope in scopes {
            let base = Check { scope, ..good() };
            for (field, twin) in twins(base) {
                let twin = if field == "scope" { twin } else { Check { path: b"/ch/1.ts", ..twin } };
                let keys = [("scope", configured)];
                assert_eq!(requests(base, twin, &keys), 2, "scope = {configured}, {scope:?}: {field}");
            }
        }
    }
}

#[test]
fn the_scope_says_which_paths_share() {
    let base = good();
    // (a path, whether `directory` shares it with /ch/index.m3u8)
    let paths: [(&[u8], bool); 8] = [
        (b"/ch/segment-1.ts", true),
        (b"/ch/", true),
        (b"/ch", false),
        (b"/ch2/index.m3u8", false),
        (b"/ch/hd/index.m3u8", false),
        (b"/", false),
        (b"/CH/index.m3u8", false),
        (b"", false),
    ];
    for (path, same_directory) in paths {
        let other = Check { path, ..base };
        let expected = |shared: bool| if shared { 1 } else { 2 };
        let shown = String::from_utf8_lossy(path);
        assert_eq!(requests(base, other, &[("scope", "path")]), 2, "path: {shown}");
        let by_directory = requests(base, other, &[("scope", "directory")]);
        assert_eq!(by_directory, expected(same_directory), "directory: {shown}");
        assert_eq!(requests(base, other, &[("scope", "session")]), 1, "session: {shown}");
        for configured in ["path", "directory", "session"] {
            let keys = [("scope", configured)];
            let (named, also) = (Check { scope: b"ch", ..base }, Check { scope: b"ch", ..other });
            assert_eq!(requests(named, also, &keys), 1, "named by the host, {configured}: {shown}");
        }
    }
}

#[test]
fn a_scope_of_the_host_is_never_taken_for_one_of_the_configuration() {
    let base = good();
    for (configured, spelled) in [
        ("path", &b"/ch/index.m3u8"[..]),
        ("directory", b"/ch/"),
        ("session", b"session"),
        ("session", b"s1"),
    ] {
        let named = Check { scope: spelled, ..base };
        assert_eq!(requests(base, named, &[("scope", configured)]), 2, "{configured}");
    }
}

#[test]
fn a_template_that_tells_the_path_keeps_it_in_the_question() {
    let other = Check { path: b"/ch/segment-1.ts", ..good() };
    for key in ["param.name", "header.X-Name"] {
        for (template, expected) in [("{path}", 2), ("{path.1}", 2), ("{ip}", 1), ("fixed", 1)] {
            let keys = [("scope", "session"), (key, template)];
            assert_eq!(requests(good(), other, &keys), expected, "{key} = {template}");
        }
    }
}

#[test]
fn what_is_alike_on_the_wire_is_one_question() {
    let base = good();
    let long = |last: u8| [&[b'u'; 2048][..], &[last]].concat();
    let (one, other) = (long(b'1'), long(b'2'));
    let pairs = [
        ("a fragment", base, Check { query: b"token=123#part", ..base }),
        ("space at an end", base, Check { user_agent: b" VLC/3.0 ", ..base }),
        (
            "a control byte",
            Check { user_agent: b"VLC 3.0", ..base },
            Check { user_agent: b"VLC\x013.0", ..base },
        ),
        (
            "beyond what is sent of a user agent",
            Check { user_agent: &one, ..base },
            Check { user_agent: &other, ..base },
        ),
    ];
    for (what, left, right) in pairs {
        assert_eq!(requests(left, right, &[]), 1, "{what}");
    }
    for (what, query) in
        [("order", &b"a=1&token=123"[..]), ("case", b"token=123&A=1"), ("spelling", b"t%6Fken=123")]
    {
        assert_eq!(
            requests(Check { query: b"token=123&a=1", ..base }, Check { query, ..base }, &[]),
            2,
            "{what}"
        );
    }
}

// What replaces it

#[test]
fn a_fresh_check_asks_and_its_answer_replaces_what_was_remembered() {
    let backend =
        in_turn(vec![allow_of("one"), allow_of("two"), Reply::status(403, "X-AuthDuration: 60\r\n")]);
    let engine = engine(&backend.url(), &[]);
    let fresh = Check { fresh: true, ..good() };
    ask(&engine, &good());
    let second = ask(&engine, &fresh);
    assert_backend(&second, Verdict::Allow, 200);
    assert_eq!(second.user_id(), "two");
    assert_eq!(ask(&engine, &good()).user_id(), "two");
    assert_backend(&ask(&engine, &fresh), Verdict::Deny, 403);
    assert_memory(&ask(&engine, &good()), Verdict::Deny, 403);
    assert_eq!(backend.request_count(), 3);
}

#[test]
fn a_fresh_check_joins_what_is_in_flight_and_others_need_not_wait_for_it() {
    let gate = Gate::default();
    let backend = in_turn(vec![allow_of("one"), allow_of("two").when(&gate)]);
    let engine = engine(&backend.url(), &[]);
    let fresh = Check { fresh: true, ..good() };
    ask(&engine, &good());
    let collect = Collect::new();
    for user_data in 0..3 {
        engine.submit(&fresh, &collect.receiver(), user_data).unwrap();
    }
    backend.wait_requests(2);
    // Held at the backend: what was remembered serves on.
    let meanwhile = ask(&engine, &good());
    assert_memory(&meanwhile, Verdict::Allow, 200);
    assert_eq!(meanwhile.user_id(), "one");
    engine.submit(&fresh, &collect.receiver(), 3).unwrap();
    assert_eq!(collect.delivered(), 0);
    gate.open();
    let decided = collect.wait(4);
    assert!(decided.iter().all(|(_, it)| it.origin == Origin::Backend && it.user_id() == "two"));
    assert_eq!(decided.iter().filter(|(_, it)| it.coalesced).count(), 3);
    assert_eq!(ask(&engine, &good()).user_id(), "two");
    assert_eq!(backend.request_count(), 2);
}

#[test]
fn an_answer_that_may_not_be_kept_replaces_what_was_kept() {
    let cut = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n";
    for reply in [
        Reply::allow(),
        Reply::deny(),
        Reply::status(404, TEN_MINUTES),
        Reply::status(500, TEN_MINUTES),
        Reply::status(200, "X-AuthDuration: 0\r\n"),
        Reply::status(200, "Cache-Control: no-store\r\n"),
        Reply::status(200, "X-AuthDuration: 600\r\nAge: 3\r\n"),
        Reply::raw(cut).then(Reply::close()),
    ] {
        let backend = in_turn(vec![allow_of("one"), reply, allow_of("three")]);
        let engine = engine(&backend.url(), &[]);
        ask(&engine, &good());
        assert_eq!(ask(&engine, &Check { fresh: true, ..good() }).ttl, Duration::ZERO);
        assert!(engine.lookup(&good()).unwrap().is_none());
        let third = ask(&engine, &good());
        assert_eq!((third.origin, third.user_id()), (Origin::Backend, "three"));
        assert_eq!(backend.request_count(), 3);
    }
}

#[test]
fn no_answer_replaces_nothing() {
    for (reply, keys) in [
        (Reply::close(), &[][..]),
        (Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n").then(Reply::close()), &[]),
        (Reply::status(503, TEN_MINUTES), &[("unavailable_statuses", "503")]),
    ] {
        let backend = in_turn(vec![allow_of("one"), reply]);
        let engine = engine(&backend.url(), keys);
        ask(&engine, &good());
        let lost = ask(&engine, &Check { fresh: true, ..good() });
        assert_ne!(lost.cause, Cause::None, "{lost:?}");
        let asked = backend.request_count();
        assert_memory(&ask(&engine, &good()), Verdict::Allow, 200);
        assert_eq!(backend.request_count(), asked);
    }
}

#[test]
fn what_nobody_waited_for_any_more_is_remembered_all_the_same() {
    let gate = Gate::default();
    let backend = in_turn(vec![allow_of("one").when(&gate)]);
    let engine = engine(&backend.url(), &[]);
    let collect = Collect::new();
    let ticket = engine.submit(&good(), &collect.receiver(), 0).unwrap();
    backend.wait_requests(1);
    assert!(engine.cancel(ticket));
    gate.open();
    until(|| engine.lookup(&good()).unwrap().is_some());
    assert_memory(&ask(&engine, &good()), Verdict::Allow, 200);
    assert_eq!((backend.request_count(), collect.delivered()), (1, 0));
}

#[test]
fn a_default_action_is_never_remembered() {
    for action in ["allow", "deny"] {
        let backend = in_turn(vec![Reply::close(), Reply::close(), Reply::status(403, "")]);
        let keys =
            [("default_action", action), ("ttl.allow", "10m"), ("ttl.deny", "1m"), ("last_known", "10m")];
        let engine = engine(&backend.url(), &keys);
        for _ in 0..2 {
            let decision = ask(&engine, &bad());
            assert_eq!((decision.origin, decision.ttl), (Origin::Default, Duration::ZERO));
            assert!(engine.lookup(&bad()).unwrap().is_none());
        }
        assert_backend(&ask(&engine, &bad()), Verdict::Deny, 403);
        assert_eq!(backend.request_count(), 3);
    }
}

// How much

#[test]
fn a_memory_of_no_decisions_remembers_nothing_and_says_so() {
    let backend = Scripted::always(allow_of("one"));
    let keys =
        [("memory.max_decisions", "0"), ("ttl.allow", "10m"), ("last_known", "10m"), ("expired", "keep")];
    let engine = engine(&backend.url(), &keys);
    for _ in 0..3 {
        let decision = ask(&engine, &good());
        assert_backend(&decision, Verdict::Allow, 200);
        assert_eq!(decision.ttl, Duration::ZERO);
        assert!(engine.lookup(&good()).unwrap().is_none());
    }
    assert_eq!((backend.request_count(), engine.stats().remembered), (3, 0));
}

#[test]
fn one_session_has_64_decisions_and_its_oldest_goes_first() {
    let backend = Scripted::always(allow_of("one"));
    let engine = engine(&backend.url(), &[]);
    let query = |index: usize| format!("token=123&r={index}").into_bytes();
    let known = |engine: &Engine, index: usize| {
        engine.lookup(&Check { query: &query(index), ..good() }).unwrap().is_some()
    };
    let neighbour = Check { session_id: b"neighbour", ..good() };
    ask(&engine, &neighbour);
    for index in 0..64 {
        ask(&engine, &Check { query: &query(index), ..good() });
    }
    assert!((0..64).all(|index| known(&engine, index)), "64 fit");
    for index in 64..1_000 {
        ask(&engine, &Check { query: &query(index), ..good() });
        assert!(known(&engine, index), "the newest: {index}");
        assert!(!known(&engine, index - 64), "the oldest went: {index}");
    }
    assert_eq!((0..1_000).filter(|index| known(&engine, *index)).count(), 64);
    assert!(engine.lookup(&neighbour).unwrap().is_some(), "it cost nobody else anything");
    assert_eq!(backend.request_count(), 1_001);
}
