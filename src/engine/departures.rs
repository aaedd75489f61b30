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

use super::asking::{Outage, late_in_line, outage_decision};
use super::chains::Chain;
use super::flights::{Flight, FlightId};
use super::transports::Route;
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
    leave: Leave,
    /// When its time is up, if it has stood by. In a box, as few have.
    until: Option<Box<Instant>>,
}

struct Leave(Rc<Route>);

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
        Ok(Clearance { leave: Leave(self), until: None })
    }

    pub(super) fn has_standby(&self) -> bool {
        self.departures.standby.get().first().is_some()
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
    pub(super) fn with_until(self, until: Instant) -> Self {
        Self { until: Some(Box::new(until)), ..self }
    }

    /// When its time is up, if it has stood by.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until.as_deref().copied()
    }

    pub(super) fn route(&self) -> &Route {
        &self.leave.0
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        let Self(route) = self;
        route.departures.under_way.set(route.departures.under_way.get() - 1);
        if route.has_standby() {
            (route.poke)();
        }
    }
}
