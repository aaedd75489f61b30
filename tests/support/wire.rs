//! A client of bare bytes, to show what a server itself sends and when it closes.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::PATIENCE;

/// What an HTTP/2 client sends first: the preface, and SETTINGS without a setting.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// One connection.
pub(crate) struct Wire(TcpStream);

impl Wire {
    pub(crate) fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Sends a plain GET of this target.
    pub(crate) fn ask(&mut self, target: &str) {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes());
    }

    /// All that comes, up to and with `end`, which must be the last of it.
    #[track_caller]
    pub(crate) fn read_to(&mut self, end: &str) -> String {
        let mut received = Vec::new();
        while !received.ends_with(end.as_bytes()) {
            let mut piece = [0; 4096];
            let count = self.0.read(&mut piece).unwrap();
            assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&received));
            received.extend_from_slice(&piece[..count]);
        }
        String::from_utf8(received).unwrap()
    }

    /// All that comes until the server closes.
    #[track_caller]
    pub(crate) fn read_to_close(&mut self) -> Vec<u8> {
        let mut received = Vec::new();
        match self.0.read_to_end(&mut received) {
            // The server closed with bytes of ours unread.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            outcome => drop(outcome.unwrap()),
        }
        received
    }
}
