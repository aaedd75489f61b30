//! Answers that arrive in another order than they were asked for: the later question's answer is what stays.

use std::rc::Rc;

use tokio::sync::Notify;

use super::support::check;
use super::viewers::{Viewers, assert_by, deny, held, ms, pass, secs, with_viewers};
use crate::check::Check;
use crate::decision::{Origin, Verdict};

/// What makes a check begin an exchange of its own beside one that is under way.
#[derive(Clone, Copy, Debug)]
enum Between {
    Reload,
    Revoke,
    RevokeUser,
    RevokeAll,
}

const ALL: [Between; 4] = [Between::Reload, Between::Revoke, Between::RevokeUser, Between::RevokeAll];

impl Between {
    fn happens(self, viewers: &Viewers) {
        match self {
            Self::Reload => viewers.reload(&[]),
            Self::Revoke => viewers.bench.core.revoke(b"s"),
            Self::RevokeUser => viewers.bench.core.revoke_user(b"u"),
            Self::RevokeAll => viewers.bench.core.revoke_all(),
        }
    }
}

/// Lets the backend go on with one exchange; what comes of its check.
async fn answered(viewers: &Viewers, gate: &Rc<Notify>, user_data: usize) -> (Origin, Verdict) {
    gate.notify_one();
    let decision = viewers.come(user_data).await.expect("answered");
    (decision.origin, decision.verdict)
}

const ALLOW_LONG: &str = "X-AuthDuration: 600|X-UserId: u";

/// An allow is asked for, `between` happens, a deny is asked for; they are answered in this order or the other. With
/// what `later` says of its reuse.
async fn race(
    between: Between,
    later_first: bool,
    later: &str,
    then: impl AsyncFnOnce(&Viewers, &Check<'_>),
) {
    let (first, first_gate) = held(200, ALLOW_LONG);
    let (second, second_gate) = held(403, later);
    with_viewers(&[], first, |viewers| async move {
        let check = check("s", "token=123");
        // For a revocation of a user to know of this question, it was answered once.
        let earlier = viewers.submit(&check);
        assert!(viewers.come(earlier).await.is_none());
        assert_eq!(viewers.requests(), 1);
        pass(secs(1)).await;
        between.happens(&viewers);
        viewers.now_says(second);
        let other = viewers.submit(&check);
        assert!(viewers.come(other).await.is_none());
        assert_eq!(viewers.requests(), 2, "{between:?}: it joins nothing from before");
        if later_first {
            assert_eq!(answered(&viewers, &second_gate, other).await, (Origin::Backend, Verdict::Deny));
            pass(ms(500)).await;
            assert_eq!(answered(&viewers, &first_gate, earlier).await, (Origin::Backend, Verdict::Allow));
        } else {
            assert_eq!(answered(&viewers, &first_gate, earlier).await, (Origin::Backend, Verdict::Allow));
            pass(ms(500)).await;
            assert_eq!(answered(&viewers, &second_gate, other).await, (Origin::Backend, Verdict::Deny));
        }
        assert_eq!(viewers.requests(), 2);
        then(&viewers, &check).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_began_earlier_never_overwrites_one_that_began_later() {
    for between in [Between::Reload, Between::Revoke, Between::RevokeAll] {
        for later_first in [true, false] {
            race(between, later_first, "X-AuthDuration: 60", async |viewers, check| {
                let kept = viewers.lookup(check).expect("remembered");
                assert_by(&kept, Origin::Memory, Verdict::Deny);
                assert_by(&viewers.ask(check).await, Origin::Memory, Verdict::Deny);
                pass(secs(59)).await;
                assert_by(&viewers.ask(check).await, Origin::Memory, Verdict::Deny);
                assert_eq!(viewers.requests(), 2, "{between:?}, later first: {later_first}");
            })
            .await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn also_a_later_answer_that_may_not_be_kept_leaves_nothing_of_the_earlier() {
    for between in [Between::Reload, Between::Revoke, Between::RevokeAll] {
        for later_first in [true, false] {
            race(between, later_first, "", async |viewers, check| {
                assert!(viewers.lookup(check).is_none(), "{between:?}, later first: {later_first}");
                viewers.now_says(deny(""));
                assert_by(&viewers.ask(check).await, Origin::Backend, Verdict::Deny);
                assert_eq!(viewers.requests(), 3);
            })
            .await;
        }
    }
}

/// Two exchanges, of which the earlier is under way with what the engine knew of the user before it was revoked.
#[tokio::test(start_paused = true)]
async fn an_answer_under_way_is_not_remembered_when_its_user_is_revoked() {
    for between in ALL {
        if matches!(between, Between::Reload) {
            continue;
        }
        let (says, gate) = held(200, ALLOW_LONG);
        with_viewers(&[], says, |viewers| async move {
            let check = check("s", "token=123");
            let waiting = viewers.submit(&check);
            assert!(viewers.come(waiting).await.is_none());
            pass(ms(1)).await;
            between.happens(&viewers);
            assert_eq!(
                answered(&viewers, &gate, waiting).await,
                (Origin::Backend, Verdict::Allow),
                "{between:?}"
            );
            assert!(viewers.lookup(&check).is_none(), "{between:?}");
            viewers.now_says(deny(""));
            assert_by(&viewers.ask(&check).await, Origin::Backend, Verdict::Deny);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn waiters_of_one_exchange_see_it_end_as_it_began_whatever_happens_meanwhile() {
    for between in ALL {
        let (says, gate) = held(200, ALLOW_LONG);
        with_viewers(&[], says, |viewers| async move {
            let check = check("s", "token=123");
            let waiting: Vec<usize> = (0..5).map(|_| viewers.submit(&check)).collect();
            viewers.bench.settle().await;
            between.happens(&viewers);
            gate.notify_one();
            for user_data in waiting {
                let decision = viewers.come(user_data).await.unwrap();
                assert_by(&decision, Origin::Backend, Verdict::Allow);
                assert_eq!(decision.coalesced, user_data != 0);
            }
            assert_eq!(viewers.requests(), 1, "{between:?}");
        })
        .await;
    }
}

/// What was forgotten by a reload is another memory: what the old backend still says goes nowhere.
#[tokio::test(start_paused = true)]
async fn an_answer_from_before_a_reload_that_forgets_is_not_remembered_in_either_order() {
    for later_first in [true, false] {
        let (first, first_gate) = held(200, ALLOW_LONG);
        let (second, second_gate) = held(403, "X-AuthDuration: 60");
        with_viewers(&[], first, |viewers| async move {
            let check = check("s", "token=123");
            let earlier = viewers.submit(&check);
            viewers.bench.settle().await;
            viewers.reload(&[("header.x-key", "one")]);
            viewers.now_says(second);
            let other = viewers.submit(&check);
            assert!(viewers.come(other).await.is_none());
            if !later_first {
                answered(&viewers, &first_gate, earlier).await;
                assert!(viewers.lookup(&check).is_none());
            }
            answered(&viewers, &second_gate, other).await;
            if later_first {
                answered(&viewers, &first_gate, earlier).await;
            }
            assert_by(&viewers.ask(&check).await, Origin::Memory, Verdict::Deny);
            assert_eq!(viewers.requests(), 2);
        })
        .await;
    }
}

/// A fresh check that joins what was asked earlier is not later than it.
#[tokio::test(start_paused = true)]
async fn a_fresh_answer_replaces_and_an_older_refresh_does_not_undo_it() {
    let (first, first_gate) = held(200, ALLOW_LONG);
    with_viewers(&[], first, |viewers| async move {
        let base = check("s", "token=123");
        let fresh = Check { fresh: true, ..base };
        let earlier = viewers.submit(&base);
        viewers.bench.settle().await;
        viewers.reload(&[]);
        viewers.now_says(deny("X-AuthDuration: 60"));
        assert_by(&viewers.ask(&fresh).await, Origin::Backend, Verdict::Deny);
        assert_eq!(answered(&viewers, &first_gate, earlier).await, (Origin::Backend, Verdict::Allow));
        assert_by(&viewers.ask(&base).await, Origin::Memory, Verdict::Deny);
    })
    .await;
}
