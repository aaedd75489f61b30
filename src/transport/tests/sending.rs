//! Requests of the wire lane that go out together with others: what may come between the posting and the sending.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, duplex};
use tokio::net::TcpListener;

use super::*;
use crate::transport::dial::{Dial, Dialing, Io, Link, Watch, WriteHalf};
use crate::transport::scripted::Scripted;

/// A connection whose writer does as it is told, once each; then it writes.
struct Told(Rc<Shared>);

struct Shared {
    stream: RefCell<DuplexStream>,
    orders: RefCell<VecDeque<Order>>,
    peer: Rc<RefCell<Option<DuplexStream>>>,
    reader: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy)]
enum Order {
    Write,
    /// There is no room.
    Full,
    /// The peer says this before anything was sent, and is heard.
    Heard(&'static [u8]),
    /// The peer closes, and is heard.
    Left,
    /// So many bytes are taken; the peer says this, and there is room again.
    Part(usize, &'static [u8]),
    /// The same, and it closes.
    PartAndLeft(usize, &'static [u8]),
}

impl Shared {
    fn poll<T>(&self, poll: impl FnOnce(Pin<&mut DuplexStream>) -> T) -> T {
        poll(Pin::new(&mut *self.stream.borrow_mut()))
    }
}

impl AsyncRead for Told {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        *self.0.reader.borrow_mut() = Some(cx.waker().clone());
        self.0.poll(|stream| stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Told {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll(|stream| stream.poll_write(cx, bytes))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Io for Told {
    fn write_half(&self) -> Option<Rc<dyn WriteHalf>> {
        Some(Rc::clone(&self.0) as _)
    }
}

impl WriteHalf for Shared {
    fn write_now(&self, bytes: &[u8]) -> Option<io::Result<usize>> {
        let mut nobody = Context::from_waker(Waker::noop());
        match self.orders.borrow_mut().pop_front().unwrap_or(Order::Write) {
            Order::Write => match self.poll(|stream| stream.poll_write(&mut nobody, bytes)) {
                Poll::Ready(written) => Some(written),
                Poll::Pending => None,
            },
            Order::Full => None,
            order @ (Order::Part(count, says) | Order::PartAndLeft(count, says)) => {
                assert!(self.poll(|stream| stream.poll_write(&mut nobody, &bytes[..count])).is_ready());
                let mut peer = self.peer.borrow_mut();
                let speaker = Pin::new(peer.as_mut().expect("it has not left"));
                assert!(speaker.poll_write(&mut nobody, says).is_ready());
                if matches!(order, Order::PartAndLeft(..)) {
                    *peer = None;
                }
                Some(Ok(count))
            }
            Order::Heard(says) => {
                let mut peer = self.peer.borrow_mut();
                let peer = Pin::new(peer.as_mut().expect("it has not left"));
                assert!(peer.poll_write(&mut nobody, says).is_ready());
                None
            }
            Order::Left => {
                self.peer.take();
                None
            }
        }
    }

    fn wake(&self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// Its first connection does as it is told; the others are scripted.
struct Dialer(RefCell<Option<Told>>, Rc<Scripted>);

impl Dial for Dialer {
    fn dial(&self, endpoint: usize, among: Among, watch: Rc<Watch>) -> Dialing {
        let Some(io) = self.0.take() else { return self.1.dial(endpoint, among, watch) };
        Box::pin(async move {
            Ok(Link { io: Box::new(io), peer: String::new(), address: None, tls: None, http2: false })
        })
    }
}

/// A world whose first connection does as it is told, and the other end of that.
fn told(orders: &[Order]) -> (World, Rc<RefCell<Option<DuplexStream>>>) {
    LANE.set(("wire", "1"));
    let mut world = World::new(&[]);
    let (ours, theirs) = duplex(256 * 1024);
    let peer = Rc::new(RefCell::new(Some(theirs)));
    let told = Told(Rc::new(Shared {
        stream: RefCell::new(ours),
        orders: RefCell::new(orders.iter().copied().collect()),
        peer: Rc::clone(&peer),
        reader: RefCell::default(),
    }));
    let dialer = Dialer(RefCell::new(Some(told)), Rc::clone(&world.dialer));
    let mut config = Config::new();
    config.set("backend.url", "http://backend.test:6000/auth").unwrap();
    config.set("default_action", "deny").unwrap();
    let settings = Arc::new(config.settings().unwrap());
    world.transport = Transport::with_dialer(settings, Arc::clone(&world.gauges), 0, 1, Rc::new(dialer));
    (world, peer)
}

/// Answers one request on it.
async fn answer(peer: &Rc<RefCell<Option<DuplexStream>>>) {
    let mut taken = Peer(peer.take().expect("it has not left"));
    taken.request().await;
    taken.reply(OK_EMPTY).await;
    peer.replace(Some(taken.0));
}

/// What has been sent to it since, if it has not left.
fn unread(peer: &Rc<RefCell<Option<DuplexStream>>>) -> usize {
    let mut peer = peer.borrow_mut();
    let Some(peer) = &mut *peer else { return 0 };
    let mut room = [0; 1024];
    let mut buf = ReadBuf::new(&mut room);
    let _ = Pin::new(peer).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf);
    buf.filled().len()
}

#[tokio::test(start_paused = true)]
async fn a_request_that_finds_no_room_is_sent_when_there_is() {
    local(async {
        let (world, peer) = told(&[Order::Full]);
        let (reply, ()) = tokio::join!(world.ask(), async {
            settle().await;
            answer(&peer).await;
        });
        assert_eq!(reply.unwrap().status, 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_heard_before_the_request_went_out_is_no_answer_to_it() {
    local(async {
        // Of a connection that was made for it.
        for (order, cause, why) in [
            (
                Order::Heard(OK_EMPTY),
                Cause::Protocol,
                "http://backend.test:6000 sent bytes before it was asked",
            ),
            (Order::Left, Cause::Reset, "http://backend.test:6000 closed before the first byte of an answer"),
        ] {
            let (world, peer) = told(&[order]);
            let failure = world.ask().await.err().expect("nobody was asked");
            assert_eq!((failure.cause, &*failure.detail), (cause, why));
            assert!(!failure.retry_is_safe);
            assert_eq!(unread(&peer), 0, "nothing was sent");
        }
        // Of a used one it is the end of something older: another is asked.
        for order in [Order::Heard(OK_EMPTY), Order::Left] {
            let (mut world, peer) = told(&[Order::Write, order]);
            let (reply, ()) = tokio::join!(world.ask(), answer(&peer));
            reply.unwrap().body.discard();
            settle().await;
            let asking = world.asking(false);
            let mut other = world.peer().await;
            other.request().await;
            other.reply(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n").await;
            let (reply, progress) = asking.await.unwrap();
            assert_eq!(reply.unwrap().status, 403);
            assert_eq!(progress.stage(), Stage::Replied);
            assert_eq!(unread(&peer), 0, "nothing was sent");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_heard_between_two_parts_of_a_request_is_none_though_the_rest_could_be_sent() {
    local(async {
        let (world, _peer) = told(&[Order::Part(20, OK_EMPTY)]);
        let (outcome, progress) = world.exchange(false).await;
        let failure = outcome.err().expect("it is no answer");
        assert_eq!(failure.cause, Cause::Protocol);
        assert_eq!(failure.detail, "the reply of http://backend.test:6000 came before its request was sent");
        assert_eq!(progress.status_line.get(), Some(200), "a refusal would refuse");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_behind_a_part_of_a_request_has_seen_it() {
    local(async {
        let refusal: &[u8] = b"HTTP/1.1 403 No\r\n";
        for (says, cause, status) in [(&b""[..], Cause::Reset, None), (refusal, Cause::Protocol, Some(403))] {
            let (world, peer) = told(&[Order::Write, Order::PartAndLeft(20, says)]);
            let (reply, ()) = tokio::join!(world.ask(), answer(&peer));
            reply.unwrap().body.discard();
            settle().await;
            let (outcome, progress) = world.exchange(false).await;
            let failure = outcome.err().expect("nothing was answered");
            assert_eq!((failure.cause, progress.status_line.get()), (cause, status));
            assert!(progress.stage() >= Stage::Written, "asked again it would count as a second request");
            assert_eq!(failure.retry_is_safe, says.is_empty(), "only by who counts that");
        }
    })
    .await;
}

#[tokio::test]
async fn an_exchange_that_leaves_before_its_request_went_out_asks_nothing() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (transport, gauges) = network::real(&[("backend.url", &url)]).unwrap();
        let progress = Rc::<Progress>::default();
        let serve = async {
            let mut stream = listener.accept().await.unwrap().0;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(OK_EMPTY).await.unwrap();
            stream
        };
        let first = Rc::default();
        let (reply, mut stream) = tokio::join!(ask_for("/auth", &transport, false, &first), serve);
        reply.unwrap().body.discard();
        {
            let mut leaves = pin!(ask_for("/auth?token=123", &transport, false, &progress));
            poll_fn(|cx| {
                assert!(leaves.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            assert_eq!(progress.stage(), Stage::Ready, "it has its connection, and is posted");
        }
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest.escape_ascii().to_string(), "", "nobody waits for an answer");
        assert_eq!((gauges[0].opened.get(), gauges[0].open.get()), (1, 0));
    })
    .await;
}
