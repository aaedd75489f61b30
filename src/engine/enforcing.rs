//! An allow of the backend, held against the number of sessions that its user may have: see `limits.rs`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::core::Core;
use super::inbox::{News, Whose};
use super::limits::{Admission, Asks, MOST_PLACES, most_sessions};
use super::policy::Policy;
use crate::backend::Answer;
use crate::decision::{Decision, Verdict};
use crate::observe::{LogLevel, Logger, Seldom};

const OVER: &str = "the user has more sessions than X-Max-Sessions allows";
const NOBODY: &str = "sessions.enforce: an X-UserId that is longer than 256 bytes or not visible ASCII names nobody, and the limit of sessions beside it is not enforced";

/// The log of limits that cannot be enforced, as their user has no name that counts.
pub(super) struct UnenforcedLog {
    log: Arc<Logger>,
    said: Seldom<()>,
}

impl UnenforcedLog {
    pub(super) fn new(log: Arc<Logger>, poke: impl Fn() + Send + 'static) -> Self {
        Self { log, said: Seldom::new(poke) }
    }

    pub(super) fn note(&self, answer: &Answer, policy: &Policy) {
        let limit = most_sessions(answer.max_sessions, answer.unique) as usize;
        if !answer.dropped_user
            || answer.verdict == Verdict::Deny
            || policy.settings.sessions.enforce.is_none()
            || !(1..=MOST_PLACES).contains(&limit)
        {
            return;
        }
        if let Some(line) = self.said.happened((), || NOBODY.to_owned()) {
            self.log.log(LogLevel::Warn, || line);
        }
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        self.said.next_at()
    }

    /// What of it is to be said by now.
    pub(super) fn say_unsaid(&self, now: Instant) {
        for unsaid in self.said.unsaid(now) {
            self.log.log(LogLevel::Warn, || unsaid.line);
        }
    }
}

impl Core {
    /// The decision for a session that begins or goes on. Others of its user may have to go, which are told at once.
    pub(crate) fn enforce(
        &self,
        policy: &Policy,
        session: u64,
        decision: Decision,
        now: Instant,
    ) -> Decision {
        let Some(asks) = self.asks(policy, session, &decision, now) else { return decision };
        match policy.limits.admit(asks) {
            Admission::Admitted => decision,
            Admission::Refused => refused(decision),
            Admission::InPlaceOf(gone) => {
                for session in gone {
                    self.void(Whose::Displaced(session));
                }
                decision
            }
        }
    }

    /// The same for what the backend said last, repeated in an outage: the session goes on if it has a place or takes one
    /// that is free.
    pub(crate) fn enforce_known(
        &self,
        policy: &Policy,
        session: u64,
        decision: Decision,
        now: Instant,
    ) -> Decision {
        match self.asks(policy, session, &decision, now) {
            Some(asks) if !policy.limits.admit_known(asks) => refused(decision),
            _ => decision,
        }
    }

    /// Without taking a place. `None`: the session has none yet, and is not banned either.
    pub(crate) fn standing(
        &self,
        policy: &Policy,
        session: u64,
        decision: Decision,
        now: Instant,
    ) -> Option<Decision> {
        let Some(asks) = self.asks(policy, session, &decision, now) else { return Some(decision) };
        let stays = policy.limits.standing(asks)?;
        Some(if stays { decision } else { refused(decision) })
    }

    /// Tells the watches concerned, wherever they are.
    pub(crate) fn void(&self, whose: Whose) {
        if self.watches.len() > 0 {
            for inbox in &self.inboxes {
                inbox.tell(News::Void(whose));
            }
        }
    }

    /// `None`: nothing is to be enforced.
    fn asks<'a>(
        &self,
        policy: &Policy,
        session: u64,
        decision: &'a Decision,
        now: Instant,
    ) -> Option<Asks<'a>> {
        let settings = &policy.settings.sessions;
        let enforce = settings.enforce?;
        let user = decision.user_id();
        let limit = most_sessions(decision.max_sessions, decision.unique) as usize;
        (decision.allows() && !user.is_empty() && (1..=MOST_PLACES).contains(&limit)).then(|| Asks {
            user,
            session,
            limit,
            enforce,
            now: self.milliseconds(now),
            idle: settings.idle,
            ttl: decision.ttl,
            ttl_max: policy.settings.ttl.max,
        })
    }
}

fn refused(decision: Decision) -> Decision {
    Decision { verdict: Verdict::Deny, reason: OVER, ttl: Duration::ZERO, ..decision }
}
