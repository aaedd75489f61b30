//! Where a reply's body ends (RFC 9112, 6.3), read strictly: what breaks the grammar ends the connection.
//!
//! A decoder is fed with whatever has arrived and says how much of it belongs to the body. It keeps nothing.

use crate::transport::head::{MAX_HEAD, is_text, is_token};

/// How the end of the body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many more bytes; none: it is complete.
    Length(u64),
    Chunked(Chunks),
    /// It ends with the connection.
    UntilClose,
}

/// A chunked body breaks its grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadChunk;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    state: State,
    /// Bytes of extensions and trailers so far: they are read only to be passed over.
    overhead: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the size, of which so many digits are in.
    Size {
        value: u64,
        digits: u8,
    },
    /// Space after the size: only the end of the line, or an extension, may follow.
    Space {
        value: u64,
    },
    /// After the size, up to the end of its line.
    Extension {
        value: u64,
    },
    SizeLf {
        value: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// Where a trailer or the last line begins.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    End,
}

impl Framing {
    pub(super) const CHUNKED: Self =
        Self::Chunked(Chunks { state: State::Size { value: 0, digits: 0 }, overhead: 0 });

    pub(super) fn is_complete(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.state == State::End,
            Self::UntilClose => false,
        }
    }

    /// How many of `bytes` belong to the body; all of them, unless it ends among them. `data` gets what is in it.
    pub(super) fn eat(&mut self, bytes: &[u8], data: impl FnMut(&[u8])) -> Result<usize, BadChunk> {
        let mut data = data;
        match self {
            Self::Length(left) => {
                let part = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= part as u64;
                data(&bytes[..part]);
                Ok(part)
            }
            Self::UntilClose => {
                data(bytes);
                Ok(bytes.len())
            }
            Self::Chunked(chunks) => chunks.eat(bytes, data),
        }
    }
}

impl Chunks {
    fn eat(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, BadChunk> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::End {
            if let State::Data { left } = self.state {
                let rest = &bytes[at..];
                let part = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                data(&rest[..part]);
                at += part;
                let left = left - part as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                continue;
            }
            self.state = self.step(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<State, BadChunk> {
        let after_size = |value| if value == 0 { State::TrailerStart } else { State::Data { left: value } };
        Ok(match (self.state, byte) {
            (State::Size { value, digits }, _) if byte.is_ascii_hexdigit() => {
                // Sixteen digits fill the number.
                if digits == 16 {
                    return Err(BadChunk);
                }
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                State::Size { value: value << 4 | digit, digits: digits + 1 }
            }
            (State::Size { digits: 0, .. }, _) => return Err(BadChunk),
            (State::Size { value, .. } | State::Space { value } | State::Extension { value }, b'\r') => {
                State::SizeLf { value }
            }
            (State::Size { value, .. } | State::Space { value }, b' ' | b'\t') => {
                self.over(State::Space { value })?
            }
            (State::Size { value, .. } | State::Space { value }, b';') => {
                self.over(State::Extension { value })?
            }
            (State::Extension { value }, _) if is_text(byte) => self.over(State::Extension { value })?,
            (State::SizeLf { value }, b'\n') => after_size(value),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { value: 0, digits: 0 },
            (State::TrailerStart, b'\r') => State::LastLf,
            (State::TrailerStart | State::TrailerName, _) if is_token(byte) => {
                self.over(State::TrailerName)?
            }
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, _) if is_text(byte) => self.over(State::TrailerValue)?,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::LastLf, b'\n') => State::End,
            _ => return Err(BadChunk),
        })
    }

    fn over(&mut self, state: State) -> Result<State, BadChunk> {
        self.overhead += 1;
        if self.overhead > MAX_HEAD { Err(BadChunk) } else { Ok(state) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data and the rest.
    type Whole<'a> = (Vec<u8>, &'a [u8]);

    /// `None`: it is not complete.
    fn read(framing: Framing, bytes: &[u8]) -> Result<Option<Whole<'_>>, BadChunk> {
        let (mut framing, mut data) = (framing, Vec::new());
        let eaten = framing.eat(bytes, |part| data.extend_from_slice(part))?;
        Ok(framing.is_complete().then_some((data, &bytes[eaten..])))
    }

    #[test]
    fn chunks_are_read_whichever_way_they_are_cut() {
        let body = b"5\r\nhello\r\n00a;x=\"y\"\r\n, chunks!!\r\n0\r\nTrailer: x\r\n\r\nrest";
        for cut in 0..body.len() {
            let (mut framing, mut data) = (Framing::CHUNKED, Vec::new());
            let first = framing.eat(&body[..cut], |part| data.extend_from_slice(part)).unwrap();
            assert_eq!(framing.is_complete(), cut >= body.len() - 4, "{cut}");
            let second = framing.eat(&body[first..], |part| data.extend_from_slice(part)).unwrap();
            assert_eq!(&body[first + second..], b"rest", "{cut}");
            assert_eq!(data, b"hello, chunks!!", "{cut}");
        }
    }

    #[test]
    fn a_length_ends_where_it_says() {
        assert_eq!(read(Framing::Length(0), b"x"), Ok(Some((Vec::new(), &b"x"[..]))));
        assert_eq!(read(Framing::Length(3), b"abcd"), Ok(Some((b"abc".to_vec(), &b"d"[..]))));
        assert_eq!(read(Framing::Length(5), b"abcd"), Ok(None));
        assert_eq!(read(Framing::Length(u64::MAX), b"abcd"), Ok(None));
        assert_eq!(read(Framing::UntilClose, b"abcd"), Ok(None));
    }

    #[test]
    fn what_breaks_the_grammar_of_chunks_is_told() {
        for bad in [
            &b"\r\n"[..],
            b"x\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b"0x1\r\n",
            b" 1\r\n",
            b"1\n",
            b"1\r\r\n",
            b"1\r\nab",
            b"1\r\na\n",
            b"1\r\na\r\r",
            b"1 1\r\n",
            b"0 folded\r\n\r\n",
            b"1;\n",
            b"1;a\0\r\n",
            b"00000000000000000\r\n",
            b"fffffffffffffffff\r\n",
            b"0\r\n\n",
            b"0\r\nA\r\n",
            b"0\r\n: b\r\n",
            b"0\r\nA : b\r\n",
            b"0\r\nA: b\n\r\n",
            b"0\r\nA: b\r\n c\r\n",
        ] {
            assert_eq!(read(Framing::CHUNKED, bad), Err(BadChunk), "{}", bad.escape_ascii());
        }
        assert_eq!(
            read(Framing::CHUNKED, b"ffffffffffffffff\r\nx"),
            Ok(None),
            "sixteen digits fill the number"
        );
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let long = |size: usize| format!("0;{}\r\n\r\n", "x".repeat(size)).into_bytes();
        assert!(read(Framing::CHUNKED, &long(MAX_HEAD - 1)).is_ok());
        assert_eq!(read(Framing::CHUNKED, &long(MAX_HEAD)), Err(BadChunk));
        let many = b"1;x\r\na\r\n".repeat(MAX_HEAD);
        assert_eq!(read(Framing::CHUNKED, &many), Err(BadChunk));
    }
}
