//! Tasks of an I/O thread that everything else waits for: one that a defect ends begins anew.

use std::future::Future;

use tokio::task::spawn_local;

/// Runs what `begin` makes until it ends, within a `LocalSet`.
pub(super) fn spawn<F: Future<Output = ()> + 'static>(begin: impl Fn() -> F + 'static) {
    spawn_local(async move {
        let again = Again(Some(begin));
        let begin = again.0.as_ref().expect("it is taken when this ends");
        begin().await;
    });
}

struct Again<F: Future<Output = ()> + 'static, B: Fn() -> F + 'static>(Option<B>);

impl<F: Future<Output = ()> + 'static, B: Fn() -> F + 'static> Drop for Again<F, B> {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(begin) = self.0.take()
        {
            spawn(begin);
        }
    }
}
