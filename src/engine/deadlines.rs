//! When the time of each waiting check is up. Nearly all have the same time from their submit on, so that the newest is the
//! last: those are a list, in which coming and going costs a few steps and no memory. What does not fit there (a shorter
//! time than the check before it) is sorted.

use std::collections::BTreeSet;

use tokio::time::Instant;

const NONE: u32 = u32::MAX;

/// By the slots of the ledger.
pub(super) struct Deadlines {
    places: Vec<Option<Place>>,
    first: u32,
    last: u32,
    sorted: BTreeSet<(Instant, u32)>,
}

#[derive(Clone, Copy)]
struct Place {
    deadline: Instant,
    previous: u32,
    next: u32,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { places: Vec::new(), first: NONE, last: NONE, sorted: BTreeSet::new() }
    }
}

impl Deadlines {
    /// A slot has one deadline at a time.
    pub(super) fn insert(&mut self, deadline: Instant, slot: u32) {
        if self.last != NONE && deadline < self.place(self.last).deadline {
            self.sorted.insert((deadline, slot));
            return;
        }
        if self.places.len() <= slot as usize {
            self.places.resize(slot as usize + 1, None);
        }
        let previous = std::mem::replace(&mut self.last, slot);
        match previous {
            NONE => self.first = slot,
            previous => self.place(previous).next = slot,
        }
        self.places[slot as usize] = Some(Place { deadline, previous, next: NONE });
    }

    pub(super) fn remove(&mut self, deadline: Instant, slot: u32) {
        let Some(Place { previous, next, .. }) = self.places.get_mut(slot as usize).and_then(Option::take)
        else {
            self.sorted.remove(&(deadline, slot));
            return;
        };
        match previous {
            NONE => self.first = next,
            previous => self.place(previous).next = next,
        }
        match next {
            NONE => self.last = previous,
            next => self.place(next).previous = previous,
        }
    }

    /// The next, and whose it is.
    pub(super) fn first(&self) -> Option<(Instant, u32)> {
        let listed = self.places.get(self.first as usize).and_then(|place| place.as_ref());
        let listed = listed.map(|place| (place.deadline, self.first));
        listed.into_iter().chain(self.sorted.first().copied()).min()
    }

    fn place(&mut self, slot: u32) -> &mut Place {
        self.places[slot as usize].as_mut().expect("links lead to slots that wait")
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
