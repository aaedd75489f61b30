//! A connection that is spoilt as soon as it is there, and a request that is late, cut, doubled, spoilt or never comes whole: each
//! fault has one outcome over plain HTTP/1.1 too, and none of them is an allow. What happens to replies is in `faults.rs`.
//!
//! `tests/support/layers.rs` says what is looked at.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::net::SocketAddr;

use alta_auth::Cause::{Protocol, Reset, Timeout};
use support::layers::After::{Closed, Kept, Refused};
use support::layers::Outcome::{Answer, Broken, Outage};
use support::layers::{After, Case, Layer, Outcome, Place, Usual, run_all, truthful};
use support::{DRIP, Fault, Nginx, NginxOptions, PAUSE, Scripted, Units};

const PLACES: [Place; 2] = [Place::Connected, Place::Request];

/// A row a fault, a column a place. On a used connection, RESET is asked about once more. A request that arrives as another one
/// ([`Broken`]) is answered as the backend likes: not looked at here.
#[rustfmt::skip]
const TABLE: [(Fault, [(Outcome, After); 2]); 10] = [
    // fault             connected                    in the request
    (PAUSE,            [(Answer, Kept),              (Answer, Kept)]),
    (DRIP,             [(Answer, Kept),              (Outage(Timeout), Closed)]),
    (Fault::Close,     [(Outage(Reset), Closed),     (Outage(Reset), Closed)]),
    (Fault::Reset,     [(Broken, Closed),            (Outage(Reset), Closed)]),
    (Fault::HalfClose, [(Outage(Reset), Closed),     (Outage(Reset), Closed)]),
    (Fault::Duplicate, [(Answer, Kept),              (Broken, Closed)]),
    (Fault::Garbage,   [(Outage(Protocol), Closed),  (Broken, Closed)]),
    (Fault::Garble,    [(Answer, Kept),              (Broken, Closed)]),
    (Fault::Stop,      [(Outage(Timeout), Closed),   (Outage(Timeout), Closed)]),
    (Fault::Refuse,    [(Outage(Reset), Refused),    (Outage(Reset), Refused)]),
];

fn layer(backend: SocketAddr, lane: &'static [(&'static str, &'static str)]) -> Layer<'static> {
    Layer { backend, units: Units::Messages, scheme: "http", keys: lane, usual: Usual::default() }
}

fn run(backend: SocketAddr) {
    for lane in [&[("http.lane", "wire")], &[("http.lane", "hyper")]] {
        let layer = layer(backend, lane).learn();
        assert_eq!((layer.usual.before, layer.usual.reply), (0, 1), "{:?}", layer.usual);
        let mut cases = Case::of_table(PLACES, &TABLE);
        cases.retain(|case| (case.place, case.outcome) != (Place::Request, Broken));
        assert_eq!(
            cases.len(),
            48,
            "10 at the beginning, 7 in a request, each allowed and refused, those also used"
        );
        run_all(&cases, &layer);
    }
}

#[test]
fn each_fault_of_a_connection_or_a_request_has_its_outcome() {
    run(Scripted::new(truthful).address());
}

#[test]
fn each_fault_of_a_connection_or_a_request_to_nginx_has_its_outcome() {
    let location = "if ($arg_token = 123) { return 200; } return 403;";
    let nginx = Nginx::new(None, NginxOptions { location, ..NginxOptions::default() });
    run(SocketAddr::from(([127, 0, 0, 1], nginx.port)));
}
