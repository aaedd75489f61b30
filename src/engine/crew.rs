//! The tasks that run flights. What a flight holds while it waits is some kilobytes: a task that has landed one takes the
//! next where it is, so that in steady state no task is made, and no flight is moved from place to place until it begins.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use super::alarms::Bell;
use super::flights::FlightId;
use super::run_queue::{RunQueue, TaskId};

/// Tasks that rest, at most: each keeps the memory of a flight.
const RESTING: usize = 256;

/// Those that rest. A task that runs a flight is held by that flight.
#[derive(Default)]
pub(crate) struct Crew {
    queue: RunQueue,
    resting: RefCell<Vec<Rc<Hand>>>,
    dismissed: Cell<bool>,
}

pub(super) enum Next {
    Fly(FlightId),
    /// The flight was dropped before it began.
    Rest,
    End,
}

/// One task.
#[derive(Default)]
pub(crate) struct Hand {
    flight: Cell<Option<FlightId>>,
    /// The flight is over, whatever its future says.
    dropped: Cell<bool>,
    /// To wake it.
    task: OnceCell<(RunQueue, TaskId)>,
    pub(super) bell: Bell,
}

impl Crew {
    /// One that rests, to begin a flight; or a new one, which runs what `serve` makes.
    pub(super) fn take<F: Future<Output = ()> + 'static>(
        &self,
        serve: impl FnOnce(Rc<Hand>) -> F,
    ) -> Rc<Hand> {
        let resting = self.resting.borrow_mut().pop();
        resting.unwrap_or_else(|| {
            let hand = Rc::<Hand>::default();
            let task = || (self.queue.clone(), self.queue.spawn(serve(Rc::clone(&hand))));
            hand.task.get_or_init(task);
            hand
        })
    }

    /// A flight is over. False: its task is not wanted any more.
    pub(super) fn rest(&self, hand: &Rc<Hand>) -> bool {
        let mut resting = self.resting.borrow_mut();
        let wanted = !self.dismissed.get() && resting.len() < RESTING;
        if wanted {
            resting.push(Rc::clone(hand));
        }
        wanted
    }

    /// The end: those that rest end now, the others when their flights do.
    pub(super) fn dismiss(&self) {
        self.dismissed.set(true);
        for hand in self.resting.take() {
            hand.drop_flight();
        }
    }
}

impl Hand {
    pub(super) fn begin(&self, flight: FlightId) {
        self.flight.set(Some(flight));
        self.wake();
    }

    /// The flight is dropped when the task runs next; it does not go on before that.
    pub(super) fn drop_flight(&self) {
        self.dropped.set(true);
        self.wake();
    }

    /// What is to be done next.
    pub(super) async fn next(&self) -> Next {
        poll_fn(|_| match (self.flight.take(), self.dropped.take()) {
            (Some(flight), false) => Poll::Ready(Next::Fly(flight)),
            (Some(_), true) => Poll::Ready(Next::Rest),
            (None, true) => Poll::Ready(Next::End),
            (None, false) => Poll::Pending,
        })
        .await
    }

    /// Runs it to its end, or until it is dropped.
    pub(super) async fn run(&self, mut flight: Pin<&mut impl Future<Output = ()>>) {
        poll_fn(|cx| {
            if self.dropped.get() {
                return Poll::Ready(());
            }
            flight.as_mut().poll(cx)
        })
        .await;
        self.dropped.set(false);
    }

    fn wake(&self) {
        if let Some((queue, task)) = self.task.get() {
            queue.wake(*task);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::pin;

    use tokio::task::{LocalSet, yield_now};

    use super::*;

    /// What a task has done, in order.
    #[derive(Default)]
    struct Told(RefCell<Vec<String>>);

    impl Told {
        fn tell(&self, what: String) {
            self.0.borrow_mut().push(what);
        }
    }

    struct Flight<'a>(FlightId, &'a Told);

    impl Drop for Flight<'_> {
        fn drop(&mut self) {
            self.1.tell(format!("dropped {}", self.0));
        }
    }

    /// One that rests, or a new one, whose flights with an odd number never land by themselves.
    fn take(crew: &Rc<Crew>, told: &Rc<Told>) -> Rc<Hand> {
        let (its, told) = (Rc::clone(crew), Rc::clone(told));
        crew.take(|hand| async move {
            loop {
                match hand.next().await {
                    Next::Fly(id) => {
                        let flight = pin!(async {
                            let _flight = Flight(id, &told);
                            if id % 2 == 1 {
                                pending::<()>().await;
                            }
                        });
                        hand.run(flight).await;
                    }
                    Next::Rest => told.tell("rests".to_owned()),
                    Next::End => return told.tell("ended".to_owned()),
                }
                if !its.rest(&hand) {
                    return told.tell("not wanted".to_owned());
                }
            }
        })
    }

    fn resting(crew: &Crew) -> usize {
        crew.resting.borrow().len()
    }

    async fn settle() {
        for _ in 0..64 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn one_task_runs_one_flight_after_the_other_and_drops_those_that_are_dropped() {
        let (crew, told) = (Rc::<Crew>::default(), Rc::<Told>::default());
        LocalSet::new()
            .run_until(async {
                let hand = take(&crew, &told);
                hand.begin(2);
                settle().await;
                let again = take(&crew, &told);
                assert!(Rc::ptr_eq(&hand, &again) && resting(&crew) == 0);
                again.begin(3);
                settle().await;
                assert_eq!(resting(&crew), 0, "it is in flight");
                again.drop_flight();
                settle().await;
                let again = take(&crew, &told);
                assert!(Rc::ptr_eq(&hand, &again));
                again.begin(4);
                settle().await;
                assert_eq!(*told.0.borrow(), ["dropped 2", "dropped 3", "dropped 4"]);
            })
            .await;
    }

    #[tokio::test]
    async fn a_flight_that_is_dropped_before_it_began_never_begins() {
        let (crew, told) = (Rc::<Crew>::default(), Rc::<Told>::default());
        LocalSet::new()
            .run_until(async {
                let hand = take(&crew, &told);
                hand.begin(1);
                hand.drop_flight();
                settle().await;
                assert_eq!(resting(&crew), 1);
                take(&crew, &told).begin(2);
                settle().await;
                assert_eq!(*told.0.borrow(), ["rests", "dropped 2"]);
            })
            .await;
    }

    #[tokio::test]
    async fn few_rest_and_at_the_end_none() {
        let (crew, told) = (Rc::<Crew>::default(), Rc::<Told>::default());
        LocalSet::new()
            .run_until(async {
                let hands: Vec<_> = (0..=RESTING).map(|_| take(&crew, &told)).collect();
                for hand in &hands {
                    hand.begin(2);
                }
                settle().await;
                let ended = |what: &str| told.0.borrow().iter().filter(|told| *told == what).count();
                assert_eq!((resting(&crew), ended("not wanted")), (RESTING, 1));
                let flying = take(&crew, &told);
                flying.begin(1);
                settle().await;
                crew.dismiss();
                settle().await;
                assert_eq!(ended("ended"), RESTING - 1);
                flying.drop_flight();
                settle().await;
                assert_eq!(ended("not wanted"), 2);
            })
            .await;
    }
}
