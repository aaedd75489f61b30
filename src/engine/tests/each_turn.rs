//! What happens between two turns of the tasks, at each of them: a cancel, a revocation, a reload, the end of a connection or of the
//! engine, while checks are on their way in, out or back. Nobody waits for what has gone, and nobody gets what was asked
//! before.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::support::{Bench, DENY, Peer, check, with_shard};
use crate::decision::{Cause, Origin, Verdict};

/// More than a check needs from its submit to its decision.
const TURNS: usize = 48;
/// Nothing here takes time, but time that stands still moves on while a decision is waited for.
const AT_ONCE: Duration = Duration::from_millis(10);

const LANES: [[(&str, &str); 2]; 3] = [
    [("http.lane", "wire"), ("http.pipeline", "1")],
    [("http.lane", "wire"), ("http.pipeline", "8")],
    [("http.lane", "hyper"), ("http.pipeline", "1")],
];

const REMEMBERED: &str = "HTTP/1.1 200 OK\r\nX-AuthDuration: 100\r\nContent-Length: 0\r\n\r\n";

/// Allows `good`, and says so for a while.
fn backend() -> Rc<Peer> {
    Peer::answering(|_, target| Some(if target.contains("good") { REMEMBERED } else { DENY }.to_owned()))
}

/// In each lane, with each number of turns.
async fn at_each_turn(peer: impl Fn() -> Rc<Peer>, test: impl AsyncFn(&Bench, usize)) {
    for lane in LANES {
        for turns in 0..TURNS {
            let keys = [&lane[..], &[("ttl.jitter", "off")]].concat();
            with_shard(&keys, peer(), async |bench| {
                let at_once = timeout(AT_ONCE, test(&bench, turns)).await;
                at_once.unwrap_or_else(|_| panic!("{lane:?}, after {turns} turns: somebody waits"));
            })
            .await;
        }
    }
}

async fn pass(turns: usize) {
    for _ in 0..turns {
        yield_now().await;
    }
}

async fn assert_allowed(bench: &Bench, user_data: usize, turns: usize) {
    let (decision, _) = bench.decided(user_data).await;
    let by = (decision.verdict, decision.origin);
    assert!(
        matches!(by, (Verdict::Allow, Origin::Backend | Origin::Memory)),
        "after {turns} turns: {decision:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_check_behind_another_shares_its_answer_whenever_it_comes() {
    at_each_turn(backend, async |bench, turns| {
        bench.submit(&check("s", "good"), 1);
        pass(turns).await;
        bench.submit(&check("s", "good"), 2);
        assert_allowed(bench, 1, turns).await;
        assert_allowed(bench, 2, turns).await;
        assert_eq!(bench.peer.requests(), 1, "after {turns} turns");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_check_behind_a_revocation_is_asked_itself_whenever_that_comes() {
    at_each_turn(backend, async |bench, turns| {
        bench.submit(&check("s", "good"), 1);
        pass(turns).await;
        bench.core.revoke(b"s");
        bench.submit(&check("s", "good"), 2);
        assert_allowed(bench, 2, turns).await;
        bench.decided(1).await;
        assert_eq!(bench.peer.requests(), 2, "after {turns} turns");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_check_behind_a_reload_is_judged_by_the_new_rules_whenever_that_comes() {
    at_each_turn(backend, async |bench, turns| {
        bench.submit(&check("s", "good"), 1);
        pass(turns).await;
        bench.reload(&[("allow_statuses", "204")]);
        bench.submit(&check("s", "good"), 2);
        let (decision, _) = bench.decided(2).await;
        assert_eq!(
            (decision.verdict, decision.origin),
            (Verdict::Deny, Origin::Backend),
            "after {turns} turns"
        );
        bench.decided(1).await;
        assert_eq!(bench.peer.requests(), 2, "after {turns} turns");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_takes_nothing_from_anybody_else_whenever_it_comes() {
    at_each_turn(backend, async |bench, turns| {
        let leaves = bench.submit(&check("s", "good"), 1);
        let alone = bench.submit(&check("t", "good"), 2);
        bench.submit(&check("s", "good"), 3);
        pass(turns).await;
        let cancelled = [leaves, alone].map(|ticket| bench.cancel(ticket));
        bench.submit(&check("u", "bad"), 4);
        assert_allowed(bench, 3, turns).await;
        let (decision, _) = bench.decided(4).await;
        assert_eq!(
            (decision.verdict, decision.origin),
            (Verdict::Deny, Origin::Backend),
            "after {turns} turns"
        );
        bench.settle().await;
        assert_eq!(cancelled, [1, 2].map(|of| bench.decision(of).is_none()), "after {turns} turns");
        let of_s = bench.peer.requests() - usize::from(!cancelled[1]);
        assert!((2..=3).contains(&of_s), "after {turns} turns: {of_s}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_engine_decides_every_check_whenever_it_comes() {
    let (answered, ended) = (Cell::new(0), Cell::new(0));
    at_each_turn(backend, async |bench, turns| {
        for user_data in 1..=3 {
            bench.submit(&check(["a", "b", "b"][user_data - 1], "good"), user_data);
        }
        pass(turns).await;
        bench.core.ledger.close();
        bench.core.inboxes[0].stop();
        for user_data in 1..=3 {
            let (decision, _) = bench.decided(user_data).await;
            let told = (decision.verdict, decision.origin, decision.cause);
            let count = match told {
                (Verdict::Allow, Origin::Backend, Cause::None) => &answered,
                (Verdict::Deny, Origin::Default, Cause::Shutdown) => &ended,
                _ => panic!("after {turns} turns: {told:?}"),
            };
            count.set(count.get() + 1);
        }
    })
    .await;
    assert!(answered.get() > 0 && ended.get() > 0, "{answered:?} {ended:?}");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_connection_keeps_nobody_waiting_whenever_it_comes() {
    let (turns_of_one, reset) = (Rc::new(Cell::new(0)), Cell::new(0));
    let its = Rc::clone(&turns_of_one);
    // The first connection ends after so many turns, whatever is on it.
    let peer = move || {
        let turns = Rc::clone(&its);
        Peer::new(move |peer, endpoint, mut stream| {
            let (turns, first) = (turns.get(), peer.connections() == 1);
            async move {
                let serve = async {
                    while peer.request(endpoint, &mut stream).await.is_some() {
                        let _ = stream.write_all(REMEMBERED.as_bytes()).await;
                    }
                };
                tokio::select! {
                    biased;
                    () = pass(turns), if first => {}
                    () = serve => {}
                }
            }
        })
    };
    at_each_turn(peer, async |bench, turns| {
        turns_of_one.set(turns);
        for user_data in 1..=3 {
            bench.submit(&check(["a", "b", "b"][user_data - 1], "good"), user_data);
            pass(turns / 4).await;
        }
        for user_data in 1..=3 {
            let (decision, _) = bench.decided(user_data).await;
            match (decision.origin, decision.cause) {
                (Origin::Default, Cause::Reset) => reset.set(reset.get() + 1),
                _ => assert_eq!(decision.verdict, Verdict::Allow, "after {turns} turns: {decision:?}"),
            }
        }
        bench.submit(&check("after", "good"), 4);
        assert_allowed(bench, 4, turns).await;
    })
    .await;
    assert!(reset.get() > 0, "no end met a check");
}
