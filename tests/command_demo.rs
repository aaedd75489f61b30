//! `alta-auth demo`: the first thing a new user runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(not(feature = "command"))]
compile_error!("run with --features command, as make test does");

#[path = "command/support.rs"]
mod support;

use support::{run, text};

#[test]
fn the_demo_is_as_expected_and_fits_on_a_screen() {
    let output = run(&["demo"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}\n{}", text(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    assert!((25..=45).contains(&shown.lines().count()), "{shown}");
    assert!(shown.lines().all(|line| line.len() <= 100), "{shown}");
    assert!(shown.contains("\nEverything was as expected."), "{shown}");
}
