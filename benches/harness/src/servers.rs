//! The servers, on their own core, and what they count. Each ends with its value.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::child::{SERVER_CORE, bind};
use crate::{Fallible, Options};

/// What arrived since the last look.
pub struct Arrived {
    pub requests: u64,
    /// Where the server counts them.
    pub bytes: Option<u64>,
}

pub trait Server {
    fn arrived(&mut self) -> Fallible<Arrived>;
}

/// `benches/server.c`.
pub struct Small {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    pub port: u16,
    pub socket: PathBuf,
    _directory: TempDir,
}

impl Small {
    pub fn start(options: &Options, what: &str) -> Fallible<Self> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("s");
        let mut command = Command::new(options.bin.join("server"));
        command.arg(what).arg(&socket).stdin(Stdio::piped()).stdout(Stdio::piped());
        bind(&mut command, SERVER_CORE, libc::SIGKILL);
        let mut child = command.spawn()?;
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut port = String::new();
        output.read_line(&mut port)?;
        let port = port.trim().parse().map_err(|_| "the small server did not start")?;
        Ok(Self { child, input, output, port, socket, _directory: directory })
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/auth", self.port)
    }
}

impl Server for Small {
    fn arrived(&mut self) -> Fallible<Arrived> {
        self.input.as_mut().expect("taken on drop only").write_all(b"\n")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let mut numbers = line.split_whitespace().map(str::parse);
        let (Some(Ok(requests)), Some(Ok(bytes))) = (numbers.next(), numbers.next()) else {
            return Err("the small server has died".into());
        };
        Ok(Arrived { requests, bytes: Some(bytes) })
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// The real one: one worker, `return 200`.
pub struct Nginx {
    child: Child,
    pub port: u16,
    seen: u64,
    _directory: TempDir,
}

impl Nginx {
    pub fn start() -> Fallible<Self> {
        // Between finding a free port and nginx's listening another may take it.
        (0..5).find_map(|_| Self::try_start().transpose()).unwrap_or(Err("nginx did not start".into()))
    }

    fn try_start() -> Fallible<Option<Self>> {
        let directory = tempfile::tempdir()?;
        let at = |name: &str| directory.path().join(name);
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {};\n", at(name).display()))
            .concat();
        let conf = format!(
            "daemon off;\nworker_processes 1;\npid {pid};\nerror_log {error};\nevents {{ worker_connections 4096; }}\n\
             http {{\naccess_log off;\nkeepalive_timeout 300s;\nkeepalive_requests 1000000000;\n{temporary}\
             server {{\nlisten 127.0.0.1:{port};\nlocation = /auth {{ return 200; }}\n\
             location = /status {{ stub_status; }}\n}}\n}}\n",
            pid = at("pid").display(),
            error = at("error.log").display(),
        );
        fs::write(at("nginx.conf"), conf)?;
        let mut command = Command::new("nginx");
        command.arg("-e").arg(at("error.log")).arg("-c").arg(at("nginx.conf"));
        command.env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/local/sbin:/usr/sbin:/sbin");
        // The first process ends the worker before itself.
        bind(&mut command, SERVER_CORE, libc::SIGTERM);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut server = Self { child, port, seen: 0, _directory: directory };
        for _ in 0..200 {
            if server.arrived().is_ok() {
                return Ok(Some(server));
            }
            if server.child.try_wait()?.is_some() {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err("nginx did not answer".into())
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/auth", self.port)
    }
}

impl Server for Nginx {
    fn arrived(&mut self) -> Fallible<Arrived> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.write_all(b"GET /status HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let line = text.lines().skip_while(|line| !line.starts_with("server accepts")).nth(1);
        let total: u64 =
            line.and_then(|line| line.split_whitespace().nth(2)).ok_or("no status of nginx")?.parse()?;
        // This one is among them.
        let requests = (total - self.seen).saturating_sub(1);
        self.seen = total;
        Ok(Arrived { requests, bytes: None })
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SAFETY: a child of ours, not yet reaped.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) };
        let _ = self.child.wait();
    }
}
