//! What the log says of a breaker that opens and closes again and again, as that of a backend does which fails in part: each
//! opening that follows one that was said within [`SAID_AGAIN`] is said when its first probe has failed, or not at all.

use tokio::time::Instant;

use crate::observe::SAID_AGAIN;

#[derive(Default)]
pub(super) struct Flaps {
    /// When an opening was said last.
    said: Option<Instant>,
    unsaid: u64,
    /// The one that lasts was said.
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
        if again && self.is_said {
            return Some(Said::StillOpen);
        }
        let recent = self.said.is_some_and(|said| now.saturating_duration_since(said) < SAID_AGAIN);
        self.is_said = again || !recent;
        if !self.is_said {
            self.unsaid += 1;
            return None;
        }
        self.said = Some(now);
        let itself = u64::from(again);
        Some(Said::New(std::mem::take(&mut self.unsaid).saturating_sub(itself)))
    }

    /// Whether that is to be said.
    pub(super) fn closed(&mut self) -> bool {
        std::mem::take(&mut self.is_said)
    }
}
