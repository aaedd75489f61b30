//! One configuration, compiled: what a check is judged and asked by, and what its transports share. Never changes
//! once made; a reload makes another.

use std::sync::Arc;

use tokio::time::Instant;

use super::StartError;
use super::limits::Limits;
use crate::backend::{ReplyRules, RequestPlan};
use crate::check::{Check, Draft, Invalid, Question, Rules};
use crate::config::{BackendUrl, HedgeAfter, Settings};
use crate::decision::{Cause, Decision, Origin, Verdict};
use crate::memory::Memory;
use crate::observe::{Logger, SAID_AGAIN};
use crate::outage::{Addresses, Health, Latency, PerClient, two_of};
use crate::transport::{PoolGauges, Shared, Unshared, gauges, of_endpoint};

pub(crate) struct Policy {
    pub(crate) settings: Arc<Settings>,
    /// One an endpoint, in the order of `backend.url`.
    pub(crate) plans: Box<[Arc<RequestPlan>]>,
    /// One an endpoint: how it is called in messages.
    pub(crate) labels: Box<[String]>,
    pub(crate) replies: ReplyRules,
    pub(crate) shared: Arc<Shared>,
    /// One an endpoint.
    pub(crate) gauges: Arc<[PoolGauges]>,
    /// One an endpoint.
    pub(crate) health: Arc<[Health]>,
    /// One an endpoint.
    pub(crate) addresses: Arc<[Arc<Addresses>]>,
    /// One an endpoint, with `hedge.after = p95`.
    pub(crate) latencies: Option<Arc<[Latency]>>,
    /// `limit.per_ip`
    pub(crate) per_client: Option<Arc<PerClient>>,
    /// Every endpoint, the preferred one first.
    pub(crate) order: Box<[usize]>,
    /// What was learned under this policy, and under those before it that asked and judged alike.
    pub(crate) memory: Arc<Memory>,
    /// The places of users, of whom the same holds.
    pub(crate) limits: Arc<Limits>,
    /// Whom the shadow's questions go to, asked and judged as its settings say.
    pub(crate) shadow: Option<Arc<Self>>,
    rules: Rules,
}

/// Divided evenly by any number up to that of the addresses of a name, 16.
const SHARES: u64 = 720_720;

impl Policy {
    /// Reads certificates; an error says which key and file. `before`: the policy that this one replaces.
    pub(crate) fn new(
        settings: Arc<Settings>,
        before: Option<&Self>,
        log: &Arc<Logger>,
    ) -> Result<Self, StartError> {
        let plans: Box<[_]> =
            settings.backends.iter().map(|url| Arc::new(RequestPlan::new(url, &settings))).collect();
        let rules = Rules {
            scope: settings.scope,
            path_check: settings.path_check,
            path_in_key: plans.iter().any(|plan| plan.uses_path()),
        };
        let alike = before.filter(|before| before.settings.shape == settings.shape);
        let memory =
            alike.map_or_else(|| Arc::new(Memory::new(settings.memory)), |before| Arc::clone(&before.memory));
        let limits = alike.map(|before| Arc::clone(&before.limits)).unwrap_or_default();
        // Who has used up its share has so after a reload, too.
        let per_client = match before.filter(|before| before.settings.per_ip == settings.per_ip) {
            Some(before) => before.per_client.clone(),
            None => PerClient::new(settings.per_ip, log).map(Arc::new),
        };
        let latencies = (settings.hedge.after == HedgeAfter::P95).then(|| {
            let known = alike.and_then(|before| before.latencies.clone());
            known.unwrap_or_else(|| settings.backends.iter().map(|_| Latency::default()).collect())
        });
        let same = |before: &&Self| {
            (&before.settings.shape, before.settings.breaker) == (&settings.shape, settings.breaker)
        };
        let shadow_before = before.and_then(|before| before.shadow.as_deref());
        let shadow =
            settings.of_shadow().map(|own| Self::new(Arc::new(own), shadow_before, log)).transpose()?;
        let replaced = before;
        let before = before.filter(same);
        let name = |url: &BackendUrl| {
            if settings.is_shadow { format!("the shadow {}", url.label()) } else { url.label() }
        };
        let health = before.map_or_else(
            || {
                let healthy = |url: &BackendUrl| Health::new(name(url), settings.breaker, Arc::clone(log));
                settings.backends.iter().map(healthy).collect()
            },
            |before| Arc::clone(&before.health),
        );
        let addresses: Arc<[_]> = before.map_or_else(
            || {
                let unknown =
                    |url: &BackendUrl| Arc::new(Addresses::new(name(url), settings.breaker, Arc::clone(log)));
                settings.backends.iter().map(unknown).collect()
            },
            |before| Arc::clone(&before.addresses),
        );
        let shared =
            Shared::new(Arc::clone(&settings), Arc::clone(&addresses), log.calls()).map_err(|error| {
                match error {
                    Unshared::Config(error) => StartError::Config(error),
                    Unshared::System(error) => StartError::System(error),
                }
            })?;
        if let Some(replaced) = replaced {
            shared.take_over(&replaced.shared);
        }
        Ok(Self {
            shadow: shadow.map(Arc::new),
            order: (0..plans.len()).collect(),
            health,
            latencies,
            per_client,
            memory,
            limits,
            replies: ReplyRules::new(&settings),
            shared,
            addresses,
            labels: settings.backends.iter().map(BackendUrl::label).collect(),
            gauges: gauges(settings.threads_io, settings.backends.len()),
            plans,
            rules,
            settings,
        })
    }

    /// A check that is well formed, as `then` uses it. Whether it can be asked is for [`Policy::admit`] to say.
    pub(crate) fn draft<T>(
        &self,
        check: &Check<'_>,
        then: impl FnOnce(Draft<'_>) -> T,
    ) -> Result<T, Invalid> {
        Draft::of(check, self.rules, then)
    }

    /// After this nothing about the check's content can fail.
    pub(crate) fn admit(&self, draft: &Draft<'_>) -> Result<Question, Invalid> {
        self.admit_in(Vec::new(), draft)
    }

    /// The same, in memory that was used before.
    pub(crate) fn admit_in(&self, bytes: Vec<u8>, draft: &Draft<'_>) -> Result<Question, Invalid> {
        let question = draft.keep_in(bytes);
        self.plans.iter().try_for_each(|plan| plan.admit(&question))?;
        Ok(question)
    }

    /// Both at once.
    pub(crate) fn accept(&self, check: &Check<'_>) -> Result<Question, Invalid> {
        self.draft(check, |draft| self.admit(&draft))?
    }

    /// Every endpoint: first the less busy of two that were picked at random, then the others as they stand. One with
    /// several addresses is picked, and may be busy, as often as so many endpoints.
    pub(crate) fn balanced(&self, random: u64) -> Box<[usize]> {
        let mut order = self.order.clone();
        if order.len() > 1 {
            let widths: Vec<usize> = self.addresses.iter().map(|addresses| addresses.width()).collect();
            let seats: Vec<usize> = order.iter().flat_map(|&one| [one].repeat(widths[one])).collect();
            let (one, other) = two_of(seats.len(), random);
            // For each address.
            let busy = |endpoint: usize| {
                let rows = of_endpoint(&self.gauges, endpoint, self.plans.len());
                let in_use: u64 = rows.map(PoolGauges::in_use).sum();
                (self.health[endpoint].is_open(), in_use * SHARES / widths[endpoint] as u64)
            };
            let (one, other) = (seats[one], seats[other]);
            let first = if busy(other) < busy(one) { other } else { one };
            order[..=first].rotate_right(1);
        }
        order
    }

    /// The decision for a check that `limit.per_ip` stops. No setting makes it an allow: who asks too often would get in by it.
    pub(crate) fn over_limit() -> Decision {
        Decision::new(
            Verdict::Deny,
            Origin::Default,
            Cause::Overload,
            "limit.per_ip: too many requests for this address",
        )
    }

    /// When something is to be said of what its endpoints and clients did again and again, by whichever thread.
    pub(crate) fn next_line(&self) -> Option<Instant> {
        let breakers = self.health.iter().filter_map(Health::next_line);
        let addresses = self.addresses.iter().filter_map(|addresses| addresses.next_line());
        let denied = self.per_client.as_ref().and_then(|limit| limit.next_line());
        let shadow = self.shadow.as_ref().and_then(|shadow| shadow.next_line());
        breakers.chain(addresses).chain(denied).chain(shadow).min()
    }

    /// What of it is to be said by now.
    pub(crate) fn say_unsaid(&self, now: Instant) {
        self.say_of_endpoints(now);
        if let Some(limit) = &self.per_client {
            limit.say_unsaid(now);
        }
        if let Some(shadow) = &self.shadow {
            shadow.say_unsaid(now);
        }
    }

    /// What is still to be said of what ends where `next` takes its place.
    pub(crate) fn say_what_ends(&self, next: &Self) {
        let end = Instant::now() + SAID_AGAIN;
        if !Arc::ptr_eq(&self.health, &next.health) {
            self.say_of_endpoints(end);
        }
        if let Some(limit) = &self.per_client
            && next.per_client.as_ref().is_none_or(|next| !Arc::ptr_eq(next, limit))
        {
            limit.say_unsaid(end);
        }
    }

    fn say_of_endpoints(&self, now: Instant) {
        self.health.iter().for_each(|health| health.say_unsaid(now));
        self.addresses.iter().for_each(|addresses| addresses.say_unsaid(now));
    }

    /// The decision when the backend gave none. What fails for want of our own resources denies, unless the
    /// operator said otherwise: whoever can flood us must not get in by it.
    pub(crate) fn without_answer(&self, cause: Cause, reason: &'static str) -> Decision {
        let own_fault = matches!(cause, Cause::Overload | Cause::Internal);
        let verdict = if own_fault && !self.settings.fail_open_overload {
            Verdict::Deny
        } else {
            self.settings.default_action
        };
        Decision::new(verdict, Origin::Default, cause, reason)
    }
}
