//! Reads lines on a thread of its own, so that decisions go out while the input has nothing to say.
//! At most a few chunks are ahead of the window, each bounded in lines and bytes.

use std::io::{self, BufRead, BufReader, Read};

use crossbeam_channel as channel;

use super::input::Parser;
use crate::client::Client;

/// Longer lines are bad lines.
pub(crate) const MAX_LINE: usize = 64 * 1024;
const CHUNK_LINES: usize = 256;
const CHUNK_BYTES: u64 = 256 * 1024;
const CHUNKS_AHEAD: usize = 4;

/// One line that is not blank: a client to check, or why not.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) line: u64,
    pub(crate) client: Result<Client, String>,
}

/// Some lines, in order.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) items: Vec<Item>,
    /// Bytes read so far.
    pub(crate) position: u64,
    /// The input broke off after these.
    pub(crate) error: Option<io::Error>,
}

/// The input's lines from `from_line` on. The channel closes at the end.
pub(crate) fn spawn(
    input: Box<dyn Read + Send>,
    parser: Parser,
    from_line: u64,
) -> io::Result<channel::Receiver<Chunk>> {
    let (chunks, received) = channel::bounded(CHUNKS_AHEAD);
    std::thread::Builder::new().name("lines".to_owned()).spawn(move || {
        let mut lines = Lines {
            input: BufReader::with_capacity(64 * 1024, input),
            line: Vec::new(),
            number: 0,
            position: 0,
        };
        while let Some(chunk) = lines.chunk(&parser, from_line) {
            let last = chunk.error.is_some();
            if chunks.send(chunk).is_err() || last {
                return;
            }
        }
    })?;
    Ok(received)
}

struct Lines<R> {
    input: BufReader<R>,
    line: Vec<u8>,
    number: u64,
    position: u64,
}

enum Read1 {
    Line,
    TooLong,
    End,
}

impl<R: Read> Lines<R> {
    /// As many lines as are there, up to the bounds; none at the end.
    fn chunk(&mut self, parser: &Parser, from_line: u64) -> Option<Chunk> {
        let mut chunk = Chunk::default();
        let begin = self.position;
        loop {
            match self.next() {
                Ok(Read1::End) => break,
                Ok(Read1::Line) if self.number >= from_line => {
                    let line = self.line.trim_ascii();
                    if !line.is_empty() {
                        chunk
                            .items
                            .push(Item { line: self.number, client: parser.client(line, self.number) });
                    }
                }
                Ok(Read1::TooLong) if self.number >= from_line => {
                    let why = format!("longer than {MAX_LINE} bytes");
                    chunk.items.push(Item { line: self.number, client: Err(why) });
                }
                Ok(_) => {}
                Err(error) => {
                    chunk.error = Some(error);
                    break;
                }
            }
            // A pipe that has no more for now: what came must not wait for what may never come.
            let dry = self.input.buffer().is_empty() && !chunk.items.is_empty();
            if dry || chunk.items.len() >= CHUNK_LINES || self.position - begin >= CHUNK_BYTES {
                break;
            }
        }
        chunk.position = self.position;
        let ended = self.position == begin && chunk.error.is_none();
        (!ended).then_some(chunk)
    }

    fn next(&mut self) -> io::Result<Read1> {
        self.line.clear();
        let mut too_long = false;
        let mut any = false;
        loop {
            let buffer = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if buffer.is_empty() {
                break;
            }
            if !any {
                any = true;
                self.number += 1;
            }
            let newline = buffer.iter().position(|&byte| byte == b'\n');
            let content = newline.unwrap_or(buffer.len());
            too_long |= self.line.len() + content > MAX_LINE;
            if !too_long {
                self.line.extend_from_slice(&buffer[..content]);
            }
            let used = newline.map_or(content, |newline| newline + 1);
            self.input.consume(used);
            self.position += used as u64;
            if newline.is_some() {
                break;
            }
        }
        if self.number == 1 && self.line.starts_with(b"\xef\xbb\xbf") {
            self.line.drain(..3);
        }
        Ok(match (any, too_long) {
            (false, _) => Read1::End,
            (true, true) => Read1::TooLong,
            (true, false) => Read1::Line,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8], from_line: u64) -> Vec<(u64, Result<String, String>)> {
        let parser = Parser::new(Client::default());
        let mut lines =
            Lines { input: BufReader::with_capacity(7, input), line: Vec::new(), number: 0, position: 0 };
        let mut all = Vec::new();
        while let Some(chunk) = lines.chunk(&parser, from_line) {
            assert!(chunk.error.is_none());
            all.extend(
                chunk.items.into_iter().map(|item| {
                    (item.line, item.client.map(|client| String::from_utf8(client.path).unwrap()))
                }),
            );
        }
        assert_eq!(lines.position, input.len() as u64);
        all
    }

    #[test]
    fn lines_are_numbered_as_an_editor_numbers_them() {
        let input = b"\xef\xbb\xbf/a\r\n\n  \t\n/b\n/c";
        assert_eq!(read(input, 1), [(1, Ok("/a".into())), (4, Ok("/b".into())), (5, Ok("/c".into()))]);
        assert_eq!(read(input, 4), [(4, Ok("/b".into())), (5, Ok("/c".into()))]);
        assert_eq!(read(b"", 1), []);
    }

    #[test]
    fn an_over_long_line_is_bad_and_kept_nowhere() {
        let fits = format!("/{}", "x".repeat(MAX_LINE - 1));
        let input = format!("/a\n{fits}\n{fits}y\n/b\n");
        let read = read(input.as_bytes(), 1);
        assert_eq!(read[1], (2, Ok(fits)));
        assert_eq!(read[2], (3, Err("longer than 65536 bytes".into())));
        assert_eq!(read[3], (4, Ok("/b".into())));
    }
}
