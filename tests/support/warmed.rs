//! A decision that is remembered, and a backend that will not be of help any more.

use std::sync::atomic::{AtomicUsize, Ordering};

use alta_auth::{Decision, Engine, Origin, Queue, Verdict};

use super::{Reply, Scripted, ask, engine, good};

/// A backend that has allowed [`good`] for ten minutes, said so once, and hangs: whatever asks it again, waits.
pub(crate) fn warmed(keys: &[(&str, &str)]) -> (Scripted, Engine) {
    let asked = AtomicUsize::new(0);
    let backend = Scripted::new(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::status(200, "X-AuthDuration: 600\r\n"),
        _ => Reply::silence(),
    });
    let keys: Vec<_> = [("timeout", "60s")].into_iter().chain(keys.iter().copied()).collect();
    let engine = engine(&backend.url(), &keys);
    assert_eq!(ask(&engine, &good()).origin, Origin::Backend);
    (backend, engine)
}

#[track_caller]
pub(crate) fn assert_remembered(decision: &Decision) {
    assert_eq!((decision.verdict, decision.origin), (Verdict::Allow, Origin::Memory), "{decision:?}");
}

/// The user data of what one reap brought, all of it remembered.
pub(crate) fn reaped(queue: &Queue, max: usize) -> Vec<usize> {
    let mut got = Vec::new();
    let count = queue.reap(max, |user_data, decision| {
        assert_remembered(&decision);
        got.push(user_data);
    });
    assert_eq!(count, got.len());
    got
}
