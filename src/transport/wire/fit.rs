//! The last look at a request head, whoever wrote it. The protocol makes only heads that are fit; were that to fail, a
//! client would have forged a header.
//!
//! Each head is looked through whole, thirty-two bytes at a time.

use crate::transport::Written;
use crate::transport::head::is_text;

/// Whether `head` is a request line, so many headers and the empty line, and no byte of it can be taken for another's end.
pub(super) fn is_fit(head: &[u8], written: Written) -> bool {
    const METHOD: &[u8; 4] = b"GET ";
    const VERSION: &[u8; 11] = b" HTTP/1.1\r\n";
    // The request line, each header and the empty line end with CR LF; no other byte may be a control byte.
    let ends = 2 * (written.headers + 2);
    let Some((line, rest)) = head.split_at_checked(written.target_end) else { return false };
    let target = line.split_first_chunk().filter(|(method, _)| *method == METHOD).map(|(_, target)| target);
    target.is_some_and(is_graphic)
        && rest.first_chunk() == Some(VERSION)
        && rest.last_chunk() == Some(b"\r\n\r\n")
        && (controls(head) == ends || head.iter().filter(|&&byte| !is_text(byte)).count() == ends)
}

/// Visible ASCII only.
fn is_graphic(bytes: &[u8]) -> bool {
    let (blocks, last) = blocks(bytes);
    let mut other = [0; BLOCK];
    for block in blocks.iter().chain([&last]) {
        for place in 0..BLOCK {
            other[place] |= u8::from(block[place].wrapping_sub(b'!') > b'~' - b'!');
        }
    }
    other == [0; BLOCK]
}

/// How many control bytes there are: below space, or DEL.
fn controls(bytes: &[u8]) -> usize {
    let (blocks, last) = blocks(bytes);
    // So many blocks at once that no sum overflows its byte.
    let (first, others) = blocks.split_at(blocks.len().min(usize::from(u8::MAX) - 1));
    let mut sums = sums(first);
    add(&mut sums, &last);
    total(sums) + others.chunks(u8::MAX.into()).map(|blocks| total(self::sums(blocks))).sum::<usize>()
}

const BLOCK: usize = 32;

/// The last is filled up with what is fit. Without branches on a byte, so that the compiler makes it sixteen at a time.
#[inline]
fn blocks(bytes: &[u8]) -> (&[[u8; BLOCK]], [u8; BLOCK]) {
    let (blocks, rest) = bytes.as_chunks();
    let mut last = [b'a'; BLOCK];
    last[..rest.len()].copy_from_slice(rest);
    (blocks, last)
}

/// For each place in a block, in how many of them it holds a control byte.
#[inline]
fn sums(blocks: &[[u8; BLOCK]]) -> [u8; BLOCK] {
    let mut sums = [0; BLOCK];
    for block in blocks {
        add(&mut sums, block);
    }
    sums
}

#[inline]
fn add(sums: &mut [u8; BLOCK], block: &[u8; BLOCK]) {
    // The compiler does not see through a zip here.
    for place in 0..BLOCK {
        sums[place] += u8::from(block[place] < 0x20 || block[place] == 0x7F);
    }
}

#[inline]
fn total(sums: [u8; BLOCK]) -> usize {
    const EVEN: u64 = 0x00FF_00FF_00FF_00FF;
    const EACH: u64 = 0x0001_0001_0001_0001;
    let (words, _) = sums.as_chunks::<8>();
    let words = words.iter().map(|&word| u64::from_ne_bytes(word));
    let quarters = words.fold(0, |sum, word| sum + (word & EVEN) + (word >> 8 & EVEN));
    // The highest quarter of the product is the sum of all four.
    (quarters.wrapping_mul(EACH) >> 48) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With `line` as one header.
    fn fit(target: &[u8], line: &[u8]) -> bool {
        let head = [b"GET ", target, b" HTTP/1.1\r\nHost: h\r\n", line, b"\r\n\r\n"].concat();
        is_fit(&head, Written { headers: 2, target_end: b"GET ".len() + target.len() })
    }

    #[test]
    fn every_byte_is_judged_at_every_place_of_a_target() {
        for len in 1..70 {
            for at in 0..len {
                for byte in 0..=255_u8 {
                    let mut target = vec![b'a'; len];
                    target[at] = byte;
                    assert_eq!(fit(&target, b"A: b"), byte.is_ascii_graphic(), "{byte:#x} at {at} of {len}");
                }
            }
        }
    }

    #[test]
    fn every_byte_is_judged_at_every_place_of_a_header() {
        for len in 1..70 {
            for at in 0..len {
                for byte in 0..=255_u8 {
                    let mut line = vec![b'a'; len];
                    line[at] = byte;
                    assert_eq!(fit(b"/", &line), is_text(byte), "{byte:#x} at {at} of {len}");
                }
            }
        }
        let long = vec![b'\t'; 255 * 32 + 7];
        assert!(fit(b"/", &long));
        assert!(!fit(b"/", &vec![1; 256 * 32]), "no sum overflows");
    }

    #[test]
    fn control_bytes_are_counted_at_every_place_of_every_length() {
        for len in 0..100_usize {
            for at in 0..len {
                let mut bytes = vec![b'a'; len];
                (bytes[at], bytes[len - 1]) = (0x7F, b'\n');
                assert_eq!(controls(&bytes), if at == len - 1 { 1 } else { 2 }, "at {at} of {len}");
            }
        }
        assert_eq!(controls(&[b'\r'; 255 * 32 + 1]), 255 * 32 + 1, "no sum overflows");
    }

    #[test]
    fn a_head_is_whole_and_has_as_many_lines_as_were_said() {
        let head = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
        let written = Written { headers: 1, target_end: b"GET /a".len() };
        assert!(is_fit(head, written));
        for headers in [0, 2] {
            assert!(!is_fit(head, Written { headers, ..written }));
        }
        for target_end in (0..=head.len() + 1).filter(|&end| end != written.target_end) {
            assert!(!is_fit(head, Written { target_end, ..written }), "{target_end}");
        }
        for other in [
            &b"GET /a HTTP/1.0\r\nHost: h\r\n\r\n"[..],
            b"PUT /a HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /a HTTP/1.1\r\nHost: h\r\n\n\r",
            b"GET /a HTTP/1.1\r\n\r\nHost: h",
            b"",
        ] {
            assert!(!is_fit(other, written), "{}", other.escape_ascii());
        }
    }
}
