//! When something is to be said next, where each thread looks in every turn and hardly ever finds something.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

pub(crate) struct Due {
    began: Instant,
    /// In nanoseconds since then; 0: nothing is.
    next: AtomicU64,
}

impl Due {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), next: AtomicU64::new(0) }
    }

    pub(crate) fn at(&self) -> Option<Instant> {
        let next = self.next.load(Ordering::Relaxed);
        (next != 0).then(|| self.began + Duration::from_nanos(next))
    }

    /// By who holds the lock of what is to be said.
    pub(crate) fn set(&self, at: Option<Instant>) {
        // What was due when this began is so a nanosecond later.
        let next = at.map_or(0, |at| at.saturating_duration_since(self.began).as_nanos().max(1) as u64);
        self.next.store(next, Ordering::Relaxed);
    }
}
