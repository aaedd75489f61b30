//! What an exchange without a complete answer means: an outage, or a refusal by its status line alone.

use std::time::Duration;

use super::Outage;
use crate::backend::{Answer, Basis, REFUSING_STATUS};
use crate::decision::{Cause, Verdict};
use crate::engine::Policy;
use crate::transport::{Failure, Progress, Stage};

/// The time is up. What that means depends on how far the exchange had come.
pub(super) fn late(policy: &Policy, endpoint: usize, progress: &Progress) -> Result<Answer, Outage> {
    if progress.is_in_line() {
        return Err(late_in_line(policy, endpoint));
    }
    let detail = timeout(policy, endpoint, progress.stage());
    settle(policy, endpoint, progress, Cause::Timeout, detail)
}

/// The time is up, and it never had a connection: it waited behind checks that got no answer, or there were too many.
pub(crate) fn late_in_line(policy: &Policy, endpoint: usize) -> Outage {
    if policy.health[endpoint].is_open() {
        return breaker_open(policy, endpoint);
    }
    let detail = timeout(policy, endpoint, Stage::Queued);
    Outage { endpoint, cause: Cause::Overload, http_status: None, detail, retry_after: None }
}

/// Of a backend that hangs there may be very many at one time.
fn timeout(policy: &Policy, endpoint: usize, stage: Stage) -> String {
    [&*policy.labels[endpoint], ": timeout while ", doing(stage)].concat()
}

pub(super) fn failed(
    policy: &Policy,
    endpoint: usize,
    progress: &Progress,
    failure: Failure,
) -> Result<Answer, Outage> {
    settle(policy, endpoint, progress, failure.cause, failure.detail.into_owned())
}

/// A refusal needs only a status line: what went wrong after it changes nothing.
fn settle(
    policy: &Policy,
    endpoint: usize,
    progress: &Progress,
    cause: Cause,
    detail: String,
) -> Result<Answer, Outage> {
    let http_status = progress.status_line.get();
    let outage = |cause| Err(Outage { endpoint, cause, http_status, detail, retry_after: None });
    match http_status {
        Some(status) if policy.replies.unavailable.contains(status) => outage(Cause::Status),
        Some(status) if !policy.replies.allow.contains(status) => Ok(refusal(status, REFUSING_STATUS)),
        _ => outage(cause),
    }
}

/// Refused by a status line, or by a body that could not hold: nothing else is known, nothing is kept.
pub(super) fn refusal(status: u16, reason: &'static str) -> Answer {
    Answer {
        verdict: Verdict::Deny,
        reason,
        status,
        ttl: Duration::ZERO,
        must_revalidate: false,
        storable: false,
        user_id: None,
        location: None,
        max_sessions: 0,
        unique: false,
        dropped_text: false,
        dropped_user: false,
        from_cache: false,
        broken: true,
        basis: Basis { said: None, unkept: Some("nothing but its refusal counts") },
    }
}

pub(crate) fn breaker_open(policy: &Policy, endpoint: usize) -> Outage {
    let detail = [&*policy.labels[endpoint], ": not asked, the breaker is open"].concat();
    Outage { endpoint, cause: Cause::BreakerOpen, http_status: None, detail, retry_after: None }
}

/// For a person: what the exchange was doing.
pub(crate) fn doing(stage: Stage) -> &'static str {
    match stage {
        Stage::Queued => "waiting for a free connection",
        Stage::Resolving => "resolving the name",
        Stage::Connecting => "connecting",
        Stage::Handshaking => "in the TLS handshake",
        Stage::Ready => "sending the request",
        Stage::Written => "waiting for the first byte of the answer",
        Stage::Replying => "reading the answer's header section",
        Stage::Replied => "reading the answer's body",
    }
}
