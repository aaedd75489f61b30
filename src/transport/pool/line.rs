//! The line before a pool's connections: who waits, and what is given to whom.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::{Attempt, Lent, Place, Pool};
use crate::transport::dial::Watch;
use crate::transport::{Among, Failure, Progress};

/// So many are asked whether they take a connection to an address that some do not take. Beyond that it is idle, and gives up
/// its place to the first who has none.
const ASKED: usize = 64;

/// Who is first and has no place lets so many connections pass that it does not take and others do; then one of them makes
/// way. At most one in so many is closed for that.
const PASSED: u32 = 16;

/// Who waits, in the order of arrival. When a backend hangs there are tens of thousands, and all leave at once:
/// no step here looks at more of the line than the way to one waiter, but for the failure of an attempt and the end.
#[derive(Default)]
pub(super) struct Line {
    arrivals: u64,
    waiters: BTreeMap<u64, Rc<Waiter>>,
    /// Those who have had no place to make a connection of their own.
    placeless: BTreeSet<u64>,
    /// Those who take a connection that was used before.
    content: BTreeSet<u64>,
}

/// One in line.
pub(super) struct Waiter {
    number: u64,
    pub(super) fresh: bool,
    /// Takes a place on a connection that others are on.
    pub(super) shares: bool,
    pub(super) among: Among,
    /// A connection that it waited for has failed, and another is made.
    spared: Cell<bool>,
    passed: Cell<u32>,
    inbox: RefCell<Option<Grant>>,
    waker: RefCell<Option<Waker>>,
}

pub(super) enum Grant {
    Place(Place, Attempt),
    Lent(Lent),
    /// And the address that was reached before.
    Failed(Failure, Option<IpAddr>),
}

impl Line {
    fn join(&mut self, fresh: bool, shares: bool, among: Among) -> Rc<Waiter> {
        let number = self.arrivals;
        self.arrivals += 1;
        let waiter = Rc::new(Waiter {
            number,
            fresh,
            shares,
            among,
            spared: Cell::new(false),
            passed: Cell::new(0),
            inbox: RefCell::default(),
            waker: RefCell::default(),
        });
        self.waiters.insert(number, Rc::clone(&waiter));
        self.placeless.insert(number);
        if !fresh {
            self.content.insert(number);
        }
        waiter
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// The first who has had no place.
    pub(super) fn placeless(&self) -> Option<Rc<Waiter>> {
        self.placeless.first().map(|number| Rc::clone(&self.waiters[number]))
    }

    pub(super) fn has_place(&mut self, waiter: &Waiter) {
        self.placeless.remove(&waiter.number);
    }

    /// None: has left, or was served.
    pub(super) fn take(&mut self, waiter: &Waiter) -> Option<Rc<Waiter>> {
        self.remove(waiter.number)
    }

    /// The first of all who take a connection to this address; or of those who take a used one.
    pub(super) fn take_first(&mut self, used: bool, address: Option<IpAddr>) -> Option<Rc<Waiter>> {
        let number = self.first(used, address)?;
        self.remove(number)
    }

    /// The first of those who take a place on a busy connection to this address.
    pub(super) fn take_sharer(&mut self, address: Option<IpAddr>) -> Option<Rc<Waiter>> {
        let takes = |number: &u64| self.waiters[number].shares && self.waiters[number].among.takes(address);
        let number = self.content.iter().take(ASKED).copied().find(takes)?;
        self.remove(number)
    }

    pub(super) fn first(&self, used: bool, address: Option<IpAddr>) -> Option<u64> {
        let takes = |number: &u64| self.waiters[number].among.takes(address);
        if used {
            self.content.iter().take(ASKED).copied().find(takes)
        } else {
            self.waiters.keys().take(ASKED).copied().find(takes)
        }
    }

    /// Those who fail with a connection that this one made and that all who may go where it may have waited for: it, and who
    /// has seen one fail before. The others are spared once: the next of them makes another.
    pub(super) fn take_failed(&mut self, maker: &Waiter) -> Vec<Rc<Waiter>> {
        let alike = self.waiters.values().filter(|other| other.among == maker.among);
        let failed = alike.filter(|other| other.spared.replace(true) || other.number == maker.number);
        let numbers: Vec<u64> = failed.map(|other| other.number).collect();
        numbers.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Rc<Waiter>> + use<> {
        self.placeless.clear();
        self.content.clear();
        std::mem::take(&mut self.waiters).into_values()
    }

    fn remove(&mut self, number: u64) -> Option<Rc<Waiter>> {
        self.placeless.remove(&number);
        self.content.remove(&number);
        self.waiters.remove(&number)
    }
}

impl Waiter {
    /// What is idle may not be for it.
    pub(super) fn is_choosy(&self) -> bool {
        self.fresh || !self.among.is_any()
    }

    pub(super) fn takes(&self, used: bool, address: Option<IpAddr>) -> bool {
        !(used && self.fresh) && self.among.takes(address)
    }

    /// Once more, by a connection that it does not take. Whether that is enough.
    pub(super) fn is_passed_over(&self) -> bool {
        let passed = self.passed.get() + 1;
        self.passed.set(passed % PASSED);
        passed == PASSED
    }

    pub(super) fn give(&self, grant: Grant) {
        // A place that was not used yet goes on to the next in line.
        let unused = self.inbox.replace(Some(grant));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        drop(unused);
    }
}

/// A place in line; leaves it, and passes on what it was just given, when dropped.
pub(super) struct Queued<'a> {
    pool: &'a Pool,
    pub(super) waiter: Rc<Waiter>,
}

impl<'a> Queued<'a> {
    pub(super) fn join(pool: &'a Pool, fresh: bool, progress: &Progress) -> Self {
        let shares = !fresh && !progress.apart;
        let waiter = pool.state.borrow_mut().line.join(fresh, shares, progress.among.clone());
        waiting(pool).add(1);
        Self { pool, waiter }
    }

    pub(super) async fn granted(&self) -> Grant {
        poll_fn(|cx| {
            let grant = self.waiter.inbox.take();
            if grant.is_none() {
                self.waiter.waker.replace(Some(cx.waker().clone()));
            }
            grant.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        waiting(self.pool).sub(1);
        let _ = self.pool.state.borrow_mut().line.take(&self.waiter);
        let unused = self.waiter.inbox.take();
        drop(unused);
    }
}

fn waiting(pool: &Pool) -> &crate::transport::Gauge {
    &pool.gauges().waiting
}

/// Lets a dial go when its exchange does.
pub(super) struct Watching<'a> {
    watch: Rc<Watch>,
    progress: &'a Rc<Progress>,
}

impl<'a> Watching<'a> {
    pub(super) fn new(watch: Rc<Watch>, progress: &'a Rc<Progress>) -> Self {
        watch.attach(progress);
        Self { watch, progress }
    }

    pub(super) fn exchange(&mut self, watch: &Rc<Watch>) {
        self.watch.detach(self.progress);
        self.watch = Rc::clone(watch);
        watch.attach(self.progress);
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.watch.detach(self.progress);
    }
}
