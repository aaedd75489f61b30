//! The log of outages: the first of a kind at once, then one line a period with how many there were.

use std::sync::Arc;

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
