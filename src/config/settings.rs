//! The configuration, checked and typed: what the engine works with.

use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{BackendUrl, ShadowSettings, read, table};
use crate::backend::{BodyRule, HeaderField, ParamField, StatusSet};
use crate::decision::Verdict;
use crate::observe::LogLevel;
use crate::outage::Rules;

/// Everything the operator decided, validated as a whole. Shared read-only by every thread of an engine.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key that is on or off")]
pub(crate) struct Settings {
    /// `backend.url`: at least one, in order of preference.
    pub(crate) backends: Vec<BackendUrl>,
    pub(crate) backend_mode: BackendMode,
    /// `backend.preset`
    pub(crate) preset: &'static str,
    pub(crate) hedge: HedgeSettings,
    /// `any.deny = first`
    pub(crate) any_deny_first: bool,
    /// `default_action`
    pub(crate) default_action: Verdict,
    pub(crate) timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) scope: ScopeRule,
    pub(crate) path_check: bool,
    pub(crate) allow_statuses: StatusSet,
    pub(crate) unavailable_statuses: StatusSet,
    pub(crate) verdict_body: Option<BodyRule>,
    /// `verdict.max_body`, bytes.
    pub(crate) verdict_max_body: usize,
    pub(crate) ttl: TtlRules,
    /// `last_known`; zero: an outage gets the default action at once.
    pub(crate) last_known: Duration,
    /// `refresh`: whether a decision may be asked for again before it has expired.
    pub(crate) refresh: bool,
    /// `refresh.ahead`, percent.
    pub(crate) refresh_ahead: u32,
    /// `expired = keep`
    pub(crate) expired_keep: bool,
    pub(crate) expired_idle: Duration,
    pub(crate) memory: MemoryBounds,
    pub(crate) watch: WatchSettings,
    pub(crate) sessions: SessionSettings,
    pub(crate) per_ip: PerIp,
    /// `protect_params`: names a client may not send, besides those of the URL and of `param.*`.
    pub(crate) protect_params: Vec<String>,
    /// `param.NAME`, ordered by name.
    pub(crate) params: Vec<ParamField>,
    /// `header.NAME`, ordered by name.
    pub(crate) headers: Vec<HeaderField>,
    pub(crate) pool: PoolSettings,
    pub(crate) http_version: HttpVersion,
    pub(crate) http_lane: HttpLane,
    /// `http.pipeline`: requests at once on one connection.
    pub(crate) http_pipeline: usize,
    pub(crate) tls: TlsSettings,
    /// `tls.mixed`: https and http in one list.
    pub(crate) tls_mixed: bool,
    /// `unix.peer_uid`
    pub(crate) unix_peer_uid: Option<u32>,
    pub(crate) dns_refresh: Duration,
    pub(crate) inbox_capacity: usize,
    pub(crate) threads_io: usize,
    pub(crate) threads_callback: usize,
    pub(crate) breaker: Rules,
    /// `fail_open = corroborated`
    pub(crate) fail_open_corroborated: bool,
    /// `overload = default`
    pub(crate) overload_default: bool,
    /// `fail_open.overload`
    pub(crate) fail_open_overload: bool,
    pub(crate) shadow: ShadowSettings,
    /// These are a shadow's, made by `of_shadow`.
    pub(crate) is_shadow: bool,
    pub(crate) log_level: LogLevel,
    /// What decisions depend on: what is remembered under one shape means nothing under another.
    pub(crate) shape: Shape,
    /// For the log, once at each start: what is allowed and yet worth a second look. No secrets.
    pub(crate) warnings: Vec<String>,
}

impl Settings {
    /// What the table of keys is applied to: nothing in here is a default, each key's row brings its own.
    pub(super) fn blank() -> Self {
        Self {
            backends: Vec::new(),
            backend_mode: BackendMode::Failover,
            preset: "custom",
            hedge: HedgeSettings { after: HedgeAfter::Never, max: 0 },
            any_deny_first: false,
            default_action: Verdict::Deny,
            timeout: Duration::ZERO,
            connect_timeout: Duration::ZERO,
            scope: ScopeRule::Path,
            path_check: true,
            allow_statuses: StatusSet::default(),
            unavailable_statuses: StatusSet::default(),
            verdict_body: None,
            verdict_max_body: 0,
            ttl: TtlRules {
                allow: Duration::ZERO,
                deny: Duration::ZERO,
                max: Duration::ZERO,
                max_deny: Duration::ZERO,
                headers: Vec::new(),
                jitter: true,
            },
            last_known: Duration::ZERO,
            refresh: true,
            refresh_ahead: 0,
            expired_keep: false,
            expired_idle: Duration::ZERO,
            memory: MemoryBounds { decisions: 0, bytes: 0 },
            watch: WatchSettings { max: 0, max_rate: 0, interval: Duration::ZERO },
            per_ip: PerIp { rate: None, max_addresses: 0 },
            sessions: SessionSettings { enforce: None, idle: Duration::ZERO },
            protect_params: Vec::new(),
            params: Vec::new(),
            headers: Vec::new(),
            pool: PoolSettings { max_connections: 0, idle_timeout: Duration::ZERO, max_age: Duration::ZERO },
            http_version: HttpVersion::Auto,
            http_lane: HttpLane::Hyper,
            http_pipeline: 1,
            tls: TlsSettings { verify: true, ..TlsSettings::default() },
            tls_mixed: false,
            unix_peer_uid: None,
            dns_refresh: Duration::ZERO,
            inbox_capacity: 0,
            threads_io: 0,
            threads_callback: 0,
            breaker: Rules { failures: 0, rate: 0, cooldown: Duration::ZERO, max_cooldown: Duration::ZERO },
            fail_open_corroborated: false,
            overload_default: false,
            fail_open_overload: false,
            shadow: ShadowSettings::default(),
            is_shadow: false,
            log_level: LogLevel::Warn,
            shape: Shape::default(),
            warnings: Vec::new(),
        }
    }
}

impl Settings {
    /// Which shape a key belongs to: what a shadow is asked shapes no decision.
    pub(super) fn shape_of(&mut self, row: &table::Key) -> &mut Shape {
        if row.section == table::SHADOW { &mut self.shadow.shape } else { &mut self.shape }
    }
}

/// `backend.mode`: how several URLs are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackendMode {
    Failover,
    Balance,
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HedgeSettings {
    pub(crate) after: HedgeAfter,
    /// `hedge.max`, percent of the exchanges.
    pub(crate) max: u32,
}

/// `hedge.after`: when a second request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HedgeAfter {
    Never,
    Fixed(Duration),
    /// When 19 of 20 would have been answered.
    P95,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScopeRule {
    Path,
    Directory,
    Session,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TtlRules {
    /// `ttl.allow`, `ttl.deny`: when the backend says nothing.
    pub(crate) allow: Duration,
    pub(crate) deny: Duration,
    /// `ttl.max`, `ttl.max_deny`: upper bounds on whatever was said.
    pub(crate) max: Duration,
    pub(crate) max_deny: Duration,
    /// `ttl.headers`, in order; the first that is present decides alone.
    pub(crate) headers: Vec<TtlHeader>,
    /// `ttl.jitter`: false when it is 0.
    pub(crate) jitter: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TtlHeader {
    XAuthDuration,
    CacheControl,
}

/// `memory.max_decisions`, `memory.max_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryBounds {
    pub(crate) decisions: usize,
    pub(crate) bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WatchSettings {
    pub(crate) max: usize,
    /// A second, engine-wide.
    pub(crate) max_rate: usize,
    pub(crate) interval: Duration,
}

/// `limit.per_ip`, `limit.max_addresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PerIp {
    pub(crate) rate: Option<Rate>,
    pub(crate) max_addresses: usize,
}

/// So many in each of these; all of them may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) count: NonZeroU32,
    pub(crate) per: Duration,
}

impl Settings {
    /// For a line of the log: who is asked, and what an outage comes to.
    pub(crate) fn in_brief(&self) -> String {
        let backends: Vec<_> = self.backends.iter().map(BackendUrl::label).collect();
        let action = self.default_action.name();
        format!("asks {}, default action {action}", backends.join(" and "))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per.as_secs() {
            3600 => "h",
            60 => "m",
            _ => "s",
        };
        write!(f, "{}/{per}", self.count)
    }
}

/// `sessions.enforce`: who has to go where a user has no place left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enforce {
    Newest,
    Oldest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionSettings {
    /// `None`: the backend's limits are reported, not enforced.
    pub(crate) enforce: Option<Enforce>,
    pub(crate) idle: Duration,
}

/// The keys that a reload may not change without forgetting what is remembered, as text with what the files named
/// hold. Some are secrets, so it is not shown.
#[derive(Clone, Default)]
pub(crate) struct Shape {
    keys: Vec<(String, String)>,
    /// What the files of TLS hold. `None`: it could not be read.
    files: Vec<Option<Vec<u8>>>,
}

impl Shape {
    pub(super) fn push(&mut self, key: &str, value: &str) {
        self.keys.push((key.to_owned(), value.trim().to_owned()));
    }

    /// The file that the key names. One that cannot be read is an error where it is used.
    pub(super) fn push_file(&mut self, path: &Path) {
        self.files.push(read::pem(path).ok());
    }
}

impl PartialEq for Shape {
    /// What could not be read is like nothing: nobody knows what was used in its place.
    fn eq(&self, other: &Self) -> bool {
        self.keys == other.keys && self.files == other.files && self.files.iter().all(Option::is_some)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shape")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolSettings {
    /// Per URL, engine-wide.
    pub(crate) max_connections: usize,
    pub(crate) idle_timeout: Duration,
    pub(crate) max_age: Duration,
}

/// `http.lane`: who speaks HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpLane {
    Hyper,
    Wire,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    /// https: what ALPN agrees on; http and unix: 1.1.
    Auto,
    Http11,
    /// https only.
    Http2,
    /// http and unix only: HTTP/2 with prior knowledge.
    H2c,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsSettings {
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) client_cert: Option<PathBuf>,
    pub(crate) client_key: Option<PathBuf>,
    pub(crate) server_name: Option<String>,
    pub(crate) verify: bool,
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::config::Config;

    #[test]
    fn a_file_of_tls_that_cannot_be_read_is_like_no_other_and_not_like_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let mut config = Config::new();
        for (key, value) in [
            ("backend.url", "http://a/"),
            ("default_action", "deny"),
            ("tls.ca_file", path.to_str().unwrap()),
        ] {
            config.set(key, value).unwrap();
        }
        let shape = || config.settings().unwrap().shape;
        let unread = shape();
        assert!(unread != shape());
        fs::write(&path, b"\xE9").unwrap();
        let read = shape();
        assert!(read != unread && read == shape());
        fs::write(&path, b"\xE8").unwrap();
        assert!(read != shape());
    }
}
