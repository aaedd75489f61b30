//! Equal checks share an exchange; it outlives whoever began it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::support::{ALLOW, Bench, DENY, Defect, Peer, Surroundings, check, with_shard, with_shard_in};
use crate::check::Check;
use crate::decision::{Cause, Origin, Verdict};
use crate::engine::SubmitError;
use crate::engine::batch::Batch;
use crate::engine::completion::{Completed, Receiver, Tag};
use crate::observe::{Log, LogLevel};

struct Nobody;

impl Receiver for Nobody {
    fn receive(&self, batch: &mut Vec<Completed>) {
        batch.drain(..).for_each(|completed| drop(completed.take()));
    }
}

/// Answers after `delay`.
fn slow(delay: Duration) -> Rc<Peer> {
    Peer::new(move |peer, endpoint, mut stream| async move {
        while peer.request(endpoint, &mut stream).await.is_some() {
            sleep(delay).await;
            if stream.write_all(ALLOW.as_bytes()).await.is_err() {
                return;
            }
        }
    })
}

const DELAY: Duration = Duration::from_millis(50);

#[tokio::test(start_paused = true)]
async fn equal_checks_make_one_exchange() {
    with_shard(&[], slow(DELAY), |bench| async move {
        for user_data in 0..10_000 {
            bench.submit(&check("s", "token=123"), user_data);
        }
        for user_data in 0..10_000 {
            let (decision, _) = bench.decided(user_data).await;
            assert_eq!((decision.verdict, decision.origin), (Verdict::Allow, Origin::Backend));
            assert_eq!(decision.coalesced, user_data != 0);
        }
        assert_eq!((bench.peer.requests(), bench.peer.connections()), (1, 1));
        assert_eq!(bench.core.stats().coalesced, 9_999);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_changed_field_makes_a_second_exchange() {
    let base = check("s", "token=123");
    let twins = [
        Check { session_id: b"t", ..base },
        Check { ip: b"192.0.2.2", ..base },
        Check { path: b"/ch/other.m3u8", ..base },
        Check { query: b"token=124", ..base },
        Check { origin: b"https://other.example.com", ..base },
        Check { user_agent: b"other", ..base },
        Check { scope: b"other", ..base },
    ];
    for twin in twins {
        with_shard(&[], slow(DELAY), |bench| async move {
            bench.submit(&base, 0);
            bench.submit(&twin, 1);
            bench.decided(0).await;
            assert!(!bench.decided(1).await.0.coalesced, "{twin:?}");
            assert_eq!(bench.peer.requests(), 2, "{twin:?}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_may_leave_and_the_others_get_their_answer() {
    with_shard(&[], slow(DELAY), |bench| async move {
        let first = bench.submit(&check("s", ""), 0);
        bench.submit(&check("s", ""), 1);
        bench.settle().await;
        assert_eq!(bench.peer.requests(), 1);
        assert!(bench.cancel(first));
        assert!(!bench.cancel(first));
        let (decision, _) = bench.decided(1).await;
        assert_eq!(decision.verdict, Verdict::Allow);
        assert!(bench.decision(0).is_none(), "a cancelled check is never delivered");
        assert_eq!(bench.peer.requests(), 1);
        assert_eq!(bench.core.stats().cancelled, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_unwritten_exchange_that_nobody_waits_for_is_dropped() {
    with_shard(&[("pool.max_connections", "1")], slow(DELAY), |bench| async move {
        bench.submit(&check("holds", ""), 0);
        let waits = bench.submit(&check("waits", ""), 1);
        bench.settle().await;
        assert!(bench.cancel(waits));
        bench.decided(0).await;
        sleep(DELAY * 3).await;
        assert_eq!(bench.peer.requests(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_check_that_is_cancelled_when_its_request_is_ready_and_not_sent_asks_nothing() {
    with_shard(&[], slow(DELAY), |bench| async move {
        bench.submit(&check("leaves a connection", ""), 0);
        bench.decided(0).await;
        let ticket = bench.submit(&check("is cancelled", ""), 1);
        // In line behind the shard, which takes the check in, and before the exchange that it begins. So the shard hears of
        // this behind that exchange, and before whoever sends.
        let cancels = Rc::clone(&bench);
        let cancelled = spawn_local(async move { cancels.cancel(ticket) });
        bench.settle().await;
        assert!(cancelled.await.unwrap());
        sleep(DELAY * 3).await;
        assert_eq!(bench.peer.requests(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_written_exchange_runs_on_and_keeps_its_connection() {
    with_shard(&[], slow(DELAY), |bench| async move {
        let only = bench.submit(&check("s", ""), 0);
        bench.settle().await;
        assert!(bench.cancel(only));
        sleep(DELAY * 2).await;
        bench.submit(&check("t", ""), 1);
        bench.decided(1).await;
        assert_eq!((bench.peer.requests(), bench.peer.connections()), (2, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_check_joins_an_exchange_that_its_first_asker_gave_up() {
    with_shard(&[], slow(DELAY), |bench| async move {
        let first = bench.submit(&check("s", ""), 0);
        bench.settle().await;
        assert!(bench.cancel(first));
        bench.settle().await;
        bench.submit(&check("s", ""), 1);
        assert_eq!(bench.decided(1).await.0.verdict, Verdict::Allow);
        assert_eq!(bench.peer.requests(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn capacity_bounds_what_is_pending_and_cancelled_checks_give_it_back() {
    with_shard(&[("inbox.capacity", "8")], Peer::answering(|_, _| None), |bench| async move {
        let tickets: Vec<u64> =
            (0..8).map(|index| bench.submit(&check(&format!("s{index}"), ""), index)).collect();
        assert_eq!(bench.try_submit(&check("more", ""), 9), Err(SubmitError::Full));
        bench.settle().await;
        assert_eq!(bench.try_submit(&check("more", ""), 9), Err(SubmitError::Full));
        assert!(bench.cancel(tickets[3]));
        bench.settle().await;
        assert!(bench.try_submit(&check("more", ""), 9).is_ok());
        assert_eq!(bench.core.stats().refused, 2);
    })
    .await;
}

/// A batch takes room for what is still to come of it: exactly what there is, and none that it does not need.
#[tokio::test(start_paused = true)]
async fn a_batch_gets_all_the_room_there_is_and_gives_back_what_its_invalid_checks_would_have_had() {
    with_shard(&[("inbox.capacity", "40")], Peer::answering(|_, _| None), |bench| async move {
        let names: Vec<_> = (0..60).map(|index| format!("s{index}")).collect();
        let fit = |index: usize| (check(&names[index], ""), index);
        let unfit = (check("", ""), 99);
        let accepted =
            |outcomes: &[Result<u64, SubmitError>]| outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let mixed: Vec<_> = (0..20).map(|index| if index % 4 == 0 { fit(index) } else { unfit }).collect();
        let outcomes = bench.try_submit_all(&mixed);
        assert_eq!(accepted(&outcomes), 5);
        assert!(matches!(outcomes[1], Err(SubmitError::Invalid(_))));
        assert_eq!(bench.core.stats().pending, 5);
        let many: Vec<_> = (20..60).map(fit).collect();
        let outcomes = bench.try_submit_all(&many);
        assert_eq!(accepted(&outcomes), 35, "and not one more");
        assert!(outcomes[..35].iter().all(Result::is_ok) && outcomes[35] == Err(SubmitError::Full));
        assert!(bench.cancel(*outcomes[7].as_ref().unwrap()));
        bench.settle().await;
        assert_eq!(accepted(&bench.try_submit_all(&[unfit, fit(57), fit(58)])), 1);
        assert_eq!(bench.core.stats().submitted, 41);
    })
    .await;
}

/// Room is taken for what can still come, not for what was passed over.
#[tokio::test(start_paused = true)]
async fn a_batch_takes_no_room_for_checks_that_were_not_fit() {
    with_shard(&[("inbox.capacity", "8")], Peer::answering(|_, _| None), |bench| async move {
        let names: Vec<_> = (0..8).map(|index| format!("s{index}")).collect();
        let mut batch = Batch::new(&bench.core, 8);
        (0..7).for_each(|_| batch.passed_over());
        let receiver: Arc<dyn Receiver> = Arc::new(Nobody);
        batch.submit(&check(&names[0], ""), &receiver, Tag::default(), |_| ()).unwrap();
        for (index, name) in names.iter().enumerate().skip(1) {
            bench.try_submit(&check(name, ""), index).expect("there is room while the batch goes on");
        }
        drop(batch);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_left_at_the_end_gets_the_default_action_and_cause_shutdown() {
    for (action, verdict) in [("deny", Verdict::Deny), ("allow", Verdict::Allow)] {
        let peer = Peer::answering(|_, _| None);
        with_shard(&[("default_action", action)], peer, |bench| async move {
            bench.submit(&check("s", ""), 0);
            bench.submit(&check("s", ""), 1);
            bench.settle().await;
            bench.core.ledger.close();
            assert_eq!(bench.try_submit(&check("t", ""), 2), Err(SubmitError::Closed));
            bench.core.inboxes[0].stop();
            for user_data in 0..2 {
                let (decision, _) = bench.decided(user_data).await;
                assert_eq!((decision.verdict, decision.cause), (verdict, Cause::Shutdown));
            }
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_connection_is_asked_again_once_and_only_if_it_was_reused() {
    // Answers the first request of each connection; reads the second and closes.
    let peer = Peer::new(|peer, endpoint, mut stream| async move {
        peer.request(endpoint, &mut stream).await;
        stream.write_all(ALLOW.as_bytes()).await.unwrap();
        peer.request(endpoint, &mut stream).await;
    });
    with_shard(&[], peer, |bench| async move {
        bench.submit(&check("a", ""), 0);
        bench.decided(0).await;
        bench.submit(&check("b", ""), 1);
        let (decision, _) = bench.decided(1).await;
        assert_eq!((decision.verdict, decision.origin), (Verdict::Allow, Origin::Backend));
        assert_eq!((bench.peer.requests(), bench.peer.connections()), (3, 2));
        assert_eq!(bench.core.stats().retries, 1);
    })
    .await;

    let closes = Peer::new(|peer, endpoint, mut stream| async move {
        peer.request(endpoint, &mut stream).await;
    });
    with_shard(&[], closes, |bench| async move {
        bench.submit(&check("a", ""), 0);
        assert_eq!(bench.decided(0).await.0.cause, Cause::Reset);
        assert_eq!(bench.peer.requests(), 1, "a fresh connection that dies is an outage");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_in_the_turn_of_a_failure_leaves_the_landing_alone() {
    // The first connection is closed at once, and the only check is cancelled in the same turn.
    type Pending = Option<(Rc<Bench>, u64)>;
    let pending: Rc<RefCell<Pending>> = Rc::default();
    let taken = Rc::clone(&pending);
    let peer = Peer::new(move |peer, endpoint, mut stream| {
        let first = taken.borrow_mut().take();
        async move {
            if let Some((bench, ticket)) = first {
                assert!(bench.cancel(ticket));
                return;
            }
            while peer.request(endpoint, &mut stream).await.is_some() {
                stream.write_all(ALLOW.as_bytes()).await.unwrap();
            }
        }
    });
    let surroundings = Surroundings { hooked: true, ..Surroundings::default() };
    with_shard_in(surroundings, &[], peer, |bench| async move {
        let ticket = bench.submit(&check("s", ""), 0);
        *pending.borrow_mut() = Some((Rc::clone(&bench), ticket));
        bench.settle().await;
        assert!(pending.borrow().is_none(), "cancelled");
        bench.submit(&check("s", ""), 1);
        bench.core.inboxes[0].turn();
        assert!(bench.decided(1).await.0.allows());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_panics_costs_its_line_and_no_check() {
    #[derive(Default)]
    struct Broken(AtomicUsize);
    impl Log for Broken {
        fn log(&self, _: LogLevel, _: &str) {
            assert!(self.0.fetch_add(1, Ordering::SeqCst) > 0, "the host's log");
        }
    }
    let peer = Peer::new(|peer, endpoint, mut stream| async move {
        let first = peer.connections() == 1;
        while peer.request(endpoint, &mut stream).await.is_some() && !first {
            stream.write_all(ALLOW.as_bytes()).await.unwrap();
        }
    });
    let log = Arc::new(Broken::default());
    let surroundings =
        Surroundings { log: Some(Arc::clone(&log) as _), panics: 1, ..Surroundings::default() };
    with_shard_in(surroundings, &[], peer, |bench| async move {
        bench.submit(&check("s", ""), 0);
        assert_eq!(bench.decided(0).await.0.cause, Cause::Reset);
        assert_eq!(log.0.load(Ordering::SeqCst), 1, "the outage was to be logged");
        bench.submit(&check("s", ""), 1);
        assert!(bench.decided(1).await.0.allows(), "the same key");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_an_exchange_answers_all_who_wait_and_lets_nobody_in() {
    let allow = ("default_action", "allow");
    let twins = [
        (&[allow][..], Verdict::Deny),
        (&[("default_action", "deny"), ("fail_open.overload", "on")], Verdict::Deny),
        (&[allow, ("fail_open.overload", "on")], Verdict::Allow),
    ];
    for defect in [Defect::Dialing, Defect::Lending] {
        for (keys, verdict) in twins {
            let surroundings = Surroundings { panics: 1, ..Surroundings::default() };
            let peer = Peer::answering(|_, _| Some(DENY.to_owned()));
            with_shard_in(surroundings, keys, peer, |bench| async move {
                if defect == Defect::Lending {
                    bench.submit(&check("before", ""), 0);
                    bench.decided(0).await;
                }
                bench.peer.break_once(defect);
                for user_data in 1..=3 {
                    bench.submit(&check("s", ""), user_data);
                }
                for user_data in 1..=3 {
                    let (decision, at) = bench.decided(user_data).await;
                    let decided = (decision.verdict, decision.origin, decision.cause);
                    assert_eq!(decided, (verdict, Origin::Default, Cause::Internal), "{defect:?} {keys:?}");
                    assert!(at < Duration::from_secs(1), "{at:?}");
                }
                bench.submit(&check("s", ""), 4);
                let (decision, _) = bench.decided(4).await;
                assert_eq!((decision.verdict, decision.origin), (Verdict::Deny, Origin::Backend), "again");
            })
            .await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_an_exchange_lets_nobody_in_once_a_session_was_revoked() {
    let keys = [("default_action", "allow"), ("fail_open.overload", "on")];
    let surroundings = Surroundings { panics: 1, ..Surroundings::default() };
    with_shard_in(surroundings, &keys, Peer::answering(|_, _| Some(ALLOW.to_owned())), |bench| async move {
        bench.submit(&check("before", ""), 0);
        bench.decided(0).await;
        bench.core.revoke(b"s");
        bench.peer.break_once(Defect::Lending);
        bench.submit(&check("s", ""), 1);
        let (decision, _) = bench.decided(1).await;
        assert_eq!((decision.verdict, decision.cause), (Verdict::Deny, Cause::Internal));
    })
    .await;
}
