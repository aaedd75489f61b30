//! A stand-in for Ministra's `chk_flussonic_tmp_link.php` ("Temporary URL - Flussonic support").

use std::time::Duration;

use super::facts::{Basis, Fact, fact};
use super::http::{Answer, Request};
use super::tokens::Tokens;

const PATH: &[u8] = b"/stalker_portal/server/api/chk_flussonic_tmp_link.php";
const LIFETIME: Duration = Duration::from_secs(5);

pub(crate) static FACTS: [Fact; 13] = [
    fact("path", "/stalker_portal/server/api/chk_flussonic_tmp_link.php", Basis::Measured),
    fact("other paths", "404", Basis::Assumed),
    fact("known token", "200", Basis::Measured),
    fact("unknown or missing token", "403, empty body", Basis::Measured),
    fact("token 0 or empty", "no token: 403, even if one of that text exists", Basis::Measured),
    fact("other parameters and headers", "not read", Basis::Measured),
    fact("lifetime", "5 s from creation, then 403", Basis::Measured),
    fact("use", "does not consume the token, nor prolong it", Basis::Measured),
    fact("X-AuthDuration", "36000", Basis::Measured),
    fact("X-Unique", "true", Basis::Measured),
    fact("X-Max-Sessions", "10", Basis::Measured),
    fact("X-UserId", "the user for whom the token was made", Basis::Measured),
    fact("body", "empty", Basis::Measured),
];

pub(crate) struct Ministra {
    pub(crate) tokens: Tokens,
}

impl Ministra {
    pub(crate) fn new() -> Self {
        Self { tokens: Tokens::new(LIFETIME) }
    }

    pub(crate) fn answer(&self, request: &Request<'_>) -> Answer {
        if request.path != PATH {
            return Answer::empty(404);
        }
        // PHP's empty(): "0" is as good as nothing.
        let token = request.parameter("token").filter(|token| !token.is_empty() && token != b"0");
        match token.and_then(|token| self.tokens.find(&token)).filter(|token| !token.is_expired()) {
            Some(token) => Answer {
                headers: vec![
                    ("X-AuthDuration", "36000".to_owned()),
                    ("X-Unique", "true".to_owned()),
                    ("X-Max-Sessions", "10".to_owned()),
                    ("X-UserId", token.user),
                ],
                ..Answer::empty(200)
            },
            None => Answer::empty(403),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::testing::ask;
    use super::*;

    const URL: &str = "/stalker_portal/server/api/chk_flussonic_tmp_link.php";

    #[tokio::test(start_paused = true)]
    async fn each_fact_is_as_the_table_says() {
        for fact in &FACTS {
            let ministra = Ministra::new();
            let create = |query: &str| {
                ask(|request| Answer::with_body(200, "", ministra.tokens.create(request)), query).body
            };
            let asked = |query: &str| ask(|request| ministra.answer(request), &format!("{URL}{query}"));
            let header = |name: &str| {
                let answer = asked("?token=t");
                answer.headers.iter().find(|(found, _)| *found == name).map(|(_, value)| value.clone())
            };
            create("/?token=t&user=42");
            match fact.subject {
                "path" => {
                    assert_eq!(fact.behaviour, URL);
                    assert_eq!(asked("?token=t").status, 200);
                }
                "other paths" => assert_eq!(ask(|request| ministra.answer(request), "/?token=t").status, 404),
                "known token" => {
                    assert_eq!(asked("?token=t").status, 200);
                    let random = String::from_utf8(create("/")).unwrap();
                    assert_eq!(asked(&format!("?token={random}")).status, 200);
                }
                "unknown or missing token" => {
                    for query in ["", "?token=u", "?token[]=t", "?x=t"] {
                        assert_eq!(asked(query), Answer::empty(403), "{query}");
                    }
                }
                "token 0 or empty" => {
                    create("/?token=0");
                    assert_eq!(asked("?token=0").status, 403);
                    assert_eq!(asked("?token=").status, 403);
                }
                "other parameters and headers" => assert_eq!(asked("?token=t&ip=9.9.9.9&name=x").status, 200),
                "lifetime" => {
                    tokio::time::advance(Duration::from_millis(4999)).await;
                    assert_eq!(asked("?token=t").status, 200);
                    tokio::time::advance(Duration::from_millis(1)).await;
                    assert_eq!(asked("?token=t").status, 403);
                }
                "use" => {
                    tokio::time::advance(Duration::from_secs(3)).await;
                    assert_eq!(asked("?token=t").status, 200);
                    assert_eq!(asked("?token=t").status, 200);
                    tokio::time::advance(Duration::from_secs(3)).await;
                    assert_eq!(asked("?token=t").status, 403);
                }
                "X-AuthDuration" | "X-Unique" | "X-Max-Sessions" => {
                    assert_eq!(header(fact.subject).as_deref(), Some(fact.behaviour));
                }
                "X-UserId" => assert_eq!(header("X-UserId").as_deref(), Some("42")),
                "body" => assert!(asked("?token=t").body.is_empty()),
                other => panic!("no assertion for {other}"),
            }
        }
    }
}
