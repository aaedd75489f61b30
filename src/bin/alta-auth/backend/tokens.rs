//! The tokens that a stand-in knows. Bounded: the oldest go first, as a test tool may run for days.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::http::Request;

const MOST: usize = 100_000;

/// What a token was made for.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) user: String,
    pub(crate) ip: Vec<u8>,
    pub(crate) name: Vec<u8>,
    expires: Instant,
}

impl Token {
    pub(crate) fn is_expired(&self) -> bool {
        Instant::now() >= self.expires
    }
}

#[derive(Default)]
struct Known {
    tokens: HashMap<Vec<u8>, Token>,
    order: VecDeque<Vec<u8>>,
}

/// Tokens by their text.
pub(crate) struct Tokens {
    lifetime: Duration,
    known: Mutex<Known>,
}

impl Tokens {
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self { lifetime, known: Mutex::default() }
    }

    pub(crate) fn find(&self, token: &[u8]) -> Option<Token> {
        self.known.lock().tokens.get(token).cloned()
    }

    /// `/_alta/create`: makes the token that the query describes, and returns its text.
    pub(crate) fn create(&self, request: &Request<'_>) -> Vec<u8> {
        let text = request.parameter("token").filter(|text| !text.is_empty()).unwrap_or_else(random);
        let lifetime = request
            .parameter("lifetime")
            .and_then(|seconds| String::from_utf8(seconds).ok()?.parse().ok())
            .map_or(self.lifetime, |seconds: u32| Duration::from_secs(u64::from(seconds)));
        let user = request.parameter("user").unwrap_or_else(|| b"1".to_vec());
        let token = Token {
            user: user.into_iter().filter(u8::is_ascii_graphic).map(char::from).collect(),
            ip: request.parameter("ip").unwrap_or_default(),
            name: request.parameter("name").unwrap_or_default(),
            expires: Instant::now() + lifetime,
        };
        let mut known = self.known.lock();
        if known.tokens.insert(text.clone(), token).is_none() {
            known.order.push_back(text.clone());
        }
        if known.order.len() > MOST
            && let Some(oldest) = known.order.pop_front()
        {
            known.tokens.remove(&oldest);
        }
        text
    }
}

fn random() -> Vec<u8> {
    std::iter::repeat_with(|| fastrand::alphanumeric() as u8).take(32).collect()
}
