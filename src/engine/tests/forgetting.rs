//! Revocation: forgotten at once, and not learned again but from an answer that was asked for afterwards.

use super::support::check;
use super::viewers::{Says, Viewers, allow, assert_by, deny, held, ms, pass, reply, secs, with_viewers};
use crate::check::Check;
use crate::decision::{Origin, Verdict};

const USER_U: &str = "X-AuthDuration: 600|X-UserId: u";

fn knows(viewers: &Viewers, check: &Check<'_>) -> bool {
    viewers.lookup(check).is_some()
}

/// Two sessions of user u, one of each neighbour; all remembered.
///
/// Ids are revoked by a keyed hash, which may take two for one; then another engine, with another key, is tried.
async fn with_neighbours<F: Future<Output = ()>>(
    keys: &[(&str, &str)],
    test: impl Fn(std::rc::Rc<Viewers>) -> F,
) {
    for _ in 0..100 {
        let test = &test;
        let tried = std::rc::Rc::new(std::cell::Cell::new(false));
        let trying = std::rc::Rc::clone(&tried);
        with_viewers(keys, allow(USER_U), |viewers| async move {
            if !are_told_apart(&viewers) {
                return;
            }
            for (session, user) in [("s", "u"), ("t", "u"), ("other", "v"), ("prefix", "uu"), ("nobody", "")]
            {
                viewers.now_says(allow(&format!("X-AuthDuration: 600|X-UserId: {user}")));
                viewers.ask(&check(session, "")).await;
            }
            trying.set(true);
            test(viewers).await;
        })
        .await;
        if tried.get() {
            return;
        }
    }
    panic!("no key tells fifteen ids apart");
}

/// Whether no two of the ids in this file share an entry of the table of revocations.
fn are_told_apart(viewers: &Viewers) -> bool {
    let core = &viewers.bench.core;
    let sessions = ["s", "t", "other", "prefix", "nobody", "unknown", "anybody", "S", "s-", "ss"];
    let sessions = sessions.map(|id| core.session(id.as_bytes()));
    let users = ["u", "v", "uu", "V", "uuu"].map(|id| core.user(id.as_bytes()));
    let mut seen = std::collections::HashSet::new();
    sessions.into_iter().chain(users).all(|hash| seen.insert(core.revocations.entry(hash)))
}

/// Which of the five are remembered.
fn known(viewers: &Viewers) -> Vec<&'static str> {
    let sessions = ["s", "t", "other", "prefix", "nobody"];
    sessions.into_iter().filter(|session| knows(viewers, &check(session, ""))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_session_is_forgotten_at_once_and_its_neighbours_are_not() {
    with_neighbours(&[], |viewers| async move {
        viewers.bench.core.revoke(b"s");
        // No turn of the I/O thread later: now.
        assert_eq!(known(&viewers), ["t", "other", "prefix", "nobody"]);
        viewers.now_says(deny(""));
        assert_by(&viewers.ask(&check("s", "")).await, Origin::Backend, Verdict::Deny);
        assert_by(&viewers.ask(&check("t", "")).await, Origin::Memory, Verdict::Allow);
        assert_eq!(viewers.requests(), 6);
        // An id that is nobody's.
        for nobody in [b"S".as_slice(), b"s-", b"ss"] {
            viewers.bench.core.revoke(nobody);
        }
        assert_eq!(known(&viewers), ["t", "other", "prefix", "nobody"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn all_that_was_said_of_a_user_is_forgotten_at_once_and_nobody_else_s() {
    with_neighbours(&[], |viewers| async move {
        viewers.bench.core.revoke_user(b"u");
        assert_eq!(known(&viewers), ["other", "prefix", "nobody"]);
        for nobody in [b"V".as_slice(), b"uuu"] {
            viewers.bench.core.revoke_user(nobody);
        }
        assert_eq!(known(&viewers), ["other", "prefix", "nobody"]);
        viewers.bench.core.revoke_user(b"v");
        assert_eq!(known(&viewers), ["prefix", "nobody"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn everything_is_forgotten_at_once() {
    with_neighbours(&[], |viewers| async move {
        viewers.bench.core.revoke_all();
        assert!(known(&viewers).is_empty());
        let before = viewers.requests();
        for session in ["s", "other", "nobody"] {
            assert_by(&viewers.ask(&check(session, "")).await, Origin::Backend, Verdict::Allow);
            assert!(knows(&viewers, &check(session, "")), "what is said after it is remembered");
        }
        assert_eq!(viewers.requests(), before + 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn every_path_query_and_address_of_the_session_is_forgotten() {
    with_viewers(&[], allow(USER_U), |viewers| async move {
        let base = check("s", "token=123");
        let questions = [
            base,
            Check { path: b"/other/index.m3u8", ..base },
            Check { query: b"token=124", ..base },
            Check { ip: b"192.0.2.2", ..base },
            Check { scope: b"ch", ..base },
            Check { user_agent: b"other", ..base },
        ];
        for question in &questions {
            viewers.ask(question).await;
        }
        assert!(questions.iter().all(|question| knows(&viewers, question)));
        viewers.bench.core.revoke(b"s");
        assert!(!questions.iter().any(|question| knows(&viewers, question)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_in_flight_is_delivered_and_not_remembered_and_its_twin_s_is() {
    for by in 0..3 {
        let (says, gate) = held(200, USER_U);
        let (twin_says, twin_gate) = held(200, "X-AuthDuration: 600|X-UserId: v");
        with_viewers(&[], says, |viewers| async move {
            let (revoked, twin) = (check("s", ""), check("twin", ""));
            let first = viewers.submit(&revoked);
            assert!(viewers.come(first).await.is_none());
            viewers.now_says(twin_says);
            let second = viewers.submit(&twin);
            assert!(viewers.come(second).await.is_none());
            match by {
                0 => viewers.bench.core.revoke(b"s"),
                1 => viewers.bench.core.revoke_user(b"u"),
                _ => viewers.bench.core.revoke_all(),
            }
            gate.notify_one();
            twin_gate.notify_one();
            for user_data in [first, second] {
                let decision = viewers.come(user_data).await.unwrap();
                assert_by(&decision, Origin::Backend, Verdict::Allow);
            }
            assert!(!knows(&viewers, &revoked), "{by}");
            assert_eq!(knows(&viewers, &twin), by != 2, "{by}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_after_it_is_remembered_again_and_by_its_time() {
    with_neighbours(&[], |viewers| async move {
        for round in 0..5 {
            viewers.bench.core.revoke(b"s");
            assert!(!knows(&viewers, &check("s", "")), "{round}");
            viewers.now_says(allow(USER_U));
            assert_by(&viewers.ask(&check("s", "")).await, Origin::Backend, Verdict::Allow);
            // In the same moment, without any time between.
            assert_by(&viewers.ask(&check("s", "")).await, Origin::Memory, Verdict::Allow);
            pass(ms(1)).await;
        }
    })
    .await;
}

const DEFAULT_ALLOW: (&str, &str) = ("default_action", "allow");

#[tokio::test(start_paused = true)]
async fn the_default_action_denies_a_revoked_session_until_the_backend_was_heard() {
    with_neighbours(&[DEFAULT_ALLOW], |viewers| async move {
        let (revoked, unknown) = (check("s", ""), check("unknown", ""));
        viewers.now_says(Says::Outage);
        viewers.bench.core.revoke(b"s");
        for _ in 0..3 {
            assert_by(&viewers.ask(&revoked).await, Origin::Default, Verdict::Deny);
            assert_by(&viewers.ask(&unknown).await, Origin::Default, Verdict::Allow);
            pass(secs(60)).await;
        }
        // Another question of the session, too.
        let other = Check { path: b"/other/index.m3u8", ..revoked };
        assert_by(&viewers.ask(&other).await, Origin::Default, Verdict::Deny);
        viewers.now_says(Says::Now(reply(200, "")));
        assert_by(&viewers.ask(&revoked).await, Origin::Backend, Verdict::Allow);
        viewers.now_says(Says::Outage);
        assert_by(&viewers.ask(&revoked).await, Origin::Default, Verdict::Allow);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_asked_for_before_the_revocation_is_not_what_the_default_waits_for() {
    let (says, gate) = held(200, USER_U);
    with_viewers(&[DEFAULT_ALLOW], says, |viewers| async move {
        let check = check("s", "");
        let waiting = viewers.submit(&check);
        assert!(viewers.come(waiting).await.is_none());
        viewers.bench.core.revoke(b"s");
        gate.notify_one();
        assert_by(&viewers.come(waiting).await.unwrap(), Origin::Backend, Verdict::Allow);
        viewers.now_says(Says::Outage);
        assert_by(&viewers.ask(&check).await, Origin::Default, Verdict::Deny);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn after_ttl_max_the_default_action_is_the_operator_s_again() {
    with_neighbours(&[DEFAULT_ALLOW, ("ttl.max", "1h")], |viewers| async move {
        viewers.now_says(Says::Outage);
        viewers.bench.core.revoke(b"s");
        pass(ms(3_599_999)).await;
        assert_by(&viewers.ask(&check("s", "")).await, Origin::Default, Verdict::Deny);
        pass(secs(2)).await;
        assert_by(&viewers.ask(&check("s", "")).await, Origin::Default, Verdict::Allow);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_default_action_denies_where_the_question_is_known_to_be_a_revoked_user_s() {
    with_neighbours(&[DEFAULT_ALLOW], |viewers| async move {
        viewers.now_says(Says::Outage);
        viewers.bench.core.revoke_user(b"u");
        for session in ["s", "t"] {
            assert_by(&viewers.ask(&check(session, "")).await, Origin::Default, Verdict::Deny);
        }
        for session in ["other", "prefix", "nobody"] {
            assert_by(&viewers.ask(&check(session, "")).await, Origin::Memory, Verdict::Allow);
        }
        assert_by(&viewers.ask(&check("unknown", "")).await, Origin::Default, Verdict::Allow);
        viewers.now_says(Says::Now(reply(200, "X-UserId: u")));
        assert_by(&viewers.ask(&check("s", "")).await, Origin::Backend, Verdict::Allow);
        viewers.now_says(Says::Outage);
        assert_by(&viewers.ask(&check("s", "")).await, Origin::Default, Verdict::Allow);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn after_a_revocation_of_all_the_default_action_denies_everybody_until_the_backend_answers_anybody() {
    with_neighbours(&[DEFAULT_ALLOW], |viewers| async move {
        viewers.now_says(Says::Outage);
        assert_by(&viewers.ask(&check("unknown", "")).await, Origin::Default, Verdict::Allow);
        viewers.bench.core.revoke_all();
        for session in ["s", "other", "unknown"] {
            assert_by(&viewers.ask(&check(session, "")).await, Origin::Default, Verdict::Deny);
        }
        viewers.now_says(deny(""));
        assert_by(&viewers.ask(&check("anybody", "")).await, Origin::Backend, Verdict::Deny);
        viewers.now_says(Says::Outage);
        for session in ["s", "other", "unknown"] {
            assert_by(&viewers.ask(&check(session, "")).await, Origin::Default, Verdict::Allow);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_revocations_of_others_keep_revoking_and_cost_no_allow() {
    with_neighbours(&[DEFAULT_ALLOW], |viewers| async move {
        for index in 0..100_000 {
            viewers.bench.core.revoke(format!("gone-{index}").as_bytes());
        }
        viewers.bench.core.revoke(b"s");
        for index in 0..100_000 {
            viewers.bench.core.revoke(format!("gone-too-{index}").as_bytes());
        }
        assert!(!knows(&viewers, &check("s", "")), "a collision never forgets too little");
        assert_eq!(known(&viewers), ["t", "other", "prefix", "nobody"], "nor too much of what is remembered");
        viewers.now_says(Says::Outage);
        for index in 0..20 {
            let unknown = format!("unknown-{index}");
            assert_by(&viewers.ask(&check(&unknown, "")).await, Origin::Default, Verdict::Allow);
        }
        assert_by(&viewers.ask(&check("s", "")).await, Origin::Default, Verdict::Deny);
        assert_by(&viewers.ask(&check("gone-5", "")).await, Origin::Default, Verdict::Deny);
        assert_eq!(viewers.bench.core.stats().revoked, 200_001);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_session_is_revoked_by_the_id_that_its_checks_came_with() {
    with_viewers(&[], allow(USER_U), |viewers| async move {
        for id in ["s ", "\u{1}s", "s\u{7f}"] {
            viewers.ask(&check(id, "")).await;
            assert!(knows(&viewers, &check("s", "")), "{id:?} is the same session");
            viewers.bench.core.revoke(b"s s");
            assert!(knows(&viewers, &check("s", "")), "another");
            viewers.bench.core.revoke(id.as_bytes());
            assert!(!knows(&viewers, &check("s", "")), "{id:?}");
        }
        viewers.ask(&check("a\u{1}b", "")).await;
        viewers.bench.core.revoke(b"a b");
        assert!(!knows(&viewers, &check("a\u{1}b", "")));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_may_not_be_kept_still_takes_the_place_of_what_was_said_before_it() {
    for revoked in ["u", "w"] {
        with_viewers(&[], allow("X-AuthDuration: 600"), |viewers| async move {
            let question = check("s", "");
            viewers.ask(&question).await;
            let (says, gate) = held(403, "X-UserId: u");
            viewers.now_says(says);
            let waiting = viewers.submit(&Check { fresh: true, ..question });
            assert!(viewers.come(waiting).await.is_none());
            viewers.bench.core.revoke_user(revoked.as_bytes());
            gate.notify_one();
            assert_by(&viewers.come(waiting).await.unwrap(), Origin::Backend, Verdict::Deny);
            assert!(!knows(&viewers, &question), "{revoked}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn last_known_is_for_those_who_were_not_revoked_however_many_were() {
    with_neighbours(&[("last_known", "1h")], |viewers| async move {
        for index in 0..100_000 {
            viewers.bench.core.revoke(format!("gone-{index}").as_bytes());
        }
        viewers.bench.core.revoke(b"s");
        pass(secs(601)).await;
        viewers.now_says(Says::Outage);
        assert_by(&viewers.ask(&check("other", "")).await, Origin::LastKnown, Verdict::Allow);
        assert_by(&viewers.ask(&check("s", "")).await, Origin::Default, Verdict::Deny);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_may_not_be_kept_leaves_known_whose_question_it_was() {
    with_viewers(&[DEFAULT_ALLOW], allow(USER_U), |viewers| async move {
        let question = check("s", "");
        viewers.ask(&question).await;
        let (says, gate) = held(200, USER_U);
        viewers.now_says(says);
        let waiting = viewers.submit(&Check { fresh: true, ..question });
        assert!(viewers.come(waiting).await.is_none());
        viewers.bench.core.revoke_user(b"u");
        gate.notify_one();
        assert_by(&viewers.come(waiting).await.unwrap(), Origin::Backend, Verdict::Allow);
        viewers.now_says(Says::Outage);
        assert_by(&viewers.ask(&question).await, Origin::Default, Verdict::Deny);
    })
    .await;
}
