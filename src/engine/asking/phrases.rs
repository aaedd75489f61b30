//! What decisions without an answer say in words. In an outage very many say the same: the newest is kept, and shared.

use crate::decision::{Decision, Texts};

#[derive(Default)]
pub(crate) struct Phrases {
    newest: Option<Texts>,
    /// Used again and again.
    detail: String,
}

impl Phrases {
    /// The decision with an outage's detail, which says what was done about it.
    pub(crate) fn explain(&mut self, mut decision: Decision, outage: &str, done: &str) -> Decision {
        self.detail.clear();
        for part in [outage, "; ", done, ": ", decision.verdict.name()] {
            self.detail.push_str(part);
        }
        let known = decision.texts.take();
        let newest = self.newest.as_ref().filter(|newest| known.is_none() && newest.is_detail(&self.detail));
        let texts = match (newest, &known) {
            (Some(newest), _) => newest.clone(),
            (None, None) => self.newest.insert(Texts::new("", "", &self.detail)).clone(),
            (None, Some(known)) => Texts::new(known.user_id(), known.location(), &self.detail),
        };
        decision.texts = Some(texts);
        decision
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::{Cause, Origin, Verdict};

    fn decision(verdict: Verdict) -> Decision {
        Decision::new(verdict, Origin::Default, Cause::Timeout, "a reason")
    }

    #[test]
    fn what_is_said_again_is_said_with_the_same_bytes_and_nothing_else_is() {
        let mut phrases = Phrases::default();
        let first = phrases.explain(decision(Verdict::Deny), "a: timeout", "default action");
        assert_eq!(first.detail(), "a: timeout; default action: deny");
        let bytes = |decision: &Decision| decision.detail().as_ptr();
        let again = phrases.explain(decision(Verdict::Deny), "a: timeout", "default action");
        assert_eq!((again.detail(), bytes(&again)), (first.detail(), bytes(&first)));
        for (verdict, outage, done, says) in [
            (Verdict::Allow, "a: timeout", "default action", "a: timeout; default action: allow"),
            (Verdict::Deny, "b: timeout", "default action", "b: timeout; default action: deny"),
            (Verdict::Deny, "a: timeout", "revoked", "a: timeout; revoked: deny"),
            (Verdict::Deny, "a", "default action", "a; default action: deny"),
        ] {
            assert_eq!(phrases.explain(decision(verdict), outage, done).detail(), says);
        }
        assert_eq!(first.detail(), "a: timeout; default action: deny");
    }

    #[test]
    fn what_is_known_of_one_is_not_said_of_another() {
        let mut phrases = Phrases::default();
        let known = Decision { texts: Some(Texts::new("u1", "/there", "")), ..decision(Verdict::Allow) };
        let told = phrases.explain(known, "a: timeout", "last known");
        assert_eq!((told.user_id(), told.location()), ("u1", "/there"));
        assert_eq!(told.detail(), "a: timeout; last known: allow");
        let other = phrases.explain(decision(Verdict::Allow), "a: timeout", "last known");
        assert_eq!((other.user_id(), other.location()), ("", ""));
        assert_eq!(other.detail(), "a: timeout; last known: allow");
    }
}
