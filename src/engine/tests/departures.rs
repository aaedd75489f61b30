//! More flights than a backend's connections and the line before them take: the others stand by.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::task::yield_now;

use super::support::{ALLOW, Bench, DENY, Defect, Peer, Surroundings, check, with_shard, with_shard_in};
use crate::check::Check;
use crate::config::Config;
use crate::decision::{Cause, Origin, Verdict};
use crate::engine::asking::GRACE;
use crate::engine::chains::{Chain, Chains};
use crate::engine::core::Core;
use crate::engine::departures::LINE;
use crate::engine::shard::OVERDUE;
use crate::engine::transports::Transports;
use crate::engine::{Policy, core};
use crate::observe::Logger;
use crate::transport::Transport;

const ONE: (&str, &str) = ("pool.max_connections", "1");
const PATIENT: (&str, &str) = ("timeout", "30s");
/// One on the connection, those in its line, and others.
const CROWD: usize = 1 + LINE + OTHERS;
const OTHERS: usize = 300;
const LATER: usize = 40;

/// Allows all when the gate is opened, and from then on.
fn gated() -> (Rc<Peer>, Rc<Notify>) {
    let (gate, open) = (Rc::<Notify>::default(), Rc::new(Cell::new(false)));
    let its = Rc::clone(&gate);
    let peer = Peer::new(move |peer, endpoint, mut stream| {
        let (gate, open) = (Rc::clone(&its), Rc::clone(&open));
        async move {
            while peer.request(endpoint, &mut stream).await.is_some() {
                if !open.get() {
                    gate.notified().await;
                    open.set(true);
                }
                if stream.write_all(ALLOW.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    });
    (peer, gate)
}

fn token(of: usize) -> String {
    format!("token={of:05}")
}

/// Each of another session and client.
fn submit_all(bench: &Bench, several: impl Iterator<Item = usize>) -> Vec<u64> {
    let mut tickets = Vec::new();
    for of in several {
        let (session, query) = (format!("s{of}"), token(of));
        let ip = format!("198.51.{}.{}", of / 250, of % 250);
        let check = Check { ip: ip.as_bytes(), ..check(&session, &query) };
        tickets.push(bench.submit(&check, of));
    }
    tickets
}

fn waiting(bench: &Bench) -> usize {
    bench.core.policy().gauges[0].waiting.get() as usize
}

/// The tokens of what the backend was asked, in its order.
fn asked(bench: &Bench) -> Vec<String> {
    let targets = bench.peer.targets();
    targets.iter().map(|target| target[target.find("token=").unwrap()..][..11].to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_crowd_is_asked_in_its_order_and_each_of_it_once() {
    let (peer, gate) = gated();
    with_shard(&[ONE, PATIENT], peer, async |bench| {
        submit_all(&bench, 0..CROWD);
        bench.settle().await;
        assert_eq!((bench.peer.requests(), waiting(&bench)), (1, CROWD - 1), "in line and behind it");
        // Who comes when there is room in the line again is behind them all the same.
        gate.notify_one();
        let all = CROWD + LATER;
        for later in CROWD..all {
            submit_all(&bench, later..=later);
            yield_now().await;
        }
        for of in 0..all {
            let (decision, _) = bench.decided(of).await;
            assert_eq!((decision.verdict, decision.origin), (Verdict::Allow, Origin::Backend), "{of}");
        }
        assert_eq!(asked(&bench), (0..all).map(token).collect::<Vec<_>>());
        assert_eq!((bench.peer.connections(), waiting(&bench)), (1, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_stands_by_is_joined_by_the_same_question_and_no_other() {
    let (peer, gate) = gated();
    with_shard(&[ONE, PATIENT], peer, async |bench| {
        submit_all(&bench, 0..CROWD);
        bench.settle().await;
        bench.submit(&check("late", "token=joined"), CROWD);
        bench.submit(&check("late", "token=joined"), CROWD + 1);
        bench.submit(&check("late", "token=others"), CROWD + 2);
        bench.settle().await;
        assert_eq!(waiting(&bench), CROWD - 1 + 2);
        gate.notify_one();
        for of in CROWD..CROWD + 3 {
            assert_eq!(bench.decided(of).await.0.origin, Origin::Backend);
        }
        assert_eq!(bench.peer.requests(), CROWD + 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_leaves_while_it_stands_by_is_never_asked_and_holds_up_nobody() {
    let (peer, gate) = gated();
    with_shard(&[ONE, PATIENT], peer, async |bench| {
        let tickets = submit_all(&bench, 0..CROWD);
        bench.settle().await;
        // The first, the last, and some between.
        let leave = |of: &usize| *of == LINE + 1 || *of == CROWD - 1 || (*of > LINE && of.is_multiple_of(3));
        for of in (0..CROWD).filter(leave) {
            assert!(bench.cancel(tickets[of]));
        }
        bench.settle().await;
        let stay: Vec<_> = (0..CROWD).filter(|of| !leave(of)).collect();
        assert_eq!(waiting(&bench), stay.len() - 1);
        gate.notify_one();
        for &of in &stay {
            bench.decided(of).await;
        }
        assert_eq!(asked(&bench), stay.into_iter().map(token).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn when_the_breaker_opens_those_who_stand_by_are_told_at_once() {
    // It hangs up on the first request when the gate is opened, and takes no other connection.
    let gate = Rc::<Notify>::default();
    let its = Rc::clone(&gate);
    let peer = Peer::new(move |peer, endpoint, mut stream| {
        let gate = Rc::clone(&its);
        async move {
            peer.request(endpoint, &mut stream).await;
            if peer.requests() == 1 {
                gate.notified().await;
            }
        }
    });
    let crowd = CROWD + 2 * OVERDUE;
    with_shard(&[ONE, PATIENT, ("default_action", "allow")], peer, async |bench| {
        submit_all(&bench, 0..crowd);
        bench.settle().await;
        gate.notify_one();
        let mut open = 0;
        for of in 0..crowd {
            let (decision, after) = bench.decided(of).await;
            assert_eq!((decision.verdict, decision.origin), (Verdict::Allow, Origin::Default), "{of}");
            assert!(after < Duration::from_secs(1), "{of}: not when its time was up");
            open += usize::from(decision.cause == Cause::BreakerOpen);
        }
        assert!(open >= crowd - 10, "{open} of {crowd}");
        assert!(bench.peer.requests() <= 10, "{}", bench.peer.requests());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn when_their_time_is_up_all_are_told_why_and_nobody_is_asked_any_more() {
    let hangs = Peer::answering(|_, _| None);
    let crowd = CROWD + OVERDUE;
    with_shard(&[ONE, ("timeout", "1s"), ("breaker.failures", "0")], hangs, async |bench| {
        submit_all(&bench, 0..crowd);
        for of in 0..crowd {
            let (decision, after) = bench.decided(of).await;
            let cause = if of == 0 { Cause::Timeout } else { Cause::Overload };
            assert_eq!((decision.verdict, decision.cause), (Verdict::Deny, cause), "{of}");
            let late = after.saturating_sub(Duration::from_secs(1));
            assert!(late <= GRACE + Duration::from_millis(2), "{of}: {late:?}");
        }
        bench.settle().await;
        assert_eq!(asked(&bench), [token(0)]);
        assert_eq!((waiting(&bench), bench.core.stats().pending), (0, 0));
    })
    .await;
}

/// As those in line: when nobody ahead of them has got an answer it is the backend's outage, and not our overload.
#[tokio::test(start_paused = true)]
async fn who_stands_by_when_its_time_is_up_learns_that_the_backend_gave_no_answers() {
    let hangs = Peer::answering(|_, _| None);
    let keys = [("pool.max_connections", "8"), ("timeout", "1s"), ("default_action", "allow")];
    with_shard(&keys, hangs, async |bench| {
        let departed = 8 + LINE;
        submit_all(&bench, 0..departed);
        bench.settle().await;
        // A little less than those ahead have, by less than they wait for the word about those.
        let timeout = Some(Duration::from_millis(990));
        bench.submit(&Check { timeout, ..check("late", "token=late") }, departed);
        for of in 0..=departed {
            let (decision, _) = bench.decided(of).await;
            let cause = if of < 8 { Cause::Timeout } else { Cause::BreakerOpen };
            assert_eq!((decision.verdict, decision.cause), (Verdict::Allow, cause), "{of}");
        }
        assert_eq!(bench.peer.requests(), 8);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_leaves_those_who_stand_by_to_the_rules_they_came_under() {
    let (peer, gate) = gated();
    with_shard(&[ONE, PATIENT], peer, async |bench| {
        submit_all(&bench, 0..CROWD);
        bench.settle().await;
        bench.reload(&[ONE, PATIENT, ("allow_statuses", "204")]);
        submit_all(&bench, CROWD..=CROWD);
        bench.settle().await;
        // On a connection of its own, not behind them.
        assert_eq!(asked(&bench), [token(0), token(CROWD)]);
        for _ in 0..2 {
            gate.notify_one();
            bench.settle().await;
        }
        for of in 0..=CROWD {
            let (decision, _) = bench.decided(of).await;
            let verdict = if of == CROWD { Verdict::Deny } else { Verdict::Allow };
            assert_eq!((decision.verdict, decision.origin), (verdict, Origin::Backend), "{of}");
        }
        assert_eq!((bench.peer.requests(), waiting(&bench)), (CROWD + 1, 0));
    })
    .await;
}

/// Of two of one question the answer to the one that was sent later is the newer, whichever was submitted first.
#[tokio::test(start_paused = true)]
async fn what_was_asked_after_it_had_stood_by_is_newer_than_what_departed_meanwhile() {
    const REMEMBERED_DENY: &str = "HTTP/1.1 403 Forbidden\r\nX-AuthDuration: 50\r\nContent-Length: 0\r\n\r\n";
    const REMEMBERED_ALLOW: &str = "HTTP/1.1 200 OK\r\nX-AuthDuration: 50\r\nContent-Length: 0\r\n\r\n";
    let gates = [Rc::<Notify>::default(), Rc::default()];
    let its = gates.clone();
    let peer = Peer::new(move |peer, endpoint, mut stream| {
        let connection = peer.connections() - 1;
        let (gate, reply) = (Rc::clone(&its[connection]), [REMEMBERED_DENY, REMEMBERED_ALLOW][connection]);
        async move {
            while peer.request(endpoint, &mut stream).await.is_some() {
                gate.notified().await;
                gate.notify_one();
                stream.write_all(reply.as_bytes()).await.unwrap();
            }
        }
    });
    with_shard(&[ONE, PATIENT, ("ttl.jitter", "off")], peer, async |bench| {
        submit_all(&bench, 0..CROWD);
        bench.settle().await;
        bench.reload(&[ONE, ("timeout", "29s")]);
        let same = CROWD - 1;
        let (session, query, ip) =
            (format!("s{same}"), token(same), format!("198.51.{}.{}", same / 250, same % 250));
        let again = Check { ip: ip.as_bytes(), ..check(&session, &query) };
        bench.submit(&again, CROWD);
        bench.settle().await;
        assert_eq!(asked(&bench), [token(0), token(same)]);
        gates[0].notify_one();
        assert_eq!(bench.decided(same).await.0.verdict, Verdict::Deny);
        gates[1].notify_one();
        assert_eq!(bench.decided(CROWD).await.0.verdict, Verdict::Allow);
        bench.submit(&again, CROWD + 1);
        let (now, _) = bench.decided(CROWD + 1).await;
        assert_eq!((now.verdict, now.origin), (Verdict::Deny, Origin::Memory));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_defect_of_one_that_is_under_way_is_no_reason_for_others_to_stand_by_for_ever() {
    let (peer, gate) = gated();
    let one_panic = Surroundings { panics: 1, ..Surroundings::default() };
    with_shard_in(one_panic, &[ONE, PATIENT], peer, async |bench| {
        submit_all(&bench, 0..CROWD);
        bench.settle().await;
        bench.peer.break_once(Defect::Lending);
        gate.notify_one();
        let mut lost = 0;
        for of in 0..CROWD {
            let (decision, _) = bench.decided(of).await;
            lost += usize::from(decision.cause == Cause::Internal);
            assert!(decision.origin == Origin::Backend || decision.cause == Cause::Internal, "{decision:?}");
        }
        assert_eq!((lost, waiting(&bench)), (1, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_engine_decides_those_who_stand_by() {
    let hangs = Peer::answering(|_, _| Some(DENY.to_owned()));
    with_shard(&[ONE, PATIENT], hangs, async |bench| {
        submit_all(&bench, 0..CROWD);
        bench.core.ledger.close();
        bench.core.inboxes[0].stop();
        for of in 0..CROWD {
            assert_eq!(bench.decided(of).await.0.cause, Cause::Shutdown);
        }
        assert_eq!(waiting(&bench), 0);
    })
    .await;
}

fn transport(policy: &Policy) -> Rc<Transport> {
    Transport::new(Arc::clone(&policy.shared), Arc::clone(&policy.gauges), 0, 1)
}

fn core_of(keys: &[(&str, &str)]) -> Arc<Core> {
    let mut config = Config::new();
    config.set("default_action", "deny").unwrap();
    for (key, value) in keys {
        config.set(key, value).unwrap();
    }
    core(Arc::new(config.settings().unwrap()), Logger::off()).unwrap().0
}

/// Who leaves without an answer is no reason for a turn, but the end of its exchange is if others stand by.
#[tokio::test(start_paused = true)]
async fn leave_that_is_given_back_has_the_shard_look_if_anybody_stands_by() {
    let core = core_of(&[("backend.url", "http://127.0.0.1:1/auth"), ONE]);
    let looks = Rc::new(Cell::new(0));
    let looked = Rc::clone(&looks);
    let transports = Transports::new(move || looked.set(looked.get() + 1), transport);
    let route = transports.of(&core.policy());
    let mut cleared: Vec<_> = (0..=LINE).map(|_| Rc::clone(&route).clear().ok().unwrap()).collect();
    assert!(Rc::clone(&route).clear().is_err());
    drop(cleared.pop());
    assert_eq!(looks.get(), 0, "nobody stands by");
    let mut chain = Chain::default();
    Chains::default().append(&mut chain, 7);
    route.departures.standby.set(chain);
    assert!(Rc::clone(&route).clear().is_err(), "others are before it");
    drop(cleared.pop());
    assert_eq!(looks.get(), 1);
}

/// How many can be under way at one time is known of one URL over HTTP/1.1 only: everywhere else nobody stands by.
#[tokio::test(start_paused = true)]
async fn nobody_stands_by_where_it_is_not_known_how_many_can_be_asked() {
    let one = ("backend.url", "http://127.0.0.1:1/auth");
    let two = ("backend.url", "http://127.0.0.1:1/auth,http://127.0.0.1:2/auth");
    let tls = ("backend.url", "https://127.0.0.1:1/auth");
    let three = ("pool.max_connections", "3");
    let cases: [(&[(&str, &str)], _); 6] = [
        (&[one, three], Some(3)),
        (&[one, three, ("http.pipeline", "4")], Some(12)),
        (&[one, three, ("http.version", "h2c")], None),
        (&[tls, three], None),
        (&[tls, three, ("http.version", "1.1")], Some(3)),
        (&[two, three], None),
    ];
    for (keys, at_once) in cases {
        assert_eq!(transport(&core_of(keys).policy()).at_once(), at_once, "{keys:?}");
    }
}
