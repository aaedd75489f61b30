//! What came of asking the shadow, counted.

use std::sync::atomic::{AtomicU64, Ordering};

use super::EndpointStats;

/// What became of one answer of the backend that the shadow was to be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    Agreed,
    /// The same verdict, and something else is not the same.
    Differed,
    /// The backend allows, the shadow denies.
    Denied,
    /// The backend denies, the shadow allows.
    Allowed,
    /// The shadow gave no answer, or was left alone by its breaker.
    Unavailable,
    /// It was not asked, or not waited for.
    Skipped,
}

/// Counters of all I/O threads.
#[derive(Debug, Default)]
pub(crate) struct Outcomes([AtomicU64; 6]);

impl Outcomes {
    pub(crate) fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, endpoints: Vec<EndpointStats>) -> ShadowStats {
        let read = |outcome: Outcome| self.0[outcome as usize].load(Ordering::Relaxed);
        ShadowStats {
            agreed: read(Outcome::Agreed),
            differed: read(Outcome::Differed),
            denied: read(Outcome::Denied),
            allowed: read(Outcome::Allowed),
            unavailable: read(Outcome::Unavailable),
            skipped: read(Outcome::Skipped),
            endpoints,
        }
    }
}

/// What the shadow (`shadow.url`) said of what the backend has answered. Nothing of it counts anywhere else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShadowStats {
    /// The same verdict, and the same user, limit of sessions, `X-Unique`, location and lifetime.
    pub agreed: u64,
    /// The same verdict, and one of the others is not the same.
    pub differed: u64,
    /// The shadow denies what the backend allows.
    pub denied: u64,
    /// The shadow allows what the backend denies.
    pub allowed: u64,
    /// The shadow gave no answer, or its breaker was open.
    pub unavailable: u64,
    /// The shadow was not asked: `shadow.max_pending` were under way, or the request would be over a limit; or it was asked
    /// and the engine did not wait for it.
    pub skipped: u64,
    /// Each shadow, in the order of `shadow.url`.
    pub endpoints: Vec<EndpointStats>,
}
