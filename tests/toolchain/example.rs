//! An example, built with its Makefile and driven as a person would: curl in front.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use tempfile::TempDir;

use crate::backends::{Backend, PATIENCE, signal};
use crate::toolchain::{ROOT, command, library_directory, read, succeed};

/// One example, built without an installation.
pub(crate) struct Example {
    pub(crate) directory: TempDir,
    pub(crate) name: &'static str,
}

impl Example {
    pub(crate) fn build(name: &'static str) -> Self {
        let example = Self { directory: tempfile::tempdir().unwrap(), name };
        succeed(
            command("make", ["--silent", "-C", "ffi-examples"])
                .current_dir(ROOT)
                .env_remove("MAKEFLAGS")
                .arg(format!("BUILD={}", example.directory.path().display()))
                .arg(format!("ALTA={}", library_directory().display()))
                .arg(example.program()),
        );
        example
    }

    /// The same with another text in its source, for what a test must not own or wait for.
    pub(crate) fn build_with(name: &'static str, text: &str, other: &str) -> Self {
        let example = Self::build(name);
        let source = read(format!("ffi-examples/{name}.c"));
        let changed = source.replace(text, other);
        assert_ne!(changed, source);
        let (directory, file) = (example.directory.path(), example.directory.path().join("changed.c"));
        std::fs::write(&file, changed).unwrap();
        succeed(
            command("cc", ["-std=c11", "-pthread", "-I", &format!("{ROOT}/include")])
                .arg(&file)
                .arg("-o")
                .arg(example.program())
                .arg(directory.join("libalta_auth.so.0"))
                .arg(format!("-Wl,-rpath,{}", directory.display())),
        );
        example
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.directory.path().join(self.name)
    }

    pub(crate) fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        let Output { status, stdout, .. } = command(self.program().to_str().unwrap(), args).output().unwrap();
        (status.code(), String::from_utf8(stdout).unwrap())
    }

    /// Starts one that serves, on a port of its own choice.
    pub(crate) fn serve(&self, args: &[&str]) -> Serving {
        Self::serves(command(self.program().to_str().unwrap(), args))
    }

    /// The same of one that may have no more descriptors than these.
    pub(crate) fn serve_with_descriptors(&self, limit: usize, args: &[&str]) -> Serving {
        let mut limited = command("sh", ["-c", "ulimit -n \"$0\" && exec \"$@\"", &limit.to_string()]);
        limited.arg(self.program()).args(args);
        Self::serves(limited)
    }

    fn serves(mut command: Command) -> Serving {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Serving { child, url }
    }
}

/// A running example. Killed when dropped; a test that was content with it ends it.
pub(crate) struct Serving {
    pub(crate) child: Child,
    pub(crate) url: String,
}

impl Serving {
    pub(crate) fn curl(&self, path: &str) -> Command {
        let mut curl =
            command("curl", ["--silent", "--show-error", "--path-as-is", "--write-out", "\n%{http_code}"]);
        curl.args(["--max-time", &PATIENCE.as_secs().to_string()]).arg(format!("{}{path}", self.url));
        curl
    }

    /// Status and body.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        answer(&succeed(&mut self.curl(path)))
    }

    #[track_caller]
    pub(crate) fn status(&self, path: &str) -> u16 {
        self.get(path).0
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.url.strip_prefix("http://").unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Those that it has open.
    pub(crate) fn descriptors(&self) -> BTreeSet<u32> {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        open.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
    }

    /// The CPU time that it has used, in ticks of 10 ms.
    pub(crate) fn ticks(&self) -> u64 {
        let line = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let after_name = line.rsplit_once(") ").unwrap().1;
        after_name.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }

    #[track_caller]
    pub(crate) fn end(mut self) {
        signal(&self.child, "TERM");
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{status}");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn answer(printed: &str) -> (u16, String) {
    let (body, status) = printed.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

/// The reference rule at the path `/auth`.
pub(crate) fn url(backend: &Backend) -> String {
    format!("backend.url={}/auth", backend.url)
}

/// Nothing listens there.
pub(crate) const OUTAGE: &str = "backend.url=http://127.0.0.1:1/auth";

/// A directory of channels.
pub(crate) struct Hls {
    pub(crate) example: Example,
    pub(crate) root: PathBuf,
}

pub(crate) const PLAYLIST: &str = "#EXTM3U\n720p/1.ts\n";

impl Hls {
    pub(crate) fn new() -> Self {
        let example = Example::build("epoll_hls");
        let root = example.directory.path().join("root");
        std::fs::create_dir_all(root.join("news/720p")).unwrap();
        std::fs::write(root.join("news/index.m3u8"), PLAYLIST).unwrap();
        std::fs::write(root.join("news/720p/1.ts"), vec![b's'; 2_000_000]).unwrap();
        std::fs::write(example.directory.path().join("secret"), "secret").unwrap();
        Self { example, root }
    }

    pub(crate) fn serve(&self, args: &[&str]) -> Serving {
        let args: Vec<&str> = [self.root.to_str().unwrap(), "0"].iter().chain(args).copied().collect();
        self.example.serve(&args)
    }
}

/// A player of a stream that does not end: curl, whose output can be read while it comes.
pub(crate) struct Player(pub(crate) Child);

impl Player {
    /// Connects and reads the head. Gives its first line.
    pub(crate) fn open(server: &Serving, path: &str) -> (Self, BufReader<ChildStdout>, String) {
        let mut child =
            server.curl(path).args(["--include", "--no-buffer"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (mut first, mut line) = (String::new(), String::new());
        while line != "\r\n" {
            line.clear();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "no head");
            if first.is_empty() {
                line.trim_end().clone_into(&mut first);
            }
        }
        (Self(child), stdout, first)
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whole packets of the stream.
pub(crate) fn packets(stream: &mut impl Read, count: usize) {
    for _ in 0..count {
        let mut packet = [0; 188];
        stream.read_exact(&mut packet).unwrap();
        assert_eq!(&packet[..4], b"\x47\x1f\xff\x10");
    }
}
