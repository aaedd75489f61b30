//! A backend within the process, on a Unix socket: TCP would run out of ports. What it answers is in the query.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};

pub(super) struct Backend {
    path: PathBuf,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    ended: AtomicBool,
    requests: AtomicU64,
}

impl Backend {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("alta-auth-fuzz-{}-{}.sock", process::id(), NEXT.fetch_add(1, SeqCst));
        let path = std::env::temp_dir().join(name);
        // One of an earlier process of this number that crashed.
        if let Err(error) = std::fs::remove_file(&path) {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{}: {error}", path.display());
        }
        let listener =
            UnixListener::bind(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let shared = Arc::new(Shared::default());
        let accepting = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let mut serving = Vec::new();
                for stream in listener.incoming() {
                    if shared.ended.load(SeqCst) {
                        break;
                    }
                    let (Ok(stream), shared) = (stream, Arc::clone(&shared)) else { break };
                    serving.push(thread::spawn(move || serve(stream, &shared)));
                }
                for thread in serving {
                    thread.join().expect("serving does not panic");
                }
            }
        });
        Self { path, shared, accepting: Some(accepting) }
    }

    /// Where nobody listens, if it is to be dead.
    pub(super) fn url(&self, dead: bool) -> String {
        format!("unix:{}{}:/auth", self.path.display(), if dead { "x" } else { "" })
    }

    /// Requests that arrived whole.
    pub(super) fn requests(&self) -> u64 {
        self.shared.requests.load(SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.ended.store(true, SeqCst);
        // To wake the one that accepts.
        drop(UnixStream::connect(&self.path));
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
        drop(std::fs::remove_file(&self.path));
    }
}

/// Until the connection ends.
fn serve(mut stream: UnixStream, shared: &Shared) {
    let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        head.extend_from_slice(&buffer[..count]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        shared.requests.fetch_add(1, SeqCst);
        let target = head.split(|&byte| byte == b'\r').next().unwrap_or_default().to_vec();
        head.clear();
        let says = |word: &str| target.windows(word.len()).any(|part| part == word.as_bytes());
        if says("slow") {
            continue;
        }
        if says("close") {
            return;
        }
        let mut reply = if says("bad") { "HTTP/1.1 200 OK\r\nA\r\n".to_owned() } else { String::new() };
        if reply.is_empty() {
            let status = if says("deny") { "403 Forbidden" } else { "200 OK" };
            reply = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n");
            for (word, line) in [
                ("cache", "X-AuthDuration: 60\r\n"),
                ("user", "X-UserId: u1\r\n"),
                ("max", "X-Max-Sessions: 1\r\n"),
            ] {
                if says(word) {
                    reply.push_str(line);
                }
            }
            reply.push_str("\r\n");
        }
        if stream.write_all(reply.as_bytes()).is_err() {
            return;
        }
    }
}
