//! Path spellings that a host resolves and a backend does not, or the other way round.
//!
//! `/public/..%2fpaid/index.m3u8` asks about one path and serves another. With `path.check = on` such a path
//! never becomes a question: `path` is what the host will serve, after its own normalisation.

use super::scan;

/// How often a path is percent-decoded in search of a hidden spelling: hosts decode once, proxies twice.
const DECODINGS: usize = 2;

/// Whether a path needs [`unambiguous`]: one of these signs, or a segment that begins with a dot; most have neither.
/// `padded`: some byte, the path, and [`scan::WIDTH`] bytes more. What is around a path can make it suspicious, never
/// the other way round. Of what is not ASCII, see [`may_be_overlong`].
pub(super) fn is_suspicious(padded: &[u8]) -> bool {
    let sign = |byte: u8| (byte ^ b'%').min(byte ^ b'?').min(byte ^ b'#').min(byte ^ b'\\');
    let dotted = |before: u8, byte: u8| (before ^ b'/') | (byte ^ b'.');
    padded.get(1) == Some(&b'.')
        || scan::least_of_pairs(padded, |before, byte| sign(byte).min(dotted(before, byte))) == 0
}

/// Whether a path needs [`unambiguous`] for what [`overlong_as_ascii`] might find.
pub(super) fn may_be_overlong(path: &[u8]) -> bool {
    path.iter().any(|byte| matches!(byte, 0xC0 | 0xC1 | 0xE0 | 0xF0))
}

/// `Err` names what makes the path ambiguous.
pub(super) fn unambiguous(path: &[u8]) -> Result<(), &'static str> {
    literal(path)?;
    if !path.contains(&b'%') && !may_be_overlong(path) {
        return Ok(());
    }
    let mut decoded = overlong_as_ascii(path);
    literal(&decoded)?;
    for _ in 0..DECODINGS {
        decoded = overlong_as_ascii(&percent_decoded(&decoded));
        literal(&decoded)?;
    }
    // Where a host in C stops to read. A plain one is refused in every field.
    if decoded.contains(&0) && !path.contains(&0) {
        return Err("an encoded NUL");
    }
    Ok(())
}

fn literal(path: &[u8]) -> Result<(), &'static str> {
    if path.iter().any(|&byte| matches!(byte, b'?' | b'#' | b'\\')) {
        return Err("'?', '#' or '\\', plain or percent-encoded");
    }
    let dot = |segment: &[u8]| {
        // `..;a=1` is `..` to servers that know path parameters.
        let name = segment.split(|&byte| byte == b';').next().unwrap_or_default();
        name == b"." || name == b".."
    };
    if path.split(|&byte| byte == b'/').any(dot) {
        return Err("a '.' or '..' segment, plain or percent-encoded");
    }
    Ok(())
}

fn percent_decoded(raw: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%'
            && let (Some(high), Some(low)) = (digit(tail.first()), digit(tail.get(1)))
        {
            out.push((high * 16 + low) as u8);
            rest = &tail[2..];
        } else {
            out.push(first);
            rest = tail;
        }
    }
    out
}

/// `C0 AE`, `E0 80 AE` and `F0 80 80 AE` are no UTF-8, but lenient decoders read them as `.`.
fn overlong_as_ascii(raw: &[u8]) -> Vec<u8> {
    let ascii = |high: u8, low: u8| (high & 1) << 6 | (low & 0x3F);
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&first, tail)) = rest.split_first() {
        let (byte, len) = match *rest {
            [high @ (0xC0 | 0xC1), low @ 0x80..=0xBF, ..] => (ascii(high, low), 2),
            [0xE0, high @ (0x80 | 0x81), low @ 0x80..=0xBF, ..] => (ascii(high, low), 3),
            [0xF0, 0x80, high @ (0x80 | 0x81), low @ 0x80..=0xBF, ..] => (ascii(high, low), 4),
            _ => (first, 1),
        };
        out.push(byte);
        rest = &tail[len - 1..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eighty_spellings() {
        let refused: [&[u8]; 56] = [
            b"/a?b",
            b"/a#b",
            b"/a\\b",
            b"/a%3fb",
            b"/a%3Fb",
            b"/a%23b",
            b"/a%5cb",
            b"/a%5Cb",
            b"/a%253fb",
            b"/a%255cb",
            b"/a%2523b",
            b"..",
            b".",
            b"/..",
            b"/.",
            b"/../a",
            b"/./a",
            b"/a/..",
            b"/a/.",
            b"/a/../b",
            b"/a/./b",
            b"../a",
            b"./a",
            b"/%2e%2e/a",
            b"/%2E%2E/a",
            b"/.%2e/a",
            b"/%2e./a",
            b"/%2e/a",
            b"/a/%2e%2e",
            b"/a/..%2fb",
            b"/a%2f..%2fb",
            b"/a%2f../b",
            b"/a/%252e%252e/b",
            b"/a/..%252fb",
            b"/a/..;/b",
            b"/a/..;x=1/b",
            b"/a/.;/b",
            b"/a/%c0%ae%c0%ae/b",
            b"/a/..%c0%afb",
            b"/a%c1%9cb",
            b"/a/%2e%2e%3bx/b",
            b"/a%5c..%5cb",
            // As lenient decoders read what is no UTF-8, encoded or not.
            b"/a/\xc0\xae\xc0\xae/b",
            b"/a/\xc0\xae",
            b"/a/..\xc0\xafb",
            b"/a\xc1\x9cb",
            b"/a/\xe0\x80\xae\xe0\x80\xae/b",
            b"/a/\xf0\x80\x80\xae/b",
            b"/a/%e0%80%ae/b",
            b"/a/%f0%80%80%ae/b",
            b"/a/\xc0%ae/b",
            b"/a/\xc0\xa52e/b",
            // A host in C reads no further than this.
            b"/a/..%00/b",
            b"/a/b.ts%00.m3u8",
            b"/a/%2500/b",
            b"/a/\xc0\x80",
        ];
        let accepted: [&[u8]; 27] = [
            b"",
            b"/",
            b"/ch/index.m3u8",
            b"ch/index.m3u8",
            b"/ch/...",
            b"/ch/.hidden",
            b"/ch/a..b",
            b"/ch/..a",
            b"/ch/a..",
            b"/ch/%20x",
            b"/ch/100%",
            b"/ch/%zz",
            b"/ch/%2",
            b"/ch/%d0%9f.ts",
            b"/ch/\xd0\xbf.ts",
            b"//ch//x",
            b"/ch/a;b=1",
            b"/ch/%41",
            b"/ch/a%2fb",
            b"/ch/%e2%80%a6",
            // Other bytes that begin so, of whatever encoding.
            b"/ch/\xc0",
            b"/ch/\xc0\xe5",
            b"/ch/\xc0\xb8.ts",
            b"/ch/\xe0\xa4\x85.ts",
            b"/ch/\xe0\x80",
            b"/ch/\xf0\x9f\x98\x80.ts",
            b"/ch/%e0%a4%85.ts",
        ];
        for path in refused {
            assert!(unambiguous(path).is_err(), "{}", path.escape_ascii());
        }
        for path in accepted {
            assert_eq!(unambiguous(path), Ok(()), "{}", path.escape_ascii());
        }
    }
}
