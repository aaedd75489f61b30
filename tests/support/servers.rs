//! The servers that people write backends with, one process each, with the reference rule.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::Process;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support");
const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.tools/python/bin");

pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) port: u16,
    _directory: TempDir,
}

/// Which program, and how it ends its replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// `content-length: 0`
    Uvicorn,
    /// Chunked, then the connection is closed.
    GunicornSync,
    /// Chunked, and the connection is kept.
    GunicornThreads,
    /// `content-length: 0`, a status line without words; HTTP/2 without TLS too.
    Hypercorn,
    /// `Content-Length: 0`
    Node,
}

impl Server {
    pub(crate) fn new(framing: Framing) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (process, port) = Process::spawn_on_port(&directory.path().join("printed.log"), |port| {
            let address = format!("127.0.0.1:{port}");
            let python = |program: &str| {
                let path = Path::new(TOOLS).join(program);
                assert!(path.exists(), "{} is not there: `make setup` installs it", path.display());
                Command::new(path)
            };
            let mut command = match framing {
                Framing::Uvicorn => {
                    let mut command = python("uvicorn");
                    command.args(["--no-access-log", "--port", &port.to_string(), "app:app"]);
                    command
                }
                Framing::GunicornSync => {
                    let mut command = python("gunicorn");
                    command.args(["--no-control-socket", "--bind", &address, "app:wsgi"]);
                    command
                }
                Framing::GunicornThreads => {
                    let mut command = python("gunicorn");
                    command.args(["--no-control-socket", "--threads", "4", "--bind", &address, "app:wsgi"]);
                    command
                }
                Framing::Hypercorn => {
                    let mut command = python("hypercorn");
                    command.args(["--bind", &address, "app:app"]);
                    command
                }
                Framing::Node => {
                    let mut command = Command::new("node");
                    command.arg("app.js").arg(port.to_string());
                    command
                }
            };
            command.current_dir(FOLDER).env("PYTHONDONTWRITEBYTECODE", "1");
            command
        });
        Self { process, port, _directory: directory }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/auth", self.port)
    }
}
