//! Tasks of an I/O thread that run right behind each other.
//!
//! To the runtime they are one task. It polls those that are ready one after the other, so that what one check needs is still
//! in the processor's caches for the next, the clock is read once for some of them, and to wake one from its own thread costs
//! a place in a list. Wakers are those of the standard library: any future can be awaited, and woken from any thread
//! (`wakeup.rs`).
//!
//! A task that panics is dropped, and harms no other.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use tokio::task::{spawn_local, unconstrained, yield_now};

use super::wakeup::{Elsewhere, Wakeup};
use crate::clock;

/// Tasks that are polled in one turn; then what else runs on the thread has its own, and what the system has to tell is heard.
const TURN: usize = 64;
/// Those that are polled by one reading of the clock.
const AT_ONCE: usize = 8;

/// Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct RunQueue(Rc<State>);

/// Names a task for as long as that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaskId(usize);

struct State {
    /// By [`TaskId`].
    places: RefCell<Vec<Place>>,
    vacant: RefCell<Vec<usize>>,
    ready: RefCell<VecDeque<usize>>,
    /// The runtime's task was made.
    started: Cell<bool>,
    /// It has yet to look at `ready`.
    awake: Cell<bool>,
    /// Within a turn.
    turning: Cell<bool>,
    /// Its waker, once it has run.
    runner: RefCell<Option<Waker>>,
    /// It was dropped.
    ended: Cell<bool>,
    elsewhere: Arc<Elsewhere>,
}

#[derive(Default)]
struct Place {
    /// `None`: there is none, or it is being polled.
    task: Option<Task>,
    /// It is in `ready`, where it is once: who yields for the sake of others is not polled before they are.
    queued: bool,
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    wakeup: Arc<TaskWaker>,
    waker: Waker,
}

/// A task's waker.
struct TaskWaker(Wakeup);

thread_local! {
    /// The queue that runs on this thread; of several the newest, the others are woken as if from elsewhere.
    static HERE: RefCell<Option<Rc<State>>> = const { RefCell::new(None) };
}

impl RunQueue {
    /// Within a `LocalSet`, whose end drops it.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + 'static) -> TaskId {
        let Self(state) = self;
        if !state.started.replace(true) {
            state.awake.set(true);
            spawn_local(unconstrained(serve(Runner(Rc::clone(state)))));
        }
        if state.ended.get() {
            return TaskId(usize::MAX);
        }
        let task = state.vacant.borrow_mut().pop().unwrap_or_else(|| {
            let mut places = state.places.borrow_mut();
            places.push(Place::default());
            places.len() - 1
        });
        let wakeup = Arc::new(TaskWaker(Wakeup::new(task, Arc::clone(&state.elsewhere))));
        let waker = Waker::from(Arc::clone(&wakeup));
        state.places.borrow_mut()[task].task = Some(Task { future: Box::pin(future), wakeup, waker });
        self.wake(TaskId(task));
        TaskId(task)
    }

    /// It is polled once more.
    pub(super) fn wake(&self, TaskId(task): TaskId) {
        self.0.push(task);
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            places: RefCell::default(),
            vacant: RefCell::default(),
            ready: RefCell::default(),
            started: Cell::default(),
            awake: Cell::default(),
            turning: Cell::default(),
            runner: RefCell::default(),
            ended: Cell::default(),
            elsewhere: Arc::new(Elsewhere::new()),
        }
    }
}

impl State {
    fn push(&self, task: usize) {
        match self.places.borrow_mut().get_mut(task) {
            Some(place) if !place.queued => place.queued = true,
            _ => return,
        }
        self.ready.borrow_mut().push_back(task);
        if !self.awake.replace(true)
            && let Some(runner) = &*self.runner.borrow()
        {
            runner.wake_by_ref();
        }
    }

    fn is_run_by(&self, waker: &Waker) {
        let mut runner = self.runner.borrow_mut();
        if runner.as_ref().is_none_or(|runner| !runner.will_wake(waker)) {
            self.elsewhere.is_run_by(waker);
            *runner = Some(waker.clone());
        }
    }

    fn next(&self) -> Option<usize> {
        self.ready.borrow_mut().pop_front()
    }

    /// Whether all have had their turn.
    fn turn(&self) -> bool {
        self.elsewhere.take().into_iter().for_each(|task| self.push(task));
        for _ in 0..TURN / AT_ONCE {
            let Some(first) = self.next() else { return true };
            clock::step(|| {
                self.poll(first);
                let more = std::iter::from_fn(|| self.next());
                more.take(AT_ONCE - 1).for_each(|task| self.poll(task));
            });
        }
        self.ready.borrow().is_empty()
    }

    fn poll(&self, task: usize) {
        let taken = {
            let place = &mut self.places.borrow_mut()[task];
            place.queued = false;
            place.task.take()
        };
        let Some(mut taken) = taken else { return };
        taken.wakeup.0.hear();
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let mut cx = Context::from_waker(&taken.waker);
            taken.future.as_mut().poll(&mut cx)
        }));
        if let Ok(Poll::Pending) = polled {
            self.places.borrow_mut()[task].task = Some(taken);
            return;
        }
        // What its drop does may be a defect's, too.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(taken)));
        self.vacant.borrow_mut().push(task);
    }

    fn is_here(self: &Rc<Self>) -> bool {
        HERE.with_borrow(|here| here.as_ref().is_some_and(|here| Rc::ptr_eq(here, self)))
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.ring(|elsewhere, task| {
            let pushed = HERE.try_with(|here| {
                let here = here.borrow();
                let here = here.as_ref().filter(|here| Arc::ptr_eq(&here.elsewhere, elsewhere));
                here.map(|here| here.push(task)).is_some()
            });
            pushed == Ok(true)
        });
    }
}

/// The runtime's task. With it go those of the queue.
struct Runner(Rc<State>);

async fn serve(runner: Runner) -> Infallible {
    let state = &runner.0;
    poll_fn(|cx| {
        if !state.is_here() {
            HERE.set(Some(Rc::clone(state)));
        }
        state.awake.set(true);
        state.is_run_by(cx.waker());
        state.turning.set(true);
        let done = state.turn();
        state.turning.set(false);
        if done {
            state.awake.set(false);
        } else {
            // Woken when the others, and the system, have had their turn: it keeps the waker.
            let _ = pin!(yield_now()).as_mut().poll(cx);
        }
        Poll::Pending
    })
    .await
}

impl Drop for Runner {
    fn drop(&mut self) {
        let Self(state) = self;
        if state.turning.take() {
            // A defect of the queue itself. Nobody knows who was woken: all are.
            state.ready.borrow_mut().clear();
            state.places.borrow_mut().iter_mut().for_each(|place| place.queued = false);
            let places = state.places.borrow().len();
            (0..places).for_each(|task| state.push(task));
            spawn_local(unconstrained(serve(Self(Rc::clone(state)))));
            return;
        }
        state.ended.set(true);
        if state.is_here() {
            HERE.take();
        }
        // One after the other, so that nothing is borrowed while one goes.
        let places = state.places.borrow().len();
        for place in 0..places {
            let task = state.places.borrow_mut()[place].task.take();
            let _ = catch_unwind(AssertUnwindSafe(|| drop(task)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;
    use tokio::task::LocalSet;

    use super::*;

    /// What the tasks have done, in order.
    type Told = Rc<RefCell<Vec<String>>>;

    /// Says so when it is dropped.
    struct Dropped(Told, &'static str);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.borrow_mut().push(format!("{} dropped", self.1));
        }
    }

    async fn settle() {
        for _ in 0..64 {
            yield_now().await;
        }
    }

    /// Counts its polls, and never ends.
    fn counting(polls: &Rc<Cell<usize>>) -> impl Future<Output = ()> + use<> {
        let polls = Rc::clone(polls);
        poll_fn(move |_| {
            polls.set(polls.get() + 1);
            Poll::Pending
        })
    }

    #[tokio::test]
    async fn tasks_run_in_the_order_in_which_they_were_woken_and_only_those() {
        LocalSet::new()
            .run_until(async {
                let (queue, told) = (RunQueue::default(), Told::default());
                let tasks = [1, 2, 3].map(|number| {
                    let told = Rc::clone(&told);
                    queue.spawn(poll_fn(move |_| {
                        told.borrow_mut().push(number.to_string());
                        Poll::Pending
                    }))
                });
                settle().await;
                assert_eq!(told.take(), ["1", "2", "3"]);
                queue.wake(tasks[2]);
                queue.wake(tasks[0]);
                settle().await;
                assert_eq!(told.take(), ["3", "1"]);
            })
            .await;
    }

    #[tokio::test]
    async fn a_waker_works_from_its_own_thread_and_from_any_other() {
        LocalSet::new()
            .run_until(async {
                let (queue, told) = (RunQueue::default(), Told::default());
                let senders = ["here", "there"].map(|name| {
                    let (sender, receiver) = oneshot::channel();
                    let told = Rc::clone(&told);
                    queue.spawn(async move {
                        let received: &str = receiver.await.unwrap();
                        told.borrow_mut().push(format!("{name} got {received}"));
                    });
                    sender
                });
                settle().await;
                let [here, there] = senders;
                there.send("one").unwrap();
                settle().await;
                assert_eq!(told.take(), ["there got one"]);
                let thread = std::thread::spawn(move || here.send("another").unwrap());
                thread.join().unwrap();
                settle().await;
                assert_eq!(told.take(), ["here got another"]);
            })
            .await;
    }

    /// Each of its wakers' calls is one poll, however often it is rung before that.
    #[tokio::test]
    async fn what_rings_before_a_poll_is_one_and_what_rings_in_it_another() {
        LocalSet::new()
            .run_until(async {
                let (queue, polls) = (RunQueue::default(), Rc::new(Cell::new(0)));
                let waker = Rc::<RefCell<Option<Waker>>>::default();
                let (its_polls, its_waker) = (Rc::clone(&polls), Rc::clone(&waker));
                queue.spawn(poll_fn(move |cx| {
                    its_polls.set(its_polls.get() + 1);
                    *its_waker.borrow_mut() = Some(cx.waker().clone());
                    if its_polls.get() == 2 {
                        cx.waker().wake_by_ref();
                    }
                    Poll::Pending
                }));
                settle().await;
                assert_eq!(polls.get(), 1);
                let waker = waker.borrow().clone().unwrap();
                (0..3).for_each(|_| waker.wake_by_ref());
                settle().await;
                assert_eq!(polls.get(), 3);
                std::thread::spawn(move || (0..3).for_each(|_| waker.wake_by_ref())).join().unwrap();
                settle().await;
                assert_eq!(polls.get(), 4);
            })
            .await;
    }

    #[tokio::test]
    async fn a_queue_whose_thread_runs_another_one_is_woken_as_well() {
        LocalSet::new()
            .run_until(async {
                let (first, second) = (RunQueue::default(), RunQueue::default());
                let told = Told::default();
                let senders = [&first, &second].map(|queue| {
                    let (sender, receiver) = oneshot::channel();
                    let told = Rc::clone(&told);
                    queue.spawn(async move {
                        receiver.await.unwrap();
                        told.borrow_mut().push("woken".to_owned());
                    });
                    sender
                });
                settle().await;
                for sender in senders {
                    sender.send(()).unwrap();
                }
                settle().await;
                assert_eq!(told.borrow().len(), 2);
            })
            .await;
    }

    #[tokio::test]
    async fn a_task_that_panics_is_dropped_and_the_others_go_on() {
        LocalSet::new()
            .run_until(async {
                let (queue, told) = (RunQueue::default(), Told::default());
                let dropped = Dropped(Rc::clone(&told), "the first");
                queue.spawn(async move {
                    let _dropped = dropped;
                    panic!("a defect")
                });
                let polls = Rc::new(Cell::new(0));
                let other = queue.spawn(counting(&polls));
                settle().await;
                assert_eq!((told.take(), polls.get()), (vec!["the first dropped".to_owned()], 1));
                queue.wake(other);
                settle().await;
                assert_eq!(polls.get(), 2);
            })
            .await;
    }

    /// One that is always ready does not keep the thread: neither from the queue's others, nor from the runtime's, nor from
    /// what the system has to tell.
    #[tokio::test]
    async fn everyone_has_a_turn() {
        LocalSet::new()
            .run_until(async {
                let (queue, polls) = (RunQueue::default(), Rc::new(Cell::new(0)));
                let busy = Rc::new(Cell::new(0));
                let its = Rc::clone(&busy);
                queue.spawn(poll_fn(move |cx| {
                    its.set(its.get() + 1);
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }));
                let other = queue.spawn(counting(&polls));
                settle().await;
                queue.wake(other);
                settle().await;
                assert_eq!(polls.get(), 2);
                let (mut here, mut there) = tokio::net::UnixStream::pair().unwrap();
                let before = busy.get();
                there.write_all(b"a").await.unwrap();
                here.read_u8().await.unwrap();
                assert!(busy.get() - before <= 8 * TURN, "{} polls", busy.get() - before);
            })
            .await;
    }

    /// Who yields wants the others to run first. A second poll right behind the first would be taken for that.
    #[tokio::test]
    async fn a_task_that_is_woken_twice_before_it_is_polled_is_polled_once() {
        LocalSet::new()
            .run_until(async {
                let (queue, polls) = (RunQueue::default(), Rc::new(Cell::new(0)));
                let task = queue.spawn(counting(&polls));
                queue.wake(task);
                settle().await;
                assert_eq!(polls.get(), 1);
                let waker = queue.0.places.borrow()[0].task.as_ref().unwrap().waker.clone();
                waker.wake_by_ref();
                queue.wake(task);
                settle().await;
                assert_eq!(polls.get(), 2);
                waker.wake();
                settle().await;
                assert_eq!(polls.get(), 3, "it rings again");
            })
            .await;
    }

    #[tokio::test]
    async fn an_old_waker_harms_nobody_who_has_its_task_s_place_now() {
        LocalSet::new()
            .run_until(async {
                let (queue, polls) = (RunQueue::default(), Rc::new(Cell::new(0)));
                let old = Rc::<RefCell<Option<Waker>>>::default();
                let its = Rc::clone(&old);
                let first = queue.spawn(poll_fn(move |cx| {
                    *its.borrow_mut() = Some(cx.waker().clone());
                    Poll::Ready(())
                }));
                settle().await;
                let second = queue.spawn(counting(&polls));
                assert_eq!(first, second);
                settle().await;
                let old = old.take().unwrap();
                std::thread::spawn(move || old.wake()).join().unwrap();
                settle().await;
                assert_eq!(polls.get(), 2, "one poll more than needed");
                queue.wake(second);
                settle().await;
                assert_eq!(polls.get(), 3);
            })
            .await;
    }

    #[tokio::test]
    async fn a_defect_of_the_queue_itself_stops_no_task() {
        LocalSet::new()
            .run_until(async {
                let (queue, polls) = (RunQueue::default(), Rc::new(Cell::new(0)));
                let task = queue.spawn(counting(&polls));
                settle().await;
                queue.wake(task);
                // With a place that is not there it panics when it has taken that out of its list.
                queue.0.ready.borrow_mut().push_front(usize::MAX);
                settle().await;
                assert_eq!(polls.get(), 2);
            })
            .await;
    }

    #[tokio::test]
    async fn the_place_of_a_task_that_has_ended_is_used_again() {
        LocalSet::new()
            .run_until(async {
                let queue = RunQueue::default();
                let first = queue.spawn(async {});
                settle().await;
                assert_eq!(queue.spawn(pending()), first);
                assert_ne!(queue.spawn(pending()), first);
            })
            .await;
    }

    #[tokio::test]
    async fn the_end_of_the_set_is_the_end_of_every_task_whether_it_has_run_or_not() {
        let (queue, told) = (RunQueue::default(), Told::default());
        let local = LocalSet::new();
        let spawn = |name| {
            // The queue in its own task: a circle, which the end breaks.
            let (queue, dropped) = (queue.clone(), Dropped(Rc::clone(&told), name));
            queue.clone().spawn(async move {
                let _kept = (dropped, queue);
                pending::<()>().await;
            });
        };
        local
            .run_until(async {
                spawn("the first");
                settle().await;
                spawn("the second");
            })
            .await;
        assert!(told.borrow().is_empty());
        drop(local);
        assert_eq!(told.take(), ["the first dropped", "the second dropped"]);
        spawn("one too late");
        assert_eq!(told.take(), ["one too late dropped"]);
        assert_eq!(Rc::strong_count(&queue.0), 1);
    }
}
