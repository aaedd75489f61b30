//! `http.pipeline`: which connections take more than one request at once, and how many.
//!
//! An endpoint that was not pipelined to before, or that has failed at it, is tried first: two requests, on one connection.
//! When both are answered the whole window is used, on every connection. When a connection ends instead and leaves
//! requests unanswered that were on it together, the endpoint is not pipelined to for [`REST`], and then tried again. So
//! a server that cannot do it (`php -S` answers nothing at all) costs two checks a second request each, once in a while.

use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::line::Grant;
use super::{Lent, Pool};
use crate::clock;
use crate::transport::wire::pipe::{Pipe, Seat};
use crate::transport::{Among, Progress};

/// For how long an endpoint is not pipelined to after it has left requests unanswered.
pub(in crate::transport) const REST: Duration = Duration::from_mins(1);

/// Of many pipes so many are looked at: who finds no room waits in line, and is called when there is some.
const LOOKED_AT: usize = 16;

#[derive(Default)]
pub(super) struct Windows {
    pipes: Vec<Rc<Pipe>>,
    /// Where the next look begins.
    next: usize,
    trust: Trust,
    /// The connection on which it is tried.
    trial: Weak<Pipe>,
    /// The one that is to make way for a fresh connection.
    retiring: Weak<Pipe>,
}

#[derive(Default)]
enum Trust {
    #[default]
    Untried,
    Proven,
    BrokenUntil(Instant),
}

impl Windows {
    fn is_broken(&self) -> bool {
        matches!(self.trust, Trust::BrokenUntil(then) if clock::now() < then)
    }
}

impl Pool {
    /// Whether a connection for this exchange is to be shared with others.
    pub(in crate::transport) fn pipelines(&self, fresh: bool, progress: &Progress) -> bool {
        self.limits.pipeline > 1 && !fresh && !progress.apart && !self.windows.borrow().is_broken()
    }

    /// A place on the least busy of those that have room.
    pub(super) fn window_seat(&self, among: &Among) -> Option<Seat> {
        let pipe = {
            let now = clock::now();
            let windows = &mut *self.windows.borrow_mut();
            let count = windows.pipes.len();
            let first = windows.next % count.max(1);
            windows.next = (first + 1) % count.max(1);
            let (behind, from) = windows.pipes.split_at(first);
            let mut best = None;
            for pipe in from.iter().chain(behind).take(LOOKED_AT) {
                let Some(load) = pipe.load() else { continue };
                if best.is_none_or(|(least, _)| load < least)
                    && among.takes(pipe.address)
                    && self.has_window(windows, pipe, load, now)
                {
                    best = Some((load, pipe));
                }
            }
            Rc::clone(best?.1)
        };
        Some(self.seat_on(&pipe))
    }

    /// `load`: of this pipe.
    fn has_window(&self, windows: &Windows, pipe: &Rc<Pipe>, load: usize, now: Instant) -> bool {
        let window = match windows.trust {
            Trust::Proven => self.limits.pipeline,
            Trust::BrokenUntil(then) if now < then => 0,
            _ => match windows.trial.upgrade() {
                Some(trial) if !Rc::ptr_eq(&trial, pipe) => 1,
                _ => 2,
            },
        };
        load < window && self.keeps(pipe.retires_at, pipe.address)
    }

    fn seat_on(&self, pipe: &Rc<Pipe>) -> Seat {
        let windows = &mut *self.windows.borrow_mut();
        if !matches!(windows.trust, Trust::Proven) && pipe.load() > Some(0) {
            windows.trial = Rc::downgrade(pipe);
        }
        pipe.seat()
    }

    /// A connection has become a pipe.
    pub(in crate::transport) fn admit(&self, pipe: &Rc<Pipe>) {
        self.gauges().pipes.add(1);
        self.windows.borrow_mut().pipes.push(Rc::clone(pipe));
    }

    /// And is none any more.
    pub(in crate::transport) fn forget_pipe(&self, pipe: &Rc<Pipe>) {
        self.gauges().pipes.sub(1);
        let windows = &mut *self.windows.borrow_mut();
        if let Some(index) = windows.pipes.iter().position(|other| Rc::ptr_eq(other, pipe)) {
            windows.pipes.swap_remove(index);
        }
        for of in [&mut windows.trial, &mut windows.retiring] {
            if of.upgrade().is_some_and(|of| Rc::ptr_eq(&of, pipe)) {
                *of = Weak::new();
            }
        }
    }

    /// A pipe may have room for those in line.
    pub(in crate::transport) fn offer_window(&self, pipe: &Rc<Pipe>) {
        let mut offered = false;
        while !self.state.borrow().line.is_empty()
            && pipe
                .load()
                .is_some_and(|load| self.has_window(&self.windows.borrow(), pipe, load, clock::now()))
        {
            let Some(waiter) = self.state.borrow_mut().line.take_sharer(pipe.address) else { break };
            waiter.give(Grant::Lent(Lent::Piped(self.seat_on(pipe))));
            offered = true;
        }
        if offered {
            // Whoever is first now may have waited behind them for a place.
            self.grant();
        }
    }

    /// Requests that were on a connection together have been answered.
    pub(in crate::transport) fn window_holds(&self) {
        let pipes = {
            let windows = &mut *self.windows.borrow_mut();
            // What was under way when another connection broke proves nothing.
            if matches!(windows.trust, Trust::Proven) || windows.is_broken() {
                return;
            }
            windows.trust = Trust::Proven;
            windows.pipes.clone()
        };
        for pipe in &pipes {
            self.offer_window(pipe);
        }
    }

    /// Requests that were on a connection together have not been answered. Who has not been sent yet goes elsewhere.
    pub(in crate::transport) fn window_broke(&self) {
        let pipes = {
            let windows = &mut *self.windows.borrow_mut();
            windows.trust = Trust::BrokenUntil(clock::now() + REST);
            windows.pipes.clone()
        };
        for pipe in &pipes {
            pipe.turn_away();
        }
    }

    /// Nobody else is sent on those that lead to one of these addresses.
    pub(super) fn retire_pipes(&self, among: &Among) {
        let windows = &*self.windows.borrow();
        windows.pipes.iter().filter(|pipe| among.takes(pipe.address)).for_each(|pipe| pipe.retire());
    }

    /// Someone needs a connection of its own, and all are pipes, which may be busy for ever: one of them makes way.
    pub(super) fn make_way(&self) {
        let windows = &mut *self.windows.borrow_mut();
        if windows.retiring.upgrade().is_some() {
            return;
        }
        let pipe = windows
            .pipes
            .iter()
            .take(LOOKED_AT)
            .filter(|pipe| pipe.load().is_some())
            .min_by_key(|pipe| pipe.load());
        if let Some(pipe) = pipe {
            windows.retiring = Rc::downgrade(pipe);
            pipe.retire();
        }
    }
}
