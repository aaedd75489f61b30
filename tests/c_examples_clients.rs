//! What a client does to the servers of `ffi-examples/`: holds on to what they have only so much of, and takes its time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(not(feature = "command"))]
compile_error!("run with --features command, as make test does");

#[path = "command/support.rs"]
mod backends;
#[path = "toolchain/example.rs"]
mod example;
mod toolchain;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use backends::{Backend, PATIENCE};
use example::{Example, Hls, OUTAGE, Serving, url};
use toolchain::{command, succeed};

const HALF: &[u8] = b"GET /";

/// Says the rest of a request, and gives the first line of what comes: nothing, if the server does not take this client.
fn ask(mut client: &TcpStream, rest: &str) -> String {
    let mut line = String::new();
    let _ = client.write_all(rest.as_bytes()).and_then(|()| BufReader::new(client).read_line(&mut line));
    line.trim_end().to_owned()
}

fn half_asked(server: &Serving) -> TcpStream {
    let mut client = server.connect();
    let _ = client.write_all(HALF);
    client
}

fn limit_descriptors(server: &Serving, limit: u32) {
    let pid = server.child.id().to_string();
    succeed(&mut command("prlimit", ["--pid", &pid, &format!("--nofile={limit}:")]));
}

/// From here it can open no other. Gives a client that it has none for.
fn waits_without_descriptors(server: &Serving) -> TcpStream {
    let descriptors = server.descriptors();
    limit_descriptors(server, (0..1024).find(|number| !descriptors.contains(number)).unwrap());
    let late = half_asked(server);
    let before = server.ticks();
    std::thread::sleep(Duration::from_secs(2));
    let used = server.ticks() - before;
    assert!(used < 10, "it used {used} ticks of CPU in two seconds");
    late
}

/// No clients leave the library without a descriptor for the backend, and where there is none for a client, the server
/// waits for one rather than asking for it all the time.
fn lives_with_few_descriptors(server: Serving, path: &str) {
    let rest = format!("{path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let first = half_asked(&server);
    let others: Vec<_> = (0..100).map(|_| half_asked(&server)).collect();
    assert_eq!(ask(&first, &rest), "HTTP/1.1 200 OK", "the backend is asked for who was there first");

    let late = waits_without_descriptors(&server);
    drop((others, late));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while ask(&half_asked(&server), &rest) != "HTTP/1.1 200 OK" {
        assert!(tokio::time::Instant::now() < deadline, "nobody is served after the others have left");
    }
    server.end();
}

#[test]
fn epoll_hls_lives_with_few_descriptors() {
    let hls = Hls::new();
    let backend = Backend::start(&["--quiet"]);
    let args = [hls.root.to_str().unwrap(), "0", &url(&backend)];
    lives_with_few_descriptors(hls.example.serve_with_descriptors(64, &args), "news/index.m3u8?token=123");
}

#[test]
fn live_stream_lives_with_few_descriptors() {
    let example = Example::build("live_stream");
    let backend = Backend::start(&["--quiet"]);
    let server = example.serve_with_descriptors(64, &["0", &url(&backend)]);
    lives_with_few_descriptors(server, "news.ts?token=123");
}

#[test]
fn libevent_server_lives_with_few_descriptors() {
    let example = Example::build("libevent_server");
    let backend = Backend::start(&["--quiet"]);
    let server = example.serve_with_descriptors(64, &["0", &url(&backend)]);
    lives_with_few_descriptors(server, "news.ts?token=123");
}

/// It has room for the client, and the process no descriptor.
#[test]
fn libevent_server_waits_for_a_descriptor() {
    let example = Example::build("libevent_server");
    let backend = Backend::start(&["--quiet"]);
    let server = example.serve(&["0", &url(&backend)]);
    let late = waits_without_descriptors(&server);
    limit_descriptors(&server, 64);
    assert_eq!(ask(&late, "x?token=123 HTTP/1.1\r\nHost: a\r\n\r\n"), "HTTP/1.1 200 OK");
    server.end();
}

/// Writes a head without an end, a byte at a time, until all of it or none is taken. Gives how much was.
fn drip(mut client: TcpStream, bytes: usize) -> usize {
    (0..bytes)
        .take_while(|_| {
            std::thread::sleep(Duration::from_millis(50));
            client.write_all(b"x").is_ok()
        })
        .count()
}

#[test]
fn blocking_pool_gives_a_head_one_time_in_all() {
    let example = Example::build("blocking_pool");
    let backend = Backend::start(&["--quiet"]);
    let server = example.serve(&["0", &url(&backend)]);
    // As many as it has threads, each for longer than curl has patience.
    let (threads, bytes) = (32, PATIENCE.as_millis() as usize / 40);
    let clients: Vec<_> = (0..threads).map(|_| server.connect()).collect();
    let drips: Vec<_> =
        clients.into_iter().map(|client| std::thread::spawn(move || drip(client, bytes))).collect();
    assert_eq!(server.status("/x?token=123"), 200);
    for drip in drips {
        assert!(drip.join().unwrap() < bytes, "a client may take any time");
    }
    server.end();
}

#[test]
fn blocking_pool_ends_while_a_client_has_not_said_all() {
    // With more patience than the test has, it lets go of the client because it ends, or never.
    let example = Example::build_with("blocking_pool", "PATIENCE_MS = 5000", "PATIENCE_MS = 3600000");
    let server = example.serve(&["0", OUTAGE]);
    let descriptors = server.descriptors();
    let client = server.connect();
    while server.descriptors() == descriptors {
        std::thread::yield_now();
    }
    let dripping = std::thread::spawn(|| drip(client, usize::MAX));
    server.end();
    dripping.join().unwrap();
}
