//! What is drawn: the configuration of an engine, and the words of a check.

use std::time::Duration;

use alta_auth::{Check, Config, Verdict};

use super::claims::{Asked, SESSIONS, Terms};
use super::support::Random;
use super::world::PATHS;

/// For more checks than are ever pending.
const ROOM: usize = 4096;

/// The configuration of a life: drawn once, but for what reloads change.
pub(crate) struct Draw {
    keys: Vec<(&'static str, String)>,
    pub(crate) terms: Terms,
    pub(crate) places: usize,
    capacity: usize,
    /// Sessions that checks are drawn from.
    pub(crate) spread: u64,
}

impl Draw {
    pub(crate) fn of(random: &Random) -> Self {
        let timeout = Duration::from_millis(random.pick(&[150, 300, 600]));
        let terms = Terms {
            default: if random.per_mille(300) { Verdict::Allow } else { Verdict::Deny },
            scope: random.pick(&["path", "directory", "session"]),
            timeout,
            last_known: Duration::from_secs(random.pick(&[0, 0, 3])),
        };
        let places = random.pick(&[16, 128, 1024]);
        // Mostly room for all; else only for half of them.
        let capacity = if random.per_mille(150) { places / 2 } else { ROOM };
        let keys = vec![
            ("default_action", if terms.default == Verdict::Allow { "allow" } else { "deny" }.to_owned()),
            ("scope", terms.scope.to_owned()),
            ("timeout", format!("{}ms", timeout.as_millis())),
            ("connect_timeout", "100ms".to_owned()),
            ("last_known", format!("{}s", terms.last_known.as_secs())),
            ("inbox.capacity", capacity.to_string()),
            ("overload", random.pick(&["refuse", "default"]).to_owned()),
            ("threads.io", random.pick(&["1", "2"]).to_owned()),
            ("threads.callback", random.pick(&["0", "1", "2"]).to_owned()),
            ("pool.max_connections", random.pick(&["2", "16", "64"]).to_owned()),
            ("pool.idle_timeout", random.pick(&["50ms", "1500ms"]).to_owned()),
            // Addresses count once, and there are three.
            ("breaker.failures", random.pick(&["0", "2"]).to_owned()),
            ("breaker.cooldown", "20ms".to_owned()),
            ("breaker.max_cooldown", "100ms".to_owned()),
            ("refresh.ahead", random.pick(&["0%", "30%"]).to_owned()),
            ("memory.max_decisions", random.pick(&["0", "100", "100000"]).to_owned()),
            ("watch.interval", "200ms".to_owned()),
        ];
        Self { keys, terms, places, capacity, spread: random.pick(&[40, 500, SESSIONS]) }
    }

    pub(crate) fn tight(&self) -> bool {
        self.capacity < ROOM
    }

    pub(crate) fn config(&self, proxy: &str, rule: u64, dead: bool, more: &[(&str, &str)]) -> Config {
        // Port 9 of this machine: whoever answers there would not be a backend.
        let address = if dead { "127.0.0.1:9" } else { proxy };
        let mut config = Config::new();
        let url = [("backend.url", format!("http://{address}/g{rule}"))];
        let more = more.iter().map(|(key, value)| (*key, (*value).to_owned()));
        for (key, value) in url.into_iter().chain(self.keys.iter().cloned()).chain(more) {
            config.set(key, &value).unwrap_or_else(|error| panic!("{key} = {value}: {error}"));
        }
        config
    }
}

/// The texts of a check.
pub(crate) struct Texts {
    pub(crate) session: String,
    ip: String,
    query: String,
}

impl Texts {
    pub(crate) fn of(asked: &Asked) -> Self {
        Self {
            session: format!("{}{}", if asked.mute { 'm' } else { 's' }, asked.session),
            ip: format!("192.0.2.{}", asked.ip),
            query: format!("token={}", asked.token),
        }
    }

    pub(crate) fn check(&self, asked: &Asked) -> Check<'_> {
        Check {
            session_id: self.session.as_bytes(),
            ip: self.ip.as_bytes(),
            path: PATHS[asked.path].as_bytes(),
            query: self.query.as_bytes(),
            fresh: asked.fresh,
            ..Check::default()
        }
    }
}
