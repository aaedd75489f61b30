//! `shadow.*`: a second backend that is asked and never acted upon.
//!
//! It may be anybody's, so it gets of the operator's own only what was written for it: its URL, `shadow.param.*` and
//! `shadow.header.*`. The client's question goes to it as to the backend, and it is judged by the same statuses.

use super::{BackendMode, BackendUrl, HttpVersion, MemoryBounds, Settings, settings};
use crate::backend::{BodyRule, HeaderField, ParamField};

/// What is said of the shadow alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShadowSettings {
    /// `shadow.url`; empty: there is none.
    pub(crate) urls: Vec<BackendUrl>,
    /// `shadow.share`, percent.
    pub(crate) share: u32,
    /// `shadow.max_pending`, engine-wide.
    pub(crate) max_pending: usize,
    pub(crate) verdict_body: Option<BodyRule>,
    pub(crate) params: Vec<ParamField>,
    pub(crate) headers: Vec<HeaderField>,
    /// Its keys: what is known of its health is kept by a reload that changes none.
    pub(super) shape: settings::Shape,
}

impl Settings {
    /// The shadow, as the settings of a backend of its own; `None`: there is none.
    pub(crate) fn of_shadow(&self) -> Option<Self> {
        let shadow = &self.shadow;
        if shadow.urls.is_empty() {
            return None;
        }
        let mut own = self.clone();
        own.is_shadow = true;
        own.backends.clone_from(&shadow.urls);
        own.backend_mode = BackendMode::Failover;
        // A name that the backend takes from us alone is not for a client to give to the shadow either.
        let queries = self.backends.iter().filter_map(|url| url.query.as_deref());
        let names =
            queries.flat_map(|query| query.split(['&', ';'])).filter_map(|pair| pair.split('=').next());
        own.protect_params.extend(names.filter(|name| !name.is_empty()).map(str::to_owned));
        own.protect_params.extend(self.params.iter().map(|field| field.name().to_owned()));
        own.params.clone_from(&shadow.params);
        own.headers.clone_from(&shadow.headers);
        own.verdict_body.clone_from(&shadow.verdict_body);
        own.pool.max_connections = self.pool.max_connections.min(shadow.max_pending);
        own.http_version = HttpVersion::Auto;
        // Who we are, and what the backend is called, is between us and the backend.
        own.tls.client_cert = None;
        own.tls.client_key = None;
        own.tls.server_name = None;
        own.memory = MemoryBounds { decisions: 0, bytes: 1 << 20 };
        own.shape.clone_from(&shadow.shape);
        own.shadow = ShadowSettings::default();
        Some(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn settings(keys: &[(&str, &str)]) -> Settings {
        let mut config = Config::new();
        for (key, value) in
            [("backend.url", "https://a/x?own=1"), ("default_action", "deny")].iter().chain(keys)
        {
            config.set(key, value).unwrap();
        }
        config.settings().unwrap()
    }

    #[test]
    fn what_is_between_us_and_the_backend_is_not_the_shadow_s() {
        let ours = settings(&[
            ("shadow.url", "https://b/y"),
            ("shadow.max_pending", "9"),
            ("shadow.param.p", "1"),
            ("param.q", "1"),
            ("header.X", "1"),
            ("verdict.body", "json:a==0"),
            ("protect_params", "r"),
            ("tls.client_cert", "/cert"),
            ("tls.client_key", "/key"),
            ("tls.server_name", "a.example"),
            ("tls.ca_file", "/ca"),
            ("http.version", "2"),
            ("backend.mode", "any"),
            ("timeout", "3s"),
            ("allow_statuses", "204"),
        ]);
        let its = ours.of_shadow().unwrap();
        assert_eq!(its.backends[0].label(), "https://b:443");
        assert!(its.is_shadow && !ours.is_shadow && its.of_shadow().is_none());
        assert_eq!((its.params.len(), its.params[0].name(), its.headers.len()), (1, "p", 0));
        assert_eq!(its.protect_params, ["r", "own", "q"]);
        assert!(its.verdict_body.is_none());
        assert_eq!((&its.tls.client_cert, &its.tls.client_key, &its.tls.server_name), (&None, &None, &None));
        assert_eq!((its.http_version, its.backend_mode), (HttpVersion::Auto, BackendMode::Failover));
        assert_eq!((its.pool.max_connections, its.memory.decisions), (9, 0));
        // By these it is asked and judged as the backend is.
        assert_eq!((&its.tls.ca_file, its.timeout), (&ours.tls.ca_file, ours.timeout));
        assert_eq!(its.allow_statuses, ours.allow_statuses);
        assert!(settings(&[("shadow.header.X", "1")]).of_shadow().is_none(), "nobody to ask");
    }
}
