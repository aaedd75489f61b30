//! https: who the backend is gets proved, and nothing short of proof is asked anything.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;

use alta_auth::{Cause, Check, Decision, Engine, Verdict};
use support::{
    Authority, Identity, Lines, Nginx, NginxOptions, PATIENCE, Reply, Rerun, Scripted, Shown, ask,
    assert_backend, assert_default, bad, config, engine, good, started,
};

/// nginx with this certificate, which allows the reference rule's token. `more` goes into `server { … }`.
fn https(identity: &Identity, more: &str) -> Nginx {
    let server = format!(
        "ssl_certificate {}; ssl_certificate_key {}; {more}",
        identity.certificate.display(),
        identity.key.display()
    );
    let options = NginxOptions {
        listen: "ssl",
        server: &server,
        location: "if ($arg_token = 123) { return 200; } return 403;",
        ..NginxOptions::default()
    };
    Nginx::new(None, options)
}

fn trusting(authority: &Authority) -> String {
    authority.file().to_str().unwrap().to_owned()
}

#[test]
fn a_private_authority_is_trusted_by_tls_ca_file() {
    let authority = Authority::new();
    let nginx = https(&authority.server("127.0.0.1"), "");
    let engine = engine(&nginx.https("127.0.0.1"), &[("tls.ca_file", &trusting(&authority))]);
    assert_backend(&ask(&engine, &good()), Verdict::Allow, 200);
    assert_backend(&ask(&engine, &bad()), Verdict::Deny, 403);
}

#[test]
fn a_name_is_resolved_and_proved() {
    let authority = Authority::new();
    let nginx = https(&authority.server("localhost"), "");
    let engine = engine(&nginx.https("localhost"), &[("tls.ca_file", &trusting(&authority))]);
    assert_backend(&ask(&engine, &good()), Verdict::Allow, 200);
}

/// What each engine decides about a good token, with both default actions. The backend would allow.
fn unproved(nginx: &Nginx, keys: &[(&str, &str)]) {
    for (action, verdict) in [("allow", Verdict::Allow), ("deny", Verdict::Deny)] {
        let keys: Vec<_> = keys.iter().copied().chain([("default_action", action)]).collect();
        let engine = engine(&nginx.https("127.0.0.1"), &keys);
        let decision = ask(&engine, &good());
        assert_default(&decision, verdict, Cause::Tls);
        assert_eq!(decision.http_status, None);
    }
}

/// The server saw handshakes and no request: the token was told to nobody.
fn nothing_was_told(nginx: Nginx) {
    let served = nginx.finish();
    assert!(served.iter().all(|served| served.status == 400), "{served:?}");
}

#[test]
fn a_wrong_name_is_an_outage_of_tls() {
    let authority = Authority::new();
    let nginx = https(&authority.server("auth.example.com"), "");
    unproved(&nginx, &[("tls.ca_file", &trusting(&authority))]);
    nothing_was_told(nginx);
}

#[test]
fn an_expired_certificate_is_an_outage_of_tls() {
    let authority = Authority::new();
    let nginx = https(&authority.expired("127.0.0.1"), "");
    unproved(&nginx, &[("tls.ca_file", &trusting(&authority))]);
    nothing_was_told(nginx);
}

#[test]
fn an_unknown_issuer_is_an_outage_of_tls() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let nginx = https(&stranger.server("127.0.0.1"), "");
    unproved(&nginx, &[("tls.ca_file", &trusting(&authority))]);
    unproved(&nginx, &[]);
    nothing_was_told(nginx);
}

#[test]
fn a_version_before_1_2_is_an_outage_of_tls() {
    let authority = Authority::new();
    // Level 0: without it OpenSSL would refuse 1.1 itself.
    let nginx = https(&authority.server("127.0.0.1"), "ssl_protocols TLSv1.1; ssl_ciphers ALL:@SECLEVEL=0;");
    unproved(&nginx, &[("tls.ca_file", &trusting(&authority))]);
    nothing_was_told(nginx);
}

#[test]
fn a_backend_that_does_not_speak_tls_is_an_outage_of_tls() {
    let nginx = Nginx::new(None, NginxOptions { location: "return 200;", ..NginxOptions::default() });
    unproved(&nginx, &[]);
    nothing_was_told(nginx);
}

#[test]
fn verification_that_is_off_works_and_warns_at_each_start() {
    let stranger = Authority::new();
    let nginx = https(&stranger.expired("auth.example.com"), "");
    for _ in 0..2 {
        let lines = Lines::new();
        let mut config = config(&nginx.https("127.0.0.1"), &[("tls.verify", "off")]);
        config.set_log(lines.clone());
        let engine = started(Engine::new(&config));
        assert_backend(&ask(&engine, &good()), Verdict::Allow, 200);
        assert!(lines.warns_of("tls.verify"), "{:?}", lines.all());
    }
}

#[test]
fn tls_server_name_is_asked_for_and_proved_in_the_place_of_the_urls_host() {
    let authority = Authority::new();
    let more = "if ($ssl_server_name != auth.example.com) { return 500; }";
    let nginx = https(&authority.server("auth.example.com"), more);
    let ca = trusting(&authority);
    let keys = [("tls.ca_file", ca.as_str()), ("tls.server_name", "auth.example.com")];
    assert_backend(&ask(&engine(&nginx.https("127.0.0.1"), &keys), &good()), Verdict::Allow, 200);
    let keys = [("tls.ca_file", ca.as_str()), ("tls.server_name", "other.example.com")];
    unproved(&nginx, &keys);
}

#[test]
fn a_backend_that_wants_a_certificate_gets_the_configured_one() {
    let authority = Authority::new();
    let ca = trusting(&authority);
    let more = format!("ssl_client_certificate {ca}; ssl_verify_client on;");
    let nginx = https(&authority.server("127.0.0.1"), &more);
    let client = authority.client();
    let keys = [
        ("tls.ca_file", ca.as_str()),
        ("tls.client_cert", client.certificate.to_str().unwrap()),
        ("tls.client_key", client.key.to_str().unwrap()),
    ];
    assert_backend(&ask(&engine(&nginx.https("127.0.0.1"), &keys), &good()), Verdict::Allow, 200);
    // nginx says 400 to whoever shows none: an answer, and a refusal.
    let without = engine(&nginx.https("127.0.0.1"), &[("tls.ca_file", &ca), ("default_action", "allow")]);
    let decision: Decision = ask(&without, &good());
    assert_backend(&decision, Verdict::Deny, 400);
}

#[test]
fn files_that_cannot_be_used_are_named_at_start() {
    let authority = Authority::new();
    let empty = authority.file().with_file_name("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let (client, other) = (authority.client(), authority.server("other"));
    let certificate = client.certificate.to_str().unwrap();
    let cases: [&[(&str, &str)]; 6] = [
        &[("tls.ca_file", "/nonexistent/ca.pem")],
        &[("tls.ca_file", empty.to_str().unwrap())],
        &[("tls.client_cert", certificate)],
        &[("tls.client_cert", certificate), ("tls.client_key", "/nonexistent/client.key")],
        &[("tls.client_cert", certificate), ("tls.client_key", other.key.to_str().unwrap())],
        &[
            ("backend.url", "http://127.0.0.1:1/"),
            ("shadow.url", "https://127.0.0.1:1/"),
            ("tls.ca_file", "/nonexistent/ca.pem"),
        ],
    ];
    for keys in cases {
        let config = config("https://127.0.0.1:1/", keys);
        let Err(error) = Engine::new(&config) else { panic!("{keys:?} starts") };
        assert!(error.to_string().contains("tls."), "{keys:?}: {error}");
        let found = config.validate().map_err(|error| error.to_string());
        assert_eq!(found, Err(error.to_string()), "{keys:?}: known without an engine");
    }
    // Nobody reads them where nobody is asked by https.
    let unused = config("http://127.0.0.1:1/", &[("tls.ca_file", "/nonexistent/ca.pem")]);
    let warnings = unused.validate().unwrap();
    assert!(warnings.len() == 1 && warnings[0].starts_with("tls.ca_file without"), "{warnings:?}");
}

/// Passes on what comes in, both ways, and tells the first record of each connection.
fn relay(to: std::net::SocketAddr) -> (std::net::SocketAddr, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(to).unwrap());
            let mut first = vec![0; 5];
            client.read_exact(&mut first).unwrap();
            let length = usize::from(u16::from_be_bytes([first[3], first[4]]));
            first.resize(5 + length, 0);
            client.read_exact(&mut first[5..]).unwrap();
            server.write_all(&first).unwrap();
            tell.send(first).unwrap();
            let (mut back, mut forth) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut server, &mut back);
                let _ = back.shutdown(Shutdown::Both);
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut client, &mut forth);
                let _ = forth.shutdown(Shutdown::Both);
            });
        }
    });
    (address, told)
}

/// The kinds of the extensions of a `ClientHello` that is one record (RFC 8446, section 4.1.2).
fn extensions(hello: &[u8]) -> Vec<u16> {
    assert_eq!((hello[0], hello[5]), (22, 1), "a handshake record with a ClientHello");
    let number = |at: usize| usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    // Record, handshake, version, random; then the session id, the suites and the compressions, each with its length.
    let mut at = 5 + 4 + 2 + 32;
    at += 1 + usize::from(hello[at]);
    at += 2 + number(at);
    at += 1 + usize::from(hello[at]);
    at += 2;
    let mut kinds = Vec::new();
    while at < hello.len() {
        kinds.push(u16::try_from(number(at)).unwrap());
        at += 4 + number(at + 2);
    }
    kinds
}

/// What is sent before the handshake is done can be sent again by whoever sees it: a token would be asked about twice.
#[test]
fn no_early_data_is_sent_to_a_backend_that_offers_to_take_it() {
    const EARLY_DATA: u16 = 42;
    const PRE_SHARED_KEY: u16 = 41;
    let authority = Authority::new();
    let shown = Shown::new(&authority.server("127.0.0.1"));
    let mut offers = shown.server_config(&[&rustls::version::TLS13]);
    offers.max_early_data_size = 16 * 1024;
    let backend = Scripted::tls_by(offers, |_| Reply::deny());
    let (address, hellos) = relay(backend.address());
    let ca = trusting(&authority);
    let keys = [("tls.ca_file", ca.as_str()), ("default_action", "allow"), ("pool.idle_timeout", "1ms")];
    let engine = engine(&format!("https://{address}/auth"), &keys);
    let mut resumed = 0;
    for session in ["a", "b", "c"] {
        let check = Check { session_id: session.as_bytes(), ..good() };
        assert_backend(&ask(&engine, &check), Verdict::Deny, 403);
        backend.wait_all_closed();
        let sent = extensions(&hellos.recv_timeout(PATIENCE).unwrap());
        assert!(!sent.contains(&EARLY_DATA), "{sent:?}");
        resumed += usize::from(sent.contains(&PRE_SHARED_KEY));
    }
    assert_eq!(resumed, 2, "with the ticket of a backend that takes early data");
}

/// The roots come from known paths, not from where the environment points.
#[test]
fn the_environment_adds_no_authority_and_no_proxy() {
    let authority = Authority::new();
    if let Some(child) = Rerun::of("the_environment_adds_no_authority_and_no_proxy") {
        let nginx = https(&authority.server("127.0.0.1"), "");
        let ca = trusting(&authority);
        let child =
            child.env("SSL_CERT_FILE", &ca).env("TEST_CA", &ca).env("TEST_URL", &nginx.https("127.0.0.1"));
        return child.env("HTTPS_PROXY", "http://127.0.0.1:1").env("https_proxy", "http://127.0.0.1:1").run();
    }
    let (ca, url) = (std::env::var("TEST_CA").unwrap(), std::env::var("TEST_URL").unwrap());
    let check: Check<'_> = good();
    assert_default(&ask(&engine(&url, &[]), &check), Verdict::Deny, Cause::Tls);
    assert_backend(&ask(&engine(&url, &[("tls.ca_file", &ca)]), &check), Verdict::Allow, 200);
}
