//! What the operator decides: keys and values as text, checked, and turned into typed [`Settings`].
//!
//! A value's own syntax and bounds are checked when it is set; what several keys say together, when an engine
//! is made. In between, order does not matter: the last value of a key wins, and presets give way to all of them.

mod document;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod hooks;
mod host;
mod nearest;
mod preset;
mod read;
mod rules;
mod settings;
mod shadow;
mod table;
mod url;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use document::KeyDoc;
pub(crate) use hooks::ThreadHooks;
pub use preset::PresetDoc;
pub(crate) use read::pem;
pub(crate) use settings::{
    BackendMode, Enforce, HedgeAfter, HttpLane, HttpVersion, MemoryBounds, PerIp, Rate, ScopeRule, Settings,
    TlsSettings, TtlHeader, TtlRules,
};
pub(crate) use shadow::ShadowSettings;
pub(crate) use url::{Address, BackendUrl, Scheme};
pub(crate) use value::{show_duration, shown_key};

use crate::backend::ParamField;
use crate::observe::Log;
use crate::transport;
use value::Kind;

/// Configuration as text: keys and values. Becomes an engine's settings when one is made of it.
///
/// ```
/// let mut config = alta_auth::Config::new();
/// config.set("backend.url", "http://127.0.0.1:6000/auth")?;
/// config.set("default_action", "deny")?;
/// let error = config.set("time_out", "2s").unwrap_err();
/// assert_eq!(error.to_string(), r#"unknown key "time_out"; did you mean "timeout"?"#);
/// # Ok::<(), alta_auth::ConfigError>(())
/// ```
#[derive(Clone, Default)]
pub struct Config {
    /// By key; of a header, whose name has no case, by its lower-case key.
    values: BTreeMap<String, Entry>,
    log: Option<Arc<dyn Log>>,
    hooks: ThreadHooks,
    /// About the files that were loaded.
    warnings: Vec<String>,
}

#[derive(Clone)]
struct Entry {
    row: &'static table::Key,
    /// What stands for `NAME` in `param.NAME`, as written.
    name: String,
    value: String,
}

/// A configuration error: says which key, why, and what to do. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    key: Option<String>,
    message: String,
}

impl ConfigError {
    pub(crate) fn of(key: &str, why: &str) -> Self {
        // The name in `param.NAME` may hold anything, and the text is a line of somebody's log.
        let key = shown_key(key).into_owned();
        Self { message: format!("{key}: {why}"), key: Some(key) }
    }

    pub(crate) fn without_key(message: String) -> Self {
        Self { key: None, message }
    }

    /// The key at fault, if it is a known one; cut as in the text where its `NAME` is more than letters, digits, `.`, `_`
    /// and `-`.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every key there is, section by section.
    pub fn keys() -> impl Iterator<Item = KeyDoc> {
        document::docs()
    }

    /// Every value of `backend.preset`.
    pub fn presets() -> impl Iterator<Item = PresetDoc> {
        preset::PRESETS.iter().copied()
    }

    /// Keys and presets as Markdown: what README shows.
    pub fn readme_table() -> String {
        document::markdown()
    }

    /// Sets one key. A failed call changes nothing.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        let (row, name) = table::find(key).map_err(ConfigError::without_key)?;
        let fail = |why: String| ConfigError::of(key, &why);
        match secret_file(&row.kind, value) {
            Some(path) if path.is_absolute() && !value.contains('\0') => {
                // The name is checked now, the file's content when an engine is made of it.
                row.kind.put(name, "in a file", &mut Settings::blank()).map_err(fail)?;
            }
            Some(_) => {
                return Err(fail(
                    "a value that begins with @ names a file; write its absolute path: @/path".into(),
                ));
            }
            _ if value.trim().is_empty()
                && matches!(row.default, table::Default::Unset)
                && !row.stands_for_many() => {}
            _ => row.kind.put(name, value, &mut Settings::blank()).map_err(fail)?,
        }
        let canonical =
            if matches!(row.kind, Kind::Header(_)) { key.to_ascii_lowercase() } else { key.to_owned() };
        self.values.insert(canonical, Entry { row, name: name.to_owned(), value: value.to_owned() });
        Ok(())
    }

    /// Sets every key of a TOML file. A failed call changes nothing.
    pub fn load(&mut self, path: &Path) -> Result<(), ConfigError> {
        let shown = path.display();
        let text = read::configuration(path)
            .map_err(|why| ConfigError::without_key(format!("{shown} cannot be read: {why}")))?;
        let mut loaded = Self::parsed(&text, &shown.to_string())?;
        if let Some(key) = loaded.secret_key() {
            let warning =
                rules::world_readable(path, &key).filter(|warning| !self.warnings.contains(warning));
            self.warnings.extend(warning);
        }
        self.values.append(&mut loaded.values);
        Ok(())
    }

    /// Every key of a TOML text; `shown` is the name of its file.
    fn parsed(text: &str, shown: &str) -> Result<Self, ConfigError> {
        let at = |line: usize, error: ConfigError| ConfigError {
            message: format!("{shown} line {line}: {}", error.message),
            ..error
        };
        let given = file::parse(text).map_err(|fault| {
            let error = match fault.key {
                Some(key) => ConfigError::of(&key, &fault.why),
                None => ConfigError::without_key(fault.why),
            };
            at(fault.line, error)
        })?;

        let mut loaded = Self::new();
        for one in given {
            let before = loaded.values.len();
            loaded.set(&one.key, &one.value).map_err(|error| at(one.line, error))?;
            if loaded.values.len() == before {
                return Err(at(one.line, ConfigError::of(&one.key, "set twice in this file; remove one")));
            }
        }
        Ok(loaded)
    }

    /// Where log lines go; without this they go nowhere.
    pub fn set_log(&mut self, log: Arc<dyn Log>) {
        self.log = Some(log);
    }

    pub(crate) fn unset_log(&mut self) {
        self.log = None;
    }

    /// Run on each thread of an engine, before and after everything else there: for hosts whose threads must be
    /// registered or pinned. A reload does not change them. A thread of the resolver runs no `stop` if it hangs in a lookup
    /// when the engine is dropped.
    pub fn set_thread_hooks(
        &mut self,
        start: Option<Arc<dyn Fn() + Send + Sync>>,
        stop: Option<Arc<dyn Fn() + Send + Sync>>,
    ) {
        self.hooks = ThreadHooks { start, stop };
    }

    pub(crate) fn thread_hooks(&self) -> ThreadHooks {
        self.hooks.clone()
    }

    /// Everything that is checked when an engine is made of it, files of secrets and, where a URL is https, of TLS included,
    /// without making one. Returns the warnings that the engine would log.
    pub fn validate(&self) -> Result<Vec<String>, ConfigError> {
        let settings = self.settings()?;
        for asked in [Some(&settings), settings.of_shadow().as_ref()].into_iter().flatten() {
            transport::check_tls(asked)?;
        }
        Ok(settings.warnings)
    }

    pub(crate) fn log(&self) -> Option<&Arc<dyn Log>> {
        self.log.as_ref()
    }

    /// Everything together: presets and defaults filled in, files of secrets read, rules between keys checked.
    pub(crate) fn settings(&self) -> Result<Settings, ConfigError> {
        let chosen = self.values.get("backend.preset").map_or("custom", |entry| entry.value.trim());
        let preset = preset::find(chosen).expect("set() lets nothing else in");
        let mut settings = Settings::blank();
        settings.preset = preset.name;
        let mut warnings = self.warnings.clone();

        for row in table::KEYS.iter().filter(|row| !row.stands_for_many()) {
            let by_preset = preset.defaults.iter().find(|(key, _)| *key == row.name).map(|(_, value)| *value);
            let value = self.values.get(row.name).map(|entry| entry.value.as_str()).or(by_preset);
            let value = match (value, &row.default) {
                (None, table::Default::Required(hint)) => {
                    return Err(ConfigError::of(row.name, &format!("required and not set; {hint}")));
                }
                (None, table::Default::Unset) => continue,
                (Some(value), table::Default::Unset) if value.trim().is_empty() => continue,
                (None, table::Default::Value(value)) => value,
                (Some(value), _) => value,
            };
            row.kind.put("", value, &mut settings).map_err(|why| ConfigError::of(row.name, &why))?;
            if row.section == table::SHADOW {
                settings.shadow.shape.push(row.name, value);
            }
            if row.reload == table::Reload::Forgets {
                settings.shape.push(row.name, value);
                if matches!(row.kind, Kind::File(_)) {
                    settings.shape.push_file(Path::new(value.trim()));
                }
            }
        }

        let mut named = self.values.clone();
        named.retain(|_, entry| entry.row.stands_for_many());
        for (key, value) in preset.defaults {
            let (row, name) = table::find(key).expect("a test looks up every preset's keys");
            if row.stands_for_many() {
                let entry = || Entry { row, name: name.to_owned(), value: (*value).to_owned() };
                let set = named.entry((*key).to_owned()).or_insert_with(entry);
                // Like any other default, it is taken away by writing nothing.
                if set.value.trim().is_empty() {
                    named.remove(*key);
                }
            }
        }
        for Entry { row, name, value } in named.values() {
            let key = row.name.replace("NAME", name);
            let fail = |why: String| ConfigError::of(&key, &why);
            match secret_file(&row.kind, value) {
                Some(path) => {
                    let text = read::secret(&path)
                        .map_err(|why| fail(format!("{} cannot be read: {why}", path.display())))?;
                    let line = text.strip_suffix('\n').unwrap_or(&text);
                    let secret = line.strip_suffix('\r').unwrap_or(line);
                    if secret.trim().is_empty() {
                        return Err(fail(format!("{} is empty; write the value into it", path.display())));
                    }
                    row.kind.put(name, secret, &mut settings).map_err(fail)?;
                    settings.shape_of(row).push(&key, secret);
                    warnings.extend(rules::world_readable(&path, &key));
                }
                None => {
                    row.kind.put(name, value, &mut settings).map_err(fail)?;
                    settings.shape_of(row).push(&key, value);
                }
            }
        }

        for (urls, header, key) in [
            (&settings.backends, "header.authorization", "backend.url"),
            (&settings.shadow.urls, "shadow.header.authorization", "shadow.url"),
        ] {
            if urls.iter().any(|url| url.authorization.is_some()) && named.contains_key(header) {
                let why =
                    format!("{key} has a user and password, which make the same header; use one of them");
                return Err(ConfigError::of(header, &why));
            }
        }
        rules::check(&settings)?;
        warnings.extend(rules::warnings(&settings));
        warnings.extend(rules::shadow_without_effect(&self.values));
        settings.warnings = warnings;
        Ok(settings)
    }

    /// A key whose value is a secret in itself.
    fn secret_key(&self) -> Option<String> {
        let is_secret = |entry: &Entry| match entry.row.kind {
            _ if secret_file(&entry.row.kind, &entry.value).is_some() => false,
            Kind::Header(_) => true,
            Kind::Urls(_) => BackendUrl::parse_list(&entry.value)
                .is_ok_and(|urls| urls.iter().any(|url| url.authorization.is_some() || url.query.is_some())),
            Kind::Param(_) => {
                ParamField::parse(&entry.name, &entry.value).is_ok_and(|field| field.has_text())
            }
            _ => false,
        };
        self.values.iter().find(|(_, entry)| is_secret(entry)).map(|(key, _)| key.clone())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show =
            |entry: &Entry| if entry.row.kind.is_secret() { "…".to_owned() } else { entry.value.clone() };
        f.debug_map().entries(self.values.iter().map(|(key, entry)| (key, show(entry)))).finish()
    }
}

/// `@/path` of `header.NAME = @/path`, or of `param.NAME`, where what begins with `@` may be no path.
fn secret_file(kind: &Kind, value: &str) -> Option<PathBuf> {
    let path = value.trim().strip_prefix('@')?;
    let named = match kind {
        Kind::Header(_) => true,
        Kind::Param(_) => path.starts_with('/'),
        _ => false,
    };
    named.then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::decision::Verdict;
    use crate::observe::LogLevel;
    use crate::outage::Rules;

    fn settings(keys: &[(&str, &str)]) -> Settings {
        let mut config = Config::new();
        config.set("backend.url", "http://127.0.0.1:6000/auth").unwrap();
        config.set("default_action", "deny").unwrap();
        for (key, value) in keys {
            config.set(key, value).unwrap();
        }
        config.settings().unwrap()
    }

    #[test]
    fn what_is_not_set_is_as_the_contract_says() {
        let s = settings(&[]);
        assert_eq!((s.backends.len(), s.default_action), (1, Verdict::Deny));
        assert_eq!((s.backend_mode, s.any_deny_first), (BackendMode::Failover, false));
        assert_eq!((s.timeout, s.connect_timeout), (Duration::from_secs(2), Duration::from_millis(500)));
        assert_eq!((s.scope, s.path_check, s.fail_open_overload), (ScopeRule::Path, true, false));
        assert_eq!((s.fail_open_corroborated, s.overload_default), (false, false));
        let second = Duration::from_secs(1);
        assert_eq!(s.breaker, Rules { failures: 5, rate: 0, cooldown: second, max_cooldown: 30 * second });
        assert!(s.allow_statuses.contains(200) && s.allow_statuses.outside(200, 200).is_none());
        assert!(s.unavailable_statuses.is_empty());
        assert!(s.verdict_body.is_none());
        assert_eq!(s.verdict_max_body, 65536);
        let ttl = TtlRules {
            allow: Duration::ZERO,
            deny: Duration::ZERO,
            max: Duration::from_hours(24),
            max_deny: Duration::from_mins(1),
            headers: vec![TtlHeader::XAuthDuration, TtlHeader::CacheControl],
            jitter: true,
        };
        assert_eq!(s.ttl, ttl);
        assert_eq!((s.last_known, s.refresh, s.refresh_ahead), (Duration::ZERO, true, 0));
        assert_eq!((s.expired_keep, s.expired_idle), (false, Duration::from_mins(2)));
        assert_eq!(s.memory, MemoryBounds { decisions: 1_000_000, bytes: 512 << 20 });
        assert_eq!(
            (s.watch.max, s.watch.max_rate, s.watch.interval),
            (131_072, 1_000, Duration::from_secs(30))
        );
        assert_eq!((s.sessions.enforce, s.sessions.idle), (None, Duration::from_secs(30)));
        let pool = settings::PoolSettings {
            max_connections: 256,
            idle_timeout: Duration::from_millis(1500),
            max_age: Duration::from_mins(5),
        };
        assert_eq!(s.pool, pool);
        assert_eq!(s.http_version, HttpVersion::Auto);
        assert_eq!(s.tls, TlsSettings { verify: true, ..TlsSettings::default() });
        assert_eq!((s.tls_mixed, s.unix_peer_uid, s.dns_refresh), (false, None, Duration::from_secs(30)));
        assert_eq!((s.inbox_capacity, s.threads_io, s.log_level), (65536, 1, LogLevel::Warn));
        assert_eq!((s.protect_params.len(), s.params.len(), s.headers.len(), s.warnings.len()), (0, 0, 0, 0));
    }

    #[test]
    fn every_key_reaches_its_setting() {
        let s = settings(&[
            ("backend.url", "https://a/x,https://b/y"),
            ("backend.mode", "any"),
            ("any.deny", "first"),
            ("default_action", "allow"),
            ("fail_open.overload", "on"),
            ("fail_open", "corroborated"),
            ("overload", "default"),
            ("breaker.failures", "9"),
            ("breaker.rate", "70%"),
            ("breaker.cooldown", "2s"),
            ("breaker.max_cooldown", "5s"),
            ("allow_statuses", "204"),
            ("unavailable_statuses", "503"),
            ("verdict.max_body", "1KiB"),
            ("timeout", "3s"),
            ("connect_timeout", "1s"),
            ("scope", "directory"),
            ("path.check", "off"),
            ("protect_params", "a, b"),
            ("ttl.headers", "Cache-Control"),
            ("ttl.allow", "1s"),
            ("ttl.deny", "2s"),
            ("ttl.max", "3s"),
            ("ttl.max_deny", "4s"),
            ("ttl.jitter", "0"),
            ("last_known", "5s"),
            ("refresh.ahead", "10%"),
            ("expired", "keep"),
            ("expired.idle", "6s"),
            ("memory.max_decisions", "8"),
            ("memory.max_bytes", "2MiB"),
            ("watch.max", "3"),
            ("watch.max_rate", "4"),
            ("watch.interval", "7s"),
            ("sessions.enforce", "oldest"),
            ("sessions.idle", "8s"),
            ("pool.max_connections", "9"),
            ("pool.idle_timeout", "10ms"),
            ("pool.max_age", "10s"),
            ("http.version", "2"),
            ("http.lane", "hyper"),
            ("dns.refresh", "5s"),
            ("unix.peer_uid", "33"),
            ("tls.ca_file", "/ca"),
            ("tls.client_cert", "/cert"),
            ("tls.client_key", "/key"),
            ("tls.server_name", "c.example"),
            ("tls.verify", "off"),
            ("tls.mixed", "on"),
            ("inbox.capacity", "7"),
            ("threads.io", "2"),
            ("shadow.url", "https://s.example/z"),
            ("shadow.share", "40%"),
            ("shadow.max_pending", "6"),
            ("shadow.verdict.body", "json:ok==true"),
            ("shadow.param.p", "{ip}"),
            ("shadow.header.X-H", "h"),
            ("log.level", "debug"),
        ]);
        assert_eq!(s.backends.iter().map(|url| url.path.as_str()).collect::<Vec<_>>(), ["/x", "/y"]);
        assert_eq!((s.backend_mode, s.any_deny_first), (BackendMode::Any, true));
        assert_eq!((s.default_action, s.fail_open_overload), (Verdict::Allow, true));
        assert_eq!((s.fail_open_corroborated, s.overload_default), (true, true));
        let second = Duration::from_secs(1);
        assert_eq!(
            s.breaker,
            Rules { failures: 9, rate: 70, cooldown: 2 * second, max_cooldown: 5 * second }
        );
        assert!(s.allow_statuses.contains(204) && !s.allow_statuses.contains(200));
        assert!(s.unavailable_statuses.contains(503) && !s.unavailable_statuses.contains(502));
        assert_eq!(s.verdict_max_body, 1024);
        assert_eq!((s.timeout, s.connect_timeout), (Duration::from_secs(3), Duration::from_secs(1)));
        assert_eq!((s.scope, s.path_check), (ScopeRule::Directory, false));
        assert_eq!(s.protect_params, ["a", "b"]);
        let ttl = TtlRules {
            allow: Duration::from_secs(1),
            deny: Duration::from_secs(2),
            max: Duration::from_secs(3),
            max_deny: Duration::from_secs(4),
            headers: vec![TtlHeader::CacheControl],
            jitter: false,
        };
        assert_eq!(s.ttl, ttl);
        assert_eq!((s.last_known, s.refresh_ahead), (Duration::from_secs(5), 10));
        assert_eq!((s.expired_keep, s.expired_idle), (true, Duration::from_secs(6)));
        assert_eq!(s.memory, MemoryBounds { decisions: 8, bytes: 2 << 20 });
        assert_eq!((s.watch.max, s.watch.max_rate, s.watch.interval), (3, 4, Duration::from_secs(7)));
        assert_eq!((s.sessions.enforce, s.sessions.idle), (Some(Enforce::Oldest), Duration::from_secs(8)));
        let pool = settings::PoolSettings {
            max_connections: 9,
            idle_timeout: Duration::from_millis(10),
            max_age: Duration::from_secs(10),
        };
        assert_eq!(s.pool, pool);
        assert_eq!((s.http_version, s.dns_refresh), (HttpVersion::Http2, Duration::from_secs(5)));
        assert_eq!((s.unix_peer_uid, s.tls_mixed), (Some(33), true));
        let tls = TlsSettings {
            ca_file: Some("/ca".into()),
            client_cert: Some("/cert".into()),
            client_key: Some("/key".into()),
            server_name: Some("c.example".into()),
            verify: false,
        };
        assert_eq!(s.tls, tls);
        assert_eq!((s.inbox_capacity, s.threads_io, s.log_level), (7, 2, LogLevel::Debug));
        assert_eq!((s.shadow.urls[0].path.as_str(), s.shadow.share, s.shadow.max_pending), ("/z", 40, 6));
        assert!(s.shadow.verdict_body.is_some());
        assert_eq!((s.shadow.params.len(), s.shadow.headers.len()), (1, 1));
    }

    #[test]
    fn a_preset_gives_way_to_every_key_that_is_set() {
        let smarty = settings(&[("backend.preset", "smarty")]);
        assert!(smarty.verdict_body.is_some());
        assert_eq!(smarty.params.len(), 1);
        let own = settings(&[
            ("param.ip", "{ip}"),
            ("param.name", "x"),
            ("verdict.body", ""),
            ("backend.preset", "smarty"),
        ]);
        assert!(own.verdict_body.is_none(), "an empty value switches it off");
        assert_eq!(own.params.len(), 2);
        assert_eq!(settings(&[("backend.preset", "ministra")]).scope, ScopeRule::Session);
        assert_eq!(settings(&[("scope", "path"), ("backend.preset", "ministra")]).scope, ScopeRule::Path);

        let mut portal = Config::new();
        portal.set("default_action", "deny").unwrap();
        portal.set("backend.preset", "iptvportal").unwrap();
        assert_eq!(portal.settings().unwrap().backends[0].label(), "https://go.iptvportal.cloud:443");
    }

    #[test]
    fn an_error_is_one_line_whatever_a_parameter_or_header_is_called() {
        for name in ["a\nb", "a\r\n2026 allowed", "\0", "\u{1b}[2J", "\u{85}"] {
            for kind in ["param", "header"] {
                let error = Config::new().set(&format!("{kind}.{name}"), "{x").unwrap_err();
                assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
            }
        }
    }

    #[test]
    fn debug_of_settings_shows_no_secret() {
        let s = settings(&[
            ("backend.url", "http://u:c4n4ry@a/c4n4ry?c4n4ry"),
            ("header.X", "c4n4ry"),
            ("param.x", "c4n4ry"),
            ("shadow.url", "http://u:c4n4ry@b/c4n4ry?c4n4ry"),
            ("shadow.header.X", "c4n4ry"),
            ("shadow.param.x", "c4n4ry"),
        ]);
        assert!(!format!("{s:?}").contains("c4n4ry"), "{s:?}");
    }
}
