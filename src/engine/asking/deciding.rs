//! From what a flight has heard to the decision its waiters get.

use std::time::Duration;

use super::{Outage, client};
use crate::backend::Answer;
use crate::check::Question;
use crate::decision::{Cause, Decision, Origin, Texts, Verdict};
use crate::engine::Policy;
use crate::outage::Health;

/// Why a default action that allows does not stand.
pub(crate) const UNCORROBORATED: &str = "nobody else met an outage (fail_open = corroborated)";

/// What every waiter of an answered flight gets. `ttl` is what is left of the answer's.
pub(crate) fn backend_decision(answer: Answer, ttl: Duration) -> Decision {
    let mut decision = Decision::new(answer.verdict, Origin::Backend, Cause::None, answer.reason);
    decision.http_status = Some(answer.status);
    decision.ttl = ttl;
    decision.max_sessions = answer.max_sessions;
    decision.unique = answer.unique;
    if answer.user_id.is_some() || answer.location.is_some() {
        let (user_id, location) = (answer.user_id.as_deref(), answer.location.as_deref());
        decision.texts = Some(Texts::new(user_id.unwrap_or_default(), location.unwrap_or_default(), ""));
    }
    decision
}

/// What the waiters of a failed flight get, unless there is something better than the default action. Its detail is still
/// to be said.
pub(crate) fn outage_decision(policy: &Policy, outage: &Outage) -> Decision {
    let mut decision = policy.without_answer(outage.cause, "");
    decision.http_status = outage.http_status;
    decision
}

/// Whether the default action would let in who met an outage that nobody else has met. A request that only fails itself,
/// because of what it is, gets nothing by that. Of several endpoints each is in question: one that answers the others would
/// have answered this.
pub(crate) fn is_uncorroborated(policy: &Policy, question: &Question, decision: &Decision) -> bool {
    let corroborated = |health: &Health| health.is_open() || health.corroborates(client(question));
    policy.settings.fail_open_corroborated
        && decision.verdict == Verdict::Allow
        && decision.cause.is_outage()
        && !policy.health.iter().all(corroborated)
}
