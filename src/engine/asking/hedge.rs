//! `hedge.after`: who has not answered by then is given company, and the first answer decides.
//!
//! The second request goes to the next endpoint whose breaker is closed; where there is one endpoint only, to that one, on
//! another connection, and if its name stands for several addresses, to another of them. An answer is an answer, whoever
//! gives it: a refusal decides as an allow does, for both were asked the same. An outage of one leaves the check to the
//! other. The one that loses is dropped: over HTTP/1.1 its connection is closed, so that its late reply is never read as
//! another's; with `http.pipeline` it keeps its place there, and its reply is thrown away.
//!
//! Once a check, within its three requests and its time, for `hedge.max` of the exchanges at most, and never where that would
//! worsen a shortage: not while anybody waits for a connection of either endpoint, and not for an exchange that waits itself.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::endpoint::ask_one;
use super::{MAX_REQUESTS, Means, Outage};
use crate::backend::Answer;
use crate::clock;
use crate::config::HedgeAfter;
use crate::decision::Cause;
use crate::outage::Tried;

type Outcome = Result<Answer, Outage>;

/// Asks `endpoint` until `share`, and perhaps one of `others`, in this order, as well: which one is returned, too.
pub(super) async fn ask(
    means: &Means<'_>,
    endpoint: usize,
    share: Instant,
    others: &[usize],
) -> (Outcome, Option<usize>) {
    let first = pin!(ask_one(means, endpoint, share, Tried::default()));
    let Some(after) = patience(means, endpoint) else { return (first.await, None) };
    // In a box: few are hedged, and each check that waits would have to have room for it.
    Box::pin(with_company(means, first, endpoint, after, share, others)).await
}

async fn with_company(
    means: &Means<'_>,
    mut first: Pin<&mut impl Future<Output = Outcome>>,
    endpoint: usize,
    after: Duration,
    share: Instant,
    others: &[usize],
) -> (Outcome, Option<usize>) {
    let mut due = clock::now() + after;
    let other = loop {
        if let Ok(outcome) = timeout_at(due, first.as_mut()).await {
            return (outcome, None);
        }
        // In line it waits for us and not for the backend; and what it is asking now may be a second address.
        let since = means.asking.alone_since();
        match since.map(|since| since + after) {
            Some(later) if later > clock::now() => due = later,
            Some(_) => match company(means, endpoint, others) {
                Some(other) => break other,
                None => return (first.await, None),
            },
            None => return (first.await, None),
        }
    };
    (race(means, first, endpoint, other, share, others).await, Some(other))
}

/// How long `endpoint` has for its answer before another is asked; `None`: nobody else is.
fn patience(means: &Means<'_>, endpoint: usize) -> Option<Duration> {
    // A probe that lost would be no word about its endpoint: the next check would be one again, and so on.
    if !means.may_hedge || means.asking.hedged.get() || means.policy.health[endpoint].is_open() {
        return None;
    }
    match means.policy.settings.hedge.after {
        HedgeAfter::Never => None,
        HedgeAfter::Fixed(after) => Some(after),
        HedgeAfter::P95 => means.policy.latencies.as_ref()?[endpoint].p95(),
    }
}

/// Who is to be asked as well. One that is returned is counted.
fn company(means: &Means<'_>, endpoint: usize, others: &[usize]) -> Option<usize> {
    let Means { policy, asking, transport, .. } = means;
    let closed = |&&other: &&usize| !policy.health[other].is_open();
    let other = match policy.order.len() {
        // Twice the same one: no more of it, and nothing before.
        1 => (asking.requests.get() == 0).then_some(endpoint),
        _ => others.iter().find(closed).copied(),
    }?;
    let bounded = asking.requests.get() + 2 <= MAX_REQUESTS
        && !policy.health[other].is_open()
        && !transport.is_crowded(endpoint)
        && transport.has_room(other)
        && means.retries.hedge(clock::now(), policy.settings.hedge.max);
    asking.hedged.set(bounded);
    bounded.then_some(other)
}

async fn race(
    means: &Means<'_>,
    mut first: Pin<&mut impl Future<Output = Outcome>>,
    endpoint: usize,
    other: usize,
    share: Instant,
    others: &[usize],
) -> Outcome {
    let asking = means.asking;
    let began = asking.alone_since();
    let twins = other == endpoint;
    let share = if twins {
        share
    } else {
        let open = |&&later: &&usize| later != other && !means.policy.health[later].is_open();
        let after = others.iter().filter(open).count();
        means.share_before(after, MAX_REQUESTS.saturating_sub(asking.requests.get() + 2))
    };
    // Of a name with several addresses, another one.
    let beside = asking.current_address().filter(|_| twins);
    let mut second = pin!(ask_one(means, other, share, Tried::none_beside(beside)));
    // An endpoint is asked twice at most: neither of two that ask the same one tries again.
    asking.beside.set(if twins { 2 } else { 1 });
    let (mut one, mut two) = (None, None);
    let (outcome, won) = poll_fn(|context| {
        if one.is_none()
            && let Poll::Ready(outcome) = first.as_mut().poll(context)
        {
            match outcome {
                Ok(answer) => return Poll::Ready((Ok(answer), false)),
                Err(outage) => one = Some(outage),
            }
        }
        if two.is_none()
            && let Poll::Ready(outcome) = second.as_mut().poll(context)
        {
            match outcome {
                Ok(answer) => return Poll::Ready((Ok(answer), true)),
                Err(outage) => two = Some(outage),
            }
        }
        if (one.is_some() || two.is_some()) && !twins {
            asking.beside.set(0);
        }
        match (&one, &two) {
            // An open breaker says less than what the other did.
            (Some(one), Some(two)) if two.cause == Cause::BreakerOpen => {
                Poll::Ready((Err(one.clone()), false))
            }
            (Some(_), Some(two)) => Poll::Ready((Err(two.clone()), false)),
            _ => Poll::Pending,
        }
    })
    .await;
    asking.beside.set(0);
    if won {
        means.retries.hedge_won();
        // It took so long at least: what is left out because it was slow would make the endpoint look fast.
        if let (Some(latencies), Some(began)) = (&means.policy.latencies, began) {
            latencies[endpoint].note(clock::now() - began);
        }
    }
    outcome
}
