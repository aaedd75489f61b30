//! Happy Eyeballs (RFC 8305): attempts at several addresses, side by side. The next begins 250 ms after the one before,
//! or as soon as it failed; when one has connected the others are dropped.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

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

/// To which address, until when, and how far.
type Attempt<F> = (SocketAddr, Instant, Pin<Box<Timeout<F>>>);

/// Connects to the first of `addresses` that answers. Gives its attempt's deadline too; or the failure that says most.
/// `fails` hears of each failure.
pub(super) async fn race<S, F: Future<Output = io::Result<S>>>(
    addresses: Vec<SocketAddr>,
    limit: Duration,
    connect: impl Fn(SocketAddr) -> F,
    fails: impl Fn(SocketAddr, &io::Error),
) -> Result<(S, SocketAddr, Instant), (SocketAddr, io::Error)> {
    let mut rest = addresses.into_iter();
    let mut attempts = Vec::<Attempt<F>>::new();
    let mut failed: Option<(SocketAddr, io::Error)> = None;
    let mut next = Box::pin(sleep_until(Instant::now()));
    std::future::poll_fn(|cx| {
        loop {
            let mut index = 0;
            while index < attempts.len() {
                let (address, deadline, attempt) = &mut attempts[index];
                let Poll::Ready(outcome) = attempt.as_mut().poll(cx) else {
                    index += 1;
                    continue;
                };
                let (address, deadline) = (*address, *deadline);
                drop(attempts.swap_remove(index));
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
            if let Some(address) = rest.next() {
                let deadline = Instant::now() + limit;
                attempts.push((address, deadline, Box::pin(timeout_at(deadline, connect(address)))));
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
        let connected = race(
            order,
            LIMIT,
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
                let (peer, error) = race(addresses(&order), LIMIT, connect, |_, _| ()).await.unwrap_err();
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
            let (peer, error) = race(order, LIMIT, connect, |_, _| ()).await.unwrap_err();
            assert_eq!(refused("http://a", &peer.to_string(), &error, LIMIT).cause, Cause::Overload);
        }
    }
}
