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
async fn of_two_revoked_sessions_that_share_an_entry_an_answer_lifts_neither() {
    let revocations = Revocations::new(ENTRIES).unwrap();
    revocations.revoke(ONE, BOUND);
    revocations.revoke(BESIDE, BOUND);
    revocations.heard(revocations.mark(ONE));
    revocations.heard(revocations.mark(BESIDE));
    assert!(revocations.denies(ONE, BOUND) && revocations.denies(BESIDE, BOUND));
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
