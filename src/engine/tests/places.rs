//! `sessions.enforce`: what is kept of a user's sessions, and until when it counts.

use super::support::check;
use super::viewers::{allow, assert_by, pass, secs, with_viewers};
use crate::decision::{Origin, Verdict};
use crate::engine::limits::MOST_PLACES;

const NEWEST: (&str, &str) = ("sessions.enforce", "newest");

fn at_most(sessions: usize) -> super::viewers::Says {
    allow(&format!("X-AuthDuration: 36000|X-UserId: u1|X-Max-Sessions: {sessions}"))
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_stands_for_none_keeps_no_list_of_sessions() {
    for (limit, places) in [(1_000_000, 0), (u32::MAX as usize, 0), (MOST_PLACES + 1, 0), (MOST_PLACES, 40)] {
        for enforce in ["newest", "oldest"] {
            with_viewers(&[("sessions.enforce", enforce)], at_most(limit), |viewers| async move {
                for number in 0..40 {
                    let session = format!("s{number}");
                    assert_by(&viewers.ask(&check(&session, "")).await, Origin::Backend, Verdict::Allow);
                    assert_by(&viewers.ask(&check(&session, "")).await, Origin::Memory, Verdict::Allow);
                }
                assert_eq!(viewers.bench.core.limits.held(), (places, 0), "{limit}");
            })
            .await;
        }
    }
}
