//! What the tests stand on: real servers, a scripted backend, and a receiver that can be waited for.
//!
//! Every wait ends with the event that it waits for, or fails at [`PATIENCE`]. Everything that is started
//! is ended by the value that started it, and nothing else is. Counts are taken at the backend.

#![allow(dead_code, unused_imports, reason = "each test file is a program of its own and uses its part")]

mod certificates;
mod collect;
mod corpus;
mod dns;
mod fault_proxy;
mod figures;
mod frames;
mod http2_server;
pub(crate) mod layers;
mod limits;
mod log;
mod nginx;
mod php;
mod polling;
mod process;
mod random;
mod rerun;
mod scripted;
mod servers;
pub(crate) mod truth;
mod twins;
mod unit_proxy;
mod warmed;
mod wire;

use std::time::Duration;

use alta_auth::{Check, Config, Decision, Engine, StartError};

pub(crate) use certificates::{Authority, Identity, Shown};
pub(crate) use collect::Collect;
pub(crate) use corpus::{Line, Part, corpus, parts};
pub(crate) use dns::{Dns, Says};
pub(crate) use fault_proxy::{DRIP, Fault, FaultProxy, PAUSE, Place, at_once, head_end, status_line_end};
pub(crate) use figures::{Figures, microseconds};
pub(crate) use frames::{Frame, Kind, field, header_block};
pub(crate) use http2_server::Http2Server;
pub(crate) use limits::{Limit, become_nobody};
pub(crate) use log::Lines;
pub(crate) use nginx::{Fpm, Nginx, NginxOptions, Served};
pub(crate) use php::{AuthLog, Logged, Php};
pub(crate) use polling::{Edges, is_readable, readable_within, wait_readable};
pub(crate) use process::Process;
pub(crate) use random::{Random, mixed};
pub(crate) use rerun::{Rerun, not_possible_here};
pub(crate) use scripted::{Gate, Reply, Request, Scripted, step};
pub(crate) use servers::{Framing, Server};
pub(crate) use twins::twins;
pub(crate) use unit_proxy::{Side, Unit, UnitProxy, Units};
pub(crate) use warmed::{assert_remembered, reaped, warmed};
pub(crate) use wire::{PREFACE, Wire};

/// How long a test waits for what must happen. Reached only by a test that fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// By how much a decision may be later than its time on a busy machine.
pub(crate) const SLACK: Duration = Duration::from_secs(3);

/// The keys, after two that every test wants: a refusal by default, and time enough for a busy machine.
pub(crate) fn config(url: &str, keys: &[(&str, &str)]) -> Config {
    let mut config = Config::new();
    let first =
        [("backend.url", url), ("default_action", "deny"), ("timeout", "10s"), ("connect_timeout", "5s")];
    for (key, value) in first.iter().chain(keys) {
        config.set(key, value).unwrap_or_else(|error| panic!("{key} = {value}: {error}"));
    }
    config
}

pub(crate) fn engine(url: &str, keys: &[(&str, &str)]) -> Engine {
    started(Engine::new(&config(url, keys)))
}

pub(crate) fn started(engine: Result<Engine, StartError>) -> Engine {
    engine.unwrap_or_else(|error| panic!("the engine does not start: {error}"))
}

/// One decision, waited for.
pub(crate) fn ask(engine: &Engine, check: &Check<'_>) -> Decision {
    engine.check_blocking(check).unwrap_or_else(|error| panic!("not accepted: {error}"))
}

/// Waits for what no one announces.
#[track_caller]
pub(crate) fn until(holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "does not come true");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A client with the reference rule's good token.
pub(crate) fn good() -> Check<'static> {
    Check { query: b"token=123", ..bad() }
}

/// The same client with a token that no backend here allows.
pub(crate) fn bad() -> Check<'static> {
    Check {
        session_id: b"s1",
        ip: b"192.0.2.7",
        path: b"/ch/index.m3u8",
        query: b"token=9",
        origin: b"https://live.example.com",
        user_agent: b"VLC/3.0",
        ..Check::default()
    }
}

/// Session ids, one a check, so that no two checks are one question.
pub(crate) fn sessions(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("s{index}")).collect()
}

/// Asserts who decided, and why.
#[track_caller]
pub(crate) fn assert_backend(decision: &Decision, verdict: alta_auth::Verdict, status: u16) {
    assert_eq!(
        (decision.verdict, decision.origin, decision.cause, decision.http_status),
        (verdict, alta_auth::Origin::Backend, alta_auth::Cause::None, Some(status)),
        "{decision:?}: {}",
        decision.detail()
    );
}

/// Asserts that nobody decided, why, and that the default action was taken.
#[track_caller]
pub(crate) fn assert_default(decision: &Decision, verdict: alta_auth::Verdict, cause: alta_auth::Cause) {
    assert_eq!(
        (decision.verdict, decision.origin, decision.cause),
        (verdict, alta_auth::Origin::Default, cause),
        "{decision:?}: {}",
        decision.detail()
    );
}
