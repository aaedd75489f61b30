//! What the clients of the last seconds met, for `breaker.rate`: the mean of each one's part of outages. So one client weighs
//! as much as another, however often it asks, and one whose checks all fail opens nothing to all.
//!
//! Where there are more clients than are remembered, a part of them stands for all: those whose hashes are low. The hash is
//! keyed, and nobody can choose to be among them.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::WINDOW;

/// Clients that are remembered.
const MOST_CLIENTS: usize = 1024;
/// How often those are forgotten who have left the window, and more taken in where there is room.
const TIDIED: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Window {
    /// By the hash of its address.
    clients: HashMap<u64, Tally>,
    /// Those remembered are one in two to the power of this.
    halved: u32,
    tidied: Option<Instant>,
}

struct Tally {
    since: Instant,
    outages: u32,
    answers: u32,
}

impl Window {
    pub(super) fn answered(&mut self, now: Instant, client: u64) {
        if let Some(tally) = self.tally(now, client) {
            tally.answers += 1;
        }
    }

    /// Whether it is one of those who are counted.
    pub(super) fn failed(&mut self, now: Instant, client: u64) -> bool {
        let tally = self.tally(now, client);
        let counts = tally.is_some();
        if let Some(tally) = tally {
            tally.outages += 1;
        }
        counts
    }

    /// Whether outages are so many percent, and at least so many clients have met one.
    pub(super) fn is_over(&self, now: Instant, rate: u32, least: usize) -> bool {
        let (mut clients, mut with_outages, mut part) = (0_u32, 0_usize, 0.0);
        for tally in self.clients.values().filter(|tally| tally.is_in_window(now)) {
            clients += 1;
            with_outages += usize::from(tally.outages > 0);
            part += f64::from(tally.outages) / (f64::from(tally.outages) + f64::from(tally.answers));
        }
        rate > 0
            && with_outages << self.halved >= least
            && part * 100.0 >= f64::from(rate) * f64::from(clients)
    }

    /// `None`: others stand for it.
    fn tally(&mut self, now: Instant, client: u64) -> Option<&mut Tally> {
        if self.clients.len() >= MOST_CLIENTS
            || self.tidied.is_none_or(|tidied| now.saturating_duration_since(tidied) >= TIDIED)
        {
            self.tidy(now);
        }
        if !self.takes(client) {
            return None;
        }
        let anew = || Tally { since: now, outages: 0, answers: 0 };
        let tally = self.clients.entry(client).or_insert_with(anew);
        if !tally.is_in_window(now) {
            *tally = anew();
        }
        Some(tally)
    }

    fn takes(&self, client: u64) -> bool {
        client.leading_zeros() >= self.halved
    }

    fn tidy(&mut self, now: Instant) {
        self.tidied = Some(now);
        self.clients.retain(|_, tally| tally.is_in_window(now));
        if self.clients.len() < MOST_CLIENTS / 4 {
            self.halved = self.halved.saturating_sub(1);
        }
        while self.clients.len() >= MOST_CLIENTS {
            self.halved += 1;
            let halved = self.halved;
            self.clients.retain(|client, _| client.leading_zeros() >= halved);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }
}

impl Tally {
    fn is_in_window(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < WINDOW
    }
}
