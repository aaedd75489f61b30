//! nginx and php-fpm, each with a configuration of its own in a temporary directory.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::php::{SCRIPT, fpm_program};
use super::{AuthLog, Process};

/// php-fpm with the reference script, on a Unix socket.
pub(crate) struct Fpm {
    pub(crate) process: Process,
    pub(crate) log: AuthLog,
    directory: TempDir,
}

impl Fpm {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// With a line of configuration in `[global]`.
    pub(crate) fn with(global: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let log = AuthLog(at("auth.log"));
        let conf = format!(
            "[global]\nerror_log = {error}\ndaemonize = no\n{global}\n[www]\nuser = {user}\nlisten = {listen}\n\
             listen.backlog = 4096\npm = static\npm.max_children = 2\nenv[AUTH_LOG] = {auth}\n",
            error = at("error.log").display(),
            user = user(),
            listen = at("fpm.sock").display(),
            auth = log.0.display(),
        );
        std::fs::write(at("fpm.conf"), conf).unwrap();
        let process = Self::start(directory.path());
        Self { process, log, directory }
    }

    fn start(directory: &Path) -> Process {
        // -R: root may run it, as in a container.
        let mut process = Process::spawn(
            Command::new(fpm_program()).args(["-F", "-R", "-y"]).arg(directory.join("fpm.conf")),
            &directory.join("printed.log"),
        );
        process.wait_for_socket(&directory.join("fpm.sock"));
        process
    }

    /// On the same socket, after [`Process::kill`].
    pub(crate) fn start_again(&mut self) {
        let _ = std::fs::remove_file(self.socket());
        self.process = Self::start(self.directory.path());
    }

    /// How often it began to reload.
    pub(crate) fn reloads(&self) -> usize {
        let text = std::fs::read_to_string(self.directory.path().join("error.log")).unwrap_or_default();
        text.matches("Reloading in progress").count()
    }

    /// How often it has begun to take requests.
    pub(crate) fn starts(&self) -> usize {
        let text = std::fs::read_to_string(self.directory.path().join("error.log")).unwrap_or_default();
        text.matches("ready to handle connections").count()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("fpm.sock")
    }
}

/// Lines of configuration, beside what every test has.
#[derive(Clone, Copy, Default)]
pub(crate) struct NginxOptions<'a> {
    /// In `http { … }`, e.g. `keepalive_requests 3;`.
    pub(crate) http: &'a str,
    /// In `server { … }`.
    pub(crate) server: &'a str,
    /// In `location / { … }`; empty: the reference script through FPM.
    pub(crate) location: &'a str,
    /// After the port in `listen`, e.g. `ssl http2`.
    pub(crate) listen: &'a str,
}

/// nginx in front of [`Fpm`] or of whatever `location` says, on a TCP port and on a Unix socket.
pub(crate) struct Nginx {
    pub(crate) process: Process,
    pub(crate) port: u16,
    directory: TempDir,
}

/// One request in nginx's log, which is complete once nginx has ended.
#[derive(Debug)]
pub(crate) struct Served {
    /// nginx's number of the connection.
    pub(crate) connection: String,
    pub(crate) status: u16,
    pub(crate) protocol: String,
    /// It came before the answer to the one before it had gone out.
    pub(crate) pipelined: bool,
}

impl Nginx {
    pub(crate) fn new(fpm: Option<&Fpm>, options: NginxOptions<'_>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        let (mut process, port) = Process::spawn_on_port(&root.join("printed.log"), |port| {
            std::fs::write(root.join("nginx.conf"), configuration(&root, port, fpm, options)).unwrap();
            nginx(&root)
        });
        process.wait_for_socket(&root.join("nginx.sock"));
        Self { process, port, directory }
    }

    /// On the same port, after [`Process::kill`].
    pub(crate) fn start_again(&mut self) {
        let root = self.directory.path();
        self.process = Process::spawn(&mut nginx(root), &root.join("printed.log"));
        self.process.wait_for_port(self.port);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/auth.php", self.port)
    }

    pub(crate) fn https(&self, host: &str) -> String {
        format!("https://{host}:{}/auth.php", self.port)
    }

    pub(crate) fn unix_url(&self) -> String {
        format!("unix:{}:/auth.php", self.directory.path().join("nginx.sock").display())
    }

    /// New workers; the old ones end once their connections are idle.
    pub(crate) fn reload(&self) {
        self.process.signal("HUP");
    }

    pub(crate) fn error_log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("error.log")).unwrap_or_default()
    }

    /// Lets it finish what it serves, and tells what it served. The connection by which the start was
    /// noticed carried no request and is in no line.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Vec<Served> {
        self.process.end_by("QUIT");
        let text = std::fs::read_to_string(self.directory.path().join("access.log")).unwrap();
        text.lines()
            .map(|line| {
                let mut words = line.split(' ');
                let mut next = || words.next().unwrap().to_owned();
                let (connection, status, protocol) = (next(), next().parse().unwrap(), next());
                Served { connection, status, protocol, pipelined: next() == "p" }
            })
            .collect()
    }
}

fn nginx(root: &Path) -> Command {
    // Of an attempt on a port that was taken, or of one that was killed.
    let _ = std::fs::remove_file(root.join("nginx.sock"));
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-e").arg(root.join("error.log")).arg("-c").arg(root.join("nginx.conf"));
    command
}

fn configuration(root: &Path, port: u16, fpm: Option<&Fpm>, options: NginxOptions<'_>) -> String {
    let mut text = String::new();
    let at = root.display();
    let _ =
        writeln!(text, "daemon off; pid {at}/nginx.pid; error_log {at}/error.log info; worker_processes 1;");
    if user() == "root" {
        let _ = writeln!(text, "user root;");
    }
    let _ = writeln!(text, "events {{ worker_connections 2048; }}");
    let _ = writeln!(text, "http {{\nlog_format line '$connection $status $server_protocol $pipe';");
    let _ = writeln!(text, "access_log {at}/access.log line;");
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "{kind}_temp_path {at}/{kind};");
    }
    // nginx refuses a directive that is given twice.
    if !options.http.contains("keepalive_requests") {
        let _ = writeln!(text, "keepalive_requests 100000;");
    }
    let http = options.http;
    let _ = writeln!(text, "{http}\nserver {{\nlisten 127.0.0.1:{port} backlog=4096 {};", options.listen);
    let _ = writeln!(text, "listen unix:{at}/nginx.sock;\n{}", options.server);
    let _ = writeln!(text, "location / {{\n{}", options.location);
    if options.location.is_empty() {
        let fpm = fpm.expect("a location, or an FPM to pass requests to");
        let _ = writeln!(
            text,
            "fastcgi_pass unix:{};\nfastcgi_param SCRIPT_FILENAME {SCRIPT};\n\
             fastcgi_param QUERY_STRING $query_string;\nfastcgi_param REQUEST_METHOD $request_method;\n\
             fastcgi_param REQUEST_URI $request_uri;",
            fpm.socket().display()
        );
    }
    text.push_str("}\n}\n}\n");
    text
}

fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
