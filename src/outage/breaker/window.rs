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
/// A window is so many parts, of which the oldest leaves it when another begins.
const PARTS: usize = 5;
const PART: Duration = WINDOW.checked_div(PARTS as u32).expect("it is not 0");

#[derive(Default)]
pub(super) struct Window {
    /// By the hash of its address.
    clients: HashMap<u64, Tally>,
    /// Those remembered are one in two to the power of this.
    halved: u32,
    began: Option<Instant>,
    /// When those were forgotten last who have left the window, and more were taken in where there was room.
    tidied: u64,
}

struct Tally {
    /// The newest.
    part: u64,
    of: [Met; PARTS],
}

#[derive(Clone, Copy, Default)]
struct Met {
    outages: u32,
    answers: u32,
}

impl Window {
    pub(super) fn answered(&mut self, now: Instant, client: u64) {
        if let Some(met) = self.met(now, client) {
            met.answers += 1;
        }
    }

    /// Whether it is one of those who are counted.
    pub(super) fn failed(&mut self, now: Instant, client: u64) -> bool {
        let met = self.met(now, client);
        let counts = met.is_some();
        if let Some(met) = met {
            met.outages += 1;
        }
        counts
    }

    /// Whether outages are so many percent, and at least so many clients have met one.
    pub(super) fn is_over(&self, now: Instant, rate: u32, least: usize) -> bool {
        let part = self.part(now);
        let (mut clients, mut with_outages, mut of_outages) = (0_u32, 0_usize, 0.0);
        for met in self.clients.values().filter_map(|tally| tally.until(part)) {
            clients += 1;
            with_outages += usize::from(met.outages > 0);
            of_outages += f64::from(met.outages) / (f64::from(met.outages) + f64::from(met.answers));
        }
        rate > 0
            && with_outages << self.halved >= least
            && of_outages * 100.0 >= f64::from(rate) * f64::from(clients)
    }

    /// `None`: others stand for it.
    fn met(&mut self, now: Instant, client: u64) -> Option<&mut Met> {
        self.began.get_or_insert(now);
        let part = self.part(now);
        if self.clients.len() >= MOST_CLIENTS || self.tidied < part {
            self.tidy(part);
        }
        if client.leading_zeros() < self.halved {
            return None;
        }
        let tally = self.clients.entry(client).or_insert(Tally { part, of: [Met::default(); PARTS] });
        Some(tally.at(part))
    }

    fn part(&self, now: Instant) -> u64 {
        let passed = self.began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        (passed.as_millis() / PART.as_millis()) as u64
    }

    fn tidy(&mut self, part: u64) {
        self.tidied = part;
        self.clients.retain(|_, tally| tally.until(part).is_some());
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
    fn at(&mut self, part: u64) -> &mut Met {
        for begun in self.part + 1..=part.min(self.part + PARTS as u64) {
            self.of[place(begun)] = Met::default();
        }
        // Another thread may have read the clock before.
        self.part = self.part.max(part);
        &mut self.of[place(self.part)]
    }

    /// What it met in the window that ends with this part; `None`: nothing.
    fn until(&self, part: u64) -> Option<Met> {
        let oldest = (part + 1).saturating_sub(PARTS as u64);
        let all =
            (0..PARTS as u64).filter_map(|back| self.part.checked_sub(back)).filter(|&part| part >= oldest);
        let sum = all.map(|part| self.of[place(part)]).fold(Met::default(), |sum, met| Met {
            outages: sum.outages + met.outages,
            answers: sum.answers + met.answers,
        });
        (sum.outages + sum.answers > 0).then_some(sum)
    }
}

fn place(part: u64) -> usize {
    (part % PARTS as u64) as usize
}
