//! One I/O thread's work: take in checks, fly, land, deliver.
//!
//! A turn: everything that waits in the inbox is taken in, whoever's time is up is answered, and what was
//! decided since the last turn goes to its receivers, each called once. Flights are tasks of the same thread (`run_queue.rs`)
//! and run between two turns. Nothing here blocks, and nothing of the shard is borrowed while receivers run.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::alarms::Alarms;
use super::asking::{GRACE, Phrases, breaker_open, client, outage_decision};
use super::completion::Completion;
use super::core::Core;
use super::crew::Crew;
use super::enforcing::UnenforcedLog;
use super::flights::{Boarding, FlightId, Flights};
use super::inbox::{Asked, Message, News, Outlet};
use super::outages::OutageLog;
use super::outbox::Outbox;
use super::policy::Policy;
use super::refusals::RefusalLog;
use super::remembering::About;
use super::retries::RetryBudget;
use super::shadow::Shadow;
use super::sweeping::Sweeping;
use super::transports::Transports;
use super::watches::{Bound, Watches};
use crate::clock;
use crate::decision::{Cause, Decision};
use crate::observe::SAID_AGAIN;
use crate::outage::Health;

/// When no waiter has a deadline.
const FAR: Duration = Duration::from_hours(1);
/// Decisions of a turn from which on it looks for more: one that is alone is told at once.
const SEVERAL: usize = 2;
/// Checks whose time is up that are answered in one turn: then their hosts are told, and flights and sockets have their turn.
pub(super) const OVERDUE: usize = 1024;
/// Checks that are taken in by one reading of the clock.
const AT_ONCE: usize = 16;
/// Between two looks at the inbox while a submit that the end has overtaken finishes.
const END_PAUSE: Duration = Duration::from_micros(100);

/// What a turn has done about checks whose time is up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Overdue {
    /// There were none: what is to be told can wait a moment.
    None,
    /// They were answered.
    All,
    /// There may be more.
    More,
}

pub(crate) struct Shard {
    pub(super) core: Arc<Core>,
    pub(super) outlet: Outlet,
    pub(super) transports: Transports,
    pub(super) flights: RefCell<Flights>,
    pub(super) crew: Crew,
    pub(super) outbox: RefCell<Outbox>,
    pub(super) retries: RetryBudget,
    pub(super) alarms: Alarms,
    pub(super) outages: OutageLog,
    pub(super) unenforced: UnenforcedLog,
    refusals: RefusalLog,
    pub(super) phrases: RefCell<Phrases>,
    pub(super) shadow: Rc<Shadow>,
    pub(super) sweeping: RefCell<Sweeping>,
    pub(super) watches: RefCell<Watches>,
    /// What is asked and judged by now.
    pub(super) policy: RefCell<Arc<Policy>>,
    /// How often the breaker of each endpoint had opened when this thread looked last.
    opened: RefCell<Vec<u64>>,
    /// Of the revocations up to here this thread has heard, by their clock.
    pub(super) heard: Cell<u64>,
    /// Which I/O thread this is.
    pub(super) index: usize,
    /// See `remembering.rs`.
    pub(super) random: Cell<u64>,
}

impl Shard {
    /// The core's seed need not be secret: it only spreads expiries.
    pub(crate) fn new(core: Arc<Core>, outlet: Outlet, transports: Transports, index: usize) -> Rc<Self> {
        let seed = core.seed ^ index as u64;
        Rc::new(Self {
            outages: OutageLog::new(Arc::clone(&core.log), "the backend", outlet.poker()),
            unenforced: UnenforcedLog::new(Arc::clone(&core.log), outlet.poker()),
            refusals: RefusalLog::new(&core, outlet.poker()),
            shadow: Shadow::new(Arc::clone(&core), transports.another(), index, outlet.poker()),
            alarms: Alarms::new(outlet.poker()),
            retries: RetryBudget::new(Arc::clone(&core.retries), Arc::clone(&core.hedges)),
            policy: RefCell::new(core.policy()),
            index,
            heard: Cell::new(0),
            opened: RefCell::default(),
            watches: RefCell::default(),
            core,
            outlet,
            transports,
            flights: RefCell::default(),
            phrases: RefCell::default(),
            crew: Crew::default(),
            outbox: RefCell::default(),
            sweeping: RefCell::default(),
            random: Cell::new(seed),
        })
    }

    /// Runs until the engine stops. Every check that was taken in has its decision then.
    pub(crate) async fn run(self: Rc<Self>) {
        let mut timer = pin!(sleep_until(Instant::now() + FAR));
        loop {
            let overdue = self.turn();
            if overdue == Overdue::None {
                self.gather().await;
            }
            self.deliver();
            if self.outlet.stopped() {
                break;
            }
            if overdue == Overdue::More {
                self.give_way().await;
                continue;
            }
            let swept = self.sweeping.borrow().next_at().map(|at| self.core.instant(at));
            let next = self.flights.borrow().next_deadline();
            let next = next.into_iter().chain(swept).chain(self.next_watch()).chain(self.next_standby());
            let next = next.chain(self.alarms.next()).chain(self.next_line()).min();
            // A timer that fires early only costs a turn; one that is late breaks a promise.
            if let Some(next) = next
                && (next < timer.deadline() || timer.is_elapsed())
            {
                timer.as_mut().reset(next);
            }
            self.alarms.looks_at(next.map(|_| timer.deadline()));
            let mut changed = pin!(self.outlet.changed());
            poll_fn(|context| {
                let ready = changed.as_mut().poll(context).is_ready()
                    || (next.is_some() && timer.as_mut().poll(context).is_ready());
                if ready { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
        self.end();
    }

    /// Until another turn is wanted by somebody else, or all have had theirs and the system was heard. A breaker that opens
    /// meanwhile is so looked at before those in line go out on the connections of those that have failed.
    async fn give_way(&self) {
        let (mut changed, mut others) = (pin!(self.outlet.changed()), pin!(yield_now()));
        let mut theirs = true;
        poll_fn(|cx| {
            if !std::mem::take(&mut theirs) {
                return Poll::Ready(());
            }
            // Both keep the waker. What had been wanted before is the next turn's, too, which comes behind the others'.
            let _ = (changed.as_mut().poll(cx), others.as_mut().poll(cx));
            Poll::Pending
        })
        .await;
    }

    /// Everything but to call receivers, which may take their time.
    fn turn(self: &Rc<Self>) -> Overdue {
        self.turn_to(self.core.policy());
        self.take_in();
        let now = Instant::now();
        self.alarms.ring(now);
        self.watch_again(now);
        self.turn_away();
        let overdue = self.expire(now);
        let more = self.call_up(now) || overdue == Overdue::More;
        self.sweep(now);
        self.say_unsaid(now);
        if more { Overdue::More } else { overdue }
    }

    /// What happened again and again, and is not said at once.
    fn say_unsaid(&self, now: Instant) {
        let policy = self.policy.borrow();
        if self.index == 0 {
            self.refusals.note(&self.core, &policy, now);
        }
        if self.next_line().is_none_or(|next| next > now) {
            return;
        }
        self.outages.say_unsaid(now);
        self.unenforced.say_unsaid(now);
        self.shadow.say_unsaid(now);
        policy.say_unsaid(now);
    }

    /// When some of it is to be said.
    fn next_line(&self) -> Option<Instant> {
        let of_backend = self.outages.next_at().into_iter().chain(self.refusals.next_at());
        let of_all = self.policy.borrow().next_line();
        of_backend.chain(self.unenforced.next_at()).chain(self.shadow.next_line()).chain(of_all).min()
    }

    pub(super) fn take_in(self: &Rc<Self>) {
        while let Some(message) = self.outlet.next() {
            // Some by one time, not all: there may be very many.
            clock::step(|| {
                self.board(message);
                let more = std::iter::from_fn(|| self.outlet.next());
                more.take(AT_ONCE - 1).for_each(|message| self.board(message));
            });
        }
        let told = self.core.revocations.told();
        while let Some(news) = self.outlet.next_news() {
            match news {
                News::Cancelled(ticket) => {
                    let left = self.flights.borrow_mut().leave(ticket);
                    if let Some((id, completion)) = left {
                        drop(completion);
                        self.abandon_if_empty(id);
                    }
                }
                News::Refresh(asked) => self.refresh(asked),
                News::Watch(watch, asked, user) => self.begin_watch(watch, asked, user),
                News::Unwatch(ticket) => drop(self.drop_watch(ticket)),
                News::Void(whose) => self.void(whose),
                #[cfg(test)]
                News::Panic => panic!("a defect, and a client's token"),
            }
        }
        self.heard.set(told.unwrap_or(self.heard.get()));
    }

    pub(super) fn turn_to(&self, policy: Arc<Policy>) {
        let before = self.policy.replace(Arc::clone(&policy));
        let (new, old) = (&policy.settings, &before.settings);
        if !Arc::ptr_eq(&before.memory, &policy.memory) {
            // What they were told was asked, or judged, by other rules.
            self.watches.borrow_mut().all_are_due(Instant::now());
        }
        if !Arc::ptr_eq(&before, &policy) {
            before.say_what_ends(&policy);
            self.watches.borrow_mut().all_turn_to(&policy);
        }
        if new.ttl.max < old.ttl.max {
            self.watches.borrow_mut().cut(Bound::TtlMax, || new.ttl.max);
        }
        if new.watch.interval < old.watch.interval {
            self.watches.borrow_mut().cut(Bound::Interval, || self.watch_interval());
        }
        self.shadow.turn_to(&policy);
        self.transports.turn_to(policy);
    }

    /// Where a breaker has opened, those who wait for a connection wait in vain.
    fn turn_away(&self) {
        let policy = Arc::clone(&self.policy.borrow());
        let route = self.transports.of(&policy);
        route.part_where_probed();
        let mut seen = self.opened.borrow_mut();
        seen.resize(policy.health.len(), 0);
        for (endpoint, (seen, health)) in seen.iter_mut().zip(policy.health.iter()).enumerate() {
            let opened = health.opened();
            if std::mem::replace(seen, opened) != opened && health.is_open() {
                route.transport.turn_away(endpoint);
            }
        }
    }

    fn refresh(self: &Rc<Self>, asked: Asked) {
        let most = (asked.policy.settings.pool.max_connections / self.core.inboxes.len()).max(1);
        let is_joinable = |mark| self.core.revocations.is_joinable(mark);
        let begun = self.flights.borrow_mut().refresh(asked, is_joinable, most);
        if let Some(id) = begun {
            self.depart(id);
        }
    }

    fn board(self: &Rc<Self>, message: Message) {
        let (asked, completion) = match message {
            Message::Decided(completion, decision) => return self.decide(completion, *decision),
            Message::Ask(_, completion) if completion.is_cancelled() => return,
            Message::Ask(asked, completion) => (asked, completion),
        };
        let timeout = asked.policy.settings.timeout;
        let timeout = asked.question.timeout().map_or(timeout, |wanted| wanted.min(timeout));
        let deadline = completion.submitted + timeout;
        if deadline <= clock::now() {
            // It waited in the inbox for all of its time: that is our load, not the backend's silence.
            let why = "the deadline passed before the check could be sent";
            let decision = asked.policy.without_answer(Cause::Overload, why);
            return self.decide(completion, self.fallback(decision, "", asked.about()));
        }
        let is_joinable = |mark| self.core.revocations.is_joinable(mark);
        let joins =
            || self.flights.borrow().takes_on(&asked.policy, asked.question.key(), asked.hash, is_joinable);
        if asked.policy.per_client.is_some()
            && !joins()
            && let Some(decision) = self.held_back(asked.about())
        {
            return self.decide(completion, decision);
        }
        let (boarding, spare) = self.flights.borrow_mut().board(asked, is_joinable, completion, deadline);
        if let Some(spare) = spare {
            self.outlet.spare(spare);
        }
        if let Boarding::Began(id) = boarding {
            self.depart(id);
        }
    }

    /// With `limit.per_ip`: the decision if this client may not cause one more exchange. What every breaker stops causes
    /// none, and does not count; nor is anyone over the limit while none is closed: of a burst one finds out, and the others
    /// would have been stopped.
    pub(super) fn held_back(&self, about: About<'_>) -> Option<Decision> {
        let About { policy, question, .. } = about;
        let limit = policy.per_client.as_ref()?;
        let stopped = policy.health.iter().all(|health| health.stops(client(question)));
        if !stopped && limit.admits(question.ip()) {
            return None;
        }
        if stopped || policy.health.iter().all(Health::is_open) {
            let outage = breaker_open(policy, 0);
            self.outages.note(&outage);
            return Some(self.fallback(outage_decision(policy, &outage), &outage.detail, about));
        }
        self.core.limited.fetch_add(1, Ordering::Relaxed);
        Some(Policy::over_limit())
    }

    fn expire(self: &Rc<Self>, now: Instant) -> Overdue {
        for answered in 0..OVERDUE {
            let expired = self.flights.borrow_mut().expired(now);
            let Some((id, mut completion)) = expired else {
                return if answered == 0 { Overdue::None } else { Overdue::All };
            };
            let queued = self.flights.borrow().flight(id).is_queued();
            if queued && !std::mem::replace(&mut completion.graced, true) {
                self.flights.borrow_mut().link(id, completion, now + GRACE);
                continue;
            }
            let (decision, outage, ends) = {
                let flights = self.flights.borrow();
                let flight = flights.flight(id);
                let (decision, outage) = flight.overdue();
                let detail = outage.as_ref().map_or("", |outage| &outage.detail);
                // It has had all the time that a check has, and is about to end by itself: then its endpoint's health hears
                // that there was no connection.
                let end =
                    flight.asking.connecting_since().map(|since| since + flight.policy.settings.timeout);
                let ends = !completion.graced && end.is_some_and(|end| end <= now + GRACE);
                (self.fallback(decision, detail, flight.about()), outage, ends)
            };
            self.decide(completion, decision);
            if !ends
                && self.abandon_if_empty(id)
                && let Some(outage) = outage
            {
                self.outages.note(&outage);
            }
        }
        Overdue::More
    }

    /// An exchange that nobody waits for is dropped if the backend knows nothing of it yet; otherwise it runs
    /// on to its own end, so that its connection stays usable. Whether it was dropped.
    pub(super) fn abandon_if_empty(&self, id: FlightId) -> bool {
        let flight = {
            let mut flights = self.flights.borrow_mut();
            let flight = flights.flight(id);
            if flights.is_awaited(id) || flight.landing || flight.asking.written() {
                return false;
            }
            flights.remove(id)
        };
        flight.asking.give_up();
        if let Some(hand) = flight.hand {
            hand.drop_flight();
        }
        true
    }

    /// Delivered at the end of the turn.
    pub(super) fn decide(&self, completion: Completion, decision: Decision) {
        self.outbox.borrow_mut().decide(completion, decision);
    }

    /// Where several were decided in this turn, others will be by what has come meanwhile: their hosts are told of all with one
    /// signal. Nobody waits for what has not come.
    async fn gather(&self) {
        if self.outbox.borrow().len() < SEVERAL {
            return;
        }
        // A defect there is no reason to end all that is in flight.
        let look_around = AssertUnwindSafe(|| self.transports.look_around());
        if !catch_unwind(look_around).unwrap_or(true) {
            return;
        }
        let mut theirs = true;
        poll_fn(|cx| {
            if !std::mem::take(&mut theirs) {
                return Poll::Ready(());
            }
            // Behind those who were woken, and before what they begin.
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn deliver(&self) {
        let mut batches = self.outbox.borrow_mut().take();
        batches.deliver(&self.core.log);
        self.outbox.borrow_mut().reuse(batches);
        self.core.note_defects();
    }

    /// What still waits in the inbox is not asked any more.
    fn turn_down(&self) {
        while let Some(message) = self.outlet.next() {
            match message {
                Message::Ask(asked, completion) => {
                    let decision = asked.policy.without_answer(Cause::Shutdown, "the engine was shut down");
                    self.decide(completion, self.fallback(decision, "", asked.about()));
                }
                Message::Decided(completion, decision) => self.decide(completion, *decision),
            }
        }
    }

    fn end(&self) {
        // Before their flights are landed, which would tell them something else.
        self.end_watches(Cause::Shutdown, "the engine was shut down");
        let ids = self.flights.borrow().ids();
        for id in ids {
            let (hand, decision) = {
                let flights = self.flights.borrow();
                let flight = flights.flight(id);
                flight.asking.give_up();
                let decision = flight.policy.without_answer(Cause::Shutdown, "the engine was shut down");
                (flight.hand.clone(), self.fallback(decision, "", flight.about()))
            };
            self.land(id, &decision);
            if let Some(hand) = hand {
                hand.drop_flight();
            }
        }
        self.crew.dismiss();
        // A watch may be on its way: its host is told here, and not on a thread of its own.
        self.core.wait_for_hand_overs();
        while let Some(news) = self.outlet.next_news() {
            if let News::Watch(watch, asked, user) = news {
                self.watches.borrow_mut().add(watch, asked, user);
            }
        }
        self.end_watches(Cause::Shutdown, "the engine was shut down");
        self.turn_down();
        self.deliver();
        // A thread that submits may be between its look whether we are closed and its message, which goes out with some
        // others of its call: without a bound, as it does not wait in between; a host that kills it there waits for ever.
        while self.core.ledger.expects(self.index as u16) {
            // Not a yield: it may run at a lower priority.
            std::thread::sleep(END_PAUSE);
            self.turn_down();
            self.deliver();
        }
        self.shadow.close();
        self.transports.close();
        self.say_unsaid(Instant::now() + SAID_AGAIN);
    }
}

/// Whatever went wrong, hosts are waiting: each watch is told that nothing comes any more, and gives its place back.
impl Drop for Shard {
    fn drop(&mut self) {
        self.end_watches(Cause::Internal, "a defect in the engine, caught");
    }
}
