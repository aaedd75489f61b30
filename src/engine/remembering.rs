//! What an I/O thread puts into memory, takes out of it, and falls back on in an outage.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::asking::{UNCORROBORATED, backend_decision, is_uncorroborated};
use super::flights::{Flight, FlightId};
use super::inbox::Asked;
use super::policy::Policy;
use super::revocations::Mark;
use super::shard::Shard;
use crate::backend::{Answer, jittered};
use crate::check::Question;
use crate::clock;
use crate::decision::{Decision, Origin, Verdict};
use crate::memory::{Facts, Record};

/// Sessions looked into in one turn, so that the end of very many holds nobody up.
const SWEEP: usize = 1024;

/// What a decision is about.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) policy: &'a Arc<Policy>,
    pub(super) question: &'a Question,
    pub(super) mark: Mark,
}

impl Asked {
    pub(super) fn about(&self) -> About<'_> {
        About { policy: &self.policy, question: &self.question, mark: self.mark }
    }
}

impl Flight {
    pub(super) fn about(&self) -> About<'_> {
        About { policy: &self.policy, question: &self.question, mark: self.mark }
    }
}

/// From when on a decision is of no use to anyone.
fn of_use_until(record: &Record, policy: &Policy) -> u64 {
    let settings = &policy.settings;
    let bound = policy.memory.bound(record, settings.ttl.max);
    let known = record.known_until(bound, settings.last_known);
    // What has expired may be kept for whoever still asks.
    if is_kept_in_use(record, policy) { known.max(record.in_use_until(settings.expired_idle)) } else { known }
}

/// Whether it does not end while its session is in use.
fn is_kept_in_use(record: &Record, policy: &Policy) -> bool {
    let settings = &policy.settings;
    settings.expired_keep && record.may_be_kept(policy.memory.bound(record, settings.ttl.max))
}

impl Shard {
    /// What the waiters of an answered flight get.
    pub(super) fn answered(&self, id: FlightId, answer: Answer) -> Decision {
        let now = clock::now();
        let (decision, holds) = self.remember(id, answer, now);
        let flights = self.flights.borrow();
        let flight = flights.flight(id);
        // Who asked only to refresh takes no place.
        if !flights.is_awaited(id) && !self.is_watched(flight.hash, flight.question.key()) {
            return decision;
        }
        let (policy, session) = (&flight.policy, flight.mark.session);
        if holds {
            return self.core.enforce(policy, session, decision, now);
        }
        // Its place went with the revocation, and is not taken again by what was asked before it.
        self.core.standing(policy, session, decision.clone(), now).unwrap_or(decision)
    }

    fn is_watched(&self, hash: u64, key: &[u8]) -> bool {
        !self.watches.borrow().of_key(hash, key).is_empty()
    }

    /// The answer takes the place of all that was remembered for its
    /// question, also if it may not be remembered itself, unless something newer is known. Whether it holds: nobody has revoked it
    /// meanwhile.
    fn remember(&self, id: FlightId, answer: Answer, now: Instant) -> (Decision, bool) {
        let flights = self.flights.borrow();
        let flight = flights.flight(id);
        let (core, policy, mark) = (&self.core, &flight.policy, flight.mark);
        core.note(&answer);
        self.unenforced.note(&answer, policy);
        core.revocations.heard(mark);
        let user = answer.user_id.as_deref().map(|id| core.revocations.entry(core.user(id.as_bytes())));
        let holds = core.revocations.holds(mark, user);
        if !holds || flight.overtaken {
            // Those who asked before get its answer, but not for later; nor is there anything later in what was said before it.
            if !flight.overtaken {
                // What is void already stays: it denies in an outage.
                policy.memory.keep(mark.session, |record| {
                    record.key() != flight.question.key()
                        || record.at() > mark.at
                        || core.is_of_revoked_user(record)
                });
            }
            return (backend_decision(answer, Duration::ZERO), holds);
        }

        let settings = &policy.settings;
        let ttl = if settings.ttl.jitter { jittered(answer.ttl, self.next_random()) } else { answer.ttl };
        let of_use =
            ttl > Duration::ZERO || (settings.last_known > Duration::ZERO && !answer.must_revalidate);
        if !answer.storable || !of_use || policy.memory.is_off() {
            policy.memory.remove(mark.session, flight.question.key());
            return (backend_decision(answer, Duration::ZERO), true);
        }
        let now = core.milliseconds(now);
        let facts =
            Facts { key: flight.question.key(), now, ttl, at: mark.at, user: user.unwrap_or_default() };
        let record = Record::new(&answer, &facts);
        let mut decision = record.decision(Origin::Backend, ttl.as_millis() as u64);
        decision.reason = answer.reason;
        let until = of_use_until(&record, policy);
        self.sweeping.borrow_mut().note(mark.session, until, settings.memory.decisions);
        policy.memory.put(mark.session, record, || core.revocations.is_current(mark));
        (decision, true)
    }

    /// Takes out of memory what has expired. A decision that was kept alive comes again later.
    pub(super) fn sweep(&self, now: Instant) {
        let now = self.core.milliseconds(now);
        let policy = Arc::clone(&self.policy.borrow());
        let settings = &policy.settings;
        for _ in 0..SWEEP {
            let session = self.sweeping.borrow_mut().next(now);
            let Some(session) = session else { return };
            let next = Cell::new(u64::MAX);
            policy.memory.keep(session, |record| {
                let until = of_use_until(record, &policy);
                if until > now {
                    next.set(next.get().min(until));
                    return true;
                }
                // Its watch may wait for its turn longer than it lives.
                if !is_kept_in_use(record, &policy) {
                    return false;
                }
                let hash = self.core.hash_of_key(record.key());
                if self.core.thread_of(hash) != self.index {
                    // That thread knows, and has its own note.
                    return true;
                }
                let watched = self.is_watched(hash, record.key());
                if watched {
                    next.set(next.get().min(now));
                }
                watched
            });
            if next.get() < u64::MAX {
                self.sweeping.borrow_mut().note(session, next.get(), settings.memory.decisions);
            }
        }
        self.outlet.poke();
    }

    /// What a check gets without an answer. In an outage: what the backend said last, if that may be repeated; else the
    /// default action. A session that was revoked gets neither if they let it in, until the backend is heard again.
    pub(super) fn fallback(&self, mut decision: Decision, detail: &str, about: About<'_>) -> Decision {
        if decision.origin != Origin::Default {
            return decision;
        }
        let About { policy, question, mark } = about;
        let (core, now) = (&self.core, Instant::now());
        let explained = |decision, done| match detail {
            "" => decision,
            detail => self.phrases.borrow_mut().explain(decision, detail, done),
        };
        if core.is_revoked(policy, question, mark.session) {
            decision.verdict = Verdict::Deny;
            return explained(decision, "revoked");
        }
        if decision.cause.is_outage()
            && let Some(known) = core.last_known(policy, question, mark.session, now)
        {
            let mut known = core.enforce_known(policy, mark.session, known, now);
            known.cause = decision.cause;
            known.http_status = decision.http_status;
            let why = if detail.is_empty() { decision.reason } else { detail };
            return self.phrases.borrow_mut().explain(known, why, "last known");
        }
        if is_uncorroborated(policy, question, &decision) {
            decision.verdict = Verdict::Deny;
            return explained(decision, UNCORROBORATED);
        }
        explained(decision, "default action")
    }

    /// splitmix64: spreads expiries, keeps no secret.
    pub(super) fn next_random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
