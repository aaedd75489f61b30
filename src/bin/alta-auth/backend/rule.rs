//! The rules a backend can keep, and what all have beside their own.

use super::facts::Fact;
use super::http::{Answer, Request};
use super::{custom, ministra, smarty};
use crate::args::RuleName;

/// What decides.
pub(crate) enum Rule {
    Custom,
    Ministra(ministra::Ministra),
    Smarty(smarty::Smarty),
}

impl Rule {
    pub(crate) fn new(name: RuleName) -> Self {
        match name {
            RuleName::Custom => Self::Custom,
            RuleName::Ministra => Self::Ministra(ministra::Ministra::new()),
            RuleName::Smarty => Self::Smarty(smarty::Smarty::new(403)),
            RuleName::Smarty200 => Self::Smarty(smarty::Smarty::new(200)),
        }
    }

    pub(crate) fn answer(&self, request: &Request<'_>) -> Answer {
        match self {
            Self::Custom => custom::answer(request),
            Self::Ministra(ministra) => ministra.answer(request),
            Self::Smarty(smarty) => smarty.answer(request),
        }
    }

    /// `/_alta/create`; the reference rule has nothing to create.
    pub(crate) fn create(&self, request: &Request<'_>) -> Answer {
        let token = match self {
            Self::Custom => return Answer::empty(404),
            Self::Ministra(ministra) => ministra.tokens.create(request),
            Self::Smarty(smarty) => smarty.tokens.create(request),
        };
        Answer::with_body(200, "text/plain", token)
    }
}

pub(crate) fn facts(name: RuleName) -> &'static [Fact] {
    match name {
        RuleName::Custom => &custom::FACTS,
        RuleName::Ministra => &ministra::FACTS,
        RuleName::Smarty => &smarty::FACTS_403,
        RuleName::Smarty200 => &smarty::FACTS_200,
    }
}

/// What the rules' own tests share: a request as text, an answer as value.
#[cfg(test)]
pub(crate) mod testing {
    use super::super::http::{Answer, Parsed, Request};

    pub(crate) fn ask(answer: impl FnOnce(&Request<'_>) -> Answer, target: &str) -> Answer {
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: h\r\nX-Real-Ip: 192.0.2.7\r\n\r\n");
        match Request::parse(bytes.as_bytes()) {
            Parsed::Complete { request, .. } => answer(&request),
            _ => panic!("not a request: {target}"),
        }
    }
}
