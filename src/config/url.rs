//! `backend.url`: one or more URLs, in order of preference.
//!
//! A URL is kept as written wherever the backend sees it (host, path, query): no normalisation, no decoding.
//! What could be read in two ways is refused. Error texts name the fault and never quote the URL, whose
//! userinfo, path and query may be secret; so does `Debug`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::host;

/// One backend.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct BackendUrl {
    pub(crate) scheme: Scheme,
    pub(crate) address: Address,
    /// Begins with `/`; no query.
    pub(crate) path: String,
    /// The URL's own parameters, as written; `None` without `?`.
    pub(crate) query: Option<String>,
    /// `Basic …`, from userinfo. Secret.
    pub(crate) authorization: Option<String>,
    /// Those before it in the list that lead to the same place.
    pub(crate) twins: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
    Unix,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// Host without brackets; a name or an IP literal.
    Tcp {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

/// With `backend.mode = any` a check is asked at each, otherwise at three at most. A longer list is a mistake.
pub(super) const MAX_URLS: usize = 16;
/// Of one URL. The rest of the 32 KiB of a request belongs to the check.
const MAX_LENGTH: usize = 8 * 1024;
/// `sockaddr_un.sun_path`, less its NUL.
const MAX_SOCKET_PATH: usize = 107;

impl BackendUrl {
    /// A comma separates two URLs where a scheme follows it; any other belongs to the URL.
    pub(crate) fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let items = split(text);
        if items.len() > MAX_URLS {
            return Err(format!("{} URLs are too many; write at most {MAX_URLS}", items.len()));
        }
        let several = items.len() > 1;
        let parse = |(index, item): (usize, &str)| {
            Self::parse(item).map_err(|why| {
                if several { format!("URL {} {why}", index + 1) } else { format!("the URL {why}") }
            })
        };
        let mut urls = items.into_iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
        for index in 1..urls.len() {
            let (before, url) = urls.split_at_mut(index);
            url[0].twins = before.iter().filter(|other| other.place() == url[0].place()).count();
        }
        Ok(urls)
    }

    /// The error continues a sentence that begins with "the URL".
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.len() > MAX_LENGTH {
            return Err(format!("has {} bytes; write at most {MAX_LENGTH}", text.len()));
        }
        if text.contains('#') {
            return Err(
                "has a fragment (#…), which is never sent; remove it, or write %23 for a # that is meant"
                    .into(),
            );
        }
        if text.ends_with(',') {
            return Err("ends with a comma; remove it, or write %2C for one that is meant".into());
        }
        match scheme(text) {
            Some(("http", rest)) => Self::parse_tcp(Scheme::Http, rest),
            Some(("https", rest)) => Self::parse_tcp(Scheme::Https, rest),
            Some(("unix", rest)) => Self::parse_unix(rest),
            // Not named: behind a comma it may be a part of the query before it.
            Some(_) => Err("has an unknown scheme; write http://, https:// or unix:/".into()),
            None => Err("has no scheme; write http://HOST/PATH, https://HOST/PATH or \
                         unix:/path/to.sock:/request/path"
                .into()),
        }
    }

    fn parse_tcp(scheme: Scheme, rest: &str) -> Result<Self, String> {
        let rest = rest.strip_prefix("//").ok_or("has one slash after its scheme; write two")?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let (userinfo, host_port) = match authority.rsplit_once('@') {
            Some((userinfo, host_port)) => (Some(userinfo), host_port),
            None => (None, authority),
        };
        let (host, port) = parse_host_port(host_port, scheme)?;
        let (path, query) = parse_target(target)?;
        let authorization = userinfo.map(basic).transpose()?;
        Ok(Self { scheme, address: Address::Tcp { host, port }, path, query, authorization, twins: 0 })
    }

    fn parse_unix(rest: &str) -> Result<Self, String> {
        let (socket, target) = match rest.find(":/") {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, ""),
        };
        if !socket.starts_with('/') || socket.starts_with("//") {
            return Err(
                "needs the absolute path of a socket after unix:, e.g. unix:/run/auth.sock:/auth".into()
            );
        }
        if socket.contains('?') {
            return Err(
                "has a query but no request path; write unix:/path/to.sock:/request/path?query".into()
            );
        }
        if socket.len() > MAX_SOCKET_PATH {
            return Err(format!(
                "has a socket path of {} bytes; the system's limit is {MAX_SOCKET_PATH}",
                socket.len()
            ));
        }
        if socket.chars().any(char::is_control) {
            return Err("has a control character in its socket path; remove it".into());
        }
        let (path, query) = parse_target(target)?;
        let address = Address::Unix(PathBuf::from(socket));
        Ok(Self { scheme: Scheme::Unix, address, path, query, authorization: None, twins: 0 })
    }

    /// The value of `Host`: authority as written, default port omitted; `localhost` for a Unix socket.
    pub(crate) fn authority(&self) -> String {
        match &self.address {
            Address::Tcp { host, port } if *port == default_port(self.scheme) => bracketed(host),
            Address::Tcp { host, port } => format!("{}:{port}", bracketed(host)),
            Address::Unix(_) => "localhost".to_owned(),
        }
    }

    /// As `parse` reads it.
    #[cfg(any(test, fuzzing))]
    pub(super) fn written(&self) -> String {
        let userinfo = self.authorization.as_deref().map(|value| {
            let pair = value.strip_prefix("Basic ").and_then(|pair| STANDARD.decode(pair).ok());
            let pair = pair.expect("it was made by `basic`");
            let (at, _) = pair.iter().enumerate().find(|(_, byte)| **byte == b':').expect("so is this");
            let byte = |at_byte: (usize, &u8)| match at_byte {
                (here, _) if here == at => ":".to_owned(),
                (_, byte) => format!("%{byte:02X}"),
            };
            pair.iter().enumerate().map(byte).chain(["@".to_owned()]).collect::<String>()
        });
        let target = [
            self.path.as_str(),
            self.query.as_ref().map_or("", |_| "?"),
            self.query.as_deref().unwrap_or(""),
        ];
        match &self.address {
            Address::Tcp { host, port } => {
                let scheme = if self.scheme == Scheme::Https { "https" } else { "http" };
                let userinfo = userinfo.unwrap_or_default();
                format!("{scheme}://{userinfo}{}:{port}{}", bracketed(host), target.concat())
            }
            // Without a path a comma in the socket's is not followed by what looks like a scheme.
            Address::Unix(path) => {
                let (path, target) = (path.display().to_string(), target.concat());
                let separator = if target == "/" && !path.contains(":/") { "" } else { ":/" };
                format!("unix:{path}{separator}{}", &target[1..])
            }
        }
    }

    /// `scheme://host:port` or `unix:/path/to.sock`: the only form in which a URL leaves this crate. The second one of the
    /// same label is told apart by `#2`, and so on.
    pub(crate) fn label(&self) -> String {
        match self.twins {
            0 => self.place(),
            twins => format!("{}#{}", self.place(), twins + 1),
        }
    }

    fn place(&self) -> String {
        match &self.address {
            Address::Tcp { host, port } => {
                let scheme = if self.scheme == Scheme::Https { "https" } else { "http" };
                format!("{scheme}://{}:{port}", bracketed(host))
            }
            Address::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    /// Whether both lead to the same resource of the same server, whoever it is asked as.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        let host = |url: &Self| url.authority().to_ascii_lowercase();
        let address = match (&self.address, &other.address) {
            (Address::Unix(one), Address::Unix(other)) => one == other,
            (Address::Tcp { .. }, Address::Tcp { .. }) => host(self) == host(other),
            _ => false,
        };
        (self.scheme, &self.path, &self.query) == (other.scheme, &other.path, &other.query) && address
    }

    /// Nobody between us and the backend: a Unix socket, `localhost` or a loopback address.
    pub(crate) fn is_local(&self) -> bool {
        match &self.address {
            Address::Tcp { host, .. } => {
                host.eq_ignore_ascii_case("localhost")
                    || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
            }
            Address::Unix(_) => true,
        }
    }
}

impl fmt::Debug for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackendUrl({})", self.label())
    }
}

fn split(text: &str) -> Vec<&str> {
    let mut items = Vec::new();
    let mut start = 0;
    for (at, _) in text.match_indices(',') {
        if scheme(text[at + 1..].trim_start()).is_some_and(|(_, rest)| rest.starts_with('/')) {
            items.push(&text[start..at]);
            start = at + 1;
        }
    }
    items.push(&text[start..]);
    items
}

/// Lower-case scheme and what follows its colon. Any scheme, known or not, so that a misspelt one in a list
/// is an error and not part of the URL before it.
fn scheme(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.split_once(':')?;
    let well_formed = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-".contains(&byte));
    if !well_formed || !rest.starts_with('/') {
        return None;
    }
    let known = ["http", "https", "unix"].into_iter().find(|known| known.eq_ignore_ascii_case(name));
    Some((known.unwrap_or(name), rest))
}

fn parse_host_port(text: &str, scheme: Scheme) -> Result<(String, u16), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) =
                rest.split_once(']').ok_or("has a [ without its ]; write e.g. [2001:db8::1]:6000")?;
            if !host.contains(':') {
                return Err("has brackets around something that is no IPv6 address; remove them".into());
            }
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err("has something between ] and its port; remove it".into()),
            }
        }
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("has an IPv6 address without brackets, or a user without its @; \
                            write e.g. [2001:db8::1]:6000"
                    .into());
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err("has no host; write e.g. http://127.0.0.1:6000/auth".into());
    }
    host::check(host)?;
    let port = match port {
        None => default_port(scheme),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0') => {
            digits.parse().map_err(|_| BAD_PORT)?
        }
        Some(_) => return Err(BAD_PORT.into()),
    };
    Ok((host.to_owned(), port))
}

const BAD_PORT: &str =
    "has a port that is not a number from 1 to 65535 (in userinfo, write /, ? and @ percent-encoded)";

fn parse_target(target: &str) -> Result<(String, Option<String>), String> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    let forbidden = |c: &char| !matches!(c, '!'..='~') || r#""<>\^`{|}"#.contains(*c);
    match target.chars().find(forbidden) {
        // The character is no secret by itself, and the operator must find it.
        Some(bad) => Err(format!("has {bad:?}, which may not stand in a request; percent-encode it")),
        None if path.is_empty() => Ok(("/".to_owned(), query)),
        None => Ok((path.to_owned(), query)),
    }
}

/// Userinfo to the value of `Authorization` (RFC 7617).
fn basic(userinfo: &str) -> Result<String, String> {
    if userinfo.is_empty() {
        return Err("has an @ without a user before it; remove it".into());
    }
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let (user, password) = (percent_decoded(user)?, percent_decoded(password)?);
    if user.contains(&b':') {
        return Err("has a colon in its user name, which Basic authorisation cannot carry".into());
    }
    let pair = [&user[..], b":", &password[..]].concat();
    if pair.iter().any(u8::is_ascii_control) {
        return Err("has a control character in its userinfo, which Basic authorisation cannot carry".into());
    }
    Ok(format!("Basic {}", STANDARD.encode(pair)))
}

fn percent_decoded(text: &str) -> Result<Vec<u8>, String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => decoded.push((high * 16 + low) as u8),
            _ => {
                return Err(
                    "has a % in its userinfo without two hex digits; write %25 for a % that is meant".into(),
                );
            }
        }
    }
    Ok(decoded)
}

fn default_port(scheme: Scheme) -> u16 {
    if scheme == Scheme::Https { 443 } else { 80 }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> BackendUrl {
        BackendUrl::parse(text).unwrap_or_else(|why| panic!("{text} {why}"))
    }

    #[test]
    fn every_form_of_a_url_is_taken_apart_as_documented() {
        // text, Host, label, path, query
        let table = [
            ("http://127.0.0.1:6000/auth", "127.0.0.1:6000", "http://127.0.0.1:6000", "/auth", None),
            ("http://a.example", "a.example", "http://a.example:80", "/", None),
            ("http://a.example:80/", "a.example", "http://a.example:80", "/", None),
            ("https://A.example:443/x", "A.example", "https://A.example:443", "/x", None),
            ("https://a.example:80/x", "a.example:80", "https://a.example:80", "/x", None),
            ("HTTP://a.example?k=1&b", "a.example", "http://a.example:80", "/", Some("k=1&b")),
            ("http://a.example/?", "a.example", "http://a.example:80", "/", Some("")),
            ("http://a/x?k=a?b/%zz,c", "a", "http://a:80", "/x", Some("k=a?b/%zz,c")),
            ("http://[::1]/x", "[::1]", "http://[::1]:80", "/x", None),
            ("https://[2001:db8::1]:8443/x", "[2001:db8::1]:8443", "https://[2001:db8::1]:8443", "/x", None),
            ("unix:/run/auth.sock:/check?k=1", "localhost", "unix:/run/auth.sock", "/check", Some("k=1")),
            ("unix:/run/a:b.sock:/x:/y", "localhost", "unix:/run/a:b.sock", "/x:/y", None),
            ("unix:/run/auth.sock", "localhost", "unix:/run/auth.sock", "/", None),
            ("  http://a/x  ", "a", "http://a:80", "/x", None),
        ];
        for (text, authority, label, path, query) in table {
            let url = parsed(text);
            assert_eq!(
                (url.authority().as_str(), url.label().as_str(), url.path.as_str(), url.query.as_deref()),
                (authority, label, path, query),
                "{text}"
            );
            assert_eq!(url.authorization, None, "{text}");
        }
        assert_eq!(parsed("unix:/run/a.sock:/x").address, Address::Unix("/run/a.sock".into()));
        assert_eq!(parsed("http://[::1]:9/").address, Address::Tcp { host: "::1".into(), port: 9 });
    }

    #[test]
    fn userinfo_becomes_basic_authorisation() {
        let value = |text| parsed(text).authorization.unwrap();
        assert_eq!(value("https://Aladdin:open%20sesame@a/"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(value("http://key@a/"), format!("Basic {}", STANDARD.encode("key:")));
        assert_eq!(value("http://u:p:q%40@a/"), format!("Basic {}", STANDARD.encode("u:p:q@")));
        assert_eq!(value("http://u@v:p@a/"), format!("Basic {}", STANDARD.encode("u@v:p")));
        assert_eq!(parsed("http://u:p@a.example:81/").authority(), "a.example:81");
    }

    #[test]
    fn urls_of_one_server_have_labels_of_their_own() {
        let urls = BackendUrl::parse_list("http://a/x,http://b/x,http://a:80/y,http://u:p@a/x").unwrap();
        let labels: Vec<_> = urls.iter().map(BackendUrl::label).collect();
        assert_eq!(labels, ["http://a:80", "http://b:80", "http://a:80#2", "http://a:80#3"]);
    }

    #[test]
    fn what_is_no_backend_url_is_refused_without_being_quoted() {
        let table = [
            ("", "no scheme"),
            ("SECRET.example/auth", "no scheme"),
            ("SECRET:6000/auth", "no scheme"),
            ("ftp://SECRET/", "unknown scheme"),
            ("http://a/?k=1,SECRET:/b", "unknown scheme"),
            ("http:/SECRET/", "one slash"),
            ("http:///SECRET", "no host"),
            ("http://:80/SECRET", "no host"),
            ("http://SECRET/#x", "fragment"),
            ("http://SECRET/x?y#", "fragment"),
            ("http://SECRET:/", "port"),
            ("http://SECRET:0/", "port"),
            ("http://SECRET:080/", "port"),
            ("http://SECRET:65536/", "port"),
            ("http://SECRET:+80/", "port"),
            ("http://user:SECRET/", "port"),
            ("http://user:SECRET/word@host/", "port"),
            ("http://::1/SECRET", "IPv6 address without brackets"),
            ("http://[::1/SECRET", "[ without its ]"),
            ("http://[SECRET]/", "no IPv6 address"),
            ("http://[::SECRET]/", "no valid IPv6"),
            ("http://[fe80::1%25eth0]/", "zone"),
            ("http://[::1]SECRET/", "between ] and its port"),
            ("http://SECRET..example/", "no valid host name"),
            ("http://SECRÉT/", "xn--"),
            ("http://127.0.0.256/SECRET", "looks like an IPv4"),
            ("http://@a/SECRET", "without a user"),
            ("http://SECRET%zz@a/", "two hex digits"),
            ("http://SECRET%0d%0aX@a/", "control character"),
            ("http://SEC%3ARET:p@a/", "colon in its user name"),
            ("http://a/SEC RET", "' ', which may not"),
            ("http://a/SECRET{ip}", "'{', which may not"),
            ("http://a/SECRET\u{7f}", "which may not"),
            ("http://a/SECRET\r\nX: y", "'\\r', which may not"),
            ("http://a/SECRÉT", "'É', which may not"),
            ("http://a/SECRET,", "ends with a comma"),
            ("unix:SECRET.sock:/x", "no scheme"),
            ("unix://run/SECRET:/x", "absolute path of a socket"),
            ("unix:/run/SECRET?x=1", "no request path"),
            ("unix:/run/SECRET\0:/x", "control character"),
        ];
        for (text, expected) in table {
            let error = BackendUrl::parse_list(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
            assert!(!error.contains("SEC"), "{text:?} is quoted: {error}");
        }
        assert!(BackendUrl::parse(&format!("unix:/{}", "x".repeat(107))).unwrap_err().contains("108 bytes"));
        assert!(
            BackendUrl::parse(&format!("http://a/{}", "x".repeat(8192))).unwrap_err().contains("8201 bytes")
        );
    }

    #[test]
    fn lists_are_split_where_a_scheme_follows_a_comma() {
        let labels = |text: &str| -> Vec<String> {
            BackendUrl::parse_list(text).unwrap().iter().map(BackendUrl::label).collect()
        };
        assert_eq!(
            labels("http://a/x?k=1,2, https://b/,unix:/run/c.sock:/z,HTTP://d"),
            ["http://a:80", "https://b:443", "unix:/run/c.sock", "http://d:80"]
        );
        assert_eq!(
            BackendUrl::parse_list("http://a/x?k=1,b:2").unwrap()[0].query.as_deref(),
            Some("k=1,b:2")
        );
        let error = |text: &str| BackendUrl::parse_list(text).unwrap_err();
        assert!(error("http://a/,htp://b/").starts_with("URL 2 has an unknown scheme"));
        assert!(error(",http://b/").starts_with("URL 1 has no scheme"));
        assert!(error("http://a/,,http://b/").starts_with("URL 1 ends with a comma"));
        assert!(error(&["http://a/"; 17].join(",")).starts_with("17 URLs are too many"));
    }

    #[test]
    fn local_backends_are_known() {
        for text in
            ["http://127.0.0.1/", "http://127.9.9.9/", "http://[::1]/", "http://LocalHost/", "unix:/a:/b"]
        {
            assert!(parsed(text).is_local(), "{text}");
        }
        for text in
            ["http://10.0.0.1/", "http://localhost.example/", "http://[2001:db8::1]/", "http://0.0.0.0/"]
        {
            assert!(!parsed(text).is_local(), "{text}");
        }
    }

    #[test]
    fn debug_shows_the_label_alone() {
        let text = format!("{:?}", parsed("https://u:SECRET@a/SECRET?k=SECRET"));
        assert_eq!(text, "BackendUrl(https://a:443)");
    }
}
