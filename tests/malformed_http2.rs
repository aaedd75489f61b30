//! HTTP/2 replies that break the rules, or come close to it: each has one verdict, and none of them decides anything but the
//! check that it answers.
//!
//! The cases are in `tests/corpus/http2`, whose README says how they are written; what HTTP/2 can say of
//! `tests/corpus/replies` has the verdict here that it has there. After each of them a check is asked whose answer is the
//! opposite. The default action is `deny`, so that whatever allows was said by the backend.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alta_auth::{Cause, Check, Origin, Verdict};
use support::{
    Frame, Kind, Line, Part, Reply, Scripted, ask, at_once, corpus, engine, field, good, header_block, parts,
    step, until,
};

const THREADS: usize = 16;
/// hyper's own limit of a header list, each field with 32 bytes more; within it, it says which status a section has.
const SEEN: usize = 256 * 1024;

#[test]
fn each_http2_reply_of_the_corpus_has_its_verdict_and_decides_nothing_else() {
    read(&own(), true);
}

/// The connection and the next check are left alone here: what is surplus may come while that is asked.
#[test]
fn each_http2_reply_of_the_corpus_has_the_same_verdict_if_it_comes_byte_by_byte() {
    read(&own(), false);
}

/// Statuses, lifetimes, users, sessions, interim replies, numbers and sizes.
#[test]
fn what_http2_can_say_of_the_other_corpus_has_the_same_verdict() {
    let carried: Vec<_> = corpus("replies").iter().filter_map(carried).collect();
    assert!(carried.len() >= 100, "{}: some of the corpus was lost", carried.len());
    read(&carried, true);
}

fn own() -> Vec<Case> {
    let cases: Vec<_> = corpus("http2").into_iter().map(Case::new).collect();
    assert!(cases.len() >= 100, "{}: some of the corpus was lost", cases.len());
    cases
}

fn read(cases: &[Case], whole: bool) {
    // Those that wait first, so that they wait together.
    let mut cases: Vec<_> = cases.iter().collect();
    cases.sort_by_key(|case| !case.waits);
    let wrong = parking_lot::Mutex::new(Vec::new());
    at_once(THREADS, &cases, |case| {
        if let Err(what) = case.run(whole) {
            wrong.lock().push(format!("{}: {what}", case.line.at));
        }
    });
    let wrong = wrong.into_inner();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

struct Case {
    line: Line,
    /// The check has to run out of time.
    waits: bool,
    /// The reply is what the connection begins with.
    begins: bool,
}

impl Case {
    fn new(line: Line) -> Self {
        Self { waits: line.has("wait") || line.has("hang"), begins: line.has("begin"), line }
    }

    /// What is wrong, of all that may be.
    fn run(&self, whole: bool) -> Result<(), String> {
        let line = Arc::new(self.line.clone());
        let (begins, in_bytes) = (self.begins, !whole && !line.has("reset"));
        let first = Arc::clone(&line);
        let greeting = move |connection| {
            let settings = || Reply::raw(Frame::new(Kind::SETTINGS, 0, 0, []).bytes());
            if begins && connection == 0 { script(&first, 1, in_bytes) } else { settings() }
        };
        let asks_next = Arc::new(AtomicBool::new(false));
        let (is_next, allows) = (Arc::clone(&asks_next), self.allows());
        let backend = Scripted::http2(greeting, move |request| {
            if is_next.load(Ordering::SeqCst) {
                return answer(request.stream, if allows { "403" } else { "200" });
            }
            // What is asked again gets the same. Whoever asks in spite of such a beginning is answered.
            if begins { answer(request.stream, "200") } else { script(&line, request.stream, in_bytes) }
        });
        let engine = engine(
            &backend.url(),
            &[
                ("http.version", "h2c"),
                ("breaker.failures", "0"),
                ("timeout", if self.waits { "1s" } else { "25s" }),
                ("connect_timeout", if self.waits { "700ms" } else { "20s" }),
                // Nobody but the reply closes a connection.
                ("pool.idle_timeout", "60s"),
            ],
        );
        let check = Check { session_id: b"case", ..good() };
        let decision = ask(&engine, &check);
        let origin = if self.line.cause == Cause::None { Origin::Backend } else { Origin::Default };
        let got = (decision.verdict, decision.origin, decision.cause);
        let mut wrong = Vec::new();
        if got != (self.line.verdict, origin, self.line.cause) {
            wrong.push(format!("{got:?}, {}", decision.detail()));
        }
        let stats = engine.stats();
        if stats.retries != u64::from(self.line.again) {
            wrong.push(format!("asked again {} times", stats.retries));
        }
        let remembered = engine.lookup(&check).unwrap().is_some();
        if remembered != self.line.remembered {
            wrong.push(format!("remembered: {remembered}"));
        }
        if whole {
            until(|| {
                let stats = engine.stats();
                stats.connections_open == stats.connections_idle
            });
            let before = backend.requests().last().map(|request| request.connection);
            asks_next.store(true, Ordering::SeqCst);
            let next = ask(&engine, &Check { session_id: b"next", ..good() });
            if self.line.has("hang") && !self.begins {
                // The connection that does not answer is the one that is asked.
                if (next.verdict, next.cause) != (Verdict::Deny, Cause::Timeout) {
                    wrong.push(format!("the next check got {next:?}, {}", next.detail()));
                }
            } else if next.origin != Origin::Backend
                || next.user_id() != "next"
                || next.allows() == self.allows()
            {
                wrong.push(format!("the next check got {next:?}, {}", next.detail()));
            }
            let kept = backend.requests().last().map(|request| request.connection) == before;
            if self.line.kept.is_some_and(|expected| expected != kept) {
                wrong.push(format!("the connection was kept: {kept}"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    fn allows(&self) -> bool {
        self.line.verdict == Verdict::Allow
    }
}

/// Remembered by whoever may.
fn answer(stream: u32, status: &str) -> Reply {
    let block = header_block(&[(":status", status), ("x-authduration", "600"), ("x-userid", "next")]);
    Reply::raw(Frame::headers(Frame::END_STREAM, stream, &block))
}

/// What a line says is sent, by the request's stream.
fn script(line: &Line, stream: u32, in_bytes: bool) -> Reply {
    let mut reply = Reply::default();
    let mut bytes = Vec::new();
    let mut open: Option<Open> = None;
    for part in &line.reply {
        match part {
            Part::Bytes(more) => match &mut open {
                Some(open) => open.frame.payload.extend_from_slice(more),
                None => bytes.extend_from_slice(more),
            },
            Part::Mark(mark) => {
                if let Some(more) = payload(mark) {
                    let open = open.as_mut().unwrap_or_else(|| panic!("{}: no frame: {mark}", line.at));
                    open.frame.payload.extend(more);
                    continue;
                }
                bytes.extend(open.take().map(Open::bytes).unwrap_or_default());
                if let Some(next) = Open::new(mark, stream) {
                    open = Some(next);
                } else if !["begin", "raw", "wait"].contains(&mark.as_str()) {
                    let step = step(mark).unwrap_or_else(|| panic!("{}: no mark: {mark}", line.at));
                    reply = reply.then(Reply::pieces(&std::mem::take(&mut bytes), in_bytes)).then(step);
                }
            }
        }
    }
    bytes.extend(open.map(Open::bytes).unwrap_or_default());
    reply.then(Reply::pieces(&bytes, in_bytes))
}

/// What a mark adds to the frame that it stands in; `None`: nothing, it ends it.
fn payload(mark: &str) -> Option<Vec<u8>> {
    match mark {
        "200" | "403" => Some(header_block(&[(":status", mark), ("x-authduration", "600")])),
        "stream" => Some(1_u32.to_be_bytes().to_vec()),
        _ => {
            let (name, value) = mark.split_once(": ")?;
            Some(field(&unescaped(name), &unescaped(value)))
        }
    }
}

fn unescaped(text: &str) -> Vec<u8> {
    match parts(text).unwrap().as_slice() {
        [] => Vec::new(),
        [Part::Bytes(bytes)] => bytes.clone(),
        _ => panic!("a mark in a mark: {text}"),
    }
}

/// A frame that is being written.
struct Open {
    frame: Frame,
    length: Option<usize>,
    /// As many frames as it takes.
    split: bool,
}

impl Open {
    /// `KIND flag … @stream len=N`
    fn new(mark: &str, stream: u32) -> Option<Self> {
        let mut words = mark.split(' ');
        let kind = words.next()?;
        let kind = match kind.strip_prefix("0x") {
            Some(digits) => Kind(u8::from_str_radix(digits, 16).unwrap()),
            None => Kind::named(kind)?,
        };
        let stream_of_kind = if kind.is_of_the_connection() { 0 } else { stream };
        let mut open = Self { frame: Frame::new(kind, 0, stream_of_kind, []), length: None, split: false };
        for word in words {
            match word {
                "ES" | "ACK" => open.frame.flags |= Frame::END_STREAM,
                "EH" => open.frame.flags |= Frame::END_HEADERS,
                "PADDED" => open.frame.flags |= 8,
                "PRIORITY" => open.frame.flags |= 0x20,
                "split" => open.split = true,
                _ => {
                    if let Some(number) = word.strip_prefix("@+") {
                        open.frame.stream = stream + number.parse::<u32>().unwrap();
                    } else if let Some(number) = word.strip_prefix('@') {
                        open.frame.stream = number.parse().unwrap();
                    } else if let Some(number) = word.strip_prefix("len=") {
                        open.length = Some(number.parse().unwrap());
                    } else {
                        panic!("{mark}: {word}");
                    }
                }
            }
        }
        Some(open)
    }

    fn bytes(self) -> Vec<u8> {
        match self.length {
            Some(length) => self.frame.bytes_of_length(length),
            None if self.split => Frame::headers(self.frame.flags, self.frame.stream, &self.frame.payload),
            None => self.frame.bytes(),
        }
    }
}

// From HTTP/1.1

fn trim(value: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let begin = value.iter().position(|byte| !is_blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_blank(byte)).map_or(begin, |last| last + 1);
    &value[begin..end]
}

/// The same in HTTP/2, if it is a whole reply that HTTP/2 can say.
fn carried(line: &Line) -> Option<Case> {
    let text = line.reply.iter().try_fold(Vec::new(), |mut text, part| {
        match part {
            Part::Bytes(bytes) => text.extend_from_slice(bytes),
            Part::Mark(mark) => text.extend_from_slice(match mark.as_str() {
                "200" => b"HTTP/1.1 200 OK\r\nX-AuthDuration: 600\r\n",
                "403" => b"HTTP/1.1 403 Forbidden\r\nX-AuthDuration: 600\r\n",
                "0" => b"Content-Length: 0\r\n\r\n",
                "later" => b"",
                _ => return None,
            }),
        }
        Some(text)
    })?;
    let mut rest = text.as_slice();
    let mut reply = Vec::new();
    loop {
        let end = rest.windows(4).position(|window| window == b"\r\n\r\n")? + 2;
        let (head, body) = (&rest[..end], &rest[end + 2..]);
        let mut lines = head.strip_suffix(b"\r\n")?.split(|&byte| byte == b'\n');
        let mut next = || lines.next().map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let status = next()?.strip_prefix(b"HTTP/1.1 ")?;
        let (status, phrase) = status.split_at_checked(3)?;
        if phrase.len() > 100
            || !(phrase.is_empty() || phrase[0] == b' ')
            || phrase.iter().any(u8::is_ascii_control)
            || !status.iter().all(u8::is_ascii_digit)
        {
            return None;
        }
        let mut block = field(b":status", status);
        let (mut length, mut fields, mut size) = (None, 0, 0);
        while let Some(header) = next() {
            let colon = header.iter().position(|&byte| byte == b':')?;
            let (name, value) = (header[..colon].to_ascii_lowercase(), trim(&header[colon + 1..]));
            let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
            if name.is_empty()
                || !name.iter().all(is_token)
                || value.iter().any(|&byte| byte < 32 && byte != b'\t' || byte == 127)
            {
                return None;
            }
            match name.as_slice() {
                b"transfer-encoding" | b"connection" | b"keep-alive" | b"proxy-connection" | b"upgrade" => {
                    return None;
                }
                b"content-length" if length.is_some() => return None,
                b"content-length" => length = Some(std::str::from_utf8(value).ok()?.parse::<usize>().ok()?),
                _ => {}
            }
            block.extend(field(&name, value));
            fields += 1;
            size += name.len() + value.len();
        }
        let interim = status[0] == b'1' && status != b"101";
        // Nobody can look into those.
        if interim && (fields > 64 || size > 16 * 1024) {
            return None;
        }
        let flags = if interim || !body.is_empty() { 0 } else { Frame::END_STREAM };
        reply.push(Part::Mark("raw".to_owned()));
        reply.push(Part::Bytes(Frame::headers(flags, 1, &block)));
        if interim {
            rest = body;
            continue;
        }
        if length.unwrap_or(0) != body.len() {
            return None;
        }
        for (index, piece) in body.chunks(Frame::MAX).enumerate() {
            let last = (index + 1) * Frame::MAX >= body.len();
            let flags = if last { Frame::END_STREAM } else { 0 };
            reply.push(Part::Bytes(Frame::new(Kind::DATA, flags, 1, piece).bytes()));
        }
        let mut line = Line { reply, kept: None, ..line.clone() };
        // The known hole: a refusal whose status the library's parser does not give away.
        if size + 32 * fields > SEEN {
            (line.verdict, line.cause) = (Verdict::Deny, Cause::Protocol);
        }
        return Some(Case::new(line));
    }
}
