//! Everything at once, for as long as wanted: checks as fast as they are answered, spoilt replies, outages, reloads,
//! revocations, cancels, watches, and engines that end and begin anew.
//!
//! After each decision: there is one for each check; it is what the backend's rule says, and says it about this very check, or
//! it is the default action with an outage's cause; it is no older than it may be and not from before a revocation or
//! a reload. After each engine: its figures are ours, and no thread and no descriptor is left. At the end: no memory.
//!
//! `ALTA_AUTH_SOAK`: seconds (12). `ALTA_AUTH_SEED`: repeats the draws of a run, not the order of its threads.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "the seed and the counts of a soak are for who runs it")]

#[path = "soak/claims.rs"]
mod claims;
#[path = "soak/draw.rs"]
mod draw;
#[path = "soak/life.rs"]
mod life;
#[path = "soak/sum.rs"]
mod sum;
mod support;
#[path = "soak/watchers.rs"]
mod watchers;
#[path = "soak/world.rs"]
mod world;

use std::time::Duration;

use life::live;
use sum::Sum;
use support::{Figures, Random, Rerun};
use tokio::time::Instant;
use world::World;

const PROXY: &str = "ALTA_AUTH_SOAK_PROXY";
const SEED: &str = "ALTA_AUTH_SEED";
/// What the allocator's own structures may differ by, whatever the number of checks.
const ALLOCATED_MORE: usize = 512 * 1024;
const RESIDENT_MORE: usize = 4 * 1024 * 1024;

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|error| panic!("{name} = {text}: {error}")))
}

fn time() -> Duration {
    Duration::from_secs(number("ALTA_AUTH_SOAK").unwrap_or(12))
}

#[test]
fn under_faults_reloads_revocations_and_restarts_each_check_is_decided_rightly_and_nothing_is_left() {
    if let Some(child) = Rerun::of(
        "under_faults_reloads_revocations_and_restarts_each_check_is_decided_rightly_and_nothing_is_left",
    ) {
        // The backend lives here, so that the other process holds nothing but engines.
        let seed = number(SEED).unwrap_or_else(support::microseconds);
        println!("seed {seed}: {SEED}={seed} repeats its draws");
        let world = World::new(seed);
        let address = world.address().to_string();
        // Of several arenas the C library keeps what each once took at its top, also when asked to give it back; of one not.
        let child = child.env("MALLOC_ARENA_MAX", "1");
        let printed = child.env(PROXY, &address).env(SEED, &seed.to_string()).printed();
        printed.lines().filter(|line| line.starts_with("soak:")).for_each(|line| println!("{line}"));
        println!(
            "soak: at the backend {} requests; {} connections to the proxy",
            world.backend.request_count(),
            world.proxy.connections()
        );
        return;
    }
    let proxy = std::env::var(PROXY).unwrap();
    let random = Random::new(number(SEED).unwrap());
    let (began, time) = (Instant::now(), time());
    let before = Figures::now();
    let mut sum = Sum::default();
    let mut settled = None;
    while began.elapsed() < time {
        // Twenty engines and more, and none so short that nothing is remembered and expires.
        let longest = (time / 15).clamp(Duration::from_millis(500), Duration::from_secs(12));
        let this = Duration::from_millis(300 + random.below(longest.as_millis() as u64));
        let lived =
            live(&random, &proxy, this).unwrap_or_else(|why| panic!("engine {}: {why}", sum.engines + 1));
        sum.add(&lived);
        let now = Figures::with_threads(before.threads);
        assert_eq!(
            (now.descriptors, now.threads),
            (before.descriptors, before.threads),
            "after engine {}",
            sum.engines
        );
        if settled.is_none() && began.elapsed() > time / 4 {
            settled = Some((now, sum.submitted));
        }
    }
    let (settled, warm) = settled.unwrap();
    let end = Figures::with_threads(before.threads);
    println!("\nsoak: {} s, {sum}", began.elapsed().as_secs());
    println!("soak: after {warm} checks {settled:?}");
    println!("soak: after {} checks {end:?}", sum.submitted);
    assert!(sum.submitted > warm + 1000, "too few checks to show anything");
    assert!(end.allocated < settled.allocated + ALLOCATED_MORE, "{settled:?} became {end:?}");
    assert!(end.resident < settled.resident + RESIDENT_MORE, "{settled:?} became {end:?}");
}
