//! What a truthful backend says of a check, and its opposite.

use alta_auth::{Check, Decision, Engine, Verdict};

use super::{assert_backend, bad, good, until};

pub(crate) fn check(session_id: &[u8], truth: Verdict) -> Check<'_> {
    Check { session_id, ..if truth == Verdict::Allow { good() } else { bad() } }
}

#[track_caller]
pub(crate) fn assert_truth(decision: &Decision, truth: Verdict) {
    assert_backend(decision, truth, if truth == Verdict::Allow { 200 } else { 403 });
}

/// Waits until no connection has anything to do.
pub(crate) fn settle(engine: &Engine) {
    until(|| {
        let stats = engine.stats();
        stats.connections_open == stats.connections_idle
    });
}

pub(crate) fn opposite(verdict: Verdict) -> Verdict {
    if verdict == Verdict::Allow { Verdict::Deny } else { Verdict::Allow }
}
