//! Random operations against a plain model of what is remembered, equal at each step: who decides, what, and whether the
//! backend was asked, counted at the backend.
//!
//! 20,000 steps; `ALTA_AUTH_STEPS` asks for more, `ALTA_AUTH_SEED` for others. A failure names both.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::support::{Bench, Peer, check, with_shard};
use crate::check::Check;
use crate::config::Config;
use crate::decision::{Origin, Verdict};
use crate::engine::Policy;

const SESSIONS: usize = 8;
const QUERIES: usize = 3;
const USERS: usize = 3;
const LAST_KNOWN: u64 = 20_000;

/// What the backend thinks of a session.
#[derive(Clone, Copy)]
struct Mind {
    status: u16,
    /// Seconds of `X-AuthDuration`.
    ttl: Option<u64>,
    must_revalidate: bool,
    user: Option<usize>,
}

/// `None`: an outage.
type Minds = Rc<RefCell<Option<[Mind; SESSIONS]>>>;

#[derive(Clone, Copy)]
struct Known {
    verdict: Verdict,
    born: u64,
    ttl: u64,
    repeatable: bool,
    user: Option<usize>,
    /// Which step it was learned in.
    step: u64,
}

/// The configurations that are turned to: the same rules twice, and two others.
const CONFIGURATIONS: [&[(&str, &str)]; 4] = [
    &[],
    &[("log.level", "error")],
    &[("ttl.allow", "7s"), ("ttl.deny", "3s")],
    &[("allow_statuses", "200,404")],
];
/// What a reload from any of the first two to the other keeps.
const RULES: [usize; 4] = [0, 0, 1, 2];

#[derive(Default)]
struct Model {
    configuration: usize,
    now: u64,
    step: u64,
    known: HashMap<(usize, usize), Known>,
    revoked_session: [u64; SESSIONS],
    revoked_user: [u64; USERS],
    revoked_all: u64,
}

impl Model {
    fn holds(&self, session: usize, query: usize) -> Option<Known> {
        let known = *self.known.get(&(session, query))?;
        let revoked = self.revoked_session[session].max(self.revoked_all);
        let revoked = revoked.max(known.user.map_or(0, |user| self.revoked_user[user]));
        (known.step > revoked).then_some(known)
    }

    fn remembered(&self, session: usize, query: usize) -> Option<Known> {
        self.holds(session, query).filter(|known| self.now < known.born + known.ttl)
    }

    /// What a check gets, and whether the backend is asked.
    fn check(
        &mut self,
        session: usize,
        query: usize,
        fresh: bool,
        mind: Option<Mind>,
    ) -> (Verdict, Origin, bool) {
        if !fresh && let Some(known) = self.remembered(session, query) {
            return (known.verdict, Origin::Memory, false);
        }
        let Some(mind) = mind else {
            let known = self.holds(session, query);
            let repeated =
                known.filter(|known| known.repeatable && self.now < known.born + known.ttl + LAST_KNOWN);
            let decision =
                repeated.map_or((Verdict::Deny, Origin::Default), |known| (known.verdict, Origin::LastKnown));
            return (decision.0, decision.1, true);
        };
        let allows = mind.status == 200 || (mind.status == 404 && RULES[self.configuration] == 2);
        let verdict = if allows { Verdict::Allow } else { Verdict::Deny };
        let (allow, deny) = if RULES[self.configuration] == 1 { (7_000, 3_000) } else { (0, 0) };
        let said = mind.ttl.map(|seconds| seconds * 1000);
        let ttl = if allows { said.unwrap_or(allow) } else { said.unwrap_or(deny).min(60_000) };
        self.known.remove(&(session, query));
        if (allows || mind.status == 403) && (ttl > 0 || !mind.must_revalidate) {
            let known = Known {
                verdict,
                born: self.now,
                ttl,
                repeatable: !mind.must_revalidate,
                user: mind.user,
                step: self.step,
            };
            self.known.insert((session, query), known);
        }
        (verdict, Origin::Backend, true)
    }
}

fn reply(mind: Mind) -> String {
    let lifetime = match (mind.ttl, mind.must_revalidate) {
        (Some(ttl), true) => format!("Cache-Control: max-age={ttl}, must-revalidate\r\n"),
        (Some(ttl), false) => format!("X-AuthDuration: {ttl}\r\n"),
        (None, _) => String::new(),
    };
    let user = mind.user.map_or(String::new(), |user| format!("X-UserId: user-{user}\r\n"));
    format!("HTTP/1.1 {} X\r\nContent-Length: 0\r\n{lifetime}{user}\r\n", mind.status)
}

struct Random(u64);

impl Random {
    /// splitmix64
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) as usize % bound
    }

    fn mind(&mut self) -> Mind {
        let ttl = [None, Some(0), Some(1), Some(5), Some(90)][self.below(5)];
        Mind {
            status: [200, 200, 403, 404][self.below(4)],
            ttl,
            // Said in Cache-Control, with max-age.
            must_revalidate: ttl.is_some() && self.below(4) == 0,
            user: [None, Some(0), Some(1), Some(2)][self.below(4)],
        }
    }
}

fn turn_to(bench: &Bench, configuration: usize) {
    let mut config = Config::new();
    for (key, value) in KEYS.iter().chain(CONFIGURATIONS[configuration]) {
        config.set(key, value).unwrap();
    }
    let before = bench.core.policy();
    let policy = Policy::new(Arc::new(config.settings().unwrap()), Some(&before), &bench.core.log).unwrap();
    bench.core.set_policy(policy);
}

const KEYS: [(&str, &str); 6] = [
    ("backend.url", "http://127.0.0.1:1/auth"),
    ("default_action", "deny"),
    ("ttl.jitter", "off"),
    ("last_known", "20s"),
    ("pool.idle_timeout", "1h"),
    // Each check asks, or does not, for its own reasons.
    ("breaker.failures", "0"),
];

#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_what_a_plain_model_says() {
    let number = |variable: &str, usual| std::env::var(variable).map_or(usual, |text| text.parse().unwrap());
    let (steps, seed) = (number("ALTA_AUTH_STEPS", 20_000u64), number("ALTA_AUTH_SEED", 1u64));
    let mut random = Random(seed);
    let minds: Minds = Rc::new(RefCell::new(Some(std::array::from_fn(|_| random.mind()))));
    let peer = {
        let minds = Rc::clone(&minds);
        Peer::answering(move |_, target| {
            let session: usize =
                target.split_once("s=").unwrap().1.split('&').next().unwrap().parse().unwrap();
            // What is no answer, and no reason to ask again.
            Some(minds.borrow().map_or("what?\r\n\r\n".to_owned(), |minds| reply(minds[session])))
        })
    };
    with_shard(&KEYS[2..], peer, |bench| async move {
        let mut model = Model::default();
        let mut thoughts = minds.borrow().unwrap();
        let user_data = Cell::new(0);
        let began = tokio::time::Instant::now();
        for step in 1..=steps {
            (model.step, model.now) = (step, began.elapsed().as_millis() as u64);
            let about = |what: &str| format!("step {step} of seed {seed}: {what}");
            let (session, query) = (random.below(SESSIONS), random.below(QUERIES));
            let (id, text) = (format!("session-{session}"), format!("s={session}&q={query}"));
            let asks = check(&id, &text);
            match random.below(100) {
                0..=54 => {
                    let fresh = random.below(10) == 0;
                    let mind = minds.borrow().map(|minds| minds[session]);
                    let (verdict, origin, asked) = model.check(session, query, fresh, mind);
                    let before = bench.peer.requests();
                    user_data.set(user_data.get() + 1);
                    bench.submit(&Check { fresh, ..asks }, user_data.get());
                    while bench.decision(user_data.get()).is_none() {
                        tokio::task::yield_now().await;
                    }
                    let decision = bench.decision(user_data.get()).unwrap();
                    let got = (decision.verdict, decision.origin, bench.peer.requests() > before);
                    assert_eq!(got, (verdict, origin, asked), "{}", about(&text));
                    bench.forget(user_data.get());
                }
                55..=69 => {
                    let known = model.remembered(session, query);
                    let policy = bench.core.policy();
                    let found = policy
                        .draft(&asks, |draft| {
                            let now = tokio::time::Instant::now();
                            bench.core.look_up(&policy, &draft, bench.core.session(id.as_bytes()), now)
                        })
                        .unwrap();
                    let left = |known: Known| known.born + known.ttl - model.now;
                    let expected = known.map(|known| (known.verdict, Duration::from_millis(left(known))));
                    assert_eq!(
                        found.map(|found| (found.verdict, found.ttl)),
                        expected,
                        "{}",
                        about("lookup")
                    );
                }
                70..=79 => tokio::time::advance(Duration::from_millis(random.below(4_000) as u64)).await,
                80..=87 => {
                    thoughts[session] = random.mind();
                    if minds.borrow().is_some() {
                        *minds.borrow_mut() = Some(thoughts);
                    }
                }
                88..=91 => {
                    bench.core.revoke(id.as_bytes());
                    model.revoked_session[session] = step;
                }
                92 => {
                    let user = random.below(USERS);
                    bench.core.revoke_user(format!("user-{user}").as_bytes());
                    model.revoked_user[user] = step;
                }
                93 if random.below(4) == 0 => {
                    bench.core.revoke_all();
                    model.revoked_all = step;
                }
                94..=95 => {
                    let configuration = random.below(CONFIGURATIONS.len());
                    turn_to(&bench, configuration);
                    if RULES[configuration] != RULES[model.configuration] {
                        model.known.clear();
                    }
                    model.configuration = configuration;
                }
                96..=97 => {
                    let outage = minds.borrow().is_some();
                    *minds.borrow_mut() = (!outage).then_some(thoughts);
                }
                _ => tokio::time::advance(Duration::from_secs(random.below(40) as u64)).await,
            }
        }
        println!("{steps} steps, {} requests", bench.peer.requests());
    })
    .await;
}
