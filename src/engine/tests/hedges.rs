//! Hedging: who is asked a second time for the sake of time, counted at the backend.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use super::support::{ALLOW, Bench, DENY, Peer, SHADOW, check, with_shard};
use crate::check::Check;
use crate::config::Config;
use crate::decision::{Cause, Decision, Origin, Verdict};
use crate::outage::Client;

const MS: Duration = Duration::from_millis(1);
const TWO: (&str, &str) = ("backend.url", "http://127.0.0.1:1/auth,http://127.0.0.1:2/auth");
const THREE: (&str, &str) =
    ("backend.url", "http://127.0.0.1:1/auth,http://127.0.0.1:2/auth,http://127.0.0.1:3/auth");
const AFTER: (&str, &str) = ("hedge.after", "50ms");
/// The most there may be.
const MANY: (&str, &str) = ("hedge.max", "40%");
/// No answer, and no reason to ask again on another connection.
const GARBAGE: &str = "what?\r\n\r\n";
const LATE: &str = "HTTP/1.1 403 Late\r\nX-UserId: late\r\nContent-Length: 0\r\n\r\n";

/// What each endpoint does about targets with `slow` in them: what it says, and after how long. All else it allows at once.
fn slow(says: &'static [(u64, &'static str)]) -> Rc<Peer> {
    Peer::new(move |peer, endpoint, mut stream| async move {
        while let Some(target) = peer.request(endpoint, &mut stream).await {
            let (after, reply) = if target.contains("slow") { says[endpoint] } else { (1, ALLOW) };
            sleep(MS * after as u32).await;
            if stream.write_all(reply.as_bytes()).await.is_err() {
                return;
            }
        }
    })
}

async fn ask(bench: &Bench, number: usize, query: &str) -> (Decision, Duration) {
    let asked = bench.began.elapsed();
    bench.submit(&check(&format!("s{number}"), query), number);
    let (decision, at) = bench.decided(number).await;
    (decision, at.saturating_sub(asked))
}

/// Traffic that a part of may be hedged.
async fn traffic(bench: &Bench, count: usize) {
    for number in 1_000_000..1_000_000 + count {
        assert!(ask(bench, number, "").await.0.allows());
        bench.forget(number);
    }
}

fn hedges(bench: &Bench) -> (u64, u64) {
    let stats = bench.core.stats();
    (stats.hedges, stats.hedges_won)
}

/// Who loses to its company says nothing for or against itself: enough must be asked without.
#[tokio::test(start_paused = true)]
async fn a_backend_that_hangs_is_left_alone_also_where_as_many_are_hedged_as_may_be() {
    const DAY: u64 = 86_400_000;
    let keys = [TWO, AFTER, MANY, ("timeout", "1s"), ("breaker.failures", "5")];
    with_shard(&keys, slow(&[(DAY, ALLOW), (10, ALLOW)]), |bench| async move {
        traffic(&bench, 20).await;
        let mut asked = 0;
        while !bench.core.stats().endpoints[0].breaker_open {
            asked += 1;
            assert!(asked <= 300, "its breaker stays closed: {:?}", hedges(&bench));
            // Outages of one client count once.
            let (id, ip) = (format!("s{asked}"), format!("192.0.2.{}", asked % 200));
            bench.submit(&Check { ip: ip.as_bytes(), ..check(&id, "slow") }, asked);
            assert!(bench.decided(asked).await.0.allows());
        }
        assert!(hedges(&bench).1 > 5, "most were hedged");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_is_slow_is_given_company_and_the_first_answer_decides() {
    for (second, verdict) in [(ALLOW, Verdict::Allow), (DENY, Verdict::Deny)] {
        let says: &'static [_] =
            if second == ALLOW { &[(900, DENY), (10, ALLOW)] } else { &[(900, ALLOW), (10, DENY)] };
        with_shard(&[TWO, AFTER, MANY], slow(says), |bench| async move {
            traffic(&bench, 10).await;
            let (decision, took) = ask(&bench, 1, "slow").await;
            assert_eq!((decision.verdict, decision.origin), (verdict, Origin::Backend));
            assert!(took >= MS * 60 && took < MS * 70, "{took:?}");
            assert_eq!((bench.peer.requests_to(0), bench.peer.requests_to(1)), (11, 1));
            assert_eq!(hedges(&bench), (1, 1));
        })
        .await;
    }
    // The first one comes first after all.
    with_shard(&[TWO, AFTER, MANY], slow(&[(100, ALLOW), (900, DENY)]), |bench| async move {
        traffic(&bench, 10).await;
        let (decision, took) = ask(&bench, 1, "slow").await;
        assert!(decision.allows() && took < MS * 110, "{took:?}");
        assert_eq!((bench.peer.requests_to(1), hedges(&bench)), (1, (1, 0)));
    })
    .await;
    // It is in time.
    with_shard(&[TWO, AFTER, MANY], slow(&[(40, ALLOW), (1, DENY)]), |bench| async move {
        traffic(&bench, 10).await;
        assert!(ask(&bench, 1, "slow").await.0.allows());
        assert_eq!((bench.peer.requests_to(1), hedges(&bench)), (0, (0, 0)));
    })
    .await;
    // Off by default.
    with_shard(&[TWO, MANY], slow(&[(900, ALLOW), (1, DENY)]), |bench| async move {
        traffic(&bench, 10).await;
        assert!(ask(&bench, 1, "slow").await.0.allows());
        assert_eq!((bench.peer.requests_to(1), hedges(&bench)), (0, (0, 0)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_one_leaves_the_check_to_the_other() {
    let cases: [(&'static [(u64, &str)], u64); 2] =
        [(&[(300, ALLOW), (10, GARBAGE)], 300), (&[(100, GARBAGE), (300, ALLOW)], 350)];
    for (says, after) in cases {
        with_shard(&[TWO, AFTER, MANY], slow(says), |bench| async move {
            traffic(&bench, 10).await;
            let (decision, took) = ask(&bench, 1, "slow").await;
            assert_eq!((decision.verdict, decision.origin), (Verdict::Allow, Origin::Backend));
            let after = MS * after as u32;
            assert!(took >= after && took < after + MS * 10, "{took:?}");
            assert_eq!(bench.peer.requests(), 12);
        })
        .await;
    }
    with_shard(&[TWO, AFTER, MANY], slow(&[(100, GARBAGE), (100, GARBAGE)]), |bench| async move {
        traffic(&bench, 10).await;
        let (decision, _) = ask(&bench, 1, "slow").await;
        assert_eq!((decision.origin, decision.cause), (Origin::Default, Cause::Protocol));
        assert_eq!(bench.peer.requests(), 12, "each was asked once");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_small_part_of_the_traffic_is_hedged_and_no_more() {
    let keys = [TWO, AFTER, ("pool.max_connections", "1000")];
    with_shard(&keys, slow(&[(200, ALLOW), (200, ALLOW)]), |bench| async move {
        for number in 0..400 {
            bench.submit(&check(&format!("s{number}"), "slow"), number);
        }
        for number in 0..400 {
            assert!(bench.decided(number).await.0.allows());
        }
        let (sent, _) = hedges(&bench);
        assert_eq!(bench.peer.requests() as u64, 400 + sent);
        assert!(sent * 20 <= 400 + sent, "{sent}: 5 % by default");
        assert!(sent >= 10, "{sent}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_only_backend_is_asked_on_another_connection_and_the_late_reply_is_nobody_s() {
    let peer = Peer::new(|peer, endpoint, mut stream| async move {
        while let Some(target) = peer.request(endpoint, &mut stream).await {
            // Slow is the first connection that is asked.
            if target.contains("slow") && peer.requests() == 11 {
                sleep(MS * 400).await;
                let _ = stream.write_all(LATE.as_bytes()).await;
                continue;
            }
            if stream.write_all(ALLOW.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    with_shard(&[AFTER, MANY], peer, |bench| async move {
        traffic(&bench, 10).await;
        assert_eq!(bench.peer.connections(), 1);
        let (decision, took) = ask(&bench, 1, "slow").await;
        assert!(decision.allows() && took < MS * 60, "{took:?}");
        assert_eq!((bench.peer.connections(), bench.peer.requests(), hedges(&bench)), (2, 12, (1, 1)));
        for number in 100..1000 {
            let (decision, _) = ask(&bench, number, "").await;
            assert!(decision.allows() && decision.user_id().is_empty(), "{number}");
        }
        assert_eq!(bench.core.stats().connections_open, 1, "that of the late reply was closed");
        assert_eq!(bench.peer.connections(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn no_hedge_goes_where_it_would_worsen_a_shortage_or_to_an_open_breaker() {
    // One connection, and others wait for it.
    let keys = [AFTER, MANY, ("pool.max_connections", "1")];
    with_shard(&keys, slow(&[(200, ALLOW)]), |bench| async move {
        traffic(&bench, 50).await;
        for number in 0..5 {
            bench.submit(&check(&format!("s{number}"), "slow"), number);
        }
        for number in 0..5 {
            assert!(bench.decided(number).await.0.allows());
        }
        assert_eq!((bench.peer.requests(), hedges(&bench)), (55, (0, 0)));
    })
    .await;
    // The second has room, but at the first they queue.
    let keys = [TWO, AFTER, MANY, ("pool.max_connections", "1")];
    with_shard(&keys, slow(&[(200, ALLOW), (10, ALLOW)]), |bench| async move {
        traffic(&bench, 50).await;
        for number in 0..3 {
            bench.submit(&check(&format!("s{number}"), "slow"), number);
        }
        for number in 0..3 {
            assert!(bench.decided(number).await.0.allows());
        }
        assert_eq!(hedges(&bench).0, 0);
        ask(&bench, 10, "slow").await;
        assert_eq!(hedges(&bench).0, 1, "with nobody in line");
    })
    .await;
    // The second one's breaker is open, the third is asked.
    with_shard(&[THREE, AFTER, MANY], slow(&[(900, DENY), (1, ALLOW), (1, ALLOW)]), |bench| async move {
        traffic(&bench, 10).await;
        let health = &bench.core.policy().health[1];
        for client in 0..5 {
            let client = [client];
            health.admit(Client::At(&client)).unwrap().failed(Client::At(&client), None, "");
        }
        assert!(health.is_open());
        assert!(ask(&bench, 1, "slow").await.0.allows());
        assert_eq!((bench.peer.requests_to(1), bench.peer.requests_to(2)), (0, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn p95_waits_for_enough_answers_and_then_as_long_as_most_of_them_took() {
    let keys = [TWO, ("hedge.after", "p95"), MANY];
    with_shard(&keys, slow(&[(900, ALLOW), (1, ALLOW)]), |bench| async move {
        traffic(&bench, 50).await;
        ask(&bench, 1, "slow").await;
        assert_eq!(hedges(&bench), (0, 0), "too few");
        traffic(&bench, 100).await;
        let (_, took) = ask(&bench, 2, "slow").await;
        assert!(took < MS * 10, "{took:?}");
        assert_eq!(hedges(&bench), (1, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_check_makes_three_requests_at_most_hedged_or_not() {
    let says: &'static [_] = &[(100, GARBAGE), (100, GARBAGE), (100, GARBAGE)];
    with_shard(&[THREE, AFTER, MANY, ("breaker.failures", "0")], slow(says), |bench| async move {
        traffic(&bench, 50).await;
        for number in 0..20 {
            let before = bench.peer.requests();
            assert_eq!(ask(&bench, number, "slow").await.0.origin, Origin::Default);
            assert!(bench.peer.requests() - before <= 3);
        }
        assert!(hedges(&bench).0 > 5);
    })
    .await;
    // Connections that die before they say anything may be asked again: not beside a hedge at the same backend.
    let dying = Peer::new(|peer, endpoint, mut stream| async move {
        while let Some(target) = peer.request(endpoint, &mut stream).await {
            if target.contains("slow") {
                sleep(MS * 100).await;
                return;
            }
            let _ = stream.write_all(ALLOW.as_bytes()).await;
        }
    });
    with_shard(&[AFTER, MANY, ("breaker.failures", "0")], dying, |bench| async move {
        for number in 0..20 {
            traffic(&bench, 20).await;
            let before = bench.peer.requests();
            ask(&bench, number, "slow").await;
            assert!(bench.peer.requests() - before <= 2, "{}", bench.peer.requests() - before);
        }
        assert!(hedges(&bench).0 > 5);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_asks_ahead_of_the_end_has_time() {
    let peer = Peer::new(|peer, endpoint, mut stream| async move {
        while let Some(target) = peer.request(endpoint, &mut stream).await {
            if target.contains("slow") && peer.requests() > 15 {
                sleep(MS * 500).await;
            }
            let kept = "HTTP/1.1 200 OK\r\nX-AuthDuration: 60\r\nContent-Length: 0\r\n\r\n";
            let _ = stream.write_all(kept.as_bytes()).await;
        }
    });
    let keys = [AFTER, MANY, ("refresh.ahead", "50%"), ("ttl.jitter", "off")];
    with_shard(&keys, peer, |bench| async move {
        traffic(&bench, 12).await;
        ask(&bench, 1, "slow").await;
        sleep(MS * 40_000).await;
        // What was asked ten seconds ago does not count for a hedge.
        for number in [10, 11] {
            ask(&bench, number, "").await;
        }
        assert_eq!(ask(&bench, 2, "slow").await.0.origin, Origin::Backend, "of another session");
        sleep(MS * 1000).await;
        assert_eq!(bench.peer.requests(), 17, "asked, and hedged");
        bench.submit(&check("s1", "slow"), 3);
        assert_eq!(bench.decided(3).await.0.origin, Origin::Memory);
        sleep(MS * 2000).await;
        assert_eq!(bench.peer.requests(), 18, "refreshed, and not hedged");
    })
    .await;
}

#[test]
fn what_contradicts_hedging_is_refused_by_name() {
    for (keys, key, says) in [
        (&[AFTER, ("backend.mode", "any")][..], "hedge.after", "backend.mode = any"),
        (&[AFTER, ("backend.preset", "ministra")], "hedge.after", "backend.preset = ministra"),
        (
            &[("hedge.after", "p95"), ("backend.preset", "iptvportal")],
            "hedge.after",
            "backend.preset = iptvportal",
        ),
        (&[AFTER, ("hedge.max", "0%")], "hedge.max", "does nothing"),
        (&[("hedge.after", "2s")], "hedge.after", "not below timeout = 2s"),
    ] {
        let mut config = Config::new();
        config.set("backend.url", "http://127.0.0.1:1/auth").unwrap();
        config.set("default_action", "deny").unwrap();
        for (key, value) in keys {
            config.set(key, value).unwrap();
        }
        let error = config.settings().unwrap_err();
        assert_eq!(error.key(), Some(key));
        assert!(error.to_string().contains(says), "{error}");
    }
    let mut config = Config::new();
    let error = config.set("hedge.after", "p96").unwrap_err().to_string();
    assert!(error.ends_with("or off, p95"), "{error}");
    let error = config.set("hedge.max", "41%").unwrap_err().to_string();
    assert!(error.contains("too high"), "{error}");
}

/// Of three addresses of one name the first is slow, once; the shadow says the opposite, later.
#[tokio::test(start_paused = true)]
async fn beside_a_shadow_a_hedge_goes_to_the_next_address_and_each_answer_counts_once() {
    let addresses: [IpAddr; 3] = [1, 2, 3].map(|last| IpAddr::from([192, 0, 2, last]));
    let peer = Peer::new(|peer, place, mut stream| async move {
        while let Some(target) = peer.request(place, &mut stream).await {
            let is_slow = target.contains("slow") && place == 1;
            let after = if place > SHADOW { 300 } else { 10 };
            sleep(MS * if is_slow { 900 } else { after }).await;
            let reply = if place > SHADOW { DENY } else { ALLOW };
            if stream.write_all(reply.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    let keys = [AFTER, MANY, ("shadow.url", "http://127.0.0.1:2/shadow")];
    with_shard(&keys, peer, |bench| async move {
        bench.peer.stand_for(&bench.core, &addresses);
        traffic(&bench, 10).await;
        let before = [1, 2, 3].map(|place| bench.peer.requests_to(place));
        let (decision, took) = ask(&bench, 1, "slow").await;
        assert_eq!((decision.verdict, decision.origin), (Verdict::Allow, Origin::Backend));
        assert!(took >= MS * 60 && took < MS * 70, "{took:?}");
        sleep(MS * 5000).await;
        let after = [1, 2, 3].map(|place| bench.peer.requests_to(place));
        assert_eq!((before, after), ([10, 0, 0], [11, 1, 0]));
        assert_eq!(hedges(&bench), (1, 1));
        let stats = bench.core.stats();
        assert_eq!((stats.submitted, stats.completed, stats.allowed, stats.exchanges), (11, 11, 11, 12));
        let shadow = stats.shadow.unwrap();
        let to_shadow: usize = (SHADOW..SHADOW + 30).map(|place| bench.peer.requests_to(place)).sum();
        assert_eq!((to_shadow, shadow.denied, shadow.agreed), (11, 11, 0), "each was asked about once");
    })
    .await;
    // The same with a single address: the same one is asked again.
    with_shard(&[AFTER, MANY], slow(&[(900, ALLOW)]), |bench| async move {
        traffic(&bench, 10).await;
        assert!(ask(&bench, 1, "slow").await.0.allows());
        assert_eq!((bench.peer.requests_to(0), hedges(&bench).0), (12, 1));
    })
    .await;
}
