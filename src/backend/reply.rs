//! Reply to decision, by the header section; with `verdict.body`, by the body too.
//!
//! An allow needs everything right, a refusal only a status line: nothing that follows could make it an allow. So framing that contradicts
//! itself, too many headers, or an `X-Session-Id` that is not the one asked about spoil an allow, while a
//! refusal stays a refusal and is only not remembered.
//!
//! What the backend adds in words goes to the host only if it is fit to be printed and sent on.

use std::time::{Duration, SystemTime};

use super::StatusSet;
use super::fields::Fields;
use super::lifetime::{Lifetime, digits, from_cache};
use super::template::{FIVE, PATH};
use crate::backend::BodyRule;
use crate::config::{Settings, TtlHeader, TtlRules};
use crate::decision::Verdict;
pub(crate) use crate::transport::ReplyHead;

/// Most headers of a reply that allows.
const MAX_HEADERS: usize = 64;
const MAX_USER_ID: usize = 256;
const MAX_LOCATION: usize = 2 * 1024;
/// `Retry-After` beyond this is taken for this: a backend must not switch itself off for a day.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(1);

/// The part of the settings that replies are judged by.
#[derive(Clone, Debug)]
pub(crate) struct ReplyRules {
    pub(crate) allow: StatusSet,
    pub(crate) unavailable: StatusSet,
    pub(crate) body: Option<BodyRule>,
    pub(crate) ttl: TtlRules,
    /// The names of the headers that requests carry.
    sent: Box<[Box<str>]>,
}

impl ReplyRules {
    pub(crate) fn new(settings: &Settings) -> Self {
        let own = settings.headers.iter().map(super::HeaderField::name);
        // Of several URLs, each must send it.
        let authorized = settings.backends.iter().all(|url| url.authorization.is_some());
        let authorization = authorized.then_some("Authorization");
        Self {
            allow: settings.allow_statuses.clone(),
            unavailable: settings.unavailable_statuses.clone(),
            body: settings.verdict_body.clone(),
            ttl: settings.ttl.clone(),
            sent: ["Host"].into_iter().chain(authorization).chain(FIVE).chain(own).map(Into::into).collect(),
        }
    }

    /// Whether a header is the same in all requests that the answer would be given for: `Vary` may name these.
    fn asks_by(&self, name: &[u8], subject: Subject<'_>) -> bool {
        self.sent.iter().any(|sent| sent.as_bytes().eq_ignore_ascii_case(name))
            && (subject.path_in_key || !name.eq_ignore_ascii_case(PATH.as_bytes()))
    }
}

/// Why a status denies.
pub(crate) const REFUSING_STATUS: &str = "the status is not in allow_statuses";

/// What the backend said.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one reply")]
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    /// For a person: why this verdict.
    pub(crate) reason: &'static str,
    pub(crate) status: u16,
    /// For how long it may be reused, before jitter; zero: not at all.
    pub(crate) ttl: Duration,
    /// During an outage it may not be repeated (`must-revalidate`, where Cache-Control decided).
    pub(crate) must_revalidate: bool,
    /// May be remembered as a last known decision: status rules, `no-store`, Vary, Age, X-Cache.
    pub(crate) storable: bool,
    pub(crate) user_id: Option<Box<str>>,
    pub(crate) location: Option<Box<str>>,
    pub(crate) max_sessions: u32,
    pub(crate) unique: bool,
    /// A `user_id` or `location` was there and not fit to pass on (counted).
    pub(crate) dropped_text: bool,
    /// … it was the `user_id`: it names nobody.
    pub(crate) dropped_user: bool,
    /// The reply came out of a cache (Age, X-Cache; counted).
    pub(crate) from_cache: bool,
    /// A refusal whose rest breaks a rule: it stands, but its connection is not to be used again.
    pub(crate) broken: bool,
    pub(crate) basis: Basis,
}

/// Why an answer lives as long as it does, for a person who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Basis {
    /// The header of the reply that decided, and what it said before any bound; `None`: `ttl.allow` or `ttl.deny` did.
    pub(crate) said: Option<(TtlHeader, Duration)>,
    /// Why nothing of it may be kept, whatever was said.
    pub(crate) unkept: Option<&'static str>,
}

/// What follows from a reply's header section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Decided; the body does not matter.
    Decided(Answer),
    /// An allowing status, and `verdict.body` is set: ask [`judge_body`] with the complete body.
    NeedsBody(Undecided),
    /// One of `unavailable_statuses`: an outage. `broken`: its connection is not to be used again.
    Unavailable { retry_after: Option<Duration>, broken: bool },
    /// An allowing status in a header section that breaks the rules.
    Malformed(&'static str),
}

/// The answer if the body allows, and for how long the answer lives if it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Undecided {
    pub(crate) allow: Answer,
    deny_ttl: Duration,
}

/// What a reply is held against of the question.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) session_id: &'a [u8],
    /// The path is part of the key.
    pub(crate) path_in_key: bool,
}

/// Judges a header section. `now` dates `Retry-After`.
pub(crate) fn judge(
    rules: &ReplyRules,
    subject: Subject<'_>,
    head: &ReplyHead<'_>,
    now: impl FnOnce() -> SystemTime,
) -> Judgement {
    let fields = Fields::of(head);
    let broken = broken(subject.session_id, &fields);
    if rules.unavailable.contains(head.status) {
        return Judgement::Unavailable { retry_after: retry_after(&fields, now), broken: broken.is_some() };
    }
    let allows = rules.allow.contains(head.status);
    if allows && let Some(why) = broken {
        return Judgement::Malformed(why);
    }

    let from_cache = from_cache(head.status, &fields);
    let lifetime = Lifetime::of(&fields, &rules.ttl, |name| rules.asks_by(name, subject));
    // An error is no decision to hold on to: a 404 or 429 with max-age would cut off a viewer.
    let unkept = if !allows && !matches!(head.status, 401 | 403) {
        Some("a refusing status other than 401 and 403 may be a passing error")
    } else if broken.is_some() {
        broken
    } else if from_cache {
        Some("it came out of a cache between us and the backend")
    } else if lifetime.varies {
        Some("Vary names what is no part of the question")
    } else {
        lifetime.no_store.then_some("Cache-Control says no-store or private")
    };
    let storable = unkept.is_none();
    let ttl = |default: Duration, bound: Duration| {
        if storable { lifetime.said.unwrap_or(default).min(bound) } else { Duration::ZERO }
    };
    let allow_ttl = ttl(rules.ttl.allow, rules.ttl.max);
    let deny_ttl = ttl(rules.ttl.deny, rules.ttl.max.min(rules.ttl.max_deny));

    let user_id = Text::of(fields.first("X-UserId"), fits_user_id);
    let location = Text::of(fields.first("X-Location").or_else(|| fields.first("Location")), fits_location);
    let answer = Answer {
        verdict: if allows { Verdict::Allow } else { Verdict::Deny },
        reason: if allows { "allowed by the backend" } else { REFUSING_STATUS },
        status: head.status,
        ttl: if allows { allow_ttl } else { deny_ttl },
        must_revalidate: lifetime.must_revalidate,
        storable,
        dropped_text: user_id.dropped || location.dropped,
        dropped_user: user_id.dropped,
        user_id: user_id.text,
        location: location.text,
        max_sessions: fields
            .first("X-Max-Sessions")
            .and_then(digits)
            .map_or(0, |number| u32::try_from(number).unwrap_or(u32::MAX)),
        unique: fields
            .first("X-Unique")
            .is_some_and(|value| value == b"1" || value.eq_ignore_ascii_case(b"true")),
        from_cache,
        broken: broken.is_some(),
        basis: Basis { said: lifetime.by.zip(lifetime.said), unkept },
    };
    if allows && rules.body.is_some() {
        Judgement::NeedsBody(Undecided { allow: answer, deny_ttl })
    } else {
        Judgement::Decided(answer)
    }
}

/// The answer, after its complete body was read. Of a body over `verdict.max_body`, any part will do: what
/// is cut does not hold, so pass an empty one.
pub(crate) fn judge_body(rules: &ReplyRules, undecided: Undecided, body: &[u8]) -> Answer {
    let Undecided { allow, deny_ttl } = undecided;
    if rules.body.as_ref().is_some_and(|rule| rule.holds(body)) {
        allow
    } else {
        Answer { verdict: Verdict::Deny, reason: "verdict.body does not hold", ttl: deny_ttl, ..allow }
    }
}

/// Why this header section cannot be trusted to be the answer to what was asked.
fn broken(session_id: &[u8], fields: &Fields<'_>) -> Option<&'static str> {
    if fields.count() > MAX_HEADERS {
        return Some("more than 64 headers");
    }
    let mut lengths = fields.all("Content-Length");
    if let Some(length) = lengths.next() {
        if digits(length).is_none_or(|length| length == u64::MAX) {
            return Some("a Content-Length that is not a number");
        }
        if lengths.next().is_some() {
            return Some("Content-Length twice");
        }
        if fields.first("Transfer-Encoding").is_some() {
            return Some("both Content-Length and Transfer-Encoding");
        }
    }
    fields
        .any("X-Session-Id", |answered| answered != session_id)
        .then_some("an X-Session-Id that was not asked about")
}

fn retry_after(fields: &Fields<'_>, now: impl FnOnce() -> SystemTime) -> Option<Duration> {
    let value = fields.first("Retry-After")?;
    let wait = if let Some(seconds) = digits(value) {
        Duration::from_secs(seconds)
    } else {
        let date = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
        date.duration_since(now()).unwrap_or_default()
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// Foreign text, if it may be passed on.
struct Text {
    text: Option<Box<str>>,
    dropped: bool,
}

impl Text {
    fn of(value: Option<&[u8]>, fits: impl Fn(&str) -> bool) -> Self {
        match value {
            None | Some([]) => Self { text: None, dropped: false },
            Some(value) => {
                let visible = value.iter().all(u8::is_ascii_graphic);
                let text = std::str::from_utf8(value).ok().filter(|text| visible && fits(text));
                Self { text: text.map(Into::into), dropped: text.is_none() }
            }
        }
    }
}

fn fits_user_id(text: &str) -> bool {
    text.len() <= MAX_USER_ID
}

fn fits_location(text: &str) -> bool {
    let begins =
        |scheme: &str| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    // Browsers read `/\` as `//`: another host.
    let on_this_host = text.starts_with('/') && !text[1..].starts_with(['/', '\\']);
    text.len() <= MAX_LOCATION && (begins("http:") || begins("https:") || on_this_host)
}

#[cfg(test)]
mod tests;
