//! What an independent reading found, where two features meet: watches, revocations, reloads, outages, limits.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::support::{ALLOW, Bench, DENY, Peer, Surroundings, check, with_shard, with_shard_in};
use super::viewers::{Says, allow, assert_by, deny, pass, secs, with_viewers};
use crate::check::Check;
use crate::decision::{Decision, Origin, Verdict};
use crate::engine::batch::Batch;
use crate::engine::completion::{Completed, Receiver, Tag};
use crate::engine::inbox::{Asked, News};
use crate::engine::ledger::{Ledger, Room, Ticket};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
#[derive(Default)]
struct Told(Mutex<Vec<(usize, Decision, Instant)>>);
impl Receiver for Told {
    fn receive(&self, batch: &mut Vec<Completed>) {
        for completed in batch.drain(..) {
            completed.hand_over(|u, d| self.0.lock().push((u, d, Instant::now())));
        }
    }
}
impl Told {
    fn all(&self) -> Vec<(usize, Verdict, Origin, bool)> {
        self.0.lock().iter().map(|(u, d, _)| (*u, d.verdict, d.origin, d.last)).collect()
    }
}
fn watch(bench: &Bench, check: &Check<'_>, told: &Arc<Told>, user_data: usize) -> u64 {
    let receiver: Arc<dyn Receiver> = Arc::clone(told) as _;
    Batch::new(&bench.core, 0).watch(check, &receiver, Tag { user_data, owner: 0 }, |_| ()).unwrap()
}
fn minded(says: &Rc<Cell<Option<&'static str>>>) -> Rc<Peer> {
    let says = Rc::clone(says);
    Peer::answering(move |_, _| says.get().map(str::to_owned))
}
const ALLOW_10: &str = "HTTP/1.1 200 OK\r\nX-AuthDuration: 10\r\nX-UserId: u1\r\nContent-Length: 0\r\n\r\n";
const ALLOW_1000: &str =
    "HTTP/1.1 200 OK\r\nX-AuthDuration: 1000\r\nX-UserId: u1\r\nContent-Length: 0\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_user_s_revocation_in_an_outage_ends_its_watch() {
    let says = Rc::new(Cell::new(Some(ALLOW_10)));
    with_shard(
        &[("ttl.jitter", "off"), ("timeout", "1s"), ("default_action", "allow")],
        minded(&says),
        |bench| async move {
            let told = Arc::new(Told::default());
            watch(&bench, &check("s", ""), &told, 1);
            sleep(seconds(1)).await;
            says.set(None);
            sleep(seconds(20)).await;
            bench.core.revoke_user(b"u1");
            sleep(seconds(200)).await;
            assert!(
                told.all().iter().any(|t| t.3),
                "the host was told user u1; the user was revoked; the watch goes on"
            );
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_lower_ttl_max_cuts_what_a_watch_holds() {
    let says = Rc::new(Cell::new(Some(ALLOW_1000)));
    with_shard(&[("ttl.jitter", "off")], minded(&says), |bench| async move {
        let told = Arc::new(Told::default());
        watch(&bench, &check("s", ""), &told, 1);
        sleep(seconds(1)).await;
        says.set(Some(DENY));
        bench.reload(&[("ttl.max", "5s")]);
        sleep(seconds(60)).await;
        assert_eq!(told.all().len(), 2, "asked about again within ttl.max");
    })
    .await;
}

/// Whether the exchange is the watch's own, or that of a check of the same question.
#[tokio::test(start_paused = true)]
async fn a_lower_ttl_max_cuts_what_is_on_its_way_to_a_watch() {
    for by_check in [false, true] {
        let gate = Rc::<Notify>::default();
        let its = Rc::clone(&gate);
        let peer = Peer::new(move |peer, endpoint, mut stream| {
            let gate = Rc::clone(&its);
            async move {
                while peer.request(endpoint, &mut stream).await.is_some() {
                    // The first says it to the watch at once where a check is to bring the news.
                    if !by_check || peer.requests() > 1 {
                        gate.notified().await;
                    }
                    stream.write_all(ALLOW_1000.as_bytes()).await.unwrap();
                }
            }
        });
        with_shard(&[("ttl.jitter", "off")], peer, |bench| async move {
            let told = Arc::new(Told::default());
            watch(&bench, &check("s", ""), &told, 1);
            bench.settle().await;
            let asked = if by_check {
                bench.submit(&Check { fresh: true, ..check("s", "") }, 2);
                bench.settle().await;
                2
            } else {
                1
            };
            assert_eq!(bench.peer.requests(), asked);
            bench.reload(&[("ttl.max", "5s")]);
            bench.settle().await;
            gate.notify_one();
            bench.settle().await;
            assert_eq!(told.all().len(), 1);
            gate.notify_one();
            sleep(seconds(6)).await;
            assert_eq!(bench.peer.requests(), asked + 1, "by a check: {by_check}");
        })
        .await;
    }
}

/// As long as it has waited counts: one that is due by the new interval is asked about at once.
#[tokio::test(start_paused = true)]
async fn a_lower_watch_interval_reaches_the_watches_that_wait_for_it() {
    for (says, asked) in [(ALLOW, [2, 3]), (ALLOW_1000, [1, 1])] {
        let keys = [("ttl.jitter", "off"), ("watch.interval", "1h")];
        with_shard(&keys, Peer::answering(move |_, _| Some(says.to_owned())), |bench| async move {
            let told = Arc::new(Told::default());
            watch(&bench, &check("s", ""), &told, 1);
            sleep(seconds(20)).await;
            assert_eq!(bench.peer.requests(), 1);
            bench.reload(&[("watch.interval", "10s")]);
            for (passed, asked) in [0, 10].into_iter().zip(asked) {
                sleep(seconds(passed)).await;
                bench.settle().await;
                assert_eq!(bench.peer.requests(), asked, "after {passed} s: {says}");
            }
            // A longer one is for what comes.
            bench.reload(&[("watch.interval", "1h")]);
            sleep(seconds(11)).await;
            assert_eq!(bench.peer.requests(), if asked[1] == 1 { 1 } else { asked[1] + 1 });
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_cancelled_before_it_is_taken_in_is_gone() {
    let says = Rc::new(Cell::new(Some(ALLOW_10)));
    with_shard(&[("ttl.jitter", "off")], minded(&says), |bench| async move {
        let told = Arc::new(Told::default());
        let receiver: Arc<dyn Receiver> = Arc::clone(&told) as _;
        // Another thread cancels as soon as *ticket is written.
        let core = Arc::clone(&bench.core);
        Batch::new(&bench.core, 1)
            .watch(&check("s", ""), &receiver, Tag { user_data: 1, owner: 0 }, |ticket| {
                assert!(core.cancel(Ticket::from_number(ticket)));
            })
            .unwrap();
        sleep(seconds(100)).await;
        assert!(bench.peer.requests() <= 1, "asked about for ever");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_does_not_stretch_what_is_last_known() {
    let keys = [("expired", "keep"), ("refresh", "never"), ("last_known", "60s"), ("default_action", "deny")];
    with_viewers(&keys, allow("X-AuthDuration: 0"), |viewers| async move {
        let check = check("s", "");
        viewers.ask(&check).await;
        viewers.now_says(Says::Outage);
        for _ in 0..20 {
            pass(secs(30)).await;
            viewers.ask(&check).await;
        }
        let d = viewers.ask(&check).await;
        assert_by(&d, Origin::Default, Verdict::Deny);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_must_be_revalidated_is_not_kept() {
    let keys = [("expired", "keep"), ("refresh", "never"), ("default_action", "deny")];
    with_viewers(&keys, allow("Cache-Control: max-age=10, must-revalidate"), |viewers| async move {
        let check = check("s", "");
        viewers.ask(&check).await;
        viewers.now_says(deny(""));
        pass(secs(15)).await;
        let d = viewers.ask(&check).await;
        assert_by(&d, Origin::Backend, Verdict::Deny);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_overload_lets_no_revoked_session_in() {
    let keys = [
        ("overload", "default"),
        ("fail_open.overload", "on"),
        ("default_action", "allow"),
        ("inbox.capacity", "1"),
    ];
    with_shard(&keys, Peer::answering(|_, _| None), |bench| async move {
        bench.core.revoke(b"s");
        bench.submit(&check("x", ""), 1);
        bench.settle().await;
        bench.submit(&check("s", ""), 2);
        let (d, _) = bench.decided(2).await;
        assert_eq!(d.verdict, Verdict::Deny);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_overload_lets_no_revoked_user_in() {
    const USER: &str = "HTTP/1.1 200 OK\r\nX-AuthDuration: 600\r\nX-UserId: u\r\nContent-Length: 0\r\n\r\n";
    for (revoked, verdict) in [("u", Verdict::Deny), ("v", Verdict::Allow)] {
        let keys = [
            ("overload", "default"),
            ("fail_open.overload", "on"),
            ("default_action", "allow"),
            ("inbox.capacity", "1"),
        ];
        let says = Rc::new(Cell::new(Some(USER)));
        let peer = Rc::clone(&says);
        with_shard(&keys, Peer::answering(move |_, _| peer.get().map(Into::into)), |bench| async move {
            bench.submit(&check("s", ""), 1);
            assert_eq!(bench.decided(1).await.0.verdict, Verdict::Allow);
            says.set(None);
            bench.core.revoke_user(revoked.as_bytes());
            bench.submit(&check("x", ""), 2);
            bench.settle().await;
            bench.submit(&Check { fresh: true, ..check("s", "") }, 3);
            assert_eq!(bench.decided(3).await.0.verdict, verdict, "{revoked}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn cancelled_watches_leave_no_exchange_waiting() {
    let keys = [("watch.max", "2"), ("pool.max_connections", "1"), ("timeout", "30s")];
    with_shard(&keys, Peer::answering(|_, _| None), |bench| async move {
        let told = Arc::new(Told::default());
        for n in 0..5000 {
            let ticket = watch(&bench, &check(&format!("s{n}"), ""), &told, n);
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            assert!(bench.core.cancel(Ticket::from_number(ticket)));
            tokio::task::yield_now().await;
        }
        bench.settle().await;
        let waiting = bench.core.stats().connections_waiting;
        assert!(waiting < 10, "exchanges that nobody wants");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_gives_no_place_away() {
    const ONE: &str = "HTTP/1.1 200 OK\r\nX-AuthDuration: 10\r\nX-UserId: u1\r\nX-Max-Sessions: 1\r\nContent-Length: 0\r\n\r\n";
    let says = Rc::new(Cell::new(Some(ONE)));
    let keys = [
        ("ttl.jitter", "off"),
        ("timeout", "1s"),
        ("default_action", "allow"),
        ("sessions.enforce", "newest"),
        ("breaker.failures", "0"),
        ("watch.interval", "1h"),
    ];
    with_shard(&keys, minded(&says), |bench| async move {
        let told = Arc::new(Told::default());
        sleep(seconds(100)).await;
        watch(&bench, &check("a", ""), &told, 1);
        sleep(seconds(1)).await;
        says.set(None);
        sleep(seconds(15)).await;
        says.set(Some(ONE));
        bench.submit(&check("b", ""), 2);
        let (d, _) = bench.decided(2).await;
        assert_eq!(d.verdict, Verdict::Deny, "a's watch is open");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_switched_on_counts_the_watches_that_are_open() {
    const ONE: &str = "HTTP/1.1 200 OK\r\nX-AuthDuration: 100\r\nX-UserId: u1\r\nX-Max-Sessions: 1\r\nContent-Length: 0\r\n\r\n";
    let says = Rc::new(Cell::new(Some(ONE)));
    with_shard(&[("ttl.jitter", "off")], minded(&says), |bench| async move {
        let told = Arc::new(Told::default());
        watch(&bench, &check("a", ""), &told, 1);
        sleep(seconds(1)).await;
        bench.reload(&[("sessions.enforce", "newest")]);
        sleep(seconds(150)).await; // asked about again at 100 s under the new rules
        bench.submit(&check("b", ""), 2);
        let (d, _) = bench.decided(2).await;
        assert_eq!(d.verdict, Verdict::Deny, "a's watch is open");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_after_a_reload_is_asked_about_by_the_new_rules() {
    let mut wrong = Vec::new();
    for k in 0..8 {
        let told = Arc::new(Told::default());
        let told2 = Arc::clone(&told);
        let of = Rc::new(std::cell::RefCell::new(None::<Rc<Bench>>));
        let of2 = Rc::clone(&of);
        let peer = Peer::new(move |peer, endpoint, mut stream| {
            let (of, told) = (Rc::clone(&of2), Arc::clone(&told2));
            async move {
                use tokio::io::AsyncWriteExt;
                while let Some(target) = peer.request(endpoint, &mut stream).await {
                    let _ = stream.write_all(ALLOW_1000.as_bytes()).await;
                    if target.contains("held") {
                        for _ in 0..k {
                            tokio::task::yield_now().await;
                        }
                        let bench = of.borrow().clone().unwrap();
                        bench.reload(&[("allow_statuses", "204")]);
                        watch(&bench, &check("s", ""), &told, 2);
                    }
                }
            }
        });
        with_shard_in(
            Surroundings { hooked: true, ..Surroundings::default() },
            &[("ttl.jitter", "off")],
            peer,
            |bench| async move {
                *of.borrow_mut() = Some(Rc::clone(&bench));
                bench.submit(&check("h", "held"), 1);
                sleep(seconds(10)).await;
                *of.borrow_mut() = None;
            },
        )
        .await;
        if told.all().iter().any(|t| t.0 == 2 && t.1 == Verdict::Allow) {
            wrong.push((k, told.all()));
        }
    }
    assert!(wrong.is_empty());
}

#[test]
fn no_check_s_ticket_is_a_watch_s() {
    let ledger = Ledger::new(1, 0, u64::MAX).unwrap();
    for _ in 0..3 {
        let t = ledger.reserve(Room::Usual, 0, 0).unwrap();
        assert!(!crate::engine::watch::is_watch(t.number()));
        ledger.release(t);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_endpoint_corroborates_nothing_about_one_that_answers() {
    const GARBAGE: &str = "what?\r\n\r\n";
    let peer = Peer::answering(|endpoint, target| {
        Some(if endpoint == 0 || target.contains("poison") { GARBAGE } else { ALLOW }.to_owned())
    });
    let keys = [
        ("backend.url", "http://127.0.0.1:1/a,http://127.0.0.1:2/b"),
        ("default_action", "allow"),
        ("fail_open", "corroborated"),
    ];
    with_shard(&keys, peer, |bench| async move {
        for n in 0..20 {
            let ip = format!("198.51.100.{n}");
            bench.submit(&Check { ip: ip.as_bytes(), ..check(&format!("s{n}"), "") }, n);
            let (d, _) = bench.decided(n).await;
            assert_eq!((d.verdict, d.origin), (Verdict::Allow, Origin::Backend), "the second answers");
        }
        bench.submit(&check("p", "poison=1"), 100);
        let (d, _) = bench.decided(100).await;
        assert_eq!(d.verdict, Verdict::Deny, "only itself failed, the backend answers everyone else");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_no_revoked_session_in() {
    let told = Arc::new(Told::default());
    let told2 = Arc::clone(&told);
    with_shard(
        &[("default_action", "allow"), ("timeout", "30s")],
        Peer::answering(|_, _| None),
        |bench| async move {
            bench.core.revoke(b"s");
            watch(&bench, &check("s", ""), &told2, 1);
            sleep(seconds(1)).await;
        },
    )
    .await;
    assert_eq!(told.all(), [(1, Verdict::Deny, Origin::Default, true)]);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_no_revoked_user_in() {
    let told = Arc::new(Told::default());
    let told2 = Arc::clone(&told);
    let says = Rc::new(Cell::new(Some(ALLOW_1000)));
    let keys = [("default_action", "allow"), ("timeout", "30s")];
    with_shard(&keys, minded(&says), |bench| async move {
        bench.submit(&check("s", ""), 1);
        assert_eq!(bench.decided(1).await.0.user_id(), "u1");
        bench.core.revoke_user(b"u1");
        says.set(None);
        watch(&bench, &check("s", ""), &told2, 1);
        watch(&bench, &check("another", ""), &told2, 2);
        sleep(seconds(1)).await;
    })
    .await;
    let mut last = told.all();
    last.sort_unstable_by_key(|told| told.0);
    assert_eq!(
        last,
        [(1, Verdict::Deny, Origin::Default, true), (2, Verdict::Allow, Origin::Default, true)],
        "nothing is known of the other"
    );
}

/// What it waits for is older than what it was told meanwhile.
#[tokio::test(start_paused = true)]
async fn a_watch_is_not_told_an_older_allow_after_a_newer_refusal() {
    // The first answer comes after the second.
    let peer = Peer::new(|peer, endpoint, mut stream| async move {
        while peer.request(endpoint, &mut stream).await.is_some() {
            let (after, reply) = if peer.requests() == 1 { (3, ALLOW_1000) } else { (1, DENY) };
            sleep(seconds(after)).await;
            let _ = stream.write_all(reply.as_bytes()).await;
        }
    });
    with_shard(&[("ttl.jitter", "off"), ("timeout", "10s")], peer, |bench| async move {
        let told = Arc::new(Told::default());
        watch(&bench, &check("s", ""), &told, 1);
        sleep(Duration::from_millis(500)).await;
        bench.reload(&[("timeout", "9s")]);
        bench.submit(&Check { fresh: true, ..check("s", "") }, 1);
        assert_eq!(bench.decided(1).await.0.verdict, Verdict::Deny);
        sleep(seconds(5)).await;
        assert_eq!(told.all(), [(1, Verdict::Deny, Origin::Backend, false)]);
        assert_eq!(bench.peer.requests(), 2);
        // And it has its next turn.
        sleep(seconds(30)).await;
        assert_eq!(bench.peer.requests(), 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_moves_while_its_session_is_revoked_ends() {
    let says = Rc::new(Cell::new(Some(ALLOW_1000)));
    with_shard(&[("ttl.jitter", "off")], minded(&says), |bench| async move {
        let told = Arc::new(Told::default());
        let receiver: Arc<dyn Receiver> = Arc::clone(&told) as _;
        let policy = bench.core.policy();
        let question = policy.accept(&check("s", "")).unwrap();
        let hash = bench.core.hash_of_key(question.key());
        let mark = bench.core.revocations.mark(bench.core.session(b"s"));
        // Open before the revocation, on its way from one thread to another (turn_watch_to): on this one Void comes first.
        let w =
            bench.core.watches.open(10, &receiver, Tag { user_data: 2, owner: 0 }, Instant::now()).unwrap();
        bench.core.revoke(b"s");
        bench.core.inboxes[0].tell(News::Watch(w, Asked { policy, question, hash, mark }, None));
        sleep(seconds(1)).await;
        assert!(told.all().iter().any(|t| t.3), "ended at once");
    })
    .await;
}

/// What a watch is told from memory ends with what is remembered: its time has not begun anew.
#[tokio::test(start_paused = true)]
async fn a_lower_ttl_max_counts_from_when_the_decision_was_made_and_not_from_when_a_watch_was_told() {
    const ALLOW_10H: &str = "HTTP/1.1 200 OK\r\nX-AuthDuration: 36000\r\nContent-Length: 0\r\n\r\n";
    for (lower, at_once) in [("1h", true), ("2h", false)] {
        let says = Rc::new(Cell::new(Some(ALLOW_10H)));
        with_shard(&[("ttl.jitter", "off")], minded(&says), |bench| async move {
            let told = Arc::new(Told::default());
            bench.submit(&check("s", ""), 1);
            bench.decided(1).await;
            sleep(seconds(59 * 60)).await;
            watch(&bench, &check("s", ""), &told, 2);
            sleep(seconds(2 * 60)).await;
            assert_eq!(
                (bench.peer.requests(), told.all()),
                (1, vec![(2, Verdict::Allow, Origin::Memory, false)])
            );
            bench.reload(&[("ttl.max", lower)]);
            bench.settle().await;
            assert_eq!(bench.peer.requests(), if at_once { 2 } else { 1 }, "{lower}");
            sleep(seconds(58 * 60)).await;
            assert_eq!(bench.peer.requests(), if at_once { 2 } else { 1 }, "{lower}");
            sleep(seconds(2 * 60)).await;
            assert_eq!(bench.peer.requests(), 2, "{lower}");
        })
        .await;
    }
}
