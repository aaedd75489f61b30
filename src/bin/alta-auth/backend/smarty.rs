//! A stand-in for Smarty's `streamservice/token/check/`, in the two variants that its documentation leaves
//! open: an error is 403 with JSON, or 200 with JSON.

use std::time::Duration;

use super::facts::{Basis, Fact, fact};
use super::http::{Answer, Request};
use super::tokens::Tokens;

const PATH: &[u8] = b"/tvmiddleware/api/streamservice/token/check/";
/// Long enough for any test; `lifetime=` says otherwise.
const LIFETIME: Duration = Duration::from_hours(1);

const ERROR_403: Fact = fact("status of an error", "403", Basis::Assumed);
const ERROR_200: Fact = fact("status of an error", "200", Basis::Assumed);

pub(crate) static FACTS_403: [Fact; 12] = table(ERROR_403);
pub(crate) static FACTS_200: [Fact; 12] = table(ERROR_200);

const fn table(status: Fact) -> [Fact; 12] {
    [
        fact("path", "/tvmiddleware/api/streamservice/token/check/", Basis::Documented),
        fact("without the trailing slash", "301 to the path with it", Basis::Assumed),
        fact("other paths", "404", Basis::Assumed),
        fact("valid token", "200, {\"error\":0}", Basis::Documented),
        fact("expired token", "{\"error\":1}", Basis::Documented),
        fact("other content", "{\"error\":2}, if `name` is passed and differs", Basis::Documented),
        fact("other address", "{\"error\":3}, if `ip` is passed and differs", Basis::Documented),
        fact("ip and name not passed", "not compared", Basis::Documented),
        fact("unknown or missing token", "{\"error\":1}", Basis::Assumed),
        fact("several errors at once", "the smallest number", Basis::Assumed),
        fact("Content-Type", "application/json", Basis::Assumed),
        status,
    ]
}

pub(crate) struct Smarty {
    pub(crate) tokens: Tokens,
    error_status: u16,
}

impl Smarty {
    pub(crate) fn new(error_status: u16) -> Self {
        Self { tokens: Tokens::new(LIFETIME), error_status }
    }

    pub(crate) fn answer(&self, request: &Request<'_>) -> Answer {
        if request.path == &PATH[..PATH.len() - 1] {
            let slash = str::from_utf8(PATH).expect("PATH is ASCII").to_owned();
            return Answer { headers: vec![("Location", slash)], ..Answer::empty(301) };
        }
        if request.path != PATH {
            return Answer::empty(404);
        }
        let error = self.error(request);
        let status = if error == 0 { 200 } else { self.error_status };
        let body = format!("{{\"error\":{error}}}").into_bytes();
        Answer { allows: error == 0, ..Answer::with_body(status, "application/json", body) }
    }

    fn error(&self, request: &Request<'_>) -> u8 {
        let found = request.parameter("token").and_then(|token| self.tokens.find(&token));
        let Some(token) = found.filter(|token| !token.is_expired()) else { return 1 };
        if request.parameter("name").is_some_and(|name| name != token.name) {
            return 2;
        }
        if request.parameter("ip").is_some_and(|ip| ip != token.ip) {
            return 3;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::testing::ask;
    use super::*;

    const URL: &str = "/tvmiddleware/api/streamservice/token/check/";

    fn assert_table(facts: &[Fact], error_status: u16) {
        let smarty = Smarty::new(error_status);
        let create = |query: &str| {
            ask(|request| Answer::with_body(200, "", smarty.tokens.create(request)), query).body
        };
        let asked = |query: &str| ask(|request| smarty.answer(request), &format!("{URL}{query}"));
        let expect = |query: &str, error: u8| {
            let answer = asked(query);
            assert_eq!(answer.body, format!("{{\"error\":{error}}}").as_bytes(), "{query}");
            assert_eq!(answer.allows, error == 0, "{query}");
            assert_eq!(answer.status, if error == 0 { 200 } else { error_status }, "{query}");
        };
        create("/?token=t&ip=192.0.2.7&name=ch");
        create("/?token=old&ip=192.0.2.7&name=ch&lifetime=0");
        for fact in facts {
            match fact.subject {
                "path" => {
                    assert_eq!(fact.behaviour, URL);
                    expect("?token=t", 0);
                }
                "without the trailing slash" => {
                    let answer = ask(
                        |request| smarty.answer(request),
                        &format!("{}?token=t", URL.trim_end_matches('/')),
                    );
                    assert_eq!((answer.status, answer.allows), (301, false));
                    assert_eq!(answer.headers, [("Location", URL.to_owned())]);
                }
                "other paths" => assert_eq!(ask(|request| smarty.answer(request), "/?token=t").status, 404),
                "valid token" => expect("?token=t&ip=192.0.2.7&name=ch", 0),
                "expired token" => expect("?token=old", 1),
                "other content" => expect("?token=t&name=ch2", 2),
                "other address" => expect("?token=t&ip=192.0.2.8", 3),
                "ip and name not passed" => {
                    expect("?token=t&ip=192.0.2.7", 0);
                    expect("?token=t&name=ch", 0);
                }
                "unknown or missing token" => {
                    expect("?token=u", 1);
                    expect("", 1);
                }
                "several errors at once" => {
                    expect("?token=old&name=ch2&ip=192.0.2.8", 1);
                    expect("?token=t&name=ch2&ip=192.0.2.8", 2);
                }
                "Content-Type" => {
                    assert_eq!(asked("?token=t").headers, [("Content-Type", fact.behaviour.to_owned())]);
                }
                "status of an error" => {
                    assert_eq!(fact.behaviour, error_status.to_string());
                    assert_eq!(asked("?token=u").status, error_status);
                }
                other => panic!("no assertion for {other}"),
            }
        }
    }

    #[test]
    fn each_fact_of_the_variant_with_403_is_as_the_table_says() {
        assert_table(&FACTS_403, 403);
    }

    #[test]
    fn each_fact_of_the_variant_with_200_is_as_the_table_says() {
        assert_table(&FACTS_200, 200);
    }
}
