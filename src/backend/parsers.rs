//! The ways in which servers read a query: what the guard of protected names is held against.

/// A way to read a query. Every combination is some server, or could be.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a habit that parsers have or have not")]
pub(super) struct Parser {
    /// How often the whole query is decoded before this reads it, by whoever passes it on.
    pub(super) passes: usize,
    pub(super) cuts_at_semicolons: bool,
    /// How often names are decoded.
    pub(super) decodes: usize,
    pub(super) plus_is_space: bool,
    pub(super) knows_percent_u: bool,
    pub(super) drops_stray_percent: bool,
    pub(super) drops_beyond_ascii: bool,
    pub(super) cuts_at_nul: bool,
    pub(super) trims: bool,
    /// PHP's: no leading space; `.`, space and `[` are `_`.
    pub(super) mangles: bool,
    /// What is no part of a name that it stands before.
    pub(super) skips: &'static [u8],
    /// What ends a name, besides `=`.
    pub(super) ends: &'static [u8],
    pub(super) ignores_case: bool,
}

impl Parser {
    /// Decodes once, and does nothing else.
    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self {
            passes: 0,
            cuts_at_semicolons: false,
            decodes: 1,
            plus_is_space: false,
            knows_percent_u: false,
            drops_stray_percent: false,
            drops_beyond_ascii: false,
            cuts_at_nul: false,
            trims: false,
            mangles: false,
            skips: b"",
            ends: b"",
            ignores_case: false,
        }
    }

    pub(super) fn name(&self, raw: &[u8]) -> Vec<u8> {
        let mut name = raw.to_vec();
        for _ in 0..self.decodes {
            name = self.decoded(&name);
        }
        if self.drops_beyond_ascii {
            name.retain(u8::is_ascii);
        }
        if self.mangles {
            let start = name.iter().position(|&byte| byte != b' ').unwrap_or(name.len());
            name.drain(..start);
        }
        if self.trims {
            name = trimmed(&name);
        }
        if self.cuts_at_nul {
            name.truncate(name.iter().position(|&byte| byte == 0).unwrap_or(name.len()));
        }
        let start = name.iter().position(|byte| !self.skips.contains(byte)).unwrap_or(name.len());
        name.drain(..start);
        name.truncate(name.iter().position(|byte| self.ends.contains(byte)).unwrap_or(name.len()));
        if self.trims {
            name = trimmed(&name);
        }
        for byte in &mut name {
            if self.mangles && b". [".contains(byte) {
                *byte = b'_';
            }
            if self.ignores_case {
                byte.make_ascii_lowercase();
            }
        }
        name
    }

    pub(super) fn decoded(&self, raw: &[u8]) -> Vec<u8> {
        let number = |digits: Option<&[u8]>| {
            digits
                .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
                .and_then(|digits| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())
        };
        let mut out = Vec::new();
        let mut at = 0;
        while at < raw.len() {
            let wide = number(raw.get(at + 2..at + 6))
                .filter(|_| self.knows_percent_u && raw.get(at + 1) == Some(&b'u'));
            match (raw[at], number(raw.get(at + 1..at + 3)), wide) {
                (b'%', _, Some(point)) => {
                    out.extend(char::from_u32(point).unwrap_or('?').to_string().bytes());
                    at += 5;
                }
                (b'%', Some(byte), None) => {
                    out.push(byte as u8);
                    at += 2;
                }
                (b'%', None, None) if self.drops_stray_percent => {}
                (b'+', ..) if self.plus_is_space => out.push(b' '),
                (byte, ..) => out.push(byte),
            }
            at += 1;
        }
        out
    }

    /// What a target gives for any of `names`; parameters without a name are nobody's.
    pub(super) fn values_of(&self, target: &[u8], names: &[Vec<u8>]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let query = target.iter().position(|&byte| byte == b'?').map_or(&[][..], |at| &target[at + 1..]);
        let mut query = query.to_vec();
        for _ in 0..self.passes {
            query = self.decoded(&query);
        }
        query
            .split(|&byte| byte == b'&' || (self.cuts_at_semicolons && byte == b';'))
            .map(|pair| {
                let at = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
                (self.name(&pair[..at]), pair.get(at + 1..).unwrap_or_default().to_vec())
            })
            .filter(|(name, _)| !name.is_empty() && names.contains(name))
            .collect()
    }
}

fn trimmed(name: &[u8]) -> Vec<u8> {
    let blank = |byte: &u8| *byte <= b' ';
    let start = name.iter().position(|byte| !blank(byte)).unwrap_or(name.len());
    let end = name.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    name[start..end].to_vec()
}
