//! One remembered decision: what the backend said about one question, when, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::backend::Answer;
use crate::decision::{Cause, Decision, Origin, Texts, Verdict};

/// What goes with an answer into memory.
pub(crate) struct Facts<'a> {
    pub(crate) key: &'a [u8],
    /// When the header section of the answer had ended, in milliseconds of the engine's time.
    pub(crate) now: u64,
    /// For how long it may be reused, jitter included; zero: only as a last known decision.
    pub(crate) ttl: Duration,
    /// What the clock of revocations said when it was asked for.
    pub(crate) at: u64,
    /// The entry of its user among the revocations.
    pub(crate) user: u16,
}

/// 56 bytes, and one allocation for the key and the texts: with what a list of one takes beside it, a step of the allocator less
/// than 64.
pub(crate) struct Record {
    /// User id, location, key.
    bytes: Arc<[u8]>,
    /// Reuse counts from here: from the answer, or from when it was last kept.
    born: AtomicU64,
    at: u64,
    /// Milliseconds; 30 days fit.
    ttl: u32,
    /// In seconds of the engine's time.
    used: AtomicU32,
    max_sessions: u32,
    status: u16,
    user_id: u16,
    location: u16,
    user: u16,
    allows: bool,
    unique: bool,
    /// May be repeated in an outage, after it has expired.
    repeatable: bool,
    /// Was asked for again before its end.
    refreshed: AtomicBool,
}

const _: () = assert!(size_of::<Record>() == 56);

impl Record {
    pub(crate) fn new(answer: &Answer, facts: &Facts<'_>) -> Self {
        let user_id = answer.user_id.as_deref().unwrap_or_default();
        let location = answer.location.as_deref().unwrap_or_default();
        let ttl = u32::try_from(facts.ttl.as_millis()).unwrap_or(u32::MAX);
        Self {
            bytes: [user_id.as_bytes(), location.as_bytes(), facts.key].concat().into(),
            born: AtomicU64::new(facts.now),
            at: facts.at,
            ttl,
            used: AtomicU32::new(seconds(facts.now)),
            max_sessions: answer.max_sessions,
            status: answer.status,
            user_id: user_id.len() as u16,
            location: location.len() as u16,
            user: facts.user,
            allows: answer.verdict == Verdict::Allow,
            unique: answer.unique,
            repeatable: !answer.must_revalidate,
            refreshed: AtomicBool::new(false),
        }
    }

    /// The whole question, never a hash of it.
    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes[usize::from(self.user_id) + usize::from(self.location)..]
    }

    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// The entry of its user, if the backend named one.
    pub(crate) fn user(&self) -> Option<u16> {
        (self.user_id > 0).then_some(self.user)
    }

    /// Reuse counts from here, in milliseconds of the engine's time.
    pub(crate) fn born(&self) -> u64 {
        self.born.load(Ordering::Relaxed)
    }

    pub(crate) fn allows(&self) -> bool {
        self.allows
    }

    /// Whether it may be kept beyond its end: it lets somebody in, lived at all, and nobody said that it must be asked for.
    pub(crate) fn may_be_kept(&self, bound: Duration) -> bool {
        self.allows() && self.repeatable && self.ttl > 0 && bound > Duration::ZERO
    }

    /// Milliseconds that are left for reuse, at most `bound` from its birth. `None`: it has expired.
    pub(crate) fn left(&self, now: u64, bound: Duration) -> Option<u64> {
        // A caller that read the clock before it was born does not get more of it.
        let whole = u64::from(self.ttl).min(u64::try_from(bound.as_millis()).unwrap_or(u64::MAX));
        self.end(bound).checked_sub(now).map(|left| left.min(whole)).filter(|&left| left > 0)
    }

    /// When its reuse ends.
    fn end(&self, bound: Duration) -> u64 {
        let bound = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
        self.born().saturating_add(u64::from(self.ttl).min(bound))
    }

    /// Whether it may be repeated in an outage: it expired less than `last_known` ago.
    pub(crate) fn is_known(&self, now: u64, bound: Duration, last_known: Duration) -> bool {
        self.repeatable && now < self.known_until(bound, last_known)
    }

    /// From when on it is no more in use, if nobody asks for it.
    pub(crate) fn in_use_until(&self, idle: Duration) -> u64 {
        let used = (u64::from(self.used.load(Ordering::Relaxed)) + 1) * 1000;
        used.saturating_add(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX))
    }

    /// From when on it can neither be reused nor repeated.
    pub(crate) fn known_until(&self, bound: Duration, last_known: Duration) -> u64 {
        let last_known = if self.repeatable { last_known } else { Duration::ZERO };
        self.end(bound).saturating_add(u64::try_from(last_known.as_millis()).unwrap_or(u64::MAX))
    }

    /// A client asked for it.
    pub(crate) fn touch(&self, now: u64) {
        // Read first: sessions that ask often share the line.
        let second = seconds(now);
        if self.used.load(Ordering::Relaxed) != second {
            self.used.store(second, Ordering::Relaxed);
        }
    }

    /// How long nobody has asked for it, to the second.
    pub(crate) fn idle(&self, now: u64) -> Duration {
        let used = self.used.load(Ordering::Relaxed);
        Duration::from_secs(seconds(now).saturating_sub(used).into())
    }

    /// Lives once more as long as it did.
    pub(crate) fn renew(&self, now: u64) {
        self.born.store(now, Ordering::Relaxed);
    }

    /// True once, when less than `percent` of its life is left.
    pub(crate) fn is_due(&self, left: u64, percent: u32) -> bool {
        left * 100 < u64::from(self.ttl) * u64::from(percent)
            && !self.refreshed.load(Ordering::Relaxed)
            && !self.refreshed.swap(true, Ordering::Relaxed)
    }

    /// As it is told again.
    pub(crate) fn decision(&self, origin: Origin, left: u64) -> Decision {
        let verdict = if self.allows { Verdict::Allow } else { Verdict::Deny };
        let mut decision =
            Decision::new(verdict, origin, Cause::None, "remembered from the backend's answer");
        decision.http_status = Some(self.status);
        decision.ttl = Duration::from_millis(left);
        decision.max_sessions = self.max_sessions;
        decision.unique = self.unique;
        decision.texts = Texts::answered(&self.bytes, self.user_id, self.location);
        decision
    }

    /// What it takes in memory, allocations with their usual overhead of 16 bytes included.
    pub(crate) fn weight(&self) -> usize {
        const COUNTS: usize = 2 * size_of::<usize>();
        const ALLOCATION: usize = 16;
        size_of::<Self>() + COUNTS + ALLOCATION + self.bytes.len()
    }
}

impl Clone for Record {
    fn clone(&self) -> Self {
        Self {
            bytes: Arc::clone(&self.bytes),
            born: AtomicU64::new(self.born.load(Ordering::Relaxed)),
            used: AtomicU32::new(self.used.load(Ordering::Relaxed)),
            refreshed: AtomicBool::new(self.refreshed.load(Ordering::Relaxed)),
            ..*self
        }
    }
}

fn seconds(now: u64) -> u32 {
    u32::try_from(now / 1000).unwrap_or(u32::MAX)
}
