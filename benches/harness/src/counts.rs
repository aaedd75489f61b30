//! What noise cannot change much: instructions, system calls and allocations a check, each as the difference of a longer and
//! a shorter run, so that start and end cancel out.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::servers::Small;
use crate::{Fallible, Options, child};

const PATIENCE: Duration = Duration::from_mins(3);

/// None: the tool is not there, or the run was void; said on the terminal.
#[derive(Default)]
pub struct Counted {
    pub instructions: Option<f64>,
    pub system_calls: Option<f64>,
    pub allocations: Option<f64>,
    pub submit_system_calls: Option<f64>,
}

pub fn take(options: &Options, lane: &str) -> Fallible<Counted> {
    let plain = Small::start(options, "plain")?;
    let hang = Small::start(options, "hang")?;
    let lane = format!("http.lane={lane}");
    let exchange = |checks: u64| -> Vec<String> {
        let program = options.bin.join("exchange").display().to_string();
        vec![program, "queue".to_owned(), plain.url(), format!("x{checks}"), lane.clone()]
    };
    let submit = |checks: u64| -> Vec<String> {
        let program = options.bin.join("crowd").display().to_string();
        vec![program, "submit".to_owned(), hang.url(), format!("x{checks}"), lane.clone()]
    };
    let directory = tempfile::tempdir()?;
    let scratch = directory.path().join("counted");
    eprintln!("instructions, system calls, allocations");
    Ok(Counted {
        instructions: said("instructions", a_check(2000, 6000, |n| instructions(&exchange(n), &scratch))),
        system_calls: said("system calls", a_check(5000, 25000, |n| system_calls(&exchange(n), &scratch))),
        allocations: said("allocations", allocations(options, &exchange(40000))),
        submit_system_calls: said(
            "system calls of a submit",
            a_check(2000, 22000, |n| system_calls(&submit(n), &scratch)),
        ),
    })
}

fn said(what: &str, counted: Fallible<f64>) -> Option<f64> {
    counted.map_err(|error| println!("{what}: not counted: {error}")).ok()
}

fn a_check(few: u64, many: u64, count: impl Fn(u64) -> Fallible<f64>) -> Fallible<f64> {
    Ok((count(many)? - count(few)?) / (many - few) as f64)
}

/// Of all threads, in user mode.
fn instructions(program: &[String], scratch: &Path) -> Fallible<f64> {
    let mut command = Command::new("valgrind");
    command.args(["-q", "--tool=callgrind", "--fair-sched=yes"]);
    command.arg(format!("--callgrind-out-file={}", scratch.display())).args(program);
    child::run(command, PATIENCE)?;
    let text = std::fs::read_to_string(scratch)?;
    let totals =
        text.lines().find_map(|line| line.strip_prefix("totals: ")).ok_or("callgrind gave no total")?;
    Ok(totals.trim().parse()?)
}

/// Of all threads. perf does not slow them down; strace is there where perf may not look.
fn system_calls(program: &[String], scratch: &Path) -> Fallible<f64> {
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-o"]).arg(scratch).arg("--").args(program);
    if child::run(perf, PATIENCE).is_ok() {
        let text = std::fs::read_to_string(scratch)?;
        let line = text.lines().find(|line| line.contains("raw_syscalls"));
        if let Some(Ok(count)) = line.and_then(|line| line.split(',').next()).map(str::parse) {
            return Ok(count);
        }
    }
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-o"]).arg(scratch).args(program);
    child::run(strace, PATIENCE)?;
    let text = std::fs::read_to_string(scratch)?;
    let total = text.lines().rfind(|line| line.ends_with("total")).ok_or("strace gave no total")?;
    Ok(total.split_whitespace().nth(3).ok_or("no calls")?.parse()?)
}

fn allocations(options: &Options, program: &[String]) -> Fallible<f64> {
    let mut command = Command::new(&program[0]);
    command.args(&program[1..]).env("LD_PRELOAD", options.bin.join("allocations.so"));
    child::run(command, PATIENCE)?.number("allocations")
}
