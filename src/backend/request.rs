//! Check to request: what goes to one endpoint, compiled once per configuration.
//!
//! The merged query is the URL's own parameters, `param.*`, then the client's, cut at `&` and sent byte for
//! byte. A client's parameter that might be read as one of the operator's is dropped with its separator (see
//! `names`); empty ones stay; nothing left, no `?`.
//!
//! After [`RequestPlan::admit`] nothing about a request can fail, and every writer gives the same bytes for
//! the same question. `admit` runs on the host's thread, the rest on an I/O thread.

use std::fmt;

use super::encode::{TARGET, UNRESERVED, push_encoded};
use super::names::{Protected, readings};
use super::template::{FIVE, HeaderField, Hole, ParamField, Part};
use crate::check::{Field, Invalid, Question, Why, limits};
use crate::config::{BackendUrl, Settings};
use crate::transport::{RequestHead, Written};

/// Everything about requests to one endpoint that no check changes.
pub(crate) struct RequestPlan {
    path: Box<[u8]>,
    /// `?`, the URL's query and `param.*`, encoded; empty when there are none.
    own: Box<[Piece]>,
    own_parameters: usize,
    protected: Protected,
    host: Box<[u8]>,
    headers: Box<[Header]>,
    uses_path: bool,
    /// There are templates: what a check puts into them may be longer than its fields together.
    fills: bool,
    /// The head behind the target, taken apart; and how it ends.
    lines: Box<[Line]>,
    end: Box<[u8]>,
    /// Bytes of a head that no check changes.
    fixed_len: usize,
}

enum Piece {
    Text(Box<[u8]>),
    Hole(Hole),
}

enum Header {
    Fixed(Box<str>, Box<[u8]>),
    Filled(HeaderField),
}

/// A part of the head: what no check changes, and the value behind it.
struct Line {
    text: Box<[u8]>,
    value: Value,
}

enum Value {
    /// One of the five.
    Five(usize),
    Filled(HeaderField),
}

const METHOD: &[u8] = b"GET ";
const VERSION: &[u8] = b" HTTP/1.1\r\n";
/// A byte of a target takes no more.
const ENCODED: usize = b"%XX".len();

impl RequestPlan {
    pub(crate) fn new(url: &BackendUrl, settings: &Settings) -> Self {
        let mut path = Vec::new();
        push_encoded(&mut path, url.path.as_bytes(), &TARGET);

        let mut protected = Protected::default();
        let url_query = url.query.as_deref().unwrap_or_default().as_bytes();
        for pair in url_query.split(|&byte| byte == b'&') {
            protected.add(name_of(pair));
            // A backend that cuts at `;` reads more names here.
            pair.split(|&byte| byte == b';').for_each(|pair| protected.add(name_of(pair)));
        }
        for name in &settings.protect_params {
            protected.add(name.as_bytes());
        }
        let mut own = Own::new(url_query);
        for field in &settings.params {
            let mut name = Vec::new();
            push_encoded(&mut name, field.name().as_bytes(), &UNRESERVED);
            protected.add(field.name().as_bytes());
            own.parameter(&name, field.template().parts());
        }

        let authorization = url.authorization.as_deref().filter(|_| {
            !settings.headers.iter().any(|field| field.name().eq_ignore_ascii_case("authorization"))
        });
        let headers: Box<[Header]> = authorization
            .map(|value| Header::Fixed("Authorization".into(), value.as_bytes().into()))
            .into_iter()
            .chain(settings.headers.iter().map(|field| match field.fixed() {
                Some(value) => Header::Fixed(field.name().into(), value.into()),
                None => Header::Filled(field.clone()),
            }))
            .collect();

        let mut plan = Self {
            path: path.into(),
            own_parameters: parameters(url_query) + settings.params.len(),
            own: own.pieces(),
            protected,
            host: url.authority().into_bytes().into(),
            headers,
            uses_path: settings.params.iter().any(ParamField::uses_path)
                || settings.headers.iter().any(HeaderField::uses_path),
            fills: false,
            lines: Box::default(),
            end: Box::default(),
            fixed_len: 0,
        };
        plan.fills = plan.own.iter().any(|piece| matches!(piece, Piece::Hole(_)))
            || plan.headers.iter().any(|header| matches!(header, Header::Filled(_)));
        (plan.lines, plan.end) = plan.taken_apart();
        plan.fixed_len = plan.measured();
        plan
    }

    /// A template sends the path, so the path stays in the key whatever the scope is.
    pub(crate) fn uses_path(&self) -> bool {
        self.uses_path
    }

    /// At submit: whether the whole request keeps its bounds (256 parameters, 32 KiB, header values). Cheap
    /// for ordinary checks: decided by an upper bound, without building anything.
    pub(crate) fn admit(&self, question: &Question) -> Result<(), Invalid> {
        if self.surely_admits(question) {
            return Ok(());
        }
        let invalid = |why| Err(Invalid::new(Field::Request, why));
        let query = question.query();
        if self.own_parameters + most_parameters(query.len()) > limits::PARAMETERS
            && let Some(count) = self.too_many_parameters(query)
        {
            return invalid(Why::TooManyParameters { count });
        }
        for header in &self.headers {
            if let Header::Filled(field) = header
                && field.breaks_line(question)
            {
                return invalid(Why::BadHeader);
            }
        }
        if self.bound(question) > limits::REQUEST {
            let mut head = Vec::new();
            self.write_http1(question, &mut head);
            if head.len() > limits::REQUEST {
                return invalid(Why::TooLong { len: head.len(), limit: limits::REQUEST });
            }
        }
        Ok(())
    }

    /// How many there are with the client's, if those are too many that are not dropped.
    fn too_many_parameters(&self, query: &[u8]) -> Option<usize> {
        let is_too_many = |count: usize| self.own_parameters + count > limits::PARAMETERS;
        // Each that is hidden has a `%` before it.
        if !is_too_many(1 + query.iter().filter(|byte| b"&;%".contains(byte)).count()) {
            return None;
        }
        let all = parameters(query);
        if !is_too_many(all) {
            return None;
        }
        // Hidden ones are looked at one by one, dropped or not.
        let count = if all - raw_parameters(query) > limits::PARAMETERS {
            all
        } else {
            self.kept(query).map(parameters).sum()
        };
        is_too_many(count).then_some(self.own_parameters + count)
    }

    /// Ordinary checks are so short that it needs no closer look, unless a template makes something else of them.
    fn surely_admits(&self, question: &Question) -> bool {
        let (all, query) = question.lengths();
        !self.fills
            && self.fixed_len + ENCODED * all <= limits::REQUEST
            && self.own_parameters + most_parameters(query) <= limits::PARAMETERS
    }

    /// Appends the request target: path, `?`, merged query.
    pub(crate) fn write_target(&self, question: &Question, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.path);
        for piece in &self.own {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Hole(hole) => hole.push_encoded(question, out),
            }
        }
        let query = question.query();
        if query.is_empty() {
            return;
        }
        let mut separator = if self.own.is_empty() { b'?' } else { b'&' };
        if self.protected.is_empty() {
            out.push(separator);
            push_encoded(out, query, &TARGET);
            return;
        }
        let start = out.len();
        for pair in self.kept(query) {
            out.push(separator);
            push_encoded(out, pair, &TARGET);
            separator = b'&';
        }
        if &out[start..] == b"?" {
            out.pop();
        }
    }

    /// Every header in wire order: `Host`, the five, `Authorization` from the URL, `header.*`.
    /// Names are as the vendor writes them.
    pub(crate) fn each_header(&self, question: &Question, each: &mut dyn FnMut(&str, &[u8])) {
        each("Host", &self.host);
        for (name, value) in FIVE.into_iter().zip(five(question)) {
            each(name, value);
        }
        let mut filled = Vec::new();
        for header in &self.headers {
            match header {
                Header::Fixed(name, value) => each(name, value),
                Header::Filled(field) => {
                    filled.clear();
                    field.push_value(question, &mut filled);
                    each(field.name(), &filled);
                }
            }
        }
    }

    /// Appends the whole HTTP/1.1 head, `GET … HTTP/1.1` to the empty line.
    pub(crate) fn write_http1(&self, question: &Question, out: &mut Vec<u8>) -> Written {
        let five = five(question);
        out.reserve(
            self.fixed_len + question.query().len() + five.iter().map(|value| value.len()).sum::<usize>(),
        );
        out.extend_from_slice(METHOD);
        self.write_target(question, out);
        let target_end = out.len();
        for Line { text, value } in &self.lines {
            out.extend_from_slice(text);
            match value {
                Value::Five(one) => out.extend_from_slice(five[*one]),
                Value::Filled(field) => field.push_value(question, out),
            }
        }
        out.extend_from_slice(&self.end);
        Written { headers: self.header_count(), target_end }
    }

    /// How many headers there are.
    pub(crate) fn header_count(&self) -> usize {
        1 + FIVE.len() + self.headers.len()
    }

    /// `Host`, the five, and the others, with everything between the values that no check changes in one piece.
    fn taken_apart(&self) -> (Box<[Line]>, Box<[u8]>) {
        let (mut lines, mut text) = (Vec::new(), [VERSION, b"Host: ", &self.host].concat());
        let mut value = |text: &mut Vec<u8>, name: &str, value: Value| {
            text.extend_from_slice(format!("\r\n{name}: ").as_bytes());
            lines.push(Line { text: std::mem::take(text).into(), value });
        };
        for (index, name) in FIVE.into_iter().enumerate() {
            value(&mut text, name, Value::Five(index));
        }
        for header in &self.headers {
            match header {
                Header::Fixed(name, fixed) => {
                    text.extend_from_slice(format!("\r\n{name}: ").as_bytes());
                    text.extend_from_slice(fixed);
                }
                Header::Filled(field) => value(&mut text, field.name(), Value::Filled(field.clone())),
            }
        }
        text.extend_from_slice(b"\r\n\r\n");
        (lines.into(), text.into())
    }

    /// The segments of the client's query that may go out.
    fn kept<'a>(&'a self, query: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        query.split(|&byte| byte == b'&').filter(|pair| !self.protected.forbids(pair))
    }

    fn measured(&self) -> usize {
        let line = |name: &str, value: usize| name.len() + value + b": \r\n".len();
        let own = self.own.iter().map(|piece| match piece {
            Piece::Text(text) => text.len(),
            Piece::Hole(_) => 0,
        });
        let headers = self.headers.iter().map(|header| match header {
            Header::Fixed(name, value) => line(name, value.len()),
            Header::Filled(field) => line(field.name(), 0),
        });
        METHOD.len()
            + self.path.len()
            + own.sum::<usize>()
            + b"?".len()
            + VERSION.len()
            + line("Host", self.host.len())
            + FIVE.iter().map(|name| line(name, 0)).sum::<usize>()
            + headers.sum::<usize>()
            + b"\r\n".len()
    }

    /// At least the length of the head.
    fn bound(&self, question: &Question) -> usize {
        let own = self.own.iter().map(|piece| match piece {
            Piece::Text(_) => 0,
            Piece::Hole(hole) => ENCODED * hole.bound(question),
        });
        let headers = self.headers.iter().map(|header| match header {
            Header::Fixed(..) => 0,
            Header::Filled(field) => field.bound(question),
        });
        self.fixed_len
            + ENCODED * question.query().len()
            + five(question).iter().map(|value| value.len()).sum::<usize>()
            + own.sum::<usize>()
            + headers.sum::<usize>()
    }
}

impl fmt::Debug for RequestPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestPlan").finish_non_exhaustive()
    }
}

/// One question as one endpoint is asked it.
#[derive(Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    pub(crate) plan: &'a RequestPlan,
    pub(crate) question: &'a Question,
}

impl RequestHead for Outgoing<'_> {
    fn write_target(&self, out: &mut Vec<u8>) {
        self.plan.write_target(self.question, out);
    }

    fn each_header(&self, each: &mut dyn FnMut(&str, &[u8])) {
        self.plan.each_header(self.question, each);
    }

    fn write_http1(&self, out: &mut Vec<u8>) -> Written {
        self.plan.write_http1(self.question, out)
    }
}

/// The operator's part of the query while it is compiled; text that no check changes becomes one piece.
struct Own {
    text: Vec<u8>,
    pieces: Vec<Piece>,
}

impl Own {
    fn new(url_query: &[u8]) -> Self {
        let mut text = Vec::new();
        if !url_query.is_empty() {
            text.push(b'?');
            push_encoded(&mut text, url_query, &TARGET);
        }
        Self { text, pieces: Vec::new() }
    }

    fn parameter(&mut self, encoded_name: &[u8], value: &[Part]) {
        self.text.push(if self.text.is_empty() && self.pieces.is_empty() { b'?' } else { b'&' });
        self.text.extend_from_slice(encoded_name);
        self.text.push(b'=');
        for part in value {
            match part {
                Part::Text(text) => push_encoded(&mut self.text, text.as_bytes(), &UNRESERVED),
                Part::Hole(hole) => {
                    self.pieces.push(Piece::Text(std::mem::take(&mut self.text).into()));
                    self.pieces.push(Piece::Hole(hole.clone()));
                }
            }
        }
    }

    fn pieces(mut self) -> Box<[Piece]> {
        if !self.text.is_empty() {
            self.pieces.push(Piece::Text(self.text.into()));
        }
        self.pieces.into()
    }
}

fn five(question: &Question) -> [&[u8]; 5] {
    let [session_id, ip, _, origin, user_agent, _, path] = question.texts();
    [session_id, ip, path, origin, user_agent]
}

fn name_of(pair: &[u8]) -> &[u8] {
    pair.split(|&byte| byte == b'=').next().unwrap_or_default()
}

/// A bound of [`parameters`] for any query of this length.
fn most_parameters(len: usize) -> usize {
    len / 2 + 1
}

/// As many as the most generous parser finds, also behind a proxy that decodes the query.
fn parameters(query: &[u8]) -> usize {
    readings(query).map(|query| raw_parameters(&query)).max().unwrap_or_default()
}

fn raw_parameters(query: &[u8]) -> usize {
    query.split(|byte| matches!(byte, b'&' | b';')).filter(|pair| !pair.is_empty()).count()
}

#[cfg(test)]
mod tests;
