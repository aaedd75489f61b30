//! Several decisions of a turn wait for those that can be made by what has come by then, and for nothing else.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::io::{AsyncWrite, DuplexStream};

use super::support::{ALLOW, Peer, Surroundings, check, with_shard, with_shard_in};
use crate::decision::Verdict;
use crate::engine::batch::Batch;
use crate::engine::completion::{Completed, Receiver, Tag};

/// How many came together.
#[derive(Default)]
struct Batches(Mutex<Vec<usize>>);

impl Receiver for Batches {
    fn receive(&self, batch: &mut Vec<Completed>) {
        self.0.lock().push(batch.len());
        batch.drain(..).for_each(|completed| drop(completed.take()));
    }
}

fn answer(mut stream: &mut DuplexStream) {
    let mut cx = Context::from_waker(Waker::noop());
    let written = Pin::new(&mut stream).poll_write(&mut cx, ALLOW.as_bytes());
    assert!(matches!(written, Poll::Ready(Ok(count)) if count == ALLOW.len()));
}

/// Three checks are asked, `first` of them are answered in one turn, and `on_look` says how many more have come when the engine
/// looks. How many decisions came together, and how often it has looked.
async fn told_together(first: usize, on_look: usize) -> (Vec<usize>, usize) {
    let (streams, looks) = (Rc::<RefCell<Vec<DuplexStream>>>::default(), Rc::new(Cell::new(0)));
    let kept = Rc::clone(&streams);
    let peer = Peer::new(move |peer, endpoint, mut stream| {
        let kept = Rc::clone(&kept);
        async move {
            peer.request(endpoint, &mut stream).await;
            kept.borrow_mut().push(stream);
        }
    });
    let (later, looked) = (Rc::clone(&streams), Rc::clone(&looks));
    let look = move || {
        looked.set(looked.get() + 1);
        let mut later = later.borrow_mut();
        let come = later.iter_mut().skip(first).take(on_look);
        come.map(answer).count() > 0
    };
    *peer.looks.borrow_mut() = Some(Box::new(look));
    let batches = Arc::new(Batches::default());
    let told = Rc::new(RefCell::new((Vec::new(), 0)));
    let its = (Rc::clone(&told), Arc::clone(&batches));
    let receiver: Arc<dyn Receiver> = Arc::clone(&batches) as _;
    with_shard(&[], peer, |bench| async move {
        for name in ["a", "b", "c"] {
            let submitted =
                Batch::new(&bench.core, 1).submit(&check(name, ""), &receiver, Tag::default(), |_| ());
            submitted.unwrap();
        }
        bench.settle().await;
        streams.borrow_mut()[..first].iter_mut().for_each(answer);
        bench.settle().await;
        // Before those that were not answered end.
        *its.0.borrow_mut() = (its.1.0.lock().clone(), looks.get());
        streams.borrow_mut().clear();
    })
    .await;
    told.take()
}

#[tokio::test(start_paused = true)]
async fn what_has_come_when_several_are_decided_is_told_with_them() {
    assert_eq!(told_together(2, 1).await, (vec![3], 1));
}

/// A defect where the system is asked costs no check its answer.
#[tokio::test(start_paused = true)]
async fn a_defect_in_the_look_costs_nobody_anything() {
    let peer = Peer::answering(|_, _| Some(ALLOW.to_owned()));
    *peer.looks.borrow_mut() = Some(Box::new(|| panic!("a defect")));
    let surroundings = Surroundings { panics: 1, ..Surroundings::default() };
    with_shard_in(surroundings, &[], peer, |bench| async move {
        bench.submit(&check("a", ""), 0);
        bench.submit(&check("b", ""), 1);
        for user_data in 0..2 {
            assert_eq!(bench.decided(user_data).await.0.verdict, Verdict::Allow);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_what_has_not_come() {
    assert_eq!(told_together(2, 0).await, (vec![2], 1));
}

#[tokio::test(start_paused = true)]
async fn a_decision_that_is_alone_is_told_at_once() {
    assert_eq!(told_together(1, 2).await, (vec![1], 0));
}
