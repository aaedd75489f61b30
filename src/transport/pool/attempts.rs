//! Attempts at connections: they go on by themselves, and who learns of their end.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use tokio::task::spawn_local;
use tokio::time::sleep;

use super::line::{Grant, Waiter};
use super::{Attempt, Lane, Lent, Place, Pool};
use crate::decision::Cause;
use crate::transport::dial::Watch;
use crate::transport::{Failure, h1, h2, wire};

impl Pool {
    /// Makes a connection in the background: who waits for it may leave, it does not go to waste.
    pub(super) fn dial(&self, place: Place, attempt: Attempt, waiter: Rc<Waiter>, watch: Rc<Watch>) {
        let pool = self.rc();
        spawn_local(async move {
            let _crash = Crash { pool: &pool, waiter: &waiter };
            if let Err(failure) = pool.connect(place, &waiter, &watch).await {
                pool.fail(&waiter, failure, watch.address());
            }
            watch.rest();
            drop(attempt);
        });
    }

    async fn connect(&self, place: Place, first: &Waiter, watch: &Rc<Watch>) -> Result<(), Failure> {
        let mut dial = self.dialer.dial(self.endpoint, first.among.clone(), Rc::clone(watch));
        let mut makes_way = pin!(self.makes_way());
        let link = poll_fn(|cx| match dial.as_mut().poll(cx) {
            Poll::Ready(link) => Poll::Ready(Some(link)),
            Poll::Pending => makes_way.as_mut().poll(cx).map(|()| None),
        });
        let Some(link) = link.await else {
            watch.make_way();
            let (label, limit) = (&self.label, self.limits.timeout.as_millis());
            return Err(Failure::new(Cause::Connect, format!("no connection to {label} within {limit} ms")));
        };
        let link = link?;
        if link.http2 {
            let (conn, seat) = h2::establish(&self.rc(), link, place).await?;
            self.share(conn, seat, first);
        } else {
            let conn = if self.limits.wire {
                wire::establish(link, place, self.limits.max_age)
            } else {
                h1::establish(&self.rc(), link, place).await?
            };
            self.state.borrow_mut().lane = Lane::H1;
            self.offer(conn, Some(first));
        }
        Ok(())
    }

    /// An attempt goes on when nobody waits for it any more, unless its place is needed. One for all who wait is not in the way.
    async fn makes_way(&self) {
        sleep(self.limits.timeout).await;
        while self.state.borrow().lane != Lane::H1 || !self.is_crowded() {
            self.crowded.notified().await;
        }
    }

    fn fail(&self, maker: &Waiter, failure: Failure, address: Option<IpAddr>) {
        let shared = self.shared();
        // Unless there is one that they can go on waiting for.
        let other = shared.iter().any(|conn| conn.is_open() && maker.among.takes(conn.address));
        let failed = {
            let mut state = self.state.borrow_mut();
            if state.lane != Lane::H1 && !other {
                state.line.take_failed(maker)
            } else {
                state.line.take(maker).into_iter().collect()
            }
        };
        for waiter in failed {
            let seat = if other { self.seat(&waiter.among) } else { None };
            waiter.give(match seat {
                Some(seat) => Grant::Lent(Lent::H2(seat)),
                None => Grant::Failed(failure.clone(), address),
            });
        }
    }
}

/// A dial that panics fails all the same: whoever waits for it would take its silence for the backend's.
struct Crash<'a> {
    pool: &'a Pool,
    waiter: &'a Rc<Waiter>,
}

impl Drop for Crash<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let failure = Failure::new(Cause::Internal, "a defect while connecting, caught".to_owned());
            self.pool.fail(self.waiter, failure, None);
        }
    }
}
