//! A server of HTTP/2 by the h2 crate, with the reference rule: it understands what it is asked, and its frames are its own.
//!
//! One thread with a runtime of its own, which dropping the server ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use h2::server::SendResponse;
use http::request::Parts;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::TlsAcceptor;

use super::Identity;

pub(crate) struct Http2Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Parts>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Http2Server {
    /// Over TLS, if there is an identity.
    pub(crate) fn new(identity: Option<&Identity>) -> Self {
        let tls = identity.map(|identity| TlsAcceptor::from(identity.server_config(&["h2"])));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<Parts>>>::default();
        let (stop, stopped) = oneshot::channel();
        let heard = Arc::clone(&asked);
        let thread = std::thread::spawn(move || {
            let serving = LocalSet::new();
            serving.spawn_local(accept(listener, tls, heard));
            let _ = serving.block_on(&runtime, stopped);
        });
        Self { address, asked, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Parts> {
        self.asked.lock().clone()
    }
}

impl Drop for Http2Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, asked: Arc<Mutex<Vec<Parts>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, asked) = (tls.clone(), Arc::clone(&asked));
        let _ = stream.set_nodelay(true);
        spawn_local(async move {
            match tls {
                None => serve(stream, &asked).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, &asked).await;
                    }
                }
            }
        });
    }
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin, asked: &Mutex<Vec<Parts>>) {
    let Ok(mut connection) = h2::server::handshake(io).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let parts = request.into_parts().0;
        answer(respond, parts.uri.query().is_some_and(|query| query.contains("token=123")));
        asked.lock().push(parts);
    }
}

fn answer(mut respond: SendResponse<Bytes>, allow: bool) {
    let status = if allow { 200 } else { 403 };
    let reply = http::Response::builder().status(status).header("x-userid", "u").body(()).unwrap();
    // The other side may be gone.
    if let Ok(mut body) = respond.send_response(reply, false) {
        let _ = body.send_data(Bytes::from_static(b"0123456789"), true);
    }
}
