//! `--probe`: does the backend allow without a valid token? Three questions that must be refused. Each has
//! its own session id, for a backend may remember the session that it allowed.

use std::fmt::Write as _;

use alta_auth::{Config, Origin, StartError};

use super::print;
use crate::client::Client;

pub(crate) enum Finding {
    /// All three were refused.
    None,
    /// None was allowed, but not all were asked and answered.
    Unknown,
    /// At least one was allowed.
    Lax,
}

/// Asks and reports.
pub(crate) fn probe(config: &Config, client: &Client) -> Result<Finding, StartError> {
    print("* Probe: the same client without a valid token; each of these must be refused\n");
    let mut allowed = Vec::new();
    let mut unknown = false;
    for (index, (what, query)) in questions(&client.query).into_iter().enumerate() {
        let mut asked = Client { query, ..client.clone() };
        asked.session_id.extend_from_slice(format!("-probe-{}", index + 1).as_bytes());
        let outcome = match alta_auth::probe(config, &asked.check())? {
            Err(error) => {
                unknown = true;
                format!("not asked: {error}")
            }
            Ok(report) => {
                let decision = report.decision;
                let status = decision.http_status.map_or_else(String::new, |status| format!(" ({status})"));
                if decision.origin == Origin::Default {
                    unknown = true;
                    format!("no answer ({})", decision.cause.name())
                } else if decision.allows() {
                    allowed.push(what);
                    format!("ALLOWED{status}")
                } else {
                    format!("refused{status}")
                }
            }
        };
        print(&format!("*   {what}: {outcome}\n"));
    }
    let mut text = String::new();
    let finding = if !allowed.is_empty() {
        let _ =
            writeln!(text, "* WARNING: THE BACKEND ALLOWS WITHOUT A VALID TOKEN ({})", allowed.join(", "));
        text.push_str(ADVICE);
        Finding::Lax
    } else if unknown {
        text.push_str("* Probe: not every question was answered, so nothing is proved\n");
        Finding::Unknown
    } else {
        text.push_str("* Probe: all refused\n");
        Finding::None
    };
    print(&text);
    Ok(finding)
}

const ADVICE: &str = "\
*   Whoever leaves the token out, or mangles it, is served. Either the backend does not look at the token, or
*   it prints before it sets the status: with PHP's built-in configuration a warning printed before
*   http_response_code(403) turns the refusal into 200. Set display_errors=0 (php.ini, or php -d
*   display_errors=0 -S ...), and test the parameter before use.
";

/// Every parameter is replaced at once: which of them is the token only the backend knows.
fn questions(query: &[u8]) -> [(&'static str, Vec<u8>); 3] {
    let mut names: Vec<&[u8]> = Vec::new();
    for segment in query.split(|&byte| byte == b'&') {
        let name = segment.split(|&byte| byte == b'=').next().unwrap_or_default();
        if !name.is_empty() && name.len() < segment.len() && !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() {
        names.push(b"token");
    }
    let random: Vec<u8> = std::iter::repeat_with(|| fastrand::alphanumeric() as u8).take(24).collect();
    let with = |tail: &[u8]| names.iter().map(|name| [name, tail].concat()).collect::<Vec<_>>().join(&b'&');
    [
        ("without a token", Vec::new()),
        ("with token[]=x", with(b"[]=x")),
        ("with a random token", with(&[b"=", &random[..]].concat())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_parameter_of_the_client_is_replaced() {
        let [none, array, random] = questions(b"token=secret&lang=en&token=2&&flag")
            .map(|(_, query)| String::from_utf8(query).unwrap());
        assert_eq!(none, "");
        assert_eq!(array, "token[]=x&lang[]=x");
        let values: Vec<&str> = random.split('&').map(|pair| pair.split_once('=').unwrap().1).collect();
        assert!(random.starts_with("token=") && random.contains("&lang="), "{random}");
        assert!(values.iter().all(|value| value.len() == 24), "{random}");
    }

    #[test]
    fn without_a_query_the_parameter_is_token() {
        let [_, (_, array), _] = questions(b"");
        assert_eq!(array, b"token[]=x");
    }
}
