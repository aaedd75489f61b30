//! One flight's asking: which endpoints, how often, and what their replies mean for the check.
//!
//! The bounds on asking twice are here: the safe retry (once an endpoint, on a fresh connection, at most a
//! tenth of the exchanges), failover (an outage moves on, a refusal never does), and three requests in all.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, timeout_at};

use super::policy::Policy;
use super::retries::RetryBudget;
use crate::backend::{Answer, Judgement, Outgoing, REFUSING_STATUS, ReplyHead, judge, judge_body};
use crate::check::Question;
use crate::decision::{Cause, Decision, Origin, Texts, Verdict};
use crate::transport::{BodyError, Failure, Progress, Reply, Stage, Transport};

/// Requests a check may cause in all, whatever fails.
const MAX_REQUESTS: usize = 3;

/// How far a flight's asking has come; the engine looks here when a waiter's time is up.
#[derive(Default)]
pub(crate) struct Asking {
    current: RefCell<Option<Attempt>>,
    /// Attempts that are over, if they are to be shown.
    past: Option<RefCell<Vec<Attempt>>>,
    requests: Cell<usize>,
}

/// One request to one endpoint.
#[derive(Clone)]
pub(crate) struct Attempt {
    pub(crate) endpoint: usize,
    pub(crate) progress: Rc<Progress>,
    pub(crate) began: Instant,
    pub(crate) ended: Option<Instant>,
    pub(crate) failure: String,
}

/// No answer, and why.
#[derive(Clone, Debug)]
pub(crate) struct Outage {
    pub(crate) endpoint: usize,
    pub(crate) cause: Cause,
    pub(crate) http_status: Option<u16>,
    pub(crate) detail: String,
}

impl Asking {
    /// Keeps every attempt with its bytes and times.
    pub(crate) fn traced() -> Self {
        Self { past: Some(RefCell::default()), ..Self::default() }
    }

    /// Every attempt of a traced asking.
    pub(crate) fn attempts(&self) -> Vec<Attempt> {
        let past = self.past.as_ref().map(|past| past.borrow().clone()).unwrap_or_default();
        // One that has ended is among the past already.
        let current = self.current.borrow().clone().filter(|attempt| attempt.ended.is_none());
        past.into_iter().chain(current).collect()
    }

    /// Something of the request may have reached the backend.
    pub(crate) fn written(&self) -> bool {
        self.current.borrow().as_ref().is_some_and(|attempt| attempt.progress.stage.get() >= Stage::Written)
    }

    fn begin(&self, endpoint: usize) -> Rc<Progress> {
        self.end(String::new());
        let trace = self.past.is_some().then(RefCell::default);
        let progress = Rc::new(Progress { trace, ..Progress::default() });
        let attempt = Attempt {
            endpoint,
            progress: Rc::clone(&progress),
            began: Instant::now(),
            ended: None,
            failure: String::new(),
        };
        *self.current.borrow_mut() = Some(attempt);
        progress
    }

    /// The current attempt is over.
    fn end(&self, failure: String) {
        let Some(attempt) = &mut *self.current.borrow_mut() else { return };
        if attempt.ended.is_some() {
            return;
        }
        attempt.ended = Some(Instant::now());
        attempt.failure = failure;
        if attempt.progress.stage.get() >= Stage::Written {
            self.requests.set(self.requests.get() + 1);
        }
        if let Some(past) = &self.past {
            past.borrow_mut().push(attempt.clone());
        }
    }

    /// What a waiter gets whose time is up while the flight goes on.
    pub(crate) fn overdue(&self, policy: &Policy) -> Decision {
        match &*self.current.borrow() {
            None => {
                policy.without_answer(Cause::Overload, "the deadline passed before the check could be sent")
            }
            Some(attempt) => match late(policy, attempt.endpoint, &attempt.progress) {
                Ok(answer) => backend_decision(answer, Duration::ZERO),
                Err(outage) => outage_decision(policy, &outage),
            },
        }
    }
}

/// Asks until there is an answer, the endpoints are exhausted or the deadline has passed.
pub(crate) async fn ask(
    transport: &Rc<Transport>,
    retries: &RetryBudget,
    policy: &Arc<Policy>,
    question: &Rc<Question>,
    deadline: Instant,
    asking: &Asking,
) -> Result<Answer, Outage> {
    let endpoints = policy.plans.len();
    let mut endpoint = 0;
    loop {
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        let share = now + left / (endpoints - endpoint) as u32;
        let inquiry = Inquiry { transport, retries, policy, question, asking, endpoint, deadline: share };
        let result = inquiry.run().await;
        asking.end(result.as_ref().err().map(|outage| outage.detail.clone()).unwrap_or_default());
        endpoint += 1;
        match result {
            Err(outage) if endpoint == endpoints || asking.requests.get() >= MAX_REQUESTS => {
                return Err(outage);
            }
            Err(_) if Instant::now() >= deadline => return result,
            Err(_) => {}
            Ok(_) => return result,
        }
    }
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
                Err(_) => return late(self.policy, self.endpoint, &progress),
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
            self.asking.end(failure.detail.into_owned());
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
            Judgement::Unavailable { .. } => {
                reply.body.discard();
                let detail = format!("status {} counts as unavailable", reply.status);
                Err(self.outage(Cause::Status, Some(reply.status), &detail))
            }
            Judgement::Malformed(what) => {
                reply.body.close();
                Err(self.outage(Cause::Protocol, Some(reply.status), what))
            }
        }
    }

    fn outage(&self, cause: Cause, http_status: Option<u16>, what: &str) -> Outage {
        let detail = format!("{}: {what}", label(self.policy, self.endpoint));
        Outage { endpoint: self.endpoint, cause, http_status, detail }
    }
}

/// The time is up. What that means depends on how far the exchange had come.
fn late(policy: &Policy, endpoint: usize, progress: &Progress) -> Result<Answer, Outage> {
    let stage = progress.stage.get();
    let cause = if stage == Stage::Queued { Cause::Overload } else { Cause::Timeout };
    let detail = format!("{}: timeout while {}", label(policy, endpoint), doing(stage));
    settle(policy, endpoint, progress, cause, detail)
}

fn failed(policy: &Policy, endpoint: usize, progress: &Progress, failure: Failure) -> Result<Answer, Outage> {
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
    let outage = |cause| Err(Outage { endpoint, cause, http_status, detail });
    match http_status {
        Some(status) if policy.replies.unavailable.contains(status) => outage(Cause::Status),
        Some(status) if !policy.replies.allow.contains(status) => Ok(refusal(status, REFUSING_STATUS)),
        _ => outage(cause),
    }
}

/// Refused by a status line, or by a body that could not hold: nothing else is known, nothing is kept.
fn refusal(status: u16, reason: &'static str) -> Answer {
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
        from_cache: false,
        broken: true,
    }
}

fn label(policy: &Policy, endpoint: usize) -> String {
    policy.settings.backends[endpoint].label()
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

/// What the waiters of a failed flight get, unless there is something better than the default action.
pub(crate) fn outage_decision(policy: &Policy, outage: &Outage) -> Decision {
    let mut decision = policy.without_answer(outage.cause, "");
    decision.http_status = outage.http_status;
    decision.texts = Some(Texts::new("", "", &outage.detail));
    decision
}

/// An outage's detail says what was done about it.
pub(crate) fn explained(mut decision: Decision, what: &str) -> Decision {
    if decision.texts.is_some() {
        let detail = format!("{}; {what}: {}", decision.detail(), decision.verdict);
        decision.texts = Some(Texts::new(decision.user_id(), decision.location(), &detail));
    }
    decision
}
