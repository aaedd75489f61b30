//! The lanes of HTTP/1.1 beside each other: what each makes of the same bytes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio::io::AsyncReadExt;
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tokio::time::sleep;

use super::{HeadRead, read_head};
use crate::decision::Cause;
use crate::fuzzing::lines;
use crate::transport::BodyError;
use crate::transport::scripted::{World, settle};

/// One endpoint, asked over hyper, one over the wire lane, and one over the wire lane with pipelining.
pub(in crate::transport) fn worlds() -> [World; 3] {
    [("hyper", "1"), ("wire", "1"), ("wire", "8")].map(|(lane, window)| {
        let lane = [("http.lane", lane), ("http.pipeline", window)];
        World::new(&[&lane[..], &[("verdict.body", "json:error==0"), ("pool.idle_timeout", "1h")]].concat())
    })
}

/// What a lane made of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::transport) enum Made {
    Reply { status: u16, headers: HeaderMap, body: Option<Result<Bytes, BodyError>> },
    Failure { cause: Cause, retry_is_safe: bool },
}

#[derive(Debug, PartialEq, Eq)]
pub(in crate::transport) struct Outcome {
    pub(in crate::transport) made: Made,
    status_line: Option<u16>,
    /// The connection is idle in the pool, if its peer left it open.
    kept: bool,
}

impl Outcome {
    /// As far as the wire lane may be stricter than hyper.
    pub(in crate::transport) fn agrees_with(&self, wire: &Self) -> bool {
        let same = match (&self.made, &wire.made) {
            (
                Made::Reply { status, headers, .. },
                Made::Reply { status: s, headers: h, body: Some(Err(BodyError::Cut)) },
            ) => status == s && headers == h,
            (hyper, wire) => hyper == wire,
        };
        same && self.status_line == wire.status_line && (self.kept || !wire.kept)
    }
}

/// What the lane of `world` makes of `reply`, which comes in pieces that end at `cuts`. The peer closes when it is judged by
/// its body, and when the lane waits for more.
pub(in crate::transport) async fn outcome(
    world: &mut World,
    reply: &[u8],
    cuts: &[usize],
    judged_by_body: bool,
) -> Outcome {
    // Nothing is idle. What is asked afresh is never pipelined.
    let asking = world.asking(false);
    let mut peer = world.peer().await;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        peer.0.read_buf(&mut request).await.unwrap();
    }
    let mut from = 0;
    for &to in cuts {
        peer.reply(&reply[from..to]).await;
        settle().await;
        from = to;
    }
    let mut peer = Some(peer);
    if judged_by_body || !asking.is_finished() {
        peer = None;
    }
    let (result, progress) = asking.await.unwrap();
    let made = match result {
        Ok(reply) => {
            let (status, headers) = (reply.status, reply.headers);
            let body = if judged_by_body {
                Some(reply.body.collect(1000).await)
            } else {
                reply.body.discard();
                None
            };
            Made::Reply { status, headers, body }
        }
        Err(failure) => Made::Failure { cause: failure.cause, retry_is_safe: failure.retry_is_safe },
    };
    // One that no task reads is looked at when it is used again, or when it has rested for a while.
    sleep(Duration::from_millis(51)).await;
    let kept = peer.is_some() && world.gauges().2 == 1;
    drop(peer);
    // So that nothing of it is left when the next one is asked.
    sleep(Duration::from_millis(201)).await;
    assert_eq!(world.gauges().1, 0, "{:?}", world.gauges());
    Outcome { made, status_line: progress.status_line.get(), kept }
}

/// What a server may send, whatever it is, and however it comes: no lane takes for a reply what breaks a rule of the
/// header section; where one takes it, so does the other, and it is the same reply, but that the wire lane may find its
/// body cut; and with a byte behind it the connection is used no more.
///
/// An input is a line and what the server sends. The line: where that is cut (`17`, or `each` byte), and `body` if the verdict
/// is by the body; words, with a space between them.
pub fn wire(input: &[u8]) {
    let ([line], reply) = lines(input);
    let line = String::from_utf8_lossy(&line);
    let judged_by_body = line.split(' ').any(|word| word == "body");
    let mut cuts: Vec<usize> = match line.split(' ').any(|word| word == "each") {
        true => (1..reply.len()).collect(),
        false => line
            .split(' ')
            .filter_map(|word| word.parse().ok())
            .map(|cut: usize| cut.min(reply.len()))
            .collect(),
    };
    cuts.sort_unstable();
    cuts.push(reply.len());

    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let [mut over_hyper, mut over_wire, mut piped] = worlds();
        let hyper = outcome(&mut over_hyper, reply, &cuts, judged_by_body).await;
        let wire = outcome(&mut over_wire, reply, &cuts, judged_by_body).await;
        assert!(hyper.agrees_with(&wire), "hyper: {hyper:?}\nwire:  {wire:?}");
        let shared = outcome(&mut piped, reply, &cuts, judged_by_body).await;
        assert_eq!(wire, shared, "pipelining makes a difference");
        let read = read_head([reply]).0;
        match (&wire.made, read) {
            (Made::Reply { status, .. }, HeadRead::Complete(read)) => assert_eq!(*status, read),
            (Made::Reply { .. }, read) => panic!("taken for a reply, which is {read:?}"),
            (Made::Failure { .. }, HeadRead::Complete(_)) => panic!("a complete header section is no reply"),
            (Made::Failure { .. }, _) => {}
        }
        let surplus = [reply, b"\n"].concat();
        cuts.push(surplus.len());
        for (before, world) in [(hyper, &mut over_hyper), (wire, &mut over_wire), (shared, &mut piped)] {
            if before.kept {
                let after = outcome(world, &surplus, &cuts, judged_by_body).await;
                assert!(after.made == before.made && !after.kept, "with a byte behind it: {after:?}");
            }
        }
    });
}
