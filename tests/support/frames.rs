//! HTTP/2 in raw frames (RFC 9113), with nothing between the test and the wire: what a scripted server needs to know where
//! a request ends, and how to write a frame and a header block (RFC 7541) that nobody checks.

use std::io::{ErrorKind, Read};

use super::scripted::Io;
use super::wire::PREFACE;

/// Type codes (RFC 9113, 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind(pub(crate) u8);

impl Kind {
    pub(crate) const DATA: Self = Self(0);
    pub(crate) const HEADERS: Self = Self(1);
    pub(crate) const SETTINGS: Self = Self(4);
    pub(crate) const PING: Self = Self(6);
    const NAMES: [&str; 10] = [
        "DATA",
        "HEADERS",
        "PRIORITY",
        "RST_STREAM",
        "SETTINGS",
        "PUSH_PROMISE",
        "PING",
        "GOAWAY",
        "WINDOW_UPDATE",
        "CONTINUATION",
    ];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().position(|known| *known == name).map(|code| Self(code as u8))
    }

    /// Whether such frames are about the connection rather than a stream.
    pub(crate) fn is_of_the_connection(self) -> bool {
        [Self::SETTINGS, Self::PING, Self(7)].contains(&self)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) const END_STREAM: u8 = 1;
    /// Of SETTINGS and PING.
    pub(crate) const ACK: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;
    /// What a peer takes without having said so (`SETTINGS_MAX_FRAME_SIZE`).
    pub(crate) const MAX: usize = 16_384;

    pub(crate) fn new(kind: Kind, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, flags, stream, payload: payload.into() }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes_of_length(self.payload.len())
    }

    /// With this in the place of its length.
    pub(crate) fn bytes_of_length(&self, length: usize) -> Vec<u8> {
        let mut bytes = (length as u32).to_be_bytes()[1..].to_vec();
        bytes.extend_from_slice(&[self.kind.0, self.flags]);
        bytes.extend_from_slice(&self.stream.to_be_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// HEADERS with this block and, if it is longer than one frame, CONTINUATION.
    pub(crate) fn headers(flags: u8, stream: u32, block: &[u8]) -> Vec<u8> {
        let pieces: Vec<_> = block.chunks(Self::MAX).collect();
        let mut bytes = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            let kind = if index == 0 { Kind::HEADERS } else { Kind(9) };
            let end = if index + 1 == pieces.len() { Self::END_HEADERS } else { 0 };
            let flags = if index == 0 { flags | end } else { end };
            bytes.extend(Self::new(kind, flags, stream, *piece).bytes());
        }
        bytes
    }
}

/// One field, literally and without indexing (RFC 7541, 6.2.2).
pub(crate) fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0], &string(name)[..], &string(value)].concat()
}

pub(crate) fn header_block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name.as_bytes(), value.as_bytes())).collect()
}

/// Without Huffman's code.
fn string(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match text.len().checked_sub(127) {
        None => bytes.push(text.len() as u8),
        Some(mut rest) => {
            bytes.push(127);
            while rest >= 128 {
                bytes.push(rest as u8 | 128);
                rest >>= 7;
            }
            bytes.push(rest as u8);
        }
    }
    bytes.extend_from_slice(text);
    bytes
}

/// What a client says first.
pub(super) fn accept(io: &mut dyn Io) -> std::io::Result<()> {
    let mut preface = [0; 24];
    io.read_exact(&mut preface)?;
    if preface == PREFACE[..24] { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

/// Up to the end of a request's header section; and its stream. Requests have no body here.
pub(super) fn next_request(io: &mut dyn Io) -> std::io::Result<(Vec<u8>, u32)> {
    let mut bytes = Vec::new();
    let mut opened = None;
    loop {
        let frame = next_frame(io)?;
        bytes.extend(frame.bytes());
        match frame.kind {
            Kind::SETTINGS | Kind::PING if frame.flags & Frame::ACK == 0 => {
                let payload = if frame.kind == Kind::PING { frame.payload } else { Vec::new() };
                io.write_all(&Frame::new(frame.kind, Frame::ACK, 0, payload).bytes())?;
                io.flush()?;
            }
            Kind::HEADERS | Kind(9) => {
                let stream = *opened.get_or_insert(frame.stream);
                if frame.flags & Frame::END_HEADERS != 0 {
                    return Ok((bytes, stream));
                }
            }
            _ => {}
        }
    }
}

fn next_frame(io: &mut (impl Read + ?Sized)) -> std::io::Result<Frame> {
    let mut header = [0; 9];
    io.read_exact(&mut header)?;
    let [a, b, c, kind, flags, stream @ ..] = header;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    io.read_exact(&mut payload)?;
    Ok(Frame::new(Kind(kind), flags, u32::from_be_bytes(stream) & 0x7FFF_FFFF, payload))
}
