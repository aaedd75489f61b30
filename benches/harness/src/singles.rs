//! What is measured by itself, not beside others: lookups, joiners, submits, crowds, memory.

use std::process::Command;
use std::time::Duration;

use crate::child::{self, Finished};
use crate::servers::Small;
use crate::{Fallible, Options};

pub struct Singles {
    /// Of `remembered`.
    pub remembered: Option<Finished>,
    /// How many sessions it had.
    pub sessions: u64,
    pub joiners: Option<Finished>,
    pub submit: Option<Finished>,
    pub pending: Option<Finished>,
    pub idle: Option<Finished>,
}

pub fn take(options: &Options, lane: &str) -> Fallible<Singles> {
    let lane = format!("http.lane={lane}");
    let sessions = if options.quick { 100_000 } else { 1_000_000 };
    let run =
        |name: &str, what: &str, before: &[&str], count: u64, preload: bool| -> Fallible<Option<Finished>> {
            eprintln!("{name} {}", before.first().unwrap_or(&""));
            let server = Small::start(options, what)?;
            let mut command = Command::new(options.bin.join(name));
            command.args(before).arg(server.url()).arg(count.to_string()).arg(&lane);
            if preload {
                command.env("LD_PRELOAD", options.bin.join("allocations.so"));
            }
            match child::run(command, Duration::from_mins(6)) {
                Ok(end) => Ok(Some(end)),
                Err(error) if error.to_string().ends_with("interrupted") => Err(error),
                Err(error) => {
                    println!("{error}");
                    Ok(None)
                }
            }
        };
    Ok(Singles {
        joiners: run("crowd", "delay", &["joiners"], 10_000, false)?,
        submit: run("crowd", "hang", &["submit"], 2_000, false)?,
        pending: run("crowd", "hang", &["pending"], 100_000, false)?,
        idle: run("crowd", "delay:1000", &["idle"], 400, false)?,
        remembered: run("remembered", "remember", &[], sessions, true)?,
        sessions,
    })
}
