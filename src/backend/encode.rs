//! Percent-encoding, both ways.
//!
//! Encoding has two strengths: values that we put into a parameter keep nothing but unreserved bytes, so
//! that they can neither end the parameter nor be read in two ways; bytes of the client's query stay as they
//! are unless no request target may hold them.

/// Which bytes stay as they are.
pub(super) type Plain = [bool; 256];

/// RFC 3986 section 2.3.
pub(super) const UNRESERVED: Plain = plain(b"-._~", false);

/// What may stand in a request target. More than RFC 3986 allows: brackets and the like are everywhere in
/// real queries, and servers take them.
pub(super) const TARGET: Plain = plain(b"\"#<>\\^`{|}", true);

/// Letters and digits with `extra`, or all visible ASCII without it.
const fn plain(extra: &[u8], without: bool) -> Plain {
    let mut set = [false; 256];
    let mut byte = 0x21;
    while byte < 0x7F {
        set[byte] = without || (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut index = 0;
    while index < extra.len() {
        set[extra[index] as usize] = !without;
        index += 1;
    }
    set
}

/// Appends `bytes`; those that are not plain as `%XX`.
pub(super) fn push_encoded(out: &mut Vec<u8>, bytes: &[u8], plain: &Plain) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    // Nearly always: found out without a branch for each byte.
    if bytes.iter().fold(true, |all, &byte| all & plain[usize::from(byte)]) {
        return out.extend_from_slice(bytes);
    }
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|&byte| !plain[usize::from(byte)]) {
        let byte = usize::from(rest[at]);
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(&[b'%', DIGITS[byte >> 4], DIGITS[byte & 15]]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// As most servers read a query: `%XX` is a byte, `+` a space, and a `%` without two digits itself.
pub(super) fn form_decoded(raw: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let mut rest = raw;
    std::iter::from_fn(move || {
        let (&first, tail) = rest.split_first()?;
        if first == b'%'
            && let Some(byte) = hex(tail, 2)
        {
            rest = &tail[2..];
            return Some(byte as u8);
        }
        rest = tail;
        Some(if first == b'+' { b' ' } else { first })
    })
}

/// The number in the first `digits` bytes, if they are all hexadecimal digits.
pub(super) fn hex(bytes: &[u8], digits: usize) -> Option<u32> {
    bytes
        .get(..digits)?
        .iter()
        .try_fold(0, |number, &byte| Some(number * 16 + char::from(byte).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(bytes: &[u8], plain: &Plain) -> String {
        let mut out = Vec::new();
        push_encoded(&mut out, bytes, plain);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_byte_is_plain_exactly_where_the_protocol_says_so() {
        for byte in 0..=255u8 {
            let may_stand = (0x21..=0x7E).contains(&byte) && !b"\"#<>\\^{|}`".contains(&byte);
            let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            for (set, stays) in [(&TARGET, may_stand), (&UNRESERVED, unreserved)] {
                let written = encoded(&[b'a', byte, b'b'], set);
                let expected =
                    if stays { format!("a{}b", char::from(byte)) } else { format!("a%{byte:02X}b") };
                assert_eq!(written, expected, "{byte:#x}");
            }
        }
    }

    #[test]
    fn one_byte_that_is_not_plain_is_found_at_every_place_of_every_length() {
        for len in 1..40 {
            for at in 0..len {
                let mut bytes = vec![b'a'; len];
                bytes[at] = b'\\';
                let expected: String =
                    bytes.iter().map(|byte| if *byte == b'a' { "a" } else { "%5C" }).collect();
                assert_eq!(encoded(&bytes, &TARGET), expected);
            }
        }
    }

    #[test]
    fn what_was_encoded_decodes_to_itself() {
        let all: Vec<u8> = (0..=255).collect();
        let written = encoded(&all, &UNRESERVED);
        assert_eq!(form_decoded(written.as_bytes()).collect::<Vec<_>>(), all);
    }

    #[test]
    fn a_percent_sign_without_two_digits_is_itself() {
        for (raw, decoded) in
            [("%", "%"), ("%4", "%4"), ("%zz", "%zz"), ("%%41", "%A"), ("a+b%2B", "a b+"), ("%+1", "% 1")]
        {
            assert_eq!(form_decoded(raw.as_bytes()).collect::<Vec<_>>(), decoded.as_bytes(), "{raw}");
        }
    }
}
