//! What a stand-in does, and how we know. A stand-in proves something about the real product only as far as
//! this is known, so each rule carries its table; `--explain` prints it and a test holds it to the behaviour.

use std::fmt::Write as _;

/// How we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Basis {
    /// Seen on the real program.
    Measured,
    /// The vendor says so.
    Documented,
    /// Nothing public says; a guess that the engine must not depend on.
    Assumed,
}

/// One thing that a stand-in does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fact {
    /// A header or a rule; unique within its table, and the name under which it is tested.
    pub(crate) subject: &'static str,
    pub(crate) behaviour: &'static str,
    pub(crate) basis: Basis,
}

/// One line of a table.
pub(crate) const fn fact(subject: &'static str, behaviour: &'static str, basis: Basis) -> Fact {
    Fact { subject, behaviour, basis }
}

/// Aligned columns for a terminal.
pub(crate) fn table(facts: &[Fact]) -> String {
    let width = facts.iter().map(|fact| fact.subject.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for fact in facts {
        let basis = match fact.basis {
            Basis::Measured => "measured",
            Basis::Documented => "documented",
            Basis::Assumed => "assumed",
        };
        let _ = writeln!(text, "{:<width$}  {basis:<10}  {}", fact.subject, fact.behaviour);
    }
    text
}
