//! With `expired = keep` an allow of a session that is in use does not end: for backends that would refuse the old token.

use super::support::check;
use super::viewers::{Says, allow, allow_for, assert_by, deny, ms, pass, secs, with_viewers};
use crate::check::Check;
use crate::decision::{Origin, Verdict};

const KEEP: [(&str, &str); 2] = [("refresh", "never"), ("expired", "keep")];

#[tokio::test(start_paused = true)]
async fn with_keep_a_session_in_use_is_asked_about_once_over_fifty_lifetimes() {
    // Players differ in how often they ask, and none of them knows when a decision ends.
    for every in [4, 7, 10, 25, 59, 60, 61, 100] {
        with_viewers(&KEEP, allow("X-AuthDuration: 60|X-UserId: u"), |viewers| async move {
            let check = check("s", "");
            viewers.ask(&check).await;
            // Now nobody would let it in.
            viewers.now_says(deny(""));
            for asked in 1..=3_000 / every {
                pass(secs(every)).await;
                let decision = viewers.ask(&check).await;
                let at = asked * every;
                assert_eq!(
                    (decision.origin, decision.verdict),
                    (Origin::Memory, Verdict::Allow),
                    "asked every {every} s, after {at} s"
                );
                assert_eq!(decision.user_id(), "u");
                assert!(!decision.ttl.is_zero() && decision.ttl <= secs(60), "{:?}", decision.ttl);
            }
            assert_eq!(viewers.requests(), 1);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_idle_for_longer_than_expired_idle_is_asked_about() {
    // (lifetime, asked at, asked again at, whether that is asked)
    for (lifetime, first, second, asked) in [
        (60, 50, 50 + 119, false),
        (60, 50, 50 + 121, true),
        (3600, 3599, 3599 + 119, false),
        (3600, 3599, 3599 + 121, true),
        // Only for what has expired.
        (3600, 1, 3599, false),
        (3600, 1, 3600, true),
        // Over several lifetimes at once.
        (10, 9, 9 + 115, false),
        (10, 9, 9 + 125, true),
    ] {
        with_viewers(&KEEP, allow_for(lifetime), |viewers| async move {
            let check = check("s", "");
            viewers.ask(&check).await;
            pass(secs(first)).await;
            assert_by(&viewers.ask(&check).await, Origin::Memory, Verdict::Allow);
            viewers.now_says(deny(""));
            pass(secs(second - first)).await;
            let decision = viewers.ask(&check).await;
            let expected =
                if asked { (Origin::Backend, Verdict::Deny) } else { (Origin::Memory, Verdict::Allow) };
            assert_eq!((decision.origin, decision.verdict), expected, "{lifetime} s: {first}, {second}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn expired_idle_is_the_operator_s() {
    for (idle, seconds, asked) in
        [("30s", 29, false), ("30s", 31, true), ("1h", 3599, false), ("1h", 3601, true)]
    {
        let keys = [KEEP[0], KEEP[1], ("expired.idle", idle)];
        with_viewers(&keys, allow_for(20), |viewers| async move {
            let check = check("s", "");
            viewers.ask(&check).await;
            viewers.now_says(deny(""));
            pass(secs(seconds)).await;
            let decision = viewers.ask(&check).await;
            assert_eq!(decision.origin == Origin::Backend, asked, "{idle}, {seconds} s");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_ends_with_a_revocation_and_with_a_newer_answer() {
    for by in 0..4 {
        with_viewers(&KEEP, allow("X-AuthDuration: 60|X-UserId: u"), |viewers| async move {
            let check = check("s", "");
            viewers.ask(&check).await;
            pass(secs(100)).await;
            assert_by(&viewers.ask(&check).await, Origin::Memory, Verdict::Allow);
            viewers.now_says(deny(""));
            match by {
                0 => viewers.bench.core.revoke(b"s"),
                1 => viewers.bench.core.revoke_user(b"u"),
                2 => viewers.bench.core.revoke_all(),
                _ => {
                    let fresh = Check { fresh: true, ..check };
                    assert_by(&viewers.ask(&fresh).await, Origin::Backend, Verdict::Deny);
                }
            }
            assert!(viewers.lookup(&check).is_none());
            assert_by(&viewers.ask(&check).await, Origin::Backend, Verdict::Deny);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_does_not_touch_what_is_kept() {
    with_viewers(&KEEP, allow_for(60), |viewers| async move {
        let check = check("s", "");
        viewers.ask(&check).await;
        viewers.now_says(Says::Outage);
        for _ in 0..20 {
            pass(secs(50)).await;
            assert_by(&viewers.ask(&check).await, Origin::Memory, Verdict::Allow);
        }
        let fresh = Check { fresh: true, ..check };
        assert_eq!(viewers.ask(&fresh).await.verdict, Verdict::Deny, "by default: nobody was to be believed");
        assert_by(&viewers.ask(&check).await, Origin::Memory, Verdict::Allow);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_kept() {
    with_viewers(&KEEP, deny("X-AuthDuration: 10"), |viewers| async move {
        let check = check("s", "");
        viewers.ask(&check).await;
        viewers.now_says(allow_for(10));
        pass(ms(9_999)).await;
        assert_by(&viewers.ask(&check).await, Origin::Memory, Verdict::Deny);
        pass(ms(1)).await;
        assert_by(&viewers.ask(&check).await, Origin::Backend, Verdict::Allow);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_session_s_use_keeps_nothing_of_another_s() {
    with_viewers(&KEEP, allow_for(60), |viewers| async move {
        let (watching, gone) = (check("watching", ""), check("gone", ""));
        viewers.ask(&watching).await;
        viewers.ask(&gone).await;
        viewers.now_says(deny(""));
        for _ in 0..30 {
            pass(secs(10)).await;
            assert_by(&viewers.ask(&watching).await, Origin::Memory, Verdict::Allow);
        }
        assert_by(&viewers.ask(&gone).await, Origin::Backend, Verdict::Deny);
        assert_by(&viewers.ask(&watching).await, Origin::Memory, Verdict::Allow);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_over_leaves_nothing_behind() {
    with_viewers(&KEEP, allow_for(60), |viewers| async move {
        for index in 0..100 {
            viewers.ask(&check(&format!("s{index}"), "")).await;
        }
        for _ in 0..30 {
            pass(secs(10)).await;
            viewers.ask(&check("s0", "")).await;
        }
        assert_eq!(viewers.bench.core.stats().remembered, 1, "of a hundred, one still watches");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_ttl_max_0_has_ended_is_not_kept_when_it_is_raised() {
    for (lower, origin) in [("0", Origin::Backend), ("1m", Origin::Memory)] {
        with_viewers(&KEEP, allow_for(36_000), |viewers| async move {
            let check = check("s", "");
            viewers.ask(&check).await;
            viewers.reload(&[&KEEP[..], &[("ttl.max", lower)]].concat());
            pass(secs(61)).await;
            viewers.reload(&KEEP);
            pass(ms(1)).await;
            assert_by(&viewers.ask(&check).await, origin, Verdict::Allow);
            pass(secs(7_200)).await;
            assert_by(&viewers.ask(&check).await, Origin::Memory, Verdict::Allow);
        })
        .await;
    }
}
