//! How a check becomes the bytes of a question: at once where nothing in it has to be changed or refused, as is the rule,
//! else field by field.
//!
//! Both give the same bytes; what is refused, and why, is only ever said by the second.

use super::{
    Check, FIELDS, Field, HEADER, Invalid, KIND_DIRECTORY, KIND_HOST, KIND_PATH, KIND_SESSION,
    KIND_WITH_PATH, Rules, Why, breaks_line, limits, path, scan,
};
use crate::config::ScopeRule;

/// Writes every field into `bytes`; how much of it is the key.
pub(super) fn write(bytes: &mut Vec<u8>, check: &Check<'_>, rules: Rules) -> Result<usize, Invalid> {
    at_once(bytes, check, rules).map_or_else(|| by_field(bytes, check, rules), Ok)
}

/// `None`: look closer. That costs time, so it may also be said of what turns out to be in order.
fn at_once(bytes: &mut Vec<u8>, check: &Check<'_>, rules: Rules) -> Option<usize> {
    const LIMITS: [usize; FIELDS] = [
        limits::SHORT_FIELD,
        limits::SHORT_FIELD,
        limits::QUERY,
        limits::SHORT_FIELD,
        limits::USER_AGENT,
        // A directory is as long as a path.
        limits::PATH,
        limits::PATH,
    ];
    let (kind, scope) = kind_and_scope(check.scope, check.path, rules);
    let Check { session_id, ip, path, query, origin, user_agent, .. } = *check;
    let texts = [session_id, ip, query, origin, user_agent, scope, path];

    let mut in_order = !session_id.is_empty() && check.scope.len() <= limits::SHORT_FIELD;
    for text in [session_id, ip, origin, user_agent, check.scope, path] {
        in_order &= text.first() != Some(&b' ') && text.last() != Some(&b' ');
    }
    let (mut len, mut lengths) = (HEADER, [[0; 2]; FIELDS]);
    for field in 0..FIELDS {
        let text = texts[field].len();
        in_order &= text <= LIMITS[field];
        lengths[field] = (text as u16).to_le_bytes();
        len += text;
    }
    if !in_order {
        return None;
    }
    // The path's length is no part of the key, see `Layout::cleaned`.
    lengths[FIELDS - 1] = [0; 2];

    // What was there before is written over; a buffer that is long enough needs no more.
    bytes.resize(len + scan::WIDTH, b' ');
    let (header, mut rest) = bytes.split_at_mut(HEADER);
    header[0] = kind;
    header[1..].copy_from_slice(lengths.as_flattened());
    for text in texts {
        let (place, after) = rest.split_at_mut(text.len());
        place.copy_from_slice(text);
        rest = after;
    }
    rest.fill(b' ');

    let all = &bytes[HEADER..];
    let before_path = len - path.len();
    // The sign of a fragment matters in a query only; that it is elsewhere too is rare.
    let ascii = scan::is_plain_ascii_without(all, b'#');
    let suspicious =
        || path::is_suspicious(&bytes[before_path - 1..]) || (!ascii && path::may_be_overlong(path));
    let in_order = (ascii || scan::is_plain_without(all, b'#'))
        && (!rules.path_check || !suspicious() || path::unambiguous(path).is_ok());
    bytes.truncate(len);
    in_order.then_some(if kind & KIND_WITH_PATH == 0 { before_path } else { len })
}

/// The kind of a key, and the scope that is part of it, from what the host named and the path, both without the space around
/// them.
fn kind_and_scope<'a>(named: &'a [u8], path: &'a [u8], rules: Rules) -> (u8, &'a [u8]) {
    let (kind, scope) = if named.is_empty() {
        match rules.scope {
            ScopeRule::Path => (KIND_PATH | KIND_WITH_PATH, &[][..]),
            ScopeRule::Directory => (KIND_DIRECTORY, directory(path)),
            ScopeRule::Session => (KIND_SESSION, &[][..]),
        }
    } else {
        (KIND_HOST, named)
    };
    (if rules.path_in_key { kind | KIND_WITH_PATH } else { kind }, scope)
}

fn by_field(bytes: &mut Vec<u8>, check: &Check<'_>, rules: Rules) -> Result<usize, Invalid> {
    bytes.clear();
    Layout { bytes, field: 0 }.check(check, rules)
}

/// The buffer of a question while it is written, field after field.
struct Layout<'a> {
    bytes: &'a mut Vec<u8>,
    field: usize,
}

impl Layout<'_> {
    /// Writes every field; how much of it is the key.
    fn check(&mut self, check: &Check<'_>, rules: Rules) -> Result<usize, Invalid> {
        self.bytes.resize(HEADER, 0);
        if self.value(Field::SessionId, check.session_id, limits::SHORT_FIELD)? == 0 {
            return Err(Invalid::new(Field::SessionId, Why::Empty));
        }
        self.value(Field::Ip, check.ip, limits::SHORT_FIELD)?;
        self.query(check.query)?;
        self.value(Field::Origin, check.origin, limits::SHORT_FIELD)?;
        self.user_agent(check.user_agent)?;
        let path = self.scope_and_path(check, rules)?;

        // The path goes last and its length is known from the buffer's end: under a scope, neither is part of
        // the key.
        Ok(self.bytes.len() - if self.bytes[0] & KIND_WITH_PATH == 0 { path } else { 0 })
    }

    fn value(&mut self, field: Field, raw: &[u8], limit: usize) -> Result<usize, Invalid> {
        within(field, raw, limit)?;
        self.cleaned(field, trimmed(raw))
    }

    fn user_agent(&mut self, raw: &[u8]) -> Result<usize, Invalid> {
        let raw = trimmed(raw);
        if raw.len() <= limits::USER_AGENT {
            return self.cleaned(Field::UserAgent, raw);
        }
        // What is cut off is looked at too.
        unbroken(Field::UserAgent, raw)?;
        self.cleaned(Field::UserAgent, trimmed(&raw[..limits::USER_AGENT]))
    }

    fn query(&mut self, raw: &[u8]) -> Result<usize, Invalid> {
        within(Field::Query, raw, limits::QUERY)?;
        // What follows a fragment's sign is looked at too.
        unbroken(Field::Query, raw)?;
        let end = raw.iter().position(|&byte| byte == b'#');
        self.cleaned(Field::Query, &raw[..end.unwrap_or(raw.len())])
    }

    /// The length of the path.
    fn scope_and_path(&mut self, check: &Check<'_>, rules: Rules) -> Result<usize, Invalid> {
        within(Field::Path, check.path, limits::PATH)?;
        let path = trimmed(check.path);
        if rules.path_check {
            path::unambiguous(path).map_err(|what| Invalid::new(Field::Path, Why::Ambiguous(what)))?;
        }
        within(Field::Scope, check.scope, limits::SHORT_FIELD)?;
        let named = trimmed(check.scope);
        let (kind, scope) = kind_and_scope(named, path, rules);
        self.bytes[0] = kind;
        self.cleaned(Field::Scope, scope)?;
        self.cleaned(Field::Path, path)
    }

    /// Appends a field, its control bytes made spaces, and notes its length. Control bytes at an end are
    /// space by then, and go as space does.
    fn cleaned(&mut self, field: Field, raw: &[u8]) -> Result<usize, Invalid> {
        if scan::is_plain(raw) {
            self.bytes.extend_from_slice(raw);
        } else {
            unbroken(field, raw)?;
            self.bytes.extend(spaced(raw));
        }
        let len = raw.len();
        // The path's length stays out of the header: under a scope it is no part of the key.
        if self.field < FIELDS - 1 {
            let noted = u16::try_from(len).expect("every limit is below 64 KiB");
            self.bytes[1 + 2 * self.field..][..2].copy_from_slice(&noted.to_le_bytes());
        }
        self.field += 1;
        Ok(len)
    }
}

fn within(field: Field, raw: &[u8], limit: usize) -> Result<(), Invalid> {
    if raw.len() > limit {
        return Err(Invalid::new(field, Why::TooLong { len: raw.len(), limit }));
    }
    Ok(())
}

fn unbroken(field: Field, raw: &[u8]) -> Result<(), Invalid> {
    if !scan::is_plain(raw) && raw.iter().any(|&byte| breaks_line(byte)) {
        return Err(Invalid::new(field, Why::LineBreak));
    }
    Ok(())
}

/// As a check writes the id of its session.
pub(crate) fn session_id(raw: &[u8]) -> Vec<u8> {
    spaced(trimmed(raw)).collect()
}

/// Its control bytes made spaces.
fn spaced(raw: &[u8]) -> impl Iterator<Item = u8> {
    let is_control = |byte: u8| (byte < 0x20 && byte != b'\t') || byte == 0x7F;
    raw.iter().map(move |&byte| if is_control(byte) { b' ' } else { byte })
}

/// Without the space, and the control bytes that will be space, at both ends. CR, LF and NUL stay, to be
/// refused.
fn trimmed(raw: &[u8]) -> &[u8] {
    let blank = |&byte: &u8| (byte <= b' ' || byte == 0x7F) && !breaks_line(byte);
    let start = raw.iter().position(|byte| !blank(byte)).unwrap_or(raw.len());
    let end = raw.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    &raw[start..end]
}

/// Up to the last slash and with it, encoded or not: what a host decodes it may serve from another directory.
fn directory(path: &[u8]) -> &[u8] {
    let ends = |&end: &usize| ends_in_slash(&path[..end]);
    (1..=path.len()).rev().find(ends).map_or(path, |end| &path[..end])
}

fn ends_in_slash(path: &[u8]) -> bool {
    /// Encoded again, its sign is `%25`.
    fn ends_in_sign(path: &[u8]) -> bool {
        path.last() == Some(&b'%') || path.strip_suffix(b"25").is_some_and(ends_in_sign)
    }
    match path {
        [.., b'/' | b'\\'] => true,
        [before @ .., b'2', b'f' | b'F'] | [before @ .., b'5', b'c' | b'C'] => ends_in_sign(before),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Mostly such as need nothing done to them, some with one byte or two that do, some about as long as they may be.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let odd = prop::sample::select(b"/.%#?\\ \t\x01\x7f\x80\xff\0\r".to_vec());
        let usual = || prop::collection::vec(prop::sample::select(b"abc0-/.".to_vec()), 0..70);
        let odd = (usual(), odd, any::<prop::sample::Index>()).prop_map(|(mut text, byte, at)| {
            text.insert(at.index(text.len() + 1), byte);
            text
        });
        let limits = [limits::SHORT_FIELD, limits::USER_AGENT, limits::PATH, limits::QUERY];
        let long = (prop::sample::select(limits.to_vec()), 0..2_usize)
            .prop_map(|(limit, more)| vec![b'x'; limit + more]);
        prop_oneof![40 => usual(), 6 => odd, 1 => long]
    }

    fn rules() -> impl Strategy<Value = Rules> {
        let scope = prop::sample::select(vec![ScopeRule::Path, ScopeRule::Directory, ScopeRule::Session]);
        (scope, any::<bool>(), any::<bool>()).prop_map(|(scope, path_check, path_in_key)| Rules {
            scope,
            path_check,
            path_in_key,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(5_000) })]

        #[test]
        fn what_is_written_at_once_is_what_is_written_field_by_field(
            texts in prop::array::uniform7(text()),
            rules in rules(),
        ) {
            let [session_id, ip, path, query, origin, user_agent, scope] = texts.each_ref().map(Vec::as_slice);
            let check = Check { session_id, ip, path, query, origin, user_agent, scope, ..Check::default() };
            let (mut at_once_bytes, mut bytes) = (b"what was there before".to_vec(), Vec::new());
            if let Some(key) = at_once(&mut at_once_bytes, &check, rules) {
                prop_assert_eq!(by_field(&mut bytes, &check, rules), Ok(key));
                prop_assert_eq!(at_once_bytes, bytes);
            }
        }
    }

    #[test]
    fn what_path_check_refuses_is_not_written_at_once_either() {
        let rules = Rules { scope: ScopeRule::Path, path_check: true, path_in_key: false };
        let paths: [&[u8]; 7] = [
            b"/a/../b",
            b"/a/%2e/b",
            b"/a?b",
            b"/a/\xc0\xae\xc0\xae/b",
            b"/a/\xe0\x80\xae/b",
            b"/a/\xf0\x80\x80\xae/b",
            b"/a%00b",
        ];
        for path in paths {
            let check = Check { session_id: b"s", path, ..Check::default() };
            let why = write(&mut Vec::new(), &check, rules).map_err(|invalid| invalid.why);
            assert!(matches!(why, Err(Why::Ambiguous(_))), "{}: {why:?}", path.escape_ascii());
        }
    }

    #[test]
    fn a_directory_ends_behind_its_last_slash_encoded_or_not() {
        for (path, expected) in [
            ("", ""),
            ("x.m3u8", "x.m3u8"),
            ("/", "/"),
            ("/x.m3u8", "/"),
            ("/hbo/x.m3u8", "/hbo/"),
            ("/hbo%2fx.m3u8", "/hbo%2f"),
            ("/hbo%2Fx.m3u8", "/hbo%2F"),
            ("/hbo%2f/x.m3u8", "/hbo%2f/"),
            ("/hbo/%2f", "/hbo/%2f"),
            ("/hbo%252fx.m3u8", "/hbo%252f"),
            ("/hbo%25252Fx.m3u8", "/hbo%25252F"),
            ("/hbo\\x.m3u8", "/hbo\\"),
            ("/hbo%5Cx.m3u8", "/hbo%5C"),
            ("/hbo2fx.m3u8", "/"),
            ("/hbo252fx.m3u8", "/"),
            ("/%d0%9f.ts", "/"),
            ("/%2", "/"),
        ] {
            assert_eq!(directory(path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }

    #[test]
    fn an_ordinary_check_is_written_at_once() {
        let usual = Check {
            session_id: b"s1",
            ip: b"192.0.2.7",
            path: b"/ch/index.m3u8",
            query: b"token=%20?&a=b",
            origin: b"https://live.example.com",
            user_agent: b"Mozilla/5.0 (X11; Linux x86_64)",
            ..Check::default()
        };
        let rules = Rules { scope: ScopeRule::Path, path_check: true, path_in_key: false };
        let is_at_once = |check: Check<'_>| at_once(&mut Vec::new(), &check, rules).is_some();
        assert!(is_at_once(usual));
        assert!(is_at_once(Check { scope: b"ch", ..usual }));
        assert!(is_at_once(Check { path: "/ch/\u{43f}.ts".as_bytes(), ..usual }));
        assert!(is_at_once(Check { path: b"/ch/%d0%9f.ts", ..usual }));
        assert!(is_at_once(Check {
            session_id: b"s",
            ip: b"",
            query: b"",
            origin: b"",
            user_agent: b"",
            ..usual
        }));
    }
}
