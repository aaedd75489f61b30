//! What each answer means, row by row, and what may be remembered of it.

use std::time::UNIX_EPOCH;

use super::*;
use crate::backend::fixture::settings;

type Lines<'a> = [(&'a str, &'a str)];

fn rules() -> ReplyRules {
    let mut settings = settings(&[], &[("X-Api-Key", "k")], &[]);
    settings.ttl.allow = Duration::from_secs(30);
    settings.ttl.deny = Duration::from_secs(5);
    settings.ttl.max = Duration::from_hours(1);
    ReplyRules::new(&settings)
}

const SUBJECT: Subject<'_> = Subject { session_id: b"s 1", path_in_key: true };

fn judged(rules: &ReplyRules, status: u16, lines: &Lines<'_>) -> Judgement {
    let headers: Vec<_> = lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    judge(rules, SUBJECT, &ReplyHead { status, headers: &headers }, || UNIX_EPOCH)
}

fn decided(rules: &ReplyRules, status: u16, lines: &Lines<'_>) -> Answer {
    match judged(rules, status, lines) {
        Judgement::Decided(answer) => answer,
        other => panic!("{status} {lines:?}: {other:?}"),
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn of_all_statuses_only_200_allows() {
    for status in 100..600 {
        let answer = decided(&rules(), status, &[]);
        assert_eq!(answer.verdict == Verdict::Allow, status == 200, "{status}");
        assert_eq!(answer.status, status);
    }
}

#[test]
fn configured_statuses_replace_200() {
    let rules = ReplyRules { allow: StatusSet::parse("204,302").unwrap(), ..rules() };
    for status in 100..600 {
        assert_eq!(
            decided(&rules, status, &[]).verdict == Verdict::Allow,
            matches!(status, 204 | 302),
            "{status}"
        );
    }
}

#[test]
fn unavailable_statuses_are_outages_and_nothing_else_about_them_decides() {
    let rules = ReplyRules { unavailable: StatusSet::parse("502,503,504").unwrap(), ..rules() };
    for status in 500..600 {
        let lines: &Lines<'_> = &[("Content-Length", "x"), ("X-Session-Id", "other")];
        let outage =
            judged(&rules, status, lines) == Judgement::Unavailable { retry_after: None, broken: true };
        assert_eq!(outage, matches!(status, 502..=504), "{status}");
    }
}

#[test]
fn retry_after_is_seconds_or_a_date_and_at_most_a_minute() {
    let rules = ReplyRules { unavailable: StatusSet::parse("503").unwrap(), ..rules() };
    for (value, expected) in [
        ("0", Some(0)),
        ("7", Some(7)),
        ("60", Some(60)),
        ("61", Some(60)),
        ("99999999999999999999999", Some(60)),
        ("Thu, 01 Jan 1970 00:00:20 GMT", Some(20)),
        ("Thursday, 01-Jan-70 00:00:20 GMT", Some(20)),
        ("Thu Jan  1 00:00:20 1970", Some(20)),
        ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
        ("Fri, 01 Jan 2100 00:00:00 GMT", Some(60)),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("\u{e9}", None),
    ] {
        let expected = Judgement::Unavailable { retry_after: expected.map(secs), broken: false };
        assert_eq!(judged(&rules, 503, &[("retry-after", value)]), expected, "{value}");
    }
    let past = ReplyHead { status: 503, headers: &[(b"Retry-After", b"Thu, 01 Jan 1970 00:00:20 GMT")] };
    let later = UNIX_EPOCH + secs(100);
    assert_eq!(
        judge(&rules, SUBJECT, &past, || later),
        Judgement::Unavailable { retry_after: Some(secs(0)), broken: false }
    );
}

#[test]
fn what_breaks_an_allow_leaves_a_refusal_a_refusal_that_is_not_remembered() {
    let many = [("X-A", "1"); 65];
    let broken: [&Lines<'_>; 12] = [
        &many,
        &[("Content-Length", "5"), ("Content-Length", "5")],
        &[("Content-Length", "5"), ("content-length", "6")],
        &[("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
        &[("Transfer-Encoding", "chunked"), ("Content-Length", "0")],
        &[("Content-Length", "5, 5")],
        &[("Content-Length", "-1")],
        &[("Content-Length", "")],
        &[("Content-Length", "99999999999999999999999")],
        &[("X-Session-Id", "s 2")],
        &[("X-Session-Id", "")],
        &[("X-Session-Id", "s 1"), ("X-Session-Id", "S 1")],
    ];
    for lines in broken {
        assert!(matches!(judged(&rules(), 200, lines), Judgement::Malformed(_)), "{lines:?}");
        let unavailable = ReplyRules { unavailable: StatusSet::parse("503").unwrap(), ..rules() };
        let outage = Judgement::Unavailable { retry_after: None, broken: true };
        assert_eq!(judged(&unavailable, 503, lines), outage, "{lines:?}");
        for status in [302, 401, 403, 500] {
            let answer = decided(&rules(), status, lines);
            assert_eq!(
                (answer.verdict, answer.ttl, answer.storable),
                (Verdict::Deny, secs(0), false),
                "{lines:?}"
            );
        }
    }
    let sound: [&Lines<'_>; 5] = [
        &many[..64],
        &[("Content-Length", "5")],
        &[("Transfer-Encoding", "chunked")],
        &[("x-session-id", " s 1\t")],
        &[("X-Session-Id", "s 1"), ("X-Session-Id", "s 1")],
    ];
    for lines in sound {
        assert_eq!(decided(&rules(), 200, lines).verdict, Verdict::Allow, "{lines:?}");
        assert!(decided(&rules(), 403, lines).storable, "{lines:?}");
    }
}

#[test]
fn only_allowing_statuses_401_and_403_are_remembered_whatever_the_headers_say() {
    let rules = ReplyRules { allow: StatusSet::parse("200,204").unwrap(), ..rules() };
    // Headers; whether they may be remembered; for how long an allow, a refusal.
    let rows: [(&Lines<'_>, bool, u64, u64); 17] = [
        (&[], true, 30, 5),
        (&[("X-AuthDuration", "20")], true, 20, 20),
        (&[("X-AuthDuration", "36000")], true, 3600, 60),
        (&[("X-AuthDuration", "99999999999999999999")], true, 3600, 60),
        (&[("X-AuthDuration", "0")], true, 0, 0),
        (&[("X-AuthDuration", "x")], true, 0, 0),
        (&[("Cache-Control", "max-age=40")], true, 40, 40),
        (&[("Cache-Control", "max-age=40, s-maxage=70")], true, 70, 60),
        (&[("Cache-Control", "no-store")], false, 0, 0),
        (&[("Cache-Control", "private, max-age=40")], false, 0, 0),
        (&[("Cache-Control", "no-cache")], true, 0, 0),
        (&[("Cache-Control", "max-age=40"), ("Vary", "Cookie")], false, 0, 0),
        (&[("Cache-Control", "max-age=40"), ("Vary", "X-API-Key, X-Real-Ua, X-Session-Id")], true, 40, 40),
        (&[("X-AuthDuration", "20"), ("Vary", "*")], true, 20, 20),
        (&[("X-AuthDuration", "20"), ("Age", "1")], false, 0, 0),
        (&[("X-AuthDuration", "20"), ("Age", "0")], true, 20, 20),
        (&[("X-AuthDuration", "20"), ("X-Cache", "HIT")], false, 0, 0),
    ];
    for (lines, headers_allow, allow_ttl, deny_ttl) in rows {
        for status in 100..600 {
            let answer = decided(&rules, status, lines);
            let storable = headers_allow && matches!(status, 200 | 204 | 401 | 403);
            let ttl = if !storable {
                0
            } else if answer.verdict == Verdict::Allow {
                allow_ttl
            } else {
                deny_ttl
            };
            assert_eq!((answer.storable, answer.ttl), (storable, secs(ttl)), "{status} {lines:?}");
        }
    }
}

#[test]
fn a_refusal_lives_no_longer_than_either_bound() {
    for (max, max_deny, expected) in [(10, 60, 10), (60, 10, 10)] {
        let mut rules = rules();
        (rules.ttl.max, rules.ttl.max_deny) = (secs(max), secs(max_deny));
        assert_eq!(decided(&rules, 403, &[("X-AuthDuration", "99")]).ttl, secs(expected));
    }
}

#[test]
fn a_reply_out_of_a_cache_is_said_to_be_one() {
    assert!(decided(&rules(), 200, &[("Age", "3")]).from_cache);
    assert!(decided(&rules(), 403, &[("X-Cache", "Hit from cloudfront")]).from_cache);
    assert!(!decided(&rules(), 200, &[("X-Cache", "MISS")]).from_cache);
}

#[test]
fn must_revalidate_is_passed_on_where_cache_control_decided() {
    let control = ("Cache-Control", "max-age=9, must-revalidate");
    assert!(decided(&rules(), 200, &[control]).must_revalidate);
    assert!(!decided(&rules(), 200, &[control, ("X-AuthDuration", "9")]).must_revalidate);
}

#[test]
fn the_body_is_asked_only_after_an_allowing_status() {
    let rules = ReplyRules { body: Some(BodyRule::parse("json:error==0").unwrap()), ..rules() };
    let lines: &Lines<'_> = &[("X-UserId", "u")];
    let Judgement::NeedsBody(undecided) = judged(&rules, 200, lines) else { panic!("decided too early") };
    let allow = judge_body(&rules, undecided.clone(), br#"{"error":0}"#);
    assert_eq!((allow.verdict, allow.ttl, allow.user_id.as_deref()), (Verdict::Allow, secs(30), Some("u")));
    for body in [&br#"{"error":1}"#[..], b"", b"ok"] {
        let deny = judge_body(&rules, undecided.clone(), body);
        assert_eq!((deny.verdict, deny.ttl, deny.storable), (Verdict::Deny, secs(5), true));
    }

    let Judgement::NeedsBody(said) = judged(&rules, 200, &[("X-AuthDuration", "600")]) else { panic!() };
    assert_eq!(judge_body(&rules, said.clone(), br#"{"error":0}"#).ttl, secs(600));
    assert_eq!(judge_body(&rules, said, br#"{"error":1}"#).ttl, secs(60), "a refusal, at most ttl.max_deny");

    assert_eq!(decided(&rules, 403, &[]).verdict, Verdict::Deny);
    assert!(matches!(judged(&rules, 200, &[("X-Session-Id", "other")]), Judgement::Malformed(_)));
}

#[test]
fn ministras_answer() {
    let lines: &Lines<'_> = &[
        ("X-AuthDuration", "36000"),
        ("X-Unique", "true"),
        ("X-Max-Sessions", "10"),
        ("X-UserId", "stb:00:1A:79:00:00:01"),
    ];
    let expected = Answer {
        verdict: Verdict::Allow,
        reason: "allowed by the backend",
        status: 200,
        ttl: secs(3600),
        must_revalidate: false,
        storable: true,
        user_id: Some("stb:00:1A:79:00:00:01".into()),
        location: None,
        max_sessions: 10,
        unique: true,
        dropped_text: false,
        dropped_user: false,
        from_cache: false,
        broken: false,
        basis: Basis { said: Some((TtlHeader::XAuthDuration, secs(36000))), unkept: None },
    };
    assert_eq!(decided(&rules(), 200, lines), expected);
}

#[test]
fn numbers_and_flags() {
    for (value, sessions) in [
        ("0", 0),
        ("10", 10),
        ("4294967295", u32::MAX),
        ("4294967296", u32::MAX),
        ("-1", 0),
        ("x", 0),
        ("", 0),
    ] {
        assert_eq!(decided(&rules(), 200, &[("X-Max-Sessions", value)]).max_sessions, sessions, "{value}");
    }
    for (value, unique) in
        [("true", true), ("TRUE", true), ("1", true), ("0", false), ("false", false), ("", false)]
    {
        assert_eq!(decided(&rules(), 200, &[("X-Unique", value)]).unique, unique, "{value}");
    }
    let twice: &Lines<'_> =
        &[("X-Max-Sessions", "1"), ("X-Max-Sessions", "2"), ("X-Unique", "0"), ("X-Unique", "1")];
    let answer = decided(&rules(), 200, twice);
    assert_eq!((answer.max_sessions, answer.unique), (1, false), "the first counts");
}

#[test]
fn each_byte_of_foreign_text() {
    let rules = rules();
    for byte in 0..=255u8 {
        let user_id = [b'u', byte, b'u'];
        let location = [b'/', b'a', byte, b'a'];
        let headers: [(&[u8], &[u8]); 2] = [(b"X-UserId", &user_id), (b"Location", &location)];
        let Judgement::Decided(answer) =
            judge(&rules, SUBJECT, &ReplyHead { status: 302, headers: &headers }, || UNIX_EPOCH)
        else {
            panic!("{byte:#x}")
        };
        let visible = (0x21..=0x7E).contains(&byte);
        assert_eq!(answer.user_id.is_some(), visible, "{byte:#x}");
        assert_eq!(answer.location.is_some(), visible, "{byte:#x}");
        assert_eq!((answer.dropped_text, answer.dropped_user), (!visible, !visible), "{byte:#x}");
    }
}

#[test]
fn lengths_of_foreign_text() {
    for (name, start, limit) in [("X-UserId", "u", MAX_USER_ID), ("X-Location", "/", MAX_LOCATION)] {
        for (len, fits) in [(1, true), (limit, true), (limit + 1, false)] {
            let value = format!("{start}{}", "x".repeat(len - 1));
            let answer = decided(&rules(), 403, &[(name, &value)]);
            assert_eq!(answer.user_id.or(answer.location).as_deref() == Some(&value), fits, "{name} {len}");
            assert_eq!(answer.dropped_text, !fits, "{name} {len}");
            assert_eq!(answer.dropped_user, !fits && name == "X-UserId", "{name} {len}");
        }
    }
}

#[test]
fn locations_that_may_be_sent_on() {
    for (value, fits) in [
        ("https://login.example.com/?a=b", true),
        ("http://h/", true),
        ("HTTPS://h/", true),
        ("/login", true),
        ("/", true),
        ("//evil.example", false),
        ("/\\evil.example", false),
        ("login", false),
        ("ftp://h/", false),
        ("javascript:alert(1)", false),
        ("httpx://h/", false),
        ("\\\\h", false),
        ("\u{e9}", false),
    ] {
        let answer = decided(&rules(), 302, &[("Location", value)]);
        assert_eq!(answer.location.as_deref(), fits.then_some(value), "{value}");
        assert_eq!(answer.dropped_text, !fits, "{value}");
    }
    let chosen = |lines: &Lines<'_>| decided(&rules(), 302, lines).location;
    assert_eq!(chosen(&[("Location", "/b"), ("X-Location", "/a")]).as_deref(), Some("/a"));
    assert_eq!(chosen(&[("Location", "/b"), ("Location", "/c")]).as_deref(), Some("/b"));
    assert_eq!(chosen(&[("Location", "/b"), ("X-Location", "//a")]), None, "the first decides alone");
    let absent = decided(&rules(), 302, &[("X-UserId", ""), ("Location", " ")]);
    assert_eq!((absent.user_id, absent.location, absent.dropped_text), (None, None, false));
}
