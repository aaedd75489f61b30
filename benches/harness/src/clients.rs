//! The clients that take turns, and how each is started.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::servers::{Nginx, Server, Small};
use crate::{Fallible, Options, child};

/// As in `benches/measure.h`.
const TOKEN: &str = "token=0123456789abcdef0123456789abcdef";
const HEADERS: [&str; 5] = [
    "X-Session-Id: 0000000000000000",
    "X-Real-Ip: 192.0.2.123",
    "X-Real-Path: /channel/index.m3u8",
    "X-Real-Origin: https://live.example.com",
    "X-Real-Ua: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 TV/1.0.0",
];
/// Of each request over TCP.
pub const REQUEST_BYTES: u64 = 324;

pub struct Client {
    /// In the JSON, and for rows: `wrk`, `hyper-queue`, …
    pub id: String,
    /// In tables and the picture.
    pub label: String,
    program: String,
    arguments: Vec<String>,
    /// Arguments after the seconds.
    more: Vec<String>,
    /// wrk stops without waiting for what is in flight.
    pub stops_short: bool,
    pub over_tcp: bool,
}

impl Client {
    pub fn command(&self, seconds: f64) -> Command {
        let mut command = Command::new(&self.program);
        if self.stops_short {
            // Whole seconds or a unit: wrk knows no fractions. One below its granularity is rounded up.
            command.arg(format!("-d{}s", seconds.ceil().max(1.0)));
            command.args(&self.arguments);
        } else {
            command.args(&self.arguments).arg(seconds.to_string()).args(&self.more);
        }
        command
    }
}

/// The lanes this library has, the better one last.
pub fn lanes(options: &Options) -> Fallible<Vec<&'static str>> {
    let mut server = Small::start(options, "plain")?;
    let url = server.url();
    let has = |lane: &&str| has_keys(options, &url, &[format!("http.lane={lane}")]);
    let found: Vec<_> = ["hyper", "wire"].into_iter().filter(has).collect();
    server.arrived()?;
    Ok(found)
}

fn has_keys(options: &Options, url: &str, keys: &[String]) -> bool {
    let mut command = Command::new(options.bin.join("exchange"));
    command.args(["queue", url, "x1"]).args(keys);
    child::run(command, Duration::from_secs(20)).is_ok()
}

pub fn for_small(options: &Options, lanes: &[&str], server: &Small) -> Vec<Client> {
    let url = server.url();
    let mut clients = vec![wrk(options, &url)];
    for lane in lanes {
        clients.push(engine(options, lane, "queue", &url));
        clients.push(engine(options, lane, "callback", &url));
        clients.push(inline(options, lane, &url));
        let unix = format!("unix:{}:/auth", server.socket.display());
        clients.push(Client {
            id: format!("{lane}-unix"),
            label: format!("alta-auth {lane}, queue, Unix socket"),
            over_tcp: false,
            ..engine(options, lane, "queue", &unix)
        });
        clients.extend(pipelined(options, lane, &url));
    }
    if let (Some(lane), Some(bin)) = (lanes.last(), plain(options)) {
        clients.push(Client {
            id: format!("{lane}-plain-queue"),
            label: format!("alta-auth {lane}, queue, cargo build"),
            program: program(&bin, "exchange"),
            ..engine(options, lane, "queue", &url)
        });
    }
    clients.push(libcurl(options, &url));
    clients.push(hyper_util(options, &url));
    clients
}

/// Where a program stands beside what `cargo build --release` makes of the library, if that is not the one that is measured.
pub fn plain(options: &Options) -> Option<PathBuf> {
    let bin = options.bin.join("plain");
    bin.join("exchange").exists().then_some(bin)
}

pub fn for_nginx(options: &Options, lanes: &[&str], server: &Nginx) -> Vec<Client> {
    let url = server.url();
    let mut clients = vec![wrk(options, &url)];
    for lane in lanes {
        clients.push(engine(options, lane, "queue", &url));
        clients.extend(pipelined(options, lane, &url));
    }
    clients.push(libcurl(options, &url));
    clients.push(hyper_util(options, &url));
    clients
}

fn program(directory: &Path, name: &str) -> String {
    directory.join(name).display().to_string()
}

fn engine(options: &Options, lane: &str, mode: &str, url: &str) -> Client {
    Client {
        id: format!("{lane}-{mode}"),
        label: format!("alta-auth {lane}, {mode}"),
        program: program(&options.bin, "exchange"),
        arguments: vec![mode.to_owned(), url.to_owned()],
        more: vec![format!("http.lane={lane}")],
        stops_short: false,
        over_tcp: true,
    }
}

/// Callbacks that do not block may run on the I/O thread.
fn inline(options: &Options, lane: &str, url: &str) -> Client {
    Client {
        id: format!("{lane}-inline"),
        label: format!("alta-auth {lane}, callback, threads.callback = 0"),
        more: vec![format!("http.lane={lane}"), "threads.callback=0".to_owned()],
        ..engine(options, lane, "callback", url)
    }
}

/// 16 in flight on each of 4 connections, where the lane can.
fn pipelined(options: &Options, lane: &str, url: &str) -> Option<Client> {
    let more: Vec<String> = [&format!("http.lane={lane}"), "http.pipeline=16", "pool.max_connections=4"]
        .map(str::to_owned)
        .into();
    has_keys(options, url, &more).then(|| Client {
        id: format!("{lane}-pipeline"),
        label: format!("alta-auth {lane}, queue, http.pipeline = 16"),
        more,
        ..engine(options, lane, "queue", url)
    })
}

fn wrk(options: &Options, url: &str) -> Client {
    let script = program(&options.bin, "wrk.lua");
    let mut arguments: Vec<String> =
        ["-t1", "-c64", "--timeout", "20s", "-s", &script].map(str::to_owned).into();
    for header in HEADERS {
        arguments.extend(["-H".to_owned(), header.to_owned()]);
    }
    arguments.push(format!("{url}?{TOKEN}"));
    Client {
        id: "wrk".to_owned(),
        label: "wrk".to_owned(),
        program: "wrk".to_owned(),
        arguments,
        more: Vec::new(),
        stops_short: true,
        over_tcp: true,
    }
}

fn libcurl(options: &Options, url: &str) -> Client {
    peer(options, "libcurl", "libcurl multi_socket, epoll", url)
}

fn hyper_util(options: &Options, url: &str) -> Client {
    peer(options, "hyper_util", "hyper-util legacy client", url)
}

fn peer(options: &Options, name: &str, label: &str, url: &str) -> Client {
    Client {
        id: name.to_owned(),
        label: label.to_owned(),
        program: program(&options.bin, name),
        arguments: vec![format!("{url}?{TOKEN}")],
        more: Vec::new(),
        stops_short: false,
        over_tcp: true,
    }
}
