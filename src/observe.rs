//! What an operator sees: counters and the log. No token and no query in any of them.

mod log;
mod prometheus;
mod stats;

pub(crate) use log::Logger;
pub use log::{Log, LogLevel};
pub use stats::{EndpointStats, Stats};
