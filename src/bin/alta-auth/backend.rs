//! An HTTP/1.1 backend inside the command: the reference rule, and stand-ins for products that cannot be
//! installed everywhere. It runs on one thread of its own; the demo runs it inside its process.
//!
//! It is written by hand, from bytes to bytes, because it must be able to frame its answers in every way
//! that real servers do. It is a tool to test with, not a server to put on the Internet.

mod custom;
mod facts;
mod http;
mod ministra;
mod rule;
mod server;
mod smarty;
mod tokens;

use std::io::Write as _;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::args::BackendArgs;
use crate::config::complain;
use crate::{exit, human};

pub(crate) use rule::Rule;
pub(crate) use server::{LogTo, Options, Server};

/// `alta-auth backend`.
pub(crate) fn run(args: &BackendArgs) -> u8 {
    if args.explain {
        let _ = std::io::stdout().write_all(facts::table(rule::facts(args.rule)).as_bytes());
        return exit::SUCCESS;
    }
    let mut signals = match Signals::new([SIGINT, SIGTERM]) {
        Ok(signals) => signals,
        Err(error) => {
            complain(&format_args!("cannot listen for signals: {error}"));
            return exit::SYSTEM;
        }
    };
    let options = Options {
        delay: args.delay,
        fail: args.fail,
        close: args.close,
        framing: args.framing,
        idle: args.idle,
        reason: !args.no_reason,
        log: match (args.quiet, args.show_secrets) {
            (true, _) => LogTo::Nowhere,
            (false, false) => LogTo::Redacted,
            (false, true) => LogTo::Full,
        },
    };
    let server = match Server::start(&args.listen, Rule::new(args.rule), options) {
        Ok(server) => server,
        Err(error) => {
            complain(&format_args!("cannot listen on {}: {error}", args.listen));
            // std says so of what is no address and port, before the system is asked.
            let is_usage = error.kind() == std::io::ErrorKind::InvalidInput;
            return if is_usage { exit::USAGE } else { exit::SYSTEM };
        }
    };
    let _ = writeln!(std::io::stdout(), "listening on {}", server.url());
    let _ = signals.forever().next();
    let counts = server.stop();
    if args.quiet {
        return exit::SUCCESS;
    }
    complain(&format_args!(
        "{} on {}: {} allowed, {} denied, {} cut",
        human::counted(counts.requests, "request"),
        human::counted(counts.connections, "connection"),
        human::count(counts.allowed),
        human::count(counts.denied),
        human::count(counts.failed),
    ));
    exit::SUCCESS
}
