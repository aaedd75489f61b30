//! What is fuzzed of the protocol.

mod query;
mod reply;

pub use query::query;
pub use reply::reply;
