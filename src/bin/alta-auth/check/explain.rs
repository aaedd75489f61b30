//! `--explain`: what led to the decision, for whoever is woken up by it.

use std::fmt::Write as _;

use alta_auth::{Explanation, ProbeAttempt};

use crate::human;
use crate::redact;

/// One request's time, step by step.
pub(super) fn stages(text: &mut String, attempt: &ProbeAttempt) {
    let steps: Vec<_> =
        attempt.stages.iter().map(|(doing, took)| format!("{doing} {}", human::time(*took))).collect();
    let _ = writeln!(text, "* Step by step: {}", steps.join(", "));
}

/// The key, then each rule.
pub(super) fn rules(text: &mut String, explanation: &Explanation, show_secrets: bool) {
    let _ = writeln!(text, "* Key: a check shares this exchange and this decision if it is equal in");
    for (field, value) in &explanation.key {
        // The others are shown where they are sent, too.
        let value = if *field == "query" && !show_secrets { redact::query(value) } else { value.clone() };
        let shown = if value.is_empty() { "(empty)".to_owned() } else { redact::printable(&value) };
        let _ = writeln!(text, "*   {field}: {shown}");
    }
    let _ = writeln!(text, "* Rules:");
    for (about, what) in &explanation.rules {
        let _ = writeln!(text, "*   {about}: {what}");
    }
}
