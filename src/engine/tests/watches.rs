//! Watches on paused time: when they are asked about again, and what their host is told.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::support::{ALLOW, Bench, DENY, Peer, check, with_shard};
use crate::check::Check;
use crate::config::Config;
use crate::decision::{Cause, Decision, Origin, Verdict};
use crate::engine::asking::GRACE;
use crate::engine::batch::Batch;
use crate::engine::completion::{Completed, Receiver, Tag};
use crate::engine::departures::LINE;
use crate::engine::ledger::Ticket;
use crate::engine::{Policy, SubmitError};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What hosts were told, in order.
#[derive(Default)]
struct Told(Mutex<Vec<(usize, Decision, Instant)>>);

impl Receiver for Told {
    fn receive(&self, batch: &mut Vec<Completed>) {
        for completed in batch.drain(..) {
            completed
                .hand_over(|user_data, decision| self.0.lock().push((user_data, decision, Instant::now())));
        }
    }
}

impl Told {
    fn verdicts(&self, of: usize) -> Vec<Verdict> {
        self.0.lock().iter().filter(|(user_data, ..)| *user_data == of).map(|told| told.1.verdict).collect()
    }
    fn newest(&self) -> Decision {
        self.0.lock().last().expect("told something").1.clone()
    }
    fn len(&self) -> usize {
        self.0.lock().len()
    }
}

fn watch(bench: &Bench, check: &Check<'_>, told: &Arc<Told>, user_data: usize) -> Result<u64, SubmitError> {
    let receiver: Arc<dyn Receiver> = Arc::clone(told) as _;
    Batch::new(&bench.core, 0).watch(check, &receiver, Tag { user_data, owner: 0 }, |_| ())
}

const ALLOW_10: &str = "HTTP/1.1 200 OK\r\nX-AuthDuration: 10\r\nX-UserId: u1\r\nContent-Length: 0\r\n\r\n";
const EXACT: (&str, &str) = ("ttl.jitter", "off");

/// Says what the cell says.
fn minded(says: &Rc<Cell<Option<&'static str>>>) -> Rc<Peer> {
    let says = Rc::clone(says);
    Peer::answering(move |_, _| says.get().map(str::to_owned))
}

#[tokio::test(start_paused = true)]
async fn it_is_asked_about_when_its_time_ends_and_only_a_change_is_told() {
    let says = Rc::new(Cell::new(Some(ALLOW_10)));
    with_shard(&[EXACT], minded(&says), |bench| async move {
        let told = Arc::new(Told::default());
        watch(&bench, &check("s", "token=1"), &told, 1).unwrap();
        sleep(seconds(9)).await;
        assert_eq!((bench.peer.requests(), told.verdicts(1)), (1, vec![Verdict::Allow]));
        let first = told.newest();
        assert_eq!((first.origin, first.user_id(), first.last), (Origin::Backend, "u1", false));

        sleep(seconds(62)).await;
        assert_eq!((bench.peer.requests(), told.len()), (8, 1), "asked every 10 s, nothing new");
        says.set(Some(DENY));
        sleep(seconds(10)).await;
        assert_eq!(told.verdicts(1), [Verdict::Allow, Verdict::Deny]);
        says.set(Some(ALLOW_10));
        // A refusal that may not be reused is asked about after watch.interval.
        sleep(seconds(31)).await;
        assert_eq!(told.verdicts(1), [Verdict::Allow, Verdict::Deny, Verdict::Allow]);
        assert_eq!(bench.core.stats().submitted, 0, "a watch is no check");
    })
    .await;
}

/// Those for whom there is no room in the line have no more time than those in it.
#[tokio::test(start_paused = true)]
async fn however_many_watches_begin_at_once_each_is_told_within_its_timeout() {
    let says = Rc::new(Cell::new(None));
    let keys = [
        ("pool.max_connections", "1"),
        ("timeout", "1s"),
        ("breaker.failures", "0"),
        ("default_action", "allow"),
    ];
    with_shard(&keys, minded(&says), |bench| async move {
        let (told, many) = (Arc::new(Told::default()), 2 * LINE);
        for user_data in 0..many {
            watch(&bench, &check(&user_data.to_string(), ""), &told, user_data).unwrap();
        }
        sleep(seconds(1) + GRACE + Duration::from_millis(2)).await;
        assert_eq!(told.len(), many);
        let beyond =
            told.0.lock().iter().filter(|(of, ..)| *of > LINE).map(|told| told.1.cause).collect::<Vec<_>>();
        assert!(beyond.iter().all(|cause| *cause == Cause::Overload), "{beyond:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_watch_is_never_asked_about_again() {
    let says = Rc::new(Cell::new(Some(ALLOW_10)));
    with_shard(&[EXACT], minded(&says), |bench| async move {
        let told = Arc::new(Told::default());
        let ticket = watch(&bench, &check("s", ""), &told, 1).unwrap();
        sleep(seconds(1)).await;
        assert!(bench.core.cancel(Ticket::from_number(ticket)));
        assert!(!bench.core.cancel(Ticket::from_number(ticket)), "once");
        sleep(seconds(100)).await;
        assert_eq!((bench.peer.requests(), told.len()), (1, 1));
        assert_eq!(bench.core.stats().watching, 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn watches_and_checks_of_one_question_share_an_exchange_and_what_is_remembered() {
    let says = Rc::new(Cell::new(Some(ALLOW_10)));
    with_shard(&[EXACT], minded(&says), |bench| async move {
        let told = Arc::new(Told::default());
        for user_data in 0..50 {
            watch(&bench, &check("s", ""), &told, user_data).unwrap();
        }
        bench.submit(&check("s", ""), 99);
        bench.decided(99).await;
        bench.settle().await;
        assert_eq!((bench.peer.requests(), told.len()), (1, 50));
        watch(&bench, &check("s", ""), &told, 50).unwrap();
        sleep(seconds(1)).await;
        assert_eq!((bench.peer.requests(), told.newest().origin), (1, Origin::Memory));
        // The twin that differs in one field.
        watch(&bench, &Check { ip: b"192.0.2.2", ..check("s", "") }, &told, 51).unwrap();
        sleep(seconds(1)).await;
        assert_eq!(bench.peer.requests(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn asking_again_is_a_steady_stream_and_no_stampede() {
    let says = Rc::new(Cell::new(Some(ALLOW_10)));
    let keys = [EXACT, ("watch.max_rate", "100"), ("pool.max_connections", "1000")];
    with_shard(&keys, minded(&says), |bench| async move {
        let told = Arc::new(Told::default());
        let sessions: Vec<String> = (0..1000).map(|number| format!("s{number}")).collect();
        for (user_data, session) in sessions.iter().enumerate() {
            watch(&bench, &check(session, ""), &told, user_data).unwrap();
        }
        sleep(seconds(9)).await;
        assert_eq!(bench.peer.requests(), 1000, "first decisions do not wait");
        let mut before = 1000;
        for second in 0..9 {
            sleep(seconds(1)).await;
            let asked = bench.peer.requests() - before;
            before = bench.peer.requests();
            assert!(asked <= 111, "{asked} in second {second}: 100, and a tenth of a second's more");
            assert!(second == 0 || asked >= 95, "{asked} in second {second}");
        }
        assert_eq!(told.len(), 1000, "and their decisions stand meanwhile");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_began_together_does_not_stay_together() {
    let says = Rc::new(Cell::new(Some(ALLOW)));
    with_shard(&[("watch.max_rate", "100000")], minded(&says), |bench| async move {
        let told = Arc::new(Told::default());
        let sessions: Vec<String> = (0..300).map(|number| format!("s{number}")).collect();
        for session in &sessions {
            watch(&bench, &check(session, ""), &told, 1).unwrap();
        }
        sleep(seconds(27)).await;
        assert_eq!(bench.peer.requests(), 300);
        let mut most = 0;
        let mut before = 300;
        for _ in 0..32 {
            sleep(Duration::from_millis(100)).await;
            most = most.max(bench.peer.requests() - before);
            before = bench.peer.requests();
        }
        assert_eq!(before, 600, "each once, within a tenth of the interval before its end");
        assert!(most < 40, "{most} in a tenth of a second");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_revocation_is_told_at_once_and_is_the_last_word() {
    let says = Rc::new(Cell::new(Some(ALLOW_10)));
    with_shard(&[EXACT], minded(&says), |bench| async move {
        for (whose, revoke) in [("session", 0), ("user", 1), ("all", 2)] {
            let told = Arc::new(Told::default());
            watch(&bench, &check("s", "a"), &told, 1).unwrap();
            watch(&bench, &Check { path: b"/other", ..check("s", "a") }, &told, 2).unwrap();
            watch(&bench, &check("neighbour", ""), &told, 3).unwrap();
            sleep(seconds(1)).await;
            match revoke {
                0 => bench.core.revoke(b"s"),
                1 => bench.core.revoke_user(b"u1"),
                _ => bench.core.revoke_all(),
            }
            bench.settle().await;
            let asked = bench.peer.requests();
            for ended in [1, 2] {
                assert_eq!(told.verdicts(ended), [Verdict::Allow, Verdict::Deny], "{whose}");
            }
            let neighbours = if whose == "session" { 1 } else { 2 };
            assert_eq!(told.verdicts(3).len(), neighbours, "{whose}");
            assert!(told.newest().last && told.newest().cause == Cause::None, "{whose}");
            assert_eq!(bench.core.stats().watching, u64::from(whose == "session"), "{whose}");
            bench.core.revoke_all();
            sleep(seconds(60)).await;
            assert_eq!(bench.peer.requests(), asked, "{whose}: asked about no more");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_only_if_it_changes_what_the_host_does() {
    const LIMITS: [(&str, &str); 2] = [EXACT, ("timeout", "1s")];
    for (keys, told_verdicts) in [
        (vec![("last_known", "10m")], vec![Verdict::Allow]),
        (vec![("default_action", "allow")], vec![Verdict::Allow]),
        (vec![("default_action", "deny")], vec![Verdict::Allow, Verdict::Deny, Verdict::Allow]),
    ] {
        let says = Rc::new(Cell::new(Some(ALLOW_10)));
        let keys: Vec<_> = LIMITS.iter().chain(&keys).copied().collect();
        with_shard(&keys, minded(&says), |bench| async move {
            let told = Arc::new(Told::default());
            watch(&bench, &check("s", ""), &told, 1).unwrap();
            sleep(seconds(1)).await;
            says.set(None);
            sleep(seconds(15)).await;
            if told_verdicts.len() > 1 {
                let outage = told.newest();
                assert_eq!(
                    (outage.verdict, outage.origin, outage.cause),
                    (Verdict::Deny, Origin::Default, Cause::Timeout)
                );
            }
            says.set(Some(ALLOW_10));
            sleep(seconds(40)).await;
            assert_eq!(told.verdicts(1), told_verdicts);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_decision_that_is_kept_is_not_asked_for_while_its_watch_is_open() {
    let says = Rc::new(Cell::new(Some(ALLOW_10)));
    let keys = [EXACT, ("refresh", "never"), ("expired", "keep"), ("expired.idle", "1s")];
    with_shard(&keys, minded(&says), |bench| async move {
        let told = Arc::new(Told::default());
        watch(&bench, &check("s", ""), &told, 1).unwrap();
        sleep(seconds(1)).await;
        says.set(Some(DENY));
        sleep(seconds(3600)).await;
        assert_eq!((bench.peer.requests(), told.verdicts(1)), (1, vec![Verdict::Allow]));
    })
    .await;
}

/// `watch.max_rate` makes them wait for longer than what has expired is left in memory.
#[tokio::test(start_paused = true)]
async fn what_is_kept_is_kept_however_long_its_watch_waits_for_its_turn() {
    for threads in ["1", "2"] {
        let says = Rc::new(Cell::new(Some(ALLOW_10)));
        let keys = [
            EXACT,
            ("refresh", "never"),
            ("expired", "keep"),
            ("expired.idle", "1s"),
            ("watch.max_rate", "1"),
            ("threads.io", threads),
        ];
        with_shard(&keys, minded(&says), |bench| async move {
            let told = Arc::new(Told::default());
            // Two of each session, most of them on different threads.
            for of in 0..40 {
                let (session, path) = ((of / 2).to_string(), format!("/{of}"));
                watch(&bench, &Check { path: path.as_bytes(), ..check(&session, "") }, &told, of).unwrap();
            }
            sleep(seconds(1)).await;
            says.set(Some(DENY));
            sleep(seconds(200)).await;
            assert_eq!((bench.peer.requests(), told.len()), (40, 40));
            bench.core.cancel_of(0);
            sleep(seconds(60)).await;
            assert_eq!(bench.core.stats().remembered, 0, "nobody watches any more");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_does_not_fetch_is_told_the_newest_and_nothing_piles_up() {
    /// Keeps what it gets, as a queue does.
    #[derive(Default)]
    struct Shelf(Mutex<Vec<Completed>>);
    impl Receiver for Shelf {
        fn receive(&self, batch: &mut Vec<Completed>) {
            self.0.lock().append(batch);
        }
    }
    let says = Rc::new(Cell::new(Some(ALLOW)));
    let keys = [("watch.interval", "1s")];
    with_shard(&keys, minded(&says), |bench| async move {
        let shelf = Arc::new(Shelf::default());
        let receiver: Arc<dyn Receiver> = Arc::clone(&shelf) as _;
        let tag = Tag { user_data: 7, owner: 0 };
        Batch::new(&bench.core, 0).watch(&check("s", ""), &receiver, tag, |_| ()).unwrap();
        for flap in 0..20 {
            says.set(Some(if flap % 2 == 0 { DENY } else { ALLOW }));
            sleep(seconds(2)).await;
        }
        assert!(bench.peer.requests() > 20);
        let mut waiting = std::mem::take(&mut *shelf.0.lock());
        assert_eq!(waiting.len(), 1, "one place, whatever happens");
        let decision = waiting.pop().unwrap().take().expect("the newest");
        assert_eq!(decision.verdict, Verdict::Allow);

        // It changes, and back before the host looks: nothing to tell.
        says.set(Some(DENY));
        sleep(seconds(2)).await;
        says.set(Some(ALLOW));
        sleep(seconds(2)).await;
        let place = std::mem::take(&mut *shelf.0.lock()).pop().unwrap();
        assert!(place.take().is_none());
        bench.core.revoke(b"s");
        bench.settle().await;
        let last = std::mem::take(&mut *shelf.0.lock()).pop().unwrap().take().unwrap();
        assert!(last.last && last.verdict == Verdict::Deny);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn after_a_reload_that_forgets_it_is_asked_about_by_the_new_rules_at_once() {
    let says = Rc::new(Cell::new(Some(ALLOW_10)));
    with_shard(&[EXACT], minded(&says), |bench| async move {
        let told = Arc::new(Told::default());
        watch(&bench, &check("s", "a=1"), &told, 1).unwrap();
        sleep(seconds(1)).await;
        let reload = |keys: &[(&str, &str)]| {
            let mut config = Config::new();
            let first = [("backend.url", "http://127.0.0.1:1/auth"), ("default_action", "deny"), EXACT];
            for (key, value) in first.iter().chain(keys) {
                config.set(key, value).unwrap();
            }
            let settings = Arc::new(config.settings().unwrap());
            let before = bench.core.policy();
            bench.core.set_policy(Policy::new(settings, Some(&before), &bench.core.log).unwrap());
        };
        reload(&[("log.level", "error")]);
        sleep(seconds(1)).await;
        assert_eq!(bench.peer.requests(), 1, "the same rules");
        reload(&[("allow_statuses", "204")]);
        sleep(seconds(1)).await;
        assert_eq!(bench.peer.requests(), 2);
        assert_eq!(told.verdicts(1), [Verdict::Allow, Verdict::Deny]);
        reload(&[("scope", "session"), ("param.x", "9")]);
        sleep(seconds(1)).await;
        assert_eq!(told.verdicts(1), [Verdict::Allow, Verdict::Deny, Verdict::Allow]);
        assert!(bench.peer.targets().last().unwrap().ends_with("?x=9&a=1"), "{:?}", bench.peer.targets());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn there_are_only_so_many() {
    let says = Rc::new(Cell::new(Some(ALLOW)));
    with_shard(&[("watch.max", "2")], minded(&says), |bench| async move {
        let told = Arc::new(Told::default());
        let first = watch(&bench, &check("a", ""), &told, 1).unwrap();
        watch(&bench, &check("b", ""), &told, 2).unwrap();
        assert_eq!(watch(&bench, &check("c", ""), &told, 3), Err(SubmitError::Full));
        assert!(bench.core.cancel(Ticket::from_number(first)));
        assert!(watch(&bench, &check("c", ""), &told, 3).is_ok());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_user_s_oldest_session_gives_way_and_its_watch_is_told() {
    const TWO: &str = "HTTP/1.1 200 OK\r\nX-AuthDuration: 100\r\nX-UserId: u1\r\nX-Max-Sessions: 2\r\nContent-Length: 0\r\n\r\n";
    let says = Rc::new(Cell::new(Some(TWO)));
    with_shard(&[EXACT, ("sessions.enforce", "oldest")], minded(&says), |bench| async move {
        let told = Arc::new(Told::default());
        for (user_data, session) in [(1, "a"), (2, "b"), (3, "c")] {
            watch(&bench, &check(session, ""), &told, user_data).unwrap();
            sleep(seconds(1)).await;
        }
        assert_eq!(told.verdicts(1), [Verdict::Allow, Verdict::Deny]);
        assert_eq!((told.verdicts(2), told.verdicts(3)), (vec![Verdict::Allow], vec![Verdict::Allow]));
        let displaced = told.0.lock().iter().rfind(|told| told.0 == 1).unwrap().1.clone();
        assert!(displaced.last && displaced.detail().contains("took its place"));
        // By a check it does not come back either, remembered or not.
        for query in ["", "other"] {
            bench.submit(&check("a", query), 10 + query.len());
            let (decision, _) = bench.decided(10 + query.len()).await;
            assert_eq!(
                (decision.verdict, decision.origin == Origin::Default),
                (Verdict::Deny, false),
                "{query}"
            );
        }
        bench.submit(&check("b", ""), 20);
        assert_eq!(bench.decided(20).await.0.verdict, Verdict::Allow);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_begins_while_the_breaker_is_open_is_told_what_was_known_whatever_limit_per_ip_says() {
    let says = Rc::new(Cell::new(Some(ALLOW_10)));
    let keys = [
        EXACT,
        ("limit.per_ip", "1/h"),
        ("last_known", "1h"),
        ("breaker.failures", "1"),
        ("unavailable_statuses", "503"),
    ];
    with_shard(&keys, minded(&says), |bench| async move {
        let told = Arc::new(Told::default());
        bench.submit(&check("s", ""), 1);
        bench.decided(1).await;
        says.set(Some("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"));
        tokio::time::advance(seconds(10)).await;
        bench.submit(&Check { ip: b"192.0.2.9", ..check("x", "") }, 2);
        bench.decided(2).await;
        watch(&bench, &check("s", ""), &told, 3).unwrap();
        bench.settle().await;
        let known = told.newest();
        assert_eq!((known.verdict, known.origin), (Verdict::Allow, Origin::LastKnown), "{}", known.detail());
        assert_eq!((known.cause, bench.peer.requests()), (Cause::BreakerOpen, 2));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn watches_over_limit_per_ip_are_denied_and_one_that_was_let_through_stays() {
    let says = Rc::new(Cell::new(Some(ALLOW_10)));
    let keys = [EXACT, ("limit.per_ip", "5/h"), ("default_action", "allow"), ("fail_open.overload", "on")];
    with_shard(&keys, minded(&says), |bench| async move {
        let told = Arc::new(Told::default());
        for number in 0..100 {
            watch(&bench, &check(&format!("s{number}"), &format!("token={number}")), &told, number).unwrap();
        }
        sleep(seconds(1)).await;
        assert_eq!((bench.peer.requests(), bench.core.stats().limited), (5, 95));
        for number in 0..100 {
            let verdict = if number < 5 { Verdict::Allow } else { Verdict::Deny };
            assert_eq!(told.verdicts(number), [verdict], "{number}");
        }
        let denied = told.0.lock().iter().find(|(user_data, ..)| *user_data == 99).unwrap().1.clone();
        assert_eq!((denied.origin, denied.cause, denied.last), (Origin::Default, Cause::Overload, false));
        // Asked about again: the five, every 10 s; of the others none.
        sleep(seconds(100)).await;
        assert_eq!(bench.peer.requests(), 5 + 5 * 10);
        assert_eq!(told.len(), 100, "nothing is news");
    })
    .await;
}
