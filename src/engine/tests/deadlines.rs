//! Each check has its own deadline; an exchange has one of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{advance, sleep};

use super::support::{ALLOW, DENY, Peer, check, with_shard};
use crate::check::Check;
use crate::decision::{Cause, Origin, Verdict};
use crate::engine::asking::GRACE;
use crate::engine::batch::Batch;
use crate::engine::completion::{Completed, Receiver, Tag};
use crate::engine::shard::OVERDUE;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn between(time: Duration, from: u64, to: u64) -> bool {
    (ms(from)..=ms(to)).contains(&time)
}

#[tokio::test(start_paused = true)]
async fn a_hung_backend_gets_the_default_action_at_each_check_s_own_deadline() {
    for (action, verdict) in [("deny", Verdict::Deny), ("allow", Verdict::Allow)] {
        let keys = [("timeout", "2s"), ("default_action", action)];
        with_shard(&keys, Peer::answering(|_, _| None), |bench| async move {
            bench.submit(&check("a", ""), 1);
            bench.submit(&Check { timeout: Some(ms(300)), ..check("b", "") }, 2);
            bench.submit(&Check { timeout: Some(ms(9000)), ..check("c", "") }, 3);
            for (user_data, at) in [(2, 300), (1, 2000), (3, 2000)] {
                let (decision, after) = bench.decided(user_data).await;
                assert_eq!((decision.verdict, decision.origin), (verdict, Origin::Default));
                assert_eq!(decision.cause, Cause::Timeout);
                assert!(between(after, at, at + 10), "{user_data}: {after:?}");
                assert!(decision.detail().contains("waiting for the first byte"), "{}", decision.detail());
            }
        })
        .await;
    }
}

/// How many decisions came at a time, and how often the neighbour had run by then, who is woken each time.
#[derive(Default)]
struct Batches {
    told: Mutex<Vec<(usize, usize)>>,
    neighbour: Notify,
    ran: AtomicUsize,
}

impl Receiver for Batches {
    fn receive(&self, batch: &mut Vec<Completed>) {
        self.told.lock().push((batch.len(), self.ran.load(Ordering::Relaxed)));
        self.neighbour.notify_one();
        batch.drain(..).for_each(|completed| drop(completed.take()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_crowd_whose_time_is_up_at_once_is_told_bit_by_bit_and_no_later() {
    const CROWD: usize = 5000;
    // The exchanges have more time than those who wait for them.
    let keys = [("timeout", "30s"), ("inbox.capacity", "5000")];
    with_shard(&keys, Peer::answering(|_, _| None), |bench| async move {
        let told = Arc::<Batches>::default();
        let receiver: Arc<dyn Receiver> = Arc::clone(&told) as _;
        let its = Arc::clone(&told);
        spawn_local(async move {
            loop {
                its.neighbour.notified().await;
                its.ran.fetch_add(1, Ordering::Relaxed);
            }
        });
        for number in 0..CROWD {
            let session = number.to_string();
            let tag = Tag { user_data: number, owner: 0 };
            let check = Check { timeout: Some(ms(2000)), ..check(&session, "") };
            Batch::new(&bench.core, 1).submit(&check, &receiver, tag, |_| ()).unwrap();
        }
        sleep(ms(2000) + GRACE + ms(2)).await;
        let batches = told.told.lock().clone();
        assert_eq!(batches.iter().map(|(count, _)| count).sum::<usize>(), CROWD);
        assert!(batches.iter().all(|&(count, _)| count <= OVERDUE), "{batches:?}");
        let others_run = batches.windows(2).all(|two| two[0].1 < two[1].1);
        assert!(others_run, "{batches:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_half_a_request_refuses_or_is_an_outage() {
    for (lane, reply, expected) in [
        ("wire", ALLOW, (Verdict::Allow, Origin::Default, Cause::Protocol)),
        ("hyper", ALLOW, (Verdict::Allow, Origin::Default, Cause::Protocol)),
        ("wire", DENY, (Verdict::Deny, Origin::Backend, Cause::None)),
        ("hyper", DENY, (Verdict::Deny, Origin::Backend, Cause::None)),
    ] {
        // Nobody reads further than the first byte.
        let peer = Peer::new(move |_, _, mut stream| async move {
            stream.read_u8().await.unwrap();
            stream.write_all(reply.as_bytes()).await.unwrap();
            std::future::pending::<()>().await;
        });
        peer.room.set(64);
        with_shard(&[("http.lane", lane), ("default_action", "allow")], peer, |bench| async move {
            bench.submit(&check("s", "token=1"), 0);
            let (decision, after) = bench.decided(0).await;
            assert_eq!((decision.verdict, decision.origin, decision.cause), expected, "{lane}: {reply}");
            assert!(between(after, 0, 10), "{after:?}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn waiters_with_time_left_move_once_into_one_new_exchange() {
    // The first exchange hangs, the second answers.
    let peer = Peer::new(|peer, endpoint, mut stream| async move {
        while peer.request(endpoint, &mut stream).await.is_some() {
            if peer.requests() > 1 {
                stream.write_all(ALLOW.as_bytes()).await.unwrap();
            }
        }
    });
    with_shard(&[("timeout", "1s")], peer, |bench| async move {
        bench.submit(&check("s", ""), 0);
        sleep(ms(500)).await;
        for user_data in 1..=50 {
            bench.submit(&check("s", ""), user_data);
        }
        let (first, after) = bench.decided(0).await;
        assert_eq!(first.cause, Cause::Timeout);
        assert!(between(after, 1000, 1010), "{after:?}");
        for user_data in 1..=50 {
            let (decision, after) = bench.decided(user_data).await;
            assert_eq!((decision.verdict, decision.origin), (Verdict::Allow, Origin::Backend));
            assert!(between(after, 1000, 1020), "{after:?}");
        }
        assert_eq!(bench.peer.requests(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn time_in_the_inbox_counts_and_is_our_load_not_the_backend_s_silence() {
    let keys = [("timeout", "1s"), ("default_action", "allow")];
    with_shard(&keys, Peer::answering(|_, _| Some(ALLOW.into())), |bench| async move {
        bench.submit(&Check { timeout: Some(ms(5)), ..check("s", "") }, 1);
        // The I/O thread does not get to run before the deadline.
        advance(ms(6)).await;
        let (decision, _) = bench.decided(1).await;
        assert_eq!((decision.verdict, decision.cause), (Verdict::Deny, Cause::Overload));
        assert_eq!(bench.peer.requests(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_connection_until_the_deadline_is_overload_and_denies() {
    let keys = [("timeout", "1s"), ("pool.max_connections", "1"), ("default_action", "allow")];
    with_shard(&keys, Peer::answering(|_, _| None), |bench| async move {
        bench.submit(&check("holds", ""), 1);
        bench.submit(&check("waits", ""), 2);
        let (holds, _) = bench.decided(1).await;
        assert_eq!((holds.verdict, holds.cause), (Verdict::Allow, Cause::Timeout));
        let (waits, _) = bench.decided(2).await;
        assert_eq!((waits.verdict, waits.cause), (Verdict::Deny, Cause::Overload));
    })
    .await;
}

/// Another that is dead as well changes nothing, nor does the order; nor whether the check's own time is up first.
#[tokio::test(start_paused = true)]
async fn want_of_a_connection_at_one_backend_denies_whatever_outage_there_is_at_another() {
    for (mode, dead) in [("failover", 0), ("failover", 1), ("any", 0), ("any", 1)] {
        for own in [None, Some(ms(900))] {
            let keys = [
                ("backend.url", "http://127.0.0.1:1/auth,http://127.0.0.1:2/auth"),
                ("backend.mode", mode),
                ("timeout", "1s"),
                ("pool.max_connections", "1"),
                ("breaker.failures", "0"),
                ("default_action", "allow"),
            ];
            let peer = Peer::answering(|_, _| None);
            peer.closed.set(Some(dead));
            with_shard(&keys, peer, |bench| async move {
                bench.submit(&check("holds", ""), 1);
                bench.submit(&Check { timeout: own, ..check("waits", "") }, 2);
                let (waits, _) = bench.decided(2).await;
                let case = format!("{mode}, {dead} is dead, {own:?}: {waits:?}");
                assert_eq!((waits.verdict, waits.cause), (Verdict::Deny, Cause::Overload), "{case}");
                assert!(waits.detail().contains("waiting for a free connection"), "{case}");
                assert_eq!(bench.decided(1).await.0.verdict, Verdict::Allow, "{case}");
            })
            .await;
        }
    }
}

/// In a window it waits for the backend, which has not answered those before it.
#[tokio::test(start_paused = true)]
async fn who_waits_for_its_turn_in_a_window_has_a_connection_and_is_no_overload() {
    let keys = [
        ("http.pipeline", "8"),
        ("pool.max_connections", "1"),
        ("timeout", "2s"),
        ("default_action", "allow"),
    ];
    let answers = std::cell::Cell::new(3);
    let answering = Peer::answering(move |_, _| {
        answers.set(answers.get() - 1);
        (answers.get() >= 0).then(|| DENY.to_owned())
    });
    with_shard(&keys, answering, |bench| async move {
        for of in 0..11 {
            // Sooner than the window is given up.
            bench.submit(&Check { timeout: Some(ms(200)), ..check(&of.to_string(), "") }, of);
        }
        let mut by = Vec::new();
        for of in 0..11 {
            let (decision, _) = bench.decided(of).await;
            by.push((decision.origin, decision.cause, decision.verdict));
        }
        let backend = (Origin::Backend, Cause::None, Verdict::Deny);
        let late = (Origin::Default, Cause::Timeout, Verdict::Allow);
        assert_eq!(by, [[backend; 3].as_slice(), &[late; 8]].concat());
    })
    .await;
}

/// What one that refused its connection came to says nothing of the other, which has the request.
#[tokio::test(start_paused = true)]
async fn a_backend_that_hangs_beside_one_that_refuses_is_a_timeout_and_no_overload() {
    let keys = [
        ("backend.url", "http://127.0.0.1:1/auth,http://127.0.0.1:2/auth"),
        ("backend.mode", "any"),
        ("timeout", "1s"),
        ("default_action", "allow"),
        ("breaker.failures", "0"),
    ];
    for closed in [0, 1] {
        let hangs = Peer::answering(|_, _| None);
        hangs.closed.set(Some(closed));
        with_shard(&keys, hangs, |bench| async move {
            bench.submit(&check("s", ""), 1);
            let (decision, _) = bench.decided(1).await;
            assert_eq!(
                (decision.verdict, decision.cause),
                (Verdict::Allow, Cause::Timeout),
                "{closed} refuses"
            );
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn fail_open_overload_lets_the_default_action_answer_overload() {
    let keys = [
        ("timeout", "1s"),
        ("pool.max_connections", "1"),
        ("default_action", "allow"),
        ("fail_open.overload", "on"),
    ];
    with_shard(&keys, Peer::answering(|_, _| None), |bench| async move {
        bench.submit(&check("holds", ""), 1);
        bench.submit(&check("waits", ""), 2);
        let (waits, _) = bench.decided(2).await;
        assert_eq!((waits.verdict, waits.cause), (Verdict::Allow, Cause::Overload));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refusing_status_line_refuses_whatever_follows() {
    // (after the status line, the default action that must not be applied)
    for rest in ["", "Content-Le", "Content-Length: 0\r\n"] {
        let script = move |peer: std::rc::Rc<Peer>, endpoint, mut stream: tokio::io::DuplexStream| async move {
            while peer.request(endpoint, &mut stream).await.is_some() {
                let start = format!("HTTP/1.1 403 Forbidden\r\n{rest}");
                stream.write_all(start.as_bytes()).await.unwrap();
            }
        };
        let keys = [("timeout", "1s"), ("default_action", "allow")];
        with_shard(&keys, Peer::new(script), |bench| async move {
            bench.submit(&check("s", ""), 1);
            let (decision, after) = bench.decided(1).await;
            assert_eq!((decision.verdict, decision.origin), (Verdict::Deny, Origin::Backend));
            assert_eq!((decision.cause, decision.http_status), (Cause::None, Some(403)));
            assert!(decision.ttl.is_zero());
            assert!(after <= ms(1010), "{after:?}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_allowing_status_line_alone_does_not_allow() {
    let script = |peer: std::rc::Rc<Peer>, endpoint, mut stream: tokio::io::DuplexStream| async move {
        while peer.request(endpoint, &mut stream).await.is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n").await.unwrap();
        }
    };
    with_shard(&[("timeout", "1s")], Peer::new(script), |bench| async move {
        bench.submit(&check("s", ""), 1);
        let (decision, _) = bench.decided(1).await;
        assert_eq!((decision.verdict, decision.origin), (Verdict::Deny, Origin::Default));
        assert_eq!((decision.cause, decision.http_status), (Cause::Timeout, Some(200)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn failover_shares_the_budget_between_endpoints() {
    let keys = [("backend.url", "http://127.0.0.1:1/a,http://127.0.0.1:2/b"), ("timeout", "2s")];
    let peer = Peer::answering(|endpoint, _| (endpoint == 1).then(|| ALLOW.into()));
    with_shard(&keys, peer, |bench| async move {
        bench.submit(&check("s", ""), 1);
        let (decision, after) = bench.decided(1).await;
        assert_eq!((decision.verdict, decision.origin), (Verdict::Allow, Origin::Backend));
        assert!(between(after, 1000, 1010), "{after:?}");
        assert_eq!((bench.peer.requests_to(0), bench.peer.requests_to(1)), (1, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_time_is_divided_among_those_who_can_still_be_asked() {
    let urls: Vec<_> = (1..=8).map(|port| format!("http://127.0.0.1:{port}/")).collect();
    let urls = urls.join(",");
    // Three at most are asked: each has a third of what is left, of 2,100 ms.
    for (answers, at) in [(0, 600), (1, 1300), (2, 2000)] {
        let peer = Peer::new(move |peer, endpoint, mut stream| async move {
            while peer.request(endpoint, &mut stream).await.is_some() {
                if endpoint != answers {
                    return std::future::pending().await;
                }
                sleep(ms(600)).await;
                let _ = stream.write_all(ALLOW.as_bytes()).await;
            }
        });
        with_shard(&[("backend.url", &urls), ("timeout", "2100ms")], peer, |bench| async move {
            bench.submit(&check("s", ""), 1);
            let (decision, after) = bench.decided(1).await;
            assert!(decision.allows(), "{}", decision.detail());
            assert!(between(after, at, at + 10), "{after:?}");
        })
        .await;
    }
    // To which no connection comes is not asked: all of the others may be.
    let peer = Peer::answering(|_, _| Some(ALLOW.into()));
    peer.silent.set(Some(0));
    peer.silent_endpoints.set(7);
    with_shard(&[("backend.url", &urls), ("timeout", "2s")], peer, |bench| async move {
        bench.submit(&check("s", ""), 1);
        let (decision, after) = bench.decided(1).await;
        assert!(decision.allows() && between(after, 1910, 1920), "{after:?}: {}", decision.detail());
    })
    .await;
    // Who is asked as well when the first is slow has no smaller part.
    let peer = Peer::new(move |peer, endpoint, mut stream| async move {
        while let Some(target) = peer.request(endpoint, &mut stream).await {
            if target.contains("slow") {
                if endpoint != 1 {
                    return std::future::pending().await;
                }
                sleep(ms(900)).await;
            }
            let _ = stream.write_all(ALLOW.as_bytes()).await;
        }
    });
    let keys =
        [("backend.url", &*urls), ("timeout", "2100ms"), ("hedge.after", "100ms"), ("hedge.max", "40%")];
    with_shard(&keys, peer, |bench| async move {
        for number in 10..60 {
            bench.submit(&check(&format!("s{number}"), ""), number);
            assert!(bench.decided(number).await.0.allows());
        }
        bench.submit(&check("s", "slow"), 1);
        let (decision, _) = bench.decided(1).await;
        assert!(decision.allows(), "{}", decision.detail());
        assert_eq!(bench.core.stats().hedges, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_never_asked_elsewhere() {
    let keys = [("backend.url", "http://127.0.0.1:1/a,http://127.0.0.1:2/b")];
    let peer = Peer::answering(|endpoint, _| Some(if endpoint == 0 { DENY } else { ALLOW }.into()));
    with_shard(&keys, peer, |bench| async move {
        bench.submit(&check("s", ""), 1);
        let (decision, _) = bench.decided(1).await;
        assert_eq!((decision.verdict, decision.origin), (Verdict::Deny, Origin::Backend));
        assert_eq!(bench.peer.requests_to(1), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_check_makes_three_requests_at_most() {
    // Every endpoint reads the request and closes.
    let peer = Peer::new(|peer, endpoint, mut stream| async move {
        peer.request(endpoint, &mut stream).await;
    });
    let urls = "http://127.0.0.1:1/a,http://127.0.0.1:2/b,http://127.0.0.1:3/c,http://127.0.0.1:4/d";
    with_shard(&[("backend.url", urls)], peer, |bench| async move {
        bench.submit(&check("s", ""), 1);
        let (decision, _) = bench.decided(1).await;
        assert_eq!(decision.cause, Cause::Reset);
        assert_eq!(bench.peer.requests(), 3);
    })
    .await;
}
