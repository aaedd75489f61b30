//! Looking for single bytes: each check is looked through, and most hold nothing to find.
//!
//! These loops have no way out before their end, so that the compiler makes vector instructions of them (of SSE2, which every
//! x86-64 has); a text is padded, so that nothing is left over for a loop byte by byte.

/// What is looked at together: so many bytes follow a text that is padded.
pub(super) const WIDTH: usize = 16;

/// Below space, or DEL.
fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7F
}

/// No control byte: nothing below space and no DEL.
pub(super) fn is_plain(bytes: &[u8]) -> bool {
    !bytes.iter().fold(false, |found, &byte| found | is_control(byte))
}

/// The same, and not this byte either.
pub(super) fn is_plain_without(bytes: &[u8], other: u8) -> bool {
    let is = |byte| is_control(byte) || byte == other;
    !bytes.iter().fold(false, |found, &byte| found | is(byte))
}

/// The same, and nothing beyond ASCII: in less time. `padded`: the text, and [`WIDTH`] bytes more that are plain.
pub(super) fn is_plain_ascii_without(padded: &[u8], other: u8) -> bool {
    // DEL is 0 then, what is beyond it follows, then what is below space, then the rest.
    const SPACE: u8 = b' '.wrapping_sub(0x7F);
    let rank = |byte: u8| byte.wrapping_sub(0x7F).min((byte ^ other).saturating_add(SPACE - 1));
    let whole = padded.as_chunks::<WIDTH>().0.as_flattened();
    whole.iter().fold(u8::MAX, |least, &byte| least.min(rank(byte))) >= SPACE
}

/// The least that `of` makes of a byte of a text and the one before it. `padded`: one byte, the text, and [`WIDTH`] more,
/// some of which are seen too.
pub(super) fn least_of_pairs(padded: &[u8], of: impl Fn(u8, u8) -> u8) -> u8 {
    let text = padded.get(1..).unwrap_or_default();
    let text = text.as_chunks::<WIDTH>().0.as_flattened();
    let before = &padded[..text.len()];
    let mut least = u8::MAX;
    for at in 0..text.len() {
        least = least.min(of(before[at], text[at]));
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With what it must be padded with.
    fn padded(text: &[u8]) -> Vec<u8> {
        [text, &[b' '; WIDTH]].concat()
    }

    #[test]
    fn every_byte_is_found_at_every_place_of_every_length() {
        for len in 1..70 {
            for at in 0..len {
                for byte in 0..=255 {
                    let mut bytes = vec![b'a'; len];
                    bytes[at] = byte;
                    let plain = byte >= 0x20 && byte != 0x7F;
                    assert_eq!(is_plain(&bytes), plain, "{byte:#x} at {at} of {len}");
                    let plain = plain && byte != b'#';
                    assert_eq!(is_plain_without(&bytes, b'#'), plain, "{byte:#x} at {at} of {len}");
                    let (plain, bytes) = (plain && byte.is_ascii(), padded(&bytes));
                    assert_eq!(is_plain_ascii_without(&bytes, b'#'), plain, "{byte:#x} at {at} of {len}");
                }
            }
        }
        assert!(is_plain(b"") && is_plain_without(b"", b'#') && is_plain_ascii_without(b"", b'#'));
    }

    #[test]
    fn every_pair_is_found_at_every_place_of_every_length() {
        for len in 1..70 {
            for at in 0..len {
                let mut bytes = vec![b'/'; 1 + len];
                bytes[at..][..2].copy_from_slice(b"ab");
                let is = |one, other| move |before, byte| (before ^ one) | (byte ^ other);
                assert_eq!(least_of_pairs(&padded(&bytes), is(b'a', b'b')), 0, "at {at} of {len}");
                assert_ne!(least_of_pairs(&padded(&bytes), is(b'b', b'a')), 0, "at {at} of {len}");
            }
        }
        assert_eq!(least_of_pairs(b"", |_, _| 0), u8::MAX);
    }
}
