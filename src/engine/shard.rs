//! One I/O thread's work: take in checks, fly, land, deliver.
//!
//! A turn: everything that waits in the inbox is taken in, whoever's time is up is answered, and what was
//! decided since the last turn goes to its receivers, each called once. Exchanges run as tasks of the same
//! thread between two turns. Nothing here blocks, and nothing of the shard is borrowed while receivers run.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::asking::{Outage, ask, backend_decision, outage_decision};
use super::completion::Completion;
use super::core::Core;
use super::flights::{Boarding, FlightId, Flights};
use super::inbox::{Message, Outlet};
use super::outages::OutageLog;
use super::outbox::Outbox;
use super::policy::Policy;
use super::retries::RetryBudget;
use super::revocations::Mark;
use super::transports::Transports;
use crate::backend::{Answer, jittered};
use crate::decision::{Cause, Decision, Origin, Verdict};

/// When no waiter has a deadline.
const FAR: Duration = Duration::from_hours(1);

pub(crate) struct Shard {
    core: Arc<Core>,
    outlet: Outlet,
    transports: Transports,
    flights: RefCell<Flights>,
    outbox: RefCell<Outbox>,
    retries: RetryBudget,
    outages: OutageLog,
    random: Cell<u64>,
}

impl Shard {
    /// `seed` need not be secret: it only spreads expiries.
    pub(crate) fn new(core: Arc<Core>, outlet: Outlet, transports: Transports, seed: u64) -> Rc<Self> {
        Rc::new(Self {
            outages: OutageLog::new(Arc::clone(&core.log)),
            retries: RetryBudget::new(Arc::clone(&core.retries)),
            core,
            outlet,
            transports,
            flights: RefCell::default(),
            outbox: RefCell::default(),
            random: Cell::new(seed),
        })
    }

    /// Runs until the engine stops. Every check that was taken in has its decision then.
    pub(crate) async fn run(self: Rc<Self>) {
        let mut timer = pin!(sleep_until(Instant::now() + FAR));
        loop {
            self.transports.turn_to(self.core.policy());
            self.take_in();
            self.expire();
            self.deliver();
            if self.outlet.stopped() {
                break;
            }
            let next = self.flights.borrow().next_deadline();
            // A timer that fires early only costs a turn; one that is late breaks a promise.
            if let Some(next) = next
                && (next < timer.deadline() || timer.is_elapsed())
            {
                timer.as_mut().reset(next);
            }
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

    fn take_in(self: &Rc<Self>) {
        while let Some(message) = self.outlet.next() {
            self.board(message);
        }
        while let Some(ticket) = self.outlet.next_cancel() {
            let left = self.flights.borrow_mut().leave(ticket);
            if let Some((id, completion)) = left {
                drop(completion);
                self.abandon_if_empty(id);
            }
        }
    }

    fn board(self: &Rc<Self>, message: Message) {
        let Message { policy, question, hash, mark, completion } = message;
        if completion.is_cancelled() {
            return;
        }
        let timeout = policy.settings.timeout;
        let timeout = question.timeout.map_or(timeout, |wanted| wanted.min(timeout));
        let deadline = completion.submitted + timeout;
        if deadline <= Instant::now() {
            // It waited in the inbox for all of its time: that is our load, not the backend's silence.
            let why = "the deadline passed before the check could be sent";
            let decision = policy.without_answer(Cause::Overload, why);
            self.decide(completion, self.unless_revoked(decision, mark, &policy));
            return;
        }
        let boarding = self.flights.borrow_mut().board(&policy, question, hash, mark, completion, deadline);
        if let Boarding::Began(id) = boarding {
            self.depart(id);
        }
    }

    fn depart(self: &Rc<Self>, id: FlightId) {
        let task = tokio::task::spawn_local(Rc::clone(self).fly(id));
        self.flights.borrow_mut().set_task(id, task.abort_handle());
    }

    async fn fly(self: Rc<Self>, id: FlightId) {
        let (policy, question, asking) = {
            let flights = self.flights.borrow();
            let flight = flights.flight(id);
            (Arc::clone(&flight.policy), Rc::clone(&flight.question), Rc::clone(&flight.asking))
        };
        let crash = Crash { shard: &self, id };
        let deadline = Instant::now() + policy.settings.timeout;
        let transport = self.transports.of(&policy);
        let result = ask(&transport, &self.retries, &policy, &question, deadline, &asking).await;
        self.flights.borrow_mut().set_landing(id);
        // Whoever was accepted before the answer was here shares it.
        self.take_in();
        match result {
            Ok(answer) => {
                let mark = self.flights.borrow().flight(id).mark;
                self.core.revocations.answered(mark);
                let mut decision = self.answered(answer, &policy);
                if !self.core.revocations.is_current(mark) {
                    // Those who asked before the revocation get its answer, but not for later.
                    decision.ttl = Duration::ZERO;
                }
                self.land(id, &decision);
            }
            Err(outage) => self.failed(id, &outage, deadline),
        }
        std::mem::forget(crash);
    }

    fn answered(&self, answer: Answer, policy: &Policy) -> Decision {
        self.core.note(&answer);
        let jitter = policy.settings.ttl.jitter;
        let ttl = if jitter { jittered(answer.ttl, self.next_random()) } else { answer.ttl };
        backend_decision(answer, ttl)
    }

    fn failed(self: &Rc<Self>, id: FlightId, outage: &Outage, deadline: Instant) {
        self.outages.note(outage);
        let (policy, mark) = {
            let flights = self.flights.borrow();
            let flight = flights.flight(id);
            (Arc::clone(&flight.policy), flight.mark)
        };
        let now = Instant::now();
        if now >= deadline {
            let later = self.flights.borrow_mut().rebook(id, now);
            if let Some(later) = later {
                self.depart(later);
            }
        }
        self.land(id, &self.unless_revoked(outage_decision(&policy, outage), mark, &policy));
    }

    /// Every waiter of the flight gets the decision. Called between turns: another one is wanted.
    fn land(&self, id: FlightId, decision: &Decision) {
        self.outlet.poke();
        self.flights.borrow_mut().close(id);
        loop {
            let completion = self.flights.borrow_mut().disembark(id);
            let Some(completion) = completion else { break };
            self.decide(completion, decision.clone());
        }
        self.flights.borrow_mut().remove(id);
    }

    fn expire(self: &Rc<Self>) {
        let now = Instant::now();
        loop {
            let expired = self.flights.borrow_mut().expired(now);
            let Some((id, completion)) = expired else { break };
            let decision = {
                let flights = self.flights.borrow();
                let flight = flights.flight(id);
                self.unless_revoked(flight.asking.overdue(&flight.policy), flight.mark, &flight.policy)
            };
            self.decide(completion, decision);
            self.abandon_if_empty(id);
        }
    }

    /// An exchange that nobody waits for is dropped if the backend knows nothing of it yet; otherwise it runs
    /// on to its own end, so that its connection stays usable.
    fn abandon_if_empty(&self, id: FlightId) {
        let flight = {
            let mut flights = self.flights.borrow_mut();
            let flight = flights.flight(id);
            if !flights.is_empty(id) || flight.landing || flight.asking.written() {
                return;
            }
            flights.remove(id)
        };
        if let Some(task) = flight.task {
            task.abort();
        }
    }

    /// A session that was revoked gets no default action that lets it in, until the backend is heard again.
    fn unless_revoked(&self, mut decision: Decision, mark: Mark, policy: &Policy) -> Decision {
        if decision.origin == Origin::Default && self.core.revocations.denies(mark, policy.settings.ttl.max) {
            decision.verdict = Verdict::Deny;
        }
        decision
    }

    /// Delivered at the end of the turn.
    fn decide(&self, completion: Completion, decision: Decision) {
        self.outbox.borrow_mut().decide(completion, decision);
    }

    fn deliver(&self) {
        let batches = self.outbox.borrow_mut().take();
        batches.deliver(&self.core.log);
    }

    fn end(&self) {
        let ids = self.flights.borrow().ids();
        for id in ids {
            let (task, decision) = {
                let flights = self.flights.borrow();
                let flight = flights.flight(id);
                let decision = flight.policy.without_answer(Cause::Shutdown, "the engine was shut down");
                (flight.task.clone(), self.unless_revoked(decision, flight.mark, &flight.policy))
            };
            self.land(id, &decision);
            if let Some(task) = task {
                task.abort();
            }
        }
        while let Some(Message { policy, completion, mark, .. }) = self.outlet.next() {
            let decision = policy.without_answer(Cause::Shutdown, "the engine was shut down");
            self.decide(completion, self.unless_revoked(decision, mark, &policy));
        }
        self.deliver();
        self.transports.close();
    }

    /// splitmix64: spreads expiries, keeps no secret.
    fn next_random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// A flight that panics answers its waiters all the same. Forgotten when it has landed by itself.
struct Crash<'a> {
    shard: &'a Rc<Shard>,
    id: FlightId,
}

impl Drop for Crash<'_> {
    fn drop(&mut self) {
        // Not when the task was aborted: then its flight is gone already.
        if std::thread::panicking() && self.shard.flights.borrow().contains(self.id) {
            let decision = self.shard.core.lost();
            self.shard.land(self.id, &decision);
        }
    }
}
