//! A reply that is late, cut, doubled, spoilt or never comes: each fault at each place of the reply has one outcome,
//! on a fresh connection and on one that was used before, and the check that follows gets an answer of its own.
//!
//! The default action here is always the opposite of what the backend says: who takes it for an answer, or an answer for
//! it, is seen. The breaker is off.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(feature = "command")]
#[path = "command/support.rs"]
mod command;
mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alta_auth::{Cause, Check, Decision, Origin, Verdict};
use support::truth::{assert_truth, check, opposite, settle};
use support::{
    DRIP, Fault, FaultProxy, Fpm, Nginx, NginxOptions, PAUSE, Place, Reply, Scripted, ask, assert_backend,
    assert_default, at_once, engine, good, head_end, status_line_end, until,
};

/// Checks under way at one time; each is of another engine.
const THREADS: usize = 16;
/// Of the checks that must run into it; the others have more than any test waits for.
const SHORT: &str = "2s";

// What becomes of the check

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The backend's answer.
    Answer,
    /// A refusing status line is an answer, whatever follows; an allowing one without the rest is an outage.
    RefusalOr(Cause),
    /// No answer.
    Outage(Cause),
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// The next check goes out on it.
    Kept,
    /// The next check has another one.
    Closed,
    /// Either: it depends on whether the machine is quick enough.
    Either,
    /// The next check goes out on it and gets no answer.
    Dumb,
    /// There is no next connection.
    Refused,
}

use After::{Closed, Dumb, Either, Kept, Refused};
use Cause::{Connect, Protocol, Reset, Timeout};
use Outcome::{Answer, Outage, RefusalOr};

const PLACES: [Place; 6] =
    [Place::BeforeReply, Place::StatusLine, Place::Headers, Place::HeadEnd, Place::Body, Place::AfterReply];

type Row = (Fault, [(Outcome, After); 6]);

/// A row a fault, a column a place. On a used connection, RESET is asked about once more.
#[rustfmt::skip]
const TABLE: [Row; 9] = [
    // fault            before the reply            status line                  header section                   before the body      in the body          after the reply
    (PAUSE,            [(Answer, Kept),            (Answer, Kept),              (Answer, Kept),                  (Answer, Either),    (Answer, Either),    (Answer, Kept)]),
    (DRIP,             [(Outage(Timeout), Closed), (Outage(Timeout), Closed),   (RefusalOr(Timeout), Closed),    (Answer, Closed),    (Answer, Closed),    (Answer, Kept)]),
    (Fault::Close,     [(Outage(Reset), Closed),   (Outage(Protocol), Closed),  (RefusalOr(Protocol), Closed),   (Answer, Closed),    (Answer, Closed),    (Answer, Closed)]),
    (Fault::Reset,     [(Outage(Reset), Closed),   (Outage(Protocol), Closed),  (RefusalOr(Protocol), Closed),   (Answer, Closed),    (Answer, Closed),    (Answer, Closed)]),
    (Fault::HalfClose, [(Outage(Reset), Closed),   (Outage(Protocol), Closed),  (RefusalOr(Protocol), Closed),   (Answer, Closed),    (Answer, Closed),    (Answer, Closed)]),
    (Fault::Duplicate, [(Answer, Kept),            (Outage(Protocol), Closed),  (RefusalOr(Protocol), Closed),   (Answer, Closed),    (Answer, Closed),    (Answer, Closed)]),
    (Fault::Garbage,   [(Outage(Protocol), Closed),(Outage(Protocol), Closed),  (RefusalOr(Protocol), Closed),   (Answer, Closed),    (Answer, Closed),    (Answer, Closed)]),
    (Fault::Stop,      [(Outage(Timeout), Closed), (Outage(Timeout), Closed),   (RefusalOr(Timeout), Closed),    (Answer, Closed),    (Answer, Closed),    (Answer, Dumb)]),
    (Fault::Refuse,    [(Outage(Reset), Refused),  (Outage(Protocol), Refused), (RefusalOr(Protocol), Refused),  (Answer, Refused),   (Answer, Refused),   (Answer, Refused)]),
];

/// On which connection the fault is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    Fresh,
    /// The second request of it; the fault is met by whatever is asked again, too.
    Used,
    /// The second request of it; what is asked again is not met by the fault.
    UsedOnce,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    fault: Fault,
    place: Place,
    on: On,
    truth: Verdict,
    outcome: Outcome,
    after: After,
}

impl Case {
    fn of_table() -> Vec<Self> {
        let mut cases = Vec::new();
        for (fault, row) in TABLE {
            for (place, (outcome, after)) in PLACES.into_iter().zip(row) {
                for on in [On::Fresh, On::Used, On::UsedOnce] {
                    for truth in [Verdict::Allow, Verdict::Deny] {
                        cases.push(Self { fault, place, on, truth, outcome, after });
                    }
                }
            }
        }
        // Those that wait first, so that they wait together.
        cases.sort_by_key(|case| case.timeout() != SHORT);
        cases
    }

    /// Died before the first byte of an answer on a used connection: asked again.
    fn is_retried(&self) -> bool {
        self.on != On::Fresh && self.outcome == Outage(Reset)
    }

    fn expected(&self) -> Outcome {
        match (self.on, self.outcome) {
            (On::Used | On::UsedOnce, Outage(Reset)) if self.fault == Fault::Refuse => Outage(Connect),
            (On::UsedOnce, Outage(Reset)) => Answer,
            (_, RefusalOr(_)) if self.truth == Verdict::Deny => Answer,
            (_, RefusalOr(cause)) => Outage(cause),
            (_, outcome) => outcome,
        }
    }

    fn timeout(&self) -> &'static str {
        match (self.outcome, self.after) {
            (Outage(Timeout) | RefusalOr(Timeout), _) | (_, Dumb) => SHORT,
            _ => "25s",
        }
    }

    fn run(&self, backend: SocketAddr) {
        let case = *self;
        let met = AtomicUsize::new(0);
        let proxy = FaultProxy::new(backend, move |request| {
            let again = || met.fetch_add(1, Ordering::SeqCst) > 0;
            if request.session() != "met" || case.on == On::UsedOnce && again() {
                return (Fault::Nothing, Place::BeforeReply);
            }
            (case.fault, case.place)
        });
        let engine = engine(
            &proxy.url(),
            &[
                ("breaker.failures", "0"),
                ("default_action", if self.truth == Verdict::Allow { "deny" } else { "allow" }),
                ("timeout", self.timeout()),
                // Nobody but the faults closes a connection.
                ("pool.idle_timeout", "60s"),
            ],
        );
        if self.on != On::Fresh {
            assert_truth(&ask(&engine, &check(b"before", self.truth)), self.truth);
            settle(&engine);
        }

        let decision = ask(&engine, &check(b"met", self.truth));
        self.assert_outcome(&decision);
        let retries = u64::from(self.is_retried());
        assert_eq!(engine.stats().retries, retries, "{self:?}");
        let asked = proxy.requests().iter().filter(|request| request.session() == "met").count();
        // Where the proxy accepts no more, what is asked again does not arrive.
        let arrived = if self.fault == Fault::Refuse { 1 } else { 1 + retries as usize };
        assert_eq!(asked, arrived, "{self:?}");
        let budget = Duration::from_secs(if self.timeout() == SHORT { 2 } else { 25 });
        assert!(decision.latency < budget + Duration::from_secs(5), "{self:?}: {:?}", decision.latency);

        // The opposite question: an answer to what was asked before would be seen.
        settle(&engine);
        let other = opposite(self.truth);
        let next = ask(&engine, &check(b"after", other));
        match self.after {
            Refused => assert_default(&next, other, Connect),
            Dumb => assert_default(&next, other, Timeout),
            Kept | Closed | Either => assert_truth(&next, other),
        }
        let requests = proxy.requests();
        let connection_of = |session: &str| {
            requests
                .iter()
                .rev()
                .find(|request| request.session() == session)
                .map(|request| request.connection)
        };
        match self.after {
            // What was asked again has a connection of its own, which nothing happens to.
            _ if self.is_retried() && self.on == On::UsedOnce => {}
            Kept => assert_eq!(connection_of("after"), connection_of("met"), "{self:?}"),
            Closed => assert_ne!(connection_of("after"), connection_of("met"), "{self:?}"),
            Either | Dumb | Refused => {}
        }
        assert!(engine.stats().endpoints.iter().all(|endpoint| endpoint.breaker_opened == 0));
    }

    #[track_caller]
    fn assert_outcome(&self, decision: &Decision) {
        let got = (decision.verdict, decision.origin, decision.cause);
        let expected = match self.expected() {
            Answer => (self.truth, Origin::Backend, Cause::None),
            Outage(cause) | RefusalOr(cause) => (opposite(self.truth), Origin::Default, cause),
        };
        assert_eq!(got, expected, "{self:?}: {}", decision.detail());
    }
}

fn status(truth: Verdict) -> &'static str {
    if truth == Verdict::Allow { "200 OK" } else { "403 Forbidden" }
}

/// A reply with a length, and one in two chunks.
fn replies(truth: Verdict) -> [String; 2] {
    let status = status(truth);
    [
        format!("HTTP/1.1 {status}\r\nContent-Length: 10\r\nX-UserId: u\r\n\r\n0123456789"),
        format!(
            "HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\nX-UserId: u\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n"
        ),
    ]
}

/// The reference rule, with one of the two framings.
fn scripted(framing: usize) -> Scripted {
    Scripted::new(move |request| {
        let truth = if request.target().contains("token=123") { Verdict::Allow } else { Verdict::Deny };
        Reply::raw(replies(truth)[framing].clone())
    })
}

#[test]
fn each_fault_at_each_place_of_a_reply_with_a_length_has_its_outcome() {
    let backend = scripted(0);
    at_once(THREADS, &Case::of_table(), |case| case.run(backend.address()));
}

#[test]
fn each_fault_at_each_place_of_a_reply_in_chunks_has_its_outcome() {
    let backend = scripted(1);
    at_once(THREADS, &Case::of_table(), |case| case.run(backend.address()));
}

/// Its body is empty and in chunks: the place in the body is within the last chunk's mark.
#[test]
fn each_fault_at_each_place_of_a_reply_of_nginx_has_its_outcome() {
    let fpm = Fpm::new();
    let nginx = Nginx::new(Some(&fpm), NginxOptions::default());
    let address = SocketAddr::from(([127, 0, 0, 1], nginx.port));
    at_once(THREADS, &Case::of_table(), |case| case.run(address));
}

/// Its body, too, is empty and in chunks.
#[cfg(feature = "command")]
#[test]
fn each_fault_at_each_place_of_a_reply_of_the_embedded_backend_has_its_outcome() {
    let backend = command::Backend::start(&["--framing", "chunked"]);
    let address = backend.address().parse().unwrap();
    at_once(THREADS, &Case::of_table(), |case| case.run(address));
}

// At each byte

/// A close and a pause at each byte of each reply, on fresh and on used connections.
#[test]
fn a_reply_that_is_cut_at_any_byte_is_no_other_reply() {
    let backends = [scripted(0), scripted(1)];
    let mut cases = Vec::new();
    for truth in [Verdict::Allow, Verdict::Deny] {
        for (framing, reply) in replies(truth).iter().enumerate() {
            let (line, head) = (status_line_end(reply.as_bytes()), head_end(reply.as_bytes()));
            for byte in 0..=reply.len() {
                let cut = match byte {
                    0 => Outage(Reset),
                    _ if byte < line => Outage(Protocol),
                    _ if byte < head => RefusalOr(Protocol),
                    _ => Answer,
                };
                for on in [On::Fresh, On::Used] {
                    let case = |fault, outcome, after| {
                        let place = Place::Byte(byte);
                        (framing, Case { fault, place, on, truth, outcome, after })
                    };
                    cases.push(case(Fault::Close, cut, Closed));
                    cases.push(case(Fault::Pause(Duration::from_millis(2)), Answer, Either));
                }
            }
        }
    }
    at_once(THREADS, &cases, |(framing, case)| case.run(backends[*framing].address()));
}

/// Where the body decides, half of it decides nothing, and all of it everything.
#[test]
fn a_body_that_decides_and_is_cut_at_any_byte_allows_nobody() {
    let body = r#"{"error":0}"#;
    let replies = [
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n{body}\r\n0\r\n\r\n"),
    ];
    let mut cases = Vec::new();
    for reply in &replies {
        for byte in head_end(reply.as_bytes())..=reply.len() {
            for fault in [Fault::Close, Fault::Reset, Fault::Pause(Duration::from_millis(2))] {
                cases.push((reply, fault, byte));
            }
        }
    }
    at_once(THREADS, &cases, |&(reply, fault, byte)| {
        let backend = Scripted::always(Reply::raw(reply.clone()));
        let proxy = FaultProxy::new(backend.address(), move |_| (fault, Place::Byte(byte)));
        let keys = [("breaker.failures", "0"), ("verdict.body", "json:error==0"), ("timeout", "25s")];
        let decision = ask(&engine(&proxy.url(), &keys), &good());
        if byte == reply.len() || matches!(fault, Fault::Pause(_)) {
            assert_backend(&decision, Verdict::Allow, 200);
        } else {
            assert_default(&decision, Verdict::Deny, Reset);
        }
    });
}

// The breaker is the subject

/// Faults of many clients open it, at whatever place they are met; what follows is not asked until it is over.
#[test]
fn outages_of_each_kind_open_the_breaker_and_refusals_never_do() {
    let backend = scripted(0);
    let mut cases = vec![
        (Fault::Close, Place::BeforeReply, Verdict::Deny, true),
        (Fault::Close, Place::StatusLine, Verdict::Deny, true),
        (Fault::Close, Place::Headers, Verdict::Allow, true),
        (Fault::Close, Place::Headers, Verdict::Deny, false),
        (Fault::Close, Place::Body, Verdict::Allow, false),
        (Fault::Reset, Place::BeforeReply, Verdict::Allow, true),
        (Fault::Garbage, Place::BeforeReply, Verdict::Allow, true),
        (Fault::Garbage, Place::AfterReply, Verdict::Allow, false),
        (Fault::Stop, Place::BeforeReply, Verdict::Deny, true),
        (Fault::Stop, Place::Headers, Verdict::Deny, false),
    ];
    cases.sort_by_key(|case| case.0 != Fault::Stop);
    at_once(THREADS, &cases, |&(fault, place, truth, opens)| {
        let proxy = FaultProxy::new(backend.address(), move |_| (fault, place));
        let timeout = if fault == Fault::Stop { "200ms" } else { "25s" };
        let keys = [("breaker.failures", "5"), ("breaker.cooldown", "1m"), ("timeout", timeout)];
        let engine = engine(&proxy.url(), &keys);
        for number in 0..5 {
            let (id, ip) = (format!("s{number}"), format!("192.0.2.{number}"));
            let check = check(id.as_bytes(), truth);
            let decision = ask(&engine, &Check { ip: ip.as_bytes(), ..check });
            assert_ne!(decision.cause, Cause::BreakerOpen, "{fault:?} {place:?}: after {number}");
        }
        // An exchange that runs out of time ends a moment after its check.
        until(|| engine.stats().endpoints[0].breaker_open || !opens);
        let endpoint = &engine.stats().endpoints[0];
        let state = (endpoint.breaker_open, endpoint.breaker_opened);
        assert_eq!(state, (opens, u64::from(opens)), "{fault:?} {place:?} {truth}");
        let before = proxy.requests().len();
        let last = ask(&engine, &Check { ip: b"192.0.2.99", ..check(b"last", truth) });
        assert_eq!(last.cause == Cause::BreakerOpen, opens, "{fault:?} {place:?} {truth}: {last:?}");
        assert_eq!(proxy.requests().len() > before, !opens, "{fault:?} {place:?} {truth}");
    });
}
