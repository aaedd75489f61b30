//! `alta-auth check -`: the command line is seen by others (`ps`, the shell's history), so no secret has to stand on it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(not(feature = "command"))]
compile_error!("run with --features command, as make test does");

#[path = "command/support.rs"]
mod support;

use support::{Backend, run_with_input, text};

const URL: &str = "https://live.example.com/ch/index.m3u8?token=123#t=10";

#[test]
fn the_url_and_a_header_may_come_from_elsewhere_than_the_command_line() {
    let backend = Backend::start(&[]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "canary-header\n").unwrap();
    let header = format!("header.X-Api-Key=@{}", file.path().display());
    let ask = |input: &str| {
        let args = ["check", "-", "--backend", &backend.url, "--set", &header, "--show-secrets"];
        run_with_input(&args, input.as_bytes())
    };
    for input in [
        &format!("{URL}\n")[..],
        &format!("{URL}\r\nhttps://h/other?token=9\n"),
        URL,
        &format!("  {URL} \t\r"),
    ] {
        let output = ask(input);
        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{shown}{}", text(&output.stderr));
        for sent in ["\n> GET /?token=123 HTTP/1.1\n", "\n> X-Api-Key: canary-header\n"] {
            assert!(shown.contains(sent), "{sent} is not in\n{shown}");
        }
    }
    let long = format!("https://h/{}", "canary".repeat(20_000));
    for (wrong, why) in [
        ("", "the client's URL: not a URL"),
        ("\nhttps://h/a?token=123\n", "the client's URL: not a URL"),
        ("h/a?token=canary\n", "the client's URL: not a URL"),
        (&long, "the client's URL: longer than 65536 bytes"),
    ] {
        let output = ask(wrong);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{errors}");
        assert!(errors.contains(why) && !errors.contains("canary") && output.stdout.is_empty(), "{errors}");
    }
    assert_eq!(backend.stats()["requests"], 4);
}
