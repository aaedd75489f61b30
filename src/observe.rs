//! What an operator sees: counters and the log. No token and no query in any of them.

mod histogram;
mod log;
mod prometheus;
mod stats;

pub(crate) use histogram::{BOUNDS, Durations, Histogram};
pub(crate) use log::Logger;
pub use log::{Log, LogLevel};
pub use stats::{AddressStats, EndpointStats, Stats};
