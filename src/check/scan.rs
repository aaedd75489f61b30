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

/// How many control bytes there are: below space, or DEL.
pub(crate) fn controls(bytes: &[u8]) -> usize {
    const LOW: u64 = each(0x7F);
    // 1 in each byte that is one, without a carry into its neighbour.
    let ones = |word: u64| {
        let low = word & LOW;
        let below = !((low + each(0x60)) | word);
        let del = !((((word ^ each(0x7F)) & LOW) + LOW) | word);
        ((below | del) & HIGH) >> 7
    };
    let (words, rest) = bytes.as_chunks::<8>();
    // So many that no byte of the sum overflows.
    let sums = words.chunks(255).map(|words| {
        let sum = words.iter().fold(0, |sum, &word| sum + ones(u64::from_ne_bytes(word)));
        sum.to_ne_bytes().into_iter().map(usize::from).sum::<usize>()
    });
    sums.sum::<usize>() + rest.iter().filter(|&&byte| byte < 0x20 || byte == 0x7F).count()
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
    fn control_bytes_are_counted_at_every_place_of_every_length() {
        for len in 0..40_usize {
            for at in 0..len {
                for byte in 0..=255 {
                    let mut bytes = vec![b'a'; len];
                    bytes[at] = byte;
                    bytes[len - 1] = b'\n';
                    let count = bytes.iter().filter(|byte| byte.is_ascii_control()).count();
                    assert_eq!(controls(&bytes), count, "{byte:#x} at {at} of {len}");
                }
            }
        }
        assert_eq!(controls(&[b'\r'; 5000]), 5000, "no sum overflows");
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(controls(&all), 33);
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
