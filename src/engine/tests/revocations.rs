//! What a revocation voids, and until when it denies. Between threads: `engine/model.rs`.

use std::time::Duration;

use crate::engine::revocations::{ENTRIES, Mark, Revocations};

const BOUND: Duration = Duration::from_mins(1);
/// Three sessions, two of which share an entry.
const ONE: u64 = 7 << 32 | 7;
const BESIDE: u64 = 9 << 32 | 7;
const OTHER: u64 = 7 << 32 | 8;

#[tokio::test(start_paused = true)]
async fn a_revoked_session_is_denied_until_the_backend_is_heard() {
    let revocations = Revocations::new(ENTRIES).unwrap();
    let before = revocations.mark(ONE);
    assert!(!revocations.denies(ONE, BOUND));
    revocations.revoke(ONE, BOUND);
    let after = revocations.mark(ONE);
    assert!(!revocations.is_current(before) && revocations.is_current(after));
    assert!(revocations.denies(ONE, BOUND));

    revocations.heard(before);
    assert!(revocations.denies(ONE, BOUND), "an answer in flight does not revive it");
    revocations.heard(Mark { session: BESIDE, ..after });
    assert!(revocations.denies(ONE, BOUND), "an answer about another session is none about this");
    revocations.heard(after);
    assert!(!revocations.denies(ONE, BOUND));
    assert!(revocations.is_current(revocations.mark(OTHER)) && !revocations.denies(OTHER, BOUND));
}

#[tokio::test(start_paused = true)]
async fn of_revoked_sessions_that_share_an_entry_each_is_denied_and_heard_for_itself() {
    let revocations = Revocations::new(ENTRIES).unwrap();
    revocations.revoke(ONE, BOUND);
    assert!(!revocations.denies(BESIDE, BOUND));
    revocations.revoke(BESIDE, BOUND);
    revocations.heard(revocations.mark(ONE));
    assert!(!revocations.denies(ONE, BOUND) && revocations.denies(BESIDE, BOUND));
    revocations.heard(revocations.mark(BESIDE));
    assert!(!revocations.denies(BESIDE, BOUND));
}

#[tokio::test(start_paused = true)]
async fn where_there_are_too_many_to_tell_apart_too_many_are_denied_and_none_too_few() {
    let revocations = Revocations::new(ENTRIES).unwrap();
    // Of one list.
    let session = |number: u64| (2 * number + 1) << 32;
    for number in 0..600 {
        revocations.revoke(session(number), BOUND);
    }
    assert!((0..600).all(|number| revocations.denies(session(number), BOUND)));
    assert!(revocations.denies(session(1000), BOUND), "taken for one of them");
    assert!(!revocations.denies(OTHER, BOUND), "of another list");
    tokio::time::advance(BOUND + Duration::from_secs(1)).await;
    assert!((0..1001).all(|number| !revocations.denies(session(number), BOUND)));
    // Those that are over make room.
    for number in 600..900 {
        revocations.revoke(session(number), BOUND);
    }
    assert!(revocations.denies(session(899), BOUND) && !revocations.denies(session(1000), BOUND));
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_of_a_session_is_not_held_against_the_entry_that_it_shares() {
    let revocations = Revocations::new(ENTRIES).unwrap();
    let before = revocations.mark(ONE);
    revocations.revoke(BESIDE, BOUND);
    assert!(!revocations.is_current(before), "an exchange in progress is, to be on the safe side");
    assert!(revocations.is_kept(Some(revocations.entry(ONE)), before.at), "nor is its user");
    revocations.revoke_all();
    assert!(!revocations.is_kept(None, before.at));
}

#[tokio::test(start_paused = true)]
async fn a_revocation_is_over_after_its_bound() {
    let revocations = Revocations::new(ENTRIES).unwrap();
    tokio::time::advance(Duration::from_secs(1000)).await;
    revocations.revoke(ONE, BOUND);
    tokio::time::advance(BOUND).await;
    assert!(revocations.denies(ONE, BOUND));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(!revocations.denies(ONE, BOUND));
}

#[tokio::test(start_paused = true)]
async fn what_all_were_told_is_void_until_the_backend_is_heard_about_anyone() {
    let revocations = Revocations::new(ENTRIES).unwrap();
    let before = revocations.mark(ONE);
    revocations.revoke_all();
    assert!(!revocations.is_current(before));
    assert!(revocations.denies(ONE, BOUND) && revocations.denies(OTHER, BOUND));
    revocations.heard(before);
    assert!(revocations.denies(OTHER, BOUND), "that was asked earlier");
    revocations.heard(revocations.mark(ONE));
    assert!(!revocations.denies(OTHER, BOUND));
}

#[tokio::test(start_paused = true)]
async fn a_revoked_user_voids_what_was_said_of_it_and_closes_what_is_in_progress() {
    let revocations = Revocations::new(ENTRIES).unwrap();
    let before = revocations.mark(ONE);
    let (user, stranger) = (revocations.entry(OTHER), revocations.entry(ONE + 5));
    revocations.revoke_user(OTHER);
    assert!(!revocations.is_user_current(user, before.at));
    assert!(revocations.is_user_current(stranger, before.at));
    assert!(revocations.is_current(before) && !revocations.is_joinable(before));
    let after = revocations.mark(ONE);
    assert!(revocations.is_joinable(after) && revocations.is_user_current(user, after.at));
}
