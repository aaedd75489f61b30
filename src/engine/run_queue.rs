//! Tasks of an I/O thread that run right behind each other.
//!
//! To the runtime they are one task. It polls those that are ready one after the other, so that what one check needs is still
//! in the processor's caches for the next, the clock is read once for some of them, and to wake one from its own thread costs
//! a place in a list. Wakers are those of the standard library: any future can be awaited, and woken from any thread.
//!
//! A task that panics is dropped, and harms no other.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;
use tokio::task::{spawn_local, unconstrained};

use crate::clock;

/// Tasks that are polled in one turn; then what else runs on the thread has its own.
const TURN: usize = 64;
/// Those that are polled by one reading of the clock.
const AT_ONCE: usize = 8;

/// Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct RunQueue(Rc<State>);

/// Names a task for as long as that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaskId(usize);

#[derive(Default)]
struct State {
    /// By [`TaskId`]. `None`: there is none, or it is being polled.
    tasks: RefCell<Vec<Option<Task>>>,
    vacant: RefCell<Vec<usize>>,
    ready: RefCell<VecDeque<Ready>>,
    /// The runtime's task was made.
    started: Cell<bool>,
    /// It has yet to look at `ready`.
    awake: Cell<bool>,
    /// Its waker, once it has run.
    runner: RefCell<Option<Waker>>,
    /// It was dropped.
    ended: Cell<bool>,
    elsewhere: Arc<Elsewhere>,
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    bell: Arc<Bell>,
    waker: Waker,
}

#[derive(Clone, Copy)]
struct Ready {
    task: usize,
    /// By its waker, which does so once until the task is polled.
    rung: bool,
}

/// What a task's waker knows.
struct Bell {
    task: usize,
    rung: AtomicBool,
    elsewhere: Arc<Elsewhere>,
}

/// What other threads see of a queue.
#[derive(Default)]
struct Elsewhere {
    /// Something is in `woken`.
    any: AtomicBool,
    woken: Mutex<Vec<usize>>,
    /// Of the runtime's task, once it has run.
    runner: Mutex<Option<Waker>>,
}

thread_local! {
    /// The queue that runs on this thread; of several the newest, the others are woken as if from elsewhere.
    static HERE: RefCell<Option<Rc<State>>> = const { RefCell::new(None) };
}

impl RunQueue {
    /// Within a `LocalSet`, whose end drops it.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + 'static) -> TaskId {
        let Self(state) = self;
        if state.ended.get() {
            return TaskId(usize::MAX);
        }
        if !state.started.replace(true) {
            state.awake.set(true);
            spawn_local(unconstrained(serve(Runner(Rc::clone(state)))));
        }
        let mut tasks = state.tasks.borrow_mut();
        let task = state.vacant.borrow_mut().pop().unwrap_or(tasks.len());
        if task == tasks.len() {
            tasks.push(None);
        }
        let elsewhere = Arc::clone(&state.elsewhere);
        let bell = Arc::new(Bell { task, rung: AtomicBool::new(false), elsewhere });
        let waker = Waker::from(Arc::clone(&bell));
        tasks[task] = Some(Task { future: Box::pin(future), bell, waker });
        drop(tasks);
        self.wake(TaskId(task));
        TaskId(task)
    }

    /// It is polled again.
    pub(super) fn wake(&self, TaskId(task): TaskId) {
        self.0.push(Ready { task, rung: false });
    }
}

impl State {
    fn push(&self, ready: Ready) {
        self.ready.borrow_mut().push_back(ready);
        if !self.awake.replace(true)
            && let Some(runner) = &*self.runner.borrow()
        {
            runner.wake_by_ref();
        }
    }

    fn is_run_by(&self, waker: &Waker) {
        let mut runner = self.runner.borrow_mut();
        if runner.as_ref().is_none_or(|runner| !runner.will_wake(waker)) {
            *self.elsewhere.runner.lock() = Some(waker.clone());
            *runner = Some(waker.clone());
        }
    }

    fn next(&self) -> Option<Ready> {
        self.ready.borrow_mut().pop_front()
    }

    /// Whether all have had their turn.
    fn turn(&self) -> bool {
        if self.elsewhere.any.load(Ordering::Acquire) {
            self.elsewhere.any.store(false, Ordering::Relaxed);
            let woken = std::mem::take(&mut *self.elsewhere.woken.lock());
            self.ready.borrow_mut().extend(woken.into_iter().map(|task| Ready { task, rung: true }));
        }
        for _ in 0..TURN / AT_ONCE {
            let Some(first) = self.next() else { return true };
            clock::step(|| {
                self.poll(first);
                let more = std::iter::from_fn(|| self.next());
                more.take(AT_ONCE - 1).for_each(|ready| self.poll(ready));
            });
        }
        self.ready.borrow().is_empty()
    }

    fn poll(&self, Ready { task: place, rung }: Ready) {
        let taken = self.tasks.borrow_mut().get_mut(place).and_then(Option::take);
        let Some(mut task) = taken else { return };
        if rung {
            // Before the poll, which sees what came before the bell; what comes later rings again.
            task.bell.rung.swap(false, Ordering::AcqRel);
        }
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let mut cx = Context::from_waker(&task.waker);
            task.future.as_mut().poll(&mut cx)
        }));
        if let Ok(Poll::Pending) = polled {
            self.tasks.borrow_mut()[place] = Some(task);
            return;
        }
        // What its drop does may be a defect's, too.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(task)));
        self.vacant.borrow_mut().push(place);
    }
}

/// The runtime's task. With it go those of the queue.
struct Runner(Rc<State>);

async fn serve(runner: Runner) -> Infallible {
    let state = &runner.0;
    poll_fn(|cx| {
        if !is_here(state) {
            HERE.set(Some(Rc::clone(state)));
        }
        state.awake.set(true);
        state.is_run_by(cx.waker());
        if state.turn() {
            state.awake.set(false);
        } else {
            // The others in line first.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await
}

fn is_here(state: &Rc<State>) -> bool {
    HERE.with_borrow(|here| here.as_ref().is_some_and(|here| Rc::ptr_eq(here, state)))
}

impl Elsewhere {
    fn push(&self, task: usize) {
        self.woken.lock().push(task);
        self.any.store(true, Ordering::Release);
        let runner = self.runner.lock().clone();
        if let Some(runner) = runner {
            runner.wake();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        let ready = Ready { task: self.task, rung: true };
        let pushed = HERE.try_with(|here| {
            let here = here.borrow();
            let here = here.as_ref().filter(|here| Arc::ptr_eq(&here.elsewhere, &self.elsewhere));
            here.map(|here| here.push(ready)).is_some()
        });
        if pushed != Ok(true) {
            self.elsewhere.push(self.task);
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.0.ended.set(true);
        if is_here(&self.0) {
            HERE.take();
        }
        // One after the other, so that nothing is borrowed while one goes.
        let places = self.0.tasks.borrow().len();
        for place in 0..places {
            let task = self.0.tasks.borrow_mut()[place].take();
            let _ = catch_unwind(AssertUnwindSafe(|| drop(task)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::oneshot;
    use tokio::task::{LocalSet, yield_now};

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
                for task in [2, 0, 2] {
                    queue.wake(tasks[task]);
                }
                settle().await;
                assert_eq!(told.take(), ["3", "1", "3"]);
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
                while told.borrow().is_empty() {
                    yield_now().await;
                }
                thread.join().unwrap();
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

    /// One that is always ready does not keep the thread: neither from the queue's others, nor from the runtime's.
    #[tokio::test]
    async fn everyone_has_a_turn() {
        LocalSet::new()
            .run_until(async {
                let (queue, polls) = (RunQueue::default(), Rc::new(Cell::new(0)));
                queue.spawn(poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }));
                let other = queue.spawn(counting(&polls));
                settle().await;
                queue.wake(other);
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
