//! The question: may this client have this?
//!
//! A [`Check`] is what a host hands over: borrowed bytes, unverified. A [`Question`] is the same, validated,
//! copied and laid out so that its first part *is* the key: two checks share a decision only if those bytes
//! are equal. After a check has become a question nothing about its content can fail any more.
//!
//! Rules applied here, before the key is made, so that key and wire agree:
//! * CR, LF and NUL anywhere are refused; every other control byte but HTAB becomes a space.
//! * The values of headers lose leading and trailing space (RFC 9110 section 5.5).
//! * A user agent is cut at its limit; every other field over its limit is refused.
//! * A fragment in the query is dropped.

mod layout;
mod path;
mod scan;

pub(crate) use layout::session_id;

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use crate::config::ScopeRule;

/// Fixed limits, in bytes. They are part of the protocol's safety and not configurable: servers differ in
/// what they do with longer requests, down to closing the connection without a word.
pub mod limits {
    /// `session_id`, `ip`, `origin` and `scope`, each.
    pub const SHORT_FIELD: usize = 1024;
    /// `path`.
    pub const PATH: usize = 4 * 1024;
    /// `query`.
    pub const QUERY: usize = 16 * 1024;
    /// `user_agent`; what is longer is cut here, not refused.
    pub const USER_AGENT: usize = 2 * 1024;
    /// Parameters of the merged query. PHP warns from 1,000 on, and a warning can turn its 403 into 200.
    pub const PARAMETERS: usize = 256;
    /// The whole request head as sent, after encoding and templates.
    pub const REQUEST: usize = 32 * 1024;
}

/// One question, as the host asks it. Every field may hold any bytes; what is not known stays empty. `Debug` shows how
/// long each is, and what is in none.
#[derive(Clone, Copy, Default)]
pub struct Check<'a> {
    /// Required. Sent as `X-Session-Id`.
    pub session_id: &'a [u8],
    /// The client's address. Sent as `X-Real-Ip`.
    pub ip: &'a [u8],
    /// What the host will serve, after its own normalisation; no query. Sent as `X-Real-Path`.
    pub path: &'a [u8],
    /// The client's raw query, without `?`. Sent byte for byte, but for bytes no request target may hold.
    pub query: &'a [u8],
    /// `scheme://host[:port]` of the client's URL. Sent as `X-Real-Origin`.
    pub origin: &'a [u8],
    /// Sent as `X-Real-Ua`.
    pub user_agent: &'a [u8],
    /// What the decision covers, e.g. a channel. Empty: see the configuration key `scope`.
    pub scope: &'a [u8],
    /// The longest this check may take, from submit to decision; clamped to the configured `timeout`.
    pub timeout: Option<Duration>,
    /// Not to be answered from memory: the backend is asked, and its answer replaces what was remembered. An
    /// exchange that is under way is joined all the same; its answer is at most `timeout` old.
    pub fresh: bool,
}

impl fmt::Debug for Check<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("session_id", &self.session_id.len())
            .field("ip", &self.ip.len())
            .field("path", &self.path.len())
            .field("query", &self.query.len())
            .field("origin", &self.origin.len())
            .field("user_agent", &self.user_agent.len())
            .field("scope", &self.scope.len())
            .field("timeout", &self.timeout)
            .field("fresh", &self.fresh)
            .finish()
    }
}

/// A field of a check, as named in errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// `session_id`
    SessionId,
    /// `ip`
    Ip,
    /// `path`
    Path,
    /// `query`
    Query,
    /// `origin`
    Origin,
    /// `user_agent`
    UserAgent,
    /// `scope`
    Scope,
    /// The request as a whole, merged and encoded.
    Request,
}

/// Why a check was refused at submit. Nothing was retained; the host refuses the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid {
    field: Field,
    why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Empty,
    TooLong { len: usize, limit: usize },
    LineBreak,
    Ambiguous(&'static str),
    TooManyParameters { count: usize },
    BadHeader,
}

impl Invalid {
    pub(crate) fn new(field: Field, why: Why) -> Self {
        Self { field, why }
    }

    /// Which field is at fault.
    pub fn field(&self) -> Field {
        self.field
    }
}

impl Field {
    /// The field's name in the C ABI.
    pub fn name(self) -> &'static str {
        match self {
            Self::SessionId => "session_id",
            Self::Ip => "ip",
            Self::Path => "path",
            Self::Query => "query",
            Self::Origin => "origin",
            Self::UserAgent => "user_agent",
            Self::Scope => "scope",
            Self::Request => "request",
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = self.field.name();
        match self.why {
            Why::Empty => write!(f, "{field} is empty; every check needs the id of its client's session"),
            Why::TooLong { len, limit } => {
                write!(f, "{field} has {len} bytes, the limit is {limit}; refuse the client")
            }
            Why::LineBreak => write!(f, "{field} has a CR, LF or NUL byte; refuse the client"),
            Why::Ambiguous(what) => {
                write!(
                    f,
                    "{field} has {what}; pass the path that will be served, normalised, or set path.check = off"
                )
            }
            Why::TooManyParameters { count } => write!(
                f,
                "{field} would have {count} parameters, the limit is {}; refuse the client",
                limits::PARAMETERS
            ),
            Why::BadHeader => {
                write!(f, "{field} would carry a header value with CR, LF or NUL; refuse the client")
            }
        }
    }
}

impl std::error::Error for Invalid {}

/// What a check is judged by before it is accepted; from the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) scope: ScopeRule,
    pub(crate) path_check: bool,
    /// A template sends the path, so under a scope it is still part of the question.
    pub(crate) path_in_key: bool,
}

// The kind of scope is the key's first byte, so that a host's scope can never equal a path.
const KIND_PATH: u8 = 0;
const KIND_DIRECTORY: u8 = 1;
const KIND_SESSION: u8 = 2;
const KIND_HOST: u8 = 3;
const KIND_WITH_PATH: u8 = 0x80;

const FIELDS: usize = 7;
const HEADER: usize = 1 + 2 * FIELDS;

/// A validated check: kind of scope, seven lengths, session id, ip, query, origin, user agent, scope, path. The
/// key is all of it, or all but the path where the scope stands in its place.
///
/// In one allocation of its own, or, as a [`Draft`], in a buffer that its thread uses again and again.
pub(crate) struct Question<B = Vec<u8>> {
    bytes: B,
    key_len: u32,
    wishes: Wishes,
}

/// Whether a check is to be asked anew, and its own timeout in microseconds, 35 minutes at most, which is longer than any
/// configuration allows; 0: none. Small, as a question is moved a dozen times.
#[derive(Clone, Copy)]
struct Wishes(u32);

impl Wishes {
    const FRESH: u32 = 1 << 31;
    const LONGEST: u32 = Self::FRESH - 1;

    fn of(check: &Check<'_>) -> Self {
        let microseconds = |timeout: Duration| {
            u32::try_from(timeout.as_micros()).unwrap_or(Self::LONGEST).clamp(1, Self::LONGEST)
        };
        let fresh = if check.fresh { Self::FRESH } else { 0 };
        Self(fresh | check.timeout.map_or(0, microseconds))
    }

    fn fresh(self) -> bool {
        self.0 & Self::FRESH != 0
    }

    fn timeout(self) -> Option<Duration> {
        let microseconds = self.0 & Self::LONGEST;
        (microseconds > 0).then(|| Duration::from_micros(microseconds.into()))
    }
}

/// A question that may be answered at once and then needs no allocation.
pub(crate) type Draft<'a> = Question<&'a [u8]>;

thread_local! {
    /// Where this thread's drafts are written. As long as the longest so far, which the limits bound. A thread that has ended
    /// so far that it has no such variable any more writes each anew.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Draft<'_> {
    /// Validates `check` and hands it to `then`. What the whole request may not be (its length, its parameters)
    /// is judged by [`crate::backend::RequestPlan::admit`], which knows the endpoints.
    pub(crate) fn of<T>(
        check: &Check<'_>,
        rules: Rules,
        then: impl FnOnce(Draft<'_>) -> T,
    ) -> Result<T, Invalid> {
        let mut bytes = BUFFER.try_with(Cell::take).unwrap_or_default();
        let result = layout::write(&mut bytes, check, rules).map(|key_len| {
            let bytes = bytes.as_slice();
            then(Question { bytes, key_len: key_len as u32, wishes: Wishes::of(check) })
        });
        let _ = BUFFER.try_with(|buffer| buffer.set(bytes));
        result
    }

    /// The same in memory of its own.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn keep(&self) -> Question {
        self.keep_in(Vec::new())
    }

    /// The same in memory that was used before.
    pub(crate) fn keep_in(&self, mut bytes: Vec<u8>) -> Question {
        bytes.clear();
        bytes.reserve_exact(self.bytes.len());
        bytes.extend_from_slice(self.bytes);
        Question { bytes, key_len: self.key_len, wishes: self.wishes }
    }
}

impl Question {
    /// The memory, for another one.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
impl Question {
    /// Validates and copies.
    pub(crate) fn new(check: &Check<'_>, rules: Rules) -> Result<Self, Invalid> {
        Draft::of(check, rules, |draft| draft.keep())
    }
}

impl<B: AsRef<[u8]>> Question<B> {
    /// The check's own, if it has one.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.wishes.timeout()
    }

    /// Not from memory.
    pub(crate) fn fresh(&self) -> bool {
        self.wishes.fresh()
    }

    /// What makes two checks the same question. Compared in full, always.
    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes.as_ref()[..self.key_len as usize]
    }

    fn field(&self, index: usize) -> &[u8] {
        let bytes = self.bytes.as_ref();
        let start = HEADER + (0..index).map(|field| len_at(bytes, field)).sum::<usize>();
        let end = if index == FIELDS - 1 { bytes.len() } else { start + len_at(bytes, index) };
        &bytes[start..end]
    }

    /// Session id, address, query, origin, user agent, scope and path, in one pass.
    pub(crate) fn texts(&self) -> [&[u8]; FIELDS] {
        let bytes = self.bytes.as_ref();
        let mut rest = &bytes[HEADER..];
        let mut texts = [&[][..]; FIELDS];
        for (field, text) in texts[..FIELDS - 1].iter_mut().enumerate() {
            (*text, rest) = rest.split_at(len_at(bytes, field));
        }
        texts[FIELDS - 1] = rest;
        texts
    }

    /// Its bytes, all fields together, and those of the query among them.
    pub(crate) fn lengths(&self) -> (usize, usize) {
        let bytes = self.bytes.as_ref();
        (bytes.len(), len_at(bytes, 2))
    }

    pub(crate) fn session_id(&self) -> &[u8] {
        self.field(0)
    }
    pub(crate) fn ip(&self) -> &[u8] {
        self.field(1)
    }
    pub(crate) fn query(&self) -> &[u8] {
        self.field(2)
    }
    pub(crate) fn origin(&self) -> &[u8] {
        self.field(3)
    }
    pub(crate) fn user_agent(&self) -> &[u8] {
        self.field(4)
    }
    /// As the host asked, cleaned: to be judged by other rules.
    pub(crate) fn check(&self) -> Check<'_> {
        let named = self.bytes.as_ref()[0] & !KIND_WITH_PATH == KIND_HOST;
        Check {
            session_id: self.session_id(),
            ip: self.ip(),
            path: self.path(),
            query: self.query(),
            origin: self.origin(),
            user_agent: self.user_agent(),
            scope: if named { self.field(5) } else { b"" },
            timeout: self.timeout(),
            fresh: self.fresh(),
        }
    }

    /// Whether the path is part of the key.
    pub(crate) fn path_in_key(&self) -> bool {
        self.bytes.as_ref()[0] & KIND_WITH_PATH != 0
    }

    /// What the key is made of, field by field.
    pub(crate) fn key_fields(&self) -> Vec<(Field, &[u8])> {
        let kind = self.bytes.as_ref()[0];
        let scope = matches!(kind & !KIND_WITH_PATH, KIND_HOST | KIND_DIRECTORY).then_some(Field::Scope);
        let path = self.path_in_key().then_some(Field::Path);
        let always = [Field::SessionId, Field::Ip, Field::Query, Field::Origin, Field::UserAgent];
        let value = |field| match field {
            Field::SessionId => self.session_id(),
            Field::Ip => self.ip(),
            Field::Query => self.query(),
            Field::Origin => self.origin(),
            Field::UserAgent => self.user_agent(),
            Field::Path => self.path(),
            Field::Scope | Field::Request => self.scope(),
        };
        always.into_iter().chain(scope).chain(path).map(|field| (field, value(field))).collect()
    }

    /// For a person: what a decision covers.
    pub(crate) fn covers(&self) -> &'static str {
        let kind = self.bytes.as_ref()[0];
        match (kind & !KIND_WITH_PATH, self.path_in_key()) {
            (KIND_PATH, _) => "scope = path: a decision covers this path alone",
            (KIND_HOST, false) => {
                "a decision covers all that the host calls by this scope, whatever the path"
            }
            (KIND_DIRECTORY, false) => "scope = directory: a decision covers every path in this directory",
            (_, false) => "scope = session: a decision covers every path of this session",
            (_, true) => "a template sends the path, so that a decision covers this path alone",
        }
    }

    /// The scope the host named, or what the configuration makes of the path; empty for `session`.
    pub(crate) fn scope(&self) -> &[u8] {
        if self.bytes.as_ref()[0] & !KIND_WITH_PATH == KIND_PATH { self.path() } else { self.field(5) }
    }
    pub(crate) fn path(&self) -> &[u8] {
        self.field(6)
    }
}

fn len_at(bytes: &[u8], field: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[1 + 2 * field], bytes[2 + 2 * field]]))
}

fn breaks_line(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n' | 0)
}

#[cfg(test)]
mod tests;
