//! What an operator sees: counters and the log. No token and no query in any of them.

mod due;
mod histogram;
mod log;
mod prometheus;
mod seldom;
mod shadow;
mod stats;

pub(crate) use due::Due;
pub(crate) use histogram::{BOUNDS, Durations, Histogram, Tally};
pub(crate) use log::Logger;
pub use log::{Log, LogLevel};
pub(crate) use seldom::{SAID_AGAIN, Seldom};
pub use shadow::ShadowStats;
pub(crate) use shadow::{Outcome, Outcomes};
pub use stats::{AddressStats, EndpointStats, Stats};
