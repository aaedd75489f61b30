//! Asking one endpoint: its breaker's leave, the exchange, the safe retry, and what the reply means.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::{Instant, sleep, timeout_at};

use super::attempts::Asking;
use super::settling::{breaker_open, failed, label, late, refusal};
use super::{GRACE, MAX_REQUESTS, Means, Outage, client};
use crate::backend::{Answer, Judgement, Outgoing, ReplyHead, judge, judge_body};
use crate::check::Question;
use crate::decision::Cause;
use crate::engine::{Policy, RetryBudget};
use crate::transport::{BodyError, Progress, Reply, Stage, Transport};

/// One endpoint, unless its breaker is open; its health learns what became of it.
pub(super) async fn ask_one(means: Means<'_>, endpoint: usize, deadline: Instant) -> Result<Answer, Outage> {
    let Means { transport, retries, policy, question, asking, .. } = means;
    let Some(permit) = policy.health[endpoint].admit() else { return Err(breaker_open(policy, endpoint)) };
    let result = Inquiry { transport, retries, policy, question, asking, endpoint, deadline }.run().await;
    asking.end(endpoint, result.as_ref().err().map(|outage| outage.detail.clone()).unwrap_or_default());
    match &result {
        Ok(_) => permit.answered(),
        Err(outage) if outage.is_evidence() => {
            permit.failed(client(question), outage.retry_after, outage.cause.name());
        }
        Err(_) => {}
    }
    result
}

/// Asking one endpoint.
struct Inquiry<'a> {
    transport: &'a Rc<Transport>,
    retries: &'a RetryBudget,
    policy: &'a Arc<Policy>,
    question: &'a Rc<Question>,
    asking: &'a Asking,
    endpoint: usize,
    deadline: Instant,
}

impl Inquiry<'_> {
    async fn run(&self) -> Result<Answer, Outage> {
        let head = Outgoing {
            plan: Arc::clone(&self.policy.plans[self.endpoint]),
            question: Rc::clone(self.question),
        };
        let mut fresh = false;
        loop {
            let progress = self.asking.begin(self.endpoint);
            self.retries.exchange(Instant::now());
            let exchange = self.transport.exchange(self.endpoint, &head, fresh, &progress);
            let failure = match timeout_at(self.deadline, exchange).await {
                Err(_) => {
                    if progress.stage.get() == Stage::Queued {
                        sleep(GRACE).await;
                    }
                    return late(self.policy, self.endpoint, &progress);
                }
                Ok(Ok(reply)) => return self.judge(reply, &progress).await,
                Ok(Err(failure)) => failure,
            };
            let again = failure.retry_is_safe
                && !fresh
                && self.asking.requests.get() + 1 < MAX_REQUESTS
                && self.retries.retry(Instant::now());
            if !again {
                return failed(self.policy, self.endpoint, &progress, failure);
            }
            self.asking.end(self.endpoint, failure.detail.into_owned());
            fresh = true;
        }
    }

    async fn judge(&self, reply: Reply, progress: &Progress) -> Result<Answer, Outage> {
        let rules = &self.policy.replies;
        let headers: Vec<(&[u8], &[u8])> =
            reply.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())).collect();
        let head = ReplyHead { status: reply.status, headers: &headers };
        match judge(rules, self.question.session_id(), &head, SystemTime::now()) {
            Judgement::Decided(answer) => {
                if answer.broken {
                    reply.body.close();
                } else {
                    reply.body.discard();
                }
                Ok(answer)
            }
            Judgement::NeedsBody(answer) => {
                let body = reply.body.collect(self.policy.settings.verdict_max_body);
                let head = Instant::now();
                match timeout_at(self.deadline, body).await {
                    Err(_) => late(self.policy, self.endpoint, progress),
                    Ok(Ok(body)) => {
                        let answer = judge_body(rules, answer, &body);
                        // Reuse counts from the end of the header section.
                        Ok(Answer { ttl: answer.ttl.saturating_sub(head.elapsed()), ..answer })
                    }
                    // A body that is too long was not the one document the rule asks for: refused.
                    Ok(Err(BodyError::TooLong)) => {
                        Ok(refusal(reply.status, "the body is longer than verdict.max_body"))
                    }
                    Ok(Err(BodyError::Cut)) => {
                        Err(self.outage(Cause::Reset, Some(reply.status), "the body was cut short"))
                    }
                }
            }
            Judgement::Unavailable { retry_after } => {
                reply.body.discard();
                let detail = format!("status {} counts as unavailable", reply.status);
                Err(Outage { retry_after, ..self.outage(Cause::Status, Some(reply.status), &detail) })
            }
            Judgement::Malformed(what) => {
                reply.body.close();
                Err(self.outage(Cause::Protocol, Some(reply.status), what))
            }
        }
    }

    fn outage(&self, cause: Cause, http_status: Option<u16>, what: &str) -> Outage {
        let detail = format!("{}: {what}", label(self.policy, self.endpoint));
        Outage { endpoint: self.endpoint, cause, http_status, detail, retry_after: None }
    }
}
