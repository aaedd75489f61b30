//! A complete header section in memory, read where it lies.
//!
//! The usual reply is there as a whole after one read: httparse finds its fields in a fixed array, the rules of
//! `head.rs` are held against them, and nothing is copied. Anything else (a part of a section, interim replies, whatever
//! breaks a rule) is for [`HeadReader`], which says what is wrong; the two never differ on what they accept.
//!
//! [`HeadReader`]: crate::transport::head::HeadReader

use std::mem::MaybeUninit;

use httparse::{ParserConfig, Response};

use super::framing::Framing;
use crate::transport::ReplyHead;
use crate::transport::head::{Field, MAX_FIELDS, MAX_HEAD, kind};

/// Of most replies: a small array is quicker made.
pub(super) const FEW_FIELDS: usize = 16;

/// What the lane needs to know of a header section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) status: u16,
    pub(super) framing: Framing,
    /// Another request may follow on the connection, as far as the header section says.
    pub(super) persistent: bool,
    /// It is HTTP/1.1 and says itself where the body ends, not by its status: whoever reads it finds the same end.
    pub(super) certain: bool,
    /// Bytes, with the empty line.
    pub(super) len: usize,
}

/// The final header section that `bytes` begin with, if it is there as a whole and keeps every rule; and what `read`
/// makes of it.
pub(super) fn parse<T>(bytes: &[u8], read: impl FnOnce(&ReplyHead<'_>) -> T) -> Option<(Section, T)> {
    // httparse passes over empty lines before the status line.
    if !bytes.starts_with(b"HTTP/1.") {
        return None;
    }
    let parser = ParserConfig::default();
    let (mut few, mut response) = ([const { MaybeUninit::uninit() }; FEW_FIELDS], Response::new(&mut []));
    match parser.parse_response_with_uninit_headers(&mut response, bytes, &mut few) {
        Ok(httparse::Status::Complete(len)) => understand::<FEW_FIELDS, T>(&response, len, read),
        Err(httparse::Error::TooManyHeaders) => {
            let (mut all, mut response) =
                ([const { MaybeUninit::uninit() }; MAX_FIELDS], Response::new(&mut []));
            let parsed = parser.parse_response_with_uninit_headers(&mut response, bytes, &mut all);
            let Ok(httparse::Status::Complete(len)) = parsed else { return None };
            understand::<MAX_FIELDS, T>(&response, len, read)
        }
        _ => None,
    }
}

fn understand<const FIELDS: usize, T>(
    response: &Response<'_, '_>,
    len: usize,
    read: impl FnOnce(&ReplyHead<'_>) -> T,
) -> Option<(Section, T)> {
    let (status, http10) = (response.code?, response.version == Some(0));
    if !(200..=599).contains(&status) || len > MAX_HEAD {
        return None;
    }
    let mut framing = None;
    let mut persistent = !http10;
    let mut closes = false;
    let mut headers: [(&[u8], &[u8]); FIELDS] = [(&[], &[]); FIELDS];
    let count = response.headers.len();
    for (place, field) in headers.iter_mut().zip(response.headers.iter()) {
        let (name, value) = (field.name.as_bytes(), field.value);
        *place = (name, value);
        match kind(name, value).ok()? {
            // Two of one kind, or one of each: who reads them differently sees another body.
            Field::ContentLength(_) | Field::TransferEncoding if framing.is_some() => return None,
            Field::TransferEncoding if http10 => return None,
            Field::ContentLength(length) => framing = Some(Framing::Length(length)),
            Field::TransferEncoding => framing = Some(Framing::CHUNKED),
            Field::Connection => {
                for word in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                    closes |= word.eq_ignore_ascii_case(b"close");
                    persistent |= word.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            Field::Other => {}
        }
    }
    let bodiless = matches!(status, 204 | 304);
    let certain = !http10 && !bodiless && framing.is_some();
    let framing = match framing {
        _ if bodiless => Framing::Length(0),
        framing => framing.unwrap_or(Framing::UntilClose),
    };
    let made = read(&ReplyHead { status, headers: &headers[..count] });
    Some((Section { status, framing, persistent: persistent && !closes, certain, len }, made))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(bytes: &[u8]) -> Option<Section> {
        parse(bytes, |_| ()).map(|(section, ())| section)
    }

    #[test]
    fn the_framing_is_that_of_rfc_9112() {
        let table: &[(&str, Framing, bool)] = &[
            ("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", Framing::Length(12), true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Framing::CHUNKED, true),
            ("HTTP/1.1 200 OK\r\n\r\n", Framing::UntilClose, true),
            ("HTTP/1.1 204 No\r\nContent-Length: 12\r\n\r\n", Framing::Length(0), true),
            ("HTTP/1.1 304 No\r\nTransfer-Encoding: chunked\r\n\r\n", Framing::Length(0), true),
            (
                "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 0\r\n\r\n",
                Framing::Length(0),
                false,
            ),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", Framing::Length(0), false),
            (
                "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n",
                Framing::Length(0),
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nConnection: close\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
                Framing::Length(0),
                false,
            ),
        ];
        for (reply, framing, persistent) in table {
            let found = section(reply.as_bytes()).unwrap();
            assert_eq!(
                (found.framing, found.persistent, found.len),
                (*framing, *persistent, reply.len()),
                "{reply}"
            );
        }
    }
}
