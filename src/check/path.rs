//! Path spellings that a host resolves and a backend does not, or the other way round.
//!
//! `/public/..%2fpaid/index.m3u8` asks about one path and serves another. With `path.check = on` such a path
//! never becomes a question: `path` is what the host will serve, after its own normalisation.

use super::scan;

/// How often a path is percent-decoded in search of a hidden spelling: hosts decode once, proxies twice.
const DECODINGS: usize = 2;

/// Whether a path needs [`unambiguous`]: one of these signs, or a segment that begins with a dot; most have neither.
/// `padded`: some byte, the path, and [`scan::WIDTH`] bytes more. What is around a path can make it suspicious, never
/// the other way round.
pub(super) fn is_suspicious(padded: &[u8]) -> bool {
    let sign = |byte: u8| (byte ^ b'%').min(byte ^ b'?').min(byte ^ b'#').min(byte ^ b'\\');
    let dotted = |before: u8, byte: u8| (before ^ b'/') | (byte ^ b'.');
    padded.get(1) == Some(&b'.')
        || scan::least_of_pairs(padded, |before, byte| sign(byte).min(dotted(before, byte))) == 0
}

/// `Err` names what makes the path ambiguous.
pub(super) fn unambiguous(path: &[u8]) -> Result<(), &'static str> {
    literal(path)?;
    if !path.contains(&b'%') {
        return Ok(());
    }
    let mut decoded = path.to_vec();
    for _ in 0..DECODINGS {
        decoded = overlong_as_ascii(&percent_decoded(&decoded));
        literal(&decoded)?;
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

/// `C0 AE` is no UTF-8, but lenient decoders read it as `.`.
fn overlong_as_ascii(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail.first()) {
            (0xC0 | 0xC1, Some(&second)) if second & 0xC0 == 0x80 => {
                out.push((first & 1) << 6 | (second & 0x3F));
                rest = &tail[1..];
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_spellings() {
        let refused: [&str; 42] = [
            "/a?b",
            "/a#b",
            "/a\\b",
            "/a%3fb",
            "/a%3Fb",
            "/a%23b",
            "/a%5cb",
            "/a%5Cb",
            "/a%253fb",
            "/a%255cb",
            "/a%2523b",
            "..",
            ".",
            "/..",
            "/.",
            "/../a",
            "/./a",
            "/a/..",
            "/a/.",
            "/a/../b",
            "/a/./b",
            "../a",
            "./a",
            "/%2e%2e/a",
            "/%2E%2E/a",
            "/.%2e/a",
            "/%2e./a",
            "/%2e/a",
            "/a/%2e%2e",
            "/a/..%2fb",
            "/a%2f..%2fb",
            "/a%2f../b",
            "/a/%252e%252e/b",
            "/a/..%252fb",
            "/a/..;/b",
            "/a/..;x=1/b",
            "/a/.;/b",
            "/a/%c0%ae%c0%ae/b",
            "/a/..%c0%afb",
            "/a%c1%9cb",
            "/a/%2e%2e%3bx/b",
            "/a%5c..%5cb",
        ];
        let accepted: [&str; 20] = [
            "",
            "/",
            "/ch/index.m3u8",
            "ch/index.m3u8",
            "/ch/...",
            "/ch/.hidden",
            "/ch/a..b",
            "/ch/..a",
            "/ch/a..",
            "/ch/%20x",
            "/ch/100%",
            "/ch/%zz",
            "/ch/%2",
            "/ch/%d0%9f.ts",
            "/ch/\u{43f}.ts",
            "//ch//x",
            "/ch/a;b=1",
            "/ch/%41",
            "/ch/a%2fb",
            "/ch/%e2%80%a6",
        ];
        for path in refused {
            assert!(unambiguous(path.as_bytes()).is_err(), "{path}");
        }
        for path in accepted {
            assert_eq!(unambiguous(path.as_bytes()), Ok(()), "{path}");
        }
    }
}
