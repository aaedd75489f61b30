//! An hour of HLS against Ministra's rule: a token lives 5 s and is not consumed, its answer holds for 36,000 s. So each
//! session must be asked about once, within those 5 s, and never again.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use tokio::time::Instant;

use super::support::{Bench, Peer, check, with_shard};
use super::viewers::{ms, pass, secs};
use crate::check::Check;

const SESSIONS: usize = 20;
const EVERY: u64 = 4;
const HOUR: u64 = 3_600;

/// The portal: tokens with the time of their creation, and how often each was asked about.
#[derive(Default)]
struct Portal {
    created: RefCell<HashMap<String, Instant>>,
    asked: RefCell<HashMap<String, usize>>,
}

impl Portal {
    fn create(&self, token: &str) {
        self.created.borrow_mut().insert(token.to_owned(), Instant::now());
    }

    /// `chk_flussonic_tmp_link.php`
    fn answer(&self, target: &str) -> String {
        let token = target.split_once("token=").map(|(_, token)| token.to_owned()).unwrap_or_default();
        *self.asked.borrow_mut().entry(token.clone()).or_default() += 1;
        let alive = self.created.borrow().get(&token).is_some_and(|created| created.elapsed() <= secs(5));
        if alive {
            "HTTP/1.1 200 OK\r\nX-AuthDuration: 36000\r\nX-Unique: true\r\nX-Max-Sessions: 10\r\n\
             X-UserId: 42\r\nContent-Length: 0\r\n\r\n"
        } else {
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
        }
        .to_owned()
    }
}

/// What an hour came to.
struct Hour {
    /// Requests for each session's token.
    exchanges: Vec<usize>,
    checks: usize,
    refused: usize,
    refused_sessions: usize,
}

/// Each session opens with a token of its own, then asks for its next segment every 4 s, with the query that opened
/// it, for an hour.
async fn hour(keys: &[(&str, &str)]) -> Hour {
    let portal = Rc::new(Portal::default());
    let answering = Rc::clone(&portal);
    let peer = Peer::answering(move |_, target| Some(answering.answer(target)));
    let hour = Rc::new(RefCell::new(None));
    let told = Rc::clone(&hour);
    let keys: Vec<_> = [("backend.preset", "ministra")].iter().chain(keys).copied().collect();
    with_shard(&keys, peer, |bench| async move {
        *told.borrow_mut() = Some(watch(&bench, &portal).await);
    })
    .await;
    Rc::into_inner(hour).unwrap().into_inner().unwrap()
}

async fn watch(bench: &Bench, portal: &Portal) -> Hour {
    let (mut checks, mut refused, mut refused_sessions) = (0, 0, HashSet::new());
    for tick in 0..=HOUR / EVERY {
        let first = checks;
        let path = if tick == 0 { "/ch/index.m3u8".to_owned() } else { format!("/ch/segment-{tick}.ts") };
        for session in 0..SESSIONS {
            let (id, query) = (format!("session-{session}"), format!("token=t{session}"));
            if tick == 0 {
                portal.create(&format!("t{session}"));
                // A client takes a moment to follow the link that it was given.
                pass(ms(150)).await;
            }
            bench.submit(&Check { path: path.as_bytes(), ..check(&id, &query) }, checks);
            checks += 1;
        }
        bench.settle().await;
        for (session, user_data) in (first..checks).enumerate() {
            let (decision, _) = bench.decided(user_data).await;
            if !decision.allows() {
                refused += 1;
                refused_sessions.insert(session);
            }
        }
        pass(secs(EVERY)).await;
    }
    let asked = portal.asked.borrow();
    let exchanges: Vec<usize> = (0..SESSIONS).map(|session| asked[&format!("t{session}")]).collect();
    assert_eq!(exchanges.iter().sum::<usize>(), bench.peer.requests(), "and nothing else was asked");
    Hour { exchanges, checks, refused, refused_sessions: refused_sessions.len() }
}

#[tokio::test(start_paused = true)]
async fn with_the_preset_each_session_of_an_hour_is_one_exchange_and_never_refused() {
    let hour = hour(&[]).await;
    assert_eq!(hour.exchanges, [1; SESSIONS]);
    assert_eq!((hour.checks, hour.refused), (SESSIONS * 901, 0));
}

/// Why the preset sets it: under `scope = path` each segment is a question of its own, for a token long dead.
#[tokio::test(start_paused = true)]
async fn under_scope_path_the_same_sessions_are_refused_once_their_token_is_dead() {
    let hour = hour(&[("scope", "path")]).await;
    assert_eq!(hour.refused_sessions, SESSIONS);
    assert!(hour.exchanges.iter().all(|exchanges| *exchanges > 800), "{:?}", hour.exchanges);
    assert!(hour.refused > hour.checks * 9 / 10, "{} of {}", hour.refused, hour.checks);
}

/// Why `X-AuthDuration` must be listened to.
#[tokio::test(start_paused = true)]
async fn without_what_the_portal_says_of_its_time_the_same_sessions_are_refused() {
    let hour = hour(&[("ttl.headers", "cache-control")]).await;
    assert_eq!(hour.refused_sessions, SESSIONS);
}

/// The directory holds playlist and segments alike.
#[tokio::test(start_paused = true)]
async fn under_scope_directory_each_session_is_one_exchange_too() {
    let hour = hour(&[("scope", "directory")]).await;
    assert_eq!((hour.exchanges, hour.refused), (vec![1; SESSIONS], 0));
}
