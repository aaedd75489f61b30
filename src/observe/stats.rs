//! Counters at one instant.

use std::net::IpAddr;

use super::{Durations, ShadowStats};

/// Counters at one instant, for all I/O threads together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Checks accepted. `submitted = completed + cancelled + pending`, at every reading.
    pub submitted: u64,
    /// Checks delivered.
    pub completed: u64,
    /// Checks cancelled.
    pub cancelled: u64,
    /// Checks accepted and neither delivered nor cancelled, now.
    pub pending: u64,
    /// Checks and watches answered with [`crate::SubmitError::Full`].
    pub refused: u64,
    /// Checks and watches answered with [`crate::SubmitError::Invalid`].
    pub invalid: u64,
    /// Delivered decisions that allow.
    pub allowed: u64,
    /// Delivered decisions that deny.
    pub denied: u64,
    /// Delivered decisions by origin, in the order of [`crate::Origin::ALL`].
    pub origins: [u64; 4],
    /// Delivered decisions by cause, in the order of [`crate::Cause::ALL`].
    pub causes: [u64; 16],
    /// Delivered decisions of checks that joined another's exchange.
    pub coalesced: u64,
    /// From submit to decision, of the delivered ones.
    pub(crate) latencies: Durations,
    /// Requests begun.
    pub exchanges: u64,
    /// Safe retries among them.
    pub retries: u64,
    /// Requests among them that went out beside one that was slow (`hedge.after`).
    pub hedges: u64,
    /// Those of them that were answered first.
    pub hedges_won: u64,
    /// Decisions remembered, now; expired ones that were not taken out yet included.
    pub remembered: u64,
    /// Watches that are open, now. They count in none of the counters of checks but `refused` and `invalid`, where
    /// they are not accepted.
    pub watching: u64,
    /// Decisions delivered to watches: first ones and changes.
    pub watch_decisions: u64,
    /// Revocations: of a session, a user, or all.
    pub revoked: u64,
    /// Replies that came out of a cache between us and the backend (`Age`, `X-Cache`); never reused.
    pub replies_from_cache: u64,
    /// Replies whose `X-UserId` or `Location` was not fit to pass on.
    pub texts_dropped: u64,
    /// Checks, and first decisions of watches, that `limit.per_ip` denied.
    pub limited: u64,
    /// Defects of the library that ended the work of an I/O thread, which then began anew.
    pub restarts: u64,
    /// Each backend, in the order of `backend.url`.
    pub endpoints: Vec<EndpointStats>,
    /// What the shadow said; `None`: there is no `shadow.url`. Its requests and connections are in none of the others.
    pub shadow: Option<ShadowStats>,
    /// Connections established since the start.
    pub connections_opened: u64,
    /// Connections, now.
    pub connections_open: u64,
    /// Connections without an exchange, now. Those in use are `connections_open - connections_idle`.
    pub connections_idle: u64,
    /// Exchanges waiting for a connection, now.
    pub connections_waiting: u64,
}

/// One backend at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStats {
    /// `scheme://host:port`
    pub endpoint: String,
    /// Its breaker is open: it is left alone.
    pub breaker_open: bool,
    /// How often its breaker has opened.
    pub breaker_opened: u64,
    /// Requests begun, since this configuration was turned to.
    pub exchanges: u64,
    /// Connections, now.
    pub connections_open: u64,
    /// Where its name stands for several: each of them, at most 16.
    pub addresses: Vec<AddressStats>,
}

/// One address of a backend at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddressStats {
    /// What the name stands for.
    pub address: IpAddr,
    /// Its breaker is open: it is left alone as long as others of the name are not.
    pub breaker_open: bool,
    /// How often its breaker has opened, since the name has it.
    pub breaker_opened: u64,
    /// Exchanges that ended there, with an answer or an outage, since the name has it and others.
    pub exchanges: u64,
}
