//! Replies that break the rules, or come close to it: each has one verdict, and none of them decides anything but the check
//! that it answers.
//!
//! The cases are in `tests/corpus/replies`, whose README says how they are written. After each of them a check is asked
//! whose answer is the opposite. The default action is `deny`, so that whatever allows was said by the backend.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::path::Path;
use std::time::Duration;

use alta_auth::{Cause, Check, Origin, Verdict};
use support::{Reply, Scripted, ask, at_once, engine, good, until};

/// Each lane reads the whole corpus.
const LANES: [&str; 1] = ["hyper"];
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/replies");
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

fn read_by_each_lane(run: impl Fn(&Case, &str) -> Result<(), String> + Sync) {
    let mut cases = corpus();
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
        assert!(wrong.is_empty(), "{lane}: {} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    }
}

impl Case {
    /// What is wrong, of all that may be.
    fn run(&self, lane: &str, whole: bool) -> Result<(), String> {
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

    fn parse(at: String, line: &str) -> Self {
        let mut rest = line;
        let mut word = || {
            let (word, after) = rest.split_once(' ').unwrap_or_else(|| panic!("{at}: four columns"));
            rest = after.trim_start_matches(' ');
            word
        };
        let (verdict, cause) = match word() {
            "allow" => (Verdict::Allow, Cause::None),
            "deny" => (Verdict::Deny, Cause::None),
            name => {
                let outages =
                    [("PROTOCOL", Cause::Protocol), ("RESET", Cause::Reset), ("TIMEOUT", Cause::Timeout)];
                let outage = outages.into_iter().find(|(known, _)| *known == name);
                (Verdict::Deny, outage.unwrap_or_else(|| panic!("{at}: no verdict {name}")).1)
            }
        };
        let kept = match word() {
            "kept" => Some(true),
            "closed" => Some(false),
            "either" => None,
            other => panic!("{at}: no fate of a connection: {other}"),
        };
        let remembered = match word() {
            "remembered" => true,
            "forgotten" => false,
            other => panic!("{at}: not about memory: {other}"),
        };
        // What was not sent yet when a reset goes out is never sent: many small pieces would not arrive.
        let [whole, in_bytes] = [false, !rest.contains("\\[reset]")].map(|in_bytes| {
            let mut script = Script { in_bytes, ..Script::default() };
            script.read(rest, None).unwrap_or_else(|what| panic!("{at}: {what}"));
            script.flush();
            script
        });
        let (reply, waits, in_bytes) = (whole.reply, whole.waits, in_bytes.reply);
        Self { at, verdict, cause, kept, remembered, reply, in_bytes, waits }
    }
}

fn corpus() -> Vec<Case> {
    let mut files: Vec<_> = Path::new(FOLDER)
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "txt"))
        .collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy();
        for (number, line) in text.lines().enumerate() {
            if !line.is_empty() && !line.starts_with('#') {
                cases.push(Case::parse(format!("{name}:{}: {line:.120}", number + 1), line));
            }
        }
    }
    cases
}

/// What a line says is sent.
#[derive(Default)]
struct Script {
    reply: Reply,
    bytes: Vec<u8>,
    in_bytes: bool,
    waits: bool,
}

impl Script {
    /// Reads up to `end`; what follows it is left.
    fn read<'a>(&mut self, mut text: &'a str, end: Option<char>) -> Result<&'a str, String> {
        loop {
            let mut letters = text.chars();
            let Some(letter) = letters.next() else {
                return if end.is_none() { Ok(text) } else { Err("a brace is not closed".to_owned()) };
            };
            text = letters.as_str();
            if Some(letter) == end {
                return Ok(text);
            }
            if letter != '\\' {
                self.bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            let escaped = letters.next().ok_or("a backslash at the end")?;
            text = letters.as_str();
            match escaped {
                'r' => self.bytes.push(b'\r'),
                'n' => self.bytes.push(b'\n'),
                't' => self.bytes.push(b'\t'),
                '0' => self.bytes.push(0),
                '\\' => self.bytes.push(b'\\'),
                'x' => {
                    let (digits, rest) = text.split_at_checked(2).ok_or("\\x and two digits")?;
                    self.bytes.push(u8::from_str_radix(digits, 16).map_err(|error| error.to_string())?);
                    text = rest;
                }
                '{' => {
                    let (count, rest) = text.split_once('*').ok_or("\\{ and how often")?;
                    let count = count.parse().map_err(|_| format!("not a number: {count}"))?;
                    let mut inner = Self::default();
                    text = inner.read(rest, Some('}'))?;
                    self.bytes.extend(inner.bytes.repeat(count));
                }
                '[' => {
                    let (mark, rest) = text.split_once(']').ok_or("\\[ without an end")?;
                    self.mark(mark)?;
                    text = rest;
                }
                other => return Err(format!("no escape: \\{other}")),
            }
        }
    }

    fn mark(&mut self, mark: &str) -> Result<(), String> {
        let bytes = match mark {
            "200" => "HTTP/1.1 200 OK\r\nX-AuthDuration: 600\r\n",
            "403" => "HTTP/1.1 403 Forbidden\r\nX-AuthDuration: 600\r\n",
            "0" => "Content-Length: 0\r\n\r\n",
            _ => "",
        };
        if !bytes.is_empty() {
            self.bytes.extend_from_slice(bytes.as_bytes());
            return Ok(());
        }
        self.flush();
        let step = match mark {
            "close" => Reply::close(),
            "reset" => Reply::reset(),
            "later" => Reply::raw("").after(Duration::from_millis(20)),
            "wait" => {
                self.waits = true;
                Reply::silence()
            }
            other => return Err(format!("no mark: {other}")),
        };
        self.reply = std::mem::take(&mut self.reply).then(step);
        Ok(())
    }

    fn flush(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // The long ones are about their length.
        let size = if self.in_bytes && bytes.len() < 1000 { 1 } else { usize::MAX };
        for piece in bytes.chunks(size) {
            self.reply = std::mem::take(&mut self.reply).then(Reply::raw(piece));
        }
    }
}
