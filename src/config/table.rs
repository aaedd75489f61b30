//! The table of keys: the one place where a key is described. Parser, errors, TOML file, README and
//! `alta-auth config` derive from it; to add a key is to add a row.

use std::time::Duration;

use super::nearest::nearest;
use super::value::{Kind, quoted, shown_key};
use super::{BackendMode, Enforce, HedgeAfter, HttpLane, HttpVersion, ScopeRule};
use crate::decision::Verdict;
use crate::observe::LogLevel;

pub(super) struct Key {
    /// `param.NAME` and `header.NAME` stand for any name.
    pub(super) name: &'static str,
    pub(super) section: &'static str,
    pub(super) kind: Kind,
    pub(super) default: Default,
    pub(super) reload: Reload,
    /// One line, Markdown.
    pub(super) text: &'static str,
}

/// What becomes of a new value when a running engine is turned to another configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reload {
    /// It is refused: threads and tables would have to be made anew.
    Refused,
    /// It is taken over.
    Keeps,
    /// It is taken over, and what is remembered is forgotten: it was learned by other questions, judged by other
    /// rules, or from somebody else.
    Forgets,
}

pub(super) enum Default {
    /// There is none: the operator decides. The text says what to write.
    Required(&'static str),
    /// Nothing; an empty value means the same.
    Unset,
    Value(&'static str),
}

use Default::{Required, Unset, Value};
use Reload::{Forgets, Keeps, Refused};

/// The section of all keys that say what a shadow is.
pub(super) const SHADOW: &str = "Shadow";

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const MS: Duration = Duration::from_millis(1);
const KIB: usize = 1024;

#[rustfmt::skip] // One paragraph a key, one column a property.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "backend.url", section: "Backend", reload: Forgets,
        kind: Kind::Urls(|s, urls| s.backends = urls),
        default: Required("write one, e.g. http://127.0.0.1:6000/auth"),
        text: "Who is asked: `http://`, `https://` or `unix:/path/to.sock:/request/path`. Of several, an outage, \
               never a refusal, moves a check to the next; and before that to the next address that the URL's name stands for.",
    },
    Key {
        name: "backend.mode", section: "Backend", reload: Forgets,
        kind: Kind::Choice(&[
            ("failover", |s| s.backend_mode = BackendMode::Failover),
            ("balance", |s| s.backend_mode = BackendMode::Balance),
            ("any", |s| s.backend_mode = BackendMode::Any),
        ]),
        default: Value("failover"),
        text: "With several URLs, or several addresses of a name. `failover`: in order. `balance`: first the less busy of two \
               picked at random. `any`: all URLs at once, the first that allows decides.",
    },
    Key {
        name: "any.deny", section: "Backend", reload: Forgets,
        kind: Kind::Choice(&[("all", |s| s.any_deny_first = false), ("first", |s| s.any_deny_first = true)]),
        default: Value("all"),
        text: "With `backend.mode = any`: a refusal decides when all have answered or the time is up, or at once.",
    },
    Key {
        name: "backend.preset", section: "Backend", reload: Keeps,
        kind: Kind::Preset,
        default: Value("custom"),
        text: "Sets defaults of other keys for a known backend; what is set by hand stays.",
    },
    Key {
        name: "default_action", section: "Verdict", reload: Keeps,
        kind: Kind::Choice(&[
            ("allow", |s| s.default_action = Verdict::Allow),
            ("deny", |s| s.default_action = Verdict::Deny),
        ]),
        default: Required("write allow or deny: what a client gets when the backend gives no answer"),
        text: "What a client gets when the backend gives no answer. With `allow`, whoever can cut the network to the \
               backend lets everyone in.",
    },
    Key {
        name: "allow_statuses", section: "Verdict", reload: Forgets,
        kind: Kind::Statuses { first: 200, last: 599, put: |s, set| s.allow_statuses = set },
        default: Value("200"),
        text: "The statuses that allow, e.g. `200,204`. Any other final status denies.",
    },
    Key {
        name: "unavailable_statuses", section: "Verdict", reload: Forgets,
        kind: Kind::Statuses { first: 500, last: 599, put: |s, set| s.unavailable_statuses = set },
        default: Unset,
        text: "The statuses that count as an outage, e.g. `502,503,504` or `5xx`.",
    },
    Key {
        name: "verdict.body", section: "Verdict", reload: Forgets,
        kind: Kind::BodyRule(|s, rule| s.verdict_body = Some(rule)),
        default: Unset,
        text: "An allowing status allows only if the body, one JSON document, says so too, e.g. `json:error==0`.",
    },
    Key {
        name: "verdict.max_body", section: "Verdict", reload: Forgets,
        kind: Kind::Size { min: 1, max: 64 * KIB, put: |s, n| s.verdict_max_body = n },
        default: Value("64KiB"),
        text: "The longest body that `verdict.body` reads; a longer one denies.",
    },
    Key {
        name: "timeout", section: "Time", reload: Keeps,
        kind: Kind::Duration { min: MS, max: MINUTE, put: |s, d| s.timeout = d },
        default: Value("2s"),
        text: "The whole budget of a check, from submit to decision.",
    },
    Key {
        name: "connect_timeout", section: "Time", reload: Keeps,
        // An attempt that nobody waits for any more would only hold a place.
        kind: Kind::Duration { min: MS, max: HOUR, put: |s, d| s.connect_timeout = d.min(MINUTE) },
        default: Value("500ms"),
        text: "The longest that one connection attempt may take. A check waits for it no longer than it has time; one that takes longer \
               than `timeout` makes way when its place is needed, and has failed then. More than 1m is 1m.",
    },
    Key {
        name: "hedge.after", section: "Time", reload: Keeps,
        kind: Kind::WordOr(
            &[("off", |s| s.hedge.after = HedgeAfter::Never), ("p95", |s| s.hedge.after = HedgeAfter::P95)],
            &Kind::Duration { min: MS, max: MINUTE, put: |s, d| s.hedge.after = HedgeAfter::Fixed(d) },
        ),
        default: Value("off"),
        text: "When a backend has not answered after this, the next one is asked as well, or the only one once more on another \
               connection (over HTTP/2: in another stream), and the first answer decides. `p95`: when 19 of 20 of its last \
               answers had come. Only for backends that may be asked twice about one token.",
    },
    Key {
        name: "hedge.max", section: "Time", reload: Keeps,
        kind: Kind::Percent { max: 40, put: |s, n| s.hedge.max = n },
        default: Value("5%"),
        text: "With `hedge.after`: at most this part of the requests of the last 10 s are such second ones. The others \
               tell whether a backend answers at all: with all of them given company, one that hangs would never be left alone.",
    },
    Key {
        name: "breaker.failures", section: "Outage", reload: Keeps,
        kind: Kind::Count { min: 0, max: 1000, put: |s, n| s.breaker.failures = n },
        default: Value("5"),
        text: "Outages in a row after which a backend is left alone for a while: checks get `last_known` or `default_action` \
               at once, or go to the next URL. Outages of one client within 10 s are one: of an IPv4 address, of an IPv6 /64, of a \
               session where the host passes no address. Each address of a name is left alone by the same rule, as long as \
               others of the name are not. 0: never.",
    },
    Key {
        name: "breaker.rate", section: "Outage", reload: Keeps,
        kind: Kind::Percent { max: 100, put: |s, n| s.breaker.rate = n },
        default: Value("0%"),
        text: "The part of the last 10 s that, in outages, has the same effect, if at least `breaker.failures` clients \
               have met one; each client weighs the same, however often it asks. 0: none; nothing else goes with `breaker.failures = 0`.",
    },
    Key {
        name: "breaker.cooldown", section: "Outage", reload: Keeps,
        kind: Kind::Duration { min: MS, max: HOUR, put: |s, d| s.breaker.cooldown = d },
        default: Value("1s"),
        text: "For how long it is left alone, up to a tenth more at random; then one check finds out: of those clients whose own \
               outages opened it or who have found nothing, only if no other asks for as long again, and of the last who have \
               found nothing for twice as long. Doubles each time it finds nothing. A `Retry-After` in one of \
               `unavailable_statuses` is heeded up to 1m.",
    },
    Key {
        name: "breaker.max_cooldown", section: "Outage", reload: Keeps,
        kind: Kind::Duration { min: MS, max: HOUR, put: |s, d| s.breaker.max_cooldown = d },
        default: Value("30s"),
        text: "What doubling leads to at most; below `breaker.cooldown` nothing doubles.",
    },
    Key {
        name: "fail_open", section: "Outage", reload: Keeps,
        kind: Kind::Choice(&[
            ("each", |s| s.fail_open_corroborated = false),
            ("corroborated", |s| s.fail_open_corroborated = true),
        ]),
        default: Value("each"),
        text: "With `default_action = allow`: each check without an answer is allowed, or only where the breaker is open or \
               another client met an outage in the last 10 s too, and nobody an answer since, so that a request that only fails itself \
               is denied. Of several URLs that holds for each.",
    },
    Key {
        name: "fail_open.overload", section: "Outage", reload: Keeps,
        kind: Kind::Switch(|s, on| s.fail_open_overload = on),
        default: Value("off"),
        text: "Whether `default_action` also answers a local overload or a defect of the library; off: they deny.",
    },
    Key {
        name: "overload", section: "Outage", reload: Refused,
        kind: Kind::Choice(&[
            ("refuse", |s| s.overload_default = false),
            ("default", |s| s.overload_default = true),
        ]),
        default: Value("refuse"),
        text: "What becomes of a check beyond `inbox.capacity`: it is not accepted, or it is decided at once as any local \
               overload (deny, unless `fail_open.overload = on`), for up to as many again.",
    },
    Key {
        name: "limit.per_ip", section: "Outage", reload: Keeps,
        kind: Kind::Rate(|s, rate| s.per_ip.rate = rate),
        default: Value("off"),
        text: "How many requests to the backend the checks of one client address may cause: `20/s` lets 20 through at once, then \
               one each 50 ms. A check over it is denied (OVERLOAD), whatever `default_action` and `fail_open.overload` say. Memory \
               hits, checks that join another's request and those that an open breaker stops do not count. IPv6: a /64 is one address, and one of \
               NAT64 is its IPv4 address. All checks without `ip` count as one address. Mind that many viewers may share one.",
    },
    Key {
        name: "limit.max_addresses", section: "Outage", reload: Keeps,
        kind: Kind::Count { min: 2, max: 16 * 1024 * 1024, put: |s, n| s.per_ip.max_addresses = n },
        default: Value("65536"),
        text: "With `limit.per_ip`: the most addresses that are told apart, at some 40 bytes each. Beyond it those that were \
               quiet for longest begin anew.",
    },
    Key {
        name: "scope", section: "Request", reload: Forgets,
        kind: Kind::Choice(&[
            ("path", |s| s.scope = ScopeRule::Path),
            ("directory", |s| s.scope = ScopeRule::Directory),
            ("session", |s| s.scope = ScopeRule::Session),
        ]),
        default: Value("path"),
        text: "What a decision covers where a check names no scope: its path, the path up to the last `/`, encoded \
               ones included (good for HLS), or all that a session plays.",
    },
    Key {
        name: "path.check", section: "Request", reload: Forgets,
        kind: Kind::Switch(|s, on| s.path_check = on),
        default: Value("on"),
        text: "Refuse paths that host and backend could read differently: `?`, `#`, `\\` or a dot segment, plain or encoded, and an encoded NUL.",
    },
    Key {
        name: "protect_params", section: "Request", reload: Forgets,
        kind: Kind::Names(|s, names| s.protect_params = names),
        default: Unset,
        text: "Query parameters that a client may not send, besides those of the URL and of `param.NAME`.",
    },
    Key {
        name: "param.NAME", section: "Request", reload: Forgets,
        kind: Kind::Param(|s, field| s.params.push(field)),
        default: Unset,
        text: "Adds a query parameter that no client can override. `{ip}`, `{path}`, `{path.N}`, `{session_id}`, \
               `{origin}`, `{user_agent}`, `{scope}` and `{query.X}` are filled in. `@/path` reads the value from a file at start. An empty value takes away one that \
               `backend.preset` sets.",
    },
    Key {
        name: "header.NAME", section: "Request", reload: Forgets,
        kind: Kind::Header(|s, field| s.headers.push(field)),
        default: Unset,
        text: "Adds a header, e.g. an API key, filled in like `param.NAME`. `@/path` reads the value from a file at start.",
    },
    Key {
        name: "ttl.headers", section: "Reuse", reload: Forgets,
        kind: Kind::TtlHeaders,
        default: Value("x-authduration,cache-control"),
        text: "The reply's headers that say for how long a decision may be reused; the first that is present decides \
               alone. Empty: none is listened to.",
    },
    Key {
        name: "ttl.allow", section: "Reuse", reload: Forgets,
        kind: Kind::Duration { min: Duration::ZERO, max: LONGEST_TTL, put: |s, d| s.ttl.allow = d },
        default: Value("0"),
        text: "For how long an allow may be reused when the backend does not say.",
    },
    Key {
        name: "ttl.deny", section: "Reuse", reload: Forgets,
        kind: Kind::Duration { min: Duration::ZERO, max: DAY, put: |s, d| s.ttl.deny = d },
        default: Value("0"),
        text: "For how long a refusal may be reused when the backend does not say.",
    },
    Key {
        name: "ttl.max", section: "Reuse", reload: Keeps,
        kind: Kind::Duration { min: Duration::ZERO, max: LONGEST_TTL, put: |s, d| s.ttl.max = d },
        default: Value("24h"),
        text: "Upper bound on every reuse, whoever asked for it. And on how long a revoked session is denied while the backend \
               gives no answer; then it gets `default_action` again.",
    },
    Key {
        name: "ttl.max_deny", section: "Reuse", reload: Forgets,
        kind: Kind::Duration { min: Duration::ZERO, max: DAY, put: |s, d| s.ttl.max_deny = d },
        default: Value("1m"),
        text: "Upper bound on the reuse of a refusal.",
    },
    Key {
        name: "ttl.jitter", section: "Reuse", reload: Forgets,
        kind: Kind::Choice(&[
            ("on", |s| s.ttl.jitter = true),
            ("off", |s| s.ttl.jitter = false),
            ("0", |s| s.ttl.jitter = false),
        ]),
        default: Value("on"),
        text: "Shorten reuse at random, by up to 5 % and 30 s, so that sessions that began together do not expire together.",
    },
    Key {
        name: "last_known", section: "Reuse", reload: Keeps,
        kind: Kind::Duration { min: Duration::ZERO, max: LONGEST_TTL, put: |s, d| s.last_known = d },
        default: Value("0"),
        text: "For how long, after its reuse has ended, what the backend last said is repeated when it gives no answer; \
               it comes before `default_action`. With `sessions.enforce` it lets in only who has a place of its user or finds \
               one free. 0: not at all.",
    },
    Key {
        name: "refresh", section: "Reuse", reload: Keeps,
        kind: Kind::Choice(&[("auto", |s| s.refresh = true), ("never", |s| s.refresh = false)]),
        default: Value("auto"),
        text: "`never`: a decision is not asked for again before it has expired, for backends that refuse the same token \
               later.",
    },
    Key {
        name: "refresh.ahead", section: "Reuse", reload: Keeps,
        kind: Kind::Percent { max: 50, put: |s, n| s.refresh_ahead = n },
        default: Value("0%"),
        text: "An allow that is in use is asked for again, once and in the background, when less than this part of its \
               time is left; it serves until the answer. 0: not at all; nothing else goes with `refresh = never`.",
    },
    Key {
        name: "expired", section: "Reuse", reload: Forgets,
        kind: Kind::Choice(&[("ask", |s| s.expired_keep = false), ("keep", |s| s.expired_keep = true)]),
        default: Value("ask"),
        text: "What happens when an allow of a session that is in use expires: the backend is asked, or the allow is kept \
               for another such time, because the backend would refuse its old token.",
    },
    Key {
        name: "expired.idle", section: "Reuse", reload: Forgets,
        kind: Kind::Duration { min: SECOND, max: DAY, put: |s, d| s.expired_idle = d },
        default: Value("2m"),
        text: "With `expired = keep`: a session that was not asked about for longer is not in use.",
    },
    Key {
        name: "memory.max_decisions", section: "Reuse", reload: Forgets,
        kind: Kind::Count { min: 0, max: 100_000_000, put: |s, n| s.memory.decisions = n },
        default: Value("1000000"),
        text: "The most decisions that are remembered; of one session at most 64. 0: none, each check asks.",
    },
    Key {
        name: "memory.max_bytes", section: "Reuse", reload: Forgets,
        kind: Kind::Size { min: 1024 * KIB, max: 64 * 1024 * 1024 * KIB, put: |s, n| s.memory.bytes = n },
        default: Value("512MiB"),
        text: "The most memory that remembered decisions may take; it is taken as they come.",
    },
    Key {
        name: "watch.max", section: "Live sessions", reload: Keeps,
        kind: Kind::Count { min: 0, max: 16 * 1024 * 1024, put: |s, n| s.watch.max = n },
        default: Value("131072"),
        text: "The most watches that may be open; one more is not accepted.",
    },
    Key {
        name: "watch.max_rate", section: "Live sessions", reload: Keeps,
        kind: Kind::Count { min: 1, max: 1_000_000, put: |s, n| s.watch.max_rate = n },
        default: Value("1000"),
        text: "How often a second watches are asked about again, all together; what is due later waits its turn, and its \
               decision stands until then. First decisions do not count.",
    },
    Key {
        name: "watch.interval", section: "Live sessions", reload: Keeps,
        kind: Kind::Duration { min: MS, max: HOUR, put: |s, d| s.watch.interval = d },
        default: Value("30s"),
        text: "When a watch is asked about again if its decision may not be reused, or if the backend gave none; \
               shortened at random by up to a tenth.",
    },
    Key {
        name: "sessions.enforce", section: "Live sessions", reload: Keeps,
        kind: Kind::Choice(&[
            ("off", |s| s.sessions.enforce = None),
            ("newest", |s| s.sessions.enforce = Some(Enforce::Newest)),
            ("oldest", |s| s.sessions.enforce = Some(Enforce::Oldest)),
        ]),
        default: Value("off"),
        text: "Who is refused when a user (`X-UserId`) has more sessions in this engine than `X-Max-Sessions` says; over \
               4096 nobody. Only where one engine serves all of a user's sessions.",
    },
    Key {
        name: "sessions.idle", section: "Live sessions", reload: Keeps,
        kind: Kind::Duration { min: SECOND, max: HOUR, put: |s, d| s.sessions.idle = d },
        default: Value("30s"),
        text: "With `sessions.enforce`: a session without a watch that was not asked about for so long gives up its place.",
    },
    Key {
        name: "pool.max_connections", section: "Connections", reload: Keeps,
        kind: Kind::Count { min: 1, max: 65536, put: |s, n| s.pool.max_connections = n },
        default: Value("256"),
        text: "The most connections per URL, divided among the I/O threads. While addresses of its name do not answer, others are \
               tried beside them: in each I/O thread 16 at one time, or a quarter of its connections if that is more.",
    },
    Key {
        name: "pool.idle_timeout", section: "Connections", reload: Keeps,
        kind: Kind::Duration { min: MS, max: HOUR, put: |s, d| s.pool.idle_timeout = d },
        default: Value("1500ms"),
        text: "How long a connection is kept without an exchange. Keep it below the backend's own: some close after 2 s.",
    },
    Key {
        name: "pool.max_age", section: "Connections", reload: Keeps,
        kind: Kind::Duration { min: SECOND, max: DAY, put: |s, d| s.pool.max_age = d },
        default: Value("5m"),
        text: "How long a connection is used at all, so that a backend that moved is followed, and a certificate that has expired since. \
               One of HTTP/2 serves until its successor is there, for two `connect_timeout` more at most since the first check that finds it too old.",
    },
    Key {
        name: "http.version", section: "Connections", reload: Keeps,
        kind: Kind::Choice(&[
            ("auto", |s| s.http_version = HttpVersion::Auto),
            ("1.1", |s| s.http_version = HttpVersion::Http11),
            ("2", |s| s.http_version = HttpVersion::Http2),
            ("h2c", |s| s.http_version = HttpVersion::H2c),
        ]),
        default: Value("auto"),
        text: "`auto`: what https agrees on, 1.1 otherwise. `2` needs https; `h2c` is HTTP/2 without TLS.",
    },
    Key {
        name: "http.lane", section: "Connections", reload: Keeps,
        kind: Kind::Choice(&[
            ("auto", |s| s.http_lane = HttpLane::Wire),
            ("hyper", |s| s.http_lane = HttpLane::Hyper),
            ("wire", |s| s.http_lane = HttpLane::Wire),
        ]),
        default: Value("auto"),
        text: "Who speaks HTTP/1.1: `wire`, this library's own reader and writer, or `hyper`, which speaks HTTP/2 in any \
               case. `auto` is `wire`.",
    },
    Key {
        name: "http.pipeline", section: "Connections", reload: Keeps,
        kind: Kind::Count { min: 1, max: 64, put: |s, n| s.http_pipeline = n },
        default: Value("1"),
        text: "How many requests one HTTP/1.1 connection carries at once: a check that finds no idle connection joins the least \
               busy one. Each waits for the answers before its own, so only for a backend that answers at once and can do it \
               (nginx can; `php -S` answers nothing at all). A backend is tried with two first, and left alone with it for 1m \
               after it has left requests unanswered. Not with `http.lane = hyper`, nor with the presets `ministra` and `iptvportal`: \
               those requests are made again, and a token there is not to be asked about twice.",
    },
    Key {
        name: "dns.refresh", section: "Connections", reload: Keeps,
        kind: Kind::Duration { min: SECOND, max: DAY, put: |s, d| s.dns_refresh = d },
        default: Value("30s"),
        text: "How often names are resolved again while they are used; at most 16 addresses of each are used. Those that were \
               found last are kept when the resolver fails.",
    },
    Key {
        name: "unix.peer_uid", section: "Connections", reload: Forgets,
        // The last number means "no user" to the system.
        kind: Kind::Count { min: 0, max: u32::MAX as usize - 1, put: |s, n| s.unix_peer_uid = Some(n as u32) },
        default: Unset,
        text: "The numeric user that must own the other end of a Unix socket.",
    },
    Key {
        name: "tls.ca_file", section: "TLS", reload: Forgets,
        kind: Kind::File(|s, path| s.tls.ca_file = Some(path)),
        default: Unset,
        text: "Trust these authorities in place of the system's.",
    },
    Key {
        name: "tls.client_cert", section: "TLS", reload: Forgets,
        kind: Kind::File(|s, path| s.tls.client_cert = Some(path)),
        default: Unset,
        text: "The certificate chain that we show, with `tls.client_key`.",
    },
    Key {
        name: "tls.client_key", section: "TLS", reload: Forgets,
        kind: Kind::File(|s, path| s.tls.client_key = Some(path)),
        default: Unset,
        text: "Its private key, not encrypted.",
    },
    Key {
        name: "tls.server_name", section: "TLS", reload: Forgets,
        kind: Kind::Host(|s, name| s.tls.server_name = Some(name)),
        default: Unset,
        text: "The name sent (SNI) and expected in the certificate, where it is not the URL's host.",
    },
    Key {
        name: "tls.verify", section: "TLS", reload: Forgets,
        kind: Kind::Switch(|s, on| s.tls.verify = on),
        default: Value("on"),
        text: "Whether the certificate is verified. `off` trusts anyone in between, and logs a warning at each start.",
    },
    Key {
        name: "tls.mixed", section: "TLS", reload: Forgets,
        kind: Kind::Switch(|s, on| s.tls_mixed = on),
        default: Value("off"),
        text: "Accept https and http URLs in one list: whoever blocks https then gets the checks in clear text.",
    },
    Key {
        name: "shadow.url", section: SHADOW, reload: Keeps,
        kind: Kind::Urls(|s, urls| s.shadow.urls = urls),
        default: Unset,
        text: "A second backend that is asked what the backend has answered, and never acted upon: where the two disagree is \
               counted and logged. Of several, an outage moves to the next.",
    },
    Key {
        name: "shadow.share", section: SHADOW, reload: Keeps,
        kind: Kind::Percent { max: 100, put: |s, n| s.shadow.share = n },
        default: Value("100%"),
        text: "The part of the backend's answers, picked at random, that the shadow is asked about too.",
    },
    Key {
        name: "shadow.max_pending", section: SHADOW, reload: Keeps,
        kind: Kind::Count { min: 1, max: 65536, put: |s, n| s.shadow.max_pending = n },
        default: Value("256"),
        text: "The most questions that the shadow may owe an answer, divided among the I/O threads; beyond it the shadow is not \
               asked, which is counted. Each has `timeout`.",
    },
    Key {
        name: "shadow.verdict.body", section: SHADOW, reload: Keeps,
        kind: Kind::BodyRule(|s, rule| s.shadow.verdict_body = Some(rule)),
        default: Unset,
        text: "As `verdict.body`, which does not hold for the shadow.",
    },
    Key {
        name: "shadow.param.NAME", section: SHADOW, reload: Keeps,
        kind: Kind::Param(|s, field| s.shadow.params.push(field)),
        default: Unset,
        text: "As `param.NAME`, none of which goes to the shadow. No client can send the names of either.",
    },
    Key {
        name: "shadow.header.NAME", section: SHADOW, reload: Keeps,
        kind: Kind::Header(|s, field| s.shadow.headers.push(field)),
        default: Unset,
        text: "As `header.NAME`, none of which goes to the shadow.",
    },
    Key {
        name: "inbox.capacity", section: "Engine", reload: Refused,
        kind: Kind::Count { min: 1, max: 1 << 20, put: |s, n| s.inbox_capacity = n },
        default: Value("65536"),
        text: "The most checks that may be pending; one more is not accepted.",
    },
    Key {
        name: "threads.io", section: "Engine", reload: Refused,
        kind: Kind::Count { min: 1, max: 64, put: |s, n| s.threads_io = n },
        default: Value("1"),
        text: "I/O threads. One does about 100,000 exchanges a second over TCP.",
    },
    Key {
        name: "threads.callback", section: "Engine", reload: Refused,
        kind: Kind::Count { min: 0, max: 64, put: |s, n| s.threads_callback = n },
        default: Value("1"),
        text: "Threads that run the host's callbacks. 0: they run on the I/O thread, and a slow one delays every check.",
    },
    Key {
        name: "log.level", section: "Engine", reload: Keeps,
        kind: Kind::Choice(&[
            ("off", |s| s.log_level = LogLevel::Off),
            ("error", |s| s.log_level = LogLevel::Error),
            ("warn", |s| s.log_level = LogLevel::Warn),
            ("info", |s| s.log_level = LogLevel::Info),
            ("debug", |s| s.log_level = LogLevel::Debug),
        ]),
        default: Value("warn"),
        text: "How much is logged, where a log was set.",
    },
];

/// 30 days: milliseconds still fit the C ABI's 32 bits.
const LONGEST_TTL: Duration = Duration::from_hours(720);

impl Key {
    /// `param.` of `param.NAME`.
    pub(super) fn prefix(&self) -> Option<&'static str> {
        self.name.strip_suffix("NAME")
    }

    pub(super) fn stands_for_many(&self) -> bool {
        self.prefix().is_some()
    }
}

/// The row of a key as the operator writes it, and what stands for `NAME` in it. The error names the nearest
/// known key.
pub(super) fn find(written: &str) -> Result<(&'static Key, &str), String> {
    for key in KEYS {
        match key.prefix() {
            Some(prefix) => match written.strip_prefix(prefix) {
                Some("") => return Err(format!("{written:?} lacks a name; write {}", key.name)),
                Some(name) => return Ok((key, name)),
                None => {}
            },
            None if key.name == written => return Ok((key, "")),
            None => {}
        }
    }
    let shown = shown_key(written);
    let unknown = |key: &str| format!("unknown key {}", quoted(key));
    if let Some(key) = nearest(shown.trim_end_matches('…')) {
        return Err(format!("{}; did you mean {key:?}?", unknown(&shown)));
    }
    // Who writes nothing but a secret has a key of it, when it ends in `=`.
    let is_word = |byte: u8| byte.is_ascii_lowercase() || matches!(byte, b'.' | b'_');
    let shown = if shown.trim_end_matches('…').bytes().all(is_word) { shown } else { "…".into() };
    Err(format!("{}; the command `alta-auth config` lists every key", unknown(&shown)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::config::preset::{self, PRESETS};

    #[test]
    fn every_default_and_every_preset_parses() {
        for key in KEYS {
            if let Value(text) = key.default {
                key.kind
                    .put("", text, &mut Settings::blank())
                    .unwrap_or_else(|why| panic!("{}: {why}", key.name));
            }
        }
        for preset in PRESETS {
            for (name, value) in preset.defaults {
                let (key, part) = find(name).unwrap();
                key.kind
                    .put(part, value, &mut Settings::blank())
                    .unwrap_or_else(|why| panic!("{name}: {why}"));
            }
        }
        assert_eq!(preset::names().next(), Some("custom"));
    }

    #[test]
    fn names_are_unique_and_sections_stand_together() {
        let mut names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KEYS.len());

        let mut sections: Vec<_> = KEYS.iter().map(|key| key.section).collect();
        sections.dedup();
        let count = sections.len();
        sections.sort_unstable();
        sections.dedup();
        assert_eq!(sections.len(), count);
    }
}
