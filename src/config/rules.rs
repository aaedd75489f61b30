//! What no key can say alone: rules between keys, and warnings.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::table::SHADOW;
use super::value::{show_duration, shown_key};
use super::{
    Address, BackendMode, BackendUrl, ConfigError, Entry, HedgeAfter, HttpLane, HttpVersion, Scheme,
    ScopeRule, Settings,
};
use crate::check::limits;
use crate::decision::Verdict;

/// Refuses combinations that contradict each other, that could never work, or that open what one of them closes.
pub(super) fn check(settings: &Settings) -> Result<(), ConfigError> {
    let fail = |key: &str, why: String| Err(ConfigError::of(key, &why));
    if settings.allow_statuses.is_empty() {
        return fail("allow_statuses", "empty, so no client would ever be let in; write e.g. 200".into());
    }
    if let Some(status) = settings.allow_statuses.overlap(&settings.unavailable_statuses) {
        return fail(
            "unavailable_statuses",
            format!("{status} is in allow_statuses too; remove it from one of them"),
        );
    }
    if settings.pool.max_connections < settings.threads_io {
        return fail(
            "pool.max_connections",
            format!(
                "{} connections cannot be divided among {} I/O threads; raise it or lower threads.io",
                settings.pool.max_connections, settings.threads_io
            ),
        );
    }
    let any_https = settings.backends.iter().any(|url| url.scheme == Scheme::Https);
    let clear_text = settings.backends.iter().any(|url| url.scheme == Scheme::Http && !url.is_local());
    if any_https && clear_text && !settings.tls_mixed {
        return fail(
            "backend.url",
            "https and http in one list, so whoever blocks https gets the checks in clear text; \
             write https everywhere, or accept that with tls.mixed = on"
                .into(),
        );
    }
    let any = |https| settings.backends.iter().any(|url| (url.scheme == Scheme::Https) == https);
    if settings.http_version == HttpVersion::Http2 && any(false) {
        return fail(
            "http.version",
            "2 is agreed on within TLS, and a URL in backend.url is http or unix; write h2c for HTTP/2 without TLS".into(),
        );
    }
    if settings.http_version == HttpVersion::H2c && any(true) {
        return fail(
            "http.version",
            "h2c is HTTP/2 without TLS, and a URL in backend.url is https; write 2 for HTTP/2 within TLS"
                .into(),
        );
    }
    if !settings.refresh && settings.refresh_ahead > 0 {
        return fail(
            "refresh.ahead",
            format!(
                "{}% ahead, but refresh = never (backend.preset = ministra sets it); remove one of them",
                settings.refresh_ahead
            ),
        );
    }
    if settings.breaker.failures == 0 && settings.breaker.rate > 0 {
        return fail(
            "breaker.rate",
            format!(
                "{}%, but with breaker.failures = 0 a backend is never left alone; raise breaker.failures or remove \
                 breaker.rate",
                settings.breaker.rate
            ),
        );
    }
    pipelining(settings)?;
    hedging(settings)?;
    match (&settings.tls.client_cert, &settings.tls.client_key) {
        (Some(_), None) => {
            return fail("tls.client_cert", "set without tls.client_key; set both or neither".into());
        }
        (None, Some(_)) => {
            return fail("tls.client_key", "set without tls.client_cert; set both or neither".into());
        }
        _ => {}
    }
    few_parameters(settings, "backend.url", "param.NAME")?;
    shadow(settings)
}

/// A plan that takes the whole allowance leaves none to the client: every check would be refused.
fn few_parameters(settings: &Settings, urls: &str, params: &str) -> Result<(), ConfigError> {
    let own = |query: &String| query.split('&').count();
    let most = settings.backends.iter().map(|url| url.query.as_ref().map_or(0, own)).max().unwrap_or(0);
    let count = most + settings.params.len();
    if count < limits::PARAMETERS {
        return Ok(());
    }
    let why = format!(
        "its query and {params} make {count} parameters of the {} that a request may have; use fewer",
        limits::PARAMETERS
    );
    Err(ConfigError::of(urls, &why))
}

/// A shadow must be somebody else, and nobody may hear by it what the backend is told in secret.
fn shadow(settings: &Settings) -> Result<(), ConfigError> {
    let Some(shadow) = settings.of_shadow() else { return Ok(()) };
    let fail = |why: String| Err(ConfigError::of("shadow.url", &why));
    if shadow.backends.iter().any(|url| settings.backends.iter().any(|other| url.is_same_as(other))) {
        return fail(
            "a URL of backend.url too, so it could only agree with itself; name another backend".into(),
        );
    }
    let is_https = |url: &BackendUrl| url.scheme == Scheme::Https;
    let any_https = settings.backends.iter().chain(&shadow.backends).any(is_https);
    let clear_text = shadow.backends.iter().any(|url| url.scheme == Scheme::Http && !url.is_local());
    if any_https && clear_text && !settings.tls_mixed {
        return fail(
            "http, while a backend is asked by https, so what is kept from listeners there would be told here; write \
             https, or accept that with tls.mixed = on"
                .into(),
        );
    }
    let (most, threads) = (settings.shadow.max_pending, settings.threads_io);
    if most < threads {
        let why =
            format!("{most} cannot be divided among {threads} I/O threads; raise it or lower threads.io");
        return Err(ConfigError::of("shadow.max_pending", &why));
    }
    few_parameters(&shadow, "shadow.url", "shadow.param.NAME")
}

/// Several requests on one connection are a matter of HTTP/1.1, and of our own lane.
fn pipelining(settings: &Settings) -> Result<(), ConfigError> {
    let (window, preset) = (settings.http_pipeline, settings.preset);
    let needless = matches!(settings.http_version, HttpVersion::Http2 | HttpVersion::H2c);
    let why = match settings.http_lane {
        _ if window == 1 => return Ok(()),
        // As it may be, when a connection ends before the answer.
        _ if is_for_one_request(settings) => format!(
            "{window}, but a token of backend.preset = {preset} is not to be asked about twice; remove http.pipeline"
        ),
        _ if needless => format!(
            "{window}, but http.version says HTTP/2, which needs no pipelining; remove it, or write http.version = 1.1"
        ),
        HttpLane::Hyper => {
            format!("{window}, which http.lane = hyper cannot do; write http.lane = wire, or remove it")
        }
        HttpLane::Wire => return Ok(()),
    };
    Err(ConfigError::of("http.pipeline", &why))
}

/// A token of this preset may be good for one request only.
fn is_for_one_request(settings: &Settings) -> bool {
    matches!(settings.preset, "ministra" | "iptvportal")
}

/// A second request must be harmless, and possible.
fn hedging(settings: &Settings) -> Result<(), ConfigError> {
    let fail = |key: &str, why: String| Err(ConfigError::of(key, &why));
    let after = match settings.hedge.after {
        HedgeAfter::Never => return Ok(()),
        HedgeAfter::Fixed(after) => Some(after),
        HedgeAfter::P95 => None,
    };
    if settings.backend_mode == BackendMode::Any {
        return fail("hedge.after", "backend.mode = any asks all at once already; remove one of them".into());
    }
    if is_for_one_request(settings) {
        return fail(
            "hedge.after",
            format!(
                "a token of backend.preset = {} is not to be asked about twice; remove hedge.after",
                settings.preset
            ),
        );
    }
    if settings.hedge.max == 0 {
        return fail("hedge.max", "0%, so hedge.after does nothing; raise it or remove hedge.after".into());
    }
    match after {
        Some(after) if after >= settings.timeout => fail(
            "hedge.after",
            format!(
                "{} is not below timeout = {}, so nobody would be asked twice; lower it",
                show_duration(after),
                show_duration(settings.timeout)
            ),
        ),
        _ => Ok(()),
    }
}

/// What works and may not be meant.
pub(super) fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    if settings.scope == ScopeRule::Session {
        warnings.push(
            "scope = session: one decision covers all that a session id plays. The host must mint one id per client \
             and stream and never take it from a client; otherwise use scope = directory"
                .to_owned(),
        );
    }
    if !settings.tls.verify {
        warnings.push(
            "tls.verify = off: no certificate is verified, so anyone in between can answer for the backend. \
             Use tls.ca_file for a private authority"
                .to_owned(),
        );
    }
    for (key, ttl, limit, bound) in [
        ("ttl.allow", settings.ttl.allow, "ttl.max", settings.ttl.max),
        ("ttl.deny", settings.ttl.deny, "ttl.max_deny", settings.ttl.max_deny.min(settings.ttl.max)),
    ] {
        if ttl > bound {
            let (ttl, bound) = (show_duration(ttl), show_duration(bound));
            warnings.push(format!("{key} = {ttl} is cut to {bound}: see {limit}"));
        }
    }
    if settings.ttl.max < Duration::from_secs(1) && settings.default_action == Verdict::Allow {
        warnings.push(format!(
            "ttl.max = {} with default_action = allow: while the backend gives no answer, a revoked session is denied for \
             less than a second, and let in then. Raise ttl.max, and write memory.max_decisions = 0 if nothing is to be reused",
            show_duration(settings.ttl.max)
        ));
    }
    if settings.last_known > Duration::ZERO && settings.memory.decisions == 0 {
        warnings.push(format!(
            "last_known = {} with memory.max_decisions = 0: nothing is remembered, so nothing is repeated in an outage",
            show_duration(settings.last_known)
        ));
    }
    if settings.backends.len() > 1 && settings.connect_timeout >= settings.timeout {
        let [connect, timeout] = [settings.connect_timeout, settings.timeout].map(show_duration);
        warnings.push(format!(
            "connect_timeout = {connect} is not below timeout = {timeout}: a check that finds no connection has no time \
             left for another backend"
        ));
    }
    if !settings.shadow.urls.is_empty() && !settings.refresh {
        warnings.push(
            "shadow.url with refresh = never (backend.preset = ministra sets it): where a token is good for one request, \
             a shadow that shares the backend's records refuses what the backend has allowed, or uses up what the backend \
             is asked next; give it records of its own"
                .to_owned(),
        );
    }
    if let Some(path) = &settings.tls.client_key {
        warnings.extend(world_readable(path, "tls.client_key"));
    }
    connections_without_effect(settings, &mut warnings);
    times_without_effect(settings, &mut warnings);
    warnings
}

/// What is to make a connection safe, and holds for none: `http` was written where `https` was meant.
fn connections_without_effect(settings: &Settings, warnings: &mut Vec<String>) {
    let both = || settings.backends.iter().chain(&settings.shadow.urls);
    let (tls, none) = (&settings.tls, "without an https URL");
    let is_https = |url: &BackendUrl| url.scheme == Scheme::Https;
    if tls.ca_file.is_some() && !both().any(is_https) {
        warnings.push(format!("tls.ca_file {none}: no certificate is looked at; write https, or remove it"));
    }
    // The shadow has neither of these.
    if !settings.backends.iter().any(is_https) {
        if tls.client_cert.is_some() {
            warnings.push(format!(
                "tls.client_cert {none} in backend.url: it is shown to nobody; write https, or remove it with tls.client_key"
            ));
        }
        if tls.server_name.is_some() {
            warnings.push(format!(
                "tls.server_name {none} in backend.url: it is expected of nobody; write https, or remove it"
            ));
        }
    }
    if let Some(uid) = settings.unix_peer_uid
        && !both().any(|url| matches!(url.address, Address::Unix(_)))
    {
        warnings.push(format!(
            "unix.peer_uid = {uid} without a unix URL: of no other connection is it known who owns its end; remove it"
        ));
    }
}

/// What one key asks for and another leaves no room for.
fn times_without_effect(settings: &Settings, warnings: &mut Vec<String>) {
    let none = "with memory.max_decisions = 0: nothing is remembered, so nothing is";
    if settings.memory.decisions == 0 {
        if settings.refresh_ahead > 0 {
            let percent = settings.refresh_ahead;
            warnings.push(format!("refresh.ahead = {percent}% {none} asked for ahead"));
        }
        if settings.expired_keep {
            warnings.push(format!("expired = keep {none} kept"));
        }
    }
    let rules = &settings.breaker;
    if rules.failures > 0 && rules.max_cooldown < rules.cooldown {
        let [most, first] = [rules.max_cooldown, rules.cooldown].map(show_duration);
        warnings.push(format!(
            "breaker.max_cooldown = {most} is below breaker.cooldown = {first}: nothing doubles; raise it"
        ));
    }
}

/// `shadow.*` beside no `shadow.url`. An empty one is written: the shadow is switched off, and its keys may stay.
pub(super) fn shadow_without_effect(values: &BTreeMap<String, Entry>) -> Option<String> {
    let (key, _) = values.iter().find(|(_, entry)| entry.row.section == SHADOW)?;
    (!values.contains_key("shadow.url")).then(|| {
        format!("{} without shadow.url: there is no shadow; write shadow.url, or remove it", shown_key(key))
    })
}

/// A warning if every user of the system can read a file that holds a secret. A file that cannot be looked at
/// is left to whoever opens it.
pub(super) fn world_readable(path: &Path, key: &str) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o004 != 0).then(|| {
        let (path, key) = (path.display(), shown_key(key));
        format!("{path} holds a secret ({key}) and every user can read it; run chmod o-r on it")
    })
}
