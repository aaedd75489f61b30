//! Happy Eyeballs (RFC 8305): attempts at several addresses, side by side. The next begins 250 ms after the one before,
//! or as soon as it failed; when one has connected the others are dropped.
//!
//! Of many races at one time each has one attempt, and more only as far as there are spare ones for all of them: what the
//! host has of descriptors is not spent on addresses that do not answer. Who gets none waits for its own to fail.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, Timeout, sleep_until, timeout_at};

use super::is_local;

/// RFC 8305, "Connection Attempt Delay".
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Families take turns, beginning with that of the first address (RFC 8305, section 4).
pub(in super::super) fn interleave(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first_family = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv6() == first_family);
    first.reverse();
    second.reverse();
    let mut order = Vec::with_capacity(addresses.len());
    while !(first.is_empty() && second.is_empty()) {
        order.extend(first.pop());
        order.extend(second.pop());
    }
    order
}

struct Attempt<'a, F> {
    address: SocketAddr,
    deadline: Instant,
    /// It is one beside another.
    spare: Option<SemaphorePermit<'a>>,
    connecting: Pin<Box<Timeout<F>>>,
}

/// Connects to the first of `addresses` that answers. Gives its attempt's deadline too; or the failure that says most.
/// `fails` hears of each failure.
pub(super) async fn race<S, F: Future<Output = io::Result<S>>>(
    addresses: Vec<SocketAddr>,
    limit: Duration,
    spares: &Semaphore,
    connect: impl Fn(SocketAddr) -> F,
    fails: impl Fn(SocketAddr, &io::Error),
) -> Result<(S, SocketAddr, Instant), (SocketAddr, io::Error)> {
    let mut rest = addresses.into_iter();
    let mut attempts = Vec::<Attempt<'_, F>>::new();
    let mut spare = None;
    let mut failed: Option<(SocketAddr, io::Error)> = None;
    let mut next = Box::pin(sleep_until(Instant::now()));
    std::future::poll_fn(|cx| {
        loop {
            let mut index = 0;
            while index < attempts.len() {
                let Poll::Ready(outcome) = attempts[index].connecting.as_mut().poll(cx) else {
                    index += 1;
                    continue;
                };
                let Attempt { address, deadline, .. } = attempts.swap_remove(index);
                match outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                    Ok(stream) => return Poll::Ready(Ok((stream, address, deadline))),
                    Err(error) => {
                        fails(address, &error);
                        let known = failed.as_ref().map(|(address, error)| says(*address, error));
                        if known < Some(says(address, &error)) {
                            failed = Some((address, error));
                        }
                        next.as_mut().reset(Instant::now());
                    }
                }
            }
            if rest.len() == 0 {
                if attempts.is_empty() {
                    let nobody =
                        || (SocketAddr::from(([0, 0, 0, 0], 0)), io::ErrorKind::AddrNotAvailable.into());
                    return Poll::Ready(Err(failed.take().unwrap_or_else(nobody)));
                }
                return Poll::Pending;
            }
            if next.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let beside = attempts.iter().any(|attempt| attempt.spare.is_none());
            let granted = match beside {
                true => {
                    let spare = spare.get_or_insert_with(|| Box::pin(spares.acquire()));
                    Some(ready!(spare.as_mut().poll(cx)).expect("it is never closed"))
                }
                false => None,
            };
            spare = None;
            if let Some(address) = rest.next() {
                let deadline = Instant::now() + limit;
                let connecting = Box::pin(timeout_at(deadline, connect(address)));
                attempts.push(Attempt { address, deadline, spare: granted, connecting });
                next.as_mut().reset(Instant::now() + ATTEMPT_DELAY);
            }
        }
    })
    .await
}

/// How much a failed attempt says of the whole.
fn says(address: SocketAddr, error: &io::Error) -> u8 {
    match error.raw_os_error() {
        // A host without IPv6 says this of every backend that has it.
        Some(libc::EADDRNOTAVAIL) if address.is_ipv6() => 0,
        _ if error.kind() == io::ErrorKind::TimedOut => 1,
        _ if is_local(error) => 3,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::pending;

    use super::super::refused;
    use super::*;
    use crate::decision::Cause;

    const LIMIT: Duration = Duration::from_millis(500);

    fn addresses(text: &[&str]) -> Vec<SocketAddr> {
        text.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns() {
        let parse = |text: &str| text.split(' ').map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(interleave(&parse("::1 ::2 1.1.1.1 ::3 2.2.2.2")), parse("::1 1.1.1.1 ::2 2.2.2.2 ::3"));
        assert_eq!(interleave(&parse("1.1.1.1 ::1 2.2.2.2")), parse("1.1.1.1 ::1 2.2.2.2"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_costs_a_quarter_of_a_second() {
        let began = Instant::now();
        let order = addresses(&["[::1]:80", "1.1.1.1:80"]);
        let (family, peer, _) = race(
            order,
            LIMIT,
            &Semaphore::new(16),
            |address| async move { if address.is_ipv6() { pending().await } else { Ok("v4") } },
            |_, _| panic!("it did not fail"),
        )
        .await
        .unwrap();
        assert_eq!((family, peer.to_string().as_str()), ("v4", "1.1.1.1:80"));
        assert_eq!(began.elapsed().as_millis(), 250);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_address_costs_nothing() {
        let began = Instant::now();
        let (order, failed) = (addresses(&["[::1]:80", "1.1.1.1:80"]), RefCell::new(Vec::new()));
        let spares = Semaphore::new(16);
        let connected = race(
            order,
            LIMIT,
            &spares,
            |address| async move {
                if address.is_ipv6() { Err(io::ErrorKind::NetworkUnreachable.into()) } else { Ok(()) }
            },
            |peer, _| failed.borrow_mut().push(peer),
        );
        assert!(connected.await.is_ok());
        assert_eq!(*failed.borrow(), addresses(&["[::1]:80"]));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn each_attempt_has_its_time_and_the_failure_that_says_most_is_told() {
        let (tried, failed) = (RefCell::new(Vec::new()), Cell::new(0));
        let began = Instant::now();
        let order = addresses(&["1.1.1.1:80", "2.2.2.2:80", "3.3.3.3:80"]);
        let (peer, error) = race(
            order,
            LIMIT,
            &Semaphore::new(16),
            |address| {
                tried.borrow_mut().push(began.elapsed().as_millis());
                async move {
                    if address.port() == 80 && address.ip().to_string() == "2.2.2.2" {
                        return Err::<(), _>(io::ErrorKind::ConnectionRefused.into());
                    }
                    pending().await
                }
            },
            |_, _| failed.set(failed.get() + 1),
        )
        .await
        .unwrap_err();
        assert_eq!(failed.get(), 3, "each is told of, also one that was silent");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(peer.to_string(), "2.2.2.2:80");
        assert_eq!(*tried.borrow(), [0, 250, 250]);
        assert_eq!(began.elapsed().as_millis(), 750);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_without_ipv6_still_tells_what_ails_the_backend() {
        let code = |code| Err::<(), _>(io::Error::from_raw_os_error(code));
        for order in [["[::1]:80", "127.0.0.1:80"], ["127.0.0.1:80", "[::1]:80"]] {
            for v4 in [libc::ECONNREFUSED, libc::ETIMEDOUT] {
                let connect = |address: SocketAddr| async move {
                    code(if address.is_ipv6() { libc::EADDRNOTAVAIL } else { v4 })
                };
                let (peer, error) = race(addresses(&order), LIMIT, &Semaphore::new(16), connect, |_, _| ())
                    .await
                    .unwrap_err();
                let failure = refused("http://a", &peer.to_string(), &error, LIMIT);
                assert_eq!(failure.cause, Cause::Connect, "{}", failure.detail);
            }
        }
        // Without ports nothing is told of the backend.
        for (v6, v4) in
            [(libc::ECONNREFUSED, libc::EADDRNOTAVAIL), (libc::EADDRNOTAVAIL, libc::EADDRNOTAVAIL)]
        {
            let connect = |address: SocketAddr| async move { code(if address.is_ipv6() { v6 } else { v4 }) };
            let order = addresses(&["[::1]:80", "127.0.0.1:80"]);
            let (peer, error) =
                race(order, LIMIT, &Semaphore::new(16), connect, |_, _| ()).await.unwrap_err();
            assert_eq!(refused("http://a", &peer.to_string(), &error, LIMIT).cause, Cause::Overload);
        }
    }

    /// Counts those that are under way.
    struct Counted<'a>(&'a Cell<usize>);

    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_races_have_one_attempt_each_and_a_few_more_in_all() {
        let peers: Vec<SocketAddr> = (1..=16).map(|host| SocketAddr::from(([192, 0, 2, host], 80))).collect();
        let (open, most, tried) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let spares = Semaphore::new(16);
        let connect = |_| {
            open.set(open.get() + 1);
            most.set(most.get().max(open.get()));
            tried.set(tried.get() + 1);
            let counted = Counted(&open);
            async move {
                let _counted = counted;
                pending::<io::Result<()>>().await
            }
        };
        // One alone goes on as RFC 8305 says, also where an attempt has more time than all of them take to begin.
        let limit = Duration::from_mins(1);
        let mut alone = Box::pin(race(peers.clone(), limit, &spares, connect, |_, _| ()));
        assert!(tokio::time::timeout(Duration::from_millis(15 * 250), alone.as_mut()).await.is_err());
        assert_eq!((open.get(), tried.get()), (16, 16));
        drop(alone);
        assert_eq!((open.get(), spares.available_permits()), (0, 16));

        tried.set(0);
        let races = (0..64).map(|_| race(peers.clone(), LIMIT, &spares, connect, |_, _| ()));
        let mut races: Vec<_> = races.map(Box::pin).collect();
        std::future::poll_fn(|cx| {
            races.retain_mut(|race| race.as_mut().poll(cx).is_pending());
            if races.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        assert_eq!(most.get(), 64 + 16);
        assert_eq!(tried.get(), 64 * 16, "each has tried each address in the end");
        assert_eq!((open.get(), spares.available_permits()), (0, 16));
    }

    /// Its first attempt is silent, and there is none to spare.
    #[tokio::test(start_paused = true)]
    async fn who_has_no_spare_attempt_gets_one_that_comes_free_or_goes_on_when_its_own_fails() {
        for (freed, expected) in [(true, 300), (false, 500)] {
            let (spares, began) = (Semaphore::new(1), Instant::now());
            let taken = spares.acquire().await.unwrap();
            let connect =
                |address: SocketAddr| async move { if address.is_ipv6() { pending().await } else { Ok(()) } };
            let order = addresses(&["[::1]:80", "1.1.1.1:80"]);
            let mut race = Box::pin(race(order, LIMIT, &spares, connect, |_, _| ()));
            assert!(tokio::time::timeout(Duration::from_millis(300), race.as_mut()).await.is_err());
            if freed {
                drop(taken);
            }
            assert!(race.await.is_ok());
            assert_eq!(began.elapsed().as_millis(), expected);
        }
    }
}
