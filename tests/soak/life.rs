//! One engine, from its start to its end: two threads that keep it full of checks, one that reaps its queue, and one that
//! reloads, revokes, cancels and looks up at random.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alta_auth::{Completed, Config, Engine, Queue, Receiver, Stats, SubmitError};
use tokio::time::Instant;

use super::claims::{Asked, Claims};
use super::draw::{Draw, Texts};
use super::sum::Sum;
use super::support::{PATIENCE, Random, readable_within};
use super::watchers::Watchers;
use super::world::user;

/// Reloads to a backend that is not there, one in so many.
const DEAD: u64 = 5;

struct Life<'a> {
    engine: &'a Engine,
    queue: &'a Queue,
    claims: &'a Arc<Claims>,
    receivers: [Arc<dyn Receiver>; 2],
    watchers: &'a Watchers,
    over: AtomicBool,
    /// Sessions that checks are drawn from.
    spread: u64,
    /// There is not room for all checks that are asked at once.
    tight: bool,
}

/// Called on the I/O thread itself.
struct Direct(Arc<Claims>);

impl Receiver for Direct {
    fn receive(&self, batch: &mut Vec<Completed>) {
        for completed in batch.drain(..) {
            completed.hand_over(|user_data, decision| self.0.decided(user_data, &decision));
        }
    }
}

/// Lives for so long; `Err`: what was not right.
pub(crate) fn live(random: &Random, proxy: &str, time: Duration) -> Result<Sum, String> {
    let draw = Draw::of(random);
    let first = random.below(2);
    let claims = Arc::new(Claims::new(draw.terms.clone(), draw.places, first));
    let engine = Engine::new(&draw.config(proxy, first, false, &[])).map_err(|error| error.to_string())?;
    let queue = engine.queue().map_err(|error| error.to_string())?;
    let called = Arc::clone(&claims);
    let receivers: [Arc<dyn Receiver>; 2] = [
        engine.callback(move |user_data, decision| called.decided(user_data, &decision)),
        Arc::new(Direct(Arc::clone(&claims))),
    ];
    let watchers = Watchers::new(Arc::clone(&claims));
    let life = Life {
        engine: &engine,
        queue: &queue,
        claims: &claims,
        receivers,
        watchers: &watchers,
        over: AtomicBool::new(false),
        spread: draw.spread,
        tight: draw.tight(),
    };
    let mut reloads = 0;
    std::thread::scope(|scope| {
        for name in 0..2 {
            let (life, random) = (&life, random.branch(name));
            scope.spawn(move || life.submit(&random));
        }
        let (life, over) = (&life, Over(&life.over));
        scope.spawn(|| life.reap());
        reloads = life.meddle(random, &draw, proxy, first, time);
        // Before it is over for the others: they meet an engine that is shut down.
        if random.per_mille(500) {
            claims.closing.store(true, Ordering::SeqCst);
            let patience = random.pick(&[Duration::ZERO, Duration::from_millis(50), PATIENCE]);
            engine.shutdown(patience);
        }
        drop(over);
    });
    let receivers = life.receivers;
    let by_drop = !claims.closing.load(Ordering::SeqCst) && random.per_mille(500);
    if by_drop {
        claims.closing.store(true, Ordering::SeqCst);
    } else {
        if !engine.shutdown(PATIENCE) {
            return Err(format!("not drained: {:?}", engine.stats()));
        }
        reap_all(&queue, &claims);
    }
    let stats = engine.stats();
    drop(receivers);
    drop(engine);
    drop(queue);
    let queued_only = claims.left(|asked| !by_drop || !asked.queued);
    if queued_only > 0 {
        return Err(format!("{queued_only} checks were never decided: {stats:?}"));
    }
    if let Some(wrong) = claims.first_wrong() {
        return Err(wrong);
    }
    watchers.ended()?;
    if Arc::strong_count(&claims) > 2 {
        return Err("the engine has kept a receiver".to_owned());
    }
    settled(&claims, &stats, by_drop)?;
    Ok(Sum {
        engines: 1,
        submitted: stats.submitted,
        cancelled: stats.cancelled,
        full: stats.refused,
        allowed: stats.allowed,
        origins: stats.origins,
        causes: stats.causes,
        coalesced: stats.coalesced,
        exchanges: stats.exchanges,
        reloads,
        revoked: stats.revoked,
        breaker_opened: stats.endpoints[0].breaker_opened,
        watched: stats.watch_decisions,
    })
}

/// The engine's figures are ours.
fn settled(claims: &Claims, stats: &Stats, by_drop: bool) -> Result<(), String> {
    let tally = claims.tally();
    let wrong = |what: &str| Err(format!("{what}: {stats:?}, counted {tally:?}"));
    if tally.accepted != stats.submitted || tally.full != stats.refused {
        return wrong("submitted");
    }
    // What was pending when an engine was dropped has no figures any more.
    if by_drop {
        return Ok(());
    }
    if (stats.pending, stats.restarts, stats.watching) != (0, 0, 0) {
        return wrong("pending, restarts, watches");
    }
    if stats.submitted != stats.completed + stats.cancelled || tally.cancelled != stats.cancelled {
        return wrong("cancelled");
    }
    if (tally.allowed, tally.denied) != (stats.allowed, stats.denied) {
        return wrong("verdicts");
    }
    if (tally.origins, tally.causes) != (stats.origins, stats.causes) {
        return wrong("origins, causes");
    }
    if tally.origins.iter().sum::<u64>() != stats.completed {
        return wrong("completed");
    }
    Ok(())
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn reap_all(queue: &Queue, claims: &Claims) {
    while queue.reap(64, |user_data, decision| claims.decided(user_data, &decision)) > 0 {}
}

impl Life<'_> {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn draw(&self, random: &Random) -> Asked {
        self.claims.asking(random.below(self.spread), random.per_mille(5), random.next())
    }

    fn submit(&self, random: &Random) {
        while !self.is_over() {
            if random.per_mille(100) {
                self.submit_batch(random);
                continue;
            }
            let Some(place) = self.claims.claim(Duration::from_millis(20)) else { continue };
            let kind = random.below(3) as usize;
            let asked = self.draw(random).queued(kind == 2);
            let user_data = self.claims.put(place, asked);
            let outcome = match self.receivers.get(kind) {
                Some(receiver) => self.engine.submit(&Texts::of(&asked).check(&asked), receiver, user_data),
                None => self.queue.submit(&Texts::of(&asked).check(&asked), user_data),
            };
            if self.tight {
                // Those that find no room are decided at once, and would be nearly all.
                std::thread::sleep(Duration::from_micros(200));
            }
            if !self.settle(user_data, outcome) {
                // Full, or closed: the others have to get on.
                std::thread::yield_now();
            }
        }
    }

    fn submit_batch(&self, random: &Random) {
        let places: Vec<_> = (0..16).map_while(|_| self.claims.claim(Duration::ZERO)).collect();
        let checks: Vec<_> = places
            .into_iter()
            .map(|place| {
                let asked = self.draw(random);
                (asked, self.claims.put(place, asked))
            })
            .collect();
        let texts: Vec<_> = checks.iter().map(|(asked, _)| Texts::of(asked)).collect();
        let batch =
            checks.iter().zip(&texts).map(|((asked, user_data), texts)| (texts.check(asked), *user_data));
        let mut each = checks.iter();
        self.engine.submit_batch(batch, &self.receivers[0], |outcome| {
            let (_, user_data) = each.next().expect("an outcome a check");
            self.settle(*user_data, outcome);
        });
        if each.next().is_some() {
            self.claims.wrong(|| "a check of a batch without an outcome".to_owned());
        }
    }

    fn settle(&self, user_data: usize, outcome: Result<u64, SubmitError>) -> bool {
        match outcome {
            Ok(ticket) => {
                self.claims.accepted(user_data, ticket);
                return true;
            }
            Err(SubmitError::Full) => self.claims.refused(user_data, true),
            Err(SubmitError::Closed) if self.claims.closing.load(Ordering::SeqCst) => {
                self.claims.refused(user_data, false);
            }
            Err(error) => self.claims.wrong(|| format!("not accepted: {error}")),
        }
        false
    }

    fn reap(&self) {
        while !self.is_over() {
            readable_within(self.queue.fd(), Duration::from_millis(20));
            self.queue.reap(64, |user_data, decision| self.claims.decided(user_data, &decision));
        }
    }

    /// Returns how often it turned to another configuration.
    fn meddle(&self, random: &Random, draw: &Draw, proxy: &str, first: u64, time: Duration) -> u64 {
        let deadline = Instant::now() + time;
        let (mut rule, mut dead, mut reloads) = (first, false, 0);
        while Instant::now() < deadline && self.claims.first_wrong().is_none() {
            match random.below(100) {
                0..4 => {
                    (rule, dead) = (rule + 1, random.below(DEAD) == 0);
                    self.claims.turning.store(rule, Ordering::SeqCst);
                    self.reload(&draw.config(proxy, rule, dead, &[]));
                    self.claims.turned.store(rule, Ordering::SeqCst);
                    reloads += 1;
                }
                4..6 => {
                    let more = random.pick(&[
                        ("ttl.max", "1h"),
                        ("pool.max_connections", "8"),
                        ("log.level", "off"),
                    ]);
                    self.reload(&draw.config(proxy, rule, dead, &[more]));
                    reloads += 1;
                }
                6..8 => {
                    let refused =
                        self.engine.reload(&draw.config(proxy, rule + 1, dead, &[("inbox.capacity", "9")]));
                    if refused.is_ok() {
                        self.claims.wrong(|| "another inbox.capacity was turned to".to_owned());
                    }
                }
                8..25 => {
                    let known = self.draw(random);
                    self.ask(known);
                    let id = Texts::of(&known).session;
                    self.claims.revoke_session(&known, || self.engine.revoke(id.as_bytes()));
                    self.ask(self.claims.again(&known));
                }
                25..33 => {
                    let known = self.draw(random);
                    self.ask(known);
                    let id = user(known.session);
                    self.claims.revoke_user(&known, || self.engine.revoke_user(id.as_bytes()));
                    self.ask(self.claims.again(&known));
                }
                33 => self.claims.revoke_all(|| self.engine.revoke_all()),
                34..60 => self.cancel(random),
                60..64 => {
                    self.engine.drain(Duration::from_millis(random.below(30)));
                }
                64..72 => self.look_up(random),
                72..76 => self.ask(self.draw(random)),
                76..90 => self.watchers.meddle(random, self.engine, self.draw(random)),
                _ => self.balance(),
            }
            // The pace of what happens; checks do not wait for it.
            std::thread::sleep(Duration::from_micros(random.below(20_000)));
        }
        reloads
    }

    fn reload(&self, config: &Config) {
        if let Err(error) = self.engine.reload(config) {
            self.claims.wrong(|| format!("not reloaded: {error}"));
        }
    }

    fn cancel(&self, random: &Random) {
        for _ in 0..8 {
            let Some((ticket, user_data)) =
                self.claims.pending(random.below(self.claims.places() as u64) as usize)
            else {
                continue;
            };
            if self.engine.cancel(ticket) {
                self.claims.cancelled(user_data);
            }
        }
    }

    fn look_up(&self, random: &Random) {
        let asked = self.draw(random).not_fresh();
        match self.engine.lookup(&Texts::of(&asked).check(&asked)) {
            Ok(Some(decision)) => self.claims.judge(&asked, &decision),
            Ok(None) => {}
            Err(error) => self.claims.wrong(|| format!("looked up: {error}")),
        }
    }

    fn ask(&self, asked: Asked) {
        match self.engine.check_blocking(&Texts::of(&asked).check(&asked)) {
            Ok(decision) => self.claims.asked_and_decided(&asked, &decision),
            Err(SubmitError::Full) => self.claims.count_full(),
            Err(error) => self.claims.wrong(|| format!("asked: {error}")),
        }
    }

    fn balance(&self) {
        let stats = self.engine.stats();
        let sums = [stats.allowed + stats.denied, stats.origins.iter().sum(), stats.causes.iter().sum()];
        // Counted one after the other while checks are delivered: never more than were submitted.
        if stats.submitted != stats.completed + stats.cancelled + stats.pending
            || sums.iter().any(|sum| *sum > stats.submitted)
            || stats.pending > 2 * 4096
        {
            self.claims.wrong(|| format!("does not add up: {stats:?}"));
        }
    }
}
