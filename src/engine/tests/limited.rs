//! `limit.per_ip`: what a client may make the backend be asked, counted at the backend.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::advance;

use super::support::{ALLOW, Bench, DENY, Peer, check, with_shard};
use super::viewers::{Says, allow, assert_by, pass, secs, with_viewers};
use crate::check::Check;
use crate::config::Config;
use crate::decision::{Cause, Origin, Verdict};
use crate::engine::Policy;

const SECOND: Duration = Duration::from_secs(1);
const KEPT: &str = "HTTP/1.1 200 OK\r\nX-AuthDuration: 60\r\nContent-Length: 0\r\n\r\n";
const LIMIT: (&str, &str) = ("limit.per_ip", "5/s");

fn saying(reply: &'static str) -> std::rc::Rc<Peer> {
    Peer::answering(move |_, _| Some(reply.to_owned()))
}

/// Guesses of one address, each with a token and a session of its own; how many came from the backend.
async fn guess(bench: &Bench, ip: &str, first: usize, count: usize) -> usize {
    for number in first..first + count {
        let (session, query) = (format!("s{number}"), format!("token={number}"));
        bench.submit(&Check { ip: ip.as_bytes(), ..check(&session, &query) }, number);
    }
    let mut answered = 0;
    for number in first..first + count {
        let (decision, _) = bench.decided(number).await;
        if decision.origin == Origin::Backend {
            answered += 1;
            continue;
        }
        assert_eq!((decision.verdict, decision.origin), (Verdict::Deny, Origin::Default));
        assert_eq!((decision.cause, decision.http_status), (Cause::Overload, None));
        assert!(decision.ttl.is_zero());
        assert!(decision.reason.contains("limit.per_ip"), "{}", decision.reason);
    }
    answered
}

#[tokio::test(start_paused = true)]
async fn guesses_over_the_limit_do_not_reach_the_backend_and_never_allow() {
    let lax = [LIMIT, ("default_action", "allow"), ("fail_open.overload", "on"), ("breaker.failures", "1")];
    with_shard(&lax, saying(DENY), |bench| async move {
        assert_eq!(guess(&bench, "192.0.2.1", 0, 1000).await, 5);
        assert_eq!(bench.peer.requests(), 5);
        let stats = bench.core.stats();
        assert_eq!((stats.limited, stats.remembered, stats.allowed), (995, 0, 0));
        assert_eq!(stats.causes[Cause::Overload as usize], 995);
        assert!(!stats.endpoints[0].breaker_open, "it says nothing of the backend");
        advance(SECOND).await;
        assert_eq!(guess(&bench, "192.0.2.1", 1000, 100).await, 5);
    })
    .await;
    with_shard(&[], saying(DENY), |bench| async move {
        assert_eq!(guess(&bench, "192.0.2.1", 0, 1000).await, 1000, "off by default");
        assert_eq!((bench.peer.requests(), bench.core.stats().limited), (1000, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_client_s_flood_takes_nothing_from_another() {
    with_shard(&[LIMIT], saying(ALLOW), |bench| async move {
        assert_eq!(guess(&bench, "192.0.2.1", 0, 500).await, 5);
        for client in 1..200 {
            let ip = Ipv4Addr::from(0x0a00_0000 + client as u32).to_string();
            assert_eq!(guess(&bench, &ip, client * 1000, 1).await, 1);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_and_who_joins_does_not_count() {
    with_shard(&[("limit.per_ip", "5/h")], saying(KEPT), |bench| async move {
        for number in 0..1000 {
            bench.submit(&check("s", "token=1"), number);
        }
        for number in 0..2000 {
            if number >= 1000 {
                bench.submit(&check("s", "token=1"), number);
            }
            assert_eq!(bench.decided(number).await.0.verdict, Verdict::Allow);
        }
        assert_eq!((bench.peer.requests(), bench.core.stats().limited), (1, 0));
        // Four are left.
        assert_eq!(guess(&bench, "192.0.2.1", 10_000, 100).await, 4);
        // What is remembered is still said.
        bench.submit(&check("s", "token=1"), 20_000);
        assert_eq!(bench.decided(20_000).await.0.origin, Origin::Memory);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn all_without_an_address_are_one() {
    with_shard(&[LIMIT], saying(DENY), |bench| async move {
        assert_eq!(guess(&bench, "", 0, 100).await, 5, "each has a session of its own");
        assert_eq!((bench.peer.requests(), bench.core.stats().limited), (5, 95));
        // The same but for an address.
        assert_eq!(guess(&bench, "192.0.2.1", 1000, 100).await, 5);
        assert_eq!((bench.peer.requests(), bench.core.stats().limited), (10, 190));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn asking_again_ahead_of_the_end_does_not_count() {
    let keys = [("limit.per_ip", "1/h"), ("refresh.ahead", "50%")];
    with_shard(&keys, saying(KEPT), |bench| async move {
        for number in 0..20 {
            bench.submit(&check("s", "token=1"), number);
            assert_eq!(bench.decided(number).await.0.verdict, Verdict::Allow, "{number}");
            advance(SECOND * 20).await;
            bench.settle().await;
        }
        assert!(bench.peer.requests() > 5, "{}", bench.peer.requests());
        assert_eq!(bench.core.stats().limited, 0);
        assert_eq!(guess(&bench, "192.0.2.1", 1000, 1).await, 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_gives_nobody_a_new_share_unless_it_changes_the_limit() {
    with_shard(&[LIMIT], saying(DENY), |bench| async move {
        let turn = |keys: &[(&str, &str)]| {
            let mut config = Config::new();
            config.set("backend.url", "http://127.0.0.1:1/auth").unwrap();
            config.set("default_action", "deny").unwrap();
            for (key, value) in keys {
                config.set(key, value).unwrap();
            }
            let settings = Arc::new(config.settings().unwrap());
            let before = bench.core.policy();
            bench.core.set_policy(Policy::new(settings, Some(&before), &bench.core.log).unwrap());
        };
        assert_eq!(guess(&bench, "192.0.2.1", 0, 10).await, 5);
        turn(&[LIMIT, ("scope", "directory")]);
        assert_eq!(guess(&bench, "192.0.2.1", 100, 10).await, 0);
        turn(&[("limit.per_ip", "6/s")]);
        assert_eq!(guess(&bench, "192.0.2.1", 200, 10).await, 6);
        turn(&[]);
        assert_eq!(guess(&bench, "192.0.2.1", 300, 10).await, 10);
    })
    .await;
}

/// Viewers behind one address, whose share is used up but for one.
#[tokio::test(start_paused = true)]
async fn what_an_open_breaker_stops_does_not_count_and_is_not_denied() {
    let keys = [("limit.per_ip", "4/h"), ("last_known", "1h"), ("breaker.failures", "1")];
    with_viewers(&keys, allow("X-AuthDuration: 10"), |viewers| async move {
        let elsewhere = |session| Check { ip: b"192.0.2.9", ..check(session, "") };
        for session in ["a", "b", "c"] {
            assert_by(&viewers.ask(&check(session, "")).await, Origin::Backend, Verdict::Allow);
        }
        viewers.now_says(Says::Outage);
        pass(secs(10)).await;
        assert_by(&viewers.ask(&elsewhere("x")).await, Origin::Default, Verdict::Deny);
        assert_eq!(viewers.requests(), 4);
        for _ in 0..5 {
            for session in ["a", "b", "c"] {
                let repeated = viewers.ask(&check(session, "")).await;
                assert_by(&repeated, Origin::LastKnown, Verdict::Allow);
                assert_eq!(repeated.cause, Cause::BreakerOpen, "{}", repeated.detail());
            }
            let unknown = viewers.ask(&check("unknown", "")).await;
            assert_by(&unknown, Origin::Default, Verdict::Deny);
            assert_eq!(unknown.cause, Cause::BreakerOpen);
        }
        assert_eq!((viewers.requests(), viewers.bench.core.stats().limited), (4, 0));

        // What is sent counts: the one that finds out, and no other.
        viewers.now_says(allow("X-AuthDuration: 10"));
        pass(secs(60)).await;
        assert_by(&viewers.ask(&check("a", "")).await, Origin::Backend, Verdict::Allow);
        let over = viewers.ask(&check("b", "")).await;
        assert_by(&over, Origin::Default, Verdict::Deny);
        assert_eq!((over.cause, viewers.bench.core.stats().limited), (Cause::Overload, 1));
        assert_eq!(viewers.requests(), 5);
    })
    .await;
}

/// All but one of them the breaker stops a moment later.
#[tokio::test(start_paused = true)]
async fn of_a_burst_when_a_probe_is_due_none_is_denied_for_its_number() {
    for opened in [true, false] {
        let keys = [("limit.per_ip", "4/h"), ("last_known", "1h"), ("breaker.failures", "1")];
        with_viewers(&keys, allow("X-AuthDuration: 10"), |viewers| async move {
            for session in ["a", "b", "c"] {
                assert_by(&viewers.ask(&check(session, "")).await, Origin::Backend, Verdict::Allow);
            }
            let mut requests = 3;
            if opened {
                viewers.now_says(Says::Outage);
                viewers.ask(&Check { ip: b"192.0.2.9", ..check("x", "") }).await;
                viewers.now_says(allow("X-AuthDuration: 10"));
                requests += 1;
            }
            pass(secs(60)).await;
            // One is left.
            let [first, rest @ ..] = ["a", "b", "c"].map(|session| viewers.submit(&check(session, "")));
            assert_by(&viewers.come(first).await.unwrap(), Origin::Backend, Verdict::Allow);
            for one in rest {
                let decision = viewers.come(one).await.unwrap();
                if opened {
                    assert_by(&decision, Origin::LastKnown, Verdict::Allow);
                    assert_eq!(decision.cause, Cause::BreakerOpen, "{}", decision.detail());
                } else {
                    assert_by(&decision, Origin::Default, Verdict::Deny);
                    assert_eq!(decision.cause, Cause::Overload);
                }
            }
            let limited = if opened { 0 } else { 2 };
            assert_eq!((viewers.requests(), viewers.bench.core.stats().limited), (requests + 1, limited));
        })
        .await;
    }
}
