//! A backend that is stopped or killed while checks come in as fast as it answers: each check is decided within its budget,
//! nobody is let in by anyone but the backend, the operator sees the breaker, and the backend is found again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alta_auth::{Cause, Check, Decision, Engine, Origin, Verdict};
use parking_lot::{Condvar, Mutex};
use support::{
    Collect, Fpm, Nginx, NginxOptions, PATIENCE, Php, Rerun, SLACK, ask, assert_backend, assert_default, bad,
    engine, good, sessions, until,
};

const BUDGET: Duration = Duration::from_millis(500);
const IN_FLIGHT: usize = 32;

fn engine_for(url: &str) -> Engine {
    engine(
        url,
        &[
            ("timeout", "500ms"),
            ("connect_timeout", "200ms"),
            ("pool.max_connections", "16"),
            ("breaker.cooldown", "100ms"),
            ("breaker.max_cooldown", "200ms"),
            // nginx without FPM.
            ("unavailable_statuses", "502,504"),
        ],
    )
}

#[derive(Default)]
struct Tally {
    in_flight: usize,
    answered: usize,
    causes: [usize; Cause::ALL.len()],
    slowest: Duration,
    wrong: Option<String>,
}

/// Checks of ever new sessions from 250 addresses, every second with a good token.
struct Load<'a> {
    engine: &'a Engine,
    tally: Arc<(Mutex<Tally>, Condvar)>,
    over: AtomicBool,
}

impl Load<'_> {
    /// Keeps [`IN_FLIGHT`] checks under way while `script` runs.
    fn on(engine: &Engine, script: impl FnOnce(&Load<'_>)) {
        let load = Load { engine, tally: Arc::default(), over: AtomicBool::new(false) };
        std::thread::scope(|scope| {
            scope.spawn(|| load.submit());
            // Also when the script fails, or the other thread would go on for ever.
            let end = End(&load.over);
            script(&load);
            drop(end);
        });
        let mut tally = load.tally.0.lock();
        while tally.in_flight > 0 {
            let late = load.tally.1.wait_for(&mut tally, PATIENCE).timed_out();
            assert!(!late, "{} checks were never decided", tally.in_flight);
        }
        assert_eq!(tally.wrong, None);
        assert!(tally.slowest < BUDGET + SLACK, "{:?}", tally.slowest);
        let stats = engine.stats();
        assert_eq!((stats.submitted, stats.pending, stats.restarts), (stats.completed, 0, 0));
        assert_eq!(stats.origins[Origin::Backend as usize], stats.causes[Cause::None as usize]);
    }

    fn submit(&self) {
        for number in 0.. {
            let truth = if number % 2 == 0 { Verdict::Allow } else { Verdict::Deny };
            {
                let mut tally = self.tally.0.lock();
                while tally.in_flight >= IN_FLIGHT && !self.is_over() {
                    self.tally.1.wait_for(&mut tally, Duration::from_millis(20));
                }
                if self.is_over() {
                    return;
                }
                tally.in_flight += 1;
            }
            let (id, ip) = (format!("s{number}"), format!("192.0.2.{}", number % 250));
            let token = if truth == Verdict::Allow { good() } else { bad() };
            let tally = Arc::clone(&self.tally);
            let receiver = self.engine.callback(move |_, decision| {
                tally.0.lock().decided(truth, &decision);
                tally.1.notify_all();
            });
            let check = Check { session_id: id.as_bytes(), ip: ip.as_bytes(), ..token };
            self.engine.submit(&check, &receiver, 0).unwrap();
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Waits for so many more answers of the backend.
    #[track_caller]
    fn wait_answers(&self, count: usize) {
        let before = self.tally.0.lock().answered;
        until(|| self.tally.0.lock().answered >= before + count);
    }

    /// Waits until the operator can see that the backend is left alone, and checks have met that.
    #[track_caller]
    fn wait_outage(&self) {
        until(|| self.engine.stats().endpoints[0].breaker_open);
        let stopped = || self.tally.0.lock().causes[Cause::BreakerOpen as usize];
        let before = stopped();
        until(|| stopped() > before);
    }

    /// Waits until it is asked again, and answers.
    #[track_caller]
    fn wait_recovery(&self) {
        until(|| !self.engine.stats().endpoints[0].breaker_open);
        self.wait_answers(50);
    }

    /// Waits until a check has met this: the breaker lets one through now and then.
    #[track_caller]
    fn wait_met(&self, cause: Cause) {
        until(|| self.tally.0.lock().causes[cause as usize] > 0);
    }
}

impl Tally {
    fn decided(&mut self, truth: Verdict, decision: &Decision) {
        self.in_flight -= 1;
        self.slowest = self.slowest.max(decision.latency);
        self.causes[decision.cause as usize] += 1;
        let right = match decision.origin {
            Origin::Backend => {
                self.answered += 1;
                decision.verdict == truth && decision.cause == Cause::None
            }
            Origin::Default => {
                decision.verdict == Verdict::Deny
                    && (decision.cause.is_outage() || decision.cause == Cause::Overload)
            }
            Origin::Memory | Origin::LastKnown => false,
        };
        if !right {
            self.wrong.get_or_insert_with(|| format!("{truth}: {decision:?}: {}", decision.detail()));
        }
    }
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn php_that_is_stopped_and_killed_under_load_loses_no_check_and_is_found_again() {
    let mut php = Php::new();
    let engine = engine_for(&php.url());
    Load::on(&engine, |load| {
        load.wait_answers(100);
        php.process.signal_all("STOP");
        load.wait_outage();
        load.wait_met(Cause::Timeout);
        php.process.signal_all("CONT");
        load.wait_recovery();
        php.process.kill();
        load.wait_outage();
        load.wait_met(Cause::Connect);
        php.start_again();
        load.wait_recovery();
    });
    assert!(engine.stats().endpoints[0].breaker_opened >= 2);
}

#[test]
fn nginx_that_is_stopped_and_killed_under_load_loses_no_check_and_is_found_again() {
    let fpm = Fpm::new();
    let mut nginx = Nginx::new(Some(&fpm), NginxOptions::default());
    let engine = engine_for(&nginx.url());
    Load::on(&engine, |load| {
        load.wait_answers(100);
        nginx.process.signal_all("STOP");
        load.wait_outage();
        load.wait_met(Cause::Timeout);
        nginx.process.signal_all("CONT");
        load.wait_recovery();
        nginx.process.kill();
        load.wait_outage();
        load.wait_met(Cause::Connect);
        nginx.start_again();
        load.wait_recovery();
    });
    assert!(engine.stats().endpoints[0].breaker_opened >= 2);
}

#[test]
fn fpm_that_is_stopped_and_killed_under_load_loses_no_check_and_is_found_again() {
    let mut fpm = Fpm::new();
    let nginx = Nginx::new(Some(&fpm), NginxOptions::default());
    let engine = engine_for(&nginx.url());
    Load::on(&engine, |load| {
        load.wait_answers(100);
        fpm.process.signal_all("STOP");
        load.wait_outage();
        load.wait_met(Cause::Timeout);
        fpm.process.signal_all("CONT");
        load.wait_recovery();
        fpm.process.kill();
        load.wait_outage();
        // The 502 of nginx, which the operator calls an outage.
        load.wait_met(Cause::Status);
        fpm.start_again();
        load.wait_recovery();
    });
    assert!(engine.stats().endpoints[0].breaker_opened >= 2);
}

/// The descriptors run out while there is a connection, and come back.
#[test]
fn descriptors_that_run_out_while_the_backend_answers_allow_nobody_and_are_no_outage() {
    if let Some(child) =
        Rerun::of("descriptors_that_run_out_while_the_backend_answers_allow_nobody_and_are_no_outage")
    {
        return child.with_open_files(96).run();
    }
    // Another process: its descriptors are its own.
    let nginx = Nginx::new(None, NginxOptions { location: "return 403;", ..NginxOptions::default() });
    let engine = engine(
        &nginx.url(),
        &[
            ("default_action", "allow"),
            ("pool.max_connections", "256"),
            ("pool.idle_timeout", "60s"),
            ("timeout", "5s"),
        ],
    );
    assert_backend(&ask(&engine, &bad()), Verdict::Deny, 403);
    let ask_many = |prefix: &str| {
        let (ids, collect) = (sessions(500), Collect::new());
        for (index, id) in ids.iter().enumerate() {
            let (id, ip) = (format!("{prefix}{id}"), format!("192.0.2.{}", index % 250));
            let check = Check { session_id: id.as_bytes(), ip: ip.as_bytes(), ..bad() };
            engine.submit(&check, &collect.receiver(), index).unwrap();
        }
        collect.wait(500)
    };
    let mut hoard = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    let mut overloaded = 0;
    for (_, decision) in ask_many("short") {
        if decision.origin == Origin::Backend {
            assert_backend(&decision, Verdict::Deny, 403);
        } else {
            assert_default(&decision, Verdict::Deny, Cause::Overload);
            overloaded += 1;
        }
    }
    assert!(overloaded > 0, "the descriptors did not run out: the test shows nothing");
    let endpoint = engine.stats().endpoints[0].clone();
    assert_eq!((endpoint.breaker_open, endpoint.breaker_opened), (false, 0));

    drop(hoard);
    assert_backend(&ask(&engine, &Check { session_id: b"after", ..bad() }), Verdict::Deny, 403);
}
