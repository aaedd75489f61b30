//! What the log says of a breaker that opens and closes again and again, as that of a backend does which fails in part: of those
//! that open within [`SAID_AGAIN`] after one was said, only how many there were. One among them that lasts is said when it
//! has lasted for [`LASTING`] and somebody is stopped by it, or finds out.

use std::time::Duration;

use tokio::time::Instant;

use crate::observe::SAID_AGAIN;

const LASTING: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Flaps {
    /// When something of it was said last.
    said: Option<Instant>,
    unsaid: u64,
    /// That it is open was said.
    is_said: bool,
}

/// How an opening is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// So many before it were not said.
    New(u64),
    /// It was said, and a probe has failed since.
    StillOpen,
}

impl Flaps {
    /// `again`: it was open, and a probe has failed.
    pub(super) fn opened(&mut self, now: Instant, again: bool) -> Option<Said> {
        if again {
            return Some(if self.is_said { Said::StillOpen } else { Said::New(self.say(now)) });
        }
        if self.said.is_some_and(|said| now.saturating_duration_since(said) < SAID_AGAIN) {
            self.is_said = false;
            self.unsaid += 1;
            return None;
        }
        self.unsaid += 1;
        Some(Said::New(self.say(now)))
    }

    /// It is open since then. If that is to be said now: how many before it were not.
    pub(super) fn lasts(&mut self, now: Instant, since: Instant) -> Option<u64> {
        let is_new = !self.is_said && now.saturating_duration_since(since) >= LASTING;
        is_new.then(|| self.say(now))
    }

    /// Whether that is to be said.
    pub(super) fn closed(&mut self) -> bool {
        std::mem::take(&mut self.is_said)
    }

    /// When it is to be said how many were not, though nothing more happens.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.said.filter(|_| self.unsaid > 0).map(|said| said + SAID_AGAIN)
    }

    /// How many were not said, if it is time to say so.
    pub(super) fn unsaid(&mut self, now: Instant) -> Option<u64> {
        self.next_at().filter(|&next| next <= now)?;
        self.said = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }

    /// The one that lasts is said; how many before it were not.
    fn say(&mut self, now: Instant) -> u64 {
        self.said = Some(now);
        self.is_said = true;
        std::mem::take(&mut self.unsaid).saturating_sub(1)
    }
}
