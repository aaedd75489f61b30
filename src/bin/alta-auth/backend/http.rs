//! Requests from bytes, answers to bytes, in each framing that real backends use.

use std::fmt::Write as _;

use crate::args::Framing;
use crate::redact::decoded;

/// A head longer than this is refused with 431.
pub(crate) const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 64;

/// The head of one request, borrowed from the connection's buffer.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    /// As on the wire.
    pub(crate) target: &'a [u8],
    pub(crate) path: &'a [u8],
    pub(crate) query: &'a [u8],
    headers: Vec<httparse::Header<'a>>,
    http10: bool,
}

/// What a buffer holds.
pub(crate) enum Parsed<'a> {
    /// A request, its head's length, and the length of a body to skip.
    Complete { request: Request<'a>, head: usize, body: usize },
    /// More bytes are needed.
    Partial,
    /// Not HTTP/1: this status, then close.
    Bad(u16),
}

impl<'a> Request<'a> {
    pub(crate) fn parse(buffer: &'a [u8]) -> Parsed<'a> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        let head = match parsed.parse(buffer) {
            Ok(httparse::Status::Complete(head)) => head,
            Ok(httparse::Status::Partial) if buffer.len() > MAX_HEAD => return Parsed::Bad(431),
            Ok(httparse::Status::Partial) => return Parsed::Partial,
            Err(httparse::Error::TooManyHeaders) => return Parsed::Bad(431),
            Err(_) => return Parsed::Bad(400),
        };
        let (Some(method), Some(target)) = (parsed.method, parsed.path) else { return Parsed::Bad(400) };
        let http10 = parsed.version == Some(0);
        let target = target.as_bytes();
        let mark = target.iter().position(|&byte| byte == b'?');
        let request = Self {
            method,
            target,
            path: &target[..mark.unwrap_or(target.len())],
            query: mark.map_or(&[], |mark| &target[mark + 1..]),
            headers: parsed.headers.to_vec(),
            http10,
        };
        // A check has no body. Skipping a small one keeps curious clients in step; anything else ends here.
        if request.header("transfer-encoding").is_some() {
            return Parsed::Bad(411);
        }
        let body = match request.header("content-length").map(|value| str::from_utf8(value).map(str::parse)) {
            None => 0,
            Some(Ok(Ok(length))) if length <= MAX_HEAD => length,
            Some(_) => return Parsed::Bad(413),
        };
        Parsed::Complete { request, head, body }
    }

    /// The first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    /// A query parameter as PHP reads it: cut at `&`, decoded, the last duplicate counts.
    pub(crate) fn parameter(&self, name: &str) -> Option<Vec<u8>> {
        self.query.split(|&byte| byte == b'&').rev().find_map(|segment| {
            let equals = segment.iter().position(|&byte| byte == b'=').unwrap_or(segment.len());
            let (found, value) = segment.split_at(equals);
            (decoded(found) == name.as_bytes()).then(|| decoded(value.get(1..).unwrap_or_default()))
        })
    }

    fn wants_close(&self) -> bool {
        let connection = self.header("connection").unwrap_or_default();
        let says = |word: &str| {
            connection
                .split(|&byte| byte == b',')
                .any(|part| part.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
        };
        says("close") || (self.http10 && !says("keep-alive"))
    }

    /// How the answer to this request must go out.
    pub(crate) fn delivery(&self, framing: Framing, close: bool, reason: bool) -> Delivery {
        let framing = if framing == Framing::Chunked && self.http10 { Framing::Close } else { framing };
        Delivery {
            framing,
            close: close || framing == Framing::Close || self.wants_close(),
            reason,
            head_only: self.method == "HEAD",
        }
    }
}

/// How an answer goes out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    pub(crate) framing: Framing,
    /// The connection ends after it.
    pub(crate) close: bool,
    /// The status line has a reason phrase.
    pub(crate) reason: bool,
    pub(crate) head_only: bool,
}

/// An answer, before it is framed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// What the rule meant by it, which for some is not the status.
    pub(crate) allows: bool,
}

impl Answer {
    pub(crate) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), allows: status == 200 }
    }

    pub(crate) fn with_body(status: u16, content_type: &str, body: Vec<u8>) -> Self {
        Self { headers: vec![("Content-Type", content_type.to_owned())], body, ..Self::empty(status) }
    }

    /// The bytes for the wire.
    pub(crate) fn framed(&self, delivery: Delivery) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} ", self.status);
        if delivery.reason {
            head.push_str(reason(self.status));
        }
        head.push_str("\r\n");
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        match delivery.framing {
            Framing::Length => {
                let _ = write!(head, "Content-Length: {}\r\n", self.body.len());
            }
            Framing::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
            Framing::Close => {}
        }
        if delivery.close {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if !delivery.head_only {
            if delivery.framing == Framing::Chunked {
                if !self.body.is_empty() {
                    bytes.extend_from_slice(format!("{:x}\r\n", self.body.len()).as_bytes());
                    bytes.extend_from_slice(&self.body);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            } else {
                bytes.extend_from_slice(&self.body);
            }
        }
        bytes
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        301 => "Moved Permanently",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        411 => "Length Required",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        _ => "Unknown",
    }
}
