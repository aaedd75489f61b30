//! What an I/O thread does for its watches: asks when it is time, tells what has changed.
//!
//! A watch is asked about as a check is: from memory, by joining an exchange, or by one of its own.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::inbox::{Asked, News, Whose};
use super::policy::Policy;
use super::remembering::About;
use super::revocations::Mark;
use super::shard::Shard;
use super::watch::Watch;
use super::watches::{Bound, Wait};
use crate::check::Question;
use crate::decision::{Cause, Decision, Origin, Verdict};

/// By what a decision was asked for, and when.
#[derive(Clone, Copy)]
pub(super) struct Heard<'a> {
    pub(super) policy: &'a Policy,
    pub(super) mark: Mark,
    /// When it was made.
    pub(super) since: Instant,
    /// Something newer is known.
    pub(super) overtaken: bool,
}

impl Shard {
    /// A new one, or one that comes from another thread, with its user if that is known.
    pub(super) fn begin_watch(self: &Rc<Self>, watch: Arc<Watch>, asked: Asked, user: Option<u64>) {
        // It may have been submitted after a reload that this thread has not seen yet.
        self.turn_to(self.core.policy());
        if watch.has_ended() {
            return;
        }
        let (ticket, mark, fresh) = (watch.ticket, asked.mark, asked.question.fresh());
        self.watches.borrow_mut().add(watch, asked, user);
        // A revocation may have come here first, and found nothing to end.
        if !self.holds_for(mark, user) {
            return self.end_watch(ticket, Verdict::Deny, "revoked");
        }
        self.ask_about(ticket, fresh);
    }

    fn holds_for(&self, mark: Mark, user: Option<u64>) -> bool {
        let revocations = &self.core.revocations;
        revocations.holds(mark, user.map(|user| revocations.entry(user)))
    }

    /// Those whose time has come, as many as may be asked about.
    pub(super) fn watch_again(self: &Rc<Self>, now: Instant) {
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
            let heard = Heard { policy: &policy, mark, since: remembered.since, overtaken: false };
            return self.tell_watch(ticket, remembered.decision, heard);
        }
        let is_joinable = |mark| self.core.revocations.is_joinable(mark);
        if policy.per_client.is_some()
            && let Some(decision) =
                self.watch_held_back(ticket, hash, About { policy: &policy, question: &question, mark })
        {
            let heard = Heard { policy: &policy, mark, since: now, overtaken: false };
            return self.tell_watch(ticket, decision, heard);
        }
        let (id, begun) =
            self.flights.borrow_mut().watch(&policy, &question, hash, mark, is_joinable, ticket);
        self.watches.borrow_mut().waits_for(ticket, id);
        if begun {
            self.depart(id);
        }
    }

    /// With `limit.per_ip`: the decision if it may not be asked about. One that was let through once is from then on, at the
    /// pace of watches.
    fn watch_held_back(&self, ticket: u64, hash: u64, about: About<'_>) -> Option<Decision> {
        let watches = self.watches.borrow();
        let watch = &watches.get(ticket)?.watch;
        let is_joinable = |mark| self.core.revocations.is_joinable(mark);
        let joins = || self.flights.borrow().takes_on(about.policy, about.question.key(), hash, is_joinable);
        let held_back = if watch.is_admitted() || joins() { None } else { self.held_back(about) };
        if held_back.is_none() {
            watch.admit();
        }
        held_back
    }

    /// After a reload: the watch is asked about by the new rules. False: it is not here any more.
    fn turn_watch_to(&self, ticket: u64) -> bool {
        let current = Arc::clone(&self.policy.borrow());
        let (question, mark, user) = {
            let watches = self.watches.borrow();
            let Some(watched) = watches.get(ticket) else { return false };
            if Arc::ptr_eq(&watched.policy, &current) {
                return true;
            }
            (current.accept(&watched.question.check()), watched.mark, watched.user())
        };
        let Ok(question) = question else {
            self.end_watch(ticket, Verdict::Deny, "the configuration now refuses what was asked");
            return false;
        };
        let hash = self.core.hash_of_key(question.key());
        let thread = self.core.thread_of(hash);
        if thread == self.index {
            self.watches.borrow_mut().turn_to(ticket, current, Rc::new(question), hash);
            return true;
        }
        // All that concerns a key happens on one thread, and the key has changed.
        if let Some(watch) = self.drop_watch(ticket) {
            // What this thread has heard of did not concern it: only what came later may have been there first.
            let mark = Mark { at: mark.at.max(self.heard.get()), ..mark };
            let asked = Asked { policy: current, question, hash, mark };
            self.core.inboxes[thread].tell(News::Watch(watch, asked, user));
        }
        false
    }

    /// The host is told if the decision is news, and the watch asked about again when its time ends.
    pub(super) fn tell_watch(&self, ticket: u64, mut decision: Decision, heard: Heard<'_>) {
        let now = Instant::now();
        // It may have been on its way while a reload lowered this.
        decision.ttl = decision.ttl.min(self.policy.borrow().settings.ttl.max);
        let user = Some(decision.user_id()).filter(|id| !id.is_empty());
        let user = user.map(|id| self.core.user(id.as_bytes()));
        let is_void = heard.overtaken
            || !self.holds_for(heard.mark, user)
            || !Arc::ptr_eq(&heard.policy.memory, &self.policy.borrow().memory);
        // Asked before a revocation, by other rules, or before something newer: it holds until there is a better one.
        let wait = if is_void {
            Wait { by: Bound::TtlMax, since: heard.since, until: now }
        } else if decision.ttl.is_zero() {
            Wait { by: Bound::Interval, since: now, until: now + self.watch_interval() }
        } else {
            Wait { by: Bound::TtlMax, since: heard.since, until: now + decision.ttl }
        };
        let told = {
            let mut watches = self.watches.borrow_mut();
            let limits = heard.policy.settings.sessions.enforce.map(|_| &heard.policy.limits);
            watches.place(ticket, &decision, limits);
            if decision.origin == Origin::Default {
                // It knows nothing of the user, and takes nothing back.
                watches.undecided(ticket, wait);
            } else {
                watches.decided(ticket, user, heard.mark, wait);
            }
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
        heard: Heard<'_>,
    ) {
        let tickets = self.watches.borrow().of_key(hash, question.key());
        for ticket in tickets {
            self.tell_watch(ticket, decision.clone(), heard);
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
            self.end_watch(ticket, Verdict::Deny, reason);
        }
    }

    /// The host hears no more of it.
    fn end_watch(&self, ticket: u64, verdict: Verdict, reason: &'static str) {
        let Some(watch) = self.drop_watch(ticket) else { return };
        if let Some((receiver, completed)) =
            watch.end(Decision::new(verdict, Origin::Default, Cause::None, reason))
        {
            self.outbox.borrow_mut().push(receiver, completed);
        }
    }

    /// It is not this thread's any more. An exchange that it alone waited for is dropped if nothing was written.
    pub(super) fn drop_watch(&self, ticket: u64) -> Option<Arc<Watch>> {
        let watched = self.watches.borrow_mut().remove(ticket)?;
        if let Some(id) = watched.flight
            && self.flights.borrow().contains(id)
        {
            self.flights.borrow_mut().unwatch(id, ticket);
            self.abandon_if_empty(id);
        }
        Some(watched.watch)
    }

    /// All of them, because this thread ends: what their hosts know stands.
    pub(super) fn end_watches(&self, cause: Cause, reason: &'static str) {
        let tickets = self.watches.borrow().of(Whose::All);
        for ticket in tickets {
            let Some(watched) = self.watches.borrow_mut().remove(ticket) else { continue };
            let revoked = || self.core.is_revoked(&watched.policy, &watched.question, watched.session);
            let last = self.core.last_word(&watched.watch, cause, reason, revoked);
            if let Some((receiver, completed)) = watched.watch.end(last) {
                self.outbox.borrow_mut().push(receiver, completed);
            }
        }
    }

    /// Shortened at random, so that what began together does not stay together.
    pub(super) fn watch_interval(&self) -> Duration {
        let interval = self.policy.borrow().settings.watch.interval;
        interval.saturating_sub(interval / 10 * (self.next_random() % 1024) as u32 / 1024)
    }
}
