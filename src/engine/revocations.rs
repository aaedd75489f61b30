//! Revoked sessions: what was begun before a revocation serves nobody who asks after it.
//!
//! A fixed table of generations, found by the keyed hash of the session id: revoking costs the same whatever the
//! engine knows, and never allocates. Two sessions that share an entry are revoked together: a collision forgets
//! too much, never too little.
//!
//! An entry is `generation << 32 | second`. The generation goes up with each revocation; a check joins only flights
//! of its own generation. The second (counted from the engine's start, plus 1) says since when the backend has
//! not been heard about the session: until it is, for `ttl.max` at most, the session's default is to deny.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// 512 KiB; a collision needs about 256 revoked sessions at one time.
const ENTRIES: usize = 1 << 16;

pub(crate) struct Revocations {
    entries: Box<[AtomicU64]>,
    began: Instant,
    revoked: AtomicU64,
}

/// An entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    entry: u32,
    generation: u32,
}

impl Revocations {
    /// `None`: the system has no memory for it.
    pub(crate) fn new() -> Option<Self> {
        let mut entries = Vec::new();
        entries.try_reserve_exact(ENTRIES).ok()?;
        entries.resize_with(ENTRIES, AtomicU64::default);
        Some(Self { entries: entries.into(), began: Instant::now(), revoked: AtomicU64::new(0) })
    }

    /// Where a session stands now, by the hash of its id.
    pub(crate) fn mark(&self, hash: u64) -> Mark {
        let entry = (hash % ENTRIES as u64) as u32;
        let generation = (self.entries[entry as usize].load(Ordering::Acquire) >> 32) as u32;
        Mark { entry, generation }
    }

    pub(crate) fn revoke(&self, hash: u64) {
        let second = self.second();
        let next = |entry: u64| Some((entry >> 32).wrapping_add(1) << 32 | second);
        let entry = &self.entries[(hash % ENTRIES as u64) as usize];
        entry.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).expect("the closure always gives one");
        self.revoked.fetch_add(1, Ordering::Relaxed);
    }

    /// The backend has answered a check that was submitted under `mark`.
    pub(crate) fn answered(&self, mark: Mark) {
        let entry = &self.entries[mark.entry as usize];
        let now = entry.load(Ordering::Acquire);
        if (now >> 32) as u32 == mark.generation && now & u64::from(u32::MAX) != 0 {
            // Lost to another revocation, which is right.
            let heard = now >> 32 << 32;
            let _ = entry.compare_exchange(now, heard, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Whether the session was not revoked since `mark` was taken.
    pub(crate) fn is_current(&self, mark: Mark) -> bool {
        let entry = self.entries[mark.entry as usize].load(Ordering::Acquire);
        (entry >> 32) as u32 == mark.generation
    }

    /// Whether the session was revoked less than `bound` ago and the backend has not been heard since.
    pub(crate) fn denies(&self, mark: Mark, bound: Duration) -> bool {
        let since = self.entries[mark.entry as usize].load(Ordering::Acquire) & u64::from(u32::MAX);
        since != 0 && self.second() - since <= bound.as_secs()
    }

    /// Calls of `revoke`.
    pub(crate) fn count(&self) -> u64 {
        self.revoked.load(Ordering::Relaxed)
    }

    fn second(&self) -> u64 {
        (self.began.elapsed().as_secs() + 1).min(u64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_mins(1);

    #[tokio::test(start_paused = true)]
    async fn a_revoked_session_is_denied_until_the_backend_is_heard() {
        let revocations = Revocations::new().unwrap();
        let before = revocations.mark(7);
        assert!(!revocations.denies(before, BOUND));
        revocations.revoke(7);
        let after = revocations.mark(7);
        assert_ne!(before, after);
        assert!(revocations.denies(after, BOUND));

        revocations.answered(before);
        assert!(revocations.denies(after, BOUND), "an answer in flight does not revive it");
        revocations.answered(after);
        assert!(!revocations.denies(after, BOUND));
        assert!(!revocations.denies(revocations.mark(8), BOUND), "another session");
    }

    #[tokio::test(start_paused = true)]
    async fn a_revocation_is_over_after_its_bound() {
        let revocations = Revocations::new().unwrap();
        tokio::time::advance(Duration::from_secs(1000)).await;
        revocations.revoke(7);
        tokio::time::advance(BOUND).await;
        assert!(revocations.denies(revocations.mark(7), BOUND));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!revocations.denies(revocations.mark(7), BOUND));
    }
}
