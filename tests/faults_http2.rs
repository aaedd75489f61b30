//! A frame of HTTP/2 that is late, cut, doubled, spoilt or never comes, in the clear and within the records of TLS: each fault at
//! each place has one outcome, and the check that follows gets an answer of its own.
//!
//! `tests/support/layers.rs` says what is looked at. A header section is one frame here: half of it is no refusal.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use alta_auth::Cause::{Connect, Protocol, Reset, Timeout, Tls};
use alta_auth::Verdict;
use support::layers::After::{Any, Closed, Dumb, Either, Kept, Refused};
use support::layers::Outcome::{Answer, Broken, BrokenOrUnsent, Outage};
use support::layers::{After, Case, Layer, Outcome, Place, Usual, run_all};
use support::{Authority, DRIP, Fault, Http2Server, Nginx, NginxOptions, PAUSE, Units};

const PLACES: [Place; 9] = [
    Place::Connected,
    // The client's preface, and the server's SETTINGS.
    Place::Client(0),
    Place::Backend(0),
    Place::Request,
    Place::BeforeReply,
    Place::Head,
    Place::HeadEnd,
    Place::Body,
    Place::AfterReply,
];

/// A row a fault, a column a place. On a used connection, RESET is asked about once more.
#[rustfmt::skip]
const TABLE: [(Fault, [(Outcome, After); 9]); 9] = [
    // fault             connected                   client's preface      server's SETTINGS           in the request            before the reply           in the header section      before the body    in the body        after the reply
    (PAUSE,            [(Answer, Kept),             (Answer, Kept),       (Answer, Kept),             (Answer, Kept),           (Answer, Kept),            (Answer, Kept),            (Answer, Either),  (Answer, Either),  (Answer, Kept)]),
    (DRIP,             [(Answer, Kept),             (Outage(Timeout), Any), (Outage(Connect), Closed), (Outage(Timeout), Any),  (Outage(Timeout), Any),    (Outage(Timeout), Any),    (Answer, Any),     (Answer, Any),     (Answer, Kept)]),
    (Fault::Close,     [(Outage(Reset), Closed),    (Broken, Closed),     (Broken, Closed),           (Outage(Reset), Closed),  (Outage(Reset), Closed),   (Outage(Reset), Closed),   (Answer, Closed),  (Answer, Closed),  (Answer, Closed)]),
    (Fault::Reset,     [(Broken, Closed),           (Broken, Closed),     (Broken, Closed),           (Outage(Reset), Closed),  (Outage(Reset), Closed),   (Outage(Reset), Closed),   (Answer, Closed),  (Answer, Closed),  (Answer, Closed)]),
    (Fault::HalfClose, [(Outage(Reset), Closed),    (Broken, Closed),     (Outage(Protocol), Closed), (Outage(Reset), Closed),  (Outage(Reset), Closed),   (Outage(Reset), Closed),   (Answer, Closed),  (Answer, Closed),  (Answer, Closed)]),
    (Fault::Duplicate, [(Answer, Kept),             (Broken, Closed),     (Outage(Protocol), Closed), (Broken, Closed),         (Answer, Kept),            (Outage(Protocol), Closed),(Answer, Either),  (Answer, Either),  (Answer, Either)]),
    (Fault::Garbage,   [(Outage(Protocol), Closed), (Broken, Closed),     (Outage(Protocol), Closed), (Broken, Closed),         (Outage(Protocol), Closed),(Outage(Protocol), Closed),(Answer, Closed),  (Answer, Closed),  (Answer, Closed)]),
    (Fault::Stop,      [(Outage(Connect), Closed),  (Outage(Timeout), Dumb), (Outage(Connect), Closed), (Outage(Timeout), Dumb), (Outage(Timeout), Dumb),   (Outage(Timeout), Dumb),   (Answer, Dumb),    (Answer, Dumb),    (Answer, Dumb)]),
    (Fault::Refuse,    [(Outage(Reset), Refused),   (Broken, Refused),    (Broken, Refused),          (Outage(Reset), Refused), (Outage(Reset), Refused),  (Outage(Reset), Refused),  (Answer, Refused), (Answer, Refused), (Answer, Refused)]),
];

const RECORDS: [Place; 7] = [
    Place::Connected,
    Place::Client(0),
    Place::Backend(0),
    Place::Backend(2),
    Place::BeforeReply,
    Place::Head,
    Place::AfterReply,
];

#[rustfmt::skip]
const OF_RECORDS: [(Fault, [(Outcome, After); 7]); 10] = [
    // fault             connected                client's greeting       server's greeting       certificate             before the reply         in the reply             after the reply
    (PAUSE,            [(Answer, Kept),          (Answer, Kept),         (Answer, Kept),         (Answer, Kept),         (Answer, Kept),          (Answer, Kept),          (Answer, Kept)]),
    (DRIP,             [(Answer, Kept),          (Outage(Tls), Closed),  (Outage(Tls), Closed),  (Outage(Tls), Closed),  (Outage(Timeout), Any),  (Outage(Timeout), Any),  (Answer, Kept)]),
    (Fault::Close,     [(Outage(Tls), Closed),   (Outage(Tls), Closed),  (Outage(Tls), Closed),  (Outage(Tls), Closed),  (Outage(Reset), Closed), (Outage(Reset), Closed), (Answer, Closed)]),
    (Fault::Reset,     [(Broken, Closed),        (Outage(Tls), Closed),  (Outage(Tls), Closed),  (Outage(Tls), Closed),  (Outage(Reset), Closed), (Outage(Reset), Closed), (Answer, Closed)]),
    (Fault::HalfClose, [(Outage(Tls), Closed),   (Outage(Tls), Closed),  (Outage(Tls), Closed),  (Outage(Tls), Closed),  (Outage(Reset), Closed), (Outage(Reset), Closed), (Answer, Closed)]),
    (Fault::Duplicate, [(Answer, Kept),          (Outage(Tls), Closed),  (Outage(Tls), Closed),  (Outage(Tls), Closed),  (Answer, Kept),          (Outage(Tls), Closed),   (Answer, Closed)]),
    (Fault::Garbage,   [(Outage(Tls), Closed),   (Outage(Tls), Closed),  (Outage(Tls), Closed),  (Outage(Tls), Closed),  (Outage(Tls), Closed),   (Outage(Tls), Closed),   (Answer, Closed)]),
    (Fault::Garble,    [(Answer, Kept),          (Outage(Tls), Closed),  (Outage(Tls), Closed),  (Outage(Tls), Closed),  (Outage(Tls), Closed),   (Outage(Tls), Closed),   (Answer, Kept)]),
    (Fault::Stop,      [(Outage(Tls), Closed),   (Outage(Tls), Closed),  (Outage(Tls), Closed),  (Outage(Tls), Closed),  (Outage(Timeout), Dumb), (Outage(Timeout), Dumb), (Answer, Dumb)]),
    (Fault::Refuse,    [(Outage(Tls), Refused),  (Outage(Tls), Refused), (Outage(Tls), Refused), (Outage(Tls), Refused), (Outage(Reset), Refused),(Outage(Reset), Refused),(Answer, Refused)]),
];

/// The reference rule, in nginx.
const RULE: &str = "if ($arg_token = 123) { return 200 0123456789; } return 403 0123456789;";

#[test]
fn each_fault_at_each_frame_of_a_connection_has_its_outcome() {
    let backend = Http2Server::new(None);
    let layer = clear(backend.address());
    assert_eq!(layer.usual.reply, 2, "{:?}", layer.usual);
    run_all(&Case::of_table(PLACES, &TABLE), &layer);
}

#[test]
fn each_fault_at_each_frame_of_a_connection_of_nginx_has_its_outcome() {
    let nginx = Nginx::new(None, NginxOptions { listen: "http2", location: RULE, ..NginxOptions::default() });
    let layer = clear(SocketAddr::from(([127, 0, 0, 1], nginx.port)));
    assert_eq!(layer.usual.reply, 2, "{:?}", layer.usual);
    run_all(&Case::of_table(PLACES, &TABLE), &layer);
}

/// A close, and a pause, at each byte that the backend sends.
#[test]
fn a_connection_that_is_cut_at_any_byte_answers_by_whole_header_sections_only() {
    let backend = Http2Server::new(None);
    let layer = clear(backend.address());
    let mut cases = Vec::new();
    for (unit, length) in layer.usual.lengths.iter().enumerate() {
        for byte in 0..*length {
            let cut = match unit {
                0 if byte == 0 => (Outage(Reset), Closed),
                // Whether it was read before the client's next write failed.
                0 => (Broken, Closed),
                // Nobody waits for it: the request may be out or not.
                _ if unit < layer.usual.before => (BrokenOrUnsent, Either),
                _ if unit == layer.usual.before => (Outage(Reset), Closed),
                _ => (Answer, Closed),
            };
            for truth in [Verdict::Allow, Verdict::Deny] {
                let place = Place::Byte(unit, byte);
                let case = |fault, outcome, after| Case { fault, place, used: false, truth, outcome, after };
                cases.push(case(Fault::Close, cut.0, cut.1));
                cases.push(case(Fault::Pause(Duration::from_millis(2)), Answer, Either));
            }
        }
    }
    run_all(&cases, &layer);
}

/// Whatever happens to a record is TLS's; what comes in one whole record is as in the clear.
#[test]
fn each_fault_at_each_record_of_http2_over_tls_has_its_outcome() {
    let authority = Authority::new();
    let backend = Http2Server::new(Some(&authority.server("127.0.0.1")));
    let trust = authority.trust();
    let keys = [("tls.ca_file", trust.as_str()), ("http.version", "2")];
    let layer = Layer {
        backend: backend.address(),
        units: Units::Records,
        scheme: "https",
        keys: &keys,
        usual: Usual::default(),
    }
    .learn();
    assert_eq!(layer.usual.reply, 1, "{:?}", layer.usual);
    run_all(&Case::of_table(RECORDS, &OF_RECORDS), &layer);
}

fn clear(backend: SocketAddr) -> Layer<'static> {
    let keys = &[("http.version", "h2c")];
    Layer { backend, units: Units::Frames, scheme: "http", keys, usual: Usual::default() }.learn()
}
