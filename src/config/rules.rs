//! What no key can say alone: rules between keys, and warnings.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::value::show_duration;
use super::{ConfigError, HttpVersion, Scheme, ScopeRule, Settings};
use crate::check::limits;

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
    match (&settings.tls.client_cert, &settings.tls.client_key) {
        (Some(_), None) => {
            return fail("tls.client_cert", "set without tls.client_key; set both or neither".into());
        }
        (None, Some(_)) => {
            return fail("tls.client_key", "set without tls.client_cert; set both or neither".into());
        }
        _ => {}
    }
    // A plan that takes the whole allowance leaves none to the client: every check would be refused.
    let own = |query: &String| query.split('&').count();
    let most = settings.backends.iter().map(|url| url.query.as_ref().map_or(0, own)).max().unwrap_or(0);
    if most + settings.params.len() >= limits::PARAMETERS {
        return fail(
            "backend.url",
            format!(
                "its query and param.NAME make {} parameters of the {} that a request may have; use fewer",
                most + settings.params.len(),
                limits::PARAMETERS
            ),
        );
    }
    Ok(())
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
    if let Some(path) = &settings.tls.client_key {
        warnings.extend(world_readable(path, "tls.client_key"));
    }
    warnings
}

/// A warning if every user of the system can read a file that holds a secret. A file that cannot be looked at
/// is left to whoever opens it.
pub(super) fn world_readable(path: &Path, what: &str) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o004 != 0).then(|| {
        format!("{} holds a secret ({what}) and every user can read it; run chmod o-r on it", path.display())
    })
}
