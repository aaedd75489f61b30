//! `backend.mode = any`: all endpoints together.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use super::endpoint::ask_one;
use super::{Means, Outage};
use crate::backend::{Answer, Basis};
use crate::clock;
use crate::decision::{Cause, Verdict};
use crate::outage::Tried;

/// All together: the first that allows decides. Without one, a refusal decides when all have answered or the time is up
/// (`any.deny = first`: at once); it may be kept only if all have answered.
pub(super) async fn ask(means: &Means<'_>) -> Result<Answer, Outage> {
    let endpoints = 0..means.policy.plans.len();
    let mut asked: Vec<_> = endpoints
        .map(|endpoint| Some(Box::pin(ask_one(means, endpoint, means.deadline, Tried::default()))))
        .collect();
    let (mut outage, mut all_answered) = (None, true);
    // When the refusal came that is kept.
    let mut since = None;
    poll_fn(|context| {
        let mut waiting = false;
        for place in &mut asked {
            let Some(future) = place else { continue };
            let Poll::Ready(result) = future.as_mut().poll(context) else {
                waiting = true;
                continue;
            };
            *place = None;
            match result {
                Ok(answer) if answer.verdict == Verdict::Allow => return Poll::Ready(Ok(answer)),
                Ok(answer) => {
                    since.get_or_insert_with(clock::now);
                    let first = means.policy.settings.any_deny_first;
                    let refused =
                        means.asking.refused.borrow_mut().get_or_insert_with(|| Box::new(answer)).clone();
                    if first {
                        return Poll::Ready(Ok(of_some(*refused)));
                    }
                }
                Err(other) => {
                    all_answered = false;
                    let says_less = |known: &Outage| known.cause == Cause::BreakerOpen;
                    if outage.as_ref().is_none_or(says_less) {
                        outage = Some(other);
                    }
                }
            }
        }
        if waiting {
            return Poll::Pending;
        }
        Poll::Ready(match (means.asking.refused.take(), outage.take()) {
            (Some(refused), _) if all_answered => {
                // Reuse counts from the end of its header section, not from that of the last.
                let waited = since.map_or(Duration::ZERO, |since| clock::now() - since);
                Ok(Answer { ttl: refused.ttl.saturating_sub(waited), ..*refused })
            }
            (Some(refused), _) => Ok(of_some(*refused)),
            (None, outage) => Err(outage.expect("each endpoint has answered or not")),
        })
    })
    .await
}

/// A refusal that others might still have made an allow: it decides, and is not kept.
fn of_some(refused: Answer) -> Answer {
    let basis = Basis { unkept: Some("not every backend has answered"), ..refused.basis };
    Answer { storable: false, ttl: Duration::ZERO, basis, ..refused }
}
