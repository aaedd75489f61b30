//! What stands between a check and a backend that is down: whether an endpoint is asked at all. Pure bookkeeping, told the
//! time; no sockets here, and no verdicts.

mod breaker;
mod health;

pub(crate) use breaker::Rules;
pub(crate) use health::Health;
