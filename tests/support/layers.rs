//! A fault met by one unit of a layer below the reply, TLS records, HTTP/2 frames or whole messages: a case of the tables in
//! `tests/faults_tls.rs`, `tests/faults_http2.rs` and `tests/faults_request.rs`.
//!
//! The fault is met once, on the first connection; what is asked again has another. The default action is the opposite of what
//! the backend says, and so is the answer to the check that follows: who takes one for the other is seen. The breaker is
//! off.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alta_auth::{Cause, Check, Decision, Engine, Origin, Verdict};
use parking_lot::{Condvar, Mutex};

use super::truth::{assert_truth, check, opposite, settle};
use super::{
    Fault, Frame, Identity, Reply, Request, Scripted, Side, Unit, UnitProxy, Units, ask, assert_backend,
    assert_default, bad, engine, good, header_block, until,
};

/// Cases that wait and are busy with something else at one time: the others of them cost nothing.
const BUSY: usize = 2;

/// What becomes of the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The backend's answer.
    Answer,
    /// No answer.
    Outage(Cause),
    /// No answer; why depends on how far the connection had come, and how much of it was read, when it ended. Where it was used,
    /// the check may have been asked again.
    Broken,
    /// As `Broken`; or the request had not been sent when the connection ended, and another one brought the answer.
    BrokenOrUnsent,
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// The next check goes out on it.
    Kept,
    /// The next check has another one.
    Closed,
    /// Either: it depends on whether the machine is quick enough.
    Either,
    /// The next check goes out on it and gets no answer.
    Dumb,
    /// The next check gets its own answer or none, by how late it comes.
    Any,
    /// There is no next connection.
    Refused,
}

/// The unit that the fault is met by, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Before a byte of either side.
    Connected,
    /// In the middle of the client's unit of that number.
    Client(usize),
    /// In the middle of the backend's unit of that number.
    Backend(usize),
    /// Before that byte of the backend's unit of that number.
    Byte(usize, usize),
    /// In the middle of the request.
    Request,
    /// Before the first byte of the reply.
    BeforeReply,
    /// In the middle of the reply's first unit: its header section.
    Head,
    /// Between the first unit and the second.
    HeadEnd,
    /// In the middle of the last unit: the body.
    Body,
    /// After the reply.
    AfterReply,
}

impl Place {
    /// Whether a connection is past it once it was used.
    pub(crate) fn is_of_a_beginning(self) -> bool {
        matches!(self, Self::Connected | Self::Client(_) | Self::Backend(_))
    }
}

/// Backend and proxy between which the faults are.
#[derive(Clone)]
pub(crate) struct Layer<'a> {
    pub(crate) backend: SocketAddr,
    pub(crate) units: Units,
    /// `http` or `https`.
    pub(crate) scheme: &'a str,
    pub(crate) keys: &'a [(&'a str, &'a str)],
    pub(crate) usual: Usual,
}

/// Units of a first connection that nothing happens to, as [`Layer::learn`] saw them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usual {
    /// Of the backend, before the client has said its third word, which ends the handshake of TLS 1.3.
    pub(crate) handshake: usize,
    /// Of the backend, before its first reply.
    pub(crate) before: usize,
    /// Of the backend, a reply.
    pub(crate) reply: usize,
    /// The client's unit that is its first request, and its second.
    requests: [usize; 2],
    /// Of the backend's units, until the end of the first reply. A signature is not always of the same length.
    pub(crate) lengths: Vec<usize>,
}

impl Layer<'_> {
    /// Asks twice and counts.
    pub(crate) fn learn(self) -> Self {
        let proxy = UnitProxy::new(self.backend, self.units, |_| None);
        let engine = self.engine(&proxy, &[]);
        let mut counts = [0; 2];
        for (count, truth) in counts.iter_mut().zip([Verdict::Allow, Verdict::Deny]) {
            assert_truth(&ask(&engine, &check(b"learn", truth)), truth);
            settle(&engine);
            *count = proxy.sent_by(Side::Backend);
        }
        let seen = proxy.seen();
        assert_eq!(proxy.connections(), 1, "{seen:?}");
        let reply = counts[1] - counts[0];
        let of = |side| seen.iter().filter(move |unit| unit.from == Some(side));
        // Without a handshake there is no third word.
        let third = seen.iter().position(|unit| unit.from == Some(Side::Client) && unit.index == 2);
        let handshake =
            seen[..third.unwrap_or(0)].iter().filter(|unit| unit.from == Some(Side::Backend)).count();
        // What a request is: HEADERS; a record with data, but in TLS 1.3 the first, in which the handshake ends.
        let (kind, not) = match self.units {
            Units::Frames => (1, 0),
            Units::Messages => (0, 0),
            Units::Records => {
                (23, usize::from(of(Side::Backend).take(handshake).any(|unit| unit.kind == 23)))
            }
        };
        let requests: Vec<_> = of(Side::Client)
            .filter(|unit| unit.kind == kind && unit.of_kind >= not)
            .map(|unit| unit.index)
            .collect();
        let lengths = of(Side::Backend).take(counts[0]).map(|unit| unit.length).collect();
        let usual = Usual {
            handshake,
            before: counts[0] - reply,
            reply,
            requests: [requests[0], requests[1]],
            lengths,
        };
        Self { usual, ..self }
    }

    fn engine(&self, proxy: &UnitProxy, keys: &[(&str, &str)]) -> Engine {
        // Nobody but the faults closes a connection.
        let first = [("breaker.failures", "0"), ("pool.idle_timeout", "60s")];
        let keys: Vec<_> = first.iter().chain(self.keys).chain(keys).copied().collect();
        engine(&proxy.url(self.scheme), &keys)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) fault: Fault,
    pub(crate) place: Place,
    /// Whether it is met by the connection's second request.
    pub(crate) used: bool,
    pub(crate) truth: Verdict,
    pub(crate) outcome: Outcome,
    pub(crate) after: After,
}

impl Case {
    /// Each row a fault, each column a place; on new connections and on used ones, allowed and refused.
    pub(crate) fn of_table<const N: usize>(
        places: [Place; N],
        table: &[(Fault, [(Outcome, After); N])],
    ) -> Vec<Self> {
        let mut cases = Vec::new();
        for (fault, row) in table {
            for (place, (outcome, after)) in places.into_iter().zip(*row) {
                for used in [false, true] {
                    for truth in [Verdict::Allow, Verdict::Deny] {
                        if !(used && place.is_of_a_beginning()) {
                            cases.push(Self { fault: *fault, place, used, truth, outcome, after });
                        }
                    }
                }
            }
        }
        cases
    }

    /// A check has to run out of time.
    fn waits(&self) -> bool {
        matches!(self.fault, Fault::Stop | Fault::Drip(_)) && self.outcome != Outcome::Answer
            || matches!(self.after, After::Dumb | After::Any)
    }

    /// Died before the first byte of an answer on a used connection: asked again.
    fn is_retried(&self) -> bool {
        self.used && self.outcome == Outcome::Outage(Cause::Reset)
    }

    fn expected(&self) -> Outcome {
        match self.outcome {
            _ if !self.is_retried() => self.outcome,
            _ if self.fault == Fault::Refuse => Outcome::Outage(Cause::Connect),
            _ => Outcome::Answer,
        }
    }

    /// What is wrong, of all that may be.
    pub(crate) fn run(&self, layer: &Layer<'_>) -> Result<(), String> {
        let (case, of, units) = (*self, layer.usual.clone(), layer.units);
        let met = AtomicBool::new(false);
        let turn = Arc::new(Mutex::new(None));
        let until_met = Arc::clone(&turn);
        let proxy = UnitProxy::new(layer.backend, units, move |unit| {
            let at = if unit.connection == 0 { case.at(unit, &of)? } else { return None };
            let is_first = !met.swap(true, Ordering::SeqCst);
            drop(until_met.lock().take());
            is_first.then_some((case.fault, at))
        });
        let default = if self.truth == Verdict::Allow { "deny" } else { "allow" };
        // Those that do not wait have more than any test waits for; a handshake of TLS takes its time.
        let (timeout, connecting) = match (self.waits(), layer.units) {
            (false, _) => (25_000, 20_000),
            // A frame of few bytes that drips would be there in two seconds.
            (true, Units::Frames) => (1_000, 500),
            (true, _) => (2_000, 1_200),
        };
        let [timeout_key, connecting] = [timeout, connecting].map(|time| format!("{time}ms"));
        let keys = [("default_action", default), ("timeout", &timeout_key), ("connect_timeout", &connecting)];
        if self.waits() {
            *turn.lock() = Some(Turn::take());
        }
        let engine = layer.engine(&proxy, &keys);
        if self.used {
            assert_truth(&ask(&engine, &check(b"before", self.truth)), self.truth);
            settle(&engine);
        }
        let mut wrong = Vec::new();

        let decision = ask(&engine, &check(b"met", self.truth));
        drop(turn.lock().take());
        let got = (decision.verdict, decision.origin, decision.cause);
        let answer = (self.truth, Origin::Backend, Cause::None);
        let outage = |cause| (opposite(self.truth), Origin::Default, cause);
        let retries = engine.stats().retries;
        let again = u64::from(self.is_retried());
        let (as_expected, may_retry) = match self.expected() {
            Outcome::Answer => (got == answer, again),
            Outcome::Outage(cause) => (got == outage(cause), again),
            Outcome::Broken if retries > 0 => (got == answer, u64::from(self.used)),
            Outcome::BrokenOrUnsent if got == answer => (true, 0),
            Outcome::Broken | Outcome::BrokenOrUnsent => {
                let causes = [Cause::Connect, Cause::Tls, Cause::Reset, Cause::Protocol];
                // A backend may refuse what reaches it as nonsense.
                let refused = self.place == Place::Request
                    && (decision.verdict, decision.origin) == (Verdict::Deny, Origin::Backend);
                (refused || causes.into_iter().any(|cause| got == outage(cause)), 0)
            }
        };
        if !as_expected {
            wrong.push(format!("{got:?}, {}", decision.detail()));
        }
        if retries != may_retry {
            wrong.push(format!("asked again {retries} times"));
        }
        if decision.latency > Duration::from_millis(timeout) + Duration::from_secs(5) {
            wrong.push(format!("after {:?}", decision.latency));
        }

        // The opposite question: an answer to what was asked before would be seen.
        settle(&engine);
        let connections = proxy.connections();
        let other = opposite(self.truth);
        let turn = (self.waits() && matches!(self.after, After::Closed | After::Either)).then(Turn::take);
        let next = ask(&engine, &check(b"after", other));
        drop(turn);
        let got = (next.verdict, next.origin, next.cause);
        // The default action is what the next check's truth is: whatever else comes is the answer to another.
        let none = |cause| got == (other, Origin::Default, cause);
        let own = got == (other, Origin::Backend, Cause::None);
        let as_expected = match self.after {
            After::Refused => none(Cause::Connect),
            After::Dumb => none(Cause::Timeout),
            After::Any => own || none(Cause::Timeout),
            After::Kept | After::Closed | After::Either => own,
        };
        if !as_expected {
            wrong.push(format!("then {got:?}, {}", next.detail()));
        }
        let kept = proxy.connections() == connections;
        // What was asked again has made a connection that nothing happens to.
        if retries == 0
            && matches!(self.after, After::Kept | After::Closed)
            && kept != (self.after == After::Kept)
        {
            wrong.push(format!("the connection was kept: {kept}"));
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("{self:?}: {}", wrong.join("; "))) }
    }

    /// From which byte of the unit on it is met by the fault.
    fn at(&self, unit: &Unit, of: &Usual) -> Option<usize> {
        let middle = Some(unit.length / 2);
        let nth = usize::from(self.used);
        let first = of.before + nth * of.reply;
        let last = first + of.reply - 1;
        match (self.place, unit.from) {
            (Place::Connected, None) => Some(0),
            (Place::Client(index), Some(Side::Client)) | (Place::Backend(index), Some(Side::Backend)) => {
                middle.filter(|_| unit.index == index)
            }
            (Place::Byte(index, byte), Some(Side::Backend)) => {
                (unit.index == index).then_some(byte.min(unit.length - 1))
            }
            (Place::Request, Some(Side::Client)) => {
                (unit.index == of.requests[nth]).then_some(unit.length / 2)
            }
            (place, Some(Side::Backend)) => match place {
                Place::BeforeReply if unit.index == first => Some(0),
                Place::Head if unit.index == first => middle,
                Place::HeadEnd if unit.index == first => Some(unit.length),
                Place::Body if unit.index == last => middle,
                Place::AfterReply if unit.index == last => Some(unit.length),
                _ => None,
            },
            _ => None,
        }
    }
}

/// One of [`BUSY`].
struct Turn;

static TURNS: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

impl Turn {
    fn take() -> Self {
        let mut taken = TURNS.0.lock();
        TURNS.1.wait_while(&mut taken, |taken| *taken == BUSY);
        *taken += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TURNS.0.lock() -= 1;
        TURNS.1.notify_one();
    }
}

/// Runs each of the cases, so many at a time, and says which are wrong.
#[track_caller]
pub(crate) fn run_all(cases: &[Case], layer: &Layer<'_>) {
    let wrong = Mutex::new(Vec::new());
    let (waiting, others): (Vec<Case>, Vec<Case>) = cases.iter().partition(|case| case.waits());
    for (threads, cases) in [(48, waiting), (16, others)] {
        super::at_once(threads, &cases, |case| {
            if let Err(what) = case.run(layer) {
                wrong.lock().push(what);
            }
        });
    }
    let wrong = wrong.into_inner();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// The reference rule over TLS, header section and body in a record each.
pub(crate) fn scripted_tls(identity: &Identity) -> Scripted {
    Scripted::tls(identity, truthful)
}

/// The reference rule, with a body.
pub(crate) fn truthful(request: &Request) -> Reply {
    let status = if request.target().contains("token=123") { "200 OK" } else { "403 Forbidden" };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: 10\r\nX-UserId: u\r\n\r\n");
    Reply::raw(head).then(Reply::raw("0123456789"))
}
