//! The times of the exchanges under way, beside those of the checks: one timer of the runtime, the shard's, serves for all.
//! An exchange that ends in time costs a place in a list.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Poll, Waker};

use tokio::time::Instant;

use super::deadlines::Deadlines;
use crate::clock;

/// The time is up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Elapsed;

pub(crate) struct Alarms {
    set: RefCell<Set>,
    /// When the shard looks next, if nothing wakes it before.
    looks_at: Cell<Option<Instant>>,
    /// Has the shard look sooner.
    poke: Box<dyn Fn()>,
}

#[derive(Default)]
struct Set {
    places: Vec<Place>,
    vacant: Vec<u32>,
    deadlines: Deadlines,
}

/// An alarm's.
#[derive(Default)]
struct Place {
    /// Of the task that has it.
    waker: Option<Waker>,
    armed: bool,
}

/// A place that a task keeps for its next alarm, with its waker in it. To be given up with [`Alarms::vacate`] when the task ends.
#[derive(Default)]
pub(crate) struct Bell(Cell<Option<u32>>);

impl Alarms {
    pub(super) fn new(poke: impl Fn() + 'static) -> Self {
        Self { set: RefCell::default(), looks_at: Cell::new(None), poke: Box::new(poke) }
    }

    /// When the next is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.set.borrow().deadlines.first().map(|(at, _)| at)
    }

    /// The shard looks then.
    pub(super) fn looks_at(&self, at: Option<Instant>) {
        self.looks_at.set(at);
    }

    /// Wakes those whose time has come.
    pub(super) fn ring(&self, now: Instant) {
        loop {
            let waker = {
                let set = &mut *self.set.borrow_mut();
                let Some((at, place)) = set.deadlines.first().filter(|&(at, _)| at <= now) else { return };
                set.deadlines.remove(at, place);
                let place = &mut set.places[place as usize];
                place.armed = false;
                place.waker.clone()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// The task that kept it ends.
    pub(super) fn vacate(&self, bell: &Bell) {
        if let Some(place) = bell.0.take() {
            self.set.borrow_mut().vacate(place);
        }
    }

    /// Polls `future` until then, in the task whose bell this is.
    pub(crate) async fn timeout_at<F: Future>(
        &self,
        bell: &Bell,
        at: Instant,
        mut future: Pin<&mut F>,
    ) -> Result<F::Output, Elapsed> {
        let mut alarm = Alarm { alarms: self, bell, at, place: None };
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if clock::now() >= at {
                return Poll::Ready(Err(Elapsed));
            }
            alarm.set(cx.waker());
            Poll::Pending
        })
        .await
    }
}

impl Set {
    fn vacate(&mut self, place: u32) {
        self.places[place as usize].waker = None;
        self.vacant.push(place);
    }
}

struct Alarm<'a> {
    alarms: &'a Alarms,
    bell: &'a Bell,
    at: Instant,
    place: Option<u32>,
}

impl Alarm<'_> {
    /// Once: a task's waker stays the same.
    fn set(&mut self, waker: &Waker) {
        if self.place.is_some() {
            return;
        }
        let set = &mut *self.alarms.set.borrow_mut();
        // A second one of the task at the same time has a place of its own.
        let place = self.bell.0.take().unwrap_or_else(|| {
            let place = set.vacant.pop().unwrap_or_else(|| {
                set.places.push(Place::default());
                set.places.len() as u32 - 1
            });
            set.places[place as usize].waker = Some(waker.clone());
            place
        });
        set.places[place as usize].armed = true;
        set.deadlines.insert(self.at, place);
        self.place = Some(place);
        if self.alarms.looks_at.get().is_none_or(|looks_at| self.at < looks_at) {
            (self.alarms.poke)();
        }
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        let set = &mut *self.alarms.set.borrow_mut();
        // Otherwise it rang.
        if std::mem::take(&mut set.places[place as usize].armed) {
            set.deadlines.remove(self.at, place);
        }
        match self.bell.0.get() {
            None => self.bell.0.set(Some(place)),
            Some(_) => set.vacate(place),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;
    use std::rc::Rc;
    use std::time::Duration;

    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn alarms() -> (Rc<Alarms>, Rc<Cell<usize>>) {
        let pokes = Rc::<Cell<usize>>::default();
        let poked = Rc::clone(&pokes);
        (Rc::new(Alarms::new(move || poked.set(poked.get() + 1))), pokes)
    }

    fn wait(alarms: &Rc<Alarms>, at: Instant) -> tokio::task::JoinHandle<Result<(), Elapsed>> {
        wait_with(alarms, Rc::default(), at)
    }

    fn wait_with(
        alarms: &Rc<Alarms>,
        bell: Rc<Bell>,
        at: Instant,
    ) -> tokio::task::JoinHandle<Result<(), Elapsed>> {
        let alarms = Rc::clone(alarms);
        spawn_local(async move { alarms.timeout_at(&bell, at, pin!(pending())).await })
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_too_long_is_woken_at_its_time_and_no_other() {
        let (alarms, _) = alarms();
        LocalSet::new()
            .run_until(async {
                let began = Instant::now();
                let bells = [Rc::<Bell>::default(), Rc::default()];
                let [early, late] = [0, 1].map(|which| {
                    let at = began + SECOND * (which as u32 + 1);
                    wait_with(&alarms, Rc::clone(&bells[which]), at)
                });
                yield_now().await;
                assert_eq!(alarms.next(), Some(began + SECOND));
                tokio::time::advance(SECOND).await;
                alarms.ring(Instant::now());
                assert_eq!(early.await.unwrap(), Err(Elapsed));
                assert!(!late.is_finished());
                assert_eq!(alarms.next(), Some(began + 2 * SECOND));
                late.abort();
                assert!(late.await.unwrap_err().is_cancelled());
                assert_eq!(alarms.next(), None, "who leaves takes its alarm along");
                for bell in &bells {
                    alarms.vacate(bell);
                }
                assert_eq!(alarms.set.borrow().vacant.len(), 2);
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_keeps_its_place_and_two_alarms_at_the_same_time_have_two() {
        let (alarms, _) = alarms();
        let bell = Bell::default();
        for _ in 0..3 {
            let later = Instant::now() + SECOND;
            // Dropped before its time, rung by nobody.
            let mut nothing = pin!(pending::<()>());
            let mut first = pin!(alarms.timeout_at(&bell, later, nothing.as_mut()));
            poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx).is_pending())).await;
            assert_eq!((alarms.set.borrow().places.len(), alarms.next()), (1, Some(later)));
        }
        assert_eq!((bell.0.get(), alarms.next()), (Some(0), None));
        {
            let soon = Instant::now() + SECOND;
            let (mut nothing, mut no_more) = (pin!(pending::<()>()), pin!(pending::<()>()));
            let mut first = pin!(alarms.timeout_at(&bell, soon, nothing.as_mut()));
            let mut second = pin!(alarms.timeout_at(&bell, soon + SECOND, no_more.as_mut()));
            poll_fn(|cx| {
                let pending = first.as_mut().poll(cx).is_pending() && second.as_mut().poll(cx).is_pending();
                Poll::Ready(pending)
            })
            .await;
            assert_eq!(alarms.set.borrow().places.len(), 2);
        }
        assert_eq!((alarms.set.borrow().vacant.len(), alarms.next()), (1, None));
        alarms.vacate(&bell);
        assert_eq!((alarms.set.borrow().vacant.len(), bell.0.get()), (2, None));
        assert!(alarms.set.borrow().places.iter().all(|place| place.waker.is_none()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_there_is_given_even_when_the_time_is_up_and_sets_no_alarm() {
        let (alarms, pokes) = alarms();
        let given = alarms.timeout_at(&Bell::default(), Instant::now() - SECOND, pin!(ready(7))).await;
        assert_eq!((given, alarms.next(), pokes.get()), (Ok(7), None, 0));
        let nothing = alarms.timeout_at(&Bell::default(), Instant::now(), pin!(pending::<()>())).await;
        assert_eq!((nothing, alarms.next()), (Err(Elapsed), None));
    }

    #[tokio::test(start_paused = true)]
    async fn the_shard_is_poked_only_for_what_comes_before_its_next_look() {
        let (alarms, pokes) = alarms();
        LocalSet::new()
            .run_until(async {
                let began = Instant::now();
                alarms.looks_at(Some(began + 2 * SECOND));
                let later = wait(&alarms, began + 3 * SECOND);
                yield_now().await;
                assert_eq!(pokes.get(), 0);
                let sooner = wait(&alarms, began + SECOND);
                yield_now().await;
                assert_eq!(pokes.get(), 1);
                alarms.looks_at(None);
                let any = wait(&alarms, began + 9 * SECOND);
                yield_now().await;
                assert_eq!(pokes.get(), 2);
                drop((later, sooner, any));
            })
            .await;
    }
}
