//! A client's URL, cut into what a check wants: path, query, origin. Bytes, for clients send any; nothing is
//! decoded or normalised, so that what is shown and asked is what the client sent.

/// `https://user@live.example.com:8443/ch/index.m3u8?token=1#t` as origin `https://live.example.com:8443`,
/// path `/ch/index.m3u8` and query `token=1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientUrl<'a> {
    /// `scheme://`, if there is one.
    scheme: &'a [u8],
    /// Host and port, without userinfo.
    authority: &'a [u8],
    pub(crate) path: &'a [u8],
    /// Without `?`.
    pub(crate) query: &'a [u8],
}

impl<'a> ClientUrl<'a> {
    /// A URL with a scheme, or one that begins at its path. The error never holds a part of the URL.
    pub(crate) fn parse(url: &'a [u8]) -> Result<Self, &'static str> {
        let url = &url[..position(url, b'#').unwrap_or(url.len())];
        let (front, query) = match position(url, b'?') {
            Some(mark) => (&url[..mark], &url[mark + 1..]),
            None => (url, &[][..]),
        };
        if front.first() == Some(&b'/') {
            return Ok(Self { scheme: &[], authority: &[], path: front, query });
        }
        let scheme_end = front
            .windows(3)
            .position(|window| window == b"://")
            .filter(|&end| end > 0 && front[..end].iter().all(|&byte| is_scheme_byte(byte)))
            .ok_or("not a URL; write scheme://host/path?query or /path?query")?;
        let (scheme, rest) = front.split_at(scheme_end + 3);
        let path_start = position(rest, b'/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(path_start);
        let authority = &authority[authority.iter().rposition(|&byte| byte == b'@').map_or(0, |at| at + 1)..];
        if authority.is_empty() {
            return Err("the URL has no host");
        }
        Ok(Self { scheme, authority, path: if path.is_empty() { b"/" } else { path }, query })
    }

    /// `scheme://host[:port]`, the scheme in lower case as browsers send it; empty if the URL began at its path.
    pub(crate) fn origin(&self) -> Vec<u8> {
        [&self.scheme.to_ascii_lowercase(), self.authority].concat()
    }
}

fn position(bytes: &[u8], wanted: u8) -> Option<usize> {
    bytes.iter().position(|&byte| byte == wanted)
}

fn is_scheme_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(url: &str) -> (String, String, String) {
        let url = ClientUrl::parse(url.as_bytes()).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (text(&url.origin()), text(url.path), text(url.query))
    }

    #[test]
    fn urls_are_cut_where_a_browser_cuts_them() {
        for (url, origin, path, query) in [
            (
                "https://live.example.com/ch/index.m3u8?token=123",
                "https://live.example.com",
                "/ch/index.m3u8",
                "token=123",
            ),
            ("http://h:8080/a", "http://h:8080", "/a", ""),
            ("HTTPS://H/A", "https://H", "/A", ""),
            ("http://h", "http://h", "/", ""),
            ("http://h?a=b/c", "http://h", "/", "a=b/c"),
            ("http://u:p@h/a?x@y", "http://h", "/a", "x@y"),
            ("http://h/a#f?b", "http://h", "/a", ""),
            ("http://h/a?b#c", "http://h", "/a", "b"),
            ("http://[2001:db8::1]:8080/a?", "http://[2001:db8::1]:8080", "/a", ""),
            ("rtsp://h/a?b??c", "rtsp://h", "/a", "b??c"),
            ("/a/b?c=http://x", "", "/a/b", "c=http://x"),
        ] {
            assert_eq!(parts(url), (origin.to_owned(), path.to_owned(), query.to_owned()), "{url}");
        }
    }

    #[test]
    fn what_is_no_url_is_said_without_repeating_it() {
        for bad in [
            "",
            "token=secret",
            "live.example.com/a?token=secret",
            "http://",
            "http://?a",
            "://h/a",
            "a b://h/",
        ] {
            let error = ClientUrl::parse(bad.as_bytes()).unwrap_err();
            assert!(!error.contains("secret"));
        }
    }

    #[test]
    fn any_bytes_pass() {
        let url = ClientUrl::parse(b"http://h/\xff?\xfe=\x01").unwrap();
        assert_eq!((url.path, url.query), (&b"/\xff"[..], &b"\xfe=\x01"[..]));
    }
}
