//! Two answers to one question, held against each other: by what a host, or this engine, would act upon.
//!
//! Of an allow that is the user, the limit of sessions, `X-Unique`, the location and the lifetime; of a refusal the location
//! alone. What is said of it for the log is statuses and words of ours: nothing that a client or a backend wrote.

use std::time::Duration;

use crate::backend::Answer;
use crate::decision::Verdict;
use crate::observe::Outcome;

pub(super) fn compared(ours: &Answer, its: &Answer) -> Outcome {
    match (ours.verdict, its.verdict) {
        (Verdict::Allow, Verdict::Deny) => Outcome::Denied,
        (Verdict::Deny, Verdict::Allow) => Outcome::Allowed,
        _ if differences(ours, its).is_empty() => Outcome::Agreed,
        _ => Outcome::Differed,
    }
}

/// For the log: how the two differ.
pub(super) fn told(ours: &Answer, its: &Answer) -> String {
    let verb = |answer: &Answer| if answer.verdict == Verdict::Allow { "allows" } else { "refuses" };
    if ours.verdict == its.verdict {
        let differences = differences(ours, its).join(", ");
        return format!("the shadow {} as the backend does, and differs in: {differences}", verb(its));
    }
    format!(
        "the shadow {} what the backend {}: status {} ({}) against status {} ({})",
        verb(its),
        verb(ours),
        its.status,
        its.reason,
        ours.status,
        ours.reason
    )
}

fn differences(ours: &Answer, its: &Answer) -> Vec<&'static str> {
    let allows = ours.verdict == Verdict::Allow;
    [
        ("user id", allows && ours.user_id != its.user_id),
        ("limit of sessions", allows && ours.max_sessions != its.max_sessions),
        ("X-Unique", allows && ours.unique != its.unique),
        ("location", ours.location != its.location),
        ("lifetime", allows && !is_close(ours.ttl, its.ttl)),
    ]
    .into_iter()
    .filter_map(|(what, differs)| differs.then_some(what))
    .collect()
}

/// A lifetime that counts down to the same end may be a little shorter where it was asked for later.
fn is_close(one: Duration, other: Duration) -> bool {
    const LEAST: Duration = Duration::from_secs(5);
    if one.is_zero() != other.is_zero() {
        return false;
    }
    one.abs_diff(other) <= (one.max(other) / 10).max(LEAST)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::backend::{Judgement, ReplyHead, ReplyRules, Subject, judge};
    use crate::config::Config;

    fn answer(status: u16, lines: Lines<'_>) -> Answer {
        let mut config = Config::new();
        config.set("backend.url", "http://127.0.0.1:1/").unwrap();
        config.set("default_action", "deny").unwrap();
        let rules = ReplyRules::new(&config.settings().unwrap());
        let headers: Vec<_> = lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        let subject = Subject { session_id: b"s", path_in_key: true };
        match judge(&rules, subject, &ReplyHead { status, headers: &headers }, || UNIX_EPOCH) {
            Judgement::Decided(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    type Lines<'a> = &'a [(&'a str, &'a str)];
    /// Ours, its own, what comes of it, what is said of it.
    type Case<'a> = (u16, Lines<'a>, u16, Lines<'a>, Outcome, &'a str);

    #[test]
    fn verdicts_come_first_then_what_a_host_acts_upon() {
        let full = [("X-UserId", "canary"), ("X-Max-Sessions", "2"), ("X-AuthDuration", "600")];
        let cases: [Case<'_>; 13] = [
            (200, &[], 200, &[], Outcome::Agreed, ""),
            (200, &full, 200, &full, Outcome::Agreed, ""),
            (403, &[], 401, &[("X-UserId", "x")], Outcome::Agreed, ""),
            (200, &[], 403, &[], Outcome::Denied, "the shadow refuses what the backend allows: status 403"),
            (302, &[], 200, &[], Outcome::Allowed, "the shadow allows what the backend refuses: status 200"),
            (200, &[("X-UserId", "canary")], 200, &[("X-UserId", "x")], Outcome::Differed, "in: user id"),
            (200, &[("X-Max-Sessions", "2")], 200, &[], Outcome::Differed, "in: limit of sessions"),
            (200, &[("X-Unique", "1")], 200, &[], Outcome::Differed, "in: X-Unique"),
            (302, &[("Location", "/canary")], 302, &[("Location", "/x")], Outcome::Differed, "in: location"),
            (200, &[("X-AuthDuration", "600")], 200, &[], Outcome::Differed, "in: lifetime"),
            (
                200,
                &[("X-AuthDuration", "600")],
                200,
                &[("X-AuthDuration", "539")],
                Outcome::Differed,
                "lifetime",
            ),
            (200, &[("X-AuthDuration", "600")], 200, &[("X-AuthDuration", "541")], Outcome::Agreed, ""),
            (200, &full, 200, &[], Outcome::Differed, "in: user id, limit of sessions, lifetime"),
        ];
        for (status, lines, its_status, its_lines, outcome, said) in cases {
            let (ours, its) = (answer(status, lines), answer(its_status, its_lines));
            assert_eq!(compared(&ours, &its), outcome, "{lines:?} {its_lines:?}");
            let line = told(&ours, &its);
            assert!(line.contains(said) && !line.contains("canary"), "{line}");
        }
    }
}
