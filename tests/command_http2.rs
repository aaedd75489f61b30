//! `alta-auth check` over HTTP/2, whose frames are no text: what was read out of them is shown.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(not(feature = "command"))]
compile_error!("run with --features command, as make test does");

mod support;

use std::process::Command;

use support::{Frame, Http2Server, Kind, Reply, Scripted, header_block};

#[test]
fn each_of_two_backends_is_shown_with_its_own_status() {
    let servers = [(); 2].map(|()| Http2Server::new(None));
    let [refuses, allows] = servers.each_ref().map(Http2Server::address);
    let urls = format!("http://{refuses}/,http://{allows}/?also=token=123");
    let output = Command::new(env!("CARGO_BIN_EXE_alta-auth"))
        .args(["check", "https://live.example.com/ch/index.m3u8?token=9", "--backend", &urls])
        .args(["--set", "backend.mode=any", "--set", "http.version=h2c"])
        // Neither status allows, so that both are waited for.
        .args(["--set", "allow_statuses=204", "--set", "timeout=10s"])
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{shown}{}", String::from_utf8_lossy(&output.stderr));
    for (address, status) in [(refuses, 403), (allows, 200)] {
        let attempt = shown
            .split("* Connecting to ")
            .find(|attempt| attempt.starts_with(&format!("http://{address}\n")));
        let replies: Vec<_> = attempt.unwrap().lines().filter(|line| line.starts_with("< ")).collect();
        assert_eq!(replies, [format!("< HTTP/2 {status}")], "{shown}");
    }
    assert_eq!(servers.map(|server| server.asked().len()), [1, 1]);
}

#[test]
fn an_answer_that_breaks_a_rule_is_not_called_another_service() {
    let of_another = header_block(&[(":status", "200"), ("x-session-id", "other")]);
    let backend = Scripted::http2(
        |_| Reply::raw(Frame::new(Kind::SETTINGS, 0, 0, []).bytes()),
        move |request| Reply::raw(Frame::headers(Frame::END_STREAM, request.stream, &of_another)),
    );
    let output = Command::new(env!("CARGO_BIN_EXE_alta-auth"))
        .args(["check", "https://live.example.com/ch/index.m3u8?token=123", "--backend", &backend.url()])
        .args(["--set", "http.version=h2c", "--set", "timeout=10s"])
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{shown}{}", String::from_utf8_lossy(&output.stderr));
    let advice = format!("\n* http://{} speaks HTTP, but its answer ", backend.address());
    assert!(shown.contains("\n* UNDETERMINED (protocol): ") && shown.contains(&advice), "{shown}");
}
