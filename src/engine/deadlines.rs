//! When the time of each waiting check is up. Nearly all have the same time from their submit on, so that the newest is the
//! last: those are a list, in which coming and going costs a few steps and no memory. What does not fit there (a shorter
//! time than the check before it) is sorted.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::chains::{Chain, Chains};

/// By the slots of the ledger.
#[derive(Default)]
pub(super) struct Deadlines {
    /// Of those in the list.
    times: Vec<Option<Instant>>,
    list: Chain,
    links: Chains,
    sorted: BTreeSet<(Instant, u32)>,
}

impl Deadlines {
    /// A slot has one deadline at a time.
    pub(super) fn insert(&mut self, deadline: Instant, slot: u32) {
        if self.list.last().is_some_and(|last| deadline < self.of(last)) {
            self.sorted.insert((deadline, slot));
            return;
        }
        if self.times.len() <= slot as usize {
            self.times.resize(slot as usize + 1, None);
        }
        self.times[slot as usize] = Some(deadline);
        self.links.append(&mut self.list, slot);
    }

    pub(super) fn remove(&mut self, deadline: Instant, slot: u32) {
        match self.times.get_mut(slot as usize).and_then(Option::take) {
            Some(_) => self.links.remove(&mut self.list, slot),
            None => {
                self.sorted.remove(&(deadline, slot));
            }
        }
    }

    /// The next, and whose it is.
    pub(super) fn first(&self) -> Option<(Instant, u32)> {
        let listed = self.list.first().map(|slot| (self.of(slot), slot));
        listed.into_iter().chain(self.sorted.first().copied()).min()
    }

    fn of(&self, slot: u32) -> Instant {
        self.times[slot as usize].expect("who is in the list has one")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Against a plain set, whatever comes and goes.
    #[test]
    fn the_next_is_the_earliest_whatever_comes_and_goes() {
        let began = Instant::now();
        let (mut deadlines, mut reference) = (Deadlines::default(), BTreeSet::new());
        let mut random = 7_u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        let mut waiting: Vec<Option<Instant>> = vec![None; 50];
        for step in 0..20_000_u64 {
            let slot = draw(50) as u32;
            match waiting[slot as usize].take() {
                Some(deadline) => {
                    deadlines.remove(deadline, slot);
                    reference.remove(&(deadline, slot));
                }
                None => {
                    // Mostly one after the other, some at the same time, some sooner.
                    let after = [step, step / 10 * 10, draw(20_000)][draw(3) as usize];
                    let deadline = began + Duration::from_millis(after);
                    waiting[slot as usize] = Some(deadline);
                    deadlines.insert(deadline, slot);
                    reference.insert((deadline, slot));
                }
            }
            let (next, expected) = (deadlines.first(), reference.first());
            assert_eq!(next.map(|(at, _)| at), expected.map(|(at, _)| *at), "step {step}");
            assert!(next.is_none_or(|next| reference.contains(&next)));
        }
    }

    #[test]
    fn the_usual_checks_are_listed_and_not_sorted() {
        let began = Instant::now();
        let mut deadlines = Deadlines::default();
        for slot in 0..100 {
            deadlines.insert(began + Duration::from_secs(u64::from(slot)), slot);
        }
        assert!(deadlines.sorted.is_empty());
        deadlines.insert(began, 100);
        assert_eq!((deadlines.sorted.len(), deadlines.first()), (1, Some((began, 0))));
    }
}
