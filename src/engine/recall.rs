//! What is remembered and holds: answers a check, or repeats itself in an outage.
//!
//! Nothing that is remembered is believed by being there. At each use it is held against the revocations of users and of all
//! since it was asked for, against its time, and against the configuration that judges the check.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::core::Core;
use super::policy::Policy;
use super::revocations::Mark;
use crate::check::Question;
use crate::decision::{Decision, Origin};
use crate::memory::Record;

/// A remembered decision that answers a check.
pub(crate) struct Recalled {
    pub(crate) decision: Decision,
    /// Its time counts from here.
    pub(crate) since: Instant,
    /// It nears its end, and is to be asked for again; said once.
    pub(crate) refresh: bool,
}

impl Core {
    /// For a check: what is remembered and has not expired, or may be kept beyond that. `watched`: the session is in use
    /// whether somebody asks or not.
    pub(crate) fn recall<B: AsRef<[u8]>>(
        &self,
        policy: &Policy,
        question: &Question<B>,
        session: u64,
        now: Instant,
        watched: bool,
    ) -> Option<Recalled> {
        // Before any arithmetic: where nothing is remembered, each check comes this far.
        if policy.memory.is_empty() {
            return None;
        }
        let settings = &policy.settings;
        let instant = now;
        let now = self.milliseconds_up(now);
        let recalled = self.if_it_holds(policy, question, session, |record| {
            let bound = || policy.memory.bound(record, settings.ttl.max);
            let left = record.left(now, bound()).or_else(|| {
                let in_use = watched || record.idle(now) <= settings.expired_idle;
                if !settings.expired_keep || !record.may_be_kept(bound()) || !in_use {
                    return None;
                }
                record.renew(now);
                record.left(now, bound())
            })?;
            record.touch(now);
            let refresh = !watched && record.allows() && record.is_due(left, settings.refresh_ahead);
            let since = self.instant(record.born());
            Some(Recalled { decision: record.decision(Origin::Memory, left), since, refresh })
        })?;
        let decision = self.enforce(policy, session, recalled.decision, instant);
        Some(Recalled { decision, ..recalled })
    }

    /// For a lookup: what is remembered and has not expired. It counts as use, and begins nothing.
    pub(crate) fn look_up<B: AsRef<[u8]>>(
        &self,
        policy: &Policy,
        question: &Question<B>,
        session: u64,
        now: Instant,
    ) -> Option<Decision> {
        let instant = now;
        let now = self.milliseconds_up(now);
        let decision = self.if_it_holds(policy, question, session, |record| {
            let left = record.left(now, policy.memory.bound(record, policy.settings.ttl.max))?;
            record.touch(now);
            Some(record.decision(Origin::Memory, left))
        })?;
        // A session that has no place yet takes one by a check.
        self.standing(policy, session, decision, instant)
    }

    /// In an outage: what the backend said last, if it may be repeated.
    pub(crate) fn last_known<B: AsRef<[u8]>>(
        &self,
        policy: &Policy,
        question: &Question<B>,
        session: u64,
        now: Instant,
    ) -> Option<Decision> {
        let settings = &policy.settings;
        if settings.last_known == Duration::ZERO {
            return None;
        }
        let now = self.milliseconds_up(now);
        // Whoever revokes finds the memory of today only.
        let superseded = !Arc::ptr_eq(&self.policy().memory, &policy.memory);
        self.if_it_holds(policy, question, session, |record| {
            if superseded && !self.revocations.is_current(Mark { session, at: record.at() }) {
                return None;
            }
            let bound = policy.memory.bound(record, settings.ttl.max);
            let known = record.is_known(now, bound, settings.last_known);
            known.then(|| record.decision(Origin::LastKnown, 0))
        })
    }

    /// Whether the user that the backend named for this question was revoked since.
    fn is_user_revoked<B: AsRef<[u8]>>(&self, policy: &Policy, question: &Question<B>, session: u64) -> bool {
        let revoked = |record: &Record| self.is_of_revoked_user(record);
        policy.memory.read(session, question.key(), revoked).unwrap_or(false)
    }

    /// Such a record is served to nobody, and says whose question it was.
    pub(crate) fn is_of_revoked_user(&self, record: &Record) -> bool {
        record.user().is_some_and(|user| !self.revocations.is_user_current(user, record.at()))
    }

    /// Whether the session, or the user whose question this is known to be, was revoked, and the backend not heard since.
    pub(crate) fn is_revoked<B: AsRef<[u8]>>(
        &self,
        policy: &Policy,
        question: &Question<B>,
        session: u64,
    ) -> bool {
        self.revocations.denies(session, policy.settings.ttl.max)
            || self.is_user_revoked(policy, question, session)
    }

    fn if_it_holds<B: AsRef<[u8]>, T>(
        &self,
        policy: &Policy,
        question: &Question<B>,
        session: u64,
        then: impl FnOnce(&Record) -> Option<T>,
    ) -> Option<T> {
        // A session that was revoked is not found.
        let holds = |record: &Record| self.revocations.is_kept(record.user(), record.at());
        let holding = |record: &Record| if holds(record) { then(record) } else { None };
        policy.memory.read(session, question.key(), holding).flatten()
    }
}
