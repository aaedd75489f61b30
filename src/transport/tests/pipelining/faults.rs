//! Faults of our own and of TLS are not taken for the backend's silence.

use super::*;

/// Answers one request; nothing to say is a defect. Then it takes no more: its TLS is broken.
struct Defective {
    says: &'static [u8],
    asked: bool,
    spoke: bool,
}

impl tokio::io::AsyncRead for Defective {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if !self.asked {
            return std::task::Poll::Pending;
        }
        assert!(!self.says.is_empty(), "a defect, on purpose");
        buf.put_slice(self.says);
        (self.asked, self.spoke) = (false, true);
        std::task::Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Defective {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        if self.spoke {
            let error = std::io::Error::other(rustls::Error::DecryptError);
            return std::task::Poll::Ready(Err(error));
        }
        self.asked = true;
        cx.waker().wake_by_ref();
        std::task::Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

impl Io for Defective {}

fn defective(says: &'static [u8]) -> World {
    first_over(Box::new(Defective { says, asked: false, spoke: false }))
}

#[tokio::test(start_paused = true)]
async fn a_defect_is_not_taken_for_the_backend_s_silence() {
    local(async {
        assert_eq!(failure(asking(&defective(b""), 0)).await, (Cause::Internal, false));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_tls_is_not_of_what_had_not_been_sent() {
    local(async {
        let mut world = defective(Vec::leak(reply("/0")));
        is_its_own(asking(&world, 0), 0).await;
        let second = asking(&world, 1);
        settle().await;
        assert!(!second.is_finished(), "it goes elsewhere");
        let mut other = world.peer().await;
        assert_eq!(other.targets().await, ["/1"]);
        other.reply(&reply("/1")).await;
        is_its_own(second, 1).await;
    })
    .await;
}
