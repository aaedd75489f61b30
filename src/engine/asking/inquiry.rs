//! Asking one endpoint once: the exchange, the safe retry, and what the reply means.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep, timeout_at};

use super::attempts::UnderWay;
use super::settling::{failed, late, refusal};
use super::{GRACE, Means, Outage};
use crate::backend::{Answer, Judgement, Outgoing, ReplyHead, Subject, Undecided, judge, judge_body};
use crate::clock;
use crate::decision::Cause;
use crate::engine::alarms::Elapsed;
use crate::transport::{Among, Body, BodyError, Progress, Stage};

/// Asking one endpoint, at one of these addresses.
pub(super) struct Inquiry<'a> {
    pub(super) means: &'a Means<'a>,
    pub(super) endpoint: usize,
    pub(super) among: Among,
    /// The longest that an address may keep the check.
    pub(super) share: Duration,
    pub(super) deadline: Instant,
    /// The exchange under way, for whoever drops this.
    pub(super) current: &'a RefCell<Option<Rc<Progress>>>,
    /// Requests to the endpoint that have ended.
    pub(super) requests: &'a Cell<usize>,
}

/// What a header section comes to.
enum Settled {
    Known(Result<Answer, Outage>),
    /// With its status.
    NeedsBody(Box<(u16, Undecided, Body)>),
}

impl Inquiry<'_> {
    /// And the address that it came to, if it came to one.
    pub(super) async fn run(&self) -> (Result<Answer, Outage>, Option<IpAddr>) {
        let (result, attempt) = self.exchange().await;
        let address = attempt.progress.address();
        self.ended(attempt, result.as_ref().err().map(|outage| outage.detail.clone()).unwrap_or_default());
        (result, address)
    }

    async fn exchange(&self) -> (Result<Answer, Outage>, UnderWay<'_>) {
        let Means { transport, retries, alarms, policy, question, asking, .. } = *self.means;
        let head = Outgoing { plan: &policy.plans[self.endpoint], question };
        let mut fresh = false;
        loop {
            let attempt = asking.begin(self.endpoint, self.among.clone(), fresh);
            let progress = &attempt.progress;
            self.current.replace(Some(Rc::clone(progress)));
            let began = clock::now();
            retries.exchange(began);
            let mut until = (began + self.share).min(self.deadline);
            let subject = Subject { session_id: question.session_id(), path_in_key: question.path_in_key() };
            // Where it stays, without a move from one future to the next: it is large.
            let judged = Cell::new(None);
            let judge = |head: &ReplyHead<'_>| {
                judged.set(Some((head.status, judge(&policy.replies, subject, head, SystemTime::now))));
            };
            let outcome = {
                let mut exchange = pin!(transport.exchange(self.endpoint, &head, fresh, progress, &judge));
                loop {
                    let outcome = match alarms {
                        Some((alarms, bell)) => alarms.timeout_at(bell, until, exchange.as_mut()).await,
                        None => Box::pin(timeout_at(until, exchange.as_mut())).await.map_err(|_| Elapsed),
                    };
                    // No address is to blame for the time in line.
                    let begins = match progress.stage() {
                        Stage::Queued => self.deadline,
                        _ => progress.lent.get().unwrap_or(began),
                    };
                    let earned = (begins + self.share).min(self.deadline);
                    if outcome.is_ok() || earned <= until {
                        break outcome;
                    }
                    until = earned;
                }
            };
            let failure = match outcome {
                Err(_) => {
                    if progress.is_in_line() {
                        Box::pin(sleep(GRACE)).await;
                    }
                    self.took(progress, began);
                    return (late(policy, self.endpoint, progress), attempt);
                }
                Ok(Ok(body)) => {
                    let (status, judgement) = judged.take().expect("a reply was judged");
                    let result = match self.settle(status, judgement, body) {
                        Settled::Known(result) => result,
                        // In a box: each check that waits would have to have room for it.
                        Settled::NeedsBody(undecided) => {
                            Box::pin(self.read_body(undecided, progress, until)).await
                        }
                    };
                    self.took(progress, began);
                    return (result, attempt);
                }
                Ok(Err(failure)) => failure,
            };
            let again = failure.retry_is_safe
                && !fresh
                && self.means.requests_left(self.requests.get()) > 1
                && retries.retry(clock::now());
            if !again {
                return (failed(policy, self.endpoint, progress, failure), attempt);
            }
            self.ended(attempt, failure.detail.into_owned());
            fresh = true;
        }
    }

    fn ended(&self, attempt: UnderWay<'_>, failure: String) {
        let was_request = attempt.ended(failure);
        self.requests.set(self.requests.get() + usize::from(was_request));
    }

    /// What the endpoint takes; the time in line is none of its own.
    fn took(&self, progress: &Progress, began: Instant) {
        if let Some(latencies) = &self.means.policy.latencies
            && progress.stage() >= Stage::Written
        {
            latencies[self.endpoint].note(clock::now() - progress.lent.get().unwrap_or(began));
        }
    }

    /// What the judgement comes to, and what becomes of the body.
    fn settle(&self, status: u16, judgement: Judgement, body: Body) -> Settled {
        Settled::Known(match judgement {
            Judgement::Decided(answer) => {
                if answer.broken {
                    body.close();
                } else {
                    body.discard();
                }
                Ok(answer)
            }
            Judgement::NeedsBody(undecided) => {
                return Settled::NeedsBody(Box::new((status, undecided, body)));
            }
            Judgement::Unavailable { retry_after, broken } => {
                if broken {
                    body.close();
                } else {
                    body.discard();
                }
                let detail = format!("status {status} counts as unavailable");
                Err(Outage { retry_after, ..self.outage(Cause::Status, Some(status), &detail) })
            }
            Judgement::Malformed(what) => {
                body.close();
                Err(self.outage(Cause::Protocol, Some(status), what))
            }
        })
    }

    async fn read_body(
        &self,
        undecided: Box<(u16, Undecided, Body)>,
        progress: &Progress,
        until: Instant,
    ) -> Result<Answer, Outage> {
        let policy = self.means.policy;
        let (status, undecided, body) = *undecided;
        let head = clock::now();
        match timeout_at(until, body.collect(policy.settings.verdict_max_body)).await {
            Err(_) => late(policy, self.endpoint, progress),
            Ok(Ok(body)) => {
                let answer = judge_body(&policy.replies, undecided, &body);
                // Reuse counts from the end of the header section.
                Ok(Answer { ttl: answer.ttl.saturating_sub(clock::now() - head), ..answer })
            }
            // A body that is too long was not the one document the rule asks for: refused.
            Ok(Err(BodyError::TooLong)) => Ok(refusal(status, "the body is longer than verdict.max_body")),
            Ok(Err(BodyError::Cut)) => Err(self.outage(Cause::Reset, Some(status), "the body was cut short")),
        }
    }

    fn outage(&self, cause: Cause, http_status: Option<u16>, what: &str) -> Outage {
        let detail = format!("{}: {what}", self.means.policy.labels[self.endpoint]);
        Outage { endpoint: self.endpoint, cause, http_status, detail, retry_after: None }
    }
}
