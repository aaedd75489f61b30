//! Watches that a reload moves to another I/O thread.

use std::mem;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Duration;

use super::support::{Bench, Peer, check, with_shard};
use crate::check::Check;
use crate::decision::{Decision, Verdict};
use crate::engine::Policy;
use crate::engine::batch::Batch;
use crate::engine::completion::{Completed, Receiver, Tag};

const BEFORE: [(&str, &str); 2] = [("threads.io", "2"), ("ttl.jitter", "off")];
/// Other questions, and so other threads.
const AFTER: [(&str, &str); 2] = [("threads.io", "2"), ("scope", "session")];
const TTL: Duration = Duration::from_secs(1000);

#[derive(Default)]
struct Told(Mutex<Vec<Decision>>);

impl Receiver for Told {
    fn receive(&self, batch: &mut Vec<Completed>) {
        for completed in batch.drain(..) {
            completed.hand_over(|_, decision| self.0.lock().push(decision));
        }
    }
}

/// A session that AFTER sends to another thread.
fn mover(bench: &Bench) -> String {
    let (before, after) = (bench.core.policy(), bench.policy_of(&AFTER));
    let thread = |policy: &Policy, check: &Check<'_>| {
        bench.core.thread_of(bench.core.hash_of_key(policy.accept(check).unwrap().key()))
    };
    let moves = |session: &String| {
        let check = check(session, "");
        thread(&before, &check) != thread(&after, &check)
    };
    (0..u32::MAX).map(|number| format!("s{number}")).find(moves).unwrap()
}

/// Another name whose hash has the same entry in the tables of what was revoked.
fn neighbour(bench: &Bench, name: &str, hash: impl Fn(&[u8]) -> u64) -> String {
    let entry = |name: &str| bench.core.revocations.entry(hash(name.as_bytes()));
    (0..u32::MAX).map(|number| format!("n{number}")).find(|other| entry(other) == entry(name)).unwrap()
}

/// A watch is told that it may, revocations come, it moves, and some time passes: what its host was told.
async fn told_of(revoke: fn(&Bench, &str)) -> Vec<(Verdict, bool)> {
    let told = Arc::<Told>::default();
    let receiver: Arc<dyn Receiver> = Arc::clone(&told) as _;
    let reply = "HTTP/1.1 200 OK\r\nX-AuthDuration: 1000\r\nX-UserId: u\r\nContent-Length: 0\r\n\r\n";
    let peer = Peer::answering(|_, _| Some(reply.to_owned()));
    with_shard(&BEFORE, peer, |bench| async move {
        let session = mover(&bench);
        let tag = Tag { user_data: 1, owner: 0 };
        Batch::new(&bench.core, 0).watch(&check(&session, ""), &receiver, tag, |_| ()).unwrap();
        bench.settle().await;
        assert_eq!(bench.peer.requests(), 1);
        revoke(&bench, &session);
        bench.settle().await;
        bench.reload(&AFTER);
        tokio::time::sleep(TTL / 2).await;
    })
    .await;
    // Without the end of the engine.
    let told = told.0.lock();
    let before_the_end = told.iter().filter(|decision| !decision.detail().contains("shut down"));
    before_the_end.map(|decision| (decision.verdict, decision.last)).collect()
}

const STAYS: [(Verdict, bool); 1] = [(Verdict::Allow, false)];
const ENDS: [(Verdict, bool); 2] = [(Verdict::Allow, false), (Verdict::Deny, true)];

#[tokio::test(start_paused = true)]
async fn a_watch_that_moves_does_not_end_with_a_neighbour_s_revocation() {
    let of_session = told_of(|bench, session| {
        let other = neighbour(bench, session, |id| bench.core.session(id));
        bench.core.revoke(other.as_bytes());
    });
    assert_eq!(of_session.await, STAYS);
    let of_user = told_of(|bench, _| {
        let other = neighbour(bench, "u", |id| bench.core.user(id));
        bench.core.revoke_user(other.as_bytes());
    });
    assert_eq!(of_user.await, STAYS);
}

/// Its new thread may hear of it before the watch comes, and the old one when it is gone.
#[tokio::test(start_paused = true)]
async fn a_watch_that_moves_while_it_is_revoked_ends() {
    let of_session = told_of(|bench, session| {
        let session = bench.core.session(session.as_bytes());
        mem::forget(bench.core.revocations.telling());
        bench.core.revocations.revoke(session, TTL);
    });
    assert_eq!(of_session.await, ENDS);
    let of_user = told_of(|bench, _| {
        mem::forget(bench.core.revocations.telling());
        bench.core.revocations.revoke_user(bench.core.user(b"u"));
    });
    assert_eq!(of_user.await, ENDS);
}
