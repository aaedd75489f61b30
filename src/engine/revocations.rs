//! What was revoked, and when: what the backend said before that serves nobody who asks after it.
//!
//! A clock counts revocations. Each check carries a [`Mark`]: what the clock said when it was submitted, and so does
//! all that is learned by it. A fixed table says, by the keyed hash of a session's or a user's id, at which count it
//! was revoked last. What has an earlier mark is void: an exchange is not joined any more, its answer not kept, what is
//! remembered not served. Nothing is searched and nothing allocated, so revoking costs the same whatever the engine
//! knows. Two ids that share an entry are revoked together: a collision forgets too much, never too little.
//!
//! The user of an exchange in progress is not known yet. After a user was revoked nobody joins an exchange that was
//! in progress, whoever it is for.
//!
//! Until the backend is heard again about a revoked session, for a bound at most, the session's default is to deny.
//! An entry remembers one such session; of two revoked ones that share it, only the bound ends that.

use std::time::Duration;

use tokio::time::Instant;

use super::sync::Mutex;
use super::sync::atomic::{AtomicU64, Ordering};

/// 1 MiB; a collision needs about 256 revoked ids at one time. As many as the number of an entry can name.
pub(crate) const ENTRIES: usize = 1 << 16;

/// In the place of a session, where there are several.
const SEVERAL: u64 = 0;

pub(crate) struct Revocations {
    /// Moves on with each revocation.
    clock: AtomicU64,
    entries: Box<[Entry]>,
    /// Of all sessions.
    all: Entry,
    /// When a user was revoked last, whoever it was.
    last_user: AtomicU64,
    /// Held by whoever changes what was not heard.
    unheard: Mutex<()>,
    began: Instant,
    count: AtomicU64,
}

struct Entry {
    /// What the clock said; 0: never.
    revoked: AtomicU64,
    /// `session << 32 | second`, counted from the engine's start, plus 1; 0: the backend was heard since.
    unheard: AtomicU64,
}

impl Entry {
    fn new() -> Self {
        Self { revoked: AtomicU64::new(0), unheard: AtomicU64::new(0) }
    }
}

/// When a check was submitted, and for which session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The keyed hash of the session's id.
    pub(crate) session: u64,
    /// What the clock said.
    pub(crate) at: u64,
}

impl Revocations {
    /// A table of [`ENTRIES`], or less for a test. `None`: the system has no memory for it.
    pub(crate) fn new(size: usize) -> Option<Self> {
        let mut entries = Vec::new();
        entries.try_reserve_exact(size).ok()?;
        entries.resize_with(size, Entry::new);
        Some(Self {
            clock: AtomicU64::new(0),
            entries: entries.into(),
            all: Entry::new(),
            last_user: AtomicU64::new(0),
            unheard: Mutex::new(()),
            began: Instant::now(),
            count: AtomicU64::new(0),
        })
    }

    /// For a check of the session with this hash that is submitted now.
    pub(crate) fn mark(&self, session: u64) -> Mark {
        Mark { session, at: self.clock.load(Ordering::SeqCst) }
    }

    /// Everything about the session is void. `bound`: for how long its default is to deny.
    pub(crate) fn revoke(&self, session: u64, bound: Duration) {
        self.void(self.of(session), tag(session), bound);
    }

    /// Everything that was said about sessions of the user is void.
    pub(crate) fn revoke_user(&self, user: u64) {
        // Its sessions are not known here: who denies them is `Memory`, where it knows them.
        let now = self.tick();
        self.of(user).revoked.fetch_max(now, Ordering::SeqCst);
        self.last_user.fetch_max(now, Ordering::SeqCst);
    }

    /// Everything is void.
    pub(crate) fn revoke_all(&self) {
        self.void(&self.all, SEVERAL, Duration::ZERO);
    }

    fn void(&self, entry: &Entry, session: u64, bound: Duration) {
        let _unheard = self.unheard.lock();
        let before = entry.unheard.load(Ordering::Relaxed);
        let alone = before >> 32 == session || !self.is_within(before, bound);
        let session = if alone { session } else { SEVERAL };
        // Before the other, so that who sees that it was revoked sees since when.
        entry.unheard.store(session << 32 | self.second(), Ordering::SeqCst);
        entry.revoked.fetch_max(self.tick(), Ordering::SeqCst);
    }

    /// The backend has answered a check that was submitted under `mark`.
    pub(crate) fn heard(&self, mark: Mark) {
        // Most engines never revoke; then the table stays out of the cache.
        if self.clock.load(Ordering::SeqCst) == 0 {
            return;
        }
        let entry = self.of(mark.session);
        for (entry, session) in [(entry, tag(mark.session)), (&self.all, SEVERAL)] {
            if entry.unheard.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let _unheard = self.unheard.lock();
            let unheard = entry.unheard.load(Ordering::Relaxed);
            if unheard >> 32 == session && entry.revoked.load(Ordering::Relaxed) <= mark.at {
                entry.unheard.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Whether neither the session nor all were revoked since `mark`.
    pub(crate) fn is_current(&self, mark: Mark) -> bool {
        // Nothing at all was: whoever revokes moves the clock first.
        if self.clock.load(Ordering::SeqCst) <= mark.at {
            return true;
        }
        let revoked = |entry: &Entry| entry.revoked.load(Ordering::SeqCst);
        revoked(self.of(mark.session)) <= mark.at && revoked(&self.all) <= mark.at
    }

    /// Whether what was asked for under `mark` still holds: neither its session, nor all, nor the user that the backend
    /// named (its entry) were revoked since.
    pub(crate) fn holds(&self, mark: Mark, user: Option<u16>) -> bool {
        self.is_current(mark) && user.is_none_or(|user| self.is_user_current(user, mark.at))
    }

    /// Whether a check may join the exchange that was begun under `mark`.
    pub(crate) fn is_joinable(&self, mark: Mark) -> bool {
        self.is_current(mark) && self.last_user.load(Ordering::SeqCst) <= mark.at
    }

    /// The number of the entry of an id with this hash, for [`Revocations::is_user_current`].
    pub(crate) fn entry(&self, hash: u64) -> u16 {
        (hash as usize % self.entries.len()) as u16
    }

    fn of(&self, hash: u64) -> &Entry {
        &self.entries[usize::from(self.entry(hash))]
    }

    /// Whether the user with this entry was not revoked since the clock said `at`.
    pub(crate) fn is_user_current(&self, user: u16, at: u64) -> bool {
        self.entries[usize::from(user)].revoked.load(Ordering::SeqCst) <= at
    }

    /// Whether the session was revoked less than `bound` ago and the backend has not been heard since.
    pub(crate) fn denies(&self, session: u64, bound: Duration) -> bool {
        [self.of(session), &self.all]
            .into_iter()
            .any(|entry| self.is_within(entry.unheard.load(Ordering::SeqCst), bound))
    }

    fn is_within(&self, unheard: u64, bound: Duration) -> bool {
        let since = unheard & u64::from(u32::MAX);
        since != 0 && self.second() - since <= bound.as_secs()
    }

    /// How many were revoked: a session, a user, or all, each time.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn tick(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.clock.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn second(&self) -> u64 {
        (self.began.elapsed().as_secs() + 1).min(u64::from(u32::MAX))
    }
}

/// Tells sessions of one entry from each other.
fn tag(session: u64) -> u64 {
    session >> 32 | 1
}
