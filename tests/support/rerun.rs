//! A test that changes or counts what belongs to a whole process runs itself again in one of its own.

use std::io::Write as _;
use std::process::{Command, Stdio};

const MARK: &str = "ALTA_AUTH_TEST_RERUN";
const NOT_TESTED: &str = "NOT TESTED";

/// The child: this test program, told to run one test only.
pub(crate) struct Rerun {
    test: &'static str,
    command: Command,
}

impl Rerun {
    /// `None` in the child, where the test itself goes on.
    pub(crate) fn of(test: &'static str) -> Option<Self> {
        if std::env::var_os(MARK).is_some() {
            return None;
        }
        Some(Self { test, command: Command::new(std::env::current_exe().unwrap()) })
    }

    /// The child may open no more than this many files.
    pub(crate) fn with_open_files(self, limit: u32) -> Self {
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -n \"$0\" && exec \"$@\""])
            .arg(limit.to_string())
            .arg(self.command.get_program());
        Self { command, ..self }
    }

    /// The child has a network of its own: a loopback, and these ports for its connections. `None`, which a
    /// person is told and which fails where `CI` is set, if this system lets nobody make one.
    pub(crate) fn with_ports(self, first: u16, last: u16) -> Option<Self> {
        self.in_network(&format!("echo {first} {last} >/proc/sys/net/ipv4/ip_local_port_range"))
    }

    /// The child has a network of its own, and may filter in it. `None` likewise.
    pub(crate) fn with_filters(self) -> Option<Self> {
        self.in_network("iptables -w -S >/dev/null")
    }

    /// The child has a network of its own, in which the system's resolver asks 127.0.0.1, once and for a second. `None`
    /// likewise.
    pub(crate) fn with_names(self) -> Option<Self> {
        let file = "f=$(mktemp) && printf 'nameserver 127.0.0.1\\noptions timeout:1 attempts:1\\n' >$f";
        self.in_network(&format!("{file} && mount --bind $f /etc/resolv.conf && rm $f"))
    }

    fn in_network(self, prepare: &str) -> Option<Self> {
        // Root may in most places; anyone may, as root of a user namespace, in many.
        for unshare in [&["--net", "--mount"][..], &["--net", "--mount", "--map-root-user"]] {
            let entered = |then: &str| {
                let mut command = Command::new("unshare");
                let script = format!("PATH=$PATH:/usr/sbin:/sbin; ip link set lo up && {prepare} && {then}");
                command.args(unshare).args(["--", "sh", "-c", &script, "sh"]);
                command
            };
            let tried = entered("true").stdin(Stdio::null()).stderr(Stdio::null()).status();
            if tried.is_ok_and(|status| status.success()) {
                let mut command = entered("exec \"$@\"");
                command.arg(self.command.get_program());
                return Some(Self { command, ..self });
            }
        }
        let why = format!("a network of its own (`unshare --net`, `ip link`, `{prepare}`) is not allowed");
        not_possible_here(self.test, &why);
        None
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs the child, and fails as it failed.
    #[track_caller]
    pub(crate) fn run(self) {
        self.printed();
    }

    /// The same; what it printed.
    #[track_caller]
    pub(crate) fn printed(mut self) -> String {
        self.command.args(["--exact", self.test, "--nocapture", "--test-threads=1"]).env(MARK, "1");
        let output = self.command.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "in a process of its own: {text}");
        assert!(text.contains("1 passed"), "{} is not the name of one test: {text}", self.test);
        for line in text.lines().filter(|line| line.starts_with(NOT_TESTED)) {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
        text.into_owned()
    }
}

/// What this system does not let a test do is said past the capture of its output; where `CI` is set, it fails.
#[track_caller]
pub(crate) fn not_possible_here(test: &str, why: &str) {
    assert!(std::env::var_os("CI").is_none_or(|value| value.is_empty()), "{test}: {why}");
    let _ = writeln!(std::io::stderr(), "{NOT_TESTED}: {test}: {why}");
}
