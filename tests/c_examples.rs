//! Each program of `ffi-examples/`, built with its Makefile and driven as a person would: curl in front, the
//! embedded backend or PHP behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(not(feature = "command"))]
compile_error!("run with --features command, as make test does");

#[path = "command/support.rs"]
mod backends;
#[path = "toolchain/example.rs"]
mod example;
mod support;
mod toolchain;

use std::io::Read as _;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use backends::{Backend, PATIENCE, scripted, signal};
use example::{Example, Hls, OUTAGE, PLAYLIST, Player, answer, packets, url};
use support::Php;
use toolchain::{command, read, succeed};

const ALLOW: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// A backend that says when it is asked and answers, with an allow, when it is told to.
fn held() -> (String, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (asked, is_asked) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (asked, released) = (parking_lot::Mutex::new(asked), parking_lot::Mutex::new(released));
    let address = scripted(move |_| {
        let _ = asked.lock().send(());
        let _ = released.lock().recv();
        ALLOW.to_vec()
    });
    (format!("backend.url=http://{address}/auth"), is_asked, release)
}

#[test]
fn minimal_is_the_program_of_the_readme() {
    let readme = read("README.md");
    let (_, block) = readme.split_once("```c\n").expect("README.md shows C first");
    assert_eq!(block.split_once("```").unwrap().0, read("ffi-examples/minimal.c"));
}

#[test]
fn minimal_serves_who_has_the_token() {
    let backend = Backend::start(&[]);
    // The program names a port, and a test must not own one.
    let example = Example::build_with("minimal", "127.0.0.1:6000", backend.address());
    let program = example.program();
    assert_eq!(succeed(&mut Command::new(&program)), "viewer-1: serve\n");
    drop(backend);
    assert_eq!(succeed(&mut Command::new(&program)), "viewer-1: refuse\n");
}

#[test]
fn batch_decides_every_line() {
    let example = Example::build("batch");
    let php = Php::new();
    let checks = example.directory.path().join("checks");
    std::fs::write(
        &checks,
        "a 192.0.2.1 /ch/1?token=123\nb 192.0.2.2 /ch/2?token=9\nnonsense\nc 192.0.2.3 /ch/../3?token=123\n",
    )
    .unwrap();
    let (code, printed) = example.run(&[checks.to_str().unwrap(), &format!("backend.url={}", php.url())]);
    let mut lines: Vec<&str> = printed.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "1 ALTA_AUTH_ALLOW ALTA_AUTH_ORIGIN_BACKEND ALTA_AUTH_CAUSE_NONE a /ch/1",
            "2 ALTA_AUTH_DENY ALTA_AUTH_ORIGIN_BACKEND ALTA_AUTH_CAUSE_NONE b /ch/2",
            "4 ALTA_AUTH_DENY - ALTA_AUTH_ERR_INVALID c /ch/../3",
        ]
    );
    assert_eq!(code, Some(2), "a line was no check");
    assert_eq!(php.log.count(), 2);
}

/// More lines than the engine takes at once, and more than the program holds.
#[test]
fn batch_waits_when_the_engine_is_full() {
    let example = Example::build("batch");
    let backend = Backend::start(&["--quiet"]);
    let checks = example.directory.path().join("checks");
    let lines: Vec<String> =
        (0..3000).map(|line| format!("s{line} 192.0.2.1 /ch/{line}?token=123\n")).collect();
    std::fs::write(&checks, lines.concat()).unwrap();
    let (code, printed) = example.run(&[checks.to_str().unwrap(), &url(&backend), "inbox.capacity=16"]);
    assert_eq!(code, Some(0));
    let allowed =
        printed.lines().filter(|line| line.contains(" ALTA_AUTH_ALLOW ALTA_AUTH_ORIGIN_BACKEND ")).count();
    assert_eq!((allowed, printed.lines().count()), (3000, 3000));
}

#[test]
fn batch_prints_the_default_action_in_an_outage() {
    let example = Example::build("batch");
    let checks = example.directory.path().join("checks");
    std::fs::write(&checks, "a 192.0.2.1 /ch/1?token=9\n").unwrap();
    let (code, printed) = example.run(&[checks.to_str().unwrap(), OUTAGE, "default_action=allow"]);
    assert_eq!(printed, "1 ALTA_AUTH_ALLOW ALTA_AUTH_ORIGIN_DEFAULT ALTA_AUTH_CAUSE_CONNECT a /ch/1\n");
    assert_eq!(code, Some(0));
}

#[test]
fn batch_fails_if_it_cannot_read_its_checks_or_write_what_was_decided() {
    let example = Example::build("batch");
    let directory = example.directory.path().to_str().unwrap();
    let (code, printed) = example.run(&[directory, OUTAGE]);
    assert_eq!((code, printed.as_str()), (Some(74), ""), "a directory has no lines");
    let checks = example.directory.path().join("checks");
    std::fs::write(&checks, "a 192.0.2.1 /ch/1?token=9\n").unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut batch = command(example.program().to_str().unwrap(), [checks.to_str().unwrap(), OUTAGE]);
    assert_eq!(batch.stdout(full).status().unwrap().code(), Some(74));
}

#[test]
fn session_serves_a_channel_to_who_has_the_token() {
    let example = Example::build("session");
    let php = Php::new();
    let url = format!("backend.url={}", php.url());
    let (code, printed) = example.run(&[&url, "--", "token=123", "/news/index.m3u8", "/news/1.ts"]);
    let because = "serve (ALTA_AUTH_ORIGIN_BACKEND ALTA_AUTH_CAUSE_NONE)";
    assert_eq!(printed, format!("/news/index.m3u8: {because}\n/news/1.ts: {because}\n"));
    assert_eq!(code, Some(0));
    let (code, printed) = example.run(&[&url, "--", "token=9", "/news/index.m3u8"]);
    assert_eq!(printed, "/news/index.m3u8: refuse (ALTA_AUTH_ORIGIN_BACKEND ALTA_AUTH_CAUSE_NONE)\n");
    assert_eq!(code, Some(1));
}

#[test]
fn session_refuses_what_cannot_be_asked_and_says_what_is_wrong_with_a_key() {
    let example = Example::build("session");
    let (code, printed) = example.run(&[OUTAGE, "default_action=allow", "--", "token=123", "/news/../1.ts"]);
    assert_eq!((code, printed.as_str()), (Some(1), "/news/../1.ts: refuse (ALTA_AUTH_ERR_INVALID)\n"));
    let (code, _) = example.run(&["no.such.key=1", "--", "token=123", "/news/1.ts"]);
    assert_eq!(code, Some(78));
}

/// Who wrote a colon for the equals sign finds no secret in the log.
#[test]
fn all_say_where_an_argument_is_wrong_and_not_what_it_says() {
    const WRONG: &str = "header.X-Api-Key:opensesame";
    for (name, before) in [
        ("batch", &["/dev/null"][..]),
        ("blocking_pool", &["0"]),
        ("epoll_hls", &["/", "0"]),
        ("libevent_server", &["0"]),
        ("live_stream", &["0"]),
    ] {
        let example = Example::build(name);
        let mut program = command(example.program().to_str().unwrap(), before);
        let Output { status, stderr, .. } = program.args([OUTAGE, WRONG]).output().unwrap();
        let said = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(78), "{name}: {said}");
        assert!(said.contains("setting 2: expected KEY=VALUE"), "{name}: {said}");
        assert!(!said.contains("sesame"), "{name}: {said}");
    }
}

/// What the two servers have in common that answer with the reason.
fn decides_each_request(name: &'static str) {
    let example = Example::build(name);
    let php = Php::new();
    let server = example.serve(&["0", &format!("backend.url={}", php.url())]);
    let backend = "ALTA_AUTH_ORIGIN_BACKEND ALTA_AUTH_CAUSE_NONE\n".to_owned();
    assert_eq!(server.get("/news/index.m3u8?token=123"), (200, backend.clone()));
    assert_eq!(server.get("/news/index.m3u8?token=9"), (403, backend));
    let asked = php.log.count();
    for path in
        ["/news/../secret?token=123", "/news/%2e%2e/secret?token=123", "/a//b?token=123", "/%00?token=123"]
    {
        assert_eq!(server.status(path), 403, "{path}");
    }
    assert_eq!(php.log.count(), asked, "an ambiguous path was asked for");
    server.end();
}

fn takes_the_default_action_when_full_or_in_an_outage(name: &'static str) {
    let example = Example::build(name);
    let server = example.serve(&["0", OUTAGE, "default_action=allow"]);
    assert_eq!(server.get("/x"), (200, "ALTA_AUTH_ORIGIN_DEFAULT ALTA_AUTH_CAUSE_CONNECT\n".to_owned()));
    server.end();

    let (url, is_asked, release) = held();
    let server = example.serve(&["0", &url, "default_action=allow", "inbox.capacity=1", "timeout=30s"]);
    let waiting = server.curl("/first").stdout(Stdio::piped()).spawn().unwrap();
    is_asked.recv_timeout(PATIENCE).unwrap();
    assert_eq!(server.get("/second"), (200, "ALTA_AUTH_ERR_FULL\n".to_owned()));
    release.send(()).unwrap();
    let waited = waiting.wait_with_output().unwrap();
    assert_eq!(answer(&String::from_utf8(waited.stdout).unwrap()).0, 200);
    server.end();
}

#[test]
fn blocking_pool_decides_each_request() {
    decides_each_request("blocking_pool");
}

#[test]
fn blocking_pool_takes_the_default_action_when_full_or_in_an_outage() {
    takes_the_default_action_when_full_or_in_an_outage("blocking_pool");
}

#[test]
fn libevent_server_decides_each_request() {
    decides_each_request("libevent_server");
}

#[test]
fn libevent_server_takes_the_default_action_when_full_or_in_an_outage() {
    takes_the_default_action_when_full_or_in_an_outage("libevent_server");
}

/// The slot of a client that left is free again, although the backend has not answered.
fn cancels_for_a_client_that_left(example: &Example, args: &[&str]) {
    let (url, is_asked, release) = held();
    let args: Vec<&str> = args.iter().copied().chain([&*url, "inbox.capacity=1", "timeout=30s"]).collect();
    let server = example.serve(&args);
    let mut leaving = server.curl("/news/index.m3u8?token=123").stdout(Stdio::null()).spawn().unwrap();
    is_asked.recv_timeout(PATIENCE).unwrap();
    assert_eq!(server.status("/news/index.m3u8?token=124"), 403, "there is room for one only");
    leaving.kill().unwrap();
    leaving.wait().unwrap();
    // The next one is taken as soon as the server has seen that the other left; until then it is refused.
    let patience = std::thread::spawn(move || {
        is_asked.recv_timeout(PATIENCE).unwrap();
        release.send(()).unwrap();
        release.send(()).unwrap();
    });
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while server.status("/news/index.m3u8?token=125") != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the check of a client that left is still pending");
    }
    patience.join().unwrap();
    server.end();
}

#[test]
fn libevent_server_shows_its_counters_and_takes_another_configuration() {
    let example = Example::build("libevent_server");
    let (allows, backend) = (Backend::start(&[]), example.directory.path().join("backend.toml"));
    std::fs::write(&backend, OUTAGE.replace('=', " = \"") + "\"\n").unwrap();
    let server = example.serve(&["0", backend.to_str().unwrap()]);
    assert_eq!(server.status("/news/index.m3u8?token=123"), 403, "an outage");
    std::fs::write(&backend, url(&allows).replace('=', " = \"") + "\"\n").unwrap();
    signal(&server.child, "HUP");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while server.status("/news/index.m3u8?token=123") != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the new backend was not asked");
    }
    // One that cannot be taken changes nothing.
    std::fs::write(&backend, "backend.url = \"nonsense\"\n").unwrap();
    signal(&server.child, "HUP");
    assert_eq!(server.status("/news/index.m3u8?token=123"), 200);
    let (status, page) = server.get("/metrics");
    assert_eq!(status, 200);
    let allowed =
        page.lines().find_map(|line| line.strip_prefix("alta_auth_decisions_total{verdict=\"allow\"} "));
    assert_eq!(allowed, Some("2"), "{page}");
    server.end();
}

#[test]
fn libevent_server_cancels_for_a_client_that_left() {
    cancels_for_a_client_that_left(&Example::build("libevent_server"), &["0"]);
}

#[test]
fn epoll_hls_passes_the_opening_query_with_each_segment() {
    let hls = Hls::new();
    let php = Php::new();
    let server = hls.serve(&[&format!("backend.url={}", php.url())]);
    let jar = hls.example.directory.path().join("jar");
    let player = |path: &str| {
        let mut curl = server.curl(path);
        curl.arg("--cookie").arg(&jar).arg("--cookie-jar").arg(&jar);
        answer(&succeed(&mut curl))
    };
    assert_eq!(player("/news/index.m3u8?token=123"), (200, PLAYLIST.to_owned()));
    let (status, segment) = player("/news/720p/1.ts");
    assert_eq!((status, segment.len()), (200, 2_000_000));
    assert_eq!(player("/news//./720p/%31.ts").0, 200, "another spelling of the same path");

    let asked = php.log.requests();
    let paths: Vec<&[u8]> = asked.iter().map(|request| request.headers[2].as_deref().unwrap()).collect();
    assert_eq!(paths, [&b"/news/index.m3u8"[..], b"/news/720p/1.ts", b"/news/720p/1.ts"]);
    for request in &asked {
        assert_eq!(request.uri, b"/auth?token=123");
        assert_eq!(request.headers[0], asked[0].headers[0], "one session");
        assert_eq!(request.headers[1].as_deref(), Some(&b"127.0.0.1"[..]));
        assert_eq!(request.headers[3].as_deref(), Some(server.url.as_bytes()));
    }
    let session = std::fs::read_to_string(&jar).unwrap();
    let session = session.split_whitespace().last().unwrap();
    let other = "0".repeat(session.len());
    for (cookies, status) in [
        (format!("session={session}"), 200),
        (format!("ci_session={other}; session={session}"), 200),
        (format!("a=b;session={session}; c=d"), 200),
        (format!("session={other}; session={session}"), 200),
        (format!("ci_session={session}"), 403),
        (format!("a=session={session}"), 403),
        (format!("session={session}0"), 403),
        (format!("session={}", &session[1..]), 403),
    ] {
        let mut curl = server.curl("/news/720p/1.ts");
        curl.args(["--output", "/dev/null", "--header", &format!("Cookie: {cookies}")]);
        assert_eq!(answer(&succeed(&mut curl)).0, status, "{cookies}");
    }
    assert_eq!(server.status("/news/720p/1.ts"), 403, "no cookie, no session, no token");
    assert_eq!(server.status("/news/index.m3u8?token=9"), 403);
    server.end();
}

#[test]
fn epoll_hls_refuses_paths_that_two_programs_read_differently() {
    let hls = Hls::new();
    let php = Php::new();
    let server = hls.serve(&[&format!("backend.url={}", php.url())]);
    let paths = [
        "/news/../../secret",
        "/news/%2e%2e/%2e%2e/secret",
        "/..",
        "/news/",
        "/a%00b",
        "/a%5cb",
        "/a%3fb",
        "/%2",
    ];
    // Decoded once it is a file's name; the library refuses it, because a backend may decode it again.
    for path in paths.iter().chain(&["/news/%252e%252e/secret"]) {
        assert_eq!(server.get(&format!("{path}?token=123")), (403, String::new()), "{path}");
    }
    assert_eq!(php.log.count(), 0);
    assert_eq!(server.status("/news/none.ts?token=123"), 404);
    server.end();
}

#[test]
fn epoll_hls_takes_the_default_action_when_full_or_in_an_outage() {
    let hls = Hls::new();
    let server = hls.serve(&[OUTAGE, "default_action=allow"]);
    assert_eq!(server.get("/news/index.m3u8"), (200, PLAYLIST.to_owned()));
    server.end();

    let (url, is_asked, release) = held();
    let server = hls.serve(&[&url, "default_action=allow", "inbox.capacity=1", "timeout=30s"]);
    let waiting = server.curl("/news/index.m3u8?token=1").stdout(Stdio::piped()).spawn().unwrap();
    is_asked.recv_timeout(PATIENCE).unwrap();
    assert_eq!(server.get("/news/index.m3u8?token=2"), (200, PLAYLIST.to_owned()));
    release.send(()).unwrap();
    let waited = waiting.wait_with_output().unwrap();
    assert_eq!(answer(&String::from_utf8(waited.stdout).unwrap()), (200, PLAYLIST.to_owned()));
    server.end();
}

#[test]
fn epoll_hls_cancels_for_a_client_that_left() {
    let hls = Hls::new();
    cancels_for_a_client_that_left(&hls.example, &[hls.root.to_str().unwrap(), "0"]);
}

/// A backend that allows for a second until it changes its mind.
fn changing() -> (String, Arc<AtomicBool>) {
    let allows = Arc::new(AtomicBool::new(true));
    let mind = Arc::clone(&allows);
    let address = scripted(move |_| {
        let status = if mind.load(Ordering::SeqCst) { "200 OK" } else { "403 Forbidden" };
        format!("HTTP/1.1 {status}\r\nX-AuthDuration: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .into()
    });
    (format!("backend.url=http://{address}/auth"), allows)
}

#[test]
fn live_stream_is_cut_off_when_the_backend_changes_its_mind() {
    let example = Example::build("live_stream");
    let (url, allows) = changing();
    let server = example.serve(&["0", &url]);
    let (mut player, mut stream, status) = Player::open(&server, "/news.ts?token=1");
    assert_eq!(status, "HTTP/1.1 200 OK");
    packets(&mut stream, 20); // two seconds: the backend was asked again, and it goes on
    allows.store(false, Ordering::SeqCst);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(player.0.wait().unwrap().code(), Some(0), "cut off, and not because curl lost its patience");
    assert!(rest.ends_with(b"\n200"));
    assert_eq!(server.status("/news.ts?token=1"), 403, "refused from the start");
    allows.store(true, Ordering::SeqCst);
    // A refusal is reused for a second, but each connection is a session of its own.
    let (_player, mut stream, status) = Player::open(&server, "/news.ts?token=1");
    assert_eq!(status, "HTTP/1.1 200 OK");
    packets(&mut stream, 1);
    server.end();
}

#[test]
fn live_stream_refuses_from_the_start() {
    let example = Example::build("live_stream");
    let php = Php::new();
    let server = example.serve(&["0", &format!("backend.url={}", php.url())]);
    assert_eq!(server.get("/news.ts?token=9"), (403, String::new()));
    let asked = php.log.requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].uri, b"/auth?token=9");
    assert_eq!(asked[0].headers[1].as_deref(), Some(&b"127.0.0.1"[..]));
    assert_eq!(asked[0].headers[2].as_deref(), Some(&b"/news.ts"[..]));
    assert_eq!(asked[0].headers[3].as_deref(), Some(server.url.as_bytes()));
    for path in ["/../news.ts", "/a/news.ts", "/%6eews.ts", "/.ts", "/news", "/"] {
        assert_eq!(server.status(&format!("{path}?token=123")), 404, "{path}");
    }
    assert_eq!(php.log.count(), 1);
    let (_player, mut stream, status) = Player::open(&server, "/news.ts?token=123");
    assert_eq!(status, "HTTP/1.1 200 OK");
    packets(&mut stream, 3);
    server.end();
}

#[test]
fn live_stream_takes_the_default_action_when_full_or_in_an_outage() {
    let example = Example::build("live_stream");
    let backend = Backend::start(&["--quiet"]);
    for (args, expected) in [
        ([OUTAGE, "default_action=allow", "watch.max=1"], "HTTP/1.1 200 OK"),
        ([OUTAGE, "default_action=deny", "watch.max=1"], "HTTP/1.1 403 Forbidden"),
        ([&url(&backend), "default_action=allow", "watch.max=0"], "HTTP/1.1 200 OK"),
        ([&url(&backend), "default_action=deny", "watch.max=0"], "HTTP/1.1 403 Forbidden"),
    ] {
        let server = example.serve(&[&["0"], &args[..]].concat());
        let (_player, mut stream, status) = Player::open(&server, "/news.ts?token=123");
        assert_eq!(status, expected, "{args:?}");
        if status.ends_with("OK") {
            packets(&mut stream, 2);
        }
        server.end();
    }
}

#[test]
fn live_stream_refuses_what_cannot_be_asked() {
    let example = Example::build("live_stream");
    let server = example.serve(&["0", OUTAGE, "default_action=allow"]);
    assert_eq!(server.status(&format!("/news.ts?{}", "a=1&".repeat(300))), 403, "too many parameters");
    server.end();
}

#[test]
fn live_stream_cancels_for_a_client_that_left() {
    let example = Example::build("live_stream");
    let backend = Backend::start(&["--quiet"]);
    let server = example.serve(&["0", &url(&backend), "watch.max=1"]);
    let (leaving, mut stream, _) = Player::open(&server, "/news.ts?token=123");
    packets(&mut stream, 1);
    assert_eq!(server.status("/news.ts?token=123"), 403, "there is room for one only");
    drop(leaving);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while Player::open(&server, "/news.ts?token=123").2 != "HTTP/1.1 200 OK" {
        assert!(tokio::time::Instant::now() < deadline, "the watch of a client that left is still open");
    }
    server.end();
}
