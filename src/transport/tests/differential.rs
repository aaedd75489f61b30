//! The lanes of HTTP/1.1 beside each other: the same bytes, mutated at random, in pieces cut at random. Where both take
//! them for a reply, it is the same reply; where one does not, neither does the other. Of bodies the wire lane may be the
//! stricter reader: then it closes the connection, or finds the body cut. The same lane with pipelining makes of each what it
//! makes of it without.
//!
//! `ALTA_AUTH_MUTATIONS` sets how many replies are tried, `ALTA_AUTH_SEED` where the random numbers begin.

use std::env;
use std::fmt::Write as _;

use super::super::fuzzing::{Made, outcome, worlds};
use super::*;

/// What replies are made from. Most are faultless, so that mutations come close to what is.
const SEEDS: &[&[u8]] = &[
    OK_EMPTY,
    OK_CHUNKED,
    b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX-UserId: u\r\nX-AuthDuration: 60\r\nConnection: close\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.0 404 Not Found\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 302 Found\r\nLocation: http://a/b\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200\nA:b\nContent-Length: 1\n\nx",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n00\r\nTrailer: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
];

/// What is put in.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\0",
    b"\x7f",
    b"\x80",
    b"\xff",
    b":",
    b";",
    b",",
    b"0",
    b"1",
    b"9",
    b"a",
    b"-",
    b"+",
    b"x",
    b"\r\n\r\n",
    b"HTTP/1.1 ",
    b"HTTP/1.0 ",
    b"HTTP/2 ",
    b"101",
    b"200",
    b"204",
    b"304",
    b"403",
    b"599",
    b"99",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n",
    b"content-length:5\r\n",
    b"Content-Length: 0, 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"transfer-encoding: gzip, chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"connection: x, close\r\n",
    b"Connection: upgrade\r\n",
    b"Upgrade: h2c\r\n",
    b" folded\r\n",
    b"A: b\r\n",
    b"A : b\r\n",
    b": b\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"ffffffffffffffff",
    b"18446744073709551615",
    b"chunked",
    b"close",
];

/// splitmix64
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn reply(&mut self) -> Vec<u8> {
        let mut bytes = self.one_of(SEEDS).to_vec();
        // None in a quarter of them: what is faultless is in the table too.
        for _ in 0..self.below(4) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(12)).min(bytes.len());
            match self.below(6) {
                0 => drop(bytes.drain(at..end)),
                1 | 2 => drop(bytes.splice(at..at, self.one_of(WORDS).iter().copied())),
                3 => drop(bytes.splice(at..end, self.one_of(WORDS).iter().copied())),
                4 => {
                    // At the beginning of a line, where words of a header do something.
                    let line =
                        bytes[at..].iter().position(|&byte| byte == b'\n').map_or(at, |line| at + line + 1);
                    bytes.splice(line..line, self.one_of(WORDS).iter().copied());
                }
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << (self.0 % 8);
                    }
                }
            }
        }
        bytes
    }

    /// Where it is cut: nowhere, at some places, or everywhere.
    fn cuts(&mut self, len: usize) -> Vec<usize> {
        let mut cuts: Vec<usize> = match self.below(8) {
            0 => (1..len).collect(),
            1..=3 => (0..self.below(4)).map(|_| self.below(len)).collect(),
            _ => Vec::new(),
        };
        cuts.sort_unstable();
        cuts.push(len);
        cuts
    }
}

fn from_environment(name: &str, or: u64) -> u64 {
    env::var(name).map_or(or, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[tokio::test(start_paused = true)]
async fn no_reply_is_read_differently_by_the_two_lanes() {
    let (mutations, seed) =
        (from_environment("ALTA_AUTH_MUTATIONS", 2_000), from_environment("ALTA_AUTH_SEED", 1));
    local(async {
        let mut lanes = worlds();
        let (mut replies, mut differing) = (0, String::new());
        for number in 0..mutations {
            let mut random = Random(seed ^ number.rotate_left(32));
            let reply = random.reply();
            let (cuts, judged_by_body) = (random.cuts(reply.len()), random.below(2) == 0);
            let [hyper, wire, shared] = &mut lanes;
            let hyper = outcome(hyper, &reply, &cuts, judged_by_body).await;
            let wire = outcome(wire, &reply, &cuts, judged_by_body).await;
            let shared = outcome(shared, &reply, &cuts, judged_by_body).await;
            replies += u64::from(matches!(wire.made, Made::Reply { .. }));
            if !hyper.agrees_with(&wire) || shared != wire {
                let shown = reply.escape_ascii();
                let _ = writeln!(
                    differing,
                    "{number}: {shown} cut at {cuts:?}\n  hyper: {hyper:?}\n  wire:  {wire:?}\n  piped: {shared:?}"
                );
                assert!(differing.len() < 10_000, "\n{differing}");
            }
        }
        assert!(differing.is_empty(), "\n{differing}");
        assert!(replies > mutations / 8, "only {replies} of {mutations} were replies: nothing is compared");
        eprintln!("{mutations} replies, {replies} of them taken by both");
    })
    .await;
}
