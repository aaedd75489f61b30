//! A shadow is asked what the backend has answered, once an exchange; whatever it does, nobody's decision knows.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, advance, sleep};

use super::said::listened_to;
use super::support::{
    ALLOW, Bench, DENY, Defect, Peer, SHADOW, Surroundings, check, with_shard, with_shard_in,
};
use crate::check::Check;
use crate::decision::{Decision, Origin};
use crate::observe::{LogLevel, ShadowStats};

const URL: (&str, &str) = ("shadow.url", "http://127.0.0.1:2/shadow");
const MS: Duration = Duration::from_millis(1);
const OTHER_USER: &str = "HTTP/1.1 200 OK\r\nX-UserId: canary\r\nContent-Length: 0\r\n\r\n";
/// No answer, and no reason to ask again on another connection.
const GARBAGE: &str = "what?\r\n\r\n";

fn stats(bench: &Bench) -> ShadowStats {
    bench.core.stats().shadow.expect("there is a shadow.url")
}

/// agreed, differed, denied, allowed, unavailable, skipped
fn outcomes(bench: &Bench) -> [u64; 6] {
    let stats = stats(bench);
    [stats.agreed, stats.differed, stats.denied, stats.allowed, stats.unavailable, stats.skipped]
}

/// Requests that the backend and the shadow got.
fn asked(bench: &Bench) -> (usize, usize) {
    (bench.peer.requests_to(0), bench.peer.requests_to(SHADOW))
}

/// The backend allows; the shadow does what is said.
fn against(shadow: Option<&'static str>) -> Rc<Peer> {
    Peer::answering(move |endpoint, _| {
        if endpoint == SHADOW { shadow } else { Some(ALLOW) }.map(str::to_owned)
    })
}

/// One check of a client of its own.
async fn ask(bench: &Bench, client: usize) -> (Decision, Duration) {
    let (session, ip) = (format!("s{client}"), format!("192.0.2.{}", client % 256));
    let before = Instant::now();
    bench.submit(&Check { ip: ip.as_bytes(), ..check(&session, "token=canary") }, client);
    let (decision, at) = bench.decided(client).await;
    (decision, bench.began + at - before)
}

#[tokio::test(start_paused = true)]
async fn it_is_asked_once_an_exchange_and_not_once_a_check() {
    with_shard(&[URL], against(Some(ALLOW)), |bench| async move {
        for user_data in 0..10 {
            bench.submit(&check("s", "token=1"), user_data);
        }
        for user_data in 0..10 {
            assert!(bench.decided(user_data).await.0.allows());
        }
        bench.settle().await;
        assert_eq!((asked(&bench), outcomes(&bench)), ((1, 1), [1, 0, 0, 0, 0, 0]));
        // The same but for one field of the key.
        bench.submit(&check("s", "token=2"), 10);
        bench.decided(10).await;
        bench.settle().await;
        assert_eq!((asked(&bench), outcomes(&bench)), ((2, 2), [2, 0, 0, 0, 0, 0]));
        assert_eq!(bench.peer.targets()[1..3], ["/shadow?token=1", "/auth?token=2"]);
        assert_eq!(bench.core.stats().exchanges, 2, "the backend's alone");
        assert_eq!(bench.core.stats().connections_opened, 1, "the backend's alone");
        let shadow = &stats(&bench).endpoints[0];
        assert_eq!((shadow.endpoint.as_str(), shadow.exchanges), ("http://127.0.0.1:2", 2));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_of_the_backend_it_is_not_asked() {
    let peer = Peer::answering(|endpoint, _| (endpoint == SHADOW).then(|| ALLOW.to_owned()));
    with_shard(&[URL], peer, |bench| async move {
        assert_eq!(ask(&bench, 0).await.0.origin, Origin::Default);
        sleep(MS * 5000).await;
        assert_eq!((asked(&bench), outcomes(&bench)), ((1, 0), [0; 6]));
    })
    .await;
}

/// What the shadow does changes neither what the backend's clients get nor when: not by a millisecond.
#[tokio::test(start_paused = true)]
async fn whatever_it_does_decisions_are_the_same_at_the_same_time() {
    let stalling = |shadow: Option<&'static str>| {
        Peer::new(move |peer, endpoint, mut stream| async move {
            while peer.request(endpoint, &mut stream).await.is_some() {
                let reply = if endpoint == SHADOW {
                    match shadow {
                        None => std::future::pending().await,
                        Some("") => return,
                        Some(reply) => reply,
                    }
                } else {
                    sleep(MS * 7).await;
                    ALLOW
                };
                stream.write_all(reply.as_bytes()).await.unwrap();
            }
        })
    };
    for (shadow, outcome) in [
        (None, [0, 0, 0, 0, 20, 0]),
        (Some(""), [0, 0, 0, 0, 20, 0]),
        (Some(GARBAGE), [0, 0, 0, 0, 20, 0]),
        (Some(DENY), [0, 0, 20, 0, 0, 0]),
        (Some(ALLOW), [20, 0, 0, 0, 0, 0]),
    ] {
        with_shard(&[URL], stalling(shadow), |bench| async move {
            for client in 0..20 {
                let (decision, took) = ask(&bench, client).await;
                assert!(decision.allows() && decision.origin == Origin::Backend, "{decision:?}");
                assert_eq!(took, MS * 7, "{shadow:?}");
            }
            sleep(MS * 5000).await;
            assert_eq!(outcomes(&bench), outcome, "{shadow:?}");
            let stats = bench.core.stats();
            assert_eq!((stats.submitted, stats.completed, stats.allowed, stats.exchanges), (20, 20, 20, 20));
            assert_eq!((stats.retries, stats.restarts), (0, 0), "{shadow:?}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_allow_of_the_shadow_lets_nobody_in() {
    let peer = Peer::answering(|endpoint, _| {
        let long = "HTTP/1.1 200 OK\r\nX-AuthDuration: 600\r\nContent-Length: 0\r\n\r\n";
        Some(if endpoint == SHADOW { long } else { DENY }.to_owned())
    });
    with_shard(&[URL, ("last_known", "10m")], peer, |bench| async move {
        for client in [1, 2] {
            let session = check("s", "token=1");
            bench.submit(&session, client);
            let (decision, _) = bench.decided(client).await;
            assert!(!decision.allows() && decision.origin == Origin::Backend, "{decision:?}");
            bench.settle().await;
        }
        assert_eq!((asked(&bench), outcomes(&bench)), ((2, 2), [0, 0, 0, 2, 0, 0]));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn it_writes_no_memory_and_takes_nothing_out_of_it() {
    let lives = "HTTP/1.1 200 OK\r\nX-AuthDuration: 600\r\nContent-Length: 0\r\n\r\n";
    for (backend, shadow, remembered) in [(ALLOW, lives, 0), (lives, ALLOW, 1), (lives, DENY, 1)] {
        let peer = Peer::answering(move |endpoint, _| {
            Some(if endpoint == SHADOW { shadow } else { backend }.to_owned())
        });
        with_shard(&[URL], peer, |bench| async move {
            bench.submit(&check("s", "token=1"), 0);
            bench.decided(0).await;
            bench.settle().await;
            assert_eq!((asked(&bench), bench.core.stats().remembered), ((1, 1), remembered));
            bench.submit(&check("s", "token=1"), 1);
            let (decision, _) = bench.decided(1).await;
            bench.settle().await;
            assert!(decision.allows());
            assert_eq!(decision.origin == Origin::Memory, remembered == 1);
            let both = 2 - remembered as usize;
            assert_eq!(asked(&bench), (both, both), "what memory answers is no exchange");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn its_outages_open_its_own_breaker_and_never_the_backend_s() {
    with_shard(&[URL], against(Some(GARBAGE)), |bench| async move {
        // All at once: no answer of the backend comes between the shadow's outages.
        for client in 0..50 {
            let (session, ip) = (format!("s{client}"), format!("192.0.2.{client}"));
            bench.submit(&Check { ip: ip.as_bytes(), ..check(&session, "") }, client);
        }
        for client in 0..50 {
            assert_eq!(bench.decided(client).await.0.origin, Origin::Backend);
        }
        bench.settle().await;
        assert_eq!((asked(&bench), outcomes(&bench)), ((50, 50), [0, 0, 0, 0, 50, 0]));
        for client in 50..100 {
            assert_eq!(ask(&bench, client).await.0.origin, Origin::Backend);
        }
        bench.settle().await;
        assert_eq!((asked(&bench), outcomes(&bench)), ((100, 50), [0, 0, 0, 0, 100, 0]));
        let stats = bench.core.stats();
        assert_eq!((stats.endpoints[0].breaker_open, stats.endpoints[0].breaker_opened), (false, 0));
        let shadow = &stats.shadow.unwrap().endpoints[0];
        assert_eq!((shadow.breaker_open, shadow.breaker_opened), (true, 1));
    })
    .await;
    // And the backend's own is not closed by a shadow that answers.
    let peer =
        Peer::answering(|endpoint, _| Some(if endpoint == SHADOW { ALLOW } else { GARBAGE }.to_owned()));
    with_shard(&[URL], peer, |bench| async move {
        for client in 0..50 {
            assert_eq!(ask(&bench, client).await.0.origin, Origin::Default);
        }
        assert_eq!(asked(&bench), (5, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn no_more_questions_than_its_bound_are_pending_and_the_rest_is_counted() {
    let keys = [URL, ("shadow.max_pending", "3"), ("breaker.failures", "0")];
    with_shard(&keys, against(None), |bench| async move {
        for round in 1..=2_u64 {
            for client in 0..100 {
                let client = client + round as usize * 100;
                assert!(ask(&bench, client).await.0.allows());
            }
            assert_eq!(outcomes(&bench), [0, 0, 0, 0, 3 * (round - 1), 97 * round]);
            assert_eq!(stats(&bench).endpoints[0].connections_open, 3);
            sleep(MS * 3000).await;
            assert_eq!(outcomes(&bench), [0, 0, 0, 0, 3 * round, 97 * round]);
        }
        assert_eq!(asked(&bench), (200, 6));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_question_that_is_too_long_for_the_shadow_alone_is_skipped() {
    let long = "x".repeat(30 * 1024);
    let keys = [URL, ("shadow.param.p", long.as_str())];
    with_shard(&keys, against(Some(ALLOW)), |bench| async move {
        let query = "q".repeat(5 * 1024);
        bench.submit(&check("s", &query), 0);
        assert!(bench.decided(0).await.0.allows());
        bench.settle().await;
        assert_eq!((asked(&bench), outcomes(&bench)), ((1, 0), [0, 0, 0, 0, 0, 1]));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_share_of_the_answers_is_a_share_of_the_questions() {
    for (share, least, most) in [("0%", 0, 0), ("50%", 400, 600), ("100%", 1000, 1000)] {
        with_shard(&[URL, ("shadow.share", share)], against(Some(ALLOW)), |bench| async move {
            for client in 0..1000 {
                ask(&bench, client).await;
            }
            bench.settle().await;
            let (backend, shadow) = asked(&bench);
            assert_eq!(backend, 1000);
            assert!((least..=most).contains(&shadow), "{share}: {shadow}");
            assert_eq!(outcomes(&bench), [shadow as u64, 0, 0, 0, 0, 0]);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_defect_while_it_is_asked_costs_that_question_and_nothing_else() {
    let surroundings = Surroundings { panics: 1, ..Surroundings::default() };
    let keys = [URL, ("shadow.max_pending", "1")];
    with_shard_in(surroundings, &keys, against(Some(ALLOW)), |bench| async move {
        ask(&bench, 0).await;
        bench.settle().await;
        bench.peer.break_once(Defect::LendingToShadow);
        assert!(ask(&bench, 1).await.0.allows());
        bench.settle().await;
        assert_eq!(outcomes(&bench), [1, 0, 0, 0, 0, 1]);
        // Its place was given back.
        assert!(ask(&bench, 2).await.0.allows());
        bench.settle().await;
        assert_eq!(outcomes(&bench), [2, 0, 0, 0, 0, 1]);
        assert_eq!(bench.core.stats().restarts, 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn disagreements_are_logged_once_a_kind_and_period_and_say_nothing_of_the_client() {
    let (lines, surroundings) = listened_to();
    let flips = Rc::new(Cell::new(DENY));
    let says = Rc::clone(&flips);
    let peer = Peer::answering(move |endpoint, _| {
        let other = if says.get() == ALLOW { DENY } else { ALLOW };
        Some(if endpoint == SHADOW { says.get() } else { other }.to_owned())
    });
    with_shard_in(surroundings, &[URL], peer, |bench| async move {
        for client in 0..50 {
            ask(&bench, client).await;
        }
        bench.settle().await;
        let denied = "the shadow refuses what the backend allows: status 403 (the status is not in allow_statuses) \
                      against status 200 (allowed by the backend)";
        assert_eq!(lines.take(), [(LogLevel::Warn, denied.to_owned())]);
        flips.set(ALLOW);
        ask(&bench, 50).await;
        bench.settle().await;
        assert!(lines.said()[0].starts_with("the shadow allows what the backend refuses: status 200"));
        flips.set(DENY);
        advance(MS * 10_000).await;
        ask(&bench, 51).await;
        bench.settle().await;
        assert_eq!(lines.said()[1], format!("{denied}; 49 more like it since the last such line"));
        flips.set(OTHER_USER);
        ask(&bench, 52).await;
        bench.settle().await;
        let differs = "the shadow allows as the backend does, and differs in: user id";
        assert_eq!(lines.said()[2], differs);
        assert_eq!(lines.said().len(), 3);
        assert_eq!(outcomes(&bench), [0, 1, 51, 1, 0, 0]);
        for line in lines.said() {
            for told in ["canary", "/ch/", "s50", "192.0.2", "/shadow"] {
                assert!(!line.contains(told), "{line}");
            }
        }
    })
    .await;
}
