//! The log of outages: the first of a kind at once, then one line a period with how many there were.

use std::cell::Cell;
use std::sync::Arc;

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
    pub(crate) fn new(log: Arc<Logger>, whose: &'static str) -> Self {
        Self { log, whose, kinds: Seldom::new() }
    }

    pub(crate) fn note(&self, outage: &Outage) {
        let (whose, cause) = (self.whose, outage.cause.name());
        self.log.log(LogLevel::Debug, || format!("no answer ({cause}): {}", outage.detail));
        if outage.cause == Cause::BreakerOpen {
            // Its opening was said; each check that it stopped is none the wiser.
            return;
        }
        let Some(more) = self.kinds.happened((outage.endpoint, outage.cause)) else { return };
        self.log.log(LogLevel::Warn, || format!("no answer from {whose} ({cause}): {}{more}", outage.detail));
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
        Self { log, seen: Cell::new(refused), said: Seldom::new() }
    }

    /// So many were refused since the engine began.
    pub(crate) fn note(&self, refused: u64, policy: &Policy) {
        let new = refused - self.seen.replace(refused);
        if new == 0 {
            return;
        }
        let Some(unsaid) = self.said.several((), new) else { return };
        self.log.log(LogLevel::Warn, || {
            let (all, capacity) = (new + unsaid, policy.settings.inbox_capacity);
            format!("no room for {all} checks, as {capacity} were pending (inbox.capacity): the backend is slow or silent, or decisions are not taken")
        });
    }
}
