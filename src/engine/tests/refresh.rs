//! With `refresh.ahead` a decision that is in use is asked for again before its end, once and behind its back.

use std::rc::Rc;

use super::support::check;
use super::viewers::{Says, Viewers, allow, allow_for, assert_by, deny, held, ms, pass, secs, with_viewers};
use crate::check::Check;
use crate::decision::{Origin, Verdict};

const AHEAD: (&str, &str) = ("refresh.ahead", "10%");

/// Asks, and must be answered from memory as allowed to this user.
#[track_caller]
fn remembered<'a>(
    viewers: &'a Viewers,
    check: &'a Check<'a>,
    user: &'a str,
) -> impl Future<Output = ()> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let decision = viewers.ask(check).await;
        let found = (decision.origin, decision.verdict, decision.user_id());
        assert_eq!(found, (Origin::Memory, Verdict::Allow, user), "at {caller}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_decision_in_use_is_asked_for_once_when_a_tenth_of_its_time_is_left_and_serves_until_the_answer() {
    with_viewers(&[AHEAD], allow("X-AuthDuration: 100|X-UserId: old"), |viewers| async move {
        let check = check("s", "token=123");
        viewers.ask(&check).await;
        for _ in 0..89 {
            pass(secs(1)).await;
            remembered(&viewers, &check, "old").await;
        }
        pass(ms(999)).await;
        remembered(&viewers, &check, "old").await;
        assert_eq!(viewers.requests(), 1, "more than a tenth is left");
        let (says, gate) = held(200, "X-AuthDuration: 100|X-UserId: new");
        viewers.now_says(says);
        pass(ms(2)).await;
        remembered(&viewers, &check, "old").await;
        viewers.bench.settle().await;
        assert_eq!(viewers.requests(), 2);
        for _ in 0..50 {
            pass(ms(100)).await;
            remembered(&viewers, &check, "old").await;
        }
        assert_eq!(viewers.requests(), 2, "once");
        gate.notify_one();
        for _ in 0..4 {
            viewers.bench.settle().await;
        }
        remembered(&viewers, &check, "new").await;
        assert_eq!(viewers.lookup(&check).unwrap().ttl, secs(100), "its own time");
        // And so on, for as long as it is in use.
        pass(secs(91)).await;
        viewers.now_says(allow("X-AuthDuration: 100|X-UserId: third"));
        remembered(&viewers, &check, "new").await;
        pass(ms(1)).await;
        remembered(&viewers, &check, "third").await;
        assert_eq!(viewers.requests(), 3);
        let stats = viewers.bench.core.stats();
        assert_eq!(stats.submitted, stats.completed);
        assert_eq!(stats.origins[Origin::Backend as usize], 1, "nobody waited but the first");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_session_in_use_for_an_hour_waits_once() {
    with_viewers(&[AHEAD], allow_for(60), |viewers| async move {
        let check = check("s", "");
        viewers.ask(&check).await;
        for _ in 0..1_800 {
            pass(secs(2)).await;
            assert_by(&viewers.ask(&check).await, Origin::Memory, Verdict::Allow);
        }
        // Every 54 to 56 s of 3,600.
        assert!((64..=68).contains(&viewers.requests()), "{}", viewers.requests());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_decision_that_is_not_in_use_is_not_asked_for() {
    with_viewers(&[AHEAD], allow_for(100), |viewers| async move {
        let check = check("s", "");
        viewers.ask(&check).await;
        pass(secs(80)).await;
        assert_by(&viewers.ask(&check).await, Origin::Memory, Verdict::Allow);
        for _ in 0..100 {
            pass(secs(1)).await;
        }
        assert_eq!(viewers.requests(), 1);
        assert_by(&viewers.ask(&check).await, Origin::Backend, Verdict::Allow);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_lookup_is_no_use() {
    with_viewers(&[AHEAD], allow_for(100), |viewers| async move {
        let check = check("s", "");
        viewers.ask(&check).await;
        for _ in 0..99 {
            pass(secs(1)).await;
            assert!(viewers.lookup(&check).is_some());
        }
        assert_eq!(viewers.requests(), 1);
    })
    .await;
}

/// Uses a decision of 100 s every second until its end. How many requests there were before it.
async fn requests_while_in_use(viewers: &Rc<Viewers>, verdict: Verdict) -> usize {
    let check = check("s", "");
    assert_eq!(viewers.ask(&check).await.ttl, secs(100));
    for _ in 0..99 {
        pass(secs(1)).await;
        assert_by(&viewers.ask(&check).await, Origin::Memory, verdict);
    }
    viewers.bench.settle().await;
    viewers.requests()
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_asked_for_ahead() {
    let keys = [("refresh.ahead", "50%"), ("ttl.max_deny", "1h")];
    with_viewers(&keys, deny("X-AuthDuration: 100"), |viewers| async move {
        assert_eq!(requests_while_in_use(&viewers, Verdict::Deny).await, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_for_ahead_by_default_nor_with_refresh_never() {
    for keys in [&[][..], &[("refresh.ahead", "0%")], &[("refresh", "never")]] {
        with_viewers(keys, allow_for(100), |viewers| async move {
            assert_eq!(requests_while_in_use(&viewers, Verdict::Allow).await, 1);
            pass(secs(1)).await;
            assert_by(&viewers.ask(&check("s", "")).await, Origin::Backend, Verdict::Allow);
        })
        .await;
    }
    // Their twin.
    with_viewers(&[("refresh.ahead", "50%")], allow_for(100), |viewers| async move {
        assert_eq!(requests_while_in_use(&viewers, Verdict::Allow).await, 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_part_that_is_left_is_of_the_whole_time() {
    for (percent, before, after) in [("1%", 98, 100), ("25%", 74, 76), ("50%", 49, 51)] {
        with_viewers(&[("refresh.ahead", percent)], allow_for(100), |viewers| async move {
            let check = check("s", "");
            viewers.ask(&check).await;
            pass(secs(before)).await;
            viewers.ask(&check).await;
            viewers.bench.settle().await;
            assert_eq!(viewers.requests(), 1, "{percent}");
            pass(ms((after - before) * 1000 - 1)).await;
            assert_by(&viewers.ask(&check).await, Origin::Memory, Verdict::Allow);
            viewers.bench.settle().await;
            assert_eq!(viewers.requests(), 2, "{percent}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_leaves_the_decision_until_its_end_and_is_not_repeated() {
    with_viewers(&[AHEAD], allow_for(100), |viewers| async move {
        let check = check("s", "");
        viewers.ask(&check).await;
        viewers.now_says(Says::Outage);
        pass(secs(91)).await;
        for _ in 0..8 {
            assert_by(&viewers.ask(&check).await, Origin::Memory, Verdict::Allow);
            viewers.bench.settle().await;
            assert_eq!(viewers.requests(), 2);
            pass(secs(1)).await;
        }
        pass(ms(999)).await;
        assert_by(&viewers.ask(&check).await, Origin::Memory, Verdict::Allow);
        pass(ms(1)).await;
        assert_by(&viewers.ask(&check).await, Origin::Default, Verdict::Deny);
        assert_eq!(viewers.requests(), 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_refused_refuses_from_then_on() {
    for says in [deny("X-AuthDuration: 10"), deny("")] {
        let remembers = matches!(&says, Says::Now(bytes) if bytes.contains("Duration"));
        with_viewers(&[AHEAD], allow_for(100), |viewers| async move {
            let check = check("s", "");
            viewers.ask(&check).await;
            viewers.now_says(says);
            pass(secs(91)).await;
            assert_by(&viewers.ask(&check).await, Origin::Memory, Verdict::Allow);
            for _ in 0..4 {
                viewers.bench.settle().await;
            }
            let origin = if remembers { Origin::Memory } else { Origin::Backend };
            assert_by(&viewers.ask(&check).await, origin, Verdict::Deny);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_after_the_end_joins_a_refresh_that_is_still_under_way() {
    with_viewers(&[AHEAD], allow_for(100), |viewers| async move {
        let check = check("s", "");
        viewers.ask(&check).await;
        let (says, gate) = held(200, "X-AuthDuration: 100");
        viewers.now_says(says);
        pass(secs(95)).await;
        viewers.ask(&check).await;
        pass(secs(5)).await;
        let waiting = viewers.submit(&check);
        assert!(viewers.come(waiting).await.is_none(), "its time is over");
        assert_eq!(viewers.requests(), 2);
        gate.notify_one();
        assert_by(&viewers.come(waiting).await.unwrap(), Origin::Backend, Verdict::Allow);
        assert_eq!(viewers.requests(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_of_what_was_revoked_meanwhile_does_not_revive_it() {
    for by in 0..3 {
        with_viewers(&[AHEAD], allow("X-AuthDuration: 100|X-UserId: u"), |viewers| async move {
            let check = check("s", "");
            viewers.ask(&check).await;
            let (says, gate) = held(200, "X-AuthDuration: 100|X-UserId: u");
            viewers.now_says(says);
            pass(secs(95)).await;
            viewers.ask(&check).await;
            viewers.bench.settle().await;
            assert_eq!(viewers.requests(), 2);
            match by {
                0 => viewers.bench.core.revoke(b"s"),
                1 => viewers.bench.core.revoke_user(b"u"),
                _ => viewers.bench.core.revoke_all(),
            }
            assert!(viewers.lookup(&check).is_none());
            gate.notify_one();
            pass(ms(1)).await;
            assert!(viewers.lookup(&check).is_none());
            viewers.now_says(deny(""));
            assert_by(&viewers.ask(&check).await, Origin::Backend, Verdict::Deny);
            assert_eq!(viewers.requests(), 3);
        })
        .await;
    }
}
