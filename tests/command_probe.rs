//! `alta-auth check --probe` against the reference script under real PHP: with the configuration built into
//! PHP its warnings turn a refusal into an allow, and the operator must hear of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(not(feature = "command"))]
compile_error!("run with --features command, as make test does");

mod support;

use std::process::Command;

use support::Php;

fn probe(php: &Php) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_alta-auth"))
        .args(["check", "https://live.example.com/ch/index.m3u8?token=123", "--backend", &php.url()])
        .args(["--probe", "--set", "timeout=10s"])
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn php_that_shows_its_warnings_is_found_out() {
    let php = Php::with_built_in_configuration();
    let (status, shown) = probe(&php);
    assert_eq!(status, Some(3), "{shown}");
    assert!(shown.contains("\n*   without a token: ALLOWED (200)\n"), "{shown}");
    assert!(shown.contains("\n*   with a random token: refused (403)\n"), "{shown}");
    assert!(
        shown.contains("\n* WARNING: THE BACKEND ALLOWS WITHOUT A VALID TOKEN (without a token"),
        "{shown}"
    );
    assert!(shown.contains("display_errors=0"), "{shown}");
    assert_eq!(php.log.count(), 4);
}

#[test]
fn php_with_the_configuration_of_its_package_is_not_accused() {
    let php = Php::new();
    let (status, shown) = probe(&php);
    assert_eq!(status, Some(0), "{shown}");
    assert!(shown.ends_with("\n* Probe: all refused\n"), "{shown}");
}
