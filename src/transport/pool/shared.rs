//! The HTTP/2 connections of a pool, on which a seat is a stream.
//!
//! One that has outlived its time, or whose name leads elsewhere by now, takes no new streams once its successor is there.
//! Who finds it so makes the successor; meanwhile it serves the others, for as long as two attempts may take, if there is a
//! place beside it. A connection that takes leave serves nobody: all wait for the next. The failure of one attempt goes to
//! the one who made it, that of the second in a row to all: a lost packet is nobody else's outage, and a backend that is
//! down is found out in two attempts.

use std::rc::Rc;

use tokio::time::Instant;

use super::line::{Grant, Waiter};
use super::{Lane, Lent, Pool};
use crate::clock;
use crate::transport::{Among, h2};

impl Pool {
    /// While another connection is being made, also on one that is to be replaced.
    pub(super) fn seat(&self, among: &Among) -> Option<h2::Seat> {
        if self.state.borrow().shared.is_empty() {
            return None;
        }
        let conns = self.shared();
        let on = |outdated| {
            let fit = |conn: &&Rc<h2::Conn>| conn.is_outdated() == outdated && among.takes(conn.address);
            conns.iter().filter(fit).find_map(h2::Conn::seat)
        };
        on(false).or_else(|| if self.state.borrow().attempts > 0 { on(true) } else { None })
    }

    /// Those that have had their time are told so.
    pub(super) fn shared(&self) -> Vec<Rc<h2::Conn>> {
        let (conns, beside) = {
            let state = self.state.borrow();
            (state.shared.clone(), state.attempts > 0 || state.places < self.limits.connections)
        };
        let now = clock::now();
        for conn in &conns {
            if self.keeps(conn.retires_at, conn.address) {
                conn.outdated.set(None);
                continue;
            }
            let since = conn.outdated.get().unwrap_or(now);
            conn.outdated.set(Some(since));
            if !beside || since + self.limits.connect_timeout * 2 <= now {
                conn.retire();
            }
        }
        conns
    }

    /// A connection that `maker` has made, with a seat for it, wherever it leads by now.
    pub(super) fn share(&self, conn: Rc<h2::Conn>, seat: h2::Seat, maker: &Waiter) {
        let replaced = |old: &&Rc<h2::Conn>| old.is_outdated() && maker.among.takes(old.address);
        self.shared().iter().filter(replaced).for_each(|old| old.retire());
        let mut state = self.state.borrow_mut();
        state.lane = Lane::H2;
        state.shared.push(conn);
        // A seat that nobody takes is dropped below: the connection is idle.
        let waiter = state.line.take(maker);
        drop(state);
        if let Some(waiter) = waiter {
            waiter.give(Grant::Lent(Lent::H2(seat)));
        }
        self.offer_seats();
    }

    /// A stream has ended, or more are allowed.
    pub(in crate::transport) fn offer_seats(&self) {
        if self.state.borrow().line.is_empty() {
            return;
        }
        let conns = self.shared();
        let others = |conn: &&Rc<h2::Conn>| {
            let state = self.state.borrow();
            conn.is_open() && state.line.placeless().is_some_and(|first| !first.takes(false, conn.address))
        };
        // One at a time: its place is free when its last stream has ended.
        let makes_way = conns.iter().any(|conn| !conn.is_open()) || self.state.borrow().attempts > 0;
        if !makes_way
            && let Some(other) = conns.iter().find(others)
            && self.owes_place(false, other.address)
        {
            other.retire();
        }
        for conn in conns {
            while self.state.borrow().line.first(false, conn.address).is_some() {
                let Some(seat) = conn.seat() else { break };
                let waiter = self.state.borrow_mut().line.take_first(false, conn.address);
                waiter.expect("nobody left since").give(Grant::Lent(Lent::H2(seat)));
            }
        }
    }

    /// A connection has no streams: it will have to be closed some time, or now, if its place is wanted.
    pub(in crate::transport) fn shared_idled(&self) {
        self.idled.notify_one();
        self.grant();
    }

    /// Someone needs a place who may only go there: an idle connection that leads elsewhere makes way.
    pub(super) fn make_way_to(&self, among: &Among) {
        let conns = self.state.borrow().shared.clone();
        // Its place is free in a moment.
        if conns.iter().any(|conn| conn.is_closing()) {
            return;
        }
        let idle = conns.iter().filter(|conn| !among.takes(conn.address) && conn.idle_since().is_some());
        if let Some(conn) = idle.min_by_key(|conn| conn.idle_since()) {
            conn.retire();
        }
    }

    pub(in crate::transport) fn forget_shared(&self, conn: &Rc<h2::Conn>) {
        self.state.borrow_mut().shared.retain(|other| !Rc::ptr_eq(other, conn));
        self.grant();
    }

    /// What is still to be closed, and when.
    pub(super) fn reap_shared(&self, now: Instant) -> Option<Instant> {
        let timeout = self.limits.idle_timeout;
        let shared = self.state.borrow().shared.clone();
        let mut next: Option<Instant> = None;
        for conn in shared {
            match conn.idle_since() {
                Some(since) if since + timeout <= now => conn.retire(),
                Some(since) => next = Some(next.map_or(since + timeout, |next| next.min(since + timeout))),
                None => {}
            }
        }
        next
    }
}
