//! `alta-auth verify`: batches from files and pipes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(not(feature = "command"))]
compile_error!("run with --features command, as make test does");

#[path = "command/support.rs"]
mod support;

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel as channel;
use serde_json::Value;
use support::{Backend, PATIENCE, command, hanging, refusing, run, run_with_input, scripted, signal, text};

fn lines(stdout: &[u8]) -> Vec<Value> {
    text(stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn lines_of(lines: impl Iterator<Item = String>) -> String {
    lines.flat_map(|line| [line, "\n".to_owned()]).collect()
}

fn by_line(stdout: &[u8]) -> Vec<Value> {
    let mut lines = lines(stdout);
    lines.sort_by_key(|line| line["line"].as_u64());
    lines
}

/// `verify -` with its three ends in hand. Killed when dropped.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    decisions: channel::Receiver<String>,
    messages: channel::Receiver<String>,
}

/// Lines as they come, so that waiting for one that never comes has an end.
fn lines_from(pipe: impl Read + Send + 'static) -> channel::Receiver<String> {
    let (sender, lines) = channel::bounded(1024);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            if sender.send(line.unwrap()).is_err() {
                return;
            }
        }
    });
    lines
}

impl Running {
    fn start(backend: &str, more: &[&str]) -> Self {
        let mut child = command(&[&["verify", "-", "--backend", backend], more].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let decisions = lines_from(child.stdout.take().unwrap());
        let messages = lines_from(child.stderr.take().unwrap());
        Self { child, stdin, decisions, messages }
    }

    fn write(&mut self, input: &str) {
        self.stdin.as_mut().unwrap().write_all(input.as_bytes()).unwrap();
    }

    fn read(&self) -> Value {
        serde_json::from_str(&self.decisions.recv_timeout(PATIENCE).unwrap()).unwrap()
    }

    fn message(&self) -> String {
        self.messages.recv_timeout(PATIENCE).unwrap()
    }

    /// Its exit status, and what it still said; there must be no decision left.
    fn end(&mut self) -> (Option<i32>, Vec<String>) {
        let mut said = Vec::new();
        loop {
            match self.messages.recv_timeout(PATIENCE) {
                Ok(line) => said.push(line),
                Err(channel::RecvTimeoutError::Disconnected) => break,
                Err(channel::RecvTimeoutError::Timeout) => panic!("it does not end; {said:?}"),
            }
        }
        assert_eq!(self.decisions.recv_timeout(PATIENCE), Err(channel::RecvTimeoutError::Disconnected));
        (self.child.wait().unwrap().code(), said)
    }

    /// The most memory it ever had, in KiB.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn objects_and_urls_are_decided_by_the_backend() {
    let backend = Backend::start(&[]);
    let input = concat!(
        "{\"session_id\":\"s1\",\"ip\":\"192.0.2.7\",\"url\":\"https://live.example.com/ch/index.m3u8?token=123\"}\n",
        "\n",
        "{\"session_id\":\"s2\",\"path\":\"/ch/1.ts\",\"query\":\"token=9\",\"origin\":\"https://h\",\"user_agent\":\"u\",\"scope\":\"ch\"}\r\n",
        "https://live.example.com/ch/index.m3u8?token=123",
    );
    let output = run_with_input(&["verify", "-", "--backend", &backend.url], input.as_bytes());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let decided: Vec<_> = by_line(&output.stdout)
        .into_iter()
        .map(|line| {
            (
                line["line"].as_u64(),
                line["verdict"].clone(),
                line["origin"].clone(),
                line["http_status"].as_u64(),
            )
        })
        .collect();
    let expected =
        |number, verdict: &str, status| (Some(number), verdict.into(), "backend".into(), Some(status));
    assert_eq!(decided, [expected(1, "allow", 200), expected(3, "deny", 403), expected(4, "allow", 200)]);

    let log = backend.log();
    for part in [
        "X-Session-Id=\"s1\" X-Real-Ip=\"192.0.2.7\" X-Real-Path=\"/ch/index.m3u8\" X-Real-Origin=\"https://live.example.com\"",
        "X-Session-Id=\"s2\" X-Real-Ip=\"\" X-Real-Path=\"/ch/1.ts\" X-Real-Origin=\"https://h\" X-Real-Ua=\"u\"",
        "X-Session-Id=\"line-4\"",
    ] {
        assert!(log.contains(part), "{part} is not in\n{log}");
    }
    let summary = text(&output.stderr);
    assert!(summary.starts_with("2 allowed, 1 denied, 0 by default, 0 lines bad; "), "{summary}");
    assert!(
        summary.contains("\nlatency: p50 ") && summary.contains("\n3 exchanges, 0 checks coalesced, "),
        "{summary}"
    );
    assert!(!summary.contains('\x1b'), "a bar where there is no terminal");
}

#[test]
fn a_bad_line_is_reported_and_the_rest_goes_on() {
    let backend = Backend::start(&[]);
    let mut input = Vec::new();
    for line in [
        &b"https://h/a?token=123"[..],
        b"{\"session_id\":\"s\",\"url\":\"https://h/a\",\"token\":\"canary\"}",
        b"not a url canary",
        b"{\"session_id\":\"s\",\"url\":\"https://h/canary\xff\"}",
        b"{\"url\":\"https://h/a?token=canary\"}",
        b"https://h/a/../b?token=canary",
        &[b"https://h/a?token=", "x".repeat(2_000_000).as_bytes()].concat(),
        b"https://h/\xff?token=123",
    ] {
        input.extend_from_slice(line);
        input.push(b'\n');
    }
    for order in [&[][..], &["--ordered"]] {
        let output = run_with_input(&[&["verify", "-", "--backend", &backend.url], order].concat(), &input);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        let lines = by_line(&output.stdout);
        let verdicts: Vec<_> = lines.iter().map(|line| line["verdict"].as_str()).collect();
        assert_eq!(verdicts, [Some("allow"), None, None, None, None, None, None, Some("allow")]);
        let errors = text(&output.stderr);
        for (number, why) in [
            (2, "unknown field \"token\"; known are session_id, ip, url"),
            (3, "not a URL"),
            (4, "not UTF-8"),
            (5, "session_id is empty"),
            (6, "path has "),
            (7, "longer than 65536 bytes"),
        ] {
            assert!(lines[number - 1]["error"].as_str().unwrap().contains(why), "{}", lines[number - 1]);
            assert!(errors.contains(&format!("alta-auth: line {number}: ")), "{errors}");
        }
        assert!(errors.contains("2 allowed, 0 denied, 0 by default, 6 lines bad; "), "{errors}");
        assert!(!errors.contains("canary") && !text(&output.stdout).contains("canary"));
    }
}

#[test]
fn undetermined_lines_are_status_2() {
    let (_held, address) = refusing();
    let output =
        run_with_input(&["verify", "-", "--backend", &format!("http://{address}/")], b"https://h/a\n");
    assert_eq!(output.status.code(), Some(2));
    let line = &lines(&output.stdout)[0];
    assert_eq!(
        (&line["verdict"], &line["origin"], &line["cause"]),
        (&"deny".into(), &"default".into(), &"connect".into())
    );
    assert!(
        text(&output.stderr).contains("\nby default because of: connect 1\n"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_deny_says_why_also_where_its_status_allows() {
    let backend = Backend::start(&["--rule", "smarty-200"]);
    backend.get("/_alta/create?token=good");
    backend.get("/_alta/create?token=old&lifetime=0");
    let url = format!("{}/tvmiddleware/api/streamservice/token/check/", backend.url);
    let keys = ["--set", "backend.preset=smarty", "--set", "param.ip="];
    let input = b"/ch/a?token=good\n/ch/a?token=old\n";
    let output = run_with_input(&[&["verify", "-", "--backend", &url], &keys[..]].concat(), input);
    let decided = by_line(&output.stdout);
    let said = |line: &Value| (line["http_status"].as_u64(), line["detail"].as_str().map(str::to_owned));
    assert_eq!(said(&decided[0]), (Some(200), None), "{decided:?}");
    assert_eq!(said(&decided[1]), (Some(200), Some("verdict.body does not hold".to_owned())), "{decided:?}");

    // Each line is a session of its own.
    let unique =
        b"HTTP/1.1 200 OK\r\nX-UserId: u\r\nX-Unique: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let url = format!("http://{}/", scripted(|_| unique.to_vec()));
    let args = ["verify", "-", "--backend", &url, "--set", "sessions.enforce=newest", "--window", "1"];
    let decided = by_line(&run_with_input(&args, b"/a\n/a\n").stdout);
    assert_eq!(said(&decided[0]), (Some(200), None), "{decided:?}");
    assert_eq!((&decided[1]["verdict"], &decided[1]["origin"]), (&"deny".into(), &"backend".into()));
    let why = decided[1]["detail"].as_str().unwrap_or_default();
    assert!(why.contains("session"), "{decided:?}");
}

#[test]
fn what_a_backend_repeats_of_a_query_is_shown_only_when_secrets_are() {
    let backend = scripted(|head| {
        let token = head.split("token=").nth(1).unwrap().split([' ', '&']).next().unwrap();
        let said = match head.contains("X-Real-Path: /a\r\n") {
            true => format!("200 OK\r\nX-UserId: user-{token}"),
            false if head.contains("X-Real-Path: /c\r\n") => "200 OK\r\nX-UserId: alice".to_owned(),
            false => format!("302 Found\r\nLocation: http://login.example.com/{token}?back={token}"),
        };
        format!("HTTP/1.1 {said}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
    });
    let url = format!("http://{backend}/");
    let input =
        b"/a?token=canary-1\n{\"session_id\":\"s\",\"path\":\"/b\",\"query\":\"to=login&token=canary-2\"}\n\
          /c?user=alice&token=1\n/c?token=alice\n";
    let said = |more: &[&str]| {
        let output = run_with_input(&[&["verify", "-", "--backend", &url], more].concat(), input);
        let lines = by_line(&output.stdout);
        let told = [&lines[0]["user_id"], &lines[1]["location"], &lines[2]["user_id"], &lines[3]["user_id"]];
        told.map(|said| said.as_str().unwrap().to_owned())
    };
    for more in [&[][..], &["--ordered"]] {
        // Who the client is, and where it is sent, are what the lines are read for.
        assert_eq!(said(more), ["user-…", "http://login.example.com/…?back=…", "alice", "…"]);
    }
    assert_eq!(
        said(&["--show-secrets"]),
        ["user-canary-1", "http://login.example.com/canary-2?back=canary-2", "alice", "alice"]
    );
}

#[test]
fn lines_that_got_what_the_backend_said_before_are_status_2_and_counted_apart() {
    let answered = AtomicBool::new(false);
    let backend = scripted(move |_| match answered.swap(true, Ordering::Relaxed) {
        false => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
        true => Vec::new(),
    });
    let backend = format!("http://{backend}/");
    let args = ["verify", "-", "--backend", &backend, "--session", "s", "--window", "1"];
    let output = run_with_input(&[&args[..], &["--set", "last_known=1h"]].concat(), b"/a\n/a\n");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    let lines = by_line(&output.stdout);
    let origins = [&lines[0]["origin"], &lines[1]["origin"]];
    assert_eq!(origins, ["backend", "last_known"], "{lines:?}");
    let summary = text(&output.stderr);
    for part in [
        "\n1 allowed, 0 denied, 1 last known, 0 by default, 0 lines bad; ",
        "\nlast known because of: reset 1\n",
    ] {
        assert!(summary.contains(part), "{part:?} is not in\n{summary}");
    }
}

#[test]
fn options_stand_in_for_what_a_line_does_not_say() {
    let backend = Backend::start(&[]);
    let options = ["--session", "all", "--ip", "192.0.2.1", "--user-agent", "ua", "--scope", "sc"];
    let args = [&["verify", "-", "--backend", &backend.url][..], &options].concat();
    run_with_input(&args, b"/a?token=123\n");
    let expected = "X-Session-Id=\"all\" X-Real-Ip=\"192.0.2.1\" X-Real-Path=\"/a\" X-Real-Origin=\"\" X-Real-Ua=\"ua\"\n";
    assert!(backend.log().contains(expected), "{}", backend.log());
}

#[test]
fn without_an_input_or_a_backend_it_says_so() {
    let output = run(&["verify", "/nonexistent/lines", "--backend", "http://127.0.0.1:1/"]);
    assert_eq!(output.status.code(), Some(66));
    assert!(text(&output.stderr).contains("/nonexistent/lines: "));
    let output = run(&["verify", "/", "--backend", "http://127.0.0.1:1/"]);
    assert_eq!(output.status.code(), Some(74));
    let said = text(&output.stderr);
    assert!(said.starts_with("alta-auth: cannot read on at line 1: ") && said.lines().count() == 1, "{said}");
    assert_eq!(run(&["verify", "-"]).status.code(), Some(64));
    assert_eq!(
        run(&["verify", "-", "--backend", "http://127.0.0.1:1/", "--window", "0"]).status.code(),
        Some(64)
    );
}

/// Answers `/first` only after `others` further requests.
fn first_is_last(others: usize) -> String {
    let (answered, count) = channel::unbounded();
    let address = scripted(move |head| {
        if head.contains("X-Real-Path: /first") {
            for _ in 0..others {
                count.recv_timeout(PATIENCE).unwrap();
            }
        } else {
            answered.send(()).unwrap();
        }
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()
    });
    format!("http://{address}/auth")
}

#[test]
fn decisions_come_in_the_order_of_completion_unless_the_inputs_is_asked_for() {
    let input = lines_of((1..=40).map(|number| match number {
        1 => "https://h/first".to_owned(),
        10 | 20 | 30 | 40 => "bad".to_owned(),
        _ => format!("https://h/{number}"),
    }));
    let numbers = |more: &[&str]| -> Vec<u64> {
        let backend = first_is_last(35);
        let output =
            run_with_input(&[&["verify", "-", "--backend", &backend], more].concat(), input.as_bytes());
        lines(&output.stdout).iter().map(|line| line["line"].as_u64().unwrap()).collect()
    };
    let completed = numbers(&[]);
    assert_eq!((completed.len(), completed.last()), (40, Some(&1)));
    assert_eq!(numbers(&["--ordered"]), (1..=40).collect::<Vec<u64>>());
}

#[test]
fn in_order_no_more_than_the_window_waits_for_a_slow_line() {
    // The first line is answered after 7 others; with a window of 8 no more than those are asked before it.
    let backend = first_is_last(7);
    let input = lines_of((1..=100).map(|number| match number {
        1 => "https://h/first".to_owned(),
        _ => format!("https://h/{number}"),
    }));
    let output = run_with_input(
        &["verify", "-", "--backend", &backend, "--ordered", "--window", "8"],
        input.as_bytes(),
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(lines(&output.stdout).len(), 100);

    let starved = first_is_last(8);
    let args = ["verify", "-", "--backend", &starved, "--ordered", "--window", "8", "--set", "timeout=500ms"];
    let output = run_with_input(&args, input.as_bytes());
    assert_eq!(
        lines(&output.stdout)[0]["cause"],
        "timeout",
        "an eighth line was asked while the first was out"
    );
}

#[test]
fn a_window_beyond_what_the_engine_takes_loses_no_line() {
    let backend = Backend::start(&["--quiet"]);
    let input = lines_of((1..=2000).map(|number| format!("https://h/{number}?token=123")));
    for more in [&[][..], &["--ordered"]] {
        let args = ["verify", "-", "--backend", &backend.url, "--set", "inbox.capacity=64"];
        let output = run_with_input(&[&args, more].concat(), input.as_bytes());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let mut numbers: Vec<_> =
            lines(&output.stdout).iter().map(|line| line["line"].as_u64().unwrap()).collect();
        if more.is_empty() {
            numbers.sort_unstable();
        }
        assert_eq!(numbers, (1..=2000).collect::<Vec<u64>>());
    }
}

#[test]
fn a_server_s_rule_for_an_overload_decides_no_line() {
    let backend = Backend::start(&["--quiet"]);
    let input = lines_of((1..=2000).map(|number| format!("https://h/{number}?token=123")));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "overload = \"default\"\ninbox.capacity = 100\ntimeout = \"1m\"\n").unwrap();
    let config = file.path().to_str().unwrap();
    let args = ["verify", "-", "--backend", &backend.url, "--config", config];
    let output = run_with_input(&args, input.as_bytes());
    let lines = lines(&output.stdout);
    let by_backend = lines.iter().filter(|line| line["origin"] == "backend" && line["verdict"] == "allow");
    assert_eq!((lines.len(), by_backend.count()), (2000, 2000), "{}", text(&output.stderr));
    assert_eq!(backend.stats()["requests"], 2000);
}

#[test]
fn a_decision_goes_out_while_the_input_waits() {
    let backend = Backend::start(&[]);
    let mut verify = Running::start(&backend.url, &[]);
    verify.write("https://h/a?token=123\n");
    assert_eq!(verify.read()["verdict"], "allow");
    verify.write("https://h/a?token=9\n");
    assert_eq!(verify.read()["verdict"], "deny");
    drop(verify.stdin.take());
    assert_eq!(verify.end().0, Some(0));
}

#[test]
fn a_hundred_thousand_lines_take_no_more_memory_than_twenty_thousand() {
    let backend = Backend::start(&["--quiet"]);
    // Time enough for a busy machine: what is counted here is memory.
    let keys = ["--set", "pool.max_connections=16", "--set", "timeout=1m"];
    let mut verify = Running::start(&backend.url, &keys);
    let mut stdin = verify.stdin.take().unwrap();
    let (go_on, wait) = channel::bounded::<()>(1);
    // On a thread, since the command reads no more lines than it can decide.
    let writer = std::thread::spawn(move || {
        for number in 1..=100_000 {
            if number == 20_001 {
                wait.recv_timeout(PATIENCE * 4).unwrap();
            }
            let token = if number % 3 == 0 { "9" } else { "123" };
            writeln!(stdin, "https://live.example.com/ch{}/index.m3u8?token={token}&n={number}", number % 50)
                .unwrap();
        }
        stdin
    });
    let mut seen = vec![false; 100_001];
    let mut read = |verify: &Running, count: usize| {
        for _ in 0..count {
            let line = verify.read();
            let number = line["line"].as_u64().unwrap();
            assert_eq!(line["verdict"], if number.is_multiple_of(3) { "deny" } else { "allow" }, "{line}");
            assert!(!std::mem::replace(&mut seen[usize::try_from(number).unwrap()], true), "{number} twice");
        }
    };
    read(&verify, 20_000);
    let early = verify.peak();
    go_on.send(()).unwrap();
    read(&verify, 80_000);
    let late = verify.peak();
    drop(writer.join().unwrap());
    assert_eq!(verify.end().0, Some(0));
    // 80,000 lines kept, at 100 bytes each, would be 8 MB.
    assert!(late < early + 4096, "{early} KiB after 20,000 lines, {late} KiB after 100,000");
    assert!(late < 128 * 1024, "{late} KiB");
}

#[test]
fn an_interrupt_finishes_what_is_in_flight_and_names_the_next_line() {
    let (asked, was_asked) = channel::unbounded();
    let (release, released) = channel::bounded::<()>(1);
    let address = scripted(move |head| {
        if head.contains("X-Real-Path: /slow") {
            asked.send(()).unwrap();
            released.recv_timeout(PATIENCE).unwrap();
        }
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()
    });
    let address = format!("http://{address}/");
    let mut verify = Running::start(&address, &["--set", "timeout=20s", "--window", "1"]);
    verify.write("https://h/a\n\nhttps://h/slow\nhttps://h/b\nhttps://h/c\n");
    assert_eq!(verify.read()["line"], 1);
    was_asked.recv_timeout(PATIENCE).unwrap();
    signal(&verify.child, "INT");
    assert_eq!(verify.message(), "alta-auth: finishing 1 check; interrupt again to end at once");
    release.send(()).unwrap();
    let line = verify.read();
    assert_eq!((&line["line"], &line["verdict"]), (&3.into(), &"allow".into()));
    let (status, said) = verify.end();
    assert_eq!(status, Some(130), "{said:?}");
    assert_eq!(said.last().unwrap(), "alta-auth: stopped before line 4; go on with --from-line 4");
}

#[test]
fn a_second_interrupt_ends_it_at_once() {
    let (_listener, address) = hanging();
    let mut verify = Running::start(&format!("http://{address}/"), &["--set", "timeout=60s"]);
    // The bad line's report says that the line before it has been submitted.
    verify.write("https://h/a\nbad\n");
    assert!(verify.message().starts_with("alta-auth: line 2: "));
    assert_eq!(verify.read()["line"], 2);
    signal(&verify.child, "INT");
    assert_eq!(verify.message(), "alta-auth: finishing 1 check; interrupt again to end at once");
    signal(&verify.child, "INT");
    assert_eq!(verify.end().0, Some(130));
}

#[test]
fn from_line_skips_and_keeps_the_numbers() {
    let backend = Backend::start(&[]);
    let args = ["verify", "-", "--backend", &backend.url, "--from-line", "3"];
    let output = run_with_input(&args, b"bad\nhttps://h/2?token=123\nhttps://h/3?token=123\nhttps://h/4\n");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let numbers: Vec<_> = by_line(&output.stdout).iter().map(|line| line["line"].as_u64()).collect();
    assert_eq!(numbers, [Some(3), Some(4)]);
    assert_eq!(backend.stats()["requests"], 2);
}

#[test]
fn an_output_that_nobody_reads_ends_it_quietly() {
    let backend = Backend::start(&["--quiet"]);
    let mut child = command(&["verify", "-", "--backend", &backend.url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    let messages = lines_from(child.stderr.take().unwrap());
    // Until the command ends, and its end of the pipe with it.
    while stdin.write_all(b"https://h/a?token=123\n").is_ok() {}
    assert_eq!(child.wait().unwrap().code(), Some(141));
    let said: Vec<String> = messages.iter().collect();
    assert!(
        said.iter().all(|line| !line.starts_with("alta-auth: ") && !line.contains("panicked")),
        "{said:?}"
    );
}

/// `script` gives the command a terminal and shows what the command wrote to it.
#[test]
fn a_progress_bar_never_mixes_with_the_decisions() {
    let backend = Backend::start(&["--quiet"]);
    let shown = |redirection: &str| {
        let lines = "for i in 1 2 3; do echo 'https://h/a?token=123'; done";
        let verify = format!("{} verify - --backend {}", env!("CARGO_BIN_EXE_alta-auth"), backend.url);
        let output = std::process::Command::new("script")
            .args(["--quiet", "--return", "--command"])
            .arg(format!("({lines}) | {verify} {redirection}"))
            .arg("/dev/null")
            .stdin(Stdio::null())
            .output()
            .expect("`make setup` installs script");
        assert_eq!(output.status.code(), Some(0));
        text(&output.stdout)
    };
    let (bar, decision) = ("\u{1b}[", "\"verdict\":\"allow\"");
    let alone = shown("");
    assert_eq!((alone.matches(decision).count(), alone.contains(bar)), (3, false), "{alone:?}");
    let beside = shown(">/dev/null");
    assert_eq!((beside.matches(decision).count(), beside.contains(bar)), (0, true), "{beside:?}");
}

#[test]
fn an_output_that_takes_nothing_is_status_74() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = command(&["config"]).stdout(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(74));
    assert!(text(&output.stderr).starts_with("alta-auth: cannot write: "), "{}", text(&output.stderr));
}

#[test]
fn a_file_is_read_as_a_pipe_is() {
    let backend = Backend::start(&[]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "https://h/a?token=123\nhttps://h/a?token=9").unwrap();
    let output = run(&["verify", file.path().to_str().unwrap(), "--backend", &backend.url]);
    assert_eq!(output.status.code(), Some(0));
    let verdicts: Vec<_> = by_line(&output.stdout).iter().map(|line| line["verdict"].clone()).collect();
    assert_eq!(verdicts, ["allow", "deny"]);
}
