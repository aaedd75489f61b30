//! The log of outages: the first of a kind at once, then one line a period with how many there were.

use std::sync::Arc;

use tokio::time::Instant;

use super::asking::Outage;
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
