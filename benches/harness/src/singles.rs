//! What is measured by itself, not beside others: lookups, joiners, submits, crowds, memory.

use std::process::Command;
use std::time::Duration;

use crate::child::{self, Finished};
use crate::servers::Small;
use crate::{Fallible, Options};

/// A million exchanges among them; reached on a machine that does much else.
const PATIENCE: Duration = Duration::from_mins(15);

pub struct Singles {
    /// Of `remembered`.
    pub remembered: Option<Finished>,
    /// How many sessions it had.
    pub sessions: u64,
    pub joiners: Option<Finished>,
    pub submit: Option<Finished>,
    /// Until the last default action.
    pub pending: Option<Finished>,
    /// At rest, none of them timed out.
    pub waiting: Option<Finished>,
    pub idle: Option<Finished>,
}

pub fn take(options: &Options, lane: &str) -> Fallible<Singles> {
    let lane = format!("http.lane={lane}");
    let sessions = if options.quick { 100_000 } else { 1_000_000 };
    let run =
        |name: &str, what: &str, before: &[&str], count: &str, preload: bool| -> Fallible<Option<Finished>> {
            eprintln!("{name} {}", before.first().unwrap_or(&""));
            let server = Small::start(options, what)?;
            let mut command = Command::new(options.bin.join(name));
            command.args(before).arg(server.url()).arg(count).arg(&lane);
            if count.starts_with('x') {
                command.arg("timeout=60s");
            }
            if preload {
                command.env("LD_PRELOAD", options.bin.join("allocations.so"));
            }
            match child::run(command, PATIENCE) {
                Ok(end) => Ok(Some(end)),
                Err(error) if error.to_string().ends_with("interrupted") => Err(error),
                Err(error) => {
                    println!("{error}");
                    Ok(None)
                }
            }
        };
    Ok(Singles {
        joiners: run("crowd", "delay", &["joiners"], "10000", false)?,
        submit: run("crowd", "hang", &["submit"], "2000", false)?,
        pending: run("crowd", "hang", &["pending"], "100000", false)?,
        waiting: run("crowd", "hang", &["pending"], "x100000", false)?,
        idle: run("crowd", "delay:1000", &["idle"], "400", false)?,
        remembered: run("remembered", "remember", &[], &sessions.to_string(), true)?,
        sessions,
    })
}
