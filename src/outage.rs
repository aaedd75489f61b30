//! What stands between a check and a backend that is down: whether an endpoint is asked at all, at which of
//! its addresses, and for whom.
//! Pure bookkeeping, told the time; no sockets here, and no verdicts.

mod addresses;
mod breaker;
mod client;
mod flaps;
mod health;
mod latency;
mod per_client;
mod probed;

pub(crate) use addresses::{Addresses, Choice, Known, Tried, two_of};
pub(crate) use breaker::Rules;
pub(crate) use client::Client;
pub(crate) use health::{Health, Permit};
pub(crate) use latency::Latency;
pub(crate) use per_client::PerClient;
pub(crate) use probed::{Probed, ProbedAt};
