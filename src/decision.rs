//! The answer: what the host must do, who says so, and what the backend added.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What the host must do. The numbers are those of the C ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Verdict {
    /// Do not serve the client.
    Deny = 0,
    /// Serve the client.
    Allow = 1,
}

/// Who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Origin {
    /// The backend, in answer to this check or to an equal one that was under way.
    Backend = 0,
    /// The backend, earlier, and the time for which it allowed reuse has not ended.
    Memory = 1,
    /// The backend, earlier; repeated because it cannot be asked now.
    LastKnown = 2,
    /// Nobody: the operator's default action.
    Default = 3,
}

/// Why there was no answer from the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Cause {
    /// There was an answer.
    None = 0,
    /// The backend's name could not be resolved.
    Resolve = 1,
    /// No connection: refused, unreachable, or not established within `connect_timeout`.
    Connect = 2,
    /// The TLS handshake failed: certificate, name, version.
    Tls = 3,
    /// The budget ended before the answer.
    Timeout = 4,
    /// The connection was closed or reset before the first byte of an answer, or cut in a body that was needed.
    Reset = 5,
    /// The answer breaks the framing rules, or its header section is over the limit or cut short.
    Protocol = 6,
    /// The backend answered with one of `unavailable_statuses`.
    Status = 7,
    /// The breaker is open: the backend was not asked.
    BreakerOpen = 8,
    /// A local bound was reached: connections, descriptors, ports.
    Overload = 9,
    /// The engine was shut down first.
    Shutdown = 10,
    /// A defect of the library, caught.
    Internal = 11,
}

/// The answer to one check.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Decision {
    /// What to do.
    pub verdict: Verdict,
    /// Who says so.
    pub origin: Origin,
    /// Why there was no answer from the backend; [`Cause::None`] when there was one.
    pub cause: Cause,
    /// Another check's exchange answered this one.
    pub coalesced: bool,
    /// The backend sent `X-Unique: true`.
    pub unique: bool,
    /// Of a watch: nothing comes after this.
    pub last: bool,
    /// The status of the reply; `None` if no status line was received.
    pub http_status: Option<u16>,
    /// For how long this decision may be reused; zero: not at all.
    pub ttl: Duration,
    /// `X-Max-Sessions`; zero if absent or no number.
    pub max_sessions: u32,
    /// From submit to decision.
    pub latency: Duration,
    /// Names the check that this answers.
    pub ticket: u64,
    pub(crate) texts: Option<Texts>,
    pub(crate) reason: &'static str,
}

/// What a decision says in words. The bytes are shared by all checks that one exchange answered, and with what
/// is remembered of it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Texts {
    /// User id, location, detail; what follows them is somebody else's.
    bytes: Arc<[u8]>,
    user_id: u16,
    location: u16,
    detail: u16,
}

impl Texts {
    /// Views of `bytes`, which begin with a user id and a location of these lengths.
    pub(crate) fn answered(bytes: &Arc<[u8]>, user_id: u16, location: u16) -> Option<Self> {
        (user_id > 0 || location > 0).then(|| Self { bytes: Arc::clone(bytes), user_id, location, detail: 0 })
    }

    /// Each is cut at 65,535 bytes.
    pub(crate) fn new(user_id: &str, location: &str, detail: &str) -> Self {
        let cut = |text: &str| text.floor_char_boundary(usize::from(u16::MAX));
        let [user_id, location, detail] = [user_id, location, detail].map(|text| &text[..cut(text)]);
        let alone = user_id.is_empty() && location.is_empty();
        Self {
            bytes: if alone {
                detail.as_bytes().into()
            } else {
                [user_id, location, detail].concat().into_bytes().into()
            },
            user_id: user_id.len() as u16,
            location: location.len() as u16,
            detail: detail.len() as u16,
        }
    }

    /// Whether they are this detail and nothing else.
    pub(crate) fn is_detail(&self, detail: &str) -> bool {
        (self.user_id, self.location, usize::from(self.detail)) == (0, 0, detail.len())
            && &self.bytes[..detail.len()] == detail.as_bytes()
    }

    pub(crate) fn user_id(&self) -> &str {
        self.text(0, self.user_id)
    }
    pub(crate) fn location(&self) -> &str {
        self.text(usize::from(self.user_id), self.location)
    }
    fn detail(&self) -> &str {
        self.text(usize::from(self.user_id) + usize::from(self.location), self.detail)
    }
    fn text(&self, from: usize, len: u16) -> &str {
        std::str::from_utf8(&self.bytes[from..][..usize::from(len)]).expect("made of whole texts")
    }
}

/// What the backend said is a header's value, and what follows is a client's key: their lengths do.
impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Texts")
            .field("user_id", &self.user_id)
            .field("location", &self.location)
            .field("detail", &self.detail())
            .finish_non_exhaustive()
    }
}

impl Decision {
    /// A decision with nothing but its verdict, who gave it and why.
    pub(crate) fn new(verdict: Verdict, origin: Origin, cause: Cause, reason: &'static str) -> Self {
        Self {
            verdict,
            origin,
            cause,
            coalesced: false,
            unique: false,
            last: false,
            http_status: None,
            ttl: Duration::ZERO,
            max_sessions: 0,
            latency: Duration::ZERO,
            ticket: 0,
            texts: None,
            reason,
        }
    }

    /// Whether the client may be served.
    pub fn allows(&self) -> bool {
        self.verdict == Verdict::Allow
    }

    /// Whether a host that knows `known` has something to do: the verdict is another one, or the backend says something
    /// else of the viewer. Who decides, and for how long, is no news.
    pub(crate) fn is_news_to(&self, known: &Self) -> bool {
        let facts = |decision: &Self| (decision.max_sessions, decision.unique);
        let same = || {
            facts(self) == facts(known)
                && self.user_id() == known.user_id()
                && self.location() == known.location()
        };
        // A default action knows nothing of the viewer, which takes nothing back.
        self.verdict != known.verdict || (self.origin != Origin::Default && !same())
    }

    /// `X-UserId`; empty if absent or not fit to print.
    pub fn user_id(&self) -> &str {
        self.texts.as_ref().map_or("", Texts::user_id)
    }

    /// Where the backend would send the client (`X-Location`, else `Location`); empty if absent or not fit.
    pub fn location(&self) -> &str {
        self.texts.as_ref().map_or("", Texts::location)
    }

    /// One line for a log. Never holds the query or the value of a header.
    pub fn detail(&self) -> &str {
        match self.texts.as_ref().map_or("", Texts::detail) {
            "" => self.reason,
            detail => detail,
        }
    }
}

impl Verdict {
    /// As in logs, metrics and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Allow => "allow",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Origin {
    /// Every origin, in the order of its number.
    pub const ALL: [Self; 4] = [Self::Backend, Self::Memory, Self::LastKnown, Self::Default];

    /// As in logs, metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backend => "backend",
            Self::Memory => "memory",
            Self::LastKnown => "last_known",
            Self::Default => "default",
        }
    }
}

impl Cause {
    /// Every cause, in the order of its number.
    pub const ALL: [Self; 12] = [
        Self::None,
        Self::Resolve,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Reset,
        Self::Protocol,
        Self::Status,
        Self::BreakerOpen,
        Self::Overload,
        Self::Shutdown,
        Self::Internal,
    ];

    /// Whether the backend could not be asked, or did not answer as it should: not our own shortage, nor our end.
    pub fn is_outage(self) -> bool {
        match self {
            Self::Resolve
            | Self::Connect
            | Self::Tls
            | Self::Timeout
            | Self::Reset
            | Self::Protocol
            | Self::Status
            | Self::BreakerOpen => true,
            Self::None | Self::Overload | Self::Shutdown | Self::Internal => false,
        }
    }

    /// As in logs, metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::Status => "status",
            Self::BreakerOpen => "breaker_open",
            Self::Overload => "overload",
            Self::Shutdown => "shutdown",
            Self::Internal => "internal",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_in_the_order_of_their_numbers() {
        for (index, origin) in Origin::ALL.into_iter().enumerate() {
            assert_eq!(origin as usize, index);
        }
        for (index, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, index);
        }
    }
}
