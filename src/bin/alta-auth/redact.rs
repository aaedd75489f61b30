//! What may be shown of a request and its reply: names, never values that let someone in.
//!
//! Queries are redacted by shape: whatever stands after the first `=` of a segment, and a segment without `=`
//! as a whole. Request headers are redacted unless they are the protocol's own. What a backend repeats is
//! found by value ([`Secrets`]).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What stands for a secret.
pub(crate) const MASK: &str = "…";

/// A query with every value masked: `token=…&lang=…`.
pub(crate) fn query(query: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(query.len());
    for (index, segment) in query.split(|&byte| byte == b'&').enumerate() {
        if index > 0 {
            out.push(b'&');
        }
        match segment.iter().position(|&byte| byte == b'=') {
            Some(equals) => {
                let alone = without_name(&segment[..equals]);
                if alone > 0 {
                    out.extend_from_slice(MASK.as_bytes());
                }
                out.extend_from_slice(&segment[alone..=equals]);
                out.extend_from_slice(MASK.as_bytes());
            }
            None if segment.is_empty() => {}
            None => out.extend_from_slice(MASK.as_bytes()),
        }
    }
    out
}

/// How much in front of a `=` is no part of its name, for a backend that separates at `;` too, or decodes before it separates.
fn without_name(front: &[u8]) -> usize {
    let separates = |at: &usize| {
        let encoded = [&b"%26"[..], b"%3b"];
        front[*at] == b';'
            || encoded
                .iter()
                .any(|mark| front[*at..].get(..3).is_some_and(|three| three.eq_ignore_ascii_case(mark)))
    };
    (0..front.len()).rev().find(separates).unwrap_or(0)
}

/// A URL or request target with its query's values and its userinfo masked.
pub(crate) fn target(target: &[u8]) -> Vec<u8> {
    let mark = target.iter().position(|&byte| byte == b'?').unwrap_or(target.len());
    let mut out = match userinfo(&target[..mark]) {
        Some((start, end)) => [&target[..start], MASK.as_bytes(), &target[end..mark]].concat(),
        None => target[..mark].to_vec(),
    };
    if mark < target.len() {
        out.push(b'?');
        out.extend_from_slice(&query(&target[mark + 1..]));
    }
    out
}

/// Scheme and authority of a URL.
pub(crate) fn authority(url: &[u8]) -> &[u8] {
    let Some(start) = url.windows(3).position(|window| window == b"://") else { return b"" };
    let start = start + 3;
    let ends = |&byte: &u8| matches!(byte, b'/' | b'?' | b'#');
    &url[..url[start..].iter().position(ends).map_or(url.len(), |end| start + end)]
}

/// Parameters whose value says who the client is, and lets nobody in.
const OF_USER: [&str; 8] = ["user", "username", "user_id", "userid", "uid", "login", "account", "id"];

/// Whether a query tells of this user by such a parameter.
pub(crate) fn names_user(query: &[u8], user: &[u8]) -> bool {
    query.split(|&byte| byte == b'&').any(|segment| {
        let value = after(segment, b'=');
        let name = segment[..segment.len() - value.len()].strip_suffix(b"=").unwrap_or_default();
        OF_USER.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes())) && decoded(value) == user
    })
}

fn userinfo(front: &[u8]) -> Option<(usize, usize)> {
    let start = front.windows(3).position(|window| window == b"://")? + 3;
    let authority =
        front[start..].iter().position(|&byte| byte == b'/').map_or(front.len(), |slash| start + slash);
    let end = front[start..authority].iter().rposition(|&byte| byte == b'@')?;
    Some((start, start + end))
}

/// Request headers whose values are no secret.
const OPEN: [&str; 8] = [
    "host",
    "connection",
    "accept",
    "x-session-id",
    "x-real-ip",
    "x-real-path",
    "x-real-origin",
    "x-real-ua",
];

/// Whether a request header may be shown with its value.
pub(crate) fn is_open(header: &[u8]) -> bool {
    OPEN.iter().any(|open| header.eq_ignore_ascii_case(open.as_bytes()))
}

/// Values that must not be shown wherever they turn up.
#[derive(Debug, Default)]
pub(crate) struct Secrets(Vec<Vec<u8>>);

/// Shorter ones are masked only where they stand alone: `1` is no secret inside `HTTP/1.1`.
const LONG: usize = 5;

impl Secrets {
    /// Every value of a query, as sent and decoded, and what a backend finds in it that separates at `;` too, or decodes
    /// before it separates.
    pub(crate) fn add_query(&mut self, query: &[u8]) {
        for segment in query.split(|&byte| byte == b'&') {
            let (front, value) = match segment.iter().position(|&byte| byte == b'=') {
                Some(equals) => segment.split_at(equals + 1),
                None => (&b""[..], segment),
            };
            for part in [&front[..without_name(front)], value] {
                self.add_parts(part);
                self.add_parts(&decoded(part));
            }
        }
    }

    fn add_parts(&mut self, value: &[u8]) {
        self.add(value);
        for part in value.split(|byte| matches!(byte, b'&' | b';')) {
            self.add(part);
            let inner = after(part, b'=');
            // Of base64 only its end stands behind the first.
            if inner.iter().any(|&byte| byte != b'=') {
                self.add(inner);
            }
        }
    }

    /// A request header's value, and what of it a backend may say alone: credentials without their scheme, the user and the
    /// password of Basic, each value of a cookie.
    pub(crate) fn add_header(&mut self, name: &[u8], value: &[u8]) {
        self.add(value);
        if name.eq_ignore_ascii_case(b"cookie") {
            value.split(|&byte| byte == b';').for_each(|pair| self.add(after(pair, b'=').trim_ascii()));
            return;
        }
        let credentials = after(value, b' ').trim_ascii();
        // What follows the first word of any other value is often an ordinary one, if it is short.
        if credentials.len() >= LONG || name.to_ascii_lowercase().ends_with(b"authorization") {
            self.add(credentials);
        }
        if value.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic "))
            && let Ok(pair) = STANDARD.decode(credentials)
        {
            let password = after(&pair, b':');
            self.add(&pair);
            self.add(password);
            self.add(pair[..pair.len() - password.len()].strip_suffix(b":").unwrap_or_default());
        }
    }

    pub(crate) fn add(&mut self, value: &[u8]) {
        // What contains another must be masked before it.
        let order = |known: &Vec<u8>| value.len().cmp(&known.len()).then_with(|| known[..].cmp(value));
        if !value.is_empty()
            && let Err(place) = self.0.binary_search_by(order)
        {
            self.0.insert(place, value.to_vec());
        }
    }

    /// `text` with each secret in it masked.
    pub(crate) fn masked(&self, text: &[u8]) -> Vec<u8> {
        self.masked_but(text, &[])
    }

    /// As [`Secrets::masked`], but for what is `known` to be no secret: the backend's address stays readable when a
    /// client's token looks like a part of it.
    pub(crate) fn masked_but(&self, text: &[u8], known: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len());
        let mut at = 0;
        while at < text.len() {
            if let Some(known) = known.iter().find(|known| !known.is_empty() && text[at..].starts_with(known))
            {
                out.extend_from_slice(known);
                at += known.len();
            } else if let Some(secret) = self.0.iter().find(|secret| stands_at(text, at, secret)) {
                out.extend_from_slice(MASK.as_bytes());
                at += secret.len();
            } else {
                out.push(text[at]);
                at += 1;
            }
        }
        out
    }
}

/// What stands behind the first of these; all, if there is none.
fn after(text: &[u8], mark: u8) -> &[u8] {
    text.iter().position(|&byte| byte == mark).map_or(text, |at| &text[at + 1..])
}

fn stands_at(text: &[u8], at: usize, secret: &[u8]) -> bool {
    if !text[at..].starts_with(secret) {
        return false;
    }
    let alone = |byte: Option<&u8>| !byte.is_some_and(u8::is_ascii_alphanumeric);
    secret.len() >= LONG
        || (alone(at.checked_sub(1).and_then(|before| text.get(before)))
            && alone(text.get(at + secret.len())))
}

/// Percent-decoded, `+` as space; what cannot be decoded stays.
pub(crate) fn decoded(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let mut at = 0;
    while at < value.len() {
        let hex = |index: usize| value.get(index).and_then(|&byte| char::from(byte).to_digit(16));
        match (value[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(if byte == b'+' { b' ' } else { byte });
                at += 1;
            }
        }
    }
    out
}

/// Bytes as one line of text: control bytes and what is not UTF-8 escaped.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                out.extend(character.escape_default());
            } else {
                out.push(character);
            }
        }
        for byte in chunk.invalid() {
            out.extend(byte.escape_ascii().map(char::from));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn every_value_of_a_query_is_masked() {
        for (given, shown) in [
            ("token=123", "token=…"),
            ("a=1&token=s&b", "a=…&token=…&…"),
            ("token=a=b;c=d", "token=…"),
            ("", ""),
            ("&&a=", "&&a=…"),
            ("secret", "…"),
        ] {
            assert_eq!(text(query(given.as_bytes())), shown);
        }
    }

    #[test]
    fn userinfo_is_masked_with_the_query() {
        assert_eq!(text(target(b"https://u:p@h/a?b=c")), "https://…@h/a?b=…");
        assert_eq!(text(target(b"/auth?b=c")), "/auth?b=…");
        assert_eq!(text(target(b"/a@b://c@d")), "/a@b://…@d");
    }

    #[test]
    fn what_comes_back_is_masked_raw_and_decoded() {
        let mut secrets = Secrets::default();
        secrets.add_query(b"token=s%2Bcret%21&n=12");
        assert_eq!(text(secrets.masked(b"you sent s+cret! or s%2Bcret%21")), "you sent … or …");
        assert_eq!(text(secrets.masked(b"12 of 1234, HTTP/12")), "… of 1234, HTTP/…");
        let mut secrets = Secrets::default();
        secrets.add_query(b"a=1;t=semicolon&b=1%26t=ampersand&c=cGFk==&alone;l=en&encoded%3Bm=en");
        assert_eq!(text(secrets.masked(b"semicolon, ampersand, cGFk== = x")), "…, …, … = x");
        assert_eq!(text(secrets.masked(b"alone, encoded, l")), "…, …, l");
        let mut secrets = Secrets::default();
        secrets.add_query(b"n=12");
        let address = &b"10.0.0.1:12"[..];
        assert_eq!(
            text(secrets.masked_but(b"refused by 10.0.0.1:12: 12", &[address])),
            "refused by 10.0.0.1:12: …"
        );
    }

    #[test]
    fn what_comes_back_of_a_header_is_masked_in_each_of_its_parts() {
        for (name, value, said, shown) in [
            ("Authorization", "Bearer k-1234", "k-1234 by Bearer k-1234", "… by …"),
            ("Authorization", "Basic bWU6c2VjcmV0", "bWU6c2VjcmV0 is me:secret", "… is …"),
            ("authorization", "basic bWU6c2VjcmV0", "me said secret", "… said …"),
            ("Authorization", "Basic a2V5LTEyMzQ6", "key-1234", "…"),
            ("Cookie", "a=first; b=second", "second of a=first", "… of a=…"),
            ("X-Api-Key", "k-1234", "k-1234!", "…!"),
            ("X-Client", "Alta 1", "error 1 of Alta 1", "error 1 of …"),
            ("X-Auth-Token", "Key t-1234", "t-1234 is unknown", "… is unknown"),
            ("X-Old-Authorization", "Alta t1", "t1 is unknown", "… is unknown"),
        ] {
            let mut secrets = Secrets::default();
            secrets.add_header(name.as_bytes(), value.as_bytes());
            assert_eq!(text(secrets.masked(said.as_bytes())), shown, "{value}");
        }
    }

    #[test]
    fn a_terminal_never_gets_control_bytes() {
        assert_eq!(printable(b"a\x1b[31m\r\xff\xc3\xa9"), "a\\u{1b}[31m\\r\\xff\u{e9}");
    }
}
