//! `php -S`, as the vendor says to run the reference script, and the script's log.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::Process;

pub(crate) const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/auth.php");

/// `php -S 127.0.0.1:PORT auth.php`
pub(crate) struct Php {
    pub(crate) process: Process,
    pub(crate) log: AuthLog,
    pub(crate) port: u16,
    directory: TempDir,
}

impl Php {
    /// With the configuration that the package brings.
    pub(crate) fn new() -> Self {
        Self::with(&[], Path::new(SCRIPT))
    }

    /// With what PHP has built in, and no file: it shows its warnings to the client.
    pub(crate) fn with_built_in_configuration() -> Self {
        Self::with(&["-n"], Path::new(SCRIPT))
    }

    /// With options of the program and another script.
    pub(crate) fn with(options: &[&str], script: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = AuthLog(directory.path().join("auth.log"));
        let (process, port) = Process::spawn_on_port(&directory.path().join("php.log"), |port| {
            let mut command = Command::new("php");
            command
                .args(options)
                .arg("-S")
                .arg(format!("127.0.0.1:{port}"))
                .arg(script)
                .env("AUTH_LOG", &log.0);
            command
        });
        Self { process, log, port, directory }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/auth", self.port)
    }

    /// On the same port, after [`Process::kill`]; with the configuration that the package brings.
    pub(crate) fn start_again(&mut self) {
        let mut command = Command::new("php");
        command.arg("-S").arg(format!("127.0.0.1:{}", self.port)).arg(SCRIPT).env("AUTH_LOG", &self.log.0);
        self.process = Process::spawn(&mut command, &self.directory.path().join("php.log"));
        self.process.wait_for_port(self.port);
    }
}

/// What the reference script was asked.
pub(crate) struct AuthLog(pub(crate) PathBuf);

/// One request, as PHP understood it. `None`: the header was not there.
#[derive(Debug)]
pub(crate) struct Logged {
    pub(crate) uri: Vec<u8>,
    /// Session id, address, path, origin, user agent.
    pub(crate) headers: [Option<Vec<u8>>; 5],
}

impl AuthLog {
    pub(crate) fn requests(&self) -> Vec<Logged> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().map(Logged::parse).collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.requests().len()
    }
}

impl Logged {
    fn parse(line: &str) -> Self {
        let mut words = line.split(' ');
        let uri = percent_decoded(words.next().unwrap());
        let headers = std::array::from_fn(|_| words.next().unwrap().strip_prefix('=').map(percent_decoded));
        Self { uri, headers }
    }
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        out.push(u8::from_str_radix(&part[..2], 16).unwrap());
        out.extend_from_slice(&part.as_bytes()[2..]);
    }
    out
}

/// Debian names the program after the version.
pub(crate) fn fpm_program() -> PathBuf {
    let folders = ["/usr/sbin", "/usr/local/sbin"].map(Path::new);
    let found = folders.iter().filter_map(|folder| folder.read_dir().ok()).flatten().flatten();
    let mut programs: Vec<PathBuf> = found
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("php-fpm")))
        .collect();
    programs.sort();
    programs.pop().expect("no php-fpm in /usr/sbin: `make setup` installs it")
}
