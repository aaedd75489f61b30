//! One server process and its children: started, waited for, ended.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::PATIENCE;

/// A program in a process group of its own. Dropping it kills the group, which holds nothing else.
pub(crate) struct Process {
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts `command`; what it prints goes to `output`.
    pub(crate) fn spawn(command: &mut Command, output: &Path) -> Self {
        let file = File::options().create(true).append(true).open(output).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{}: {error}; `make setup` installs it", command.get_program().display())
            });
        Self { child, output: output.to_owned() }
    }

    /// Starts what needs a port number, on one that was free. Another program may take the number first, and
    /// the server then ends: that is set-up, and the next number is tried.
    pub(crate) fn spawn_on_port(output: &Path, mut command: impl FnMut(u16) -> Command) -> (Self, u16) {
        for _ in 0..5 {
            let port = free_port();
            let mut process = Self::spawn(&mut command(port), output);
            if process.answers(|| TcpStream::connect(("127.0.0.1", port)).is_ok()) {
                return (process, port);
            }
        }
        panic!("no port in five is free: {}", std::fs::read_to_string(output).unwrap_or_default());
    }

    #[track_caller]
    pub(crate) fn wait_for_socket(&mut self, path: &Path) {
        let up = self.answers(|| UnixStream::connect(path).is_ok());
        assert!(up, "ended: {}", std::fs::read_to_string(&self.output).unwrap_or_default());
    }

    #[track_caller]
    pub(crate) fn wait_for_port(&mut self, port: u16) {
        let up = self.answers(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert!(up, "ended: {}", self.printed());
    }

    /// Waits until a connection succeeds; false: the program ended first.
    fn answers(&mut self, connects: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let connected = connects();
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if connected {
                return true;
            }
            assert!(
                Instant::now() < deadline,
                "does not listen: {}",
                std::fs::read_to_string(&self.output).unwrap_or_default()
            );
            // Nothing announces that a foreign program listens; connecting is how one learns it.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Signals the program itself.
    pub(crate) fn signal(&self, name: &str) {
        signal(name, &self.child.id().to_string());
    }

    /// Signals it and its children.
    pub(crate) fn signal_all(&self, name: &str) {
        signal(name, &format!("-{}", self.child.id()));
    }

    /// Kills all of it and waits for the end.
    pub(crate) fn kill(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal_all("KILL");
            let _ = self.child.wait();
        }
    }

    /// Asks the program to end by this signal, and waits until it has.
    #[track_caller]
    pub(crate) fn end_by(&mut self, name: &str) {
        self.signal(name);
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "does not end by {name}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn printed(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn signal(name: &str, target: &str) {
    // The shell's own kill: the standard library has none.
    let sent = Command::new("sh").args(["-c", "kill -s \"$0\" -- \"$1\"", name, target]).status().unwrap();
    assert!(sent.success(), "kill -s {name} {target}");
}

/// A port that nothing listens on, below those that the system gives to clients. Programs that run at once
/// begin at different places of the range.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const RANGE: u32 = 20_000;
    loop {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 12_000 + (std::process::id().wrapping_mul(37) + step) % RANGE;
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
