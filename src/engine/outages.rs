//! The log of outages: the first of a kind at once, then one line a period with how many there were, so that
//! an outage under full load does not fill a disk.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::asking::Outage;
use crate::decision::Cause;
use crate::observe::{LogLevel, Logger};

const PERIOD: Duration = Duration::from_secs(10);

pub(crate) struct OutageLog {
    log: Arc<Logger>,
    kinds: RefCell<HashMap<(usize, Cause), Kind>>,
}

struct Kind {
    said: Instant,
    unsaid: u64,
}

impl OutageLog {
    pub(crate) fn new(log: Arc<Logger>) -> Self {
        Self { log, kinds: RefCell::default() }
    }

    pub(crate) fn note(&self, outage: &Outage) {
        let cause = outage.cause.name();
        self.log.log(LogLevel::Debug, || format!("no answer ({cause}): {}", outage.detail));
        if outage.cause == Cause::BreakerOpen {
            // Its opening was said; each check that it stopped is none the wiser.
            return;
        }
        let now = Instant::now();
        let mut kinds = self.kinds.borrow_mut();
        let unsaid = match kinds.get_mut(&(outage.endpoint, outage.cause)) {
            Some(kind) if now - kind.said < PERIOD => {
                kind.unsaid += 1;
                return;
            }
            Some(kind) => {
                kind.said = now;
                std::mem::take(&mut kind.unsaid)
            }
            None => {
                kinds.insert((outage.endpoint, outage.cause), Kind { said: now, unsaid: 0 });
                0
            }
        };
        drop(kinds);
        self.log.log(LogLevel::Warn, || {
            let more = if unsaid > 0 {
                format!("; {unsaid} more like it since the last such line")
            } else {
                String::new()
            };
            format!("no answer from the backend ({cause}): {}{more}", outage.detail)
        });
    }
}
