//! Child processes: pinned to a core, bound to the life of the harness, with a limit of time, and what CPU they took.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Fallible;

/// Servers, where there are two cores.
pub const SERVER_CORE: usize = 0;
/// The client that is measured.
pub const CLIENT_CORE: usize = 1;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// On an interrupt the wait for the child ends with an error, so that servers and directories are let go of in order.
pub fn die_tidily() {
    extern "C" fn interrupted(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler stores to an atomic only.
        unsafe { libc::signal(signal, interrupted as *const () as libc::sighandler_t) };
    }
}

pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// To run on this core, where there are two; to get `signal` if the harness dies.
pub fn bind(command: &mut Command, core: usize, signal: libc::c_int) {
    let two = cores() > 1;
    // SAFETY: between fork and exec, two system calls.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, signal);
            if two {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                libc::CPU_SET(core, &mut set);
                libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
            }
            Ok(())
        });
    }
}

pub struct Finished {
    pub user_us: f64,
    pub system_us: f64,
    /// What it printed.
    pub output: String,
}

impl Finished {
    /// The number after `name=`.
    pub fn number(&self, name: &str) -> Fallible<f64> {
        self.output
            .split_whitespace()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
            .ok_or(format!("no {name} in: {}", self.output))?
            .parse()
            .map_err(Into::into)
    }
}

/// Runs it to its end. An exit status other than 0 is an error with what it said.
pub fn run(mut command: Command, patience: Duration) -> Fallible<Finished> {
    bind(&mut command, CLIENT_CORE, libc::SIGKILL);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    let mut stdout = child.stdout.take().expect("piped");
    let mut stderr = child.stderr.take().expect("piped");
    let printed = thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let said = thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text)
    });
    let began = Instant::now();
    let mut killed = None;
    let (status, used) = loop {
        if let Some(end) = ended(child.id())? {
            break end;
        }
        if killed.is_none() && (INTERRUPTED.load(Ordering::Relaxed) || began.elapsed() > patience) {
            killed = Some(if began.elapsed() > patience { "took too long" } else { "interrupted" });
            child.kill()?;
        }
        thread::sleep(Duration::from_millis(10));
    };
    let output = printed.join().expect("does not panic")?;
    let said = said.join().expect("does not panic")?;
    if status != 0 {
        let why = killed.map_or_else(|| said.trim().to_owned(), str::to_owned);
        return Err(format!("{}: {why}", command.get_program().display()).into());
    }
    let micros = |time: libc::timeval| time.tv_sec as f64 * 1e6 + time.tv_usec as f64;
    Ok(Finished { user_us: micros(used.ru_utime), system_us: micros(used.ru_stime), output })
}

/// The status and the use of a child that has ended; std reaps without the latter.
fn ended(pid: u32) -> Fallible<Option<(libc::c_int, libc::rusage)>> {
    let mut status = 0;
    // SAFETY: plain numbers, all of them valid as zero.
    let mut used: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both are valid for writing; the child is ours and not yet reaped.
    match unsafe { libc::wait4(pid.cast_signed(), &raw mut status, libc::WNOHANG, &raw mut used) } {
        0 => Ok(None),
        end if end > 0 => Ok(Some((status, used))),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}
