//! One half of the comparison of `make bench-abi`: checks through the Rust API. abi.c does the same work through the
//! C ABI; measure says how the two are compared.
//!
//!     abi_overhead URL CHECKS

#![allow(unsafe_code, reason = "poll and getrusage have no safe interface in std")]
#![allow(clippy::print_stdout, reason = "the result")]

use std::error::Error;
use std::io;
use std::os::fd::RawFd;

use alta_auth::{Check, Config, Engine, Origin};

const IN_FLIGHT: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(checks)) = (args.next(), args.next()) else {
        return Err("usage: rust URL CHECKS".into());
    };
    let checks: usize = checks.parse()?;
    let mut config = Config::new();
    for (key, value) in [
        ("backend.url", url.as_str()),
        ("default_action", "deny"),
        ("timeout", "60s"),
        ("pool.max_connections", "64"),
    ] {
        config.set(key, value)?;
    }
    let engine = Engine::new(&config)?;
    let queue = engine.queue()?;
    let (mut submitted, mut reaped) = (0, 0);
    let mut session = *b"session-000000000";
    let mut done = Vec::with_capacity(IN_FLIGHT);
    while reaped < checks {
        while submitted < checks && submitted - reaped < IN_FLIGHT {
            for digit in session.iter_mut().rev() {
                *digit += 1;
                if *digit <= b'9' {
                    break;
                }
                *digit = b'0';
            }
            let check = Check {
                session_id: &session,
                ip: b"192.0.2.1",
                path: b"/live/index.m3u8",
                query: b"token=123",
                ..Check::default()
            };
            submitted += 1;
            queue.submit(&check, submitted)?;
        }
        wait_readable(queue.fd())?;
        // Kept until the next turn, as the C ABI keeps the texts.
        done.clear();
        reaped += queue.reap(IN_FLIGHT, |_, decision| done.push(decision));
        for decision in &done {
            assert!(decision.allows() && decision.origin == Origin::Backend, "{decision:?}");
        }
    }
    drop(queue);
    drop(engine);
    let (user, system) = used()?;
    println!("{user} {system}");
    Ok(())
}

fn wait_readable(fd: RawFd) -> io::Result<()> {
    let mut watched = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd, and its number.
    match unsafe { libc::poll(&raw mut watched, 1, 60_000) } {
        1 => Ok(()),
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Microseconds of CPU of this process, in user mode and in the kernel.
fn used() -> io::Result<(i64, i64)> {
    let mut used = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: valid for writing one rusage.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, used.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: initialised by the call above.
    let used = unsafe { used.assume_init() };
    let micros = |time: libc::timeval| time.tv_sec * 1_000_000 + time.tv_usec;
    Ok((micros(used.ru_utime), micros(used.ru_stime)))
}
