//! A receiver for one check: awaited on any executor, or waited for by a thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::{Condvar, Mutex};

use super::completion::{Completed, Receiver};
use super::core::Core;
use super::ledger::Ticket;
use crate::decision::Decision;

#[derive(Default)]
pub(crate) struct One {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    decision: Option<Decision>,
    waker: Option<Waker>,
}

impl Receiver for One {
    fn receive(&self, batch: &mut Vec<Completed>) {
        let Some(decision) = batch.pop().and_then(Completed::take) else { return };
        let waker = {
            let mut state = self.state.lock();
            state.decision = Some(decision);
            state.waker.take()
        };
        self.arrived.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn only_puts_aside(&self) -> bool {
        true
    }
}

impl One {
    pub(crate) fn wait(&self) -> Decision {
        let mut state = self.state.lock();
        loop {
            if let Some(decision) = state.decision.take() {
                return decision;
            }
            self.arrived.wait(&mut state);
        }
    }
}

/// The decision to come. Dropped before it is there, it cancels the check.
pub(crate) struct Awaiting {
    pub(crate) core: Arc<Core>,
    pub(crate) one: Arc<One>,
    pub(crate) ticket: Ticket,
}

impl Future for Awaiting {
    type Output = Decision;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Decision> {
        let mut state = self.one.state.lock();
        if let Some(decision) = state.decision.take() {
            return Poll::Ready(decision);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            waker => *waker = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        // After the delivery this finds nothing.
        self.core.cancel(self.ticket);
    }
}
