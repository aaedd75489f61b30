//! The decision in words: what it is, why, and what to look at next.

use std::fmt::Write as _;
use std::time::Duration;

use alta_auth::{Cause, Decision, Origin, ProbeAttempt, ProbeReport};

use crate::human;

/// Appends the decision. `location` and `user` are fit to show.
pub(crate) fn decision(text: &mut String, report: &ProbeReport, location: &str, user: &str) {
    let decision = &report.decision;
    if decision.origin == Origin::Default {
        let action = if report.uncorroborated {
            "allow, but nobody else met an outage (fail_open = corroborated): denied".to_owned()
        } else {
            decision.verdict.to_string()
        };
        let _ = writeln!(
            text,
            "* UNDETERMINED ({}): the backend gave no answer; the default action is {action}",
            decision.cause.name(),
        );
        let decisive = report.outage.and_then(|index| report.attempts.get(index));
        let _ = writeln!(text, "* {}", no_answer(decision.cause, decisive, decision.http_status));
        return;
    }
    let status = decision.http_status.map_or_else(String::new, |status| format!(" with status {status}"));
    if decision.allows() {
        let _ = writeln!(text, "* ALLOW: the backend allows{status}");
    } else {
        let _ = writeln!(text, "* DENY: the backend refuses{status}: {}", decision.detail());
    }
    said(text, decision, location, user);
}

/// What the backend added.
fn said(text: &mut String, decision: &Decision, location: &str, user: &str) {
    if !decision.allows() && decision.http_status.is_some_and(|status| (300..400).contains(&status)) {
        let _ = writeln!(
            text,
            "* A redirect is never followed: it is a refusal. Set backend.url to the final URL"
        );
    }
    if !location.is_empty() {
        let _ = writeln!(text, "* Location: {location}");
    }
    if !decision.ttl.is_zero() {
        let _ = writeln!(text, "* The decision may be reused for {}", lifetime(decision.ttl));
    }
    if !user.is_empty() {
        let _ = writeln!(text, "* User: {user}");
    }
    if decision.max_sessions > 0 {
        let _ = writeln!(
            text,
            "* At most {} of this user",
            human::counted(decision.max_sessions.into(), "session")
        );
    }
    if decision.unique {
        let _ = writeln!(text, "* The session must be the user's only one for this stream (X-Unique)");
    }
}

/// Of a short one a part of a second matters.
fn lifetime(ttl: Duration) -> String {
    if ttl < Duration::from_secs(10) && ttl.subsec_nanos() > 0 {
        human::time(ttl)
    } else {
        format!("{} s", ttl.as_secs())
    }
}

/// Refused, or hanging, or what else; and what to look at.
fn no_answer(cause: Cause, attempt: Option<&ProbeAttempt>, status: Option<u16>) -> String {
    let (endpoint, failure, stage) = attempt.map_or(("the backend", "", ""), |attempt| {
        (attempt.endpoint.as_str(), attempt.failure.as_str(), attempt.stage)
    });
    let total = attempt.map_or(Duration::ZERO, |attempt| attempt.total);
    match cause {
        Cause::Resolve => {
            "The name cannot be resolved: check the host in backend.url, and this machine's resolver"
                .to_owned()
        }
        Cause::Connect if failure.contains("refused") => format!(
            "The connection is refused: the machine answers, but nothing listens at {endpoint}. Is the backend running, and on this port?"
        ),
        Cause::Connect if failure.contains(" within ") => connection_hangs(endpoint, total),
        Cause::Connect => {
            format!(
                "There is no connection to {endpoint}: check the address, the route and the socket's permissions"
            )
        }
        Cause::Tls => format!(
            "The connection stands, but the TLS handshake with {endpoint} failed: check the certificate, its names and dates, and tls.ca_file"
        ),
        Cause::Timeout => match stage {
            "resolving the name" => format!(
                "The name is not resolved within {}: the resolver of this machine hangs",
                human::time(total)
            ),
            "in the TLS handshake" => format!(
                "The TLS handshake hangs: {endpoint} accepted the connection and went no further in {}. Is that an HTTPS port?",
                human::time(total)
            ),
            "sending the request" | "waiting for the first byte of the answer" => format!(
                "The response hangs: {endpoint} accepted the connection, but not one byte of an answer came in {}. The backend is stopped, overloaded, or serves one request at a time (php -S)",
                human::time(total)
            ),
            "reading the answer's header section" | "reading the answer's body" => format!(
                "The response hangs in the middle: it began after {} and was not complete after {}. Look at what slows the backend down",
                attempt.and_then(|attempt| attempt.first_byte).map_or_else(|| "-".to_owned(), human::time),
                human::time(total)
            ),
            _ => connection_hangs(endpoint, total),
        },
        Cause::Reset => match status {
            Some(status) => format!(
                "{endpoint} answered with status {status}, and closed the connection before its answer was complete: look for a crash in the backend, or for what ends answers on the way"
            ),
            None => format!(
                "{endpoint} accepted the connection and closed it without an answer: it crashed, was restarted, or does not speak the protocol of backend.url"
            ),
        },
        // Of HTTP/2 there are no bytes to look at.
        Cause::Protocol
            if status.is_some() || attempt.is_some_and(|attempt| attempt.reply.starts_with(b"HTTP/")) =>
        {
            format!(
                "{endpoint} speaks HTTP, but its answer was cut off or breaks a rule of HTTP: look for a crash in the backend, or for what changes answers on the way"
            )
        }
        Cause::Protocol if attempt.is_some_and(|attempt| attempt.protocol == "HTTP/2") => format!(
            "What {endpoint} answered is not proper HTTP/2: does the backend speak it (http.version), or is another service on that port?"
        ),
        Cause::Protocol => {
            format!(
                "What {endpoint} answered is not proper HTTP: is another service on that port, or is it HTTPS?"
            )
        }
        Cause::Status => format!(
            "The backend answered {}, which unavailable_statuses counts as an outage",
            status.map_or_else(|| "a status".to_owned(), |status| status.to_string())
        ),
        Cause::Overload => {
            "A limit of this machine was reached: connections, descriptors or ports".to_owned()
        }
        Cause::None | Cause::BreakerOpen | Cause::Shutdown | Cause::Internal => {
            "That should not happen to a single check; please report it".to_owned()
        }
    }
}

fn connection_hangs(endpoint: &str, total: Duration) -> String {
    format!(
        "The connection hangs: {endpoint} neither accepted nor refused it in {}. A firewall drops the packets, or the address is wrong",
        human::time(total)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(stage: &'static str, failure: &str) -> ProbeAttempt {
        let mut attempt = ProbeAttempt::default();
        "http://192.0.2.1:80".clone_into(&mut attempt.endpoint);
        attempt.stage = stage;
        failure.clone_into(&mut attempt.failure);
        attempt
    }

    #[test]
    fn refused_and_hanging_are_told_apart_at_each_stage() {
        for (cause, stage, failure, words) in [
            (Cause::Connect, "connecting", "connection refused by h", "The connection is refused"),
            (Cause::Connect, "connecting", "no connection to h within 500 ms", "The connection hangs"),
            (Cause::Connect, "connecting", "no route to host", "There is no connection"),
            (Cause::Timeout, "connecting", "", "The connection hangs"),
            (Cause::Timeout, "in the TLS handshake", "", "The TLS handshake hangs"),
            (Cause::Timeout, "waiting for the first byte of the answer", "", "The response hangs: "),
            (Cause::Timeout, "reading the answer's header section", "", "The response hangs in the middle"),
        ] {
            let said = no_answer(cause, Some(&attempt(stage, failure)), None);
            assert!(said.starts_with(words), "{said}");
        }
    }

    #[test]
    fn a_broken_answer_is_told_from_another_service() {
        let mut attempt = attempt("reading the answer's header section", "two lengths");
        for (reply, words) in [
            (&b"HTTP/1.1 200 OK\r\n"[..], "http://192.0.2.1:80 speaks HTTP, but"),
            (b"SSH-2.0-", "What http://192.0.2.1:80 answered is not proper HTTP"),
            (b"", "What http://192.0.2.1:80 answered is not proper HTTP"),
        ] {
            attempt.reply = reply.to_vec();
            let said = no_answer(Cause::Protocol, Some(&attempt), None);
            assert!(said.starts_with(words), "{said}");
        }
        (attempt.reply, attempt.protocol) = (Vec::new(), "HTTP/2");
        for (status, words) in [
            (Some(200), "http://192.0.2.1:80 speaks HTTP, but"),
            (None, "What http://192.0.2.1:80 answered is not proper HTTP/2"),
        ] {
            let said = no_answer(Cause::Protocol, Some(&attempt), status);
            assert!(said.starts_with(words), "{said}");
        }
    }
}
