//! When flights depart. One that is under way holds some kilobytes, also while it waits for a connection, and when a backend
//! hangs there are as many as checks may be pending. Where all connections are in use and [`LINE`] flights wait for one, the
//! others stand by: they hold their question and nothing else, and depart in the order of their arrival when others have
//! landed. No connection is ever idle for that, as there is always a line before it. A flight has its time from when it began to
//! stand by: then it is over, whoever waits for it, as it would be in the line.
//!
//! Only where it is known how many can be asked at once: of one URL, over HTTP/1.1.

use std::cell::Cell;
use std::rc::Rc;

use tokio::time::Instant;

use super::asking::{Outage, breaker_open, client, late_in_line, outage_decision};
use super::chains::Chain;
use super::flights::{Flight, FlightId};
use super::shard::{OVERDUE, Shard};
use super::transports::Route;
use crate::clock;
use crate::decision::Decision;

/// Flights that wait for a connection, beside which others stand by.
pub(crate) const LINE: usize = 1024;

/// Of one route.
#[derive(Default)]
pub(crate) struct Departures {
    under_way: Cell<usize>,
    pub(super) standby: Cell<Chain>,
}

/// How far a flight's departure has come.
#[derive(Default)]
pub(crate) enum Departure {
    #[default]
    Open,
    StandsBy(Box<Standing>),
    /// Who still waits does so only to learn why.
    TooLate,
    Cleared(Clearance),
}

/// A place among those that stand by, which are counted among those that wait for a connection.
pub(crate) struct Standing {
    pub(super) route: Rc<Route>,
    /// When its time is up.
    pub(super) until: Instant,
}

/// Leave to be under way. Dropped, another one has it.
pub(crate) struct Clearance {
    route: Rc<Route>,
    /// When its time is up, if it has stood by. In a box, as few have.
    until: Option<Box<Instant>>,
}

/// Who was first of those that stand by.
pub(super) enum Called {
    /// It may depart; its time is up then.
    Up(FlightId, Instant),
    /// Its time is up.
    Over(FlightId),
    /// Whoever waits for it has no time left, and waits only to learn why.
    TooLate,
}

impl Route {
    /// Leave for one more flight. `Err`: it is to stand by.
    pub(super) fn clear(self: Rc<Self>) -> Result<Clearance, Rc<Self>> {
        if self.has_standby() { Err(self) } else { self.clear_next() }
    }

    /// The same for the first of those that stand by.
    pub(super) fn clear_next(self: Rc<Self>) -> Result<Clearance, Rc<Self>> {
        let under_way = self.departures.under_way.get();
        if under_way >= LINE && self.transport.at_once().is_some_and(|at_once| under_way >= at_once + LINE) {
            return Err(self);
        }
        self.departures.under_way.set(under_way + 1);
        Ok(Clearance { route: self, until: None })
    }

    pub(super) fn has_standby(&self) -> bool {
        self.departures.standby.get().first().is_some()
    }
}

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
                            Some(clearance) => self.send_off(id, clearance.until(until)),
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
}

impl Flight {
    /// It waits for a connection, and for nothing else.
    pub(super) fn is_queued(&self) -> bool {
        self.has_not_departed() || self.asking.is_queued()
    }

    /// What a waiter gets whose time is up while the flight goes on, and the outage if it is one.
    pub(super) fn overdue(&self) -> (Decision, Option<Outage>) {
        if self.has_not_departed() {
            let outage = late_in_line(&self.policy, 0);
            return (outage_decision(&self.policy, &outage), Some(outage));
        }
        self.asking.overdue(&self.policy)
    }

    pub(super) fn has_not_departed(&self) -> bool {
        matches!(self.departure, Departure::StandsBy(_) | Departure::TooLate)
    }
}

impl Standing {
    pub(super) fn new(route: Rc<Route>, until: Instant) -> Self {
        route.transport.waiting().add(1);
        Self { route, until }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.route.transport.waiting().sub(1);
    }
}

impl Clearance {
    /// For one that has stood by.
    fn until(mut self, until: Instant) -> Self {
        self.until = Some(Box::new(until));
        self
    }

    /// When its time is up, if it has stood by.
    pub(super) fn its_time_is_up(&self) -> Option<Instant> {
        self.until.as_deref().copied()
    }

    pub(super) fn route(&self) -> &Route {
        &self.route
    }
}

impl Drop for Clearance {
    fn drop(&mut self) {
        let route = &self.route;
        route.departures.under_way.set(route.departures.under_way.get() - 1);
        if route.has_standby() {
            (route.poke)();
        }
    }
}
