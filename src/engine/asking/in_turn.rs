//! `backend.mode = failover` and `balance`: one endpoint after the other.

use super::{MAX_REQUESTS, Means, Outage, hedge};
use crate::backend::Answer;
use crate::clock;
use crate::decision::Cause;

/// One after the other: an outage, never a refusal, moves on to the next. Each gets its part of the time that is left.
pub(super) async fn ask(means: &Means<'_>, order: &[usize]) -> Result<Answer, Outage> {
    let mut outage = None;
    let mut hedged = None;
    for (tried, &endpoint) in order.iter().enumerate() {
        if tried > 0 && hedged == Some(endpoint) {
            continue;
        }
        let later = &order[tried + 1..];
        let healthy = |&&later: &&usize| hedged != Some(later) && !means.policy.health[later].is_open();
        let others = later.iter().filter(healthy).count();
        let share = means.share_before(others, MAX_REQUESTS - 1 - means.asking.requests.get());
        let (outcome, beside) = hedge::ask(means, endpoint, share, later).await;
        hedged = hedged.or(beside);
        match outcome {
            Ok(answer) => return Ok(answer),
            // An open breaker says less than what another endpoint did.
            Err(other) if other.cause == Cause::BreakerOpen && outage.is_some() => {}
            Err(other) => outage = Some(other),
        }
        if means.asking.requests.get() >= MAX_REQUESTS || clock::now() >= means.deadline {
            break;
        }
    }
    Err(outage.expect("the configuration has at least one URL"))
}
