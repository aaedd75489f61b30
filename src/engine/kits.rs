//! What a flight takes with it (the question, how far its asking has come), used again by the next one: in steady state
//! a flight allocates nothing.

use std::rc::Rc;

use super::asking::Asking;
use crate::check::Question;

/// Kept at most.
const KEPT: usize = 256;

pub(super) struct Kit {
    pub(super) question: Rc<Question>,
    pub(super) asking: Rc<Asking>,
}

#[derive(Default)]
pub(super) struct Kits(Vec<Kit>);

impl Kits {
    /// For a new flight, and the memory of the question that was in it.
    pub(super) fn pack(&mut self, question: Question) -> (Kit, Option<Vec<u8>>) {
        match self.0.pop() {
            Some(mut kit) => {
                let known = Rc::get_mut(&mut kit.question).expect("only what nobody else holds is kept");
                let before = std::mem::replace(known, question).into_bytes();
                (kit, Some(before))
            }
            None => (Kit { question: Rc::new(question), asking: Rc::default() }, None),
        }
    }

    /// The flight is over. What others still hold of it is theirs.
    pub(super) fn unpack(&mut self, mut kit: Kit) {
        if self.0.len() < KEPT
            && Rc::get_mut(&mut kit.question).is_some()
            && let Some(asking) = Rc::get_mut(&mut kit.asking)
        {
            asking.reset();
            self.0.push(kit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Check, Rules};
    use crate::config::ScopeRule;

    fn question(session_id: &[u8], query: &[u8]) -> Question {
        let rules = Rules { scope: ScopeRule::Path, path_check: true, path_in_key: false };
        Question::new(&Check { session_id, query, ..Check::default() }, rules).expect("a valid check")
    }

    #[test]
    fn a_kit_is_used_again_and_holds_nothing_of_the_flight_before() {
        let mut kits = Kits::default();
        let (kit, memory) = kits.pack(question(b"s1", b"token=1"));
        assert_eq!(memory, None);
        let (long, short) = (question(b"a-longer-session", b"token=of-the-first"), question(b"s", b""));
        let address = Rc::as_ptr(&kit.question);
        kits.unpack(kit);
        for next in [long, short] {
            let expected = next.key().to_vec();
            let (kit, memory) = kits.pack(next);
            assert_eq!((Rc::as_ptr(&kit.question), kit.question.key()), (address, &expected[..]));
            assert!(memory.is_some() && !kit.asking.written() && kit.asking.attempts().is_empty());
            kits.unpack(kit);
        }
    }

    #[test]
    fn what_somebody_still_holds_is_not_used_again() {
        let mut kits = Kits::default();
        let (kit, _) = kits.pack(question(b"s1", b"token=1"));
        let held = Rc::clone(&kit.question);
        kits.unpack(kit);
        let (kit, _) = kits.pack(question(b"s2", b"token=2"));
        assert_eq!(held.session_id(), b"s1");
        assert!(!Rc::ptr_eq(&held, &kit.question));
        let asking = Rc::clone(&kit.asking);
        kits.unpack(kit);
        let (kit, _) = kits.pack(question(b"s3", b""));
        assert!(!Rc::ptr_eq(&asking, &kit.asking));
    }

    #[test]
    fn so_many_are_kept_and_no_more() {
        let mut kits = Kits::default();
        let packed: Vec<_> = (0..=KEPT).map(|_| kits.pack(question(b"s", b"")).0).collect();
        for kit in packed {
            kits.unpack(kit);
        }
        assert_eq!(kits.0.len(), KEPT);
    }
}
