//! One watch: a connection that stays open, whose host is told the first decision and then each change of it.
//!
//! A watch has at most one delivery under way. What changes meanwhile replaces what waits to be delivered, so a slow host
//! is told the latest and nothing piles up:
//!
//! ```text
//! IDLE ─tell─▶ QUEUED ─hand over─▶ CALLING ─returned─▶ IDLE, or QUEUED again if something came meanwhile
//! ```
//!
//! It ends by a cancel, or by a last decision ([`Decision::last`]). A cancel that comes while another thread hands a
//! decision to the host cannot promise that the host's data is not in use; it ends the watch all the same, and a last
//! decision follows for the host to free its data in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::completion::{Completed, Receiver, Tag};
use super::watching::Watching;
use crate::decision::{Cause, Decision, Origin, Verdict};
use crate::sys::ThreadId;

/// Tells a watch's ticket from a check's.
const WATCH: u64 = 1 << 63;

pub(crate) struct Watch {
    all: Arc<Watching>,
    pub(super) ticket: u64,
    pub(super) tag: Tag,
    receiver: Arc<dyn Receiver>,
    submitted: Instant,
    /// The backend may be asked about it: `limit.per_ip` has let it through.
    admitted: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Waits to be delivered.
    news: Option<Decision>,
    /// The receiver has a place for what waits.
    queued: bool,
    /// The host has this decision.
    told: Option<Decision>,
    /// The thread that is handing one to the host.
    calling: Option<ThreadId>,
    end: End,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    /// A last decision waits, or is being delivered.
    Last,
    /// Nothing is delivered any more.
    Over,
}

impl Watch {
    pub(super) fn new(
        all: &Arc<Watching>,
        ticket: u64,
        receiver: &Arc<dyn Receiver>,
        tag: Tag,
        submitted: Instant,
    ) -> Self {
        let (all, receiver) = (Arc::clone(all), Arc::clone(receiver));
        all.existing.fetch_add(1, Ordering::Relaxed);
        Self {
            all,
            ticket: ticket | WATCH,
            tag,
            receiver,
            submitted,
            admitted: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// The decision is news unless the host knows it already. Returns what is to go to the receiver.
    pub(super) fn tell(self: &Arc<Self>, mut decision: Decision) -> Option<(Arc<dyn Receiver>, Completed)> {
        decision.ticket = self.ticket;
        let mut state = self.state.lock();
        if state.end != End::Open {
            return None;
        }
        if state.told.is_none() && state.news.is_none() {
            decision.latency = self.submitted.elapsed();
        }
        if !decision.last
            && state.news.as_ref().or(state.told.as_ref()).is_some_and(|known| !decision.is_news_to(known))
        {
            return None;
        }
        if decision.last {
            state.end = End::Last;
        }
        // What is as the host knows it again is no news. A place that is taken will find nothing.
        let known = !decision.last && state.told.as_ref().is_some_and(|told| !decision.is_news_to(told));
        state.news = (!known).then_some(decision);
        self.queue(&mut state)
    }

    /// Takes a place with the receiver for what waits, if there is something and no place yet.
    fn queue(self: &Arc<Self>, state: &mut State) -> Option<(Arc<dyn Receiver>, Completed)> {
        if state.news.is_none() || state.calling.is_some() || state.queued {
            return None;
        }
        state.queued = true;
        Some((Arc::clone(&self.receiver), Completed::of_watch(self)))
    }

    /// The last decision: the watch ends with it.
    pub(super) fn end(self: &Arc<Self>, decision: Decision) -> Option<(Arc<dyn Receiver>, Completed)> {
        self.tell(Decision { last: true, ..decision })
    }

    pub(super) fn is_admitted(&self) -> bool {
        self.admitted.load(Ordering::Relaxed)
    }

    pub(super) fn admit(&self) {
        self.admitted.store(true, Ordering::Relaxed);
    }

    /// Whether nothing is told any more, or only what waits.
    pub(super) fn has_ended(&self) -> bool {
        self.state.lock().end != End::Open
    }

    /// What the host was told last, or is about to be.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        let state = self.state.lock();
        state.news.as_ref().or(state.told.as_ref()).map(|decision| decision.verdict)
    }

    /// True: nothing is delivered any more, and the host's data is not used. False: it had ended, or another thread is
    /// handing a decision to the host; then the last one follows.
    pub(super) fn cancel(self: &Arc<Self>) -> bool {
        let mut state = self.state.lock();
        let elsewhere = state.calling.is_some_and(|thread| thread != ThreadId::here());
        match state.end {
            End::Over => false,
            End::Last if elsewhere => false,
            End::Open if elsewhere => {
                state.end = End::Last;
                let decision =
                    Decision::new(Verdict::Deny, Origin::Default, Cause::None, "the watch was cancelled");
                // Delivered by that thread when the host has returned.
                state.news = Some(Decision { last: true, ticket: self.ticket, ..decision });
                false
            }
            End::Open | End::Last => {
                state.end = End::Over;
                state.news = None;
                true
            }
        }
    }

    /// Hands what waits to `receive`. `None`: there is nothing, or nobody wants it any more.
    pub(super) fn hand_over<T>(self: &Arc<Self>, receive: impl FnOnce(usize, Decision) -> T) -> Option<T> {
        let decision = {
            let mut state = self.state.lock();
            state.queued = false;
            if state.end == End::Over {
                return None;
            }
            let decision = state.news.take()?;
            state.calling = Some(ThreadId::here());
            if decision.last {
                state.end = End::Over;
                self.all.forget(self.ticket);
            } else {
                state.told = Some(decision.clone());
            }
            decision
        };
        self.all.told.fetch_add(1, Ordering::Relaxed);
        // Also if the host's code panics.
        let _called = Called(self);
        Some(receive(self.tag.user_data, decision))
    }

    /// The receiver let go of the place without looking.
    pub(super) fn discard(&self) {
        let mut state = self.state.lock();
        state.queued = false;
        if state.end == End::Last {
            state.end = End::Over;
            self.all.forget(self.ticket);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.all.existing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A delivery is over: what came meanwhile is the next.
struct Called<'a>(&'a Arc<Watch>);

impl Drop for Called<'_> {
    fn drop(&mut self) {
        let more = {
            let mut state = self.0.state.lock();
            state.calling = None;
            self.0.queue(&mut state)
        };
        if let Some((receiver, completed)) = more {
            receiver.receive(&mut vec![completed]);
        }
    }
}

/// Whether a ticket is a watch's.
pub(super) fn is_watch(ticket: u64) -> bool {
    ticket & WATCH != 0
}
