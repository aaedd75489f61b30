//! What stands between a check and a backend that is down: whether an endpoint is asked at all, and at which of its addresses.
//! Pure bookkeeping, told the time; no sockets here, and no verdicts.

mod addresses;
mod breaker;
mod health;

pub(crate) use addresses::{Addresses, Known, Tried, two_of};
pub(crate) use breaker::Rules;
pub(crate) use health::Health;
