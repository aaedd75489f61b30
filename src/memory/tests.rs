use std::time::Duration;

use super::*;
use crate::backend::{Answer, Basis};
use crate::decision::{Origin, Verdict};

const BOUNDS: MemoryBounds = MemoryBounds { decisions: 1_000_000, bytes: 512 << 20 };
const MAX: Duration = Duration::from_hours(24);

fn answer(user_id: &str) -> Answer {
    Answer {
        verdict: Verdict::Allow,
        reason: "",
        status: 200,
        ttl: Duration::ZERO,
        must_revalidate: false,
        storable: true,
        user_id: (!user_id.is_empty()).then(|| user_id.into()),
        location: None,
        max_sessions: 0,
        unique: false,
        dropped_text: false,
        dropped_user: false,
        from_cache: false,
        broken: false,
        basis: Basis::default(),
    }
}

fn record(key: &[u8], user_id: &str, now: u64) -> Record {
    let facts = Facts { key, now, ttl: Duration::from_mins(1), at: 0, user: 7 };
    Record::new(&answer(user_id), &facts)
}

fn knows(memory: &Memory, session: u64, key: &[u8]) -> bool {
    memory.read(session, key, |_| ()).is_some()
}

/// Numbers from an environment variable, for runs at the size that was promised; CONTRIBUTING.md has the command.
fn size(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |size| size.parse().expect("a number"))
}

/// splitmix64, as keyed hashes are spread.
fn hash(number: u64) -> u64 {
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[test]
fn whole_keys_are_compared_within_one_entry() {
    let memory = Memory::new(BOUNDS);
    memory.put(1, record(b"one", "u", 0), || true);
    memory.put(1, record(b"other", "", 0), || true);
    assert!(knows(&memory, 1, b"one") && knows(&memory, 1, b"other"));
    assert!(!knows(&memory, 1, b"on") && !knows(&memory, 1, b"uone") && !knows(&memory, 2, b"one"));
    assert_eq!(memory.len(), 2);
    memory.remove(1, b"one");
    assert!(!knows(&memory, 1, b"one") && knows(&memory, 1, b"other"));
    memory.put(1, record(b"other", "", 5), || true);
    assert_eq!(memory.len(), 1, "in the place of what was there");
    memory.forget(1);
    assert_eq!((memory.len(), knows(&memory, 1, b"other")), (0, false));
}

#[test]
fn a_session_holds_so_many_and_each_new_one_replaces_its_oldest() {
    let memory = Memory::new(BOUNDS);
    memory.put(2, record(b"beside", "", 0), || true);
    let key = |number: usize| format!("key {number}").into_bytes();
    for number in 0..PER_SESSION + 10 {
        memory.put(1, record(&key(number), "", 0), || true);
    }
    assert_eq!(memory.len(), PER_SESSION + 1);
    assert!((0..10).all(|number| !knows(&memory, 1, &key(number))));
    assert!((10..PER_SESSION + 10).all(|number| knows(&memory, 1, &key(number))));
    assert!(knows(&memory, 2, b"beside"));
}

/// The least room that there is for a session, besides.
#[test]
fn however_few_may_be_remembered_a_session_s_newest_is_and_its_oldest_goes_first() {
    for (decisions, of_one) in [(1, 1), (2, 1), (3, 2), (100, 44), (1_000, 56), (5_000, PER_SESSION)] {
        let memory = Memory::new(MemoryBounds { decisions, ..BOUNDS });
        let key = |number: usize| format!("key {number}").into_bytes();
        let mut held = 0;
        for number in 0..2 * PER_SESSION {
            memory.put(1, record(&key(number), "", 0), || true);
            let newest = (0..=number).rev().take_while(|&of| knows(&memory, 1, &key(of))).count();
            assert_eq!(newest, memory.len(), "{decisions}: the newest of {number}");
            assert!(newest >= held.max(1), "{decisions}: {newest} of {number}");
            held = newest;
        }
        assert_eq!(held, of_one, "of {decisions}");
    }
}

#[test]
fn reuse_ends_at_its_time_or_at_the_bound_and_may_be_told_in_an_outage_for_longer() {
    let ms = Duration::from_millis;
    let record = record(b"key", "u1", 5_000);
    assert_eq!(record.left(5_000, MAX), Some(60_000));
    assert_eq!(record.left(64_999, MAX), Some(1));
    assert_eq!(record.left(65_000, MAX), None);
    assert_eq!(
        record.left(4_000, MAX),
        Some(60_000),
        "not more for one who read the clock before it was born"
    );
    assert_eq!(record.left(6_000, ms(3_000)), Some(2_000), "a lower bound cuts at once");
    assert_eq!(record.left(8_000, ms(3_000)), None);
    assert!(record.is_known(65_000, MAX, ms(10)) && !record.is_known(65_010, MAX, ms(10)));

    assert_eq!(record.idle(9_999), Duration::from_secs(4));
    record.touch(9_999);
    assert_eq!(record.idle(9_999), Duration::ZERO);
    record.renew(65_000);
    assert_eq!(record.left(65_000, MAX), Some(60_000));

    let told = record.decision(Origin::Memory, 1_500);
    assert_eq!((told.verdict, told.origin, told.user_id()), (Verdict::Allow, Origin::Memory, "u1"));
    assert_eq!((told.ttl, told.http_status, told.location()), (ms(1_500), Some(200), ""));
}

/// A check is submitted, and while it is looked up an answer to another one lands that is kept for an outage only.
#[test]
fn what_may_not_be_reused_is_not_reused_by_one_who_read_the_clock_before_it_was_born() {
    let facts = Facts { key: b"key", now: 5_000, ttl: Duration::ZERO, at: 0, user: 0 };
    let record = Record::new(&answer(""), &facts);
    assert_eq!(record.left(4_990, MAX), None);
    assert_eq!(record.left(5_000, MAX), None);
    assert!(record.is_known(5_000, MAX, Duration::from_secs(1)));
    let alive = Facts { ttl: Duration::from_secs(1), ..facts };
    assert_eq!(Record::new(&answer(""), &alive).left(4_990, Duration::ZERO), None, "nor with ttl.max = 0");
}

#[test]
fn what_must_be_revalidated_is_not_told_in_an_outage() {
    let facts = Facts { key: b"key", now: 0, ttl: Duration::from_secs(1), at: 0, user: 0 };
    let record = Record::new(&Answer { must_revalidate: true, ..answer("") }, &facts);
    assert!(record.left(999, MAX).is_some());
    assert!(!record.is_known(1_000, MAX, MAX));
    assert_eq!(record.known_until(MAX, MAX), 1_000);
}

#[test]
fn a_refresh_is_due_once_near_the_end() {
    let record = record(b"key", "", 0);
    assert!(!record.is_due(6_000, 10), "a tenth of 60 s is left");
    assert!(!record.is_due(1, 0), "off");
    assert!(record.is_due(5_999, 10));
    assert!(!record.is_due(5_998, 10), "once");
}

#[test]
fn both_bounds_hold_whatever_comes() {
    for bounds in [
        MemoryBounds { decisions: 2, bytes: 1 << 20 },
        MemoryBounds { decisions: 100, bytes: 1 << 20 },
        MemoryBounds { decisions: 5_000, bytes: 1 << 20 },
        MemoryBounds { decisions: 1_000_000, bytes: 1 << 20 },
    ] {
        let memory = Memory::new(bounds);
        for number in 0..20_000 {
            let key = vec![b'k'; (hash(number) % 2_000) as usize];
            memory.put(
                hash(number % 7_000),
                record(&[key, number.to_le_bytes().to_vec()].concat(), "user", 0),
                || true,
            );
        }
        let counted: usize = memory.sessions.iter().map(|(_, list)| list.len()).sum();
        let bytes: usize =
            memory.sessions.iter().flat_map(|(_, list)| list.to_vec()).map(|r| r.weight()).sum();
        assert_eq!(memory.len(), counted, "{bounds:?}");
        assert!((1..=bounds.decisions).contains(&counted), "{bounds:?}: {counted}");
        assert!(bytes <= bounds.bytes, "{bounds:?}: {bytes}");
        memory.clear();
        assert!(memory.is_empty() && !knows(&memory, hash(1), b""));
    }
}

#[test]
fn a_flood_of_new_sessions_does_not_push_out_those_that_watch() {
    const WATCHING: u64 = 10_000;
    let flood = size("ALTA_AUTH_FLOOD", 1_000_000);
    let memory = Memory::new(MemoryBounds { decisions: 100_000, ..BOUNDS });
    let watching = |number: u64| hash(u64::MAX - number);
    for number in 0..WATCHING {
        memory.put(watching(number), record(b"watching", "", 0), || true);
    }
    let (mut asked, mut hits) = (0u64, 0u64);
    for number in 0..flood {
        memory.put(hash(number), record(b"flooding", "", 0), || true);
        // Each of them asks again while 100,000 others come and go.
        if number % 10 == 0 {
            let session = watching(number / 10 % WATCHING);
            asked += 1;
            if knows(&memory, session, b"watching") {
                hits += 1;
            } else {
                memory.put(session, record(b"watching", "", 0), || true);
            }
        }
    }
    println!("{flood} of a flood: {hits} of {asked} checks of those watching were remembered");
    assert!(hits * 100 >= asked * 99, "{hits} of {asked}");
}

/// Runs in a process of its own: what other tests take and give back would count.
#[test]
fn a_remembered_decision_takes_at_most_400_bytes() {
    let name = "memory::tests::a_remembered_decision_takes_at_most_400_bytes";
    if let Some((text, _)) = crate::own_process::printed(name, "") {
        print!("{text}");
        return;
    }
    let count = size("ALTA_AUTH_REMEMBERED", 1_000_000);
    // Room for more: the shards of the table do not fill evenly.
    let memory = Memory::new(MemoryBounds { decisions: 2_000_000, bytes: 1 << 30 });
    let mut sweeping = crate::engine::Sweeping::default();
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
    };
    let before = resident();
    for number in 0..count {
        // 200 bytes, as a session id, an address, a token, an origin and a user agent make.
        let key = [&number.to_le_bytes()[..], &[b'k'; 192]].concat();
        memory.put(hash(number), record(&key, "", 0), || true);
        sweeping.note(hash(number), number, 2_000_000);
    }
    let each = resident().saturating_sub(before) as u64 / count;
    println!("{count} remembered decisions with keys of 200 bytes: {each} bytes each");
    assert_eq!(memory.len() as u64, count);
    // Less than its key would be no measurement.
    assert!((200..=400).contains(&each), "{each} bytes each");
}

#[test]
fn who_forgets_a_session_also_takes_out_what_is_being_put_in() {
    let memory = &Memory::new(MemoryBounds { decisions: 10, bytes: 1 << 20 });
    memory.put(1, record(b"key", "", 0), || false);
    assert!(memory.is_empty(), "it held no more");
    std::thread::scope(|threads| {
        let (done, forgotten) = std::sync::mpsc::channel();
        memory.put(1, record(b"key", "", 0), || {
            threads.spawn(move || {
                memory.forget(1);
                done.send(()).unwrap();
            });
            // It has to wait for its turn.
            forgotten.recv_timeout(Duration::from_millis(50)).is_err()
        });
        forgotten.recv().unwrap();
    });
    assert!(memory.is_empty());
}

#[test]
fn forgetting_everything_waits_for_no_writer_and_no_writer_for_it() {
    let memory = Memory::new(BOUNDS);
    for number in 0..1000 {
        memory.put(hash(number), record(b"k", "", 0), || true);
    }
    std::thread::scope(|scope| {
        let (done, is_done) = crossbeam_channel::bounded(1);
        let _turn = memory.writer(hash(1));
        let memory = &memory;
        scope.spawn(move || {
            memory.clear();
            done.send(()).unwrap();
        });
        assert!(is_done.recv_timeout(Duration::from_secs(10)).is_ok());
    });
    assert!(memory.is_empty());
}

#[test]
fn what_is_put_in_while_everything_is_forgotten_is_counted() {
    let memory = Memory::new(BOUNDS);
    std::thread::scope(|scope| {
        let put = || {
            for number in 0..20_000 {
                memory.put(hash(number % 50), record(&[number as u8 % 4], "", 0), || true);
            }
        };
        let putting = scope.spawn(put);
        while !putting.is_finished() {
            memory.clear();
        }
    });
    let counted: usize = memory.sessions.iter().map(|(_, list)| list.len()).sum();
    assert_eq!(memory.len(), counted);
    memory.clear();
    assert!(memory.is_empty());
}
