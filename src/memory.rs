//! What the backend said, as long as it holds: remembered decisions, by session and question.
//!
//! The unit of eviction is a session: its decisions, at most [`PER_SESSION`], lie side by side under the keyed hash of
//! its id, and are told apart by their whole keys. So one session cannot push out the others, and what an entry is found
//! by need not be stored. Which session stays when there are too many is decided by `quick_cache` (CLOCK-Pro): what
//! came once goes before what came again, so that a flood of new sessions does not push out those that are watching.
//!
//! A session's decisions are immutable as a list: who reads takes the list, who writes makes another. Writers of one
//! session take turns; readers never wait for them.
//!
//! Not here: whether a decision still holds. That depends on revocations and configuration, and is judged at each use
//! (`engine/recall.rs`); but for a session that was revoked, which is forgotten. What has expired is taken out by the I/O threads (`engine/sweeping.rs`), so memory follows the
//! number of sessions that live; the bounds are for floods.
//!
//! Memory: a decision takes 88 bytes, its key, user id and location; a session 96 more. `weight` counts that.

mod raised;
mod record;

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quick_cache::sync::Cache;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};

use raised::Raised;
pub(crate) use record::{Facts, Record};

use crate::config::MemoryBounds;

/// One session may hold as many; then each new one replaces its oldest.
pub(crate) const PER_SESSION: usize = 64;
/// What a session takes beside its decisions: its entry in the table, and the list's allocation.
const SESSION_WEIGHT: usize = 96;
/// Writers of different sessions rarely meet.
const WRITERS: usize = 64;
/// Shards of the table; less where that would leave too little for each.
const SHARDS: usize = 16;
/// The part of the room, in tenths, that new sessions do not get: it belongs to those that came again.
const KEPT_FOR_RETURNING: u8 = 9;
/// A usual decision, for how many sessions there will be.
const USUAL_WEIGHT: usize = 400;

type List = Arc<[Record]>;

pub(crate) struct Memory {
    sessions: Cache<u64, List, Weigh, Hashed, Count>,
    writers: [Mutex<()>; WRITERS],
    remembered: Arc<AtomicUsize>,
    raised: Raised,
    weigh: Weigh,
    /// The most that a session may weigh: what weighs more is dropped whole.
    heaviest: u64,
    /// Room for none at all.
    off: bool,
}

impl Memory {
    pub(crate) fn new(bounds: MemoryBounds) -> Self {
        let remembered = Arc::<AtomicUsize>::default();
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .hot_allocation(f64::from(KEPT_FOR_RETURNING) / 10.0)
            .estimated_items_capacity(bounds.decisions.min(bounds.bytes / USUAL_WEIGHT))
            .weight_capacity(bounds.bytes as u64)
            .build()
            .expect("the configuration bounds both");
        let weigh = Weigh { least: least(bounds) };
        let count = Count(Arc::clone(&remembered));
        let sessions = Cache::with_options(options, weigh, Hashed, count);
        let heaviest = sessions.shard_capacity() / 10 * u64::from(KEPT_FOR_RETURNING);
        Self {
            sessions,
            writers: [const { Mutex::new(()) }; WRITERS],
            remembered,
            raised: Raised::default(),
            weigh,
            heaviest,
            off: bounds.decisions == 0,
        }
    }

    /// Whether anything can be remembered.
    pub(crate) fn is_off(&self) -> bool {
        self.off
    }

    /// What `read` makes of what is remembered for this question. `session`: the keyed hash of its id.
    pub(crate) fn read<T>(&self, session: u64, key: &[u8], read: impl FnOnce(&Record) -> T) -> Option<T> {
        // Where nothing may be remembered, nothing is looked for.
        if self.is_empty() {
            return None;
        }
        let list = self.sessions.get(&session)?;
        list.iter().find(|record| record.key() == key).map(read)
    }

    /// Remembers it, in the place of what was remembered for its question; not if it holds no more. Whoever forgets the
    /// session has then said so before, or takes it out afterwards.
    pub(crate) fn put(&self, session: u64, record: Record, holds: impl FnOnce() -> bool) {
        let _writer = self.writer(session);
        if !holds() {
            return;
        }
        let before = self.sessions.peek(&session);
        let others = before.iter().flat_map(|list| list.iter()).filter(|other| other.key() != record.key());
        let mut bytes = SESSION_WEIGHT + record.weight();
        // The newest first: what was asked last is asked next, and the oldest is the last.
        let mut list = vec![record.clone()];
        for other in others.take(PER_SESSION - 1) {
            bytes += other.weight();
            if self.weigh.of(bytes, list.len() + 1) > self.heaviest {
                break;
            }
            list.push(other.clone());
        }
        self.replace(session, list.into());
    }

    /// Forgets what is remembered for this question.
    pub(crate) fn remove(&self, session: u64, key: &[u8]) {
        self.keep(session, |record| record.key() != key);
    }

    /// Forgets the session, and what is being put in about it.
    pub(crate) fn forget(&self, session: u64) {
        self.keep_locked(session, |_| false);
    }

    /// Keeps of a session's decisions those for which `keep` is true.
    pub(crate) fn keep(&self, session: u64, keep: impl Fn(&Record) -> bool) {
        // Most that ask for this find nothing.
        if !self.is_empty() {
            self.keep_locked(session, keep);
        }
    }

    fn keep_locked(&self, session: u64, keep: impl Fn(&Record) -> bool) {
        let _writer = self.writer(session);
        let Some(before) = self.sessions.peek(&session) else { return };
        if before.iter().all(&keep) {
            return;
        }
        let list: Vec<_> = before.iter().filter(|record| keep(record)).cloned().collect();
        if !list.is_empty() {
            self.replace(session, list.into());
        } else if let Some((_, list)) = self.sessions.remove(&session) {
            self.remembered.fetch_sub(list.len(), Ordering::Relaxed);
        }
    }

    /// Forgets everything there is, on the calling thread: session by session, so that nobody waits for more than one.
    pub(crate) fn clear(&self) {
        for (_, list) in self.sessions.drain() {
            self.remembered.fetch_sub(list.len(), Ordering::Relaxed);
        }
    }

    /// `ttl_max`, which bounds each reuse, was raised at `now`: what it has ended stays so.
    pub(crate) fn raised(&self, ttl_max: Duration, now: u64) {
        self.raised.note(ttl_max, now);
    }

    /// What bounds the reuse of a decision: `ttl_max`, unless a lower one had ended it before.
    pub(crate) fn bound(&self, record: &Record, ttl_max: Duration) -> Duration {
        self.raised.bound(record.born(), ttl_max)
    }

    /// How many decisions are remembered, those that have expired and were not taken out yet included.
    pub(crate) fn len(&self) -> usize {
        self.remembered.load(Ordering::Relaxed)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn replace(&self, session: u64, list: List) {
        // `Count` takes off what this replaces, what it pushes out, and the list itself if it is too heavy.
        self.remembered.fetch_add(list.len(), Ordering::Relaxed);
        self.sessions.insert(session, list);
    }

    fn writer(&self, session: u64) -> MutexGuard<'_, ()> {
        self.writers[(session >> 32) as usize % WRITERS].lock()
    }
}

/// The least that a decision is taken to weigh, so that one bound serves for two: where as many as are allowed weigh
/// this much, the room is used up.
fn least(bounds: MemoryBounds) -> usize {
    // One that is allowed alone is not too heavy for that.
    let most = bounds.bytes / 10 * usize::from(KEPT_FOR_RETURNING);
    bounds.bytes.div_ceil(bounds.decisions.max(1)).min(most)
}

#[derive(Clone, Copy)]
struct Weigh {
    least: usize,
}

impl Weigh {
    fn of(self, bytes: usize, decisions: usize) -> u64 {
        bytes.max(self.least * decisions) as u64
    }
}

impl Weighter<u64, List> for Weigh {
    fn weight(&self, _: &u64, list: &List) -> u64 {
        self.of(SESSION_WEIGHT + list.iter().map(Record::weight).sum::<usize>(), list.len())
    }
}

#[derive(Clone)]
struct Count(Arc<AtomicUsize>);

impl Lifecycle<u64, List> for Count {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: u64, list: List) {
        self.0.fetch_sub(list.len(), Ordering::Relaxed);
    }
}

/// What sessions are found by is a keyed hash already.
#[derive(Clone, Copy, Default)]
struct Hashed;

impl BuildHasher for Hashed {
    type Hasher = Itself;

    fn build_hasher(&self) -> Itself {
        Itself(0)
    }
}

struct Itself(u64);

impl Hasher for Itself {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed");
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests;
