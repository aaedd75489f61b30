//! Replies that break the rules, or come close to it: each has one verdict, and none of them decides anything but the check
//! that it answers.
//!
//! The cases are in `tests/corpus/replies`, whose README says how they are written. After each of them a check is asked
//! whose answer is the opposite. The default action is `deny`, so that whatever allows was said by the backend.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use alta_auth::{Cause, Check, Origin, Verdict};
use support::{Line, Part, Reply, Scripted, ask, at_once, corpus, engine, good, step, until};

/// Each lane reads the whole corpus, and so does the one that pipelines.
const LANES: [(&str, &str); 3] = [("hyper", "1"), ("wire", "1"), ("wire", "8")];
type Lane = (&'static str, &'static str);
const THREADS: usize = 16;

struct Case {
    /// File and line.
    at: String,
    verdict: Verdict,
    cause: Cause,
    /// `None`: either.
    kept: Option<bool>,
    remembered: bool,
    reply: Reply,
    /// The same, each byte in a write of its own.
    in_bytes: Reply,
    /// The check has to run out of time.
    waits: bool,
}

#[test]
fn each_reply_of_the_corpus_has_its_verdict_and_decides_nothing_else() {
    read_by_each_lane(|case, lane| case.run(lane, true));
}

/// The connection and the next check are left alone here: what is surplus may come while that is asked.
#[test]
fn each_reply_of_the_corpus_has_the_same_verdict_if_it_comes_byte_by_byte() {
    read_by_each_lane(|case, lane| case.run(lane, false));
}

fn read_by_each_lane(run: impl Fn(&Case, Lane) -> Result<(), String> + Sync) {
    let mut cases: Vec<_> = corpus("replies").into_iter().map(Case::new).collect();
    assert!(cases.len() >= 150, "{}: some of the corpus was lost", cases.len());
    // Those that wait first, so that they wait together.
    cases.sort_by_key(|case| !case.waits);
    for lane in LANES {
        let wrong = parking_lot::Mutex::new(Vec::new());
        at_once(THREADS, &cases, |case| {
            if let Err(what) = run(case, lane) {
                wrong.lock().push(format!("{}: {what}", case.at));
            }
        });
        let wrong = wrong.into_inner();
        assert!(wrong.is_empty(), "{lane:?}: {} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    }
}

impl Case {
    /// What is wrong, of all that may be.
    fn run(&self, (lane, window): Lane, whole: bool) -> Result<(), String> {
        let reply = if whole { self.reply.clone() } else { self.in_bytes.clone() };
        let next = self.opposite();
        let backend = Scripted::new(move |request| match request.session().as_str() {
            "case" => reply.clone(),
            _ => next.clone(),
        });
        let engine = engine(
            &backend.url(),
            &[
                ("http.lane", lane),
                ("http.pipeline", window),
                ("breaker.failures", "0"),
                ("timeout", if self.waits { "1s" } else { "25s" }),
                // Nobody but the reply closes a connection.
                ("pool.idle_timeout", "60s"),
            ],
        );
        let check = Check { session_id: b"case", ..good() };
        let decision = ask(&engine, &check);
        let origin = if self.cause == Cause::None { Origin::Backend } else { Origin::Default };
        let got = (decision.verdict, decision.origin, decision.cause);
        let mut wrong = Vec::new();
        if got != (self.verdict, origin, self.cause) {
            wrong.push(format!("{got:?}, {}", decision.detail()));
        }
        if engine.stats().retries != 0 || engine.stats().exchanges != 1 {
            wrong.push("asked again".to_owned());
        }
        let remembered = engine.lookup(&check).unwrap().is_some();
        if remembered != self.remembered {
            wrong.push(format!("remembered: {remembered}"));
        }
        if whole {
            until(|| {
                let stats = engine.stats();
                stats.connections_open == stats.connections_idle
            });
            let next = ask(&engine, &Check { session_id: b"next", ..good() });
            if next.origin != Origin::Backend || next.user_id() != "next" || next.allows() == self.allows() {
                wrong.push(format!("the next check got {next:?}"));
            }
            let connections: Vec<_> = backend.requests().iter().map(|request| request.connection).collect();
            let kept = connections.windows(2).all(|pair| pair[0] == pair[1]);
            if self.kept.is_some_and(|expected| expected != kept) {
                wrong.push(format!("the connection was kept: {kept}"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    fn allows(&self) -> bool {
        self.verdict == Verdict::Allow
    }

    fn opposite(&self) -> Reply {
        Reply::status(if self.allows() { 403 } else { 200 }, "X-UserId: next\r\n")
    }

    fn new(line: Line) -> Self {
        // What was not sent yet when a reset goes out is never sent: many small pieces would not arrive.
        let [whole, in_bytes] = [false, !line.has("reset")].map(|in_bytes| script(&line, in_bytes));
        let waits = line.has("wait");
        let Line { at, verdict, cause, kept, remembered, .. } = line;
        Self { at, verdict, cause, kept, remembered, reply: whole, in_bytes, waits }
    }
}

/// What a line says is sent.
fn script(line: &Line, in_bytes: bool) -> Reply {
    let (mut reply, mut bytes) = (Reply::default(), Vec::new());
    for part in &line.reply {
        let mark = match part {
            Part::Bytes(more) => {
                bytes.extend_from_slice(more);
                continue;
            }
            Part::Mark(mark) => mark.as_str(),
        };
        let more = match mark {
            "200" => "HTTP/1.1 200 OK\r\nX-AuthDuration: 600\r\n",
            "403" => "HTTP/1.1 403 Forbidden\r\nX-AuthDuration: 600\r\n",
            "0" => "Content-Length: 0\r\n\r\n",
            _ => "",
        };
        bytes.extend_from_slice(more.as_bytes());
        if more.is_empty() {
            let step = step(mark).unwrap_or_else(|| panic!("{}: no mark: {mark}", line.at));
            reply = reply.then(Reply::pieces(&std::mem::take(&mut bytes), in_bytes)).then(step);
        }
    }
    reply.then(Reply::pieces(&bytes, in_bytes))
}
