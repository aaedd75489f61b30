//! One endpoint: its breaker's leave, and the addresses that its name stands for, one after the other.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::time::Instant;

use super::inquiry::Inquiry;
use super::settling::breaker_open;
use super::{Means, Outage, client};
use crate::backend::Answer;
use crate::clock;
use crate::config::BackendMode;
use crate::outage::{Choice, Permit, Tried};
use crate::transport::{Among, Progress};

/// One endpoint, unless its breaker is open; its health learns what became of it. An outage moves on to the next address;
/// each gets its part of the time. The endpoint is to blame when none of them works.
pub(super) async fn ask_one(
    means: &Means<'_>,
    endpoint: usize,
    deadline: Instant,
    mut tried: Tried,
) -> Result<Answer, Outage> {
    let Means { policy, question, .. } = *means;
    let client = client(question);
    let Some(permit) = policy.health[endpoint].admit(client) else {
        return Err(breaker_open(policy, endpoint));
    };
    let current = RefCell::default();
    let requests = Cell::new(0);
    let mut leave = Leave { current: &current, permit: Some(permit), choice: None };
    let addresses = &policy.addresses[endpoint];
    let balance = policy.settings.backend_mode == BackendMode::Balance;
    // Other bits than those that the endpoint was picked by.
    let balance = balance.then_some(means.random.rotate_left(16));
    let mut outage = None;
    let result = loop {
        // The first time there is always somewhere to go.
        let Some(choice) = addresses.choose(&tried, balance, client) else {
            break Err(outage.unwrap_or_else(|| breaker_open(policy, endpoint)));
        };
        let share = match choice.turns.min(means.requests_left(requests.get())) {
            0 | 1 => policy.settings.timeout,
            turns => deadline.saturating_duration_since(clock::now()) / turns as u32,
        };
        let among = Among::these(choice.addresses());
        if choice.is_probe() || leave.permit.as_ref().is_some_and(Permit::is_probe) {
            // The other threads do so in their next turn.
            means.transport.part_where_probed(endpoint, &policy.health[endpoint], addresses);
        }
        leave.choice = Some(choice);
        let inquiry =
            Inquiry { means, endpoint, among, share, deadline, current: &current, requests: &requests };
        let (result, at) = inquiry.run().await;
        let Some(choice) = leave.choice.take() else { unreachable!("it is taken here only") };
        let failure = match result {
            Ok(answer) => {
                choice.answered(at, client);
                break Ok(answer);
            }
            Err(failure) if failure.is_evidence() => failure,
            Err(failure) => break Err(failure),
        };
        choice.failed(at, &mut tried, client, failure.retry_after, failure.cause.name());
        if means.requests_left(requests.get()) == 0 || clock::now() >= deadline {
            break Err(failure);
        }
        outage = Some(failure);
    };
    let Some(permit) = leave.permit.take() else { unreachable!("it is taken here only") };
    match &result {
        Ok(_) => permit.answered(client),
        Err(outage) if outage.is_evidence() && addresses.exhausted(&tried) => {
            permit.failed(client, outage.retry_after, outage.cause.name());
        }
        Err(outage) if outage.is_evidence() => permit.met(client),
        Err(outage) if outage.is_ours() => {
            means.asking.lacked.replace(Some(Box::new(outage.clone())));
        }
        Err(_) => {}
    }
    result
}

/// The leave to ask an endpoint, and one of its addresses. Dropped while it is asked, because another was faster: a probe
/// that was on its way there was one, also if it came to no connection, and the next check is none.
struct Leave<'a> {
    current: &'a RefCell<Option<Rc<Progress>>>,
    permit: Option<Permit<'a>>,
    choice: Option<Choice>,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        // In line it has only waited for us.
        if self.current.borrow().as_ref().is_none_or(|progress| progress.is_in_line()) {
            return;
        }
        if let Some(permit) = self.permit.take() {
            permit.unanswered();
        }
        if let Some(choice) = self.choice.take() {
            choice.unanswered();
        }
    }
}
