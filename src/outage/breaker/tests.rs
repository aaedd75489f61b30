use super::Admission::{Pass, Probe, Stop};
use std::hash::BuildHasher;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const RULES: Rules = Rules { failures: 3, rate: 0, cooldown: SECOND, max_cooldown: Duration::from_secs(5) };

/// A breaker, and a clock that is moved by hand.
struct Bench {
    breaker: Breaker,
    now: Instant,
    newcomers: u64,
}

impl Bench {
    fn new(rules: Rules) -> Self {
        Self { breaker: Breaker::new(rules), now: Instant::now(), newcomers: 0 }
    }
    fn wait(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }
    fn outage(&mut self, address: u64) -> Option<Change> {
        self.breaker.failed(self.now, address, false, None, 0)
    }
    fn probe_fails(&mut self) -> Option<Change> {
        self.breaker.failed(self.now, 0, true, None, 0)
    }
    fn answer(&mut self) -> Option<Change> {
        self.answer_to(0)
    }
    fn answer_to(&mut self, address: u64) -> Option<Change> {
        self.breaker.answered(self.now, || address)
    }
    /// A client that was never seen before.
    fn admit(&mut self) -> Admission {
        self.newcomers += 1;
        self.admit_from(u64::MAX - self.newcomers)
    }
    fn admit_from(&mut self, address: u64) -> Admission {
        self.breaker.admit(self.now, || address)
    }
    fn open(&mut self) -> &mut Self {
        for address in 0..self.breaker.rules.failures as u64 {
            self.outage(address);
        }
        assert_eq!(self.admit(), Stop);
        self
    }
}

#[test]
fn so_many_outages_in_a_row_open_it_and_an_answer_begins_anew() {
    let mut bench = Bench::new(RULES);
    assert_eq!((bench.outage(1), bench.outage(2), bench.answer()), (None, None, None));
    assert_eq!((bench.outage(3), bench.outage(4), bench.admit()), (None, None, Pass));
    assert_eq!(bench.outage(5), Some(Change::Opened { cooldown: SECOND }));
    assert_eq!(bench.admit(), Stop);
}

#[test]
fn one_address_counts_once_in_a_window() {
    let mut bench = Bench::new(RULES);
    for _ in 0..10_000 {
        assert_eq!(bench.outage(1), None);
    }
    assert_eq!(bench.admit(), Pass);
    // Beside good traffic it never opens, however long it lasts.
    for _ in 0..100 {
        assert_eq!(bench.wait(WINDOW).outage(1), None);
        bench.answer();
    }
    assert_eq!(bench.admit(), Pass);
    assert_eq!((bench.wait(WINDOW).outage(1), bench.outage(2)), (None, None));
    assert!(bench.outage(3).is_some(), "the twin: three addresses");

    // Nor by the rate, whatever comes between.
    let mut bench = Bench::new(Rules { failures: 5, rate: 50, ..RULES });
    for round in 0..100 {
        assert_eq!((bench.outage(1), bench.answer()), (None, None), "{round}");
    }
}

#[test]
fn after_the_cooldown_one_check_finds_out() {
    let mut bench = Bench::new(RULES);
    bench.open().wait(SECOND / 2);
    assert_eq!(bench.admit(), Stop);
    bench.wait(SECOND / 2);
    assert_eq!((bench.admit(), bench.admit()), (Probe, Stop));
    assert_eq!(bench.answer(), Some(Change::Closed));
    assert_eq!((bench.admit(), bench.answer()), (Pass, None));
}

#[test]
fn each_probe_that_fails_doubles_the_cooldown_up_to_its_bound() {
    let mut bench = Bench::new(RULES);
    bench.open();
    for seconds in [2, 4, 5, 5] {
        bench.wait(Duration::from_secs(5));
        assert_eq!(bench.admit(), Probe);
        assert_eq!(bench.outage(7), None, "only the probe counts");
        assert_eq!(bench.probe_fails(), Some(Change::Opened { cooldown: Duration::from_secs(seconds) }));
        assert_eq!(bench.admit(), Stop);
    }
    bench.wait(Duration::from_secs(5)).admit();
    bench.answer();
    bench.open();
    bench.wait(SECOND);
    assert_eq!(bench.admit(), Probe, "the next outage begins with the first cooldown");
}

#[test]
fn a_probe_without_an_end_leaves_the_finding_out_to_the_next() {
    let mut bench = Bench::new(RULES);
    bench.open().wait(SECOND);
    assert_eq!(bench.admit(), Probe);
    bench.breaker.undecided();
    assert_eq!((bench.admit(), bench.admit()), (Probe, Stop));
}

#[test]
fn a_probe_that_is_given_up_unanswered_is_followed_by_the_same_cooldown() {
    let mut bench = Bench::new(RULES);
    bench.open();
    for _ in 0..5 {
        bench.wait(SECOND);
        assert_eq!(bench.admit(), Probe);
        let now = bench.now;
        bench.breaker.unanswered(now, 0);
        assert_eq!(bench.admit(), Stop);
    }
    bench.wait(SECOND).admit();
    assert_eq!(bench.answer(), Some(Change::Closed));
    let now = bench.now;
    bench.breaker.unanswered(now, 0);
    assert_eq!(bench.admit(), Pass, "what was given up when it was closed says nothing");
}

#[test]
fn who_opened_it_or_probed_in_vain_finds_out_only_where_nobody_else_comes() {
    let mut bench = Bench::new(RULES);
    bench.open().wait(SECOND);
    assert_eq!((bench.admit_from(0), bench.admit_from(2), bench.admit_from(7)), (Stop, Stop, Probe));
    bench.breaker.failed(bench.now, 7, true, None, 0);
    bench.wait(SECOND * 2);
    assert_eq!((bench.admit_from(0), bench.admit_from(7), bench.admit_from(8)), (Stop, Stop, Probe));
    bench.breaker.unanswered(bench.now, 0);
    bench.wait(SECOND * 2);
    assert_eq!((bench.admit_from(8), bench.admit_from(9)), (Stop, Probe));
    bench.answer();

    // The twin: nobody else.
    bench.open().wait(Duration::from_millis(1999));
    assert_eq!(bench.admit_from(0), Stop);
    assert_eq!(bench.wait(Duration::from_millis(1)).admit_from(0), Probe);
    bench.breaker.undecided();
    assert_eq!(bench.admit_from(1), Probe, "it was not asked, and is as late as before");
    bench.breaker.failed(bench.now, 1, true, None, 0);
    bench.wait(SECOND * 4);
    assert_eq!((bench.admit_from(1), bench.admit_from(0)), (Stop, Probe), "the last of them is the last");
    bench.breaker.undecided();
    assert_eq!(bench.wait(Duration::from_millis(1999)).admit_from(1), Stop);
    assert_eq!(bench.wait(Duration::from_millis(1)).admit_from(1), Probe);
}

/// After a long outage there is no newcomer. One asks always, the others now and then, and only its own requests still fail.
#[test]
fn where_all_are_suspects_the_one_that_asks_most_does_not_take_every_probe() {
    const POISONOUS: u64 = 1;
    for others in [1, 2, 10] {
        let mut bench = Bench::new(RULES);
        bench.open();
        let (mut probes, mut of_poisonous, mut next) = (0, 0, 0);
        // Those who opened it have gone.
        for _ in 0..100_000 {
            let asks = bench.wait(SECOND / 100).now;
            next += 1;
            let other = (next % 20 == 0).then_some(10 + next / 20 % others);
            let Some(address) = [Some(POISONOUS), other]
                .into_iter()
                .flatten()
                .find(|&address| bench.breaker.admit(asks, || address) == Probe)
            else {
                continue;
            };
            probes += 1;
            of_poisonous += u64::from(address == POISONOUS);
            bench.breaker.failed(asks, address, true, None, 0);
        }
        assert!(
            probes >= 80 && of_poisonous <= probes / 2 + 1,
            "{of_poisonous} of {probes}, {others} others"
        );
    }

    // The twin: nobody else asks.
    let mut bench = Bench::new(RULES);
    bench.open();
    let probes = (0..100_000).filter(|_| {
        let probe = bench.wait(SECOND / 100).admit_from(POISONOUS) == Probe;
        if probe {
            bench.breaker.failed(bench.now, POISONOUS, true, None, 0);
        }
        probe
    });
    assert!(probes.count() >= 60);
}

#[test]
fn of_those_who_probed_in_vain_the_latest_are_remembered() {
    let mut bench = Bench::new(RULES);
    bench.open();
    for address in 10..10 + 2 * MOST_ADDRESSES as u64 {
        assert_eq!(bench.wait(SECOND * 5).admit_from(address), Probe);
        bench.breaker.failed(bench.now, address, true, None, 0);
    }
    assert_eq!(bench.breaker.suspects.len(), MOST_ADDRESSES);
    bench.wait(SECOND * 5);
    assert_eq!((bench.admit_from(9 + 2 * MOST_ADDRESSES as u64), bench.admit_from(10)), (Stop, Probe));
}

#[test]
fn an_answer_to_what_was_asked_before_closes_it() {
    let mut bench = Bench::new(RULES);
    assert_eq!(bench.open().answer(), Some(Change::Closed));
    assert_eq!(bench.admit(), Pass);
}

#[test]
fn a_backend_may_ask_to_be_left_alone_within_bounds() {
    for (asks, waits) in [(0, 1), (30, 30), (3600, 60)] {
        let mut bench = Bench::new(RULES);
        bench.outage(1);
        bench.outage(2);
        let asks = Some(Duration::from_secs(asks));
        let opened = bench.breaker.failed(bench.now, 3, false, asks, 0);
        assert_eq!(opened, Some(Change::Opened { cooldown: Duration::from_secs(waits) }));
    }
}

#[test]
fn jitter_makes_it_longer_by_a_tenth_at_most() {
    for jitter in [0, 1, 500, 1023, u64::MAX] {
        let mut bench = Bench::new(Rules { failures: 1, ..RULES });
        let Some(Change::Opened { cooldown }) = bench.breaker.failed(bench.now, 1, false, None, jitter)
        else {
            panic!("stays closed");
        };
        assert!((SECOND..=SECOND * 11 / 10).contains(&cooldown), "{jitter}: {cooldown:?}");
        assert_eq!(cooldown == SECOND, jitter == 0);
    }
}

#[test]
fn a_rate_opens_it_where_answers_come_between() {
    let rules = Rules { rate: 50, ..RULES };
    let mut bench = Bench::new(rules);
    for address in 0..2 {
        assert_eq!((bench.outage(address), bench.answer()), (None, None), "not enough to tell");
    }
    assert!(bench.outage(9).is_some());

    // What has left the window does not count.
    let mut bench = Bench::new(rules);
    for address in 0..2 {
        bench.outage(address);
        bench.answer();
    }
    assert_eq!(bench.wait(WINDOW + SECOND).outage(9), None);

    let mut bench = Bench::new(Rules { rate: 0, ..RULES });
    for address in 0..100 {
        assert_eq!((bench.outage(address), bench.answer()), (None, None));
    }
}

/// Which checks it takes: six thousand clients within ten seconds, of whose checks so many in a hundred are outages.
fn opens_after(rate: u32, checks_each: u64, outages: u64) -> Option<u64> {
    let mut bench = Bench::new(Rules { failures: 50, rate, ..RULES });
    let keyed = std::hash::RandomState::new();
    for check in 0..6000 * checks_each {
        bench.wait(WINDOW / (6000 * checks_each) as u32);
        let client = keyed.hash_one(check % 6000);
        // So that no 50 follow each other.
        let turn = (check * 37 + check / 6000 * 13) % 100;
        let change = if turn < outages { bench.outage(client) } else { bench.answer_to(client) };
        if change.is_some() {
            return Some(check);
        }
    }
    None
}

#[test]
fn a_rate_is_that_of_the_clients_however_many_and_however_often_they_ask() {
    for checks_each in [1, 5] {
        assert!(opens_after(50, checks_each, 70).is_some_and(|check| check < 500));
        assert!(opens_after(20, checks_each, 30).is_some_and(|check| check < 1000));
        assert_eq!(opens_after(50, checks_each, 30), None, "{checks_each}");
    }
    // It turns bad when thousands have been answered.
    let mut bench = Bench::new(Rules { failures: 50, rate: 50, ..RULES });
    let keyed = std::hash::RandomState::new();
    let mut client = 0;
    let mut round = |bench: &mut Bench, outages: u64| {
        client += 1;
        bench.wait(WINDOW / 10_000);
        let address = keyed.hash_one(client);
        if client * 37 % 100 < outages { bench.outage(address) } else { bench.answer_to(address) }
    };
    for _ in 0..20_000 {
        assert_eq!(round(&mut bench, 20), None);
    }
    assert!((0..10_000).any(|_| round(&mut bench, 90).is_some()));
}

#[test]
fn a_rate_is_not_reached_by_chance_where_few_ask_in_step() {
    // Ten clients, each once a second and all at once, for ten minutes. Of each one's checks three in ten are outages.
    let mut bench = Bench::new(Rules { failures: 5, rate: 50, ..RULES });
    for second in 0..600_u64 {
        for client in 0..10 {
            // They come one after the other, and half of the clients have theirs together.
            let fails = second >= 10 && (second + client % 2 * 5) % 10 < 3;
            let change = if fails { bench.outage(client) } else { bench.answer_to(client) };
            assert_eq!(change, None, "{second}");
        }
        bench.wait(SECOND);
    }
    // The twin: seven of ten.
    let opens = (0..20_u64).any(|second| {
        bench.wait(SECOND);
        (0..10).any(|client| {
            let fails = (second + client % 2 * 5) % 10 < 7;
            if fails { bench.outage(client) } else { bench.answer_to(client) }.is_some()
        })
    });
    assert!(opens);
}

#[test]
fn connections_that_are_refused_weigh_nothing_in_a_rate() {
    let mut bench = Bench::new(Rules { failures: 30, rate: 50, ..RULES });
    for client in 0..40 {
        bench.wait(WINDOW / 100);
        for _ in 0..100 {
            bench.answer_to(client);
        }
        assert_eq!(bench.breaker.unreachable(bench.now, 1000 + client, 0), None, "{client}");
    }
    // In a row they count.
    assert!((0..30).any(|nobody| bench.breaker.unreachable(bench.now, 2000 + nobody, 0).is_some()));
}

#[test]
fn a_thousand_clients_stand_for_all_where_there_are_more() {
    let (keyed, mut window, mut now) = (std::hash::RandomState::new(), Window::default(), Instant::now());
    for client in 0..100_000 {
        let hash = keyed.hash_one(client);
        now += WINDOW / 100_000;
        if client % 5 == 0 {
            window.answered(now, hash);
        } else {
            window.failed(now, hash);
        }
        assert!(window.len() <= 1024);
    }
    // One in 128 or 256.
    assert!(window.len() >= 200, "{}", window.len());
    assert!(window.is_over(now, 70, 50_000) && !window.is_over(now, 90, 1));
    assert!(!window.is_over(now, 70, 200_000), "not so many have met one");
    // When they are gone, each of a few counts again.
    for second in 1..=20 {
        window.answered(now + WINDOW + SECOND * second, 0);
    }
    now += WINDOW + SECOND * 20;
    assert!((1..=20).all(|client| window.failed(now, u64::MAX / client)));
    assert!(window.is_over(now, 90, 20) && !window.is_over(now, 90, 21));
    assert!(!window.is_over(now + WINDOW, 1, 1));
}

#[test]
fn one_client_weighs_as_much_as_another_in_a_rate() {
    let mut bench = Bench::new(Rules { failures: 2, rate: 50, ..RULES });
    bench.answer_to(0);
    bench.answer_to(2);
    bench.answer_to(3);
    bench.outage(100);
    bench.answer_to(0);
    for round in 0..1000 {
        bench.wait(WINDOW / 2000);
        assert_eq!((bench.outage(1), bench.answer_to(2), bench.answer_to(3)), (None, None, None), "{round}");
    }
    // The twin: another client, after an answer.
    assert!(bench.outage(4).is_some());
}

/// What was met between answers is no reason to wait longer when none come any more.
#[test]
fn outages_before_an_answer_do_not_keep_those_after_it_from_counting() {
    for before in [2, MOST_ADDRESSES as u64 * 2] {
        let mut bench = Bench::new(RULES);
        for address in 0..before {
            assert_eq!((bench.outage(address), bench.answer()), (None, None));
        }
        let newcomers = [before, before + 1];
        assert_eq!((bench.outage(0), bench.outage(newcomers[0])), (None, None));
        for address in newcomers.into_iter().chain([0]) {
            assert!(bench.breaker.corroborates(bench.now, address), "{address} of {before}");
        }
        assert_eq!(bench.outage(0), None, "the same client");
        assert!(bench.outage(newcomers[1]).is_some(), "{before}: three clients in a row");
    }
}

#[test]
fn where_the_endpoint_is_not_to_blame_an_outage_only_corroborates() {
    let mut bench = Bench::new(RULES);
    for address in 0..100 {
        bench.breaker.met(bench.now, address);
        assert!(bench.breaker.corroborates(bench.now, 100));
    }
    assert_eq!(bench.admit(), Pass);
    assert_eq!((bench.outage(1), bench.outage(2), bench.outage(1)), (None, None, None));
    assert!(bench.outage(3).is_some(), "each counts once all the same");
    bench.breaker.met(bench.now, 4);
    assert_eq!(bench.admit(), Stop);
}

#[test]
fn without_failures_it_never_opens() {
    let mut bench = Bench::new(Rules { failures: 0, rate: 1, ..RULES });
    for address in 0..10_000 {
        assert_eq!(bench.outage(address), None);
    }
    assert_eq!(bench.admit(), Pass);
}

#[test]
fn another_client_s_outage_corroborates_one_s_own_does_not() {
    let mut bench = Bench::new(RULES);
    bench.outage(1);
    let corroborates = |bench: &Bench, address| bench.breaker.corroborates(bench.now, address);
    assert!(!corroborates(&bench, 1) && corroborates(&bench, 2));
    bench.wait(WINDOW);
    assert!(!corroborates(&bench, 2), "long ago");
    bench.outage(1);
    bench.answer();
    assert!(!corroborates(&bench, 2), "answered since");
    bench.wait(WINDOW).open();
    assert!(corroborates(&bench, 1));
}
