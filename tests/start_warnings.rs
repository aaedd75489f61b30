//! What is allowed and may not be meant is said in the log, at each start and at each reload.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use alta_auth::{Config, Engine, LogLevel};
use support::{Lines, started};

const URL: (&str, &str) = ("backend.url", "http://127.0.0.1:9/auth");

fn configured(keys: &[(&str, &str)], lines: &Arc<Lines>) -> Config {
    let mut config = Config::new();
    for (key, value) in [&[("default_action", "deny")], keys].concat() {
        config.set(key, value).unwrap();
    }
    config.set_log(Arc::clone(lines) as _);
    config
}

/// How many warnings have each of these words.
fn warnings(lines: &Lines, words: &[&str]) -> usize {
    let said = |(level, line): &&(LogLevel, String)| {
        *level == LogLevel::Warn && words.iter().all(|word| line.contains(word))
    };
    lines.all().iter().filter(said).count()
}

#[test]
fn scope_session_is_warned_about_at_each_start_and_reload_and_other_scopes_are_not() {
    for (scope, count) in [("session", 1), ("directory", 0), ("path", 0)] {
        let lines = Lines::new();
        let config = configured(&[URL, ("scope", scope)], &lines);
        let words = ["scope = session", "never take it from a client"];
        let engine = started(Engine::new(&config));
        assert_eq!(warnings(&lines, &words), count, "{scope}: {:?}", lines.all());
        engine.reload(&config).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(warnings(&lines, &words), 2 * count, "{scope}: {:?}", lines.all());
    }
}

/// What an operator reads afterwards: when it began and ended, and which configuration it had when.
#[test]
fn starts_ends_and_reloads_are_lines_of_the_log() {
    let lines = Lines::new();
    let info = ("log.level", "info");
    let two = ("backend.url", "http://127.0.0.1:9/a?k=c4n4ry,http://127.0.0.1:9/b");
    let engine = started(Engine::new(&configured(&[URL, info], &lines)));
    engine.reload(&configured(&[URL, info, ("timeout", "1s")], &lines)).unwrap();
    engine.reload(&configured(&[two, info], &lines)).unwrap();
    engine.reload(&configured(&[two, info, ("threads.io", "7")], &lines)).unwrap_err();
    assert!(engine.shutdown(std::time::Duration::ZERO));
    drop(engine);
    let said = |words: [&str; 2]| {
        lines.all().iter().filter(|(_, line)| words.iter().all(|word| line.contains(word))).count()
    };
    assert_eq!(said(["started: asks http://127.0.0.1:9, default action deny", ""]), 1, "{:?}", lines.all());
    assert_eq!(said(["reloaded: ", ""]), 2, "{:?}", lines.all());
    let other = "reloaded: asks http://127.0.0.1:9 and http://127.0.0.1:9#2, default action deny";
    assert_eq!(said([other, "what was remembered is forgotten"]), 1, "{:?}", lines.all());
    assert_eq!(said(["the configuration stays as it was: ", "threads.io"]), 1, "{:?}", lines.all());
    assert_eq!(said(["shut down: of 0 checks 0 were delivered", ""]), 1, "{:?}", lines.all());
    assert_eq!(said(["c4n4ry", ""]), 0, "{:?}", lines.all());
}

/// The preset that sets the scope is warned about, too: the host still has to make the ids.
#[test]
fn a_preset_that_sets_scope_session_is_warned_about() {
    let lines = Lines::new();
    drop(started(Engine::new(&configured(&[URL, ("backend.preset", "ministra")], &lines))));
    assert_eq!(warnings(&lines, &["scope = session"]), 1, "{:?}", lines.all());
}

#[test]
fn a_connect_timeout_that_leaves_no_time_for_another_backend_is_warned_about() {
    let two = ("backend.url", "http://127.0.0.1:9/auth,http://127.0.0.1:9/other");
    for (url, connect, timeout, count) in [
        (two, "500ms", "400ms", 1),
        (two, "500ms", "500ms", 1),
        (two, "499ms", "500ms", 0),
        (URL, "500ms", "400ms", 0),
    ] {
        let lines = Lines::new();
        let keys = [url, ("connect_timeout", connect), ("timeout", timeout)];
        drop(started(Engine::new(&configured(&keys, &lines))));
        assert_eq!(warnings(&lines, &["connect_timeout = ", connect, timeout]), count, "{:?}", lines.all());
    }
}

#[test]
fn a_configuration_file_with_a_secret_that_every_user_can_read_is_warned_about_at_each_start() {
    const SECRET: &str = "c4n4ry";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("auth.toml");
    for (text, mode, count) in [
        ("header.X-Key = \"c4n4ry\"", 0o644, 1),
        ("header.X-Key = \"c4n4ry\"", 0o640, 0),
        ("backend.url = \"http://u:c4n4ry@127.0.0.1:9/auth\"", 0o604, 1),
        ("timeout = \"2s\"", 0o644, 0),
    ] {
        let lines = Lines::new();
        let mut config = configured(&[URL], &lines);
        std::fs::write(&path, text).unwrap();
        set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        config.load(&path).unwrap();
        for starts in 1..=2 {
            drop(started(Engine::new(&config)));
            let found = warnings(&lines, &[path.to_str().unwrap(), "every user can read it"]);
            assert_eq!(found, starts * count, "{text} {mode:o}: {:?}", lines.all());
        }
        assert!(lines.all().iter().all(|(_, line)| !line.contains(SECRET)), "{:?}", lines.all());
    }
}

#[test]
fn a_file_that_holds_a_header_and_that_every_user_can_read_is_warned_about() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    std::fs::write(&path, "c4n4ry").unwrap();
    for (mode, count) in [(0o644, 1), (0o600, 0)] {
        set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let lines = Lines::new();
        let value = format!("@{}", path.display());
        drop(started(Engine::new(&configured(&[URL, ("header.X-Key", &value)], &lines))));
        assert_eq!(warnings(&lines, &["header.X-Key", "every user can read it"]), count, "{:?}", lines.all());
    }
}
