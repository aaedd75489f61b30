//! What an I/O thread does for its watches: asks when it is time, tells what has changed.
//!
//! A watch is asked about as a check is: from memory, by joining an exchange, or by one of its own.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::inbox::{Asked, News, Whose};
use super::policy::Policy;
use super::revocations::Mark;
use super::shard::Shard;
use super::watch::Watch;
use crate::check::Question;
use crate::decision::{Cause, Decision, Verdict};

impl Shard {
    pub(super) fn begin_watch(self: &Rc<Self>, watch: Arc<Watch>, asked: Asked) {
        let Asked { policy, question, hash, mark } = asked;
        let (ticket, fresh) = (watch.ticket, question.fresh);
        self.watches.borrow_mut().add(watch, policy, Rc::new(question), hash, mark.session);
        self.ask_about(ticket, fresh);
    }

    /// Those whose time has come, as many as may be asked about.
    pub(super) fn watch_again(self: &Rc<Self>) {
        let now = Instant::now();
        loop {
            let ticket = self.watches.borrow_mut().next(now, self.watch_pace());
            let Some(ticket) = ticket else { return };
            self.ask_about(ticket, false);
        }
    }

    /// When there is the next one to be asked about.
    pub(super) fn next_watch(&self) -> Option<Instant> {
        self.watches.borrow().next_at(self.watch_pace())
    }

    /// This thread's part of `watch.max_rate`: one each time this has passed.
    fn watch_pace(&self) -> Duration {
        let threads = self.core.inboxes.len() as u32;
        Duration::from_secs(1) * threads / self.policy.borrow().settings.watch.max_rate as u32
    }

    fn ask_about(self: &Rc<Self>, ticket: u64, fresh: bool) {
        if !self.turn_watch_to(ticket) {
            return;
        }
        let (policy, question, hash, session) = {
            let watches = self.watches.borrow();
            let Some(watched) = watches.get(ticket) else { return };
            (Arc::clone(&watched.policy), Rc::clone(&watched.question), watched.hash, watched.session)
        };
        let mark = self.core.revocations.mark(session);
        let now = Instant::now();
        let remembered = if fresh { None } else { self.core.recall(&policy, &*question, session, now, true) };
        if let Some(remembered) = remembered {
            return self.tell_watch(ticket, remembered.decision, &policy, mark);
        }
        let is_joinable = |mark| self.core.revocations.is_joinable(mark);
        let begun = self.flights.borrow_mut().watch(&policy, &question, hash, mark, is_joinable, ticket);
        if let Some(id) = begun {
            self.depart(id);
        }
    }

    /// After a reload: the watch is asked about by the new rules. False: it is not here any more.
    fn turn_watch_to(&self, ticket: u64) -> bool {
        let current = Arc::clone(&self.policy.borrow());
        let mut watches = self.watches.borrow_mut();
        let Some(watched) = watches.get(ticket) else { return false };
        if Arc::ptr_eq(&watched.policy, &current) {
            return true;
        }
        let Ok(question) = current.accept(&watched.question.check()) else {
            drop(watches);
            self.end_watch(
                ticket,
                Cause::None,
                Some(Verdict::Deny),
                "the configuration now refuses what was asked",
            );
            return false;
        };
        let hash = self.core.hash_of_key(question.key());
        let thread = self.core.thread_of(hash);
        if thread == self.index {
            watches.turn_to(ticket, current, Rc::new(question), hash);
            return true;
        }
        // All that concerns a key happens on one thread, and the key has changed.
        let watch = Arc::clone(&watched.watch);
        let mark = self.core.revocations.mark(watched.session);
        watches.remove(ticket, &self.core.limits);
        let asked = Asked { policy: current, question, hash, mark };
        self.core.inboxes[thread].tell(News::Watch(watch, asked));
        false
    }

    /// The host is told if the decision is news, and the watch asked about again when its time ends. `policy`, `mark`:
    /// what it was asked by, and when.
    pub(super) fn tell_watch(&self, ticket: u64, decision: Decision, policy: &Policy, mark: Mark) {
        let now = Instant::now();
        let user = Some(decision.user_id()).filter(|id| !id.is_empty());
        let user = user.map(|id| self.core.user(id.as_bytes()));
        let revocations = &self.core.revocations;
        let is_void = !revocations.is_current(mark)
            || user.is_some_and(|user| !revocations.is_user_current(revocations.entry(user), mark.at))
            || !Arc::ptr_eq(&policy.memory, &self.policy.borrow().memory);
        let wait = match decision.ttl {
            // Asked before a revocation or by other rules: it holds until there is a better one.
            _ if is_void => Duration::ZERO,
            Duration::ZERO => self.watch_interval(),
            ttl => ttl,
        };
        let told = {
            let mut watches = self.watches.borrow_mut();
            watches.place(ticket, &decision, &self.core.limits);
            watches.decided(ticket, user, now, now + wait);
            watches.get(ticket).and_then(|watched| watched.watch.tell(decision))
        };
        if let Some((receiver, completed)) = told {
            self.outbox.borrow_mut().push(receiver, completed);
        }
    }

    /// The backend has answered somebody: whoever watches the same question is told, too.
    pub(super) fn tell_watches_of(
        &self,
        question: &Question,
        hash: u64,
        decision: &Decision,
        policy: &Policy,
        mark: Mark,
    ) {
        let tickets = self.watches.borrow().of_key(hash, question.key());
        for ticket in tickets {
            self.tell_watch(ticket, decision.clone(), policy, mark);
        }
    }

    /// What these were told is void: they end.
    pub(super) fn void(&self, whose: Whose) {
        let reason = match whose {
            Whose::Session(_) => "the session was revoked",
            Whose::User(_) => "the user was revoked",
            Whose::All => "all sessions were revoked",
            Whose::Displaced(_) => "a newer session of the user took its place",
        };
        let tickets = self.watches.borrow().of(whose);
        for ticket in tickets {
            self.end_watch(ticket, Cause::None, Some(Verdict::Deny), reason);
        }
    }

    /// The host hears no more of it. Without a verdict: what it knows stands.
    pub(super) fn end_watch(
        &self,
        ticket: u64,
        cause: Cause,
        verdict: Option<Verdict>,
        reason: &'static str,
    ) {
        let Some(watch) = self.drop_watch(ticket) else { return };
        let verdict = verdict.or_else(|| watch.verdict());
        let verdict = verdict.unwrap_or_else(|| self.policy.borrow().without_answer(cause, reason).verdict);
        if let Some((receiver, completed)) = watch.end(cause, verdict, reason) {
            self.outbox.borrow_mut().push(receiver, completed);
        }
    }

    pub(super) fn drop_watch(&self, ticket: u64) -> Option<Arc<Watch>> {
        let watched = self.watches.borrow_mut().remove(ticket, &self.core.limits)?;
        Some(watched.watch)
    }

    pub(super) fn end_watches(&self) {
        let tickets = self.watches.borrow().of(Whose::All);
        for ticket in tickets {
            self.end_watch(ticket, Cause::Shutdown, None, "the engine was shut down");
        }
    }

    /// Shortened at random, so that what began together does not stay together.
    fn watch_interval(&self) -> Duration {
        let interval = self.policy.borrow().settings.watch.interval;
        interval.saturating_sub(interval / 10 * (self.next_random() % 1024) as u32 / 1024)
    }
}
