//! Scripted peers on paused time. Each test runs inside a `LocalSet`, like an I/O thread.

mod addresses;
mod bodies;
mod differential;
mod lanes;
mod network;
mod pipelining;
mod pooling;
mod replies;
mod sending;
mod shared;
mod swallowed;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

use super::scripted::{LANE, Peer, Reply, World, ask_for, settle};
use super::*;
use crate::config::Config;

const OK_EMPTY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const OK_CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";

impl Peer {
    /// One request's head; panics at the end of the connection.
    async fn request(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.expect("a request"));
        }
        String::from_utf8_lossy(&head).into_owned()
    }

    /// Waits until the connection is closed by the transport.
    async fn closed(mut self) {
        let mut rest = Vec::new();
        let _ = self.0.read_to_end(&mut rest).await;
    }
}

impl World {
    async fn ask(&self) -> Result<Reply, Failure> {
        self.exchange(false).await.0
    }

    async fn exchange(&self, fresh: bool) -> (Result<Reply, Failure>, Rc<Progress>) {
        let progress = Rc::<Progress>::default();
        (ask_for("/auth?token=123", &self.transport, fresh, &progress).await, progress)
    }

    /// Every connection gets `reply` for each request.
    fn always(set: &[(&str, &str)], reply: &'static [u8]) -> Self {
        let mut world = Self::new(set);
        serve_all(&mut world, reply);
        world
    }
}

/// Every connection from now on gets `reply` for each request.
fn serve_all(world: &mut World, reply: &'static [u8]) {
    let (_, empty) = mpsc::unbounded_channel();
    let mut peers = std::mem::replace(&mut world.peers, empty);
    spawn_local(async move {
        while let Some(mut peer) = peers.recv().await {
            spawn_local(async move {
                let mut seen = Vec::new();
                while let Ok(byte) = peer.0.read_u8().await {
                    seen.push(byte);
                    if seen.ends_with(b"\r\n\r\n") {
                        peer.reply(reply).await;
                        seen.clear();
                    }
                }
            });
        }
    });
}

/// Runs a test as an I/O thread would.
async fn local<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(test).await
}

/// A promise of HTTP/1.1, whoever speaks it.
async fn in_each_lane(test: impl AsyncFn()) {
    unshared_in_each_lane(&test).await;
    in_lane(("wire", "8"), &test).await;
}

/// The same, of connections with one exchange at a time: who gets which, and when one is idle.
async fn unshared_in_each_lane(test: impl AsyncFn()) {
    in_lane(("hyper", "1"), &test).await;
    in_lane(("wire", "1"), &test).await;
}

async fn in_lane(lane: (&'static str, &'static str), test: &impl AsyncFn()) {
    LANE.set(lane);
    eprintln!("in the lane {lane:?}:");
    local(test()).await;
}

/// The one failure of an exchange against a peer that says `reply` and closes.
async fn failure_of(reply: &[u8]) -> (Failure, Option<u16>) {
    let mut world = World::new(&[]);
    let asking = world.asking(true);
    let mut peer = world.peer().await;
    peer.request().await;
    peer.reply(reply).await;
    drop(peer);
    let (outcome, progress) = asking.await.unwrap();
    let Err(failure) = outcome else { panic!("{} was taken for a reply", reply.escape_ascii()) };
    settle().await;
    assert_eq!(world.gauges().1, 0, "the connection is closed");
    (failure, progress.status_line.get())
}
