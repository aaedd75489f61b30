//! Looking for single bytes, eight at a time: each check is looked through, and most hold nothing to find.

/// Eight bytes, each with the same value.
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

const HIGH: u64 = each(0x80);

/// The high bit of each byte that is 0, and of some above it; no bit where none is 0.
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(each(1)) & !word & HIGH
}

/// No control byte: nothing below space and no DEL.
pub(super) fn is_plain(bytes: &[u8]) -> bool {
    none(
        bytes,
        |word| (word.wrapping_sub(each(0x20)) & !word & HIGH) | zeros(word ^ each(0x7F)),
        |byte| byte < 0x20 || byte == 0x7F,
    )
}

/// Neither of two bytes.
pub(super) fn lacks(bytes: &[u8], one: u8, other: u8) -> bool {
    none(
        bytes,
        |word| zeros(word ^ each(one)) | zeros(word ^ each(other)),
        |byte| byte == one || byte == other,
    )
}

/// Whether `found` is 0 for all the bytes, taken as words, and `is` false for those of a text shorter than a word.
fn none(bytes: &[u8], found: impl Fn(u64) -> u64, is: impl Fn(u8) -> bool) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    if words.is_empty() {
        return !rest.iter().any(|&byte| is(byte));
    }
    let all = words.iter().fold(0, |all, &word| all | found(u64::from_ne_bytes(word)));
    // The last word again, with the rest: looking twice is cheaper than byte by byte.
    let last = bytes.last_chunk::<8>().expect("there is a whole word");
    all | found(u64::from_ne_bytes(*last)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_found_at_every_place_of_every_length() {
        for len in 1..40 {
            for at in 0..len {
                for byte in 0..=255 {
                    let mut bytes = vec![b'a'; len];
                    bytes[at] = byte;
                    let plain = byte >= 0x20 && byte != 0x7F;
                    assert_eq!(is_plain(&bytes), plain, "{byte:#x} at {at} of {len}");
                    assert_eq!(
                        lacks(&bytes, b'#', 0xFF),
                        byte != b'#' && byte != 0xFF,
                        "{byte:#x} at {at} of {len}"
                    );
                }
            }
        }
        assert!(is_plain(b"") && lacks(b"", 0, 1));
    }

    #[test]
    fn bytes_next_to_each_other_hide_nothing() {
        for first in 0..=255u8 {
            for second in 0..=255u8 {
                let bytes = [b'a', b'a', first, second, b'a', b'a', b'a', b'a', first];
                let plain = |byte: u8| byte >= 0x20 && byte != 0x7F;
                assert_eq!(is_plain(&bytes), plain(first) && plain(second), "{first:#x} {second:#x}");
                let is = |byte: u8| byte == b'%' || byte == b'?';
                assert_eq!(lacks(&bytes, b'%', b'?'), !is(first) && !is(second), "{first:#x} {second:#x}");
            }
        }
    }
}
