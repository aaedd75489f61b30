//! `alta-auth backend`, seen from its socket: rules, framings, log, counts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(not(feature = "command"))]
compile_error!("run with --features command, as make test does");

#[path = "command/support.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::time::Duration;

use support::{Backend, run, signal, text};

const ALLOWED: &str = "GET /auth?token=123 HTTP/1.1\r\nHost: h\r\n\r\n";
const REFUSED: &str = "GET /auth?token=124 HTTP/1.1\r\nHost: h\r\n\r\n";

/// Sends on one kept connection and reads exactly what is expected.
fn exchange(stream: &mut std::net::TcpStream, request: &str, expected: &str) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = vec![0; expected.len()];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(text(&reply), expected);
}

fn assert_closed(mut stream: std::net::TcpStream) {
    assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "the connection is still open");
}

#[test]
fn with_a_length_the_connection_is_kept() {
    let backend = Backend::start(&[]);
    let mut stream = backend.connect();
    exchange(&mut stream, ALLOWED, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    exchange(&mut stream, REFUSED, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
}

#[test]
fn chunked_sends_an_empty_body_as_one_last_chunk() {
    let backend = Backend::start(&["--framing", "chunked"]);
    let mut stream = backend.connect();
    let expected = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    exchange(&mut stream, ALLOWED, expected);
    exchange(&mut stream, ALLOWED, expected);
}

#[test]
fn a_chunked_body_is_one_chunk_and_the_last() {
    let backend = Backend::start(&["--framing", "chunked", "--rule", "smarty"]);
    let reply = backend.get("/tvmiddleware/api/streamservice/token/check/?token=x");
    assert!(reply.ends_with("\r\n\r\nb\r\n{\"error\":1}\r\n0\r\n\r\n"), "{reply}");
}

#[test]
fn close_sends_neither_length_nor_chunks() {
    let backend = Backend::start(&["--framing", "close"]);
    assert_eq!(backend.raw(ALLOWED), "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
}

#[test]
fn close_after_each_answer_can_go_with_any_framing() {
    let backend = Backend::start(&["--close"]);
    assert_eq!(backend.raw(ALLOWED), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let backend = Backend::start(&["--close", "--framing", "chunked"]);
    assert_eq!(
        backend.raw(REFUSED),
        "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n"
    );
}

#[test]
fn the_reason_phrase_can_be_left_out() {
    let backend = Backend::start(&["--no-reason"]);
    exchange(&mut backend.connect(), ALLOWED, "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n");
}

#[test]
fn a_client_of_http_1_0_gets_no_chunks_and_an_end() {
    let backend = Backend::start(&["--framing", "chunked"]);
    let reply = backend.raw("GET /auth?token=123 HTTP/1.0\r\n\r\n");
    assert_eq!(reply, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
}

#[test]
fn two_requests_in_one_write_get_two_answers_in_order() {
    let backend = Backend::start(&[]);
    let both =
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
    exchange(&mut backend.connect(), &format!("{ALLOWED}{REFUSED}"), both);
}

#[test]
fn a_body_that_came_with_a_request_is_not_the_next_request() {
    let backend = Backend::start(&[]);
    let mut stream = backend.connect();
    let post = format!("POST /auth?token=1 HTTP/1.1\r\nContent-Length: {}\r\n\r\n{ALLOWED}", ALLOWED.len());
    exchange(&mut stream, &post, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    exchange(&mut stream, ALLOWED, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
}

#[test]
fn what_is_not_http_gets_400_and_an_end() {
    let backend = Backend::start(&[]);
    let reply = backend.raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert!(reply.starts_with("HTTP/1.1 400 "), "{reply}");
    let reply = backend.raw(&format!("GET /{} HTTP/1.1\r\n", "x".repeat(70_000)));
    assert!(reply.starts_with("HTTP/1.1 431 "), "{reply}");
}

#[test]
fn a_failure_is_cut_in_its_status_line() {
    let backend = Backend::start(&["--fail", "100%"]);
    assert_eq!(backend.raw(ALLOWED), "HTTP/1.1 ");
    assert_eq!(backend.stats()["failed"], 1);
}

#[test]
fn a_share_of_failures_leaves_the_other_answers_whole() {
    let backend = Backend::start(&["--fail", "50%", "--close"]);
    let (mut whole, mut cut) = (0, 0);
    for _ in 0..64 {
        match backend.raw(ALLOWED).as_str() {
            "HTTP/1.1 " => cut += 1,
            reply => {
                assert!(reply.ends_with("\r\n\r\n"), "{reply}");
                whole += 1;
            }
        }
    }
    let stats = backend.stats();
    assert!(whole > 0 && cut > 0, "64 times the same side of a coin");
    assert_eq!((&stats["allowed"], &stats["failed"]), (&whole.into(), &cut.into()));
}

#[test]
fn an_answer_is_delayed() {
    let backend = Backend::start(&["--delay", "150ms"]);
    let began = tokio::time::Instant::now();
    exchange(&mut backend.connect(), ALLOWED, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert!(began.elapsed() >= Duration::from_millis(150));
}

#[test]
fn idle_connections_are_closed_when_asked_for() {
    let backend = Backend::start(&["--idle", "50ms"]);
    let mut stream = backend.connect();
    exchange(&mut stream, ALLOWED, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_closed(stream);
}

#[test]
fn counts_leave_the_stats_page_out() {
    let backend = Backend::start(&[]);
    let mut stream = backend.connect();
    for _ in 0..3 {
        exchange(&mut stream, ALLOWED, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }
    exchange(&mut stream, REFUSED, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    let expected =
        serde_json::json!({"requests": 4, "connections": 1, "allowed": 3, "denied": 1, "failed": 0});
    assert_eq!(backend.stats(), expected);
    assert_eq!(backend.stats(), expected);
}

#[test]
fn the_log_has_the_five_headers_and_no_token() {
    let request = "GET /auth?token=canary HTTP/1.1\r\nHost: h\r\nx-session-id: s1\r\nX-Real-Ip: 192.0.2.7\r\n\
                   X-Real-Path: /ch/index.m3u8\r\nX-Real-Ua: \r\nConnection: close\r\n\r\n";
    let backend = Backend::start(&[]);
    backend.raw(request);
    assert_eq!(
        backend.log(),
        "403 GET /auth?token=… X-Session-Id=\"s1\" X-Real-Ip=\"192.0.2.7\" X-Real-Path=\"/ch/index.m3u8\" \
         X-Real-Origin=- X-Real-Ua=\"\"\n"
    );
    let backend = Backend::start(&["--show-secrets"]);
    backend.raw(request);
    assert!(backend.log().starts_with("403 GET /auth?token=canary "), "{}", backend.log());
    let backend = Backend::start(&["--quiet"]);
    backend.raw(request);
    assert_eq!(backend.log(), "");
}

#[test]
fn ministra_answers_as_the_portal_does() {
    const URL: &str = "/stalker_portal/server/api/chk_flussonic_tmp_link.php";
    let backend = Backend::start(&["--rule", "ministra"]);
    let token = backend.get("/_alta/create?user=42");
    let token = token.rsplit("\r\n").next().unwrap();
    let reply = backend.get(&format!("{URL}?token={token}"));
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
    for header in ["X-AuthDuration: 36000", "X-Unique: true", "X-Max-Sessions: 10", "X-UserId: 42"] {
        assert!(reply.contains(&format!("\r\n{header}\r\n")), "{header} is not in {reply}");
    }
    assert!(reply.ends_with("\r\n\r\n"), "{reply}");
    backend.get("/_alta/create?token=old&lifetime=0");
    backend.get("/_alta/create?token=0");
    for query in ["", "?token=", "?token=0", "?token=unknown", "?token=old"] {
        assert!(backend.get(&format!("{URL}{query}")).starts_with("HTTP/1.1 403 "), "{query}");
    }
}

#[test]
fn smarty_answers_in_both_variants() {
    const URL: &str = "/tvmiddleware/api/streamservice/token/check/";
    for (rule, refused) in [("smarty", "403 Forbidden"), ("smarty-200", "200 OK")] {
        let backend = Backend::start(&["--rule", rule]);
        backend.get("/_alta/create?token=t&ip=192.0.2.7&name=ch");
        backend.get("/_alta/create?token=old&lifetime=0");
        for (query, error) in [
            ("token=t&ip=192.0.2.7&name=ch", 0),
            ("token=t", 0),
            ("token=old", 1),
            ("token=t&name=other", 2),
            ("token=t&ip=192.0.2.8", 3),
        ] {
            let reply = backend.get(&format!("{URL}?{query}"));
            let status = if error == 0 { "200 OK" } else { refused };
            assert!(reply.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{query}: {reply}");
            assert!(reply.ends_with(&format!("\r\n\r\n{{\"error\":{error}}}")), "{query}: {reply}");
        }
        let reply = backend.get(&format!("{}?token=t", URL.trim_end_matches('/')));
        assert!(reply.starts_with("HTTP/1.1 301 "), "{reply}");
        let stats = backend.stats();
        assert_eq!(
            (&stats["allowed"], &stats["denied"]),
            (&2.into(), &4.into()),
            "the 301 and the errors refuse"
        );
    }
}

#[test]
fn every_rule_says_what_is_measured_documented_and_assumed() {
    for rule in ["custom", "ministra", "smarty", "smarty-200"] {
        let output = run(&["backend", "--rule", rule, "--explain"]);
        assert_eq!(output.status.code(), Some(0));
        let table = text(&output.stdout);
        assert!(table.lines().count() >= 5, "{table}");
        for line in table.lines() {
            let known = ["  measured    ", "  documented  ", "  assumed     "];
            assert_eq!(known.iter().filter(|basis| line.contains(*basis)).count(), 1, "{line}");
        }
    }
}

#[test]
fn a_signal_stops_it_and_the_socket_file_goes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("auth.sock");
    // Left over from a process that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut backend = Backend::listen(&format!("unix:{}", path.display()), &[]);
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /auth?token=123 HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");

    signal(&backend.child, "TERM");
    assert_eq!(backend.child.wait().unwrap().code(), Some(0));
    assert!(!path.exists());
    assert!(
        backend.log().ends_with("1 request on 1 connection: 1 allowed, 0 denied, 0 cut\n"),
        "{}",
        backend.log()
    );
}

#[test]
fn quiet_prints_nothing_but_where_it_listens() {
    let mut backend = Backend::start(&["--quiet"]);
    backend.get("/auth?token=123");
    signal(&backend.child, "TERM");
    assert_eq!(backend.child.wait().unwrap().code(), Some(0));
    assert_eq!(backend.log(), "");
}

#[test]
fn an_address_in_use_and_a_wrong_option_have_their_own_status() {
    let backend = Backend::start(&[]);
    let output = run(&["backend", "--listen", backend.address()]);
    assert_eq!(output.status.code(), Some(71));
    assert!(text(&output.stderr).contains("cannot listen on 127.0.0.1:"));
    for wrong in [
        ["--listen", "127.0.0.1:99999"],
        ["--listen", "nowhere"],
        ["--rule", "other"],
        ["--delay", "20"],
        ["--fail", "5"],
        ["--framing", "none"],
    ] {
        assert_eq!(run(&["backend", wrong[0], wrong[1]]).status.code(), Some(64), "{wrong:?}");
    }
}
