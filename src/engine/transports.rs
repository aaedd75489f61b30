//! One I/O thread's transports: one a policy, made when its first check arrives, closed after a reload as soon as
//! its last flight has landed.

use std::cell::RefCell;
use std::rc::{Rc, Weak as RcWeak};
use std::sync::{Arc, Weak};

use super::policy::Policy;
use crate::transport::Transport;

type Make = dyn Fn(&Policy) -> Rc<Transport>;

pub(crate) struct Transports {
    make: Rc<Make>,
    current: RefCell<Option<(Arc<Policy>, Rc<Transport>)>>,
    /// Those that flights begun before a reload still use.
    former: RefCell<Vec<(Weak<Policy>, RcWeak<Transport>)>>,
}

impl Transports {
    pub(crate) fn new(make: impl Fn(&Policy) -> Rc<Transport> + 'static) -> Self {
        Self { make: Rc::new(make), current: RefCell::default(), former: RefCell::default() }
    }

    /// The same for other policies, with none yet.
    pub(crate) fn another(&self) -> Self {
        Self { make: Rc::clone(&self.make), current: RefCell::default(), former: RefCell::default() }
    }

    /// The transport for checks of `policy`.
    pub(crate) fn of(&self, policy: &Arc<Policy>) -> Rc<Transport> {
        if let Some((current, transport)) = &*self.current.borrow()
            && Arc::ptr_eq(current, policy)
        {
            return Rc::clone(transport);
        }
        let mut former = self.former.borrow_mut();
        former.retain(|(_, transport)| transport.strong_count() > 0);
        let known = former.iter().find(|(of, _)| std::ptr::eq(of.as_ptr(), Arc::as_ptr(policy)));
        if let Some(transport) = known.and_then(|(_, transport)| transport.upgrade()) {
            return transport;
        }
        // Accepted under a configuration that was gone before its first flight here.
        let transport = (self.make)(policy);
        transport.close();
        former.push((Arc::downgrade(policy), Rc::downgrade(&transport)));
        transport
    }

    /// Checks are judged by `policy` now: what was there before takes no more, but ends what it has begun.
    pub(crate) fn turn_to(&self, policy: Arc<Policy>) {
        if self.current.borrow().as_ref().is_some_and(|(current, _)| Arc::ptr_eq(current, &policy)) {
            return;
        }
        let transport = (self.make)(&policy);
        if let Some((of, before)) = self.current.replace(Some((policy, transport))) {
            before.close();
            self.former.borrow_mut().push((Arc::downgrade(&of), Rc::downgrade(&before)));
        }
    }

    pub(crate) fn close(&self) {
        if let Some((_, transport)) = self.current.take() {
            transport.close();
        }
    }
}
