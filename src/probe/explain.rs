//! Which rules led to one decision, each as a sentence.
//!
//! The sentences are made of the configuration's public values and of the protocol's words. What a client or a backend
//! wrote is in none of them, nor is a URL beyond its host and port; only [`Explanation::key`] holds what the client sent.

use std::fmt;
use std::time::Duration;

use crate::backend::Answer;
use crate::check::Question;
use crate::config::{BackendMode, Enforce, Settings, TtlHeader, show_duration};
use crate::decision::{Cause, Verdict};
use crate::engine::{Attempt, MOST_PLACES, Outage, Policy, most_sessions};

/// What became of an attempt that was given up.
pub(super) const NOT_WAITED_FOR: &str = "its answer was not waited for";

/// Why an engine would decide so. `Debug` shows how long the values of the key are.
#[derive(Default)]
#[non_exhaustive]
pub struct Explanation {
    /// What makes two checks the same question, so that they share one exchange and one decision: the field's name and its
    /// value. Secrets among them.
    pub key: Vec<(&'static str, Vec<u8>)>,
    /// Each rule that applied: what it is about (`key`, `endpoint`, `verdict`, `outage`, `reuse`, `sessions`), and what it
    /// made of the check, in a sentence. No secrets.
    pub rules: Vec<(&'static str, String)>,
}

impl fmt::Debug for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key: Vec<_> = self.key.iter().map(|(field, value)| (field, value.len())).collect();
        f.debug_struct("Explanation").field("key", &key).field("rules", &self.rules).finish()
    }
}

pub(super) fn explanation(
    policy: &Policy,
    question: &Question,
    attempts: &[Attempt],
    result: &Result<Answer, Outage>,
) -> Explanation {
    let mut rules = Rules { settings: &policy.settings, told: Vec::new() };
    rules.tell("key", question.covers());
    rules.endpoints(policy, attempts, result);
    match result {
        Ok(answer) => {
            rules.verdict(answer);
            rules.reuse(answer);
            rules.sessions(answer);
        }
        Err(outage) => rules.outage(outage),
    }
    let key = question.key_fields().into_iter().map(|(field, value)| (field.name(), value.to_vec()));
    Explanation { key: key.collect(), rules: rules.told }
}

struct Rules<'a> {
    settings: &'a Settings,
    told: Vec<(&'static str, String)>,
}

impl Rules<'_> {
    fn tell(&mut self, about: &'static str, what: impl Into<String>) {
        self.told.push((about, what.into()));
    }

    fn endpoints(&mut self, policy: &Policy, attempts: &[Attempt], result: &Result<Answer, Outage>) {
        let several = policy.order.len() > 1;
        let mode = match self.settings.backend_mode {
            BackendMode::Failover => "failover: in this order, as long as there is an outage",
            BackendMode::Balance => "balance: an engine begins with the less busy of two picked at random",
            BackendMode::Any => "any: all at once, the first that allows decides",
        };
        if several {
            self.tell("endpoint", format!("backend.mode = {mode}"));
        }
        for &endpoint in &policy.order {
            let label = policy.health[endpoint].label();
            let requests = || attempts.iter().filter(|attempt| attempt.endpoint == endpoint);
            let Some(last) = requests().next_back() else {
                let why = match result {
                    Ok(_) => "another had answered",
                    Err(_) => "the time, or the three requests of a check, were used up",
                };
                self.tell("endpoint", format!("{label}: not asked, {why}"));
                continue;
            };
            let count = requests().count();
            let again = requests().filter(|attempt| attempt.again).count();
            let times = match (count, count - again) {
                (1, _) => "asked once".to_owned(),
                (_, 1) => format!("asked {count} times, again on a fresh connection"),
                (_, places) if again == 0 => {
                    format!("asked {count} times, at {places} addresses of its name")
                }
                (_, places) => format!(
                    "asked {count} times, at {places} addresses of its name and again on a fresh connection"
                ),
            };
            let heard = match &last.failure[..] {
                _ if last.given_up => NOT_WAITED_FOR.to_owned(),
                "" => "answered, which closes its breaker".to_owned(),
                _ => self.no_answer(result, endpoint),
            };
            self.tell("endpoint", format!("{label}: {times}, {heard}"));
        }
        if policy.shadow.is_some() {
            self.tell("endpoint", "shadow.url: asked by an engine alone, and never acted upon");
        }
        self.tell(
            "endpoint",
            "the breakers of a running engine are its own; alta_auth_breaker_open in its metrics shows them",
        );
    }

    /// What an endpoint's silence does to its breaker.
    fn no_answer(&self, result: &Result<Answer, Outage>, endpoint: usize) -> String {
        let rules = self.settings.breaker;
        match result {
            Err(outage) if outage.endpoint == endpoint && !outage.cause.is_outage() => {
                "no answer for want of our own resources, which is not held against it".to_owned()
            }
            _ if rules.failures == 0 => {
                "no answer; breaker.failures = 0: it is asked all the same".to_owned()
            }
            _ => format!(
                "no answer: one outage of the {} in a row, of different clients, that open its breaker for {} (breaker.failures, breaker.cooldown)",
                rules.failures,
                show_duration(rules.cooldown)
            ),
        }
    }

    fn verdict(&mut self, answer: &Answer) {
        let Settings { allow_statuses, unavailable_statuses, verdict_body, .. } = self.settings;
        let status = answer.status;
        if allow_statuses.contains(status) {
            self.tell("verdict", format!("status {status} is one of allow_statuses ({allow_statuses})"));
            match (verdict_body, answer.verdict) {
                (None, _) => {}
                (Some(_), Verdict::Allow) => {
                    self.tell("verdict", "the body holds what verdict.body asks for");
                }
                (Some(_), Verdict::Deny) => self.tell("verdict", format!("{}: refused", answer.reason)),
            }
        } else {
            let unavailable = match unavailable_statuses {
                set if set.is_empty() => "unavailable_statuses, which is empty".to_owned(),
                set => format!("unavailable_statuses ({set})"),
            };
            self.tell(
                "verdict",
                format!("status {status} is not one of allow_statuses ({allow_statuses}), nor of {unavailable}: refused"),
            );
        }
        if answer.broken {
            self.tell(
                "verdict",
                "the rest of the reply breaks a rule: its refusal stands, its connection is closed",
            );
        }
    }

    fn outage(&mut self, outage: &Outage) {
        let Settings { default_action, unavailable_statuses, last_known, .. } = self.settings;
        let cause = outage.cause.name();
        match (outage.cause, outage.http_status) {
            (Cause::Status, Some(status)) => self.tell(
                "verdict",
                format!("status {status} is one of unavailable_statuses ({unavailable_statuses}): an outage, no refusal"),
            ),
            (Cause::Overload | Cause::Internal, _) => {
                self.tell("verdict", format!("{cause}: the fault is on our side, and nobody was asked to the end"));
            }
            _ => self.tell("verdict", format!("{cause}: no answer is an outage, no refusal")),
        }
        if !outage.cause.is_outage() && !self.settings.fail_open_overload {
            self.tell("outage", "fail_open.overload = off: denied, whatever default_action says");
            return;
        }
        self.tell("outage", format!("default_action = {default_action}, as nothing better is known"));
        if !outage.cause.is_outage() {
            return;
        }
        if self.settings.fail_open_corroborated && *default_action == Verdict::Allow {
            self.tell(
                "outage",
                "fail_open = corroborated: an engine denies unless the breaker is open or another client met an outage within 10 s, and nobody an answer since",
            );
        }
        if *last_known > Duration::ZERO {
            let window = show_duration(*last_known);
            self.tell(
                "outage",
                format!("last_known = {window}: an engine repeats what the backend said last, if its time ended no longer ago"),
            );
        }
    }

    fn reuse(&mut self, answer: &Answer) {
        let settings = self.settings;
        let ttl = &settings.ttl;
        if let Some(why) = answer.basis.unkept {
            return self.tell("reuse", format!("none, each check asks: {why}"));
        }
        if settings.memory.decisions == 0 {
            return self.tell("reuse", "none, each check asks: memory.max_decisions = 0");
        }
        let allows = answer.verdict == Verdict::Allow;
        let (default, (limit, bound)) = if allows {
            (("ttl.allow", ttl.allow), ("ttl.max", ttl.max))
        } else {
            let max_deny = ("ttl.max_deny", ttl.max_deny);
            (("ttl.deny", ttl.deny), if ttl.max < ttl.max_deny { ("ttl.max", ttl.max) } else { max_deny })
        };
        let said = match answer.basis.said {
            Some((header, said)) => {
                let says = match header {
                    _ if !said.is_zero() => &format!(" and says {}", seconds(said)),
                    TtlHeader::XAuthDuration => ", and is 0 or no number of seconds",
                    TtlHeader::CacheControl => ", and gives no time: no max-age above 0, or no-cache",
                };
                self.tell("reuse", format!("{} decides{says}", header_name(header)));
                said
            }
            None => {
                let (key, value) = default;
                let listened: Vec<_> = ttl.headers.iter().map(|&header| header_name(header)).collect();
                let listened = if listened.is_empty() { "none".to_owned() } else { listened.join(", ") };
                self.tell(
                    "reuse",
                    format!(
                        "no header of ttl.headers ({listened}) is there: {key} = {}",
                        show_duration(value)
                    ),
                );
                value
            }
        };
        if said > bound {
            self.tell("reuse", format!("cut to {} by {limit}", show_duration(bound)));
        }
        if answer.ttl.is_zero() {
            self.tell("reuse", "no time: each check asks");
        } else if ttl.jitter && answer.ttl >= Duration::from_secs(10) {
            self.tell("reuse", "ttl.jitter = on: an engine takes off up to 5 %, at most 30 s, at random");
        }
        if settings.expired_keep && allows && !answer.ttl.is_zero() {
            let idle = show_duration(settings.expired_idle);
            self.tell(
                "reuse",
                format!("expired = keep: renewed while the session is in use (expired.idle = {idle})"),
            );
        }
        self.tell(
            "outage",
            match (answer.must_revalidate, settings.last_known) {
                (_, Duration::ZERO) => "last_known = 0: in a later outage this is not repeated".to_owned(),
                (true, _) => "the reply says must-revalidate: in a later outage this is not repeated".to_owned(),
                (false, window) => format!(
                    "last_known = {0}: in a later outage this is repeated, until {0} after its time has ended",
                    show_duration(window)
                ),
            },
        );
    }

    fn sessions(&mut self, answer: &Answer) {
        if answer.dropped_text {
            self.tell("reply", "a user id or location is not fit to be passed on, and left out");
        }
        let most = most_sessions(answer.max_sessions, answer.unique);
        if most == 0 || answer.verdict == Verdict::Deny {
            return;
        }
        let effect = match (self.settings.sessions.enforce, answer.user_id.is_some()) {
            (None, _) => "sessions.enforce = off: the host is told, nobody is refused for it",
            (Some(_), false) => {
                "without an X-UserId that is fit to be passed on there is nobody to count sessions of"
            }
            (Some(_), true) if most as usize > MOST_PLACES => "more than 4096 are taken for no limit",
            (Some(Enforce::Newest), true) => "sessions.enforce = newest: one more than that is refused",
            (Some(Enforce::Oldest), true) => "sessions.enforce = oldest: one more than that ends the oldest",
        };
        let said = match answer.max_sessions {
            0 => "X-Unique without a limit in X-Max-Sessions is a limit of 1".to_owned(),
            most => format!("X-Max-Sessions is {most}"),
        };
        self.tell("sessions", format!("{said}; {effect}"));
    }
}

fn header_name(header: TtlHeader) -> &'static str {
    match header {
        TtlHeader::XAuthDuration => "X-AuthDuration",
        TtlHeader::CacheControl => "Cache-Control",
    }
}

/// What a header says may be beyond all units.
fn seconds(said: Duration) -> String {
    format!("{} s", said.as_secs())
}
