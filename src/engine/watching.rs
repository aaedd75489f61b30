//! The watches of an engine, by their tickets: so that a cancel finds one, that there are only so many, and that none is
//! forgotten at the end.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::completion::{Receiver, Tag};
use super::watch::Watch;

/// Hosts open and close them on all their threads.
const SHARDS: usize = 16;

pub(crate) struct Watching {
    by_ticket: [Mutex<HashMap<u64, Arc<Watch>>>; SHARDS],
    open: AtomicUsize,
    /// With those that have ended and that an I/O thread or a receiver has not let go of yet.
    pub(super) existing: AtomicUsize,
    /// The next ticket. They begin at a random number, so that one means nothing to another engine, and never come again.
    next: AtomicU64,
    /// Decisions that were delivered.
    pub(super) told: AtomicU64,
}

impl Watching {
    pub(super) fn new(random: u64) -> Self {
        Self {
            by_ticket: std::array::from_fn(|_| Mutex::default()),
            open: AtomicUsize::new(0),
            existing: AtomicUsize::new(0),
            next: AtomicU64::new(random >> 2),
            told: AtomicU64::new(0),
        }
    }

    /// One more; at most `most` at a time, and as many again that are not let go of yet, so that opening and closing in a
    /// loop cannot pile up memory.
    pub(super) fn open(
        self: &Arc<Self>,
        most: usize,
        receiver: &Arc<dyn Receiver>,
        tag: Tag,
        now: Instant,
    ) -> Option<Arc<Watch>> {
        let more =
            |open| (open < most && self.existing.load(Ordering::Relaxed) < 2 * most).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        let watch = Arc::new(Watch::new(self, ticket, receiver, tag, now));
        self.shard(watch.ticket).lock().insert(watch.ticket, Arc::clone(&watch));
        Some(watch)
    }

    pub(super) fn find(&self, ticket: u64) -> Option<Arc<Watch>> {
        self.shard(ticket).lock().get(&ticket).cloned()
    }

    /// It has ended.
    pub(super) fn forget(&self, ticket: u64) {
        // Dropped after the lock is.
        let forgotten = self.shard(ticket).lock().remove(&ticket);
        if forgotten.is_some() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Those that belong to a queue, or to anyone.
    pub(super) fn all(&self, owner: Option<u64>) -> Vec<Arc<Watch>> {
        let belongs = |watch: &&Arc<Watch>| owner.is_none_or(|owner| watch.tag.owner == owner);
        let shards = self.by_ticket.iter();
        shards.flat_map(|shard| shard.lock().values().filter(belongs).cloned().collect::<Vec<_>>()).collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// For the end, when nobody is told anything any more: what is left lets go of what it holds.
    pub(super) fn clear(&self) {
        for shard in &self.by_ticket {
            let left = std::mem::take(&mut *shard.lock());
            self.open.fetch_sub(left.len(), Ordering::Relaxed);
        }
    }

    fn shard(&self, ticket: u64) -> &Mutex<HashMap<u64, Arc<Watch>>> {
        &self.by_ticket[ticket as usize % SHARDS]
    }
}
