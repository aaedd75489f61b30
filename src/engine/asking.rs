//! One flight's asking: which endpoints, how often, and what their replies mean for the check.
//!
//! The bounds on asking twice are here: the safe retry (`inquiry.rs`: once an endpoint, on a fresh connection, at most a
//! tenth of the exchanges), failover (an outage moves on to the next address of the name, `endpoint.rs`, then to the next URL,
//! `in_turn.rs`; a refusal never does), hedging (`hedge.rs`: once a check), and three requests in all (of those who are
//! asked at once, two each).

mod at_once;
mod attempts;
mod deciding;
mod endpoint;
mod hedge;
mod in_turn;
mod inquiry;
mod phrases;
mod settling;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use attempts::{Asking, Attempt};
pub(crate) use deciding::{UNCORROBORATED, backend_decision, is_uncorroborated, outage_decision};
pub(crate) use phrases::Phrases;
pub(crate) use settling::{breaker_open, doing, late_in_line};

use super::alarms::{Alarms, Bell};
use super::policy::Policy;
use super::retries::RetryBudget;
use crate::backend::Answer;
use crate::check::Question;
use crate::clock;
use crate::config::BackendMode;
use crate::decision::Cause;
use crate::outage::Client;
use crate::transport::Transport;

/// How long a check whose time was up while it waited for a connection waits for the word about those ahead of it: their
/// time is up at the same moment, and if they got no answer it is the backend's outage and not our overload.
pub(crate) const GRACE: Duration = Duration::from_millis(20);

/// Requests a check may cause in all, whatever fails.
const MAX_REQUESTS: usize = 3;
/// The same at each endpoint where all are asked at once: none has to do without because of what others said.
const MAX_REQUESTS_AT_ONCE: usize = 2;

/// What a flight asks with.
pub(crate) struct Means<'a> {
    pub(crate) transport: &'a Rc<Transport>,
    pub(crate) retries: &'a RetryBudget,
    /// Those of the shard, and the task's bell; `None`: each wait has a timer of its own.
    pub(crate) alarms: Option<(&'a Alarms, &'a Bell)>,
    pub(crate) policy: &'a Arc<Policy>,
    pub(crate) question: &'a Rc<Question>,
    pub(crate) deadline: Instant,
    pub(crate) asking: &'a Asking,
    /// Somebody waits for the answer: a second request may be made for the sake of time.
    pub(crate) may_hedge: bool,
    /// Any number, evenly distributed.
    pub(crate) random: u64,
}

impl Means<'_> {
    /// Requests that may still be made, those under way included, at an endpoint where so many have ended.
    fn requests_left(&self, ended: usize) -> usize {
        match self.policy.settings.backend_mode {
            BackendMode::Any => MAX_REQUESTS_AT_ONCE.saturating_sub(ended),
            BackendMode::Failover | BackendMode::Balance => MAX_REQUESTS.saturating_sub(self.asking.spent()),
        }
    }

    /// Until when the answer of one is waited for before so many others, when so many requests may still follow its own.
    fn share_before(&self, others: usize, requests: usize) -> Instant {
        match others.min(requests) {
            0 => self.deadline,
            others => {
                let now = clock::now();
                now + self.deadline.saturating_duration_since(now) / (others as u32 + 1)
            }
        }
    }
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

    /// Our own shortage, or a defect of ours.
    fn is_ours(&self) -> bool {
        !self.cause.is_outage()
    }
}

/// Asks until there is an answer, the endpoints are exhausted or the deadline has passed. What we lacked at one endpoint is not
/// made an outage by what another came to: who floods one of them would be let in for the other.
pub(crate) async fn ask(means: &Means<'_>) -> Result<Answer, Outage> {
    let result = match means.policy.settings.backend_mode {
        BackendMode::Failover => in_turn::ask(means, &means.policy.order).await,
        BackendMode::Balance => in_turn::ask(means, &means.policy.balanced(means.random)).await,
        BackendMode::Any => at_once::ask(means).await,
    };
    result.map_err(|outage| means.asking.lacked.take().map_or(outage, |lacked| *lacked))
}

/// Whose outage it is: outages of one client count once. Without addresses the sessions count, or no breaker would open.
pub(crate) fn client(question: &Question) -> Client<'_> {
    match question.ip() {
        b"" => Client::Session(question.session_id()),
        ip => Client::At(ip),
    }
}
