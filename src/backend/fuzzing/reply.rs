//! Bytes to decision, whatever a backend sends: the reader of the header section, the judge, the rule about the body.
//!
//! An input is three lines and the reply: keys (`allow_statuses=200`, tab, …); the session id that was asked about; how the
//! reply comes in pieces, a byte each, of as many bytes as it is above space.

use std::time::{Duration, SystemTime};

use super::super::reply::{Answer, Judgement, ReplyRules, Subject, judge, judge_body};
use crate::config::{Config, Settings};
use crate::decision::Verdict;
use crate::fuzzing::{lines, pairs};
use crate::transport::ReplyHead;
use crate::transport::fuzzing::{HeadRead, read_head};

/// However a reply is cut it says the same; a header section is complete if it is by the grammar, and then hyper's parser
/// reads the same; what allows is complete, has an allowing status and contradicts itself nowhere; what may be reused keeps
/// the configured bounds.
pub fn reply(input: &[u8]) {
    let ([keys, session_id, cuts], bytes) = lines(input);
    let Some(settings) = settings(&keys) else { return };

    let (read, _) = read_head([bytes]);
    assert_eq!(read_head(pieces(bytes, &cuts)).0, read, "cut as the input says");
    let (in_bytes, end) = read_head(bytes.chunks(1));
    assert_eq!(in_bytes, read, "cut at each byte");

    let expected = Section::of_reply(bytes);
    match (read, &expected) {
        (HeadRead::Complete(status), Some(section)) => {
            assert_eq!((status, end), (section.status, section.end));
            judged(&settings, &session_id, section, &bytes[end..]);
        }
        (HeadRead::Partial(status) | HeadRead::Broken(status), None) => {
            assert!(
                status.is_none_or(|status| (200..600).contains(&status) && has_status_line(bytes, status))
            );
        }
        (read, _) => panic!("{read:?}, by the grammar {:?}", expected.map(|section| section.status)),
    }
}

fn settings(keys: &[u8]) -> Option<Settings> {
    let mut config = Config::new();
    config.set("backend.url", "http://127.0.0.1:6000/auth").expect("a URL");
    config.set("default_action", "deny").expect("a value that it has");
    for (key, value) in pairs(keys) {
        let ours = ["ttl.", "header.", "verdict."].iter().any(|prefix| key.starts_with(prefix))
            || ["allow_statuses", "unavailable_statuses"].contains(&key);
        if ours && !value.trim().starts_with('@') {
            config.set(key, value).ok()?;
        }
    }
    config.settings().ok()
}

/// Cut by turns at the lengths that `cuts` gives; an empty piece is one too.
fn pieces<'a>(mut bytes: &'a [u8], cuts: &[u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for cut in cuts {
        let (piece, rest) = bytes.split_at(usize::from(cut.saturating_sub(b' ')).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces.push(bytes);
    pieces
}

fn has_status_line(bytes: &[u8], status: u16) -> bool {
    let code = status.to_string();
    bytes.split(|&byte| byte == b'\n').any(|line| {
        [b"HTTP/1.0 ", b"HTTP/1.1 "].iter().any(|version| {
            line.strip_prefix(&version[..]).is_some_and(|rest| rest.starts_with(code.as_bytes()))
        })
    })
}

/// The final header section of a reply, by the grammar and with the whole reply at hand: the reader's twin.
struct Section<'a> {
    status: u16,
    /// Where the body begins.
    end: usize,
    fields: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Section<'a> {
    fn of_reply(reply: &'a [u8]) -> Option<Self> {
        let mut start = 0;
        for _ in 0..=8 {
            let section = Self::read(reply, start)?;
            if section.status >= 200 {
                section.is_read_alike(&reply[start..]);
                return Some(section);
            }
            start = section.end;
        }
        None
    }

    fn read(reply: &'a [u8], start: usize) -> Option<Self> {
        let mut lines = Vec::new();
        let mut end = start;
        loop {
            let length = reply[end..].iter().position(|&byte| byte == b'\n')?;
            let line = &reply[end..end + length];
            end += length + 1;
            match line.strip_suffix(b"\r").unwrap_or(line) {
                [] if !lines.is_empty() => break,
                line => lines.push(line),
            }
        }
        let text = |bytes: &[u8]| bytes.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7F));
        let (first, fields) = lines.split_first()?;
        let (version, rest) = (first.get(..9)?, &first[9..]);
        let (code, phrase) = rest.split_at_checked(3)?;
        let status: u16 =
            std::str::from_utf8(code).ok().filter(|code| !code.starts_with('+'))?.parse().ok()?;
        let fields: Option<Vec<_>> = fields
            .iter()
            .map(|line| line.iter().position(|&byte| byte == b':').map(|at| (&line[..at], &line[at + 1..])))
            .collect();
        let section = Self { status, end, fields: fields? };
        let name = |name: &[u8]| {
            !name.is_empty()
                && name.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
        };
        let lengths: Vec<_> = section.values("content-length").collect();
        let codings: Vec<_> = section.values("transfer-encoding").collect();
        let good = end - start <= 16 * 1024
            && [&b"HTTP/1.0 "[..], b"HTTP/1.1 "].contains(&version)
            && (100..600).contains(&status)
            && status != 101
            && (phrase.is_empty() || phrase.starts_with(b" "))
            && text(phrase)
            && section.fields.len() <= 64
            && section.fields.iter().all(|(found, value)| name(found) && text(value))
            && lengths.len() + codings.len() <= 1
            && lengths
                .iter()
                .all(|value| (1..20).contains(&value.len()) && value.iter().all(u8::is_ascii_digit))
            && codings.iter().all(|value| value.eq_ignore_ascii_case(b"chunked") && version == b"HTTP/1.1 ");
        good.then_some(section)
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let named = self.fields.iter().filter(move |(found, _)| found.eq_ignore_ascii_case(name.as_bytes()));
        named.map(|(_, value)| value.trim_ascii())
    }

    /// hyper's parser finds the same in what the reader has let through.
    fn is_read_alike(&self, section: &[u8]) {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(section);
        assert!(parsed.is_ok_and(|parsed| parsed.is_complete()), "{parsed:?}");
        assert_eq!(response.code, Some(self.status));
        assert_eq!(response.headers.len(), self.fields.len());
        for (header, (name, value)) in response.headers.iter().zip(&self.fields) {
            assert_eq!(header.name.as_bytes(), *name);
            assert_eq!(header.value, value.trim_ascii());
            http::HeaderName::from_bytes(name).expect("a name that hyper takes");
            http::HeaderValue::from_bytes(header.value).expect("a value that hyper takes");
        }
    }
}

fn judged(settings: &Settings, session_id: &[u8], section: &Section<'_>, body: &[u8]) {
    let rules = ReplyRules::new(settings);
    let judged = |headers: &[(&[u8], &[u8])]| {
        let subject = Subject { session_id, path_in_key: true };
        judge(&rules, subject, &ReplyHead { status: section.status, headers }, || SystemTime::UNIX_EPOCH)
    };
    let judgement = judged(&section.fields);
    let padded: Vec<_> = section
        .fields
        .iter()
        .map(|(name, value)| (name.to_ascii_uppercase(), [b"\t ", *value, b" "].concat()))
        .collect();
    let padded: Vec<_> = padded.iter().map(|(name, value)| (&name[..], &value[..])).collect();
    assert_eq!(judged(&padded), judgement, "neither case nor space at the ends means anything");
    if section.fields.len() < 64 {
        let other = [&section.fields[..], &[(b"X-Nobody-Asks", b"1")]].concat();
        assert_eq!(judged(&other), judgement, "nor does a header that nobody asks for");
    }

    let allowing = rules.allow.contains(section.status);
    let unavailable = rules.unavailable.contains(section.status);
    match judgement {
        Judgement::Unavailable { retry_after, broken } => {
            assert!(unavailable && !allowing);
            let other_session = section.values("x-session-id").any(|id| id != session_id);
            assert_eq!(broken, other_session);
            assert!(retry_after.is_none_or(|wait| wait <= Duration::from_mins(1)));
        }
        Judgement::Malformed(_) => assert!(allowing && !unavailable),
        Judgement::Decided(answer) => {
            assert!(!unavailable);
            assert!(!allowing || rules.body.is_none(), "the body has a say");
            assert_eq!(answer.verdict == Verdict::Allow, allowing);
            answered(&rules, session_id, section, &answer);
        }
        Judgement::NeedsBody(undecided) => {
            assert!(allowing && !unavailable);
            let answer = judge_body(&rules, undecided, body);
            if answer.verdict == Verdict::Allow {
                body_says_so(settings, body);
            }
            answered(&rules, session_id, section, &answer);
        }
    }
}

fn answered(rules: &ReplyRules, session_id: &[u8], section: &Section<'_>, answer: &Answer) {
    let allows = answer.verdict == Verdict::Allow;
    let other_session = section.values("x-session-id").any(|id| id != session_id);
    assert_eq!(answer.status, section.status);
    assert_eq!(answer.broken, other_session);
    assert!(!(allows && other_session), "an answer to another question");
    let bound = if allows { rules.ttl.max } else { rules.ttl.max.min(rules.ttl.max_deny) };
    assert!(answer.ttl <= bound);
    assert!(answer.storable || answer.ttl.is_zero());
    if answer.storable {
        assert!(rules.allow.contains(section.status) || [401, 403].contains(&section.status));
        assert!(!answer.broken && !answer.from_cache);
    }
    for text in [&answer.user_id, &answer.location].into_iter().flatten() {
        assert!(!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) && text.len() <= 2048);
    }
    assert!(section.values("age").all(|age| age.iter().all(|&byte| byte == b'0') || answer.from_cache));
}

/// Read a second time, by the whole document as a value.
fn body_says_so(settings: &Settings, body: &[u8]) {
    let rule =
        settings.verdict_body.as_ref().expect("there is a rule, or nothing would ask for the body").written();
    let rule = rule.strip_prefix("json:").expect("it was accepted");
    let at = rule.find(['=', '!']).expect("it was accepted");
    let wanted: serde_json::Value = serde_json::from_str(&rule[at + 2..]).expect("it was accepted");
    let mut found: serde_json::Value =
        serde_json::from_slice(body).expect("what allows is one JSON document");
    for name in rule[..at].split('.') {
        found = found.get_mut(name).expect("what allows has the name").take();
    }
    if rule[at..].starts_with("==") {
        assert_eq!(found, wanted);
    } else {
        assert_ne!(found, wanted);
        assert!(wanted.is_null() || std::mem::discriminant(&found) == std::mem::discriminant(&wanted));
    }
}
