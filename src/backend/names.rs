//! Which of the client's parameters a backend might take for one of the operator's.
//!
//! Nobody knows how the backend reads a name: PHP makes `api_key` of `api.key`, `+api[key` and `api_key[x]`;
//! Rack 2 makes `ip` of `[ip]`, `]ip` and `ip]x`, qs (Express 4) of `[ip]`, and of `.ip` where dots are allowed;
//! a proxy may decode before the backend does; ASP reads `%u0069p` as `ip`. So a name has *readings*, and a
//! client's parameter is dropped when one of its readings is one of a protected name's. The readings are, of
//! the name as it is, decoded once, and decoded twice (`%XX`, `%uXXXX`, `+`):
//! without space, control bytes and `?` before it, and without `[`, `]` and `.` as well; cut at NUL; whole, or up to
//! `[`, with or without `]` and `.` as ends too; with and without space after it; `.`, `[` and space as `_`; ASCII
//! case ignored.
//!
//! A name that parsers disagree about in ways that cannot be listed is dropped as soon as any name is
//! protected: a `%` that introduces nothing (left alone, dropped, decoded as rubbish, or the end of the
//! request), one that is left after two decodings, and any byte beyond ASCII (what it is depends on the
//! backend's character set, and best-fit tables and case folding make ASCII letters of many). Likewise a
//! pair with a raw `;`, which old parsers take for a separator.
//!
//! A proxy that decodes the query and passes it on makes a separator of `%26` and `%3B`, in a value too, and of `%3D` in a name:
//! `token=1%26ip=2` is two pairs to whoever is behind it, and is dropped if the name of one of them is a protected one. That its
//! name is one that parsers disagree about is not enough: of random bytes, encoded, every fourth token would go.
//!
//! Of a client's name only the second decoding is compared, with all three of a protected one: what is equal
//! before a decoding is equal after it.
//!
//! Better one harmless parameter dropped than one forged. With no protected name nothing is ever dropped.

use std::borrow::Cow;

use super::encode::hex;

/// A proxy decodes, and the backend again.
const DECODINGS: usize = 2;

/// The readings of every protected name, folded. An empty reading protects nothing: no backend asks for it.
#[derive(Default)]
pub(super) struct Protected {
    readings: Vec<Box<[u8]>>,
}

impl Protected {
    pub(super) fn add(&mut self, name: &[u8]) {
        let mut level = Some(name.to_vec());
        for _ in 0..=DECODINGS {
            let Some(name) = level else { return };
            each_part(&name, |reading| {
                let folded: Box<[u8]> = reading.iter().copied().map(fold).collect();
                if !folded.is_empty() && !self.readings.contains(&folded) {
                    self.readings.push(folded);
                }
                false
            });
            level = decoded(&name);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.readings.is_empty()
    }

    /// Whether a pair of the client's query has to go.
    pub(super) fn forbids(&self, pair: &[u8]) -> bool {
        if self.is_empty() {
            return false;
        }
        let mut has_one_reading = true;
        let mut name_len = pair.len();
        for (at, &byte) in pair.iter().enumerate() {
            if byte == b'=' && name_len == pair.len() {
                name_len = at;
            } else if byte == b';' {
                return true;
            }
            has_one_reading &= name_len != pair.len() || SINGLE[usize::from(byte)];
        }
        let (name, value) = pair.split_at(name_len);
        if has_one_reading {
            return self.is_one(name) || (may_be_cut(value) && self.hidden_in(pair));
        }
        let is_cut = || name.contains(&b'%') || may_be_cut(value);
        self.is_read(name) || (is_cut() && self.hidden_in(pair))
    }

    /// Whether what a proxy makes of the pair holds one with a protected name.
    fn hidden_in(&self, pair: &[u8]) -> bool {
        readings(pair).skip(1).any(|level| {
            level
                .split(|byte| b"&;".contains(byte))
                .any(|part| self.is_named(up_to(part, |byte| byte == b'=')))
        })
    }

    /// Whether a name is a protected one before or after a decoding, whatever else it might be.
    fn is_named(&self, name: &[u8]) -> bool {
        if name.iter().all(|&byte| SINGLE[usize::from(byte)]) {
            return self.is_one(name);
        }
        let mut level = Cow::Borrowed(name);
        (0..DECODINGS).any(|_| {
            let is_one = self.is_any_of(&level);
            level = Cow::Owned(passed_on(&level));
            is_one
        }) || self.is_any_of(&level)
    }

    /// Of a name that has one reading.
    fn is_one(&self, name: &[u8]) -> bool {
        self.readings.iter().any(|reading| reading.eq_ignore_ascii_case(name))
    }

    fn is_read(&self, name: &[u8]) -> bool {
        let Some(decoded) = decoded(name).and_then(|once| decoded(&once)) else { return true };
        decoded.iter().any(|&byte| byte == b'%' || !byte.is_ascii()) || self.is_any_of(&decoded)
    }

    /// Of a name that is decoded already.
    fn is_any_of(&self, name: &[u8]) -> bool {
        each_part(name, |reading| {
            self.readings.iter().any(|protected| {
                protected.len() == reading.len()
                    && protected.iter().zip(reading).all(|(&protected, &byte)| protected == fold(byte))
            })
        })
    }
}

/// Bytes that every parser reads as themselves, but for case.
const SINGLE: [bool; 256] = {
    let mut single = [false; 256];
    let mut byte = 0x21;
    while byte < 0x7F {
        single[byte] = !matches!(byte as u8, b'%' | b'+' | b'.' | b'[' | b']' | b'?');
        byte += 1;
    }
    single
};

fn fold(byte: u8) -> u8 {
    match byte {
        b'.' | b'[' | b' ' | b'+' => b'_',
        _ => byte.to_ascii_lowercase(),
    }
}

/// Calls `matches` with the readings of a decoded name, before folding, until it says true.
fn each_part(name: &[u8], mut matches: impl FnMut(&[u8]) -> bool) -> bool {
    let blank = |byte: u8| byte <= b' ' || byte == 0x7F || byte == b'+';
    let begins = |others: &'static [u8]| {
        let start = name.iter().position(|&byte| !blank(byte) && byte != b'?' && !others.contains(&byte));
        up_to(&name[start.unwrap_or(name.len())..], |byte| byte == 0)
    };
    [begins(b""), begins(b"[].")].into_iter().any(|whole| {
        [&b""[..], b"[", b"[.", b"[]", b"[]."].into_iter().any(|ends| {
            let part = up_to(whole, |byte| ends.contains(&byte));
            let end = part.iter().rposition(|&byte| !blank(byte)).map_or(0, |last| last + 1);
            matches(part) || (end < part.len() && matches(&part[..end]))
        })
    })
}

fn up_to(name: &[u8], stop: impl Fn(u8) -> bool) -> &[u8] {
    &name[..name.iter().position(|&byte| stop(byte)).unwrap_or(name.len())]
}

/// `None`: parsers disagree about what this is.
fn decoded(name: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&first, tail)) = rest.split_first() {
        let (byte, len) = match (first, tail.first()) {
            (b'%', Some(b'u' | b'U')) => (u8::try_from(hex(&tail[1..], 4)?).ok()?, 6),
            (b'%', _) => (hex(tail, 2)? as u8, 3),
            (b'+', _) => (b' ', 1),
            _ => (first, 1),
        };
        out.push(byte);
        rest = &rest[len..];
    }
    Some(out)
}

/// Whether a separator may come out of this by decoding it: it holds one that is encoded, or a `%` that is, or that
/// introduces nothing.
fn may_be_cut(value: &[u8]) -> bool {
    let mut escapes = value.split(|&byte| byte == b'%').skip(1);
    escapes.any(|escape| hex(escape, 2).is_none_or(|byte| matches!(byte as u8, b'&' | b';' | b'%')))
}

/// The query as it is, and as proxies that decode it pass it on.
pub(super) fn readings(query: &[u8]) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let decode = |level: &Cow<'_, [u8]>| {
        let may_change = level.iter().any(|byte| b"%+".contains(byte));
        may_change.then(|| Cow::Owned(passed_on(level)))
    };
    std::iter::successors(Some(Cow::Borrowed(query)), decode).take(1 + DECODINGS)
}

/// As whoever decodes a whole query and asks for nothing: what introduces nothing stays.
fn passed_on(query: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(query.len());
    let mut rest = query;
    while let Some(&first) = rest.first() {
        let escape = match (first, rest.get(1)) {
            // What is beyond a byte is no separator, and nobody knows the name that it is in.
            (b'%', Some(b'u' | b'U')) => {
                hex(&rest[2..], 4).map(|of| (u8::try_from(of).unwrap_or(u8::MAX), 6))
            }
            (b'%', _) => hex(&rest[1..], 2).map(|byte| (byte as u8, 3)),
            (b'+', _) => Some((b' ', 1)),
            _ => None,
        };
        let (byte, len) = escape.unwrap_or((first, 1));
        out.push(byte);
        rest = &rest[len..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protected(names: &[&str]) -> Protected {
        let mut protected = Protected::default();
        for name in names {
            protected.add(name.as_bytes());
        }
        protected
    }

    #[test]
    fn each_way_to_write_a_protected_name_is_seen() {
        let protected = protected(&["ip", "api_key", "User.Name"]);
        for name in [
            "ip",
            "IP",
            "iP",
            "%69p",
            "i%70",
            "%69%70",
            "%49P",
            "%2569p",
            "%25%36%39p",
            "%u0069p",
            "%U0069p",
            "%25u0069p",
            "%u0025u0069p",
            "ip[]",
            "ip[x]",
            "ip[",
            "ip[[",
            "ip%5B",
            "ip%5b%5d",
            "ip%255b",
            "ip.x",
            "ip%2ex",
            "ip.",
            "+ip",
            "++ip",
            "%20ip",
            "%09ip",
            "%2bip",
            "%252bip",
            " ip",
            "ip+",
            "ip%20",
            "ip%00",
            "ip%00x",
            "ip%2500x",
            "%00ip",
            "ip\t",
            "%0aip",
            "?ip",
            "%3fip",
            "[ip]",
            "[ip",
            "ip]",
            "]ip",
            "ip]x",
            "[]ip",
            "[[ip]]",
            "[ip][x]",
            "[ip]x",
            "%5Bip%5D",
            "%5bip",
            "%255Bip%255D",
            "%u005bip",
            "[+ip",
            "+[ip",
            ".ip",
            "%2eip.x",
            "[IP]",
            "]api.key[",
            "[api_key]",
            "user]",
            "]user[x]",
            "api.key",
            "api+key",
            "api%20key",
            "api[key",
            "API_KEY",
            "api_key[x]",
            "api.key[x]",
            "api%2ekey",
            "api%5bkey",
            "+api.key",
            "user_name",
            "user.name",
            "user+name",
            "user",
            "user[x]",
            "USER%2EX",
            // Nobody knows.
            "ip%",
            "%",
            "%zz",
            "i%p",
            "%6",
            "%u00",
            "%u",
            "i%ffp",
            "%c1%a9p",
            "\u{ff49}p",
            "%uff49p",
            "%ef%bd%89p",
            "%252569p",
            "a%2525",
            "%e9",
            "x%",
        ] {
            assert!(protected.forbids(name.as_bytes()), "{name}");
            assert!(protected.forbids(format!("{name}=1").as_bytes()), "{name}=1");
        }
        for pair in ["a=1;ip=2", ";", "a;", "token=1;", "a=;b"] {
            assert!(protected.forbids(pair.as_bytes()), "{pair}");
        }
        // What a proxy that decodes makes of it is another pair.
        for pair in [
            "token=123%26ip=203.0.113.9",
            "token=123%26ip",
            "token=123%26ip%3D203.0.113.9",
            "x%26ip=203.0.113.9",
            "%26ip=1",
            "token=1%3Bip=1",
            "token=1%3bip=1",
            "token=1%2526ip=1",
            "token=1%253bip=1",
            "token=1%u0026ip=1",
            "token=1%25u0026ip=1",
            "token=1%%32%36ip=1",
            "token=1%2%36ip=1",
            "token=%zz%26ip=1",
            "token=1%26a=2%26api.key=3",
            "token=1%26%69p=1",
            "token=1%2526%2569p=1",
            "token=1%26IP[]=1",
            "token=1%26+[ip]x=1",
            "token=1%26api.key%5B%ff%5D=1",
            "token=1%26ip%00%25",
            "ip%3D1",
            "ip%3d1=2",
            "ip%253D1",
        ] {
            assert!(protected.forbids(pair.as_bytes()), "{pair}");
        }
    }

    #[test]
    fn other_parameters_stay() {
        let protected = protected(&["ip", "api_key"]);
        for pair in [
            "",
            "=",
            "=ip",
            "token=ip",
            "token=%zz",
            "t=%ff",
            "ipx=1",
            "xip=1",
            "i=1",
            "p=ip&",
            "i%20p=1",
            "i_p=1",
            "zip.x=1",
            "api=1",
            "api-key=1",
            "apikey=1",
            "token=a[ip]",
            "x[ip]=1",
            "x.ip=1",
            "%61=1",
            "a+b=1",
            "token==",
            "%00=1",
            "[]=1",
            "]=1",
            "list[]=1",
            "list[ip]=1",
            "[list][ip]=1",
            "list]ip=1",
            "[ipx]=1",
            "_ip=1",
            "ip_=1",
            "a%3D=1",
            "x%2541=1",
            "token=a%26b",
            "token=a%26b=c%3D",
            "token=a%3Bb%2526c",
            "token=%26",
            "token=%26%26=%3B",
            "token=a%26b=100%",
            "token=%aa%26%ff=%ff%3B%e9",
            "token=%26%25%3b%25zz%26%",
            "token=1%26i%25p=1",
            "token=1%26i%ffp=1",
            "token=%2569p",
            "token=ip%3D1",
            "token=a%3D%26zip=1",
            "a%26b=1",
        ] {
            assert!(!protected.forbids(pair.as_bytes()), "{pair}");
        }
    }

    #[test]
    fn a_protected_name_is_read_as_the_clients_are() {
        for (name, client) in [
            ("ip%5B%5D", "ip=1"),
            ("%69p", "ip=1"),
            ("api.key", "api_key=1"),
            ("api.key", "api[key=1"),
            ("[ip]", "ip=1"),
            ("a]b[c", "a]b=1"),
            ("a%20b", "a_b=1"),
            ("a+b", "a.b=1"),
            ("ip ", "ip_=1"),
            ("\u{43f}", "%d0%bf=1"),
            ("a%", "a%25=1"),
            ("a%69", "ai=1"),
            ("a%2569", "a%69=1"),
            // A parser that drops a stray percent sign reads this as a41.
            ("a41", "a%%34%31=1"),
        ] {
            assert!(protected(&[name]).forbids(client.as_bytes()), "{name} {client}");
        }
    }

    #[test]
    fn nothing_is_dropped_when_nothing_is_protected() {
        for names in [&[][..], &[""], &["+"]] {
            for pair in ["a;b", "%", "ip=1", "%ff", ""] {
                assert!(!protected(names).forbids(pair.as_bytes()), "{names:?} {pair}");
            }
        }
    }
}
