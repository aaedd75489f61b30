//! The reference rule: `token` equal to `123`.

use super::facts::{Basis, Fact, fact};
use super::http::{Answer, Request};

pub(crate) static FACTS: [Fact; 6] = [
    fact("token=123", "200, empty body", Basis::Documented),
    fact("any other token, or none", "403, empty body", Basis::Documented),
    fact("path", "not looked at", Basis::Documented),
    fact("token twice", "the last one counts, as in PHP", Basis::Measured),
    fact("token[]=123", "another parameter: 403 (as in PHP with display_errors=0)", Basis::Measured),
    fact("comparison", "of bytes; PHP's loose one also allows 0123, 123.0 and 1.23e2", Basis::Assumed),
];

pub(crate) fn answer(request: &Request<'_>) -> Answer {
    Answer::empty(if request.parameter("token").as_deref() == Some(b"123") { 200 } else { 403 })
}

#[cfg(test)]
mod tests {
    use super::super::rule::testing::ask;
    use super::*;

    #[test]
    fn each_fact_is_as_the_table_says() {
        let status = |target: &str| {
            let answer = ask(answer, target);
            assert!(answer.body.is_empty());
            assert_eq!(answer.allows, answer.status == 200);
            answer.status
        };
        for fact in &FACTS {
            match fact.subject {
                "token=123" => assert_eq!(status("/auth?token=123"), 200),
                "any other token, or none" => {
                    for target in [
                        "/auth",
                        "/auth?",
                        "/auth?token",
                        "/auth?token=",
                        "/auth?token=1234",
                        "/auth?Token=123",
                    ] {
                        assert_eq!(status(target), 403, "{target}");
                    }
                }
                "path" => assert_eq!(status("/any/other.php?token=123"), 200),
                "token twice" => {
                    assert_eq!(status("/auth?token=9&token=123"), 200);
                    assert_eq!(status("/auth?token=123&token=9"), 403);
                }
                "token[]=123" => assert_eq!(status("/auth?token[]=123"), 403),
                "comparison" => {
                    for token in ["0123", "123.0", "1.23e2", "%2B123", "+123"] {
                        assert_eq!(status(&format!("/auth?token={token}")), 403, "{token}");
                    }
                    assert_eq!(status("/auth?tok%65n=%31%32%33"), 200);
                }
                other => panic!("no assertion for {other}"),
            }
        }
    }
}
