//! One flight's asking: which endpoints, how often, and what their replies mean for the check.
//!
//! The bounds on asking twice are here: the safe retry (once an endpoint, on a fresh connection, at most a
//! tenth of the exchanges), failover (an outage moves on, a refusal never does), and three requests in all.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep, timeout_at};

use super::policy::Policy;
use super::retries::RetryBudget;
use crate::backend::{Answer, Judgement, Outgoing, REFUSING_STATUS, ReplyHead, judge, judge_body};
use crate::check::Question;
use crate::config::BackendMode;
use crate::decision::{Cause, Decision, Origin, Texts, Verdict};
use crate::transport::{BodyError, Failure, Progress, Reply, Stage, Transport};

/// How long a check whose time was up while it waited for a connection waits for the word about those ahead of it: their
/// time is up at the same moment, and if they got no answer it is the backend's outage and not our overload.
pub(crate) const GRACE: Duration = Duration::from_millis(20);

/// Requests a check may cause in all, whatever fails.
const MAX_REQUESTS: usize = 3;

/// How far a flight's asking has come; the engine looks here when a waiter's time is up.
#[derive(Default)]
pub(crate) struct Asking {
    /// The newest attempt at each endpoint that was tried.
    attempts: RefCell<Vec<Attempt>>,
    /// Attempts that are over, if they are to be shown.
    past: Option<RefCell<Vec<Attempt>>>,
    requests: Cell<usize>,
    /// One of several that were asked at once has refused, and others may still allow.
    refused: RefCell<Option<Answer>>,
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
    /// What an unavailable backend asked for.
    pub(crate) retry_after: Option<Duration>,
}

impl Outage {
    /// Whether it says something about the endpoint: not our own shortage, and not that it was not asked.
    fn is_evidence(&self) -> bool {
        self.cause.is_outage() && self.cause != Cause::BreakerOpen
    }
}

impl Asking {
    /// Keeps every attempt with its bytes and times.
    pub(crate) fn traced() -> Self {
        Self { past: Some(RefCell::default()), ..Self::default() }
    }

    /// Every attempt of a traced asking.
    pub(crate) fn attempts(&self) -> Vec<Attempt> {
        let past = self.past.as_ref().map(|past| past.borrow().clone()).unwrap_or_default();
        // Those that have ended are among the past already.
        let current =
            self.attempts.borrow().iter().filter(|attempt| attempt.ended.is_none()).cloned().collect();
        [past, current].concat()
    }

    /// Something of the request may have reached a backend.
    pub(crate) fn written(&self) -> bool {
        self.attempts.borrow().iter().any(|attempt| attempt.progress.stage.get() >= Stage::Written)
    }

    fn begin(&self, endpoint: usize) -> Rc<Progress> {
        self.end(endpoint, String::new());
        let trace = self.past.is_some().then(RefCell::default);
        let progress = Rc::new(Progress { trace, ..Progress::default() });
        let attempt = Attempt {
            endpoint,
            progress: Rc::clone(&progress),
            began: Instant::now(),
            ended: None,
            failure: String::new(),
        };
        let mut attempts = self.attempts.borrow_mut();
        attempts.retain(|attempt| attempt.endpoint != endpoint);
        attempts.push(attempt);
        progress
    }

    /// The attempt at this endpoint is over.
    fn end(&self, endpoint: usize, failure: String) {
        let mut attempts = self.attempts.borrow_mut();
        let Some(attempt) = attempts.iter_mut().find(|attempt| attempt.endpoint == endpoint) else { return };
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

    /// It waits for a connection, and for nothing else.
    pub(crate) fn is_queued(&self) -> bool {
        let attempts = self.attempts.borrow();
        attempts.last().is_some_and(|attempt| attempt.progress.stage.get() == Stage::Queued)
    }

    /// What a waiter gets whose time is up while the flight goes on.
    pub(crate) fn overdue(&self, policy: &Policy) -> Decision {
        if let Some(refused) = &*self.refused.borrow() {
            return backend_decision(refused.clone(), Duration::ZERO);
        }
        let attempts = self.attempts.borrow();
        let mut outage = None;
        for attempt in attempts.iter().rev() {
            match late(policy, attempt.endpoint, &attempt.progress) {
                Ok(answer) => return backend_decision(answer, Duration::ZERO),
                Err(newest) => {
                    outage.get_or_insert(newest);
                }
            }
        }
        match outage {
            None => {
                policy.without_answer(Cause::Overload, "the deadline passed before the check could be sent")
            }
            Some(outage) => outage_decision(policy, &outage),
        }
    }
}

/// What a flight asks with.
#[derive(Clone, Copy)]
pub(crate) struct Means<'a> {
    pub(crate) transport: &'a Rc<Transport>,
    pub(crate) retries: &'a RetryBudget,
    pub(crate) policy: &'a Arc<Policy>,
    pub(crate) question: &'a Rc<Question>,
    pub(crate) deadline: Instant,
    pub(crate) asking: &'a Asking,
    /// Any number, evenly distributed.
    pub(crate) random: u64,
}

/// Asks until there is an answer, the endpoints are exhausted or the deadline has passed.
pub(crate) async fn ask(means: Means<'_>) -> Result<Answer, Outage> {
    match means.policy.settings.backend_mode {
        BackendMode::Failover => in_turn(means, &means.policy.order).await,
        BackendMode::Balance => in_turn(means, &means.policy.balanced(means.random)).await,
        BackendMode::Any => at_once(means).await,
    }
}

/// One after the other: an outage, never a refusal, moves on to the next. Each gets its part of the time that is left.
async fn in_turn(means: Means<'_>, order: &[usize]) -> Result<Answer, Outage> {
    let mut outage = None;
    for (tried, &endpoint) in order.iter().enumerate() {
        let now = Instant::now();
        let left = means.deadline.saturating_duration_since(now);
        let healthy =
            order[tried + 1..].iter().filter(|&&later| !means.policy.health[later].is_open()).count();
        let share = now + left / (healthy as u32 + 1);
        match ask_one(means, endpoint, share).await {
            Ok(answer) => return Ok(answer),
            // An open breaker says less than what another endpoint did.
            Err(other) if other.cause == Cause::BreakerOpen && outage.is_some() => {}
            Err(other) => outage = Some(other),
        }
        if means.asking.requests.get() >= MAX_REQUESTS || Instant::now() >= means.deadline {
            break;
        }
    }
    Err(outage.expect("the configuration has at least one URL"))
}

/// All together: the first that allows decides. Without one, a refusal decides when all have answered or the time is up
/// (`any.deny = first`: at once); it may be kept only if all have answered.
async fn at_once(means: Means<'_>) -> Result<Answer, Outage> {
    let endpoints = 0..means.policy.plans.len();
    let mut asked: Vec<_> =
        endpoints.map(|endpoint| Some(Box::pin(ask_one(means, endpoint, means.deadline)))).collect();
    let (mut outage, mut all_answered) = (None, true);
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
                    let first = means.policy.settings.any_deny_first;
                    let refused = means.asking.refused.borrow_mut().get_or_insert(answer).clone();
                    if first {
                        return Poll::Ready(Ok(Answer { storable: false, ttl: Duration::ZERO, ..refused }));
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
            (Some(refused), _) if all_answered => Ok(refused),
            (Some(refused), _) => Ok(Answer { storable: false, ttl: Duration::ZERO, ..refused }),
            (None, outage) => Err(outage.expect("each endpoint has answered or not")),
        })
    })
    .await
}

/// One endpoint, unless its breaker is open; its health learns what became of it.
async fn ask_one(means: Means<'_>, endpoint: usize, deadline: Instant) -> Result<Answer, Outage> {
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

/// Whose outage it is: outages of one client count once.
pub(crate) fn client(question: &Question) -> &[u8] {
    if question.ip().is_empty() { question.session_id() } else { question.ip() }
}

pub(crate) fn breaker_open(policy: &Policy, endpoint: usize) -> Outage {
    let detail = format!("{}: not asked, the breaker is open", label(policy, endpoint));
    Outage { endpoint, cause: Cause::BreakerOpen, http_status: None, detail, retry_after: None }
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

/// The time is up. What that means depends on how far the exchange had come.
fn late(policy: &Policy, endpoint: usize, progress: &Progress) -> Result<Answer, Outage> {
    let stage = progress.stage.get();
    let cause = match stage {
        // It waited behind checks that got no answer.
        Stage::Queued if policy.health[endpoint].is_open() => return Err(breaker_open(policy, endpoint)),
        Stage::Queued => Cause::Overload,
        _ => Cause::Timeout,
    };
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
    let outage = |cause| Err(Outage { endpoint, cause, http_status, detail, retry_after: None });
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
