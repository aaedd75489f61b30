//! The addresses that the name of one URL stands for, each with a health of its own.
//!
//! An address that gives no answers is left alone by the rules of a whole endpoint (`breaker.rs`), as long as others of the
//! name give some; after its cooldown one exchange finds out. If all are open, that says nothing for any of them: they
//! are used as if none were, and the URL's own breaker decides. With a single address there is nothing to choose,
//! and nothing is held against it here.
//!
//! Before a name was found for the first time nothing is known of it: a check that finds it moves on from an outage at once, but
//! leaves no part of its time for others.
//!
//! What becomes of an address is forgotten when it leaves the name. There are as many as the resolver gives, 16 at most, and
//! each takes up to 32 KiB (the clients whose outages were counted), and 130 KiB with `breaker.rate`.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::breaker::Rules;
use super::client::Client;
use super::health::Health;
use crate::observe::{LogLevel, Logger};

pub(crate) struct Addresses {
    /// `scheme://host:port`
    label: String,
    rules: Rules,
    log: Arc<Logger>,
    /// There is more than one: otherwise nobody needs the lock.
    several: AtomicBool,
    known: RwLock<Arc<[Arc<Known>]>>,
    /// When the resolver was asked for these. Held by whoever changes them.
    as_of: Mutex<Option<Instant>>,
}

/// An address that the name stands for.
pub(crate) struct Known {
    pub(crate) address: IpAddr,
    pub(crate) health: Health,
    /// Exchanges that ended here, with an answer or an outage.
    pub(crate) exchanges: AtomicU64,
    /// Exchanges that go to this address and no other.
    in_flight: AtomicU64,
}

/// The addresses that one check has asked in vain.
#[derive(Default)]
pub(crate) struct Tried {
    these: Vec<IpAddr>,
    all: bool,
    /// Being asked by another exchange of the check: the last choice, and nothing is known against it.
    beside: Option<IpAddr>,
}

/// Where one exchange may go. What became of it is to be told; dropped, it says nothing for or against an address.
pub(crate) struct Choice {
    /// None: nothing to choose from.
    known: Option<Arc<[Arc<Known>]>>,
    /// Indices in `known`; `None`: anywhere.
    among: Option<Vec<usize>>,
    /// The only one of `among` is asked to find out.
    probe: bool,
    /// The only one of `among` counts this exchange.
    counted: bool,
    /// How many may be asked one after another, this one included: what is left of the time is divided by it.
    pub(crate) turns: usize,
}

impl Addresses {
    pub(crate) fn new(label: String, rules: Rules, log: Arc<Logger>) -> Self {
        let (several, known) = (AtomicBool::new(false), RwLock::new(Arc::default()));
        Self { label, rules, log, several, known, as_of: Mutex::default() }
    }

    /// The name stands for these, as the resolver says that was asked then. Whether that is new: then it is to be logged. What was
    /// asked later stands: for a while after a reload there are two who ask.
    pub(crate) fn turn_to(&self, addresses: &[IpAddr], as_of: Instant) -> bool {
        let mut newest = self.as_of.lock();
        if newest.is_some_and(|newest| as_of < newest) {
            return false;
        }
        *newest = Some(as_of);
        let before = self.known();
        let is_new = |address: &IpAddr| !before.iter().any(|known| known.address == *address);
        if before.len() == addresses.len() && !addresses.iter().any(is_new) {
            return false;
        }
        let known = |&address: &IpAddr| {
            let kept = before.iter().find(|known| known.address == address);
            kept.map_or_else(|| Arc::new(self.learn(address)), Arc::clone)
        };
        *self.known.write() = addresses.iter().map(known).collect();
        self.several.store(addresses.len() > 1, Relaxed);
        true
    }

    pub(crate) fn log(&self, addresses: &[IpAddr]) {
        self.log.log(LogLevel::Info, || {
            let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            format!("{} stands for {}", self.label, list.join(", "))
        });
    }

    fn learn(&self, address: IpAddr) -> Known {
        let label = format!("{} ({address})", self.label);
        let health = Health::new(label, self.rules, Arc::clone(&self.log));
        Known { address, health, exchanges: AtomicU64::new(0), in_flight: AtomicU64::new(0) }
    }

    /// Where there are several.
    pub(crate) fn several(&self) -> Option<Arc<[Arc<Known>]>> {
        self.several.load(Relaxed).then(|| self.known())
    }

    /// When there is something to say of one of several.
    pub(crate) fn next_line(&self) -> Option<Instant> {
        self.several
            .load(Relaxed)
            .then(|| self.known())?
            .iter()
            .filter_map(|known| known.health.next_line())
            .min()
    }

    /// What of it is to be said by now.
    pub(crate) fn say_unsaid(&self, now: Instant) {
        self.known().iter().for_each(|known| known.health.say_unsaid(now));
    }

    fn known(&self) -> Arc<[Arc<Known>]> {
        Arc::clone(&self.known.read())
    }

    /// How many are in use; at least 1.
    pub(crate) fn width(&self) -> usize {
        if !self.several.load(Relaxed) {
            return 1;
        }
        self.known.read().iter().filter(|known| !known.health.is_open()).count().max(1)
    }

    /// Where the next exchange of a check may go; `None`: nowhere that it has not been. `balance`, any number: to one of
    /// two picked by it, the less busy.
    pub(crate) fn choose(&self, tried: &Tried, balance: Option<u64>, client: Client<'_>) -> Option<Choice> {
        let several = self.several.load(Relaxed);
        if tried.all || !(tried.these.is_empty() || several) {
            return None;
        }
        if !several {
            return Some(Choice { known: None, among: None, probe: false, counted: false, turns: 1 });
        }
        let known = self.known();
        let all_open = known.iter().all(|known| known.health.is_open());
        let untried = |index: &usize| !tried.these.contains(&known[*index].address);
        let fit: Vec<usize> = (0..known.len())
            .filter(untried)
            .filter(|&index| all_open || !known[index].health.is_open())
            .collect();
        if fit.is_empty() {
            return None;
        }
        let fit = match fit.iter().position(|&index| Some(known[index].address) == tried.beside) {
            Some(place) if fit.len() > 1 => [&fit[..place], &fit[place + 1..]].concat(),
            _ => fit,
        };
        // Addresses of both families are most often one machine: their outages come together.
        let v6 = fit.iter().filter(|&&index| known[index].address.is_ipv6()).count();
        let turns = v6.max(fit.len() - v6);
        let due = || (0..known.len()).filter(untried).find(|&index| known[index].health.probe(client));
        if !all_open && let Some(due) = due() {
            let among = Some(vec![due]);
            return Some(Choice { known: Some(known), among, probe: true, counted: false, turns: turns + 1 });
        }
        if let Some(random) = balance {
            let busy = |index: usize| known[index].in_flight.load(Relaxed);
            let (one, other) = two_of(fit.len(), random);
            let (one, other) = (fit[one], fit[other]);
            let picked = if busy(other) < busy(one) { other } else { one };
            known[picked].in_flight.fetch_add(1, Relaxed);
            let among = Some(vec![picked]);
            return Some(Choice { known: Some(known), among, probe: false, counted: true, turns });
        }
        let among = (fit.len() < known.len()).then_some(fit);
        Some(Choice { known: Some(known), among, probe: false, counted: false, turns })
    }

    /// No connection to it could be made, whoever asked for one.
    pub(crate) fn unreachable(&self, address: IpAddr, why: &str) {
        if self.several.load(Relaxed)
            && let Some(known) = self.known().iter().find(|known| known.address == address)
        {
            known.health.unreachable(why);
        }
    }

    /// Whether each of them is left alone or was tried: then it is the URL that gives no answers.
    pub(crate) fn exhausted(&self, tried: &Tried) -> bool {
        tried.all
            || !self.several.load(Relaxed)
            || self
                .known
                .read()
                .iter()
                .all(|known| tried.these.contains(&known.address) || known.health.is_open())
    }
}

impl Tried {
    pub(crate) fn none_beside(address: Option<IpAddr>) -> Self {
        Self { beside: address, ..Self::default() }
    }
}

impl Choice {
    /// `None`: any.
    pub(crate) fn addresses(&self) -> Option<Vec<IpAddr>> {
        let address = |&index: &usize| self.known()[index].address;
        self.among.as_ref().map(|among| among.iter().map(address).collect())
    }

    pub(crate) fn is_probe(&self) -> bool {
        self.probe
    }

    /// There was an answer, whatever it said.
    pub(crate) fn answered(mut self, at: Option<IpAddr>, client: Client<'_>) {
        if let Some(known) = self.concerned(at) {
            self.probe = false;
            known.exchanges.fetch_add(1, Relaxed);
            known.health.answered(client);
        }
    }

    /// There was none. `at`: the address that it came to; `None`: to none, or it is not known. The rest as for a
    /// [`super::Permit`].
    pub(crate) fn failed(
        mut self,
        at: Option<IpAddr>,
        tried: &mut Tried,
        client: Client<'_>,
        retry_after: Option<Duration>,
        why: &str,
    ) {
        if let Some(known) = self.concerned(at) {
            let probe = std::mem::take(&mut self.probe);
            known.exchanges.fetch_add(1, Relaxed);
            known.health.failed(client, probe, retry_after, why);
            tried.these.push(known.address);
            return;
        }
        match (self.addresses(), at) {
            // Each was tried, and each attempt told on its own.
            (Some(among), _) => tried.these.extend(among),
            // The name was not known when this was chosen. By now there may be others.
            (None, Some(at)) if self.known().is_empty() => tried.these.push(at),
            (None, _) => tried.all = true,
        }
    }

    /// It was asked, and nobody waits for its answer any more.
    pub(crate) fn unanswered(mut self) {
        if std::mem::take(&mut self.probe)
            && let Some(known) = self.only()
        {
            known.health.unanswered();
        }
    }

    /// Whom the end of the exchange tells of. Of a probe that came to no connection: the one it was for.
    fn concerned(&self, at: Option<IpAddr>) -> Option<Arc<Known>> {
        if self.probe {
            return self.only().map(Arc::clone);
        }
        self.known().iter().find(|known| Some(known.address) == at).map(Arc::clone)
    }

    fn known(&self) -> &[Arc<Known>] {
        self.known.as_deref().unwrap_or_default()
    }

    fn only(&self) -> Option<&Arc<Known>> {
        self.among.as_deref()?.first().map(|&index| &self.known()[index])
    }
}

impl Drop for Choice {
    fn drop(&mut self) {
        if let Some(known) = self.only() {
            if self.probe {
                known.health.undecided();
            }
            if self.counted {
                known.in_flight.fetch_sub(1, Relaxed);
            }
        }
    }
}

/// Two different ones of so many, if there are two.
pub(crate) fn two_of(count: usize, random: u64) -> (usize, usize) {
    let one = random as usize % count;
    let step = if count > 1 { 1 + (random >> 32) as usize % (count - 1) } else { 0 };
    (one, (one + step) % count)
}

#[cfg(test)]
mod tests;
