//! `param.NAME` and `header.NAME`: text with placeholders, filled in from the check.
//!
//! A template is parsed once, with the configuration, and expanded once per request: what a placeholder
//! brings in is data and never looked at for placeholders again. In text, `{{` is `{` and `}}` is `}`.
//!
//! * In a parameter every byte but RFC 3986's unreserved ones is percent-encoded, the operator's text too.
//! * In a header the value goes out raw. `{query.X}` is decoded and may thus bring bytes that no check may
//!   hold: with CR, LF or NUL among them the check is refused at submit, other control bytes become spaces.
//! * `{query.X}` is the client's own parameter, compared by its decoded name; empty when the client gives it
//!   not at all or more than once, because a backend might take the other one.
//! * `{path.N}` is the Nth piece between slashes, from 1: of `/ch/index.m3u8`, 1 is `ch`. Empty beyond the end.

use std::borrow::Cow;
use std::fmt;

use super::encode::{UNRESERVED, form_decoded, push_encoded};
use crate::check::Question;
use crate::config::shown_key;

const KNOWN: &str = "{ip}, {path}, {path.N}, {session_id}, {origin}, {user_agent}, {scope}, {query.X}";

/// Longest `NAME` of `param.NAME` and `header.NAME`.
const NAME_LIMIT: usize = 256;

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Template {
    parts: Box<[Part]>,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Part {
    Text(Box<str>),
    Hole(Hole),
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Hole {
    Ip,
    Path,
    /// From 0.
    PathSegment(usize),
    SessionId,
    Origin,
    UserAgent,
    Scope,
    Query(Box<str>),
}

impl Template {
    fn parse(template: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            rest = &rest[at..];
            if rest.starts_with("{{") || rest.starts_with("}}") {
                text.push_str(&rest[..1]);
                rest = &rest[2..];
                continue;
            }
            let Some((placeholder, after)) = rest.strip_prefix('{').and_then(|inner| inner.split_once('}'))
            else {
                return Err(format!("a single '{}'; write it twice to send one", &rest[..1]));
            };
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text).into()));
            }
            parts.push(Part::Hole(Hole::parse(placeholder)?));
            rest = after;
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text.into()));
        }
        Ok(Self { parts: parts.into() })
    }

    /// As `parse` reads it.
    #[cfg(any(test, fuzzing))]
    fn written(&self) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.replace('{', "{{").replace('}', "}}"),
            Part::Hole(Hole::Ip) => "{ip}".to_owned(),
            Part::Hole(Hole::Path) => "{path}".to_owned(),
            Part::Hole(Hole::PathSegment(index)) => format!("{{path.{}}}", index + 1),
            Part::Hole(Hole::SessionId) => "{session_id}".to_owned(),
            Part::Hole(Hole::Origin) => "{origin}".to_owned(),
            Part::Hole(Hole::UserAgent) => "{user_agent}".to_owned(),
            Part::Hole(Hole::Scope) => "{scope}".to_owned(),
            Part::Hole(Hole::Query(name)) => format!("{{query.{name}}}"),
        };
        self.parts.iter().map(part).collect()
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn holes(&self) -> impl Iterator<Item = &Hole> {
        self.parts.iter().filter_map(|part| match part {
            Part::Hole(hole) => Some(hole),
            Part::Text(_) => None,
        })
    }

    fn has_text(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Text(_)))
    }

    fn uses_path(&self) -> bool {
        self.holes().any(|hole| matches!(hole, Hole::Path | Hole::PathSegment(_)))
    }
}

/// The text is the operator's secret, and what stands in `{query.X}` may be by mistake.
impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template").field("placeholders", &self.holes().count()).finish_non_exhaustive()
    }
}

impl Hole {
    fn parse(name: &str) -> Result<Self, String> {
        let hole = match name {
            "ip" => Some(Self::Ip),
            "path" => Some(Self::Path),
            "session_id" => Some(Self::SessionId),
            "origin" => Some(Self::Origin),
            "user_agent" => Some(Self::UserAgent),
            "scope" => Some(Self::Scope),
            _ => match name.split_once('.') {
                Some(("query", parameter)) if !parameter.is_empty() => Some(Self::Query(parameter.into())),
                Some(("path", number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                    number.parse().ok().and_then(|number: usize| number.checked_sub(1)).map(Self::PathSegment)
                }
                _ => None,
            },
        };
        hole.ok_or_else(|| {
            format!(
                "what stands in braces (not shown: it may be secret) is no placeholder; there are {KNOWN}; write '{{{{' for a brace"
            )
        })
    }

    /// The raw value.
    pub(super) fn value<'a>(&self, question: &'a Question) -> Cow<'a, [u8]> {
        Cow::Borrowed(match self {
            Self::Ip => question.ip(),
            Self::Path => question.path(),
            Self::PathSegment(index) => segment(question.path(), *index),
            Self::SessionId => question.session_id(),
            Self::Origin => question.origin(),
            Self::UserAgent => question.user_agent(),
            Self::Scope => question.scope(),
            Self::Query(name) => return parameter(question.query(), name.as_bytes()),
        })
    }

    /// Appends the value as it stands in a parameter.
    pub(super) fn push_encoded(&self, question: &Question, out: &mut Vec<u8>) {
        push_encoded(out, &self.value(question), &UNRESERVED);
    }

    /// At least the length of the value.
    pub(super) fn bound(&self, question: &Question) -> usize {
        match self {
            Self::Query(_) => question.query().len(),
            _ => self.value(question).len(),
        }
    }
}

fn segment(path: &[u8], index: usize) -> &[u8] {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    path.split(|&byte| byte == b'/').nth(index).unwrap_or_default()
}

fn parameter<'a>(query: &'a [u8], name: &[u8]) -> Cow<'a, [u8]> {
    let mut found = None;
    for pair in query.split(|&byte| byte == b'&') {
        let at = pair.iter().position(|&byte| byte == b'=');
        if form_decoded(&pair[..at.unwrap_or(pair.len())]).eq(name.iter().copied())
            && found.replace(at.map_or(&[][..], |at| &pair[at + 1..])).is_some()
        {
            return Cow::Borrowed(b"");
        }
    }
    let value = found.unwrap_or_default();
    if value.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        Cow::Owned(form_decoded(value).collect())
    } else {
        Cow::Borrowed(value)
    }
}

/// `param.NAME = template`. The name may be any text that can be read back: it goes out percent-encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParamField {
    name: Box<str>,
    template: Template,
}

impl ParamField {
    pub(crate) fn parse(name: &str, template: &str) -> Result<Self, String> {
        let is_text = !name.trim().is_empty() && !name.chars().any(char::is_control);
        // With a value that ends in `=` behind it, that is `NAME: VALUE`.
        if !is_text || name.len() > NAME_LIMIT || name.contains(": ") {
            return Err(format!(
                "'{}' cannot be the name of a parameter; 1 to {NAME_LIMIT} bytes without control characters or a colon and a space",
                shown_key(name)
            ));
        }
        Ok(Self { name: name.into(), template: Template::parse(template)? })
    }

    /// The template, as `parse` reads it.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn written(&self) -> String {
        self.template.written()
    }

    /// Uses `{path}` or `{path.N}`: the path stays in the key, or one path's answer would serve another.
    pub(crate) fn uses_path(&self) -> bool {
        self.template.uses_path()
    }

    /// There is text of the operator's own in the value, which may be a secret.
    pub(crate) fn has_text(&self) -> bool {
        self.template.has_text()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn template(&self) -> &Template {
        &self.template
    }
}

/// `header.NAME = template`. The value is secret: `Debug` shows the name only.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HeaderField {
    name: Box<str>,
    template: Template,
}

/// The five headers of every request, in the order in which they are sent.
pub(super) const FIVE: [&str; 5] = ["X-Session-Id", "X-Real-Ip", PATH, "X-Real-Origin", "X-Real-Ua"];
/// The one that a scope may stand in for.
pub(super) const PATH: &str = "X-Real-Path";

/// What frames the request, names its receiver, or lets the reply come in a form that is not read.
const OURS: [&str; 11] = [
    "Host",
    "Connection",
    "Content-Length",
    "Transfer-Encoding",
    "TE",
    "Upgrade",
    "Expect",
    "Accept-Encoding",
    "Keep-Alive",
    "Proxy-Connection",
    "Trailer",
];

impl HeaderField {
    /// Refuses the names that would change who is asked, how the message is framed or what the five headers say,
    /// and values that could not be sent.
    pub(crate) fn parse(name: &str, template: &str) -> Result<Self, String> {
        if name.is_empty() || name.len() > NAME_LIMIT || !name.bytes().all(is_token) {
            return Err(format!(
                "'{}' cannot be the name of a header; 1 to {NAME_LIMIT} letters, digits, '-' or '_'",
                shown_key(name)
            ));
        }
        // CGI and PHP read X_Real_Ip as X-Real-Ip.
        let hyphens = name.replace('_', "-");
        if OURS.iter().chain(&FIVE).any(|ours| ours.eq_ignore_ascii_case(&hyphens)) {
            return Err(format!("{name} is sent, or left out, by the protocol itself and cannot be set"));
        }
        let template = Template::parse(template)?;
        for part in template.parts() {
            if let Part::Text(text) = part
                && text.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t')
            {
                return Err(format!(
                    "the value of {} has a control character and cannot be sent",
                    shown_key(name)
                ));
            }
        }
        Ok(Self { name: name.into(), template })
    }

    /// The template, as `parse` reads it.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn written(&self) -> String {
        self.template.written()
    }

    pub(crate) fn uses_path(&self) -> bool {
        self.template.uses_path()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The value of a header that is the same in every request.
    pub(super) fn fixed(&self) -> Option<&[u8]> {
        match self.template.parts() {
            [] => Some(b""),
            [Part::Text(text)] => Some(text.as_bytes().trim_ascii()),
            _ => None,
        }
    }

    /// Whether a client's decoded bytes would break the header section.
    pub(super) fn breaks_line(&self, question: &Question) -> bool {
        // Every other field was looked at when the check became a question.
        self.template
            .holes()
            .filter(|hole| matches!(hole, Hole::Query(_)))
            .any(|hole| hole.value(question).iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)))
    }

    pub(super) fn bound(&self, question: &Question) -> usize {
        self.template.parts().iter().map(|part| part.bound(question)).sum()
    }

    /// Appends the value, without space at its ends.
    pub(super) fn push_value(&self, question: &Question, out: &mut Vec<u8>) {
        let start = out.len();
        for part in self.template.parts() {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Hole(hole) => out.extend_from_slice(&hole.value(question)),
            }
        }
        for byte in &mut out[start..] {
            if byte.is_ascii_control() && *byte != b'\t' {
                *byte = b' ';
            }
        }
        let value = &out[start..];
        let leading = value.len() - value.trim_ascii_start().len();
        out.drain(start..start + leading);
        let trailing = out[start..].len() - out[start..].trim_ascii_end().len();
        out.truncate(out.len() - trailing);
    }
}

impl fmt::Debug for HeaderField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderField").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Part {
    fn bound(&self, question: &Question) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Hole(hole) => hole.bound(question),
        }
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
