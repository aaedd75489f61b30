//! The breaker of one endpoint, as a state machine.
//!
//! ```text
//!             `failures` outages in a row, or `rate` of a window
//!   CLOSED ───────────────────────────────────────────────────────▶ OPEN ◀──────────────┐
//!     ▲  ▲                                                           │ cooldown is over  │ the probe fails:
//!     │  └──────────── an answer to what was asked before ───────────┤                   │ twice the cooldown;
//!     │                                                              │                   │ it is dropped unanswered:
//!     │                                                              │                   │ the same
//!     │                                                              ▼                   │
//!     └────────────────────── the probe is answered ──────────── HALF-OPEN ──────────────┘
//! ```
//!
//! What counts is an outage of the backend: no answer, or one of `unavailable_statuses`. A refusal is an answer. An outage
//! counts once for each client in [`WINDOW`] without an answer (for the rate, as a part of what that client met), so that one client with tokens that make the backend fail cannot
//! close it to all. Nor can it keep it from being found back: see [`Suspects`]. What the endpoint is not to blame for (our own
//! shortage, a check that was cancelled) is not told here.

mod suspects;
mod window;

use std::time::Duration;

use suspects::Suspects;
use tokio::time::Instant;
use window::Window;

/// Outages of one client address within this are one; and the window of the rate.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// The longest that a backend can ask to be left alone (`Retry-After`).
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(1);
/// Addresses that are remembered, to count each once, or to let others probe first. Where there are more, those who met an
/// outage since the last answer stay, and more in a row than that have opened the breaker long ago.
const MOST_ADDRESSES: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Outages in a row that open it; 0: nothing does.
    pub(crate) failures: usize,
    /// Percent of a window's exchanges, each client weighing the same, if so many clients as `failures` have met an outage; 0:
    /// does not count.
    pub(crate) rate: u32,
    pub(crate) cooldown: Duration,
    /// What doubling leads to at most.
    pub(crate) max_cooldown: Duration,
}

pub(super) struct Breaker {
    rules: Rules,
    state: State,
    /// While it is not closed.
    suspects: Suspects,
    /// When it opened, until it is closed.
    pub(super) opened: Option<Instant>,
}

enum State {
    Closed(Evidence),
    Open { until: Instant, cooldown: Duration },
    HalfOpen { due: Instant, cooldown: Duration, address: u64 },
}

#[derive(Default)]
struct Evidence {
    /// Outages since the last answer.
    in_a_row: usize,
    answers: u64,
    addresses: Vec<Met>,
    window: Window,
}

/// An address that met an outage: when, and after how many answers.
struct Met {
    address: u64,
    at: Instant,
    answers: u64,
    /// The endpoint was to blame: it counts among those in a row.
    counted: bool,
}

/// What the breaker says to a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Pass,
    /// As the one that finds out: what becomes of it must be told.
    Probe,
    Stop,
}

/// What has changed, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Opened { cooldown: Duration },
    Closed,
}

impl Breaker {
    pub(super) fn new(rules: Rules) -> Self {
        Self { rules, state: State::Closed(Evidence::default()), suspects: Suspects::default(), opened: None }
    }

    /// `address`: that of whoever asks, which most are let pass or stopped without.
    pub(super) fn admit(&mut self, now: Instant, address: impl Fn() -> u64) -> Admission {
        if self.stops(now, &address) {
            return Admission::Stop;
        }
        let State::Open { until: due, cooldown } = self.state else { return Admission::Pass };
        // ## Open => HalfOpen
        self.state = State::HalfOpen { due, cooldown, address: address() };
        Admission::Probe
    }

    /// The endpoint has answered, whatever it said. `address`: that of whoever asked, needed for the rate only.
    pub(super) fn answered(&mut self, now: Instant, address: impl FnOnce() -> u64) -> Option<Change> {
        match &mut self.state {
            State::Closed(evidence) => {
                evidence.in_a_row = 0;
                evidence.answers += 1;
                if self.rules.rate > 0 {
                    evidence.window.answered(now, address());
                }
                None
            }
            // ## HalfOpen => Closed, Open => Closed: also by the answer to what was asked before it opened
            State::Open { .. } | State::HalfOpen { .. } => {
                self.state = State::Closed(Evidence::default());
                self.suspects = Suspects::default();
                Some(Change::Closed)
            }
        }
    }

    /// No connection came about, which says nothing of any client. `nobody`: another number each time.
    pub(super) fn unreachable(&mut self, now: Instant, nobody: u64, jitter: u64) -> Option<Change> {
        let State::Closed(evidence) = &mut self.state else { return None };
        let failures = self.rules.failures;
        let opens = evidence.has_in_a_row(failures, now, nobody) && failures > 0;
        opens.then(|| self.open_anew(now, None, jitter))
    }

    /// The endpoint gave no answer to a check of this client. `jitter`: any number, evenly distributed.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        address: u64,
        probe: bool,
        retry_after: Option<Duration>,
        jitter: u64,
    ) -> Option<Change> {
        match &mut self.state {
            State::Closed(evidence) => {
                let Rules { failures, rate, .. } = self.rules;
                let window = &mut evidence.window;
                let over = rate > 0 && window.failed(now, address) && window.is_over(now, rate, failures);
                let opens = evidence.has_in_a_row(failures, now, address) || over;
                (opens && failures > 0).then(|| self.open_anew(now, retry_after, jitter))
            }
            // ## HalfOpen => Open
            &mut State::HalfOpen { cooldown, .. } if probe => {
                self.suspects.probed_in_vain(address);
                let longer = (cooldown * 2).min(self.rules.max_cooldown.max(self.rules.cooldown));
                Some(self.open(now, longer, retry_after, jitter))
            }
            // What was asked before it opened says nothing new.
            State::Open { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// A check of this client got no answer here, and the endpoint is not to blame, as not all of its addresses were asked:
    /// that corroborates what others meet, and does no more.
    pub(super) fn met(&mut self, now: Instant, address: u64) {
        if let State::Closed(evidence) = &mut self.state {
            evidence.note(now, address, false);
        }
    }

    /// The probe was asked, and nobody waits for its answer any more (another endpoint was faster): that is no outage, but
    /// a hung endpoint is not asked by each check again.
    pub(super) fn unanswered(&mut self, now: Instant, jitter: u64) {
        // ## HalfOpen => Open
        if let State::HalfOpen { cooldown, address, .. } = self.state {
            self.suspects.probed_in_vain(address);
            self.open(now, cooldown, None, jitter);
        }
    }

    /// The probe was not asked: the next check is one.
    pub(super) fn undecided(&mut self) {
        if let State::HalfOpen { due, cooldown, .. } = self.state {
            self.state = State::Open { until: due, cooldown };
        }
    }

    /// What [`Breaker::admit`] would do, without a change.
    pub(super) fn stops(&self, now: Instant, address: impl Fn() -> u64) -> bool {
        match self.state {
            State::Closed(_) => false,
            State::Open { until, cooldown } => {
                now < until
                    || (now < until + cooldown * Suspects::LONGEST
                        && now < until + cooldown * self.suspects.waits(address()))
            }
            State::HalfOpen { .. } => true,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed(_))
    }

    /// Whether another client has met an outage lately, and nobody an answer since.
    pub(super) fn corroborates(&self, now: Instant, address: u64) -> bool {
        match &self.state {
            State::Closed(evidence) => evidence.addresses.iter().any(|met| {
                met.address != address
                    && met.answers == evidence.answers
                    && now.saturating_duration_since(met.at) < WINDOW
            }),
            State::Open { .. } | State::HalfOpen { .. } => true,
        }
    }

    // ## Closed => Open
    fn open_anew(&mut self, now: Instant, retry_after: Option<Duration>, jitter: u64) -> Change {
        if let State::Closed(evidence) = &self.state {
            let counted = evidence.addresses.iter().filter(|met| met.counted);
            self.suspects = Suspects::of(counted.map(|met| met.address));
        }
        self.open(now, self.rules.cooldown, retry_after, jitter)
    }

    fn open(
        &mut self,
        now: Instant,
        cooldown: Duration,
        retry_after: Option<Duration>,
        jitter: u64,
    ) -> Change {
        let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
        // Longer by up to a tenth, so that engines that saw the same outage do not come back together.
        let spread = cooldown / 10 * (jitter % 1024) as u32 / 1024;
        let wait = (cooldown + spread).max(asked);
        self.state = State::Open { until: now + wait, cooldown };
        self.opened.get_or_insert(now);
        Change::Opened { cooldown: wait }
    }
}

impl Evidence {
    /// Counts an outage. Whether with it there are so many in a row.
    fn has_in_a_row(&mut self, failures: usize, now: Instant, address: u64) -> bool {
        let counts = self.note(now, address, true);
        self.in_a_row += usize::from(counts);
        counts && self.in_a_row >= failures
    }

    /// Notes an outage, to be `counted` or not. Whether it counts: the address's first in the window since the last answer.
    fn note(&mut self, now: Instant, address: u64, counted: bool) -> bool {
        self.addresses.retain(|met| now.saturating_duration_since(met.at) < WINDOW);
        let answers = self.answers;
        if let Some(met) = self.addresses.iter_mut().find(|met| met.address == address) {
            let again = met.answers == answers;
            if again && (met.counted || !counted) {
                return false;
            }
            *met = Met { address, at: now, answers, counted };
            return counted;
        }
        let met = Met { address, at: now, answers, counted };
        if self.addresses.len() < MOST_ADDRESSES {
            self.addresses.push(met);
            return counted;
        }
        let Some(old) = self.addresses.iter_mut().find(|met| met.answers != answers) else { return false };
        *old = met;
        counted
    }
}

#[cfg(test)]
mod tests;
