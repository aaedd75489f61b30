//! Of which endpoints, and of which of their addresses, it was to be found out whether they are back, as one who has connections to
//! them knows it.

use std::net::IpAddr;

use super::{Addresses, Health};

/// How often that was of an endpoint, and of each of its addresses where there are several, when this was asked last.
#[derive(Default)]
pub(crate) struct Probed {
    endpoint: u64,
    addresses: Vec<(IpAddr, u64)>,
}

/// Where somebody was let find out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ProbedAt {
    Endpoint,
    Addresses(Vec<IpAddr>),
}

impl Probed {
    /// Where that was since.
    pub(crate) fn since(&mut self, health: &Health, addresses: &Addresses) -> Option<ProbedAt> {
        let endpoint = health.probed();
        let all = std::mem::replace(&mut self.endpoint, endpoint) != endpoint;
        let some = addresses.several().map(|known| self.addresses_of(&known)).unwrap_or_default();
        match (all, some.is_empty()) {
            (true, _) => Some(ProbedAt::Endpoint),
            (false, true) => None,
            (false, false) => Some(ProbedAt::Addresses(some)),
        }
    }

    fn addresses_of(&mut self, known: &[std::sync::Arc<super::Known>]) -> Vec<IpAddr> {
        let probes = || known.iter().map(|known| (known.address, known.health.probed()));
        if probes().eq(self.addresses.iter().copied()) {
            return Vec::new();
        }
        let before = std::mem::replace(&mut self.addresses, probes().collect());
        let is_new = |probes: &&(IpAddr, u64)| probes.1 > 0 && !before.contains(probes);
        self.addresses.iter().filter(is_new).map(|&(address, _)| address).collect()
    }
}
