//! What the tests of this room start from.

use std::path::PathBuf;

use crate::check::{Check, Question, Rules};
use crate::config::{Address, BackendUrl, Config, Scheme, ScopeRule, Settings};

pub(super) fn check() -> Check<'static> {
    Check {
        session_id: b"s1",
        ip: b"192.0.2.7",
        path: b"/ch/index.m3u8",
        query: b"token=123",
        origin: b"https://live.example.com",
        user_agent: b"VLC/3.0",
        ..Check::default()
    }
}

pub(super) fn question(check: &Check<'_>) -> Question {
    Question::new(check, Rules { scope: ScopeRule::Path, path_check: false, path_in_key: false }).unwrap()
}

pub(super) fn url(path: &str, query: Option<&str>) -> BackendUrl {
    BackendUrl {
        scheme: Scheme::Unix,
        address: Address::Unix(PathBuf::from("/run/auth.sock")),
        path: path.to_owned(),
        query: query.map(str::to_owned),
        authorization: None,
        twins: 0,
    }
}

pub(super) fn settings(params: &[(&str, &str)], headers: &[(&str, &str)], protect: &[&str]) -> Settings {
    let mut config = Config::new();
    config.set("backend.url", "unix:/run/auth.sock:/auth").unwrap();
    config.set("default_action", "deny").unwrap();
    config.set("protect_params", &protect.join(",")).unwrap();
    for (name, value) in params {
        config.set(&format!("param.{name}"), value).unwrap();
    }
    for (name, value) in headers {
        config.set(&format!("header.{name}"), value).unwrap();
    }
    config.settings().unwrap()
}
