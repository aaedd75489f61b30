//! What is counted of checks. Who reads sees no check that has ended and was not submitted.

use super::super::sync::atomic::{AtomicU64, Ordering};
use crate::decision::{Cause, Decision, Origin, Verdict};
use crate::observe::{Durations, Histogram, Tally};

#[derive(Default)]
pub(super) struct Counters {
    submitted: AtomicU64,
    /// Those that have completed, by what decided them: all that is told of them is a sum of these.
    outcomes: [[[AtomicU64; CAUSES]; ORIGINS]; VERDICTS],
    cancelled: AtomicU64,
    refused: AtomicU64,
    coalesced: AtomicU64,
    /// No other thread's step depends on it.
    latencies: Histogram,
}

const VERDICTS: usize = 2;
const ORIGINS: usize = 4;
const CAUSES: usize = Cause::ALL.len();

/// What the counters said at one instant.
pub(crate) struct Counts {
    pub(crate) submitted: u64,
    pub(crate) completed: u64,
    pub(crate) cancelled: u64,
    pub(crate) refused: u64,
    pub(crate) allowed: u64,
    pub(crate) denied: u64,
    pub(crate) origins: [u64; ORIGINS],
    pub(crate) causes: [u64; CAUSES],
    pub(crate) coalesced: u64,
    pub(crate) latencies: Durations,
}

impl Counters {
    /// Before anything can end the check: `submitted` is never behind `completed` in a reading of both.
    pub(super) fn submitted(&self) {
        self.submitted.fetch_add(1, Ordering::Relaxed);
    }

    /// It was submitted to nobody.
    pub(super) fn withdrawn(&self) {
        self.submitted.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refusals(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn cancelled(&self) {
        self.cancelled.fetch_add(1, Ordering::Release);
    }

    pub(super) fn delivered(&self, decision: &Decision) {
        self.latencies.count(decision.latency);
        if decision.coalesced {
            self.coalesced.fetch_add(1, Ordering::Relaxed);
        }
        self.completed(Outcome::of(decision), 1);
    }

    fn completed(&self, Outcome(verdict, origin, cause): Outcome, count: u64) {
        // With Release: who sees that it has completed sees that it was submitted.
        let outcomes = &self.outcomes[verdict as usize];
        outcomes[origin as usize][cause as usize].fetch_add(count, Ordering::Release);
    }

    pub(super) fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (mut verdicts, mut origins, mut causes) = ([0; VERDICTS], [0; ORIGINS], [0; CAUSES]);
        for (verdict, outcomes) in self.outcomes.iter().enumerate() {
            for (origin, outcomes) in outcomes.iter().enumerate() {
                for (cause, outcome) in outcomes.iter().enumerate() {
                    let count = outcome.load(Ordering::Acquire);
                    verdicts[verdict] += count;
                    origins[origin] += count;
                    causes[cause] += count;
                }
            }
        }
        let cancelled = self.cancelled.load(Ordering::Acquire);
        let (denied, allowed) = (verdicts[Verdict::Deny as usize], verdicts[Verdict::Allow as usize]);
        Counts {
            completed: denied + allowed,
            cancelled,
            submitted: read(&self.submitted),
            refused: read(&self.refused),
            denied,
            allowed,
            origins,
            causes,
            coalesced: read(&self.coalesced),
            latencies: self.latencies.read(),
        }
    }
}

/// A place among the counters of what has completed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Outcome(Verdict, Origin, Cause);

impl Outcome {
    fn of(decision: &Decision) -> Self {
        Self(decision.verdict, decision.origin, decision.cause)
    }
}

/// What is to be counted of the deliveries of one call.
#[derive(Default)]
pub(super) struct Delivered {
    /// The newest kind, and how many of it in a row: mostly all are of one.
    outcome: Option<(Outcome, u64)>,
    coalesced: u64,
    latencies: Tally,
}

impl Delivered {
    /// One more. Those before it are counted now if they are of another kind.
    pub(super) fn add(&mut self, decision: &Decision, counters: &Counters) {
        self.latencies.count(decision.latency);
        self.coalesced += u64::from(decision.coalesced);
        let outcome = Outcome::of(decision);
        match &mut self.outcome {
            Some((kind, count)) if *kind == outcome => *count += 1,
            other => {
                if let Some((kind, count)) = other.replace((outcome, 1)) {
                    counters.completed(kind, count);
                }
            }
        }
    }

    /// At the end.
    pub(super) fn count(&self, counters: &Counters) {
        counters.latencies.add(&self.latencies);
        if self.coalesced > 0 {
            counters.coalesced.fetch_add(self.coalesced, Ordering::Relaxed);
        }
        if let Some((kind, count)) = self.outcome {
            counters.completed(kind, count);
        }
    }
}
