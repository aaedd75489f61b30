//! The frames of an HTTP/2 connection as they come in, as far as hyper does not tell: that the peer's SETTINGS
//! have come, that it is going away, and how many interim replies a stream has had.

use std::collections::BTreeMap;

use super::head::MAX_INTERIM;

/// Streams whose sections are counted: more than are ever open, and a bound for those that ended by our reset, of
/// which the peer's frames say nothing.
const MAX_COUNTED: usize = 2048;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;

#[derive(Default)]
pub(super) struct FrameReader {
    header: [u8; 9],
    /// How much of `header` is there.
    have: usize,
    /// How much of the frame's payload is still to come.
    payload: usize,
    settings: bool,
    going_away: bool,
    /// Header sections so far, of streams that have neither ended nor begun a body: interim ones and the final one, which
    /// cannot be told apart here. Trailers without a body count, too: after eight interim replies they are one too many.
    sections: BTreeMap<u32, u8>,
}

impl FrameReader {
    /// True: SETTINGS or GOAWAY were among the frames.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<bool, &'static str> {
        let mut news = false;
        while !bytes.is_empty() {
            if self.payload > 0 {
                let skip = self.payload.min(bytes.len());
                self.payload -= skip;
                bytes = &bytes[skip..];
                news |= self.settle();
                continue;
            }
            let take = (self.header.len() - self.have).min(bytes.len());
            self.header[self.have..self.have + take].copy_from_slice(&bytes[..take]);
            self.have += take;
            bytes = &bytes[take..];
            // Whoever does not begin with SETTINGS does not speak HTTP/2.
            if !self.settings && self.have >= 4 && self.header[3] != SETTINGS {
                return Err("does not begin with HTTP/2 SETTINGS");
            }
            if self.have == self.header.len() {
                self.have = 0;
                news |= self.frame()?;
                news |= self.settle();
            }
        }
        Ok(news)
    }

    fn frame(&mut self) -> Result<bool, &'static str> {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = self.header;
        self.payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        match kind {
            GOAWAY => self.going_away = true,
            HEADERS => {
                let sections = self.sections.entry(stream).or_default();
                *sections += 1;
                if *sections > MAX_INTERIM + 1 {
                    return Err("comes after more than 8 interim replies");
                }
                if self.sections.len() > MAX_COUNTED {
                    // The oldest stream.
                    self.sections.pop_first();
                }
            }
            _ => {}
        }
        if matches!(kind, RST_STREAM | DATA) || kind == HEADERS && flags & END_STREAM != 0 {
            self.sections.remove(&stream);
        }
        Ok(kind == GOAWAY)
    }

    /// A SETTINGS frame counts when all of it is there: half of one says nothing.
    fn settle(&mut self) -> bool {
        let settled = self.payload == 0 && self.header[3] == SETTINGS;
        self.settings |= settled;
        settled
    }

    pub(super) fn has_settings(&self) -> bool {
        self.settings
    }

    pub(super) fn is_going_away(&self) -> bool {
        self.going_away
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }

    /// After the peer's SETTINGS.
    fn reader() -> FrameReader {
        let mut reader = FrameReader::default();
        assert_eq!(reader.feed(&frame(SETTINGS, 0, 0, &[])), Ok(true));
        reader
    }

    #[test]
    fn frames_are_told_whichever_way_they_are_cut() {
        let frames = [
            frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]),
            // What looks like GOAWAY is payload.
            frame(DATA, 0, 1, &[0, 0, 0, GOAWAY, 0, 0, 0, 0, 0]),
            frame(GOAWAY, 0, 0, &[0; 8]),
        ]
        .concat();
        let end_of_settings = 9 + 6;
        for cut in 0..frames.len() {
            let mut reader = FrameReader::default();
            let first = reader.feed(&frames[..cut]).unwrap();
            let settled = cut >= end_of_settings;
            assert_eq!((first, reader.has_settings()), (settled, settled), "{cut}");
            let goaway = cut >= end_of_settings + 18 + 9;
            assert_eq!(reader.is_going_away(), goaway, "{cut}");
            reader.feed(&frames[cut..]).unwrap();
            assert!(reader.is_going_away(), "{cut}");
        }
    }

    #[test]
    fn who_does_not_begin_with_settings_is_refused() {
        for says in [&b"HTTP/1.1 200 OK"[..], &frame(HEADERS, 0, 1, &[]), &[0, 0, 0, GOAWAY]] {
            assert!(FrameReader::default().feed(says).is_err(), "{}", says.escape_ascii());
        }
    }

    #[test]
    fn interim_replies_are_bounded_by_stream() {
        let mut reader = reader();
        for stream in [1, 3] {
            for _ in 0..=MAX_INTERIM {
                assert_eq!(reader.feed(&frame(HEADERS, 0, stream, b"x")), Ok(false));
            }
        }
        // Trailers.
        let rest = [frame(DATA, 0, 3, b"x"), frame(HEADERS, END_STREAM, 3, b"x")].concat();
        assert_eq!(reader.feed(&rest), Ok(false));
        // The final section, if it says that the stream ends, is one as well.
        assert!(reader.feed(&frame(HEADERS, END_STREAM, 1, b"x")).is_err());
    }

    #[test]
    fn streams_that_ended_are_not_remembered() {
        let mut reader = reader();
        for (index, end) in [(HEADERS, END_STREAM), (DATA, END_STREAM), (RST_STREAM, 0)].iter().enumerate() {
            let stream = 2 * index as u32 + 1;
            reader.feed(&frame(HEADERS, 0, stream, b"x")).unwrap();
            reader.feed(&frame(end.0, end.1, stream, b"")).unwrap();
        }
        assert!(reader.sections.is_empty());
        // We reset these: their end is never seen.
        for stream in 0..10_000 {
            reader.feed(&frame(HEADERS, 0, 2 * stream + 1, b"x")).unwrap();
        }
        assert_eq!(reader.sections.len(), MAX_COUNTED);
        assert_eq!(reader.sections.last_key_value(), Some((&19_999, &1)));
    }
}
