//! The raw header section of an HTTP/1.1 reply, read strictly and line by line as it arrives.
//!
//! In the hyper lane hyper reads the same bytes afterwards: this reader exists for what hyper does not tell (the status
//! line of a reply that breaks off later), for what it skips (interim replies), and for where it is lenient. The wire
//! lane comes here with every reply that is not complete and faultless at once. It keeps at most 16 KiB. A line may end with LF alone (RFC 9112, 2.2); everything else is as the grammar says.

/// Of one header section, and of each interim one.
pub(super) const MAX_HEAD: usize = 16 * 1024;
pub(super) const MAX_FIELDS: usize = 64;
pub(super) const MAX_INTERIM: u8 = 8;

/// What the reader has found out.
#[derive(Default)]
pub(super) struct HeadReader {
    section: Vec<u8>,
    /// Where the line that is being received begins in `section`.
    line: usize,
    fields: usize,
    status: Option<Status>,
    interim: u8,
    content_length: bool,
    transfer_encoding: bool,
    /// After `Complete`: bytes of the last call that are not of the section.
    rest: usize,
}

#[derive(Clone, Copy)]
struct Status {
    code: u16,
    http10: bool,
}

/// What a call of `feed` came to.
pub(super) enum Fed {
    /// More is needed. The status, once the final status line is in.
    Partial(Option<u16>),
    /// The final header section is complete; what follows in the call's bytes is body.
    Complete(u16),
    /// A rule is broken. The status, if its line was in before.
    Broken(&'static str, Option<u16>),
}

impl HeadReader {
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Fed {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            let (line, rest) = bytes.split_at(end + 1);
            bytes = rest;
            if let Err(rule) = self.extend(line) {
                return self.broken(rule);
            }
            let mut line = &self.section[self.line..self.section.len() - 1];
            line = line.strip_suffix(b"\r").unwrap_or(line);
            let outcome = match self.status {
                None => status_line(line).map(|status| {
                    self.status = Some(status);
                    false
                }),
                Some(_) if line.is_empty() => Ok(true),
                Some(status) => field(line).and_then(|kind| {
                    self.fields += 1;
                    if self.fields > MAX_FIELDS {
                        return Err("has more than 64 headers");
                    }
                    match kind {
                        Field::ContentLength(_) if self.content_length => {
                            Err("has two Content-Length headers")
                        }
                        Field::TransferEncoding if self.transfer_encoding => {
                            Err("has two Transfer-Encoding headers")
                        }
                        Field::TransferEncoding if status.http10 => {
                            Err("is HTTP/1.0 and has Transfer-Encoding")
                        }
                        Field::ContentLength(_) => {
                            self.content_length = true;
                            Ok(false)
                        }
                        Field::TransferEncoding => {
                            self.transfer_encoding = true;
                            Ok(false)
                        }
                        Field::Connection | Field::Other => Ok(false),
                    }
                }),
            };
            self.line = self.section.len();
            match (outcome, self.status) {
                (Err(rule), _) => return self.broken(rule),
                (Ok(true), Some(status)) => {
                    if self.content_length && self.transfer_encoding {
                        return self.broken("has Content-Length and Transfer-Encoding");
                    }
                    if status.code >= 200 {
                        self.rest = bytes.len();
                        return Fed::Complete(status.code);
                    }
                    if self.interim == MAX_INTERIM {
                        return self.broken("comes after more than 8 interim replies");
                    }
                    *self = Self { interim: self.interim + 1, ..Self::default() };
                }
                (Ok(_), _) => {}
            }
        }
        if let Err(rule) = self.extend(bytes) {
            return self.broken(rule);
        }
        Fed::Partial(self.final_status())
    }

    /// After `Complete`: the final header section, with its empty line.
    pub(super) fn section(&self) -> &[u8] {
        &self.section
    }

    /// After `Complete`: how many of the bytes fed last come after the section.
    pub(super) fn rest(&self) -> usize {
        self.rest
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        if self.section.len() + bytes.len() > MAX_HEAD {
            return Err("has a header section over 16 KiB");
        }
        self.section.extend_from_slice(bytes);
        // A peer that speaks something else is told from the first byte on, not when its line ends.
        if self.status.is_none() && !self.section.iter().zip(b"HTTP/1.").all(|(a, b)| a == b) {
            return Err("does not begin with HTTP/1");
        }
        Ok(())
    }

    fn final_status(&self) -> Option<u16> {
        self.status.map(|status| status.code).filter(|&code| code >= 200)
    }

    fn broken(&self, rule: &'static str) -> Fed {
        Fed::Broken(rule, self.final_status())
    }
}

/// `HTTP/1.x NNN`, then nothing or a space and a phrase, which may be empty.
fn status_line(line: &[u8]) -> Result<Status, &'static str> {
    let malformed = "has a malformed status line";
    let Some((version, [b' ', a, b, c, phrase @ ..])) = line.split_at_checked(8) else {
        return Err(malformed);
    };
    if !matches!(version, b"HTTP/1.0" | b"HTTP/1.1")
        || ![a, b, c].iter().all(|digit| digit.is_ascii_digit())
        || !(phrase.is_empty() || phrase[0] == b' ' && phrase.iter().all(|&byte| is_text(byte)))
    {
        return Err(malformed);
    }
    let code = [a, b, c].iter().fold(0, |code, &&digit| code * 10 + u16::from(digit - b'0'));
    match code {
        101 => Err("switches protocols"),
        100..=599 => Ok(Status { code, http10: version == b"HTTP/1.0" }),
        _ => Err("has a status outside 100 to 599"),
    }
}

/// What a field is to the framing.
pub(super) enum Field {
    ContentLength(u64),
    /// `chunked`, and nothing else.
    TransferEncoding,
    Connection,
    Other,
}

fn field(line: &[u8]) -> Result<Field, &'static str> {
    let colon = line.iter().position(|&byte| byte == b':').ok_or("has a header without a colon")?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
        // Folded lines end here too: a name does not begin with a space.
        return Err("has a malformed header name");
    }
    if !value.iter().all(|&byte| is_text(byte)) {
        return Err("has a control byte in a header");
    }
    kind(name, value)
}

/// For a field whose name and value are well formed.
pub(super) fn kind(name: &[u8], value: &[u8]) -> Result<Field, &'static str> {
    match name.len() {
        10 if is_named(name, b"Connection") => Ok(Field::Connection),
        14 if is_named(name, b"Content-Length") => {
            let value = value.trim_ascii();
            if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
                return Err("has a malformed Content-Length");
            }
            let length = value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0'));
            Ok(Field::ContentLength(length))
        }
        17 if is_named(name, b"Transfer-Encoding") => {
            // No TE is ever sent, so nothing else may come.
            if !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err("has a Transfer-Encoding other than chunked");
            }
            Ok(Field::TransferEncoding)
        }
        _ => Ok(Field::Other),
    }
}

/// Whether a field's name is `known`, which most peers write as we do.
#[inline]
pub(crate) fn is_named(name: &[u8], known: &[u8]) -> bool {
    name == known || name.eq_ignore_ascii_case(known)
}

pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What may stand in a value or a phrase: all but control bytes, with HTAB.
#[expect(clippy::needless_bitwise_bool, reason = "without a branch, many bytes are looked at together")]
pub(super) const fn is_text(byte: u8) -> bool {
    (byte == b'\t') | ((byte >= b' ') & (byte != 0x7f))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status, or the broken rule.
    fn read(reply: &[u8]) -> Result<Option<u16>, &'static str> {
        match HeadReader::default().feed(reply) {
            Fed::Complete(status) => Ok(Some(status)),
            Fed::Partial(_) => Ok(None),
            Fed::Broken(rule, _) => Err(rule),
        }
    }

    #[test]
    fn ordinary_replies_are_read_whichever_way_they_are_cut() {
        let reply = b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200\r\nA: 1\r\nB:\r\n\r\nrest";
        let end = reply.len() - 4;
        for cut in 0..=reply.len() {
            let mut reader = HeadReader::default();
            let first = reader.feed(&reply[..cut]);
            if cut >= end {
                assert!(matches!(first, Fed::Complete(200)), "{cut}");
            } else {
                assert!(matches!(first, Fed::Partial(_)), "{cut}");
                assert!(matches!(reader.feed(&reply[cut..]), Fed::Complete(200)), "{cut}");
            }
        }
    }

    #[test]
    fn the_status_is_known_as_soon_as_its_line_is_complete() {
        let reply = b"HTTP/1.1 403 No\r\nA: 1\r\n";
        for cut in 0..reply.len() {
            let Fed::Partial(known) = HeadReader::default().feed(&reply[..cut]) else { panic!("{cut}") };
            assert_eq!(known, (cut >= 17).then_some(403), "{cut}");
        }
    }

    #[test]
    fn a_reply_keeps_the_grammar_or_is_broken() {
        let good: &[&[u8]] = &[
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.0 599 \r\n\r\n",
            b"HTTP/1.1 204\r\n\r\n",
            b"HTTP/1.1 200 OK\nA: b\n\n",
            b"HTTP/1.1 200 \xc3\xa9\r\nX: \xff\t.\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length:  0 \r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n",
        ];
        for reply in good {
            assert!(read(reply).is_ok_and(|status| status.is_some()), "{}", reply.escape_ascii());
        }
        let bad: &[&[u8]] = &[
            b"\r\nHTTP/1.1 200 OK\r\n\r\n",
            b"<html>",
            b"\0\0\x12\x04\0\0\0\0\0",
            b"HTTP/2 200 OK\r\n\r\n",
            b"HTTP/1.2 200 OK\r\n\r\n",
            b"http/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1  200 OK\r\n\r\n",
            b"HTTP/1.1 20 OK\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"HTTP/1.1 +20 OK\r\n\r\n",
            b"HTTP/1.1 099 X\r\n\r\n",
            b"HTTP/1.1 600 X\r\n\r\n",
            b"HTTP/1.1 101 X\r\n\r\n",
            b"HTTP/1.1 200 O\x01K\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n: b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ];
        for reply in bad {
            assert!(read(reply).is_err(), "{}", reply.escape_ascii());
        }
    }

    #[test]
    fn bounds_are_exact() {
        let many = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(count)).into_bytes();
        assert_eq!(read(&many(MAX_FIELDS)), Ok(Some(200)));
        assert!(read(&many(MAX_FIELDS + 1)).is_err());
        let long = |size: usize| {
            let fixed = "HTTP/1.1 200 OK\r\nA: \r\n\r\n".len();
            format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(size - fixed)).into_bytes()
        };
        assert_eq!(read(&long(MAX_HEAD)), Ok(Some(200)));
        assert!(matches!(HeadReader::default().feed(&long(MAX_HEAD + 1)), Fed::Broken(_, Some(200))));
        let interim = |count: usize| {
            format!("{}HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n".repeat(count)).into_bytes()
        };
        assert_eq!(read(&interim(8)), Ok(Some(200)));
        assert!(read(&interim(9)).is_err());
    }
}
