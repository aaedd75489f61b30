//! What was revoked, and when: what the backend said before that serves nobody who asks after it.
//!
//! A clock counts revocations. Each check carries a [`Mark`]: what the clock said when it was submitted, and so does
//! all that is learned by it. Fixed tables say, by the keyed hash of a session's or a user's id, at which count it
//! was revoked last. What has an earlier mark is void: an exchange is not joined any more, its answer not kept. Nothing is
//! searched, so revoking costs the same whatever the engine knows. Two ids that share an entry are
//! revoked together: a collision forgets too much, never too little.
//!
//! For exchanges in progress that is next to nothing. Of what is remembered it would be much: a host may revoke each
//! session that ends, and each of them would take along one of 65,536 of all that is known. So a session's decisions are
//! not held against its entry; they are taken out when it is revoked, and an answer in flight is put in under the same lock, if
//! it holds still (`Memory::put`). Users, whose decisions are in many sessions, have a table of their own for that.
//!
//! The user of an exchange in progress is not known yet. After a user was revoked nobody joins an exchange that was
//! in progress, whoever it is for.
//!
//! Watches are ended one by one, by what their threads are told: exactly those concerned. One that moves to another thread could
//! miss that, and is held against the entries there; by a mark of just now ([`Revocations::told`]), as what has been revoked
//! since its last decision is enough to meet a neighbour.
//!
//! Until the backend is heard again about a revoked session, for a bound at most, the session's default is to deny
//! (`unheard.rs`).

use std::time::Duration;

use tokio::time::Instant;

use super::sync::Mutex;
use super::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use super::unheard::{LISTS, Unheard};

/// Twice 512 KiB. As many as the number of an entry can name.
pub(crate) const ENTRIES: usize = 1 << 16;

pub(crate) struct Revocations {
    /// Moves on with each revocation.
    clock: AtomicU64,
    /// What the clock said when a session with the entry was revoked last; 0: never.
    sessions: Box<[AtomicU64]>,
    users: Box<[AtomicU64]>,
    /// When all were.
    all: AtomicU64,
    /// When a user was, whoever it was.
    last_user: AtomicU64,
    unheard: Unheard,
    /// The second, counted from the engine's start, plus 1, at which all were revoked; 0: the backend was heard since.
    all_unheard: AtomicU64,
    /// Held by whoever changes that.
    hearing: Mutex<()>,
    began: Instant,
    count: AtomicU64,
    /// Those of which not every I/O thread has been told yet.
    untold: AtomicUsize,
}

/// While there is one, a revocation may be one of which not every I/O thread has been told.
pub(crate) struct Telling<'a>(&'a AtomicUsize);

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
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
    /// Tables of [`ENTRIES`], or less for a test. `None`: the system has no memory for them.
    pub(crate) fn new(size: usize) -> Option<Self> {
        Some(Self {
            clock: AtomicU64::new(0),
            sessions: table(size)?,
            users: table(size)?,
            all: AtomicU64::new(0),
            last_user: AtomicU64::new(0),
            unheard: Unheard::new(size.min(LISTS))?,
            all_unheard: AtomicU64::new(0),
            hearing: Mutex::new(()),
            began: Instant::now(),
            count: AtomicU64::new(0),
            untold: AtomicUsize::new(0),
        })
    }

    /// For a check of the session with this hash that is submitted now.
    pub(crate) fn mark(&self, session: u64) -> Mark {
        Mark { session, at: self.clock.load(Ordering::SeqCst) }
    }

    /// From before a revocation until the I/O threads have been told of it.
    pub(crate) fn telling(&self) -> Telling<'_> {
        self.untold.fetch_add(1, Ordering::SeqCst);
        Telling(&self.untold)
    }

    /// A count of the clock: of the revocations up to there the I/O threads have been told.
    pub(crate) fn told(&self) -> Option<u64> {
        let at = self.clock.load(Ordering::SeqCst);
        (self.untold.load(Ordering::SeqCst) == 0).then_some(at)
    }

    /// Everything about the session is void. `bound`: for how long its default is to deny.
    pub(crate) fn revoke(&self, session: u64, bound: Duration) {
        let now = self.second();
        // Before the other, so that who sees that it was revoked sees since when.
        self.unheard.add(session, now, now.saturating_sub(bound.as_secs()), || {
            self.of(session).fetch_max(self.tick(), Ordering::SeqCst);
        });
    }

    /// Everything that was said about sessions of the user is void.
    pub(crate) fn revoke_user(&self, user: u64) {
        // Its sessions are not known here: who denies them is `Memory`, where it knows them.
        let now = self.tick();
        self.users[usize::from(self.entry(user))].fetch_max(now, Ordering::SeqCst);
        self.last_user.fetch_max(now, Ordering::SeqCst);
    }

    /// Everything is void.
    pub(crate) fn revoke_all(&self) {
        let _hearing = self.hearing.lock();
        self.all_unheard.store(self.second(), Ordering::SeqCst);
        self.all.fetch_max(self.tick(), Ordering::SeqCst);
    }

    /// The backend has answered a check that was submitted under `mark`.
    pub(crate) fn heard(&self, mark: Mark) {
        // Most engines never revoke; then the tables stay out of the cache.
        if self.clock.load(Ordering::SeqCst) == 0 {
            return;
        }
        let not_since = |revoked: &AtomicU64| revoked.load(Ordering::SeqCst) <= mark.at;
        self.unheard.remove(mark.session, || not_since(self.of(mark.session)));
        // Once it was heard, no answer takes this lock, which is everybody's.
        if self.all_unheard.load(Ordering::Relaxed) != 0 {
            let _hearing = self.hearing.lock();
            if not_since(&self.all) {
                self.all_unheard.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Whether neither the session nor all were revoked since `mark`.
    pub(crate) fn is_current(&self, mark: Mark) -> bool {
        // Nothing at all was: whoever revokes moves the clock first.
        if self.clock.load(Ordering::SeqCst) <= mark.at {
            return true;
        }
        self.of(mark.session).load(Ordering::SeqCst) <= mark.at && self.is_known(mark.at)
    }

    /// Whether not everything was revoked since the clock said `at`.
    fn is_known(&self, at: u64) -> bool {
        self.all.load(Ordering::SeqCst) <= at
    }

    /// Whether what was asked for under `mark` still holds: neither its session, nor all, nor the user that the backend
    /// named (its entry) were revoked since.
    pub(crate) fn holds(&self, mark: Mark, user: Option<u16>) -> bool {
        self.is_current(mark) && user.is_none_or(|user| self.is_user_current(user, mark.at))
    }

    /// Whether what is remembered of the session since the clock said `at` still holds: neither everything nor the user
    /// that the backend named (its entry) was revoked since.
    pub(crate) fn is_kept(&self, user: Option<u16>, at: u64) -> bool {
        self.clock.load(Ordering::SeqCst) <= at
            || (self.is_known(at) && user.is_none_or(|user| self.is_user_current(user, at)))
    }

    /// Whether a check may join the exchange that was begun under `mark`.
    pub(crate) fn is_joinable(&self, mark: Mark) -> bool {
        self.is_current(mark) && self.last_user.load(Ordering::SeqCst) <= mark.at
    }

    /// The number of the entry of an id with this hash, for [`Revocations::is_user_current`].
    pub(crate) fn entry(&self, hash: u64) -> u16 {
        (hash as usize % self.users.len()) as u16
    }

    fn of(&self, session: u64) -> &AtomicU64 {
        &self.sessions[usize::from(self.entry(session))]
    }

    /// Whether the user with this entry was not revoked since the clock said `at`.
    pub(crate) fn is_user_current(&self, user: u16, at: u64) -> bool {
        self.users[usize::from(user)].load(Ordering::SeqCst) <= at
    }

    /// Whether the session was revoked less than `bound` ago and the backend has not been heard since.
    pub(crate) fn denies(&self, session: u64, bound: Duration) -> bool {
        if self.clock.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let within = |since| self.second() - since <= bound.as_secs();
        let all = self.all_unheard.load(Ordering::SeqCst);
        self.unheard.since(session).is_some_and(within) || (all > 0 && within(all))
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

fn table(size: usize) -> Option<Box<[AtomicU64]>> {
    let mut entries = Vec::new();
    entries.try_reserve_exact(size).ok()?;
    entries.resize_with(size, || AtomicU64::new(0));
    Some(entries.into())
}
