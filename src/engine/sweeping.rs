//! When what is remembered is of no use any more: one I/O thread's list of sessions to look into, by time.
//!
//! Coarse on purpose: a session is looked into up to [`STEP`] after its decision has ended. Whether a decision still
//! holds is judged at each use, so nothing is wrong meanwhile; this only gives back the memory.

use std::collections::BTreeMap;

/// Milliseconds. One wake-up a step at most, and few steps to keep.
const STEP: u64 = 16_000;

#[derive(Default)]
pub(crate) struct Sweeping {
    /// By the number of the step at whose end they are due.
    due: BTreeMap<u64, Vec<u64>>,
    noted: usize,
}

/// Notes beyond as many as decisions may be remembered. A session whose note finds no room is taken out by what comes after
/// it, as without this list; only a flood makes so many.
const SPARE: usize = 65_536;

impl Sweeping {
    /// The session has a decision that is of no use from `at` on, in milliseconds of the engine's time. `most`: how many
    /// decisions may be remembered.
    pub(crate) fn note(&mut self, session: u64, at: u64, most: usize) {
        if self.noted < most.saturating_add(SPARE) {
            self.noted += 1;
            self.due.entry(at / STEP + 1).or_default().push(session);
        }
    }

    /// A session that is due.
    pub(crate) fn next(&mut self, now: u64) -> Option<u64> {
        loop {
            let mut first = self.due.first_entry()?;
            if *first.key() * STEP > now {
                return None;
            }
            match first.get_mut().pop() {
                Some(session) => {
                    self.noted -= 1;
                    return Some(session);
                }
                None => drop(first.remove()),
            }
        }
    }

    /// When the next one is.
    pub(crate) fn next_at(&self) -> Option<u64> {
        self.due.first_key_value().map(|(step, _)| step * STEP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_comes_once_and_not_before_its_time() {
        let mut sweeping = Sweeping::default();
        assert_eq!(sweeping.next_at(), None);
        for (session, at) in [(1, 100_000), (2, 20_000), (3, 31_999)] {
            sweeping.note(session, at, 9);
        }
        assert_eq!(sweeping.next_at(), Some(32_000));
        assert_eq!(sweeping.next(31_999), None);
        let mut early = [sweeping.next(32_000), sweeping.next(32_000)];
        early.sort_unstable();
        assert_eq!(early, [Some(2), Some(3)]);
        assert_eq!(sweeping.next(99_999), None);
        assert_eq!(sweeping.next(u64::MAX), Some(1));
        assert_eq!((sweeping.next(u64::MAX), sweeping.next_at()), (None, None));
    }

    #[test]
    fn a_flood_does_not_make_it_grow_without_end() {
        let mut sweeping = Sweeping::default();
        for session in 0..200_000 {
            sweeping.note(session, 86_400_000 + session, 1_000);
        }
        let mut taken = 0;
        while sweeping.next(u64::MAX).is_some() {
            taken += 1;
        }
        assert_eq!(taken, 1_000 + SPARE);
        sweeping.note(1, 0, 1_000);
        assert_eq!(sweeping.next(u64::MAX), Some(1), "there is room again");
    }
}
