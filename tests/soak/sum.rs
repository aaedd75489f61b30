//! What the engines of a soak add up to.

use std::fmt;

use alta_auth::{Cause, Origin};

/// What one life adds up to.
#[derive(Default)]
pub(crate) struct Sum {
    pub(crate) engines: u64,
    pub(crate) submitted: u64,
    pub(crate) cancelled: u64,
    pub(crate) full: u64,
    pub(crate) allowed: u64,
    pub(crate) origins: [u64; 4],
    pub(crate) causes: [u64; 16],
    pub(crate) coalesced: u64,
    pub(crate) exchanges: u64,
    pub(crate) reloads: u64,
    pub(crate) revoked: u64,
    pub(crate) breaker_opened: u64,
    pub(crate) watched: u64,
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { engines, submitted, cancelled, full, allowed, coalesced, exchanges, .. } = self;
        let Self { reloads, revoked, breaker_opened, watched, .. } = self;
        write!(
            f,
            "{engines} engines: {submitted} checks accepted, {full} not, {cancelled} cancelled, {allowed} allowed, \
             {coalesced} coalesced; {exchanges} exchanges; {reloads} reloads, {revoked} revocations, breakers opened \
             {breaker_opened} times, watches told {watched} times; by"
        )?;
        Origin::ALL
            .iter()
            .zip(self.origins)
            .try_for_each(|(origin, count)| write!(f, " {origin:?} {count}"))?;
        Cause::ALL.iter().zip(self.causes).try_for_each(|(cause, count)| write!(f, " {cause:?} {count}"))
    }
}

impl Sum {
    pub(crate) fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.engines, other.engines),
            (&mut self.submitted, other.submitted),
            (&mut self.cancelled, other.cancelled),
            (&mut self.full, other.full),
            (&mut self.allowed, other.allowed),
            (&mut self.coalesced, other.coalesced),
            (&mut self.exchanges, other.exchanges),
            (&mut self.reloads, other.reloads),
            (&mut self.revoked, other.revoked),
            (&mut self.breaker_opened, other.breaker_opened),
            (&mut self.watched, other.watched),
        ];
        let counts = self.origins.iter_mut().zip(other.origins);
        let causes = self.causes.iter_mut().zip(other.causes);
        pairs.into_iter().chain(counts).chain(causes).for_each(|(sum, more)| *sum += more);
    }
}
