//! One flight, from its departure until everyone who waits for it has its decision.

use std::pin::pin;
use std::rc::Rc;

use tokio::time::Instant;

use super::alarms::Bell;
use super::asking::{Means, Outage, ask, outage_decision};
use super::crew::{Hand, Next};
use super::flights::FlightId;
use super::kits::Kit;
use super::live::Heard;
use super::shard::Shard;
use super::transports::Route;
use crate::clock;
use crate::decision::Decision;

impl Shard {
    /// One flight after the other.
    pub(super) async fn serve(self: Rc<Self>, hand: Rc<Hand>) {
        loop {
            match hand.next().await {
                Next::Fly(id) => {
                    let kit = {
                        let flights = self.flights.borrow();
                        let flight = flights.flight(id);
                        Kit { question: Rc::clone(&flight.question), asking: Rc::clone(&flight.asking) }
                    };
                    {
                        // Where it is, without a move: it is large.
                        let flight = pin!(self.fly(id, &kit, &hand.bell));
                        hand.run(flight).await;
                    }
                    self.flights.borrow_mut().unpack(kit);
                }
                Next::Rest => {}
                Next::End => break,
            }
            if !self.crew.rest(&hand) {
                break;
            }
        }
        self.alarms.vacate(&hand.bell);
    }

    async fn fly(self: &Rc<Self>, id: FlightId, kit: &Kit, bell: &Bell) {
        let Kit { question, asking } = kit;
        // Before anything else: from here on a defect answers those who wait.
        let crash = Crash { shard: self, id };
        let (clearance, may_hedge) = {
            let mut flights = self.flights.borrow_mut();
            // Who asks ahead of the end has time.
            (flights.take_clearance(id), !flights.flight(id).refresh)
        };
        let clearance = clearance.expect("what flies was cleared");
        let Route { policy, transport, .. } = clearance.route();
        let deadline = clearance.its_time_is_up().unwrap_or_else(|| clock::now() + policy.settings.timeout);
        let means = Means {
            transport,
            retries: &self.retries,
            alarms: Some((&self.alarms, bell)),
            policy,
            question,
            deadline,
            asking,
            may_hedge,
            random: self.next_random(),
        };
        let result = ask(&means).await;
        self.flights.borrow_mut().set_landing(id);
        // Whoever was accepted before the answer was here shares it.
        self.take_in();
        match result {
            Ok(answer) => {
                self.flights.borrow_mut().overtake(id);
                let shadowed = policy.shadow.is_some().then(|| answer.clone());
                let decision = self.answered(id, answer);
                let (hash, mark, overtaken) = {
                    let flights = self.flights.borrow();
                    let flight = flights.flight(id);
                    (flight.hash, flight.mark, flight.overtaken)
                };
                self.land(id, &decision);
                if !overtaken {
                    let answer = Heard { policy, mark, since: clock::now(), overtaken };
                    self.tell_watches_of(question, hash, &decision, answer);
                }
                if let Some(answer) = shadowed {
                    self.shadow.ask(policy, question, answer, self.next_random());
                }
            }
            Err(outage) => self.failed(id, &outage, deadline),
        }
        std::mem::forget(crash);
    }

    pub(super) fn failed(self: &Rc<Self>, id: FlightId, outage: &Outage, deadline: Instant) {
        self.outages.note(outage);
        let now = clock::now();
        if now >= deadline {
            let later = self.flights.borrow_mut().rebook(id, now);
            if let Some(later) = later {
                self.depart(later);
            }
        }
        self.land_in_outage(id, outage);
    }

    pub(super) fn land_in_outage(&self, id: FlightId, outage: &Outage) {
        let decision = {
            let flights = self.flights.borrow();
            let flight = flights.flight(id);
            let decision = outage_decision(&flight.policy, outage);
            // Who asked only to refresh takes no place.
            if flights.is_awaited(id) {
                self.fallback(decision, &outage.detail, flight.about())
            } else {
                decision
            }
        };
        self.land(id, &decision);
    }

    /// Every waiter of the flight gets the decision. Called between turns: another one is wanted.
    pub(super) fn land(&self, id: FlightId, decision: &Decision) {
        self.outlet.poke();
        self.flights.borrow_mut().close(id);
        loop {
            let completion = self.flights.borrow_mut().disembark(id);
            let Some(completion) = completion else { break };
            self.decide(completion, decision.clone());
        }
        let (watches, flight) = {
            let mut flights = self.flights.borrow_mut();
            (flights.take_watches(id), flights.remove(id))
        };
        let answer = Heard {
            policy: &flight.policy,
            mark: flight.mark,
            since: clock::now(),
            overtaken: flight.overtaken,
        };
        for ticket in watches {
            // One that was told by another flight meanwhile waits for this one no more, which may have asked before that.
            let waits = self.watches.borrow().get(ticket).is_some_and(|watched| watched.flight == Some(id));
            if waits {
                self.tell_watch(ticket, decision.clone(), answer);
            }
        }
    }
}

/// A flight that panics answers its waiters all the same. Forgotten when it has landed by itself.
struct Crash<'a> {
    shard: &'a Rc<Shard>,
    id: FlightId,
}

impl Drop for Crash<'_> {
    fn drop(&mut self) {
        // Not when the flight was dropped: then it is gone already.
        if std::thread::panicking() && self.shard.flights.borrow().contains(self.id) {
            let decision = self.shard.core.lost();
            self.shard.land(self.id, &decision);
        }
    }
}
