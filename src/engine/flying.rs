//! One flight, from its departure until everyone who waits for it has its decision.

use std::pin::pin;
use std::rc::Rc;

use tokio::time::Instant;

use super::alarms::Bell;
use super::asking::{Means, Outage, ask, breaker_open, client, late_in_line, outage_decision};
use super::crew::{Hand, Next};
use super::departures::{Called, Clearance};
use super::flights::FlightId;
use super::kits::Kit;
use super::live::Heard;
use super::shard::{OVERDUE, Shard};
use super::transports::Route;
use crate::clock;
use crate::decision::Decision;

impl Shard {
    /// Or it stands by until it may.
    pub(super) fn depart(self: &Rc<Self>, id: FlightId) {
        let (route, is_refresh) = {
            let flights = self.flights.borrow();
            let flight = flights.flight(id);
            (self.transports.of(&flight.policy), flight.refresh)
        };
        match route.clear() {
            Ok(clearance) => self.send_off(id, clearance),
            // Who asks ahead of the end does not where others wait.
            Err(_) if is_refresh => drop(self.flights.borrow_mut().remove(id)),
            Err(route) => {
                let until = clock::now() + route.policy.settings.timeout;
                self.flights.borrow_mut().stand_by(id, route, until);
            }
        }
    }

    fn send_off(self: &Rc<Self>, id: FlightId, clearance: Clearance) {
        let hand = self.crew.take(|hand| Rc::clone(self).serve(hand));
        hand.begin(id);
        self.flights.borrow_mut().depart(id, hand, clearance);
    }

    /// Those that stand by depart, as many as may, and those whose time is up are told. Where the breaker is open all wait in
    /// vain: the first who may finds out whether it is back, the others are turned away like those who wait for a connection.
    /// At most [`OVERDUE`]; whether that was too few.
    pub(super) fn call_up(self: &Rc<Self>, now: Instant) -> bool {
        if !self.flights.borrow().has_standby() {
            return false;
        }
        let mut most = OVERDUE;
        for route in self.transports.all() {
            let open = route.has_standby() && route.policy.health[0].is_open();
            let mut asked = false;
            loop {
                let until = self.flights.borrow().standby_until(&route);
                let Some(until) = until else { break };
                if most == 0 {
                    return true;
                }
                most -= 1;
                let clearance = if open || until <= now { None } else { Rc::clone(&route).clear_next().ok() };
                if clearance.is_none() && !open && until > now {
                    break;
                }
                let called = self.flights.borrow_mut().call_up(&route, now);
                match called {
                    Some(Called::Up(id, until)) => {
                        let finds_out = open && !asked && !self.is_stopped(id);
                        let clearance =
                            if finds_out { Rc::clone(&route).clear_next().ok() } else { clearance };
                        asked |= finds_out;
                        match clearance {
                            Some(clearance) => self.send_off(id, clearance.with_until(until)),
                            None => self.land_in_outage(id, &breaker_open(&route.policy, 0)),
                        }
                    }
                    Some(Called::Over(id)) => self.failed(id, &late_in_line(&route.policy, 0), until),
                    Some(Called::TooLate) | None => {}
                }
            }
        }
        false
    }

    /// Whether the breaker of its only endpoint would stop it.
    fn is_stopped(&self, id: FlightId) -> bool {
        let flights = self.flights.borrow();
        let flight = flights.flight(id);
        flight.policy.health[0].stops(client(&flight.question))
    }

    /// When the time of one that stands by is up next.
    pub(super) fn next_standby(&self) -> Option<Instant> {
        let flights = self.flights.borrow();
        if !flights.has_standby() {
            return None;
        }
        self.transports.all().filter_map(|route| flights.standby_until(&route)).min()
    }

    /// One flight after the other.
    async fn serve(self: Rc<Self>, hand: Rc<Hand>) {
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
        let deadline = clearance.until().unwrap_or_else(|| clock::now() + policy.settings.timeout);
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
                    let answer = Heard { policy, mark, overtaken };
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

    fn failed(self: &Rc<Self>, id: FlightId, outage: &Outage, deadline: Instant) {
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

    fn land_in_outage(&self, id: FlightId, outage: &Outage) {
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
        let answer = Heard { policy: &flight.policy, mark: flight.mark, overtaken: flight.overtaken };
        for ticket in watches {
            self.tell_watch(ticket, decision.clone(), answer);
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
