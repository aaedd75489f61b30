//! One I/O thread's transports: one a policy, made when its first check arrives, closed after a reload as soon as
//! its last flight has landed.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::departures::Departures;
use super::policy::Policy;
use crate::transport::Transport;

type Make = dyn Fn(&Policy) -> Rc<Transport>;
type Poke = dyn Fn();

pub(crate) struct Transports {
    poke: Rc<Poke>,
    make: Rc<Make>,
    current: RefCell<Option<Rc<Route>>>,
    /// Those that flights begun before a reload still use.
    former: RefCell<Vec<Weak<Route>>>,
}

/// A policy, and the transport for its checks. A flight keeps both by this one, on whose count no other thread waits.
pub(crate) struct Route {
    pub(crate) policy: Arc<Policy>,
    pub(crate) transport: Rc<Transport>,
    pub(super) departures: Departures,
    /// Has the shard see who may depart.
    pub(super) poke: Rc<Poke>,
}

impl Route {
    /// [`Transport::part_where_probed`], of each endpoint.
    pub(super) fn part_where_probed(&self) {
        let Policy { health, addresses, .. } = &*self.policy;
        for (endpoint, (health, addresses)) in health.iter().zip(addresses.iter()).enumerate() {
            self.transport.part_where_probed(endpoint, health, addresses);
        }
    }
}

impl Transports {
    /// `poke` has the shard take another turn.
    pub(crate) fn new(poke: impl Fn() + 'static, make: impl Fn(&Policy) -> Rc<Transport> + 'static) -> Self {
        let (poke, make) = (Rc::new(poke), Rc::new(make));
        Self { poke, make, current: RefCell::default(), former: RefCell::default() }
    }

    /// The same for other policies, with none yet.
    pub(crate) fn another(&self) -> Self {
        let (poke, make) = (Rc::clone(&self.poke), Rc::clone(&self.make));
        Self { poke, make, current: RefCell::default(), former: RefCell::default() }
    }

    /// For checks of `policy`.
    pub(crate) fn of(&self, policy: &Arc<Policy>) -> Rc<Route> {
        if let Some(current) = &*self.current.borrow()
            && Arc::ptr_eq(&current.policy, policy)
        {
            return Rc::clone(current);
        }
        let mut former = self.former.borrow_mut();
        former.retain(|route| route.strong_count() > 0);
        let mut known = former.iter().filter_map(Weak::upgrade);
        if let Some(route) = known.find(|route| Arc::ptr_eq(&route.policy, policy)) {
            return route;
        }
        // Accepted under a configuration that was gone before its first flight here.
        let route = self.make(Arc::clone(policy));
        route.transport.close();
        former.push(Rc::downgrade(&route));
        route
    }

    /// Checks are judged by `policy` now: what was there before takes no more, but ends what it has begun.
    pub(crate) fn turn_to(&self, policy: Arc<Policy>) {
        if self.current.borrow().as_ref().is_some_and(|current| Arc::ptr_eq(&current.policy, &policy)) {
            return;
        }
        let route = self.make(policy);
        if let Some(before) = self.current.replace(Some(route)) {
            before.transport.close();
            let mut former = self.former.borrow_mut();
            former.retain(|route| route.strong_count() > 0);
            former.push(Rc::downgrade(&before));
        }
    }

    fn make(&self, policy: Arc<Policy>) -> Rc<Route> {
        let transport = (self.make)(&policy);
        Rc::new(Route { policy, transport, departures: Departures::default(), poke: Rc::clone(&self.poke) })
    }

    /// All that flights may be under way on, the newest first.
    pub(super) fn all(&self) -> impl Iterator<Item = Rc<Route>> {
        let former: Vec<_> = self.former.borrow().iter().filter_map(Weak::upgrade).collect();
        self.current.borrow().clone().into_iter().chain(former)
    }

    /// [`Transport::look_around`], of the newest.
    pub(crate) fn look_around(&self) -> bool {
        self.current.borrow().as_ref().is_some_and(|route| route.transport.look_around())
    }

    pub(crate) fn close(&self) {
        if let Some(route) = self.current.take() {
            route.transport.close();
        }
    }
}
