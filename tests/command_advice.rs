//! `alta-auth check`: what it says of the answer, or of there being none, is so, and names whose it was.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(not(feature = "command"))]
compile_error!("run with --features command, as make test does");

#[path = "command/support.rs"]
mod support;

use support::{hanging, refusing, run, scripted, text};

/// What is shown of a check that ends with this status.
#[track_caller]
fn shown(backend: &str, keys: &[&str], status: i32) -> String {
    let sets = keys.iter().flat_map(|key| ["--set", key]);
    let first = ["check", "https://live.example.com/ch/index.m3u8?token=123", "--backend", backend];
    let output = run(&first.into_iter().chain(sets).collect::<Vec<_>>());
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(status), "{shown}\n{}", text(&output.stderr));
    shown
}

fn answering(reply: &'static str) -> String {
    format!("http://{}", scripted(move |_| reply.as_bytes().to_vec()))
}

#[test]
fn of_several_asked_at_once_the_advice_is_about_the_one_whose_outage_decided() {
    let ((_held, refuses), (_listener, hangs)) = (refusing(), hanging());
    let urls = format!("http://{refuses}/,http://{hangs}/");
    let shown = shown(&urls, &["backend.mode=any", "timeout=1s"], 2);
    assert!(shown.contains("* UNDETERMINED (connect): "), "{shown}");
    let advice = format!(
        "* The connection is refused: the machine answers, but nothing listens at http://{refuses}. "
    );
    assert!(shown.contains(&advice), "{shown}");
}

#[test]
fn of_an_allowing_status_whose_body_was_cut_short_it_is_said_that_it_came() {
    let url = answering("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"err");
    let shown = shown(&url, &["verdict.body=json:error==0"], 2);
    assert!(shown.contains("* UNDETERMINED (reset): "), "{shown}");
    let advice = format!(
        "* {url} answered with status 200, and closed the connection before its answer was complete: "
    );
    assert!(shown.contains(&advice), "{shown}");
    assert!(!shown.contains("without an answer"), "{shown}");
}

#[test]
fn a_redirect_that_is_allowed_is_not_called_a_refusal() {
    let url =
        answering("HTTP/1.1 302 Found\r\nLocation: http://cdn.example.com/\r\nContent-Length: 0\r\n\r\n");
    let allowed = shown(&url, &["allow_statuses=200,302"], 0);
    assert!(allowed.contains("* ALLOW: the backend allows with status 302\n"), "{allowed}");
    assert!(!allowed.contains("refus"), "{allowed}");
    let refused = shown(&url, &[], 1);
    assert!(refused.contains("* A redirect is never followed: it is a refusal."), "{refused}");
}

#[test]
fn how_long_a_decision_may_be_reused_is_what_an_engine_would_do() {
    let url = answering("HTTP/1.1 200 OK\r\nX-AuthDuration: 36000\r\nContent-Length: 0\r\n\r\n");
    let reused = "* The decision may be reused for ";
    assert!(shown(&url, &[], 0).contains(&format!("{reused}36000 s\n")));
    let nothing = shown(&url, &["memory.max_decisions=0"], 0);
    assert!(!nothing.contains(reused), "{nothing}");
    let url = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let shown = shown(&url, &["ttl.allow=500ms"], 0);
    assert!(shown.contains(&format!("{reused}500 ms\n")), "{shown}");
}

#[test]
fn a_default_action_that_one_check_alone_does_not_get_is_not_promised() {
    let (_held, refuses) = refusing();
    let url = format!("http://{refuses}/");
    let undetermined = |more: &[&str]| {
        let keys = [&["default_action=allow"], more].concat();
        let shown = shown(&url, &keys, 2);
        shown.lines().find(|line| line.starts_with("* UNDETERMINED")).unwrap().to_owned()
    };
    let gave_none = "* UNDETERMINED (connect): the backend gave no answer; the default action is allow";
    assert_eq!(undetermined(&[]), gave_none);
    assert_eq!(
        undetermined(&["fail_open=corroborated"]),
        format!("{gave_none}, but nobody else met an outage (fail_open = corroborated): denied")
    );
    // Its own outage opens the breaker, and then an engine allows.
    assert_eq!(undetermined(&["fail_open=corroborated", "breaker.failures=1"]), gave_none);
}
