use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{LocalSet, spawn_local, yield_now};

use super::*;

async fn local(test: impl Future<Output = ()>) {
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, LocalSet::new().run_until(test)).await.expect("nobody is woken");
}

fn pair(reactor: &Rc<Reactor>) -> (Plain, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (reactor.add(ours.into()).unwrap(), theirs)
}

/// Waits until its task has heard of what has come.
async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn waits(plain: &mut Plain) -> bool {
    let mut byte = [0];
    let mut cx = Context::from_waker(Waker::noop());
    Pin::new(plain).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
}

#[tokio::test]
async fn what_was_read_ahead_belongs_to_its_connection_and_comes_before_what_is_still_to_be_read() {
    local(async {
        let reactor = Reactor::new().unwrap();
        let mut pairs: Vec<_> = (0..3).map(|_| pair(&reactor)).collect();
        for (index, (plain, theirs)) in pairs.iter_mut().enumerate() {
            assert!(waits(plain));
            theirs.write_all(format!("first of {index}, ").as_bytes()).unwrap();
        }
        let sources: Vec<_> = pairs.iter().map(|(plain, _)| Rc::clone(&plain.source)).collect();
        until(|| sources.iter().all(|source| source.ahead.borrow().is_some())).await;
        // Its place is given to another in between.
        drop(pairs.remove(1));
        pairs.push(pair(&reactor));
        for (plain, theirs) in &mut pairs {
            theirs.write_all(b"second").unwrap();
            theirs.shutdown(Shutdown::Write).unwrap();
            assert_eq!(plain.look(), Look::Surplus);
        }
        let mut read = Vec::new();
        for (plain, _) in &mut pairs {
            let (mut one, mut all) = ([0], String::new());
            plain.read_exact(&mut one).await.unwrap();
            plain.read_to_string(&mut all).await.unwrap();
            read.push(format!("{}{all}", char::from(one[0])));
        }
        assert_eq!(read, ["first of 0, second", "first of 2, second", "second"]);
        assert!(reactor.spares.borrow().len() >= 2, "buffers are used again");
    })
    .await;
}

#[tokio::test]
async fn nothing_is_read_for_who_does_not_wait_and_who_is_not_silent_is_not_written_to() {
    local(async {
        let reactor = Reactor::new().unwrap();
        let (mut plain, mut theirs) = pair(&reactor);
        let half = plain.write_half().unwrap();
        assert!(matches!(half.write_now(b"asked"), Some(Ok(5))));
        theirs.write_all(b"x").unwrap();
        until(|| plain.source.readable.get()).await;
        assert!(plain.source.ahead.borrow().is_none());
        assert_eq!(plain.look(), Look::Surplus);
        assert!(half.write_now(b"asked").is_none(), "something has come that nobody asked for");
        let mut more = [0; 2];
        assert_eq!(plain.read(&mut more).await.unwrap(), 1);
        assert!(matches!(half.write_now(b"asked"), Some(Ok(5))));

        // The same where it was read ahead, and where the peer has gone.
        assert!(waits(&mut plain));
        theirs.write_all(b"y").unwrap();
        until(|| plain.source.ahead.borrow().is_some()).await;
        assert!(half.write_now(b"asked").is_none());
        assert_eq!(plain.read(&mut more).await.unwrap(), 1);
        drop(theirs);
        until(|| plain.source.closed.get()).await;
        assert!(half.write_now(b"asked").is_none());
        assert_eq!(plain.look(), Look::Closed);
        assert_eq!(plain.read(&mut more).await.unwrap(), 0);
        assert_eq!(plain.read(&mut more).await.unwrap(), 0, "the end stays");
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_breaks_says_so_behind_what_had_come() {
    local(async {
        let reactor = Reactor::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        ours.set_nonblocking(true).unwrap();
        let theirs = Socket::from(listener.accept().unwrap().0);
        let mut plain = reactor.add(ours.into()).unwrap();
        assert!(waits(&mut plain));
        (&theirs).write_all(b"some").unwrap();
        until(|| plain.source.ahead.borrow().is_some()).await;
        theirs.set_linger(Some(Duration::ZERO)).unwrap();
        drop(theirs);
        until(|| plain.source.closed.get()).await;
        let mut four = [0; 4];
        plain.read_exact(&mut four).await.unwrap();
        assert_eq!(&four, b"some");
        assert_eq!(plain.read(&mut four).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    })
    .await;
}

#[tokio::test]
async fn an_error_that_was_read_ahead_is_told_once() {
    local(async {
        let reactor = Reactor::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        ours.set_nonblocking(true).unwrap();
        let theirs = Socket::from(listener.accept().unwrap().0);
        let mut plain = reactor.add(ours.into()).unwrap();
        assert!(waits(&mut plain));
        theirs.set_linger(Some(Duration::ZERO)).unwrap();
        drop(theirs);
        until(|| plain.source.ahead.borrow().is_some()).await;
        assert_eq!(plain.look(), Look::Closed);
        let mut byte = [0];
        assert_eq!(plain.read(&mut byte).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(plain.read(&mut byte).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn more_than_one_turn_holds_are_all_heard_of() {
    local(async {
        let reactor = Reactor::new().unwrap();
        let (ours, mut theirs): (Vec<_>, Vec<_>) = (0..EVENTS + 50).map(|_| pair(&reactor)).unzip();
        let reads = |mut plain: Plain| async move { (plain.read_u8().await.unwrap(), plain) };
        let reading: Vec<_> = ours.into_iter().map(|plain| spawn_local(reads(plain))).collect();
        // What was just added can be written to, which is an event too.
        tokio::time::sleep(Duration::from_millis(20)).await;
        for theirs in &mut theirs {
            theirs.write_all(b"7").unwrap();
        }
        let mut plain = Vec::new();
        for reads in reading {
            let (byte, read) = reads.await.unwrap();
            assert_eq!(byte, b'7');
            plain.push(read);
        }
        drop(plain);
        assert_eq!(reactor.places.borrow().vacant.len(), EVENTS + 50);
        assert!(reactor.spares.borrow().len() <= SPARES);
    })
    .await;
}

#[tokio::test]
async fn who_finds_no_room_to_write_is_woken_when_there_is() {
    local(async {
        let reactor = Reactor::new().unwrap();
        let (mut plain, mut theirs) = pair(&reactor);
        let (half, source) = (plain.write_half().unwrap(), Rc::clone(&plain.source));
        let long = vec![b'a'; 4 * 1024 * 1024];
        let writes = spawn_local(async move {
            plain.write_all(&long).await.unwrap();
            drop(plain);
        });
        until(|| !source.writable.get()).await;
        assert!(half.write_now(b"more").is_none());
        drop((half, source));
        let reads = std::thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            all.len()
        });
        writes.await.unwrap();
        assert_eq!(reads.join().unwrap(), 4 * 1024 * 1024);
    })
    .await;
}

#[tokio::test]
async fn a_defect_of_one_who_waits_silences_nobody_else() {
    struct Defect;
    impl std::task::Wake for Defect {
        fn wake(self: std::sync::Arc<Self>) {
            panic!("a defect");
        }
    }
    local(async {
        let reactor = Reactor::new().unwrap();
        // The defect is in the midst of those who are told in one turn.
        let mut pairs: Vec<_> = (0..5).map(|_| pair(&reactor)).collect();
        let (mut defective, mut its) = pairs.remove(2);
        let waker = Waker::from(std::sync::Arc::new(Defect));
        let (mut byte, mut cx) = ([0], Context::from_waker(&waker));
        assert!(Pin::new(&mut defective).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending());
        let (ours, mut theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let reads = |mut plain: Plain| async move { (plain.read_u8().await.unwrap(), plain) };
        let reading: Vec<_> = ours.into_iter().map(|plain| spawn_local(reads(plain))).collect();
        tokio::time::sleep(Duration::from_millis(20)).await;
        for (index, theirs) in theirs.iter_mut().enumerate() {
            if index == 2 {
                its.write_all(b"d").unwrap();
            }
            theirs.write_all(b"1").unwrap();
        }
        let mut plain = Vec::new();
        for reads in reading {
            let (byte, read) = reads.await.unwrap();
            assert_eq!(byte, b'1');
            plain.push(read);
        }
        // And those who come later.
        theirs[0].write_all(b"2").unwrap();
        assert_eq!(plain[0].read_u8().await.unwrap(), b'2');
        assert_eq!(defective.read_u8().await.unwrap(), b'd');
    })
    .await;
}

#[tokio::test]
async fn a_look_around_hears_of_all_that_has_come_at_once() {
    local(async {
        let reactor = Reactor::new().unwrap();
        let (plain, mut theirs): (Vec<_>, Vec<_>) = (0..EVENTS + 50).map(|_| pair(&reactor)).unzip();
        let silent = |plain: &Plain| matches!(plain.source.write_now(b"asked"), Some(Ok(5)));
        assert!(plain.iter().all(silent));
        for theirs in &mut theirs {
            theirs.write_all(b"x").unwrap();
        }
        plain[0].source.look_around();
        assert!(!plain.iter().any(silent), "without a turn of its task");
    })
    .await;
}

#[tokio::test]
async fn a_look_around_says_whether_anybody_goes_on_by_it() {
    local(async {
        let reactor = Reactor::new().unwrap();
        let (mut plain, mut theirs) = pair(&reactor);
        let (_silent, _silent_too) = pair(&reactor);
        assert!(!reactor.look_around(), "nothing has come");
        theirs.write_all(b"x").unwrap();
        assert!(!reactor.look_around(), "nobody waits for it");
        assert_eq!(plain.read_u8().await.unwrap(), b'x');
        let reads = spawn_local(async move { plain.read_u8().await.unwrap() });
        yield_now().await;
        assert!(!reactor.look_around(), "nothing has come since");
        theirs.write_all(b"y").unwrap();
        assert!(reactor.look_around());
        assert_eq!(reads.await.unwrap(), b'y');
    })
    .await;
}

#[tokio::test]
async fn its_task_ends_with_the_last_of_its_sockets() {
    let local = LocalSet::new();
    let (plain, weak, theirs) = local
        .run_until(async {
            let reactor = Reactor::new().unwrap();
            let weak = Rc::downgrade(&reactor);
            let (plain, theirs) = pair(&reactor);
            yield_now().await;
            (plain, weak, theirs)
        })
        .await;
    assert_eq!(weak.strong_count(), 1);
    drop(plain);
    assert_eq!(weak.strong_count(), 0);
    // Ends only when there is no task any more.
    local.await;
    drop(theirs);
}
