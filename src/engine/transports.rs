//! One I/O thread's transports: one a policy, made when its first check arrives, closed after a reload as soon as
//! its last flight has landed.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::policy::Policy;
use crate::transport::Transport;

type Make = dyn Fn(&Policy) -> Rc<Transport>;

pub(crate) struct Transports {
    make: Rc<Make>,
    current: RefCell<Option<Rc<Route>>>,
    /// Those that flights begun before a reload still use.
    former: RefCell<Vec<Weak<Route>>>,
}

/// A policy, and the transport for its checks. A flight keeps both by this one, on whose count no other thread waits.
pub(crate) struct Route {
    pub(crate) policy: Arc<Policy>,
    pub(crate) transport: Rc<Transport>,
}

impl Transports {
    pub(crate) fn new(make: impl Fn(&Policy) -> Rc<Transport> + 'static) -> Self {
        Self { make: Rc::new(make), current: RefCell::default(), former: RefCell::default() }
    }

    /// The same for other policies, with none yet.
    pub(crate) fn another(&self) -> Self {
        Self { make: Rc::clone(&self.make), current: RefCell::default(), former: RefCell::default() }
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
            self.former.borrow_mut().push(Rc::downgrade(&before));
        }
    }

    fn make(&self, policy: Arc<Policy>) -> Rc<Route> {
        let transport = (self.make)(&policy);
        Rc::new(Route { policy, transport })
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
