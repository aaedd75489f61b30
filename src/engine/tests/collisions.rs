//! Two questions with one hash: a hash says where to look, and the whole key whether it is the same.

use std::rc::Rc;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::support::{Bench, DENY, Peer, check, with_shard};
use crate::check::Check;
use crate::decision::Verdict;
use crate::engine::completion::{Completed, Completion, Receiver, Tag};
use crate::engine::inbox::{Asked, Message, News};
use crate::engine::ledger::Room;

const ALLOW: &str = "HTTP/1.1 200 OK\r\nX-AuthDuration: 1000\r\nContent-Length: 0\r\n\r\n";

/// The hash of every question here.
const HASH: u64 = 7;

#[derive(Default)]
struct Told(Mutex<Vec<(usize, Verdict, bool)>>);

impl Receiver for Told {
    fn receive(&self, batch: &mut Vec<Completed>) {
        for completed in batch.drain(..) {
            completed.hand_over(|user_data, decision| {
                self.0.lock().push((user_data, decision.verdict, decision.coalesced));
            });
        }
    }
}

impl Told {
    fn all(&self) -> Vec<(usize, Verdict, bool)> {
        let mut all = self.0.lock().clone();
        all.sort_unstable_by_key(|told| told.0);
        all
    }
}

fn asked(bench: &Bench, check: &Check<'_>) -> Asked {
    let policy = bench.core.policy();
    let question = policy.accept(check).unwrap();
    let mark = bench.core.revocations.mark(bench.core.session(check.session_id));
    Asked { policy, question, hash: HASH, mark }
}

fn submit(bench: &Bench, check: &Check<'_>, told: &Arc<Told>, user_data: usize) {
    let receiver: Arc<dyn Receiver> = Arc::clone(told) as _;
    let ticket = bench.core.ledger.reserve(Room::Usual, 0, 0).unwrap();
    let tag = Tag { user_data, owner: 0 };
    let completion = Completion::new(&bench.core, ticket, &receiver, tag, Instant::now());
    let inbox = &bench.core.inboxes[0];
    inbox.send(&mut vec![Message::Ask(asked(bench, check), completion)], &mut Vec::new()).unwrap();
    inbox.wake();
}

fn watch(bench: &Bench, check: &Check<'_>, told: &Arc<Told>, user_data: usize) {
    let receiver: Arc<dyn Receiver> = Arc::clone(told) as _;
    let asked = asked(bench, check);
    let tag = Tag { user_data, owner: 0 };
    let watch = bench.core.watches.open(10, &receiver, tag, Instant::now()).unwrap();
    bench.core.inboxes[0].tell(News::Watch(watch, asked, None));
}

/// Lets in whoever has the token `in`, and nobody else.
fn peer() -> Rc<Peer> {
    Peer::answering(|_, target| Some(if target.contains("token=in") { ALLOW } else { DENY }.to_owned()))
}

#[tokio::test(start_paused = true)]
async fn checks_with_one_hash_do_not_share_an_exchange() {
    with_shard(&[("ttl.jitter", "off")], peer(), |bench| async move {
        let told = Arc::new(Told::default());
        submit(&bench, &check("s", "token=in"), &told, 1);
        submit(&bench, &check("t", "token=out"), &told, 2);
        // The twin: the same question does.
        submit(&bench, &check("s", "token=in"), &told, 3);
        bench.settle().await;
        let expected = [(1, Verdict::Allow, false), (2, Verdict::Deny, false), (3, Verdict::Allow, true)];
        assert_eq!(told.all(), expected);
        assert_eq!(bench.peer.requests(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_overtakes_none_of_another_question_with_its_hash() {
    let gate = Rc::<Notify>::default();
    let its = Rc::clone(&gate);
    let peer = Peer::new(move |peer, endpoint, mut stream| {
        let gate = Rc::clone(&its);
        async move {
            while peer.request(endpoint, &mut stream).await.is_some() {
                if peer.requests() == 1 {
                    gate.notified().await;
                }
                stream.write_all(ALLOW.as_bytes()).await.unwrap();
            }
        }
    });
    with_shard(&[("ttl.jitter", "off")], peer, |bench| async move {
        let told = Arc::new(Told::default());
        submit(&bench, &check("s", "token=in"), &told, 1);
        bench.settle().await;
        submit(&bench, &check("t", "token=in"), &told, 2);
        bench.settle().await;
        assert_eq!(told.all(), [(2, Verdict::Allow, false)], "the later one is answered first");
        gate.notify_one();
        bench.settle().await;
        assert_eq!(told.all().len(), 2);
        assert_eq!(bench.core.stats().remembered, 2, "what is overtaken is not remembered");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_hears_no_answer_of_another_question_with_its_hash() {
    with_shard(&[("ttl.jitter", "off")], peer(), |bench| async move {
        let told = Arc::new(Told::default());
        watch(&bench, &check("s", "token=in"), &told, 1);
        watch(&bench, &check("t", "token=out"), &told, 2);
        bench.settle().await;
        assert_eq!(told.all(), [(1, Verdict::Allow, false), (2, Verdict::Deny, false)]);
    })
    .await;
}
