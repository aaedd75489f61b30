//! The `alta-auth` command: what an operator runs before, beside and instead of a media server.
//!
//! Every subcommand returns its exit status (`exit.rs`); nothing below `main` ends the process, so that
//! what was begun is finished and what was printed is flushed.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a command makes is what it prints")]

mod args;
mod backend;
mod check;
mod client;
mod client_url;
mod config;
mod demo;
mod exit;
mod human;
mod keys;
mod redact;
mod verify;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed terminal is no reason to fail twice.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::SUCCESS });
        }
    };
    ExitCode::from(match cli.command {
        args::Command::Check(args) => check::run(&args),
        args::Command::Verify(args) => verify::run(&args),
        args::Command::Backend(args) => backend::run(&args),
        args::Command::Demo => demo::run(),
        args::Command::Config(args) => keys::run(&args),
    })
}
