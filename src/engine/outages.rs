//! The log of outages: the first of a kind at once, then one line a period with how many there were.

use std::cell::Cell;
use std::sync::Arc;

use tokio::time::Instant;

use super::asking::Outage;
use super::policy::Policy;
use crate::decision::Cause;
use crate::observe::{LogLevel, Logger, Seldom};

pub(crate) struct OutageLog {
    log: Arc<Logger>,
    /// Who gives no answer.
    whose: &'static str,
    kinds: Seldom<(usize, Cause)>,
}

impl OutageLog {
    pub(crate) fn new(log: Arc<Logger>, whose: &'static str, poke: impl Fn() + Send + 'static) -> Self {
        Self { log, whose, kinds: Seldom::new(poke) }
    }

    pub(crate) fn note(&self, outage: &Outage) {
        let (whose, cause) = (self.whose, outage.cause.name());
        self.log.log(LogLevel::Debug, || format!("no answer ({cause}): {}", outage.detail));
        if outage.cause == Cause::BreakerOpen {
            // Its opening was said; each check that it stopped is none the wiser.
            return;
        }
        let line = || format!("no answer from {whose} ({cause}): {}", outage.detail);
        if let Some(line) = self.kinds.happened((outage.endpoint, outage.cause), line) {
            self.log.log(LogLevel::Warn, || line);
        }
    }

    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.kinds.next_at()
    }

    /// What of it is to be said by now.
    pub(crate) fn say_unsaid(&self, now: Instant) {
        for unsaid in self.kinds.unsaid(now) {
            self.log.log(LogLevel::Warn, || unsaid.line);
        }
    }
}

/// The log of checks that were not accepted for want of room. Their servers have taken the default action themselves.
pub(crate) struct RefusalLog {
    log: Arc<Logger>,
    seen: Cell<u64>,
    said: Seldom<()>,
}

impl RefusalLog {
    /// So many were refused before this one began.
    pub(crate) fn new(log: Arc<Logger>, refused: u64) -> Self {
        // Nobody notes any but the shard, in its turn.
        Self { log, seen: Cell::new(refused), said: Seldom::new(|| ()) }
    }

    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.said.next_at()
    }

    /// So many were refused since the engine began. Says what is to be said by now.
    pub(crate) fn note(&self, refused: u64, policy: &Policy, now: Instant) {
        let new = refused - self.seen.replace(refused);
        let several = if new == 0 { None } else { self.said.several((), new).map(|unsaid| new + unsaid) };
        let Some(all) = several.or_else(|| self.said.unsaid(now).pop().map(|unsaid| unsaid.times)) else {
            return;
        };
        self.log.log(LogLevel::Warn, || {
            let capacity = policy.settings.inbox_capacity;
            let (checks, were) =
                (if all == 1 { "check" } else { "checks" }, if capacity == 1 { "was" } else { "were" });
            format!("no room for {all} {checks}, as {capacity} {were} pending (inbox.capacity): the backend is slow or silent, or decisions are not taken")
        });
    }
}
