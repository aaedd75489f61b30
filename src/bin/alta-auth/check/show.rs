//! One report as text: `*` what happens, `>` what is sent, `<` what comes back, two spaces before a body.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use alta_auth::{ProbeAttempt, ProbeReport};

use super::{explain, words};
use crate::client::Client;
use crate::human;
use crate::redact::{self, MASK, Secrets};

/// More of a body than this helps nobody.
const MOST_BODY: usize = 2048;

/// Reply headers that hold numbers, times and words of the protocol: a token that looks like them is none.
const PLAIN: [&str; 7] = [
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "date",
    "x-authduration",
];

/// Everything that one check did, and the decision.
pub(crate) fn report(report: &ProbeReport, client: &Client, show_secrets: bool, explain: bool) -> String {
    let mask = (!show_secrets).then(|| secrets(report, client));
    let mut text = String::new();
    for warning in &report.warnings {
        let _ = writeln!(text, "* Warning: {warning}");
    }
    for attempt in &report.attempts {
        show_attempt(&mut text, attempt, mask.as_ref());
        if explain {
            explain::stages(&mut text, attempt);
        }
    }
    let location = report.decision.location().as_bytes();
    let user = report.decision.user_id().as_bytes();
    let (location, user) = match &mask {
        Some(secrets) => (secrets.masked(&redact::target(location)), secrets.masked(user)),
        None => (location.to_vec(), user.to_vec()),
    };
    words::decision(&mut text, report, &redact::printable(&location), &redact::printable(&user));
    if explain {
        explain::rules(&mut text, &report.explanation, show_secrets);
    }
    text
}

/// What must not be shown wherever it turns up: the client's values, and all that was sent along.
fn secrets(report: &ProbeReport, client: &Client) -> Secrets {
    let mut secrets = Secrets::default();
    secrets.add_query(&client.query);
    for attempt in &report.attempts {
        for (index, line) in lines(&attempt.request).enumerate() {
            if index == 0 {
                let target = line.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
                if let Some(mark) = target.iter().position(|&byte| byte == b'?') {
                    secrets.add_query(&target[mark + 1..]);
                }
            } else if let Some((name, value)) = header(line)
                && !redact::is_open(name)
            {
                secrets.add_header(name, value);
            }
        }
    }
    secrets
}

fn show_attempt(text: &mut String, attempt: &ProbeAttempt, mask: Option<&Secrets>) {
    let _ = writeln!(text, "* Connecting to {}", attempt.endpoint);
    if let (Some(peer), Some(took)) = (&attempt.peer, attempt.connect)
        && attempt.stage != "connecting"
    {
        let _ = writeln!(text, "* Connected to {peer} in {}", human::time(took));
    }
    if let Some(tls) = &attempt.tls {
        let _ = writeln!(text, "* Encrypted with {tls}");
    }
    for (index, line) in lines(&attempt.request).enumerate() {
        let _ = writeln!(text, "> {}", redact::printable(&request_line(index, line, mask)));
    }
    show_reply(text, &attempt.reply, mask);
    // The frames of HTTP/2 are no text; what was read out of them is.
    if let (true, Some(status)) = (attempt.reply.is_empty(), attempt.status) {
        let _ = writeln!(text, "< {} {status}", attempt.protocol);
    }
    let _ = writeln!(
        text,
        "* Timings: resolve {}, connect {}, TLS {}, first byte {}, total {}",
        time(attempt.resolve),
        time(attempt.connect),
        time(attempt.tls_handshake),
        time(attempt.first_byte),
        human::time(attempt.total)
    );
    if !attempt.failure.is_empty() {
        let failure = match mask {
            Some(secrets) => {
                // Which address failed is said in brackets.
                let addresses =
                    attempt.failure.split(['(', ')']).filter(|text| text.parse::<SocketAddr>().is_ok());
                let known: Vec<&[u8]> =
                    addresses.chain([attempt.endpoint.as_str()]).map(str::as_bytes).collect();
                secrets.masked_but(attempt.failure.as_bytes(), &known)
            }
            None => attempt.failure.clone().into_bytes(),
        };
        let _ = writeln!(text, "* No answer while {}: {}", attempt.stage, redact::printable(&failure));
    }
}

fn time(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), human::time)
}

fn request_line(index: usize, line: &[u8], mask: Option<&Secrets>) -> Vec<u8> {
    if mask.is_none() || line.is_empty() {
        return line.to_vec();
    }
    if index == 0 {
        let words: Vec<Vec<u8>> = line
            .split(|&byte| byte == b' ')
            .enumerate()
            .map(|(index, word)| if index == 1 { redact::target(word) } else { word.to_vec() })
            .collect();
        return words.join(&b' ');
    }
    match header(line) {
        Some((name, _)) if redact::is_open(name) => line.to_vec(),
        Some((name, _)) => [name, b": ", MASK.as_bytes()].concat(),
        None => MASK.as_bytes().to_vec(),
    }
}

fn show_reply(text: &mut String, reply: &[u8], mask: Option<&Secrets>) {
    let mut rest = reply;
    while rest.starts_with(b"HTTP/") {
        // Interim replies are heads before the head.
        let interim = rest.get(9) == Some(&b'1');
        let end = rest.windows(4).position(|window| window == b"\r\n\r\n").map_or(rest.len(), |end| end + 4);
        for (index, line) in lines(&rest[..end]).enumerate() {
            let shown = match mask {
                Some(secrets) if index == 0 => secrets.masked_but(line, &[status_code(line)]),
                Some(secrets) => reply_line(line, secrets),
                None => line.to_vec(),
            };
            let _ = writeln!(text, "< {}", redact::printable(&shown));
        }
        rest = &rest[end..];
        if !interim {
            break;
        }
    }
    let shown = match mask {
        Some(secrets) => secrets.masked(rest),
        None => rest.to_vec(),
    };
    for line in lines(&shown[..shown.len().min(MOST_BODY)]).filter(|line| !line.is_empty()) {
        let _ = writeln!(text, "  {}", redact::printable(line));
    }
    if shown.len() > MOST_BODY {
        let _ = writeln!(text, "  ({} more bytes)", shown.len() - MOST_BODY);
    }
}

/// A status line up to its status, if that is where it stands.
fn status_code(line: &[u8]) -> &[u8] {
    let end = line.get(12).is_none_or(|&byte| byte == b' ');
    let is = line.get(8..12).is_some_and(|code| code[0] == b' ' && code[1..].iter().all(u8::is_ascii_digit));
    if end && is { &line[..12] } else { b"HTTP/" }
}

fn reply_line(line: &[u8], secrets: &Secrets) -> Vec<u8> {
    let Some((name, value)) = header(line) else { return secrets.masked(line) };
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    if PLAIN.into_iter().any(is) {
        return line.to_vec();
    }
    let value = if is("set-cookie") {
        MASK.as_bytes().to_vec()
    } else if is("location") || is("x-location") {
        secrets.masked(&redact::target(value))
    } else {
        secrets.masked(value)
    };
    [&secrets.masked(name), &b": "[..], &value].concat()
}

/// The lines of a head or body, without their ends. The last one only if it is not empty.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|&byte| byte == b'\n').map(|line| {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        line.strip_suffix(b"\r").unwrap_or(line)
    })
}

fn header(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(request: &str, reply: &str) -> ProbeAttempt {
        let mut attempt = ProbeAttempt::default();
        "http://127.0.0.1:6000".clone_into(&mut attempt.endpoint);
        attempt.request = request.as_bytes().to_vec();
        attempt.reply = reply.as_bytes().to_vec();
        attempt
    }

    fn shown(attempt: &ProbeAttempt, secrets: Option<&[&str]>) -> String {
        let mut mask = Secrets::default();
        for secret in secrets.unwrap_or_default() {
            mask.add(secret.as_bytes());
        }
        let mut text = String::new();
        show_attempt(&mut text, attempt, secrets.is_some().then_some(&mask));
        text
    }

    const REQUEST: &str = "GET /auth?key=operator&token=canary HTTP/1.1\r\nHost: h\r\nX-Session-Id: s\r\n\
                           Authorization: Basic canary\r\nX-Api-Key: canary\r\n\r\n";
    const REPLY: &str = "HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 302 No canary\r\n of canary\r\nLocation: http://l/?t=canary\r\n\
                         Set-Cookie: sid=fresh\r\nContent-Length: 12\r\n\r\nbad canary\x1b[2J\r\n";

    #[test]
    fn secrets_are_masked_on_both_sides() {
        let text = shown(&attempt(REQUEST, REPLY), Some(&["canary"]));
        for line in [
            "> GET /auth?key=…&token=… HTTP/1.1",
            "> X-Session-Id: s",
            "> Authorization: …",
            "> X-Api-Key: …",
            "< HTTP/1.1 103 Early",
            "< HTTP/1.1 302 No …",
            "<  of …",
            "< Location: http://l/?t=…",
            "< Set-Cookie: …",
            "< Content-Length: 12",
            "  bad …\\u{1b}[2J",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
        for secret in ["canary", "operator", "fresh"] {
            assert!(!text.contains(secret), "{secret} is in\n{text}");
        }
    }

    #[test]
    fn show_secrets_shows_everything_but_control_bytes() {
        let text = shown(&attempt(REQUEST, REPLY), None);
        assert!(text.contains("> GET /auth?key=operator&token=canary HTTP/1.1\n"));
        assert!(text.contains("< Set-Cookie: sid=fresh\n"));
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn an_answer_without_text_shows_its_status() {
        let mut attempt = attempt(REQUEST, "");
        (attempt.protocol, attempt.status) = ("HTTP/2", Some(302));
        assert!(shown(&attempt, Some(&[])).contains("\n< HTTP/2 302\n"));
    }

    #[test]
    fn a_long_body_is_cut() {
        let reply = format!("HTTP/1.1 403 Forbidden\r\n\r\n{}", "x".repeat(MOST_BODY + 7));
        assert!(shown(&attempt(REQUEST, &reply), Some(&[])).contains("  (7 more bytes)\n"));
    }
}
