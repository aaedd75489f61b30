//! In an outage what the backend itself said last is repeated for a while, before anybody's default.

use super::support::check;
use super::viewers::{Says, allow, allow_for, assert_by, deny, held, ms, pass, secs, with_viewers};
use crate::check::Check;
use crate::decision::{Cause, Origin, Verdict};

#[tokio::test(start_paused = true)]
async fn it_is_repeated_to_the_last_millisecond_of_its_bound_and_then_the_default_decides() {
    for (says, verdict, action, default) in [
        (allow("X-AuthDuration: 10|X-UserId: u"), Verdict::Allow, "deny", Verdict::Deny),
        (deny("X-AuthDuration: 10|X-UserId: u"), Verdict::Deny, "allow", Verdict::Allow),
        (allow("Cache-Control: max-age=10|X-UserId: u"), Verdict::Allow, "deny", Verdict::Deny),
    ] {
        let keys = [("last_known", "10m"), ("default_action", action)];
        with_viewers(&keys, says, |viewers| async move {
            let check = check("s", "");
            viewers.ask(&check).await;
            viewers.now_says(Says::Outage);
            pass(ms(9_999)).await;
            assert_by(&viewers.ask(&check).await, Origin::Memory, verdict);
            assert_eq!(viewers.requests(), 1);
            pass(ms(1)).await;
            // Each asks first.
            for asked in 2..=3 {
                let repeated = viewers.ask(&check).await;
                assert_by(&repeated, Origin::LastKnown, verdict);
                assert_eq!((repeated.cause, repeated.user_id()), (Cause::Status, "u"));
                assert!(repeated.ttl.is_zero(), "nothing of its time is left");
                assert_eq!(viewers.requests(), asked);
                pass(if asked == 2 { ms(599_999) } else { ms(1) }).await;
            }
            let after = viewers.ask(&check).await;
            assert_by(&after, Origin::Default, default);
            assert_eq!(after.cause, Cause::Status);
            assert_eq!(viewers.requests(), 4);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn by_default_nothing_is_repeated() {
    with_viewers(&[], allow_for(10), |viewers| async move {
        let check = check("s", "");
        viewers.ask(&check).await;
        viewers.now_says(Says::Outage);
        pass(secs(10)).await;
        assert_by(&viewers.ask(&check).await, Origin::Default, Verdict::Deny);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn must_revalidate_forbids_it_where_cache_control_decided() {
    let forbidden = [
        "Cache-Control: max-age=10, must-revalidate",
        "Cache-Control: must-revalidate,s-maxage=10",
        "Cache-Control: max-age=10|Cache-Control: Must-Revalidate",
    ];
    let allowed =
        ["X-AuthDuration: 10|Cache-Control: must-revalidate", "Cache-Control: max-age=10, x-must-revalidate"];
    for (headers, origin) in forbidden
        .map(|headers| (headers, Origin::Default))
        .into_iter()
        .chain(allowed.map(|headers| (headers, Origin::LastKnown)))
    {
        with_viewers(&[("last_known", "10m")], allow(headers), |viewers| async move {
            let check = check("s", "");
            viewers.ask(&check).await;
            viewers.now_says(Says::Outage);
            pass(secs(9)).await;
            assert_by(&viewers.ask(&check).await, Origin::Memory, Verdict::Allow);
            pass(secs(1)).await;
            let decision = viewers.ask(&check).await;
            assert_eq!(decision.origin, origin, "{headers}");
            assert_eq!(decision.cause, Cause::Status);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_the_same_question_s_and_no_other_s() {
    with_viewers(&[("last_known", "10m")], allow_for(10), |viewers| async move {
        let base = Check { origin: b"https://live.example.com", ..check("s", "token=123") };
        viewers.ask(&base).await;
        viewers.now_says(Says::Outage);
        pass(secs(10)).await;
        for (field, twin) in [
            ("session_id", Check { session_id: b"t", ..base }),
            ("ip", Check { ip: b"192.0.2.2", ..base }),
            ("path", Check { path: b"/ch/other.m3u8", ..base }),
            ("query", Check { query: b"token=124", ..base }),
            ("origin", Check { origin: b"https://other.example.com", ..base }),
            ("user_agent", Check { user_agent: b"other", ..base }),
            ("scope", Check { scope: b"other", ..base }),
        ] {
            let decision = viewers.ask(&twin).await;
            assert_eq!(decision.origin, Origin::Default, "{field}");
        }
        assert_by(&viewers.ask(&base).await, Origin::LastKnown, Verdict::Allow);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_last_word_counts_also_one_that_may_not_be_remembered() {
    for later in [
        deny("X-AuthDuration: 1"),
        deny(""),
        deny("Cache-Control: no-store"),
        Says::Now(super::viewers::reply(404, "X-AuthDuration: 600")),
        Says::Now(super::viewers::reply(500, "")),
    ] {
        with_viewers(&[("last_known", "10m")], allow_for(10), |viewers| async move {
            let check = check("s", "");
            viewers.ask(&check).await;
            pass(secs(10)).await;
            viewers.now_says(later);
            assert_by(&viewers.ask(&check).await, Origin::Backend, Verdict::Deny);
            viewers.now_says(Says::Outage);
            pass(secs(2)).await;
            let decision = viewers.ask(&check).await;
            assert_eq!(decision.verdict, Verdict::Deny, "an allow from before: {decision:?}");
            assert_ne!(decision.origin, Origin::Memory);
        })
        .await;
    }
}

/// Whether an allow that came with these headers is repeated in an outage, one millisecond later.
async fn is_repeated(says: Says, keys: &[(&str, &str)]) -> bool {
    let origin = std::rc::Rc::new(std::cell::Cell::new(None));
    let told = std::rc::Rc::clone(&origin);
    let keys: Vec<_> =
        [("last_known", "10m"), ("default_action", "deny")].iter().chain(keys).copied().collect();
    with_viewers(&keys, says, |viewers| async move {
        let check = check("s", "");
        assert_by(&viewers.ask(&check).await, Origin::Backend, Verdict::Allow);
        viewers.now_says(Says::Outage);
        pass(ms(1)).await;
        let decision = viewers.ask(&check).await;
        assert_eq!(decision.origin == Origin::LastKnown, decision.verdict == Verdict::Allow, "{decision:?}");
        told.set(Some(decision.origin));
    })
    .await;
    origin.get() == Some(Origin::LastKnown)
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_kept_is_not_repeated_and_what_only_may_not_be_reused_is() {
    for headers in [
        "Cache-Control: no-store",
        "Cache-Control: private, max-age=0",
        "Cache-Control: no-cache",
        "Cache-Control: max-age=0|Vary: *",
        "Cache-Control: max-age=0|Vary: Cookie",
        "X-AuthDuration: 0|Age: 7",
        "X-AuthDuration: 0|X-Cache: HIT",
        "X-Cache: HIT",
    ] {
        assert!(!is_repeated(allow(headers), &[]).await, "{headers}");
    }
    for headers in
        ["", "X-AuthDuration: 0", "X-AuthDuration: ten", "Cache-Control: max-age=0", "X-Cache: MISS"]
    {
        assert!(is_repeated(allow(headers), &[]).await, "{headers}");
    }
    assert!(!is_repeated(allow(""), &[("memory.max_decisions", "0")]).await, "nothing is kept at all");
    assert!(!is_repeated(allow(""), &[("last_known", "0")]).await);
}

#[tokio::test(start_paused = true)]
async fn when_the_outage_is_over_the_backend_decides_again() {
    with_viewers(&[("last_known", "10m")], allow_for(10), |viewers| async move {
        let check = check("s", "");
        viewers.ask(&check).await;
        viewers.now_says(Says::Outage);
        pass(secs(60)).await;
        assert_by(&viewers.ask(&check).await, Origin::LastKnown, Verdict::Allow);
        viewers.now_says(deny("X-AuthDuration: 10"));
        assert_by(&viewers.ask(&check).await, Origin::Backend, Verdict::Deny);
        viewers.now_says(Says::Outage);
        assert_by(&viewers.ask(&check).await, Origin::Memory, Verdict::Deny);
        pass(secs(11)).await;
        assert_by(&viewers.ask(&check).await, Origin::LastKnown, Verdict::Deny);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn every_outage_is_one_and_a_timeout_keeps_its_deadline() {
    let (silent, _never) = held(200, "");
    with_viewers(&[("last_known", "10m"), ("timeout", "2s")], allow_for(10), |viewers| async move {
        let check = check("s", "");
        viewers.ask(&check).await;
        pass(secs(10)).await;
        viewers.now_says(silent);
        let waiting = viewers.submit(&check);
        pass(ms(1_995)).await;
        assert!(viewers.come(waiting).await.is_none());
        pass(ms(10)).await;
        let repeated = viewers.come(waiting).await.unwrap();
        assert_by(&repeated, Origin::LastKnown, Verdict::Allow);
        assert_eq!(repeated.cause, Cause::Timeout);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_lookup_never_repeats_it() {
    with_viewers(&[("last_known", "10m")], allow_for(10), |viewers| async move {
        let check = check("s", "");
        viewers.ask(&check).await;
        viewers.now_says(Says::Outage);
        assert_by(&viewers.lookup(&check).unwrap(), Origin::Memory, Verdict::Allow);
        pass(secs(10)).await;
        assert!(viewers.lookup(&check).is_none());
        assert_by(&viewers.ask(&check).await, Origin::LastKnown, Verdict::Allow);
        assert!(viewers.lookup(&check).is_none());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_revoked_session_never_gets_it() {
    with_viewers(&[("last_known", "10m")], allow("X-AuthDuration: 10|X-UserId: u"), |viewers| async move {
        let (revoked, twin) = (check("s", ""), check("twin", ""));
        for check in [&revoked, &twin] {
            viewers.ask(check).await;
        }
        viewers.now_says(Says::Outage);
        // Before its end, and after.
        viewers.bench.core.revoke(b"s");
        assert_by(&viewers.ask(&revoked).await, Origin::Default, Verdict::Deny);
        pass(secs(10)).await;
        assert_by(&viewers.ask(&revoked).await, Origin::Default, Verdict::Deny);
        assert_by(&viewers.ask(&twin).await, Origin::LastKnown, Verdict::Allow);
        viewers.bench.core.revoke(b"twin");
        assert_by(&viewers.ask(&twin).await, Origin::Default, Verdict::Deny);
    })
    .await;
    for of_all in [false, true] {
        with_viewers(
            &[("last_known", "10m")],
            allow("X-AuthDuration: 10|X-UserId: u"),
            |viewers| async move {
                let check = check("s", "");
                viewers.ask(&check).await;
                viewers.now_says(Says::Outage);
                pass(secs(10)).await;
                if of_all {
                    viewers.bench.core.revoke_all();
                } else {
                    viewers.bench.core.revoke_user(b"u");
                }
                assert_by(&viewers.ask(&check).await, Origin::Default, Verdict::Deny);
            },
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_with_a_shorter_bound_holds_at_once_and_one_that_forgets_ends_it() {
    with_viewers(&[("last_known", "10m")], allow_for(10), |viewers| async move {
        let check = check("s", "");
        viewers.ask(&check).await;
        viewers.now_says(Says::Outage);
        pass(secs(70)).await;
        assert_by(&viewers.ask(&check).await, Origin::LastKnown, Verdict::Allow);
        viewers.reload(&[("last_known", "1m")]);
        assert_by(&viewers.ask(&check).await, Origin::Default, Verdict::Deny);
    })
    .await;
    with_viewers(&[("last_known", "10m")], allow_for(10), |viewers| async move {
        let check = check("s", "");
        viewers.ask(&check).await;
        viewers.now_says(Says::Outage);
        pass(secs(70)).await;
        viewers.reload(&[("last_known", "10m")]);
        assert_by(&viewers.ask(&check).await, Origin::LastKnown, Verdict::Allow);
        viewers.reload(&[("last_known", "10m"), ("header.x-key", "one")]);
        assert_by(&viewers.ask(&check).await, Origin::Default, Verdict::Deny);
    })
    .await;
}

const ONE_SESSION: &str = "X-AuthDuration: 60|X-UserId: u|X-Max-Sessions: 1";

#[tokio::test(start_paused = true)]
async fn a_session_over_its_user_s_limit_is_not_let_in_by_an_outage() {
    for (enforce, kept, gone) in [("newest", "s1", "s2"), ("oldest", "s2", "s1"), ("off", "s1", "s2")] {
        let keys = [("last_known", "1h"), ("sessions.enforce", enforce), ("breaker.failures", "0")];
        with_viewers(&keys, allow(ONE_SESSION), |viewers| async move {
            let limited = if enforce == "off" { Verdict::Allow } else { Verdict::Deny };
            let [kept, gone] = [kept, gone].map(|session| check(session, ""));
            viewers.ask(&check("s1", "")).await;
            viewers.ask(&check("s2", "")).await;
            viewers.now_says(Says::Outage);
            for _ in 0..2 {
                pass(secs(20)).await;
                assert_by(&viewers.ask(&kept).await, Origin::Memory, Verdict::Allow);
                assert_by(&viewers.ask(&gone).await, Origin::Memory, limited);
            }
            // What was decided has ended, and with it the ban.
            for _ in 0..3 {
                pass(secs(20)).await;
                assert_by(&viewers.ask(&gone).await, Origin::LastKnown, limited);
                assert_by(&viewers.ask(&kept).await, Origin::LastKnown, Verdict::Allow);
            }
            // Nobody has asked about who had the place: it is free, and whoever comes first takes it.
            pass(secs(30)).await;
            assert_by(&viewers.ask(&gone).await, Origin::LastKnown, Verdict::Allow);
            assert_by(&viewers.ask(&kept).await, Origin::LastKnown, limited);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_asked_only_ahead_of_the_end_takes_no_place_in_an_outage() {
    let keys = [
        ("last_known", "1h"),
        ("sessions.enforce", "newest"),
        ("breaker.failures", "0"),
        ("refresh.ahead", "50%"),
    ];
    with_viewers(&keys, allow(ONE_SESSION), |viewers| async move {
        let [kept, over] = ["s1", "s2"].map(|session| check(session, ""));
        viewers.ask(&kept).await;
        viewers.ask(&over).await;
        let (says, gate) = held(503, "");
        viewers.now_says(says);
        pass(secs(40)).await;
        // Refused by what is remembered, which is asked about again.
        assert_by(&viewers.ask(&over).await, Origin::Memory, Verdict::Deny);
        assert_eq!(viewers.requests(), 3);
        viewers.now_says(Says::Outage);
        pass(secs(35)).await;
        gate.notify_one();
        pass(ms(1)).await;
        assert_by(&viewers.ask(&kept).await, Origin::LastKnown, Verdict::Allow);
        assert_by(&viewers.ask(&over).await, Origin::LastKnown, Verdict::Deny);
    })
    .await;
}
