//! `sessions.enforce`: what is kept of a user's sessions, and until when it counts.

use std::sync::Arc;

use super::support::check;
use super::viewers::{Says, Viewers, allow, assert_by, held, pass, secs, with_viewers};
use crate::check::Check;
use crate::decision::{Origin, Verdict};
use crate::engine::batch::Batch;
use crate::engine::completion::{Completed, Receiver, Tag};
use crate::engine::limits::MOST_PLACES;

const NEWEST: (&str, &str) = ("sessions.enforce", "newest");

fn at_most(sessions: usize) -> Says {
    allow(&format!("X-AuthDuration: 36000|X-UserId: u1|X-Max-Sessions: {sessions}"))
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_stands_for_none_keeps_no_list_of_sessions() {
    for (limit, places) in [(1_000_000, 0), (u32::MAX as usize, 0), (MOST_PLACES + 1, 0), (MOST_PLACES, 40)] {
        for enforce in ["newest", "oldest"] {
            with_viewers(&[("sessions.enforce", enforce)], at_most(limit), |viewers| async move {
                for number in 0..40 {
                    let session = format!("s{number}");
                    assert_by(&viewers.ask(&check(&session, "")).await, Origin::Backend, Verdict::Allow);
                    assert_by(&viewers.ask(&check(&session, "")).await, Origin::Memory, Verdict::Allow);
                }
                assert_eq!(viewers.bench.core.policy().limits.held(), (places, 0), "{limit}");
            })
            .await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unique_is_a_limit_of_one_where_the_backend_wrote_no_number_of_sessions() {
    for (unique, sessions, let_in) in [
        ("true", "", 1),
        ("true", "|X-Max-Sessions: 0", 1),
        ("true", "|X-Max-Sessions: -1", 1),
        ("true", "|X-Max-Sessions: unlimited", 1),
        ("true", "|X-Max-Sessions:", 1),
        ("true", "|X-Max-Sessions: 1", 1),
        ("true", "|X-Max-Sessions: 2", 2),
        ("true", "|X-Max-Sessions: 4097", 4),
        ("true", "|X-Max-Sessions: 99999999999", 4),
        ("false", "", 4),
        ("false", "|X-Max-Sessions: 0", 4),
        ("false", "|X-Max-Sessions: -1", 4),
        ("false", "|X-Max-Sessions: unlimited", 4),
        ("false", "|X-Max-Sessions: 2", 2),
    ] {
        let says = allow(&format!("X-AuthDuration: 36000|X-UserId: u1|X-Unique: {unique}{sessions}"));
        with_viewers(&[NEWEST], says, |viewers| async move {
            let mut allowed = 0;
            for session in ["s1", "s2", "s3", "s4"] {
                allowed += usize::from(viewers.ask(&check(session, "")).await.allows());
            }
            assert_eq!(allowed, let_in, "X-Unique: {unique}{sessions}");
        })
        .await;
    }
}

/// What an operator may do about a session that is banned, and whether it comes back by that.
type Act = (&'static str, fn(&Viewers), Verdict);

const ACTS: [Act; 7] = [
    ("nothing", |_| (), Verdict::Deny),
    ("its revocation", |viewers| viewers.bench.core.revoke(b"s2"), Verdict::Allow),
    ("another's revocation", |viewers| viewers.bench.core.revoke(b"s1"), Verdict::Deny),
    ("its user's revocation", |viewers| viewers.bench.core.revoke_user(b"u1"), Verdict::Allow),
    ("another user's revocation", |viewers| viewers.bench.core.revoke_user(b"u2"), Verdict::Deny),
    ("a revocation of all", |viewers| viewers.bench.core.revoke_all(), Verdict::Allow),
    ("a reload that keeps what is remembered", |viewers| viewers.reload(&[NEWEST]), Verdict::Deny),
];

#[tokio::test(start_paused = true)]
async fn a_ban_ends_with_the_decision_that_it_hangs_on() {
    let elsewhere: Act = (
        "a reload with another backend",
        |viewers| viewers.reload(&[NEWEST, ("backend.url", "http://127.0.0.1:2/auth")]),
        Verdict::Allow,
    );
    let shorter: Act =
        ("a lower ttl.max", |viewers| viewers.reload(&[NEWEST, ("ttl.max", "20s")]), Verdict::Allow);
    for (what, act, verdict) in ACTS.into_iter().chain([elsewhere, shorter]) {
        with_viewers(&[NEWEST], at_most(1), |viewers| async move {
            assert_by(&viewers.ask(&check("s1", "")).await, Origin::Backend, Verdict::Allow);
            assert_by(&viewers.ask(&check("s2", "")).await, Origin::Backend, Verdict::Deny);
            // The place is free again.
            pass(secs(31)).await;
            act(&viewers);
            assert_eq!(viewers.ask(&check("s2", "")).await.verdict, verdict, "{what}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_its_host_revokes_gives_its_place_to_the_next() {
    for (what, act, _) in ACTS {
        let free = matches!(what, "another's revocation" | "its user's revocation" | "a revocation of all");
        with_viewers(&[NEWEST], at_most(1), |viewers| async move {
            assert_by(&viewers.ask(&check("s1", "")).await, Origin::Backend, Verdict::Allow);
            act(&viewers);
            let verdict = if free { Verdict::Allow } else { Verdict::Deny };
            assert_eq!(viewers.ask(&check("s3", "")).await.verdict, verdict, "{what}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_holds_its_place_over_a_revocation_and_a_reload_of_others() {
    for (what, act) in [
        ("it began anew after a revocation", (|viewers| viewers.bench.core.revoke(b"s1")) as fn(&Viewers)),
        ("the backend is another", |viewers| {
            viewers.reload(&[NEWEST, ("backend.url", "http://127.0.0.1:2/auth")]);
        }),
    ] {
        with_viewers(&[NEWEST], at_most(1), |viewers| async move {
            let watch = || {
                let receiver: Arc<dyn Receiver> = Arc::new(Deaf);
                let mut batch = Batch::new(&viewers.bench.core, 0);
                batch.watch(&check("s1", ""), &receiver, Tag { user_data: 0, owner: 0 }, |_| ()).unwrap()
            };
            watch();
            pass(secs(1)).await;
            act(&viewers);
            if what.starts_with("it began") {
                watch();
            }
            pass(secs(100)).await;
            assert_eq!(viewers.bench.core.stats().watching, 1, "{what}");
            assert_eq!(viewers.ask(&check("s2", "")).await.verdict, Verdict::Deny, "{what}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_from_before_a_revocation_takes_no_place_again_and_bans_nobody() {
    const OLDEST: (&str, &str) = ("sessions.enforce", "oldest");
    for by_user in [false, true] {
        with_viewers(&[OLDEST], at_most(1), |viewers| async move {
            viewers.ask(&check("s1", "")).await;
            let (says, gate) = held(200, "X-AuthDuration: 600|X-UserId: u1|X-Max-Sessions: 1");
            viewers.now_says(says);
            let late = viewers.submit(&Check { fresh: true, ..check("s1", "") });
            assert!(viewers.come(late).await.is_none());
            if by_user {
                viewers.bench.core.revoke_user(b"u1");
            } else {
                viewers.bench.core.revoke(b"s1");
            }
            viewers.now_says(at_most(1));
            assert_eq!(viewers.ask(&check("s2", "")).await.verdict, Verdict::Allow);
            gate.notify_one();
            assert!(viewers.come(late).await.is_some());
            let living = viewers.ask(&check("s2", "")).await;
            assert_eq!(living.verdict, Verdict::Allow, "{by_user}: its place was taken");
        })
        .await;
    }
}

/// Told what a watch says, and does nothing.
struct Deaf;

impl Receiver for Deaf {
    fn receive(&self, batch: &mut Vec<Completed>) {
        batch.drain(..).for_each(|completed| drop(completed.take()));
    }
}
