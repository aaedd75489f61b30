//! A TLS record that is late, cut, doubled, spoilt or never comes, of the handshake as of a reply: each fault at each place has
//! one outcome, and none of them is an allow.
//!
//! `tests/support/layers.rs` says what is looked at. What a record holds is known when all of it is there: half a header
//! section is no refusal here.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use alta_auth::Cause::{Reset, Timeout, Tls};
use alta_auth::Verdict;
use support::layers::After::{Closed, Dumb, Either, Kept, Refused};
use support::layers::Outcome::{Answer, Broken, Outage};
use support::layers::{After, Case, Layer, Outcome, Place, Usual, run_all, scripted_tls};
use support::{Authority, DRIP, Fault, Nginx, NginxOptions, PAUSE, Units};

const PLACES: [Place; 11] = [
    Place::Connected,
    // The client's greeting, and its last word of the handshake.
    Place::Client(0),
    Place::Client(2),
    // The server's greeting, and its certificate.
    Place::Backend(0),
    Place::Backend(2),
    Place::Request,
    Place::BeforeReply,
    Place::Head,
    Place::HeadEnd,
    Place::Body,
    Place::AfterReply,
];

/// A row a fault, a column a place. On a used connection, RESET is asked about once more.
#[rustfmt::skip]
const TABLE: [(Fault, [(Outcome, After); 11]); 10] = [
    // fault             connected                   client's greeting           client's last word         server's greeting           certificate                in the request              before the reply            in the header section       before the body    in the body        after the reply
    (PAUSE,            [(Answer, Kept),             (Answer, Kept),             (Answer, Kept),            (Answer, Kept),             (Answer, Kept),            (Answer, Kept),             (Answer, Kept),             (Answer, Kept),             (Answer, Either),  (Answer, Either),  (Answer, Kept)]),
    (DRIP,             [(Answer, Kept),             (Outage(Tls), Closed),      (Outage(Timeout), Either), (Outage(Tls), Closed),      (Outage(Tls), Closed),     (Outage(Timeout), Closed),  (Outage(Timeout), Closed),  (Outage(Timeout), Closed),  (Answer, Kept),    (Answer, Closed),  (Answer, Kept)]),
    (Fault::Close,     [(Outage(Tls), Closed),      (Outage(Tls), Closed),      (Outage(Reset), Closed),   (Outage(Tls), Closed),      (Outage(Tls), Closed),     (Outage(Reset), Closed),    (Outage(Reset), Closed),    (Outage(Reset), Closed),    (Answer, Closed),  (Answer, Closed),  (Answer, Closed)]),
    (Fault::Reset,     [(Broken, Closed),           (Outage(Tls), Closed),      (Outage(Reset), Closed),   (Outage(Tls), Closed),      (Outage(Tls), Closed),     (Outage(Reset), Closed),    (Outage(Reset), Closed),    (Outage(Reset), Closed),    (Answer, Closed),  (Answer, Closed),  (Answer, Closed)]),
    (Fault::HalfClose, [(Outage(Tls), Closed),      (Outage(Tls), Closed),      (Outage(Reset), Closed),   (Outage(Tls), Closed),      (Outage(Tls), Closed),     (Outage(Reset), Closed),    (Outage(Reset), Closed),    (Outage(Reset), Closed),    (Answer, Closed),  (Answer, Closed),  (Answer, Closed)]),
    (Fault::Duplicate, [(Answer, Kept),             (Outage(Tls), Closed),      (Outage(Tls), Closed),     (Outage(Tls), Closed),      (Outage(Tls), Closed),     (Outage(Tls), Closed),      (Answer, Kept),             (Outage(Tls), Closed),      (Answer, Closed),  (Answer, Closed),  (Answer, Closed)]),
    (Fault::Garbage,   [(Outage(Tls), Closed),      (Outage(Tls), Closed),      (Outage(Tls), Closed),     (Outage(Tls), Closed),      (Outage(Tls), Closed),     (Outage(Tls), Closed),      (Outage(Tls), Closed),      (Outage(Tls), Closed),      (Answer, Closed),  (Answer, Closed),  (Answer, Closed)]),
    (Fault::Garble,    [(Answer, Kept),             (Outage(Tls), Closed),      (Outage(Tls), Closed),     (Outage(Tls), Closed),      (Outage(Tls), Closed),     (Outage(Tls), Closed),      (Outage(Tls), Closed),      (Outage(Tls), Closed),      (Answer, Kept),    (Answer, Closed),  (Answer, Kept)]),
    (Fault::Stop,      [(Outage(Tls), Closed),      (Outage(Tls), Closed),      (Outage(Timeout), Closed), (Outage(Tls), Closed),      (Outage(Tls), Closed),     (Outage(Timeout), Closed),  (Outage(Timeout), Closed),  (Outage(Timeout), Closed),  (Answer, Closed),  (Answer, Closed),  (Answer, Dumb)]),
    (Fault::Refuse,    [(Outage(Tls), Refused),     (Outage(Tls), Refused),     (Outage(Reset), Refused),  (Outage(Tls), Refused),     (Outage(Tls), Refused),    (Outage(Reset), Refused),   (Outage(Reset), Refused),   (Outage(Reset), Refused),   (Answer, Refused), (Answer, Refused), (Answer, Refused)]),
];

#[test]
fn each_fault_at_each_record_of_a_connection_has_its_outcome() {
    let authority = Authority::new();
    let backend = scripted_tls(&authority.server("127.0.0.1"));
    let trust = authority.trust();
    let keys = [("tls.ca_file", trust.as_str())];
    let layer = layer(backend.address(), &keys).learn();
    assert_eq!(layer.usual.reply, 2, "{:?}", layer.usual);
    run_all(&Case::of_table(PLACES, &TABLE), &layer);
}

/// Its reply is one record: the places between and within the two are left out; in TLS 1.2 so is the end of the handshake,
/// which has other records.
#[test]
fn each_fault_at_each_record_of_a_connection_of_nginx_has_its_outcome() {
    let authority = Authority::new();
    let trust = authority.trust();
    let keys = [("tls.ca_file", trust.as_str())];
    for (version, columns) in
        [("TLSv1.3", &[0, 1, 2, 3, 4, 5, 6, 7, 10][..]), ("TLSv1.2", &[0, 1, 3, 5, 6, 7, 10])]
    {
        let nginx = nginx(&authority, version);
        let layer = layer(SocketAddr::from(([127, 0, 0, 1], nginx.port)), &keys).learn();
        assert_eq!(layer.usual.reply, 1, "{:?}", layer.usual);
        let cases = Case::of_table(PLACES, &TABLE);
        let cases: Vec<_> = cases
            .into_iter()
            .filter(|case| columns.iter().any(|column| PLACES[*column] == case.place))
            .collect();
        run_all(&cases, &layer);
    }
}

/// A close at each byte of the handshake and of the record of the header section, and pauses.
#[test]
fn a_connection_that_is_cut_at_any_byte_allows_nobody_but_by_a_whole_record() {
    let authority = Authority::new();
    let backend = scripted_tls(&authority.server("127.0.0.1"));
    let trust = authority.trust();
    let keys = [("tls.ca_file", trust.as_str())];
    let layer = layer(backend.address(), &keys).learn();
    let usual = &layer.usual;
    assert!(usual.handshake >= 3 && usual.before > usual.handshake && usual.reply == 2, "{usual:?}");
    let mut cases = Vec::new();
    let bytes = usual
        .lengths
        .iter()
        .enumerate()
        .flat_map(|(unit, length)| (0..*length).map(move |byte| (unit, byte)));
    for (count, (unit, byte)) in bytes.enumerate() {
        let cut = match unit {
            _ if unit < usual.handshake => Outage(Tls),
            _ if unit <= usual.before => Outage(Reset),
            _ => Answer,
        };
        // Both by turns.
        let truth = [Verdict::Allow, Verdict::Deny][count % 2];
        let case = |fault, outcome, after| Case {
            fault,
            place: Place::Byte(unit, byte),
            used: false,
            truth,
            outcome,
            after,
        };
        // At each byte of what is said to be whole, and at each eighth elsewhere; a pause costs a whole exchange.
        let (is_eighth, decides) = (count % 8 == 0, unit < usual.handshake || unit == usual.before);
        if is_eighth || decides {
            cases.push(case(Fault::Close, cut, Closed));
        }
        if is_eighth {
            cases.push(case(Fault::Pause(Duration::from_millis(2)), Answer, Either));
        }
    }
    run_all(&cases, &layer);
}

fn layer<'a>(backend: SocketAddr, keys: &'a [(&'a str, &'a str)]) -> Layer<'a> {
    Layer { backend, units: Units::Records, scheme: "https", keys, usual: Usual::default() }
}

/// With the reference rule.
fn nginx(authority: &Authority, version: &str) -> Nginx {
    let identity = authority.server("127.0.0.1");
    let server = format!(
        "ssl_protocols {version}; ssl_certificate {}; ssl_certificate_key {};",
        identity.certificate.display(),
        identity.key.display()
    );
    let location = "if ($arg_token = 123) { return 200; } return 403;";
    Nginx::new(None, NginxOptions { listen: "ssl", server: &server, location, ..NginxOptions::default() })
}
