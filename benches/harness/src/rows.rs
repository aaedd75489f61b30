//! Each figure beside its target. The targets are those of docs/performance.md; a row that was not measured says so.

use serde::Serialize;

use crate::counts::Counted;
use crate::rounds::{Group, Spread};
use crate::singles::Singles;

#[derive(Serialize)]
pub struct Row {
    pub work: String,
    pub unit: &'static str,
    /// At most.
    pub target: f64,
    pub measured: Option<f64>,
    /// Quartiles of rounds, where there were rounds.
    pub low: Option<f64>,
    pub high: Option<f64>,
}

impl Row {
    pub fn met(&self) -> Option<bool> {
        self.measured.map(|measured| measured <= self.target)
    }

    fn new(work: impl Into<String>, unit: &'static str, target: f64, measured: Option<f64>) -> Self {
        Self { work: work.into(), unit, target, measured, low: None, high: None }
    }

    fn spread(work: impl Into<String>, unit: &'static str, target: f64, measured: Option<Spread>) -> Self {
        Self {
            low: measured.map(|spread| spread.low),
            high: measured.map(|spread| spread.high),
            ..Self::new(work, unit, target, measured.map(|spread| spread.median))
        }
    }
}

/// What README says of an idle connection; the other targets are the project's.
const IDLE_BYTES: f64 = 12_000.0;

pub fn of(lane: &str, groups: &[Group], counted: &Counted, singles: &Singles) -> Vec<Row> {
    let ratio = |server: &str, mode: &str, to: &str| {
        let group = groups.iter().find(|group| group.server == server)?;
        group.ratio(&format!("{lane}-{mode}"), to)
    };
    let small = |mode: &str, to: &str| ratio("small server", mode, to);
    let mut rows = Vec::new();
    for (mode, what) in
        [("queue", "queue"), ("callback", "callback"), ("inline", "callback, threads.callback = 0")]
    {
        let plain = |peer: &str| format!("64 in flight, {what}, CPU beside {peer}");
        rows.push(Row::spread(plain("wrk"), "x", 0.85, small(mode, "wrk")));
        rows.push(Row::spread(plain("libcurl multi"), "x", 0.20, small(mode, "libcurl")));
        rows.push(Row::spread(plain("hyper-util legacy"), "x", 0.55, small(mode, "hyper_util")));
    }
    let pipelined = small("pipeline", "wrk");
    rows.extend([
        Row::new("64 in flight, instructions a check", "", 6000.0, counted.instructions),
        Row::new("64 in flight, system calls a check", "", 2.1, counted.system_calls),
        // A growing table or a thread's first use may allocate once among thousands of checks.
        Row::new("64 in flight, allocations a check in steady state", "", 0.001, counted.allocations),
        Row::spread("http.pipeline = 16, small server, CPU beside wrk", "x", 0.25, pipelined),
        Row::spread(
            "http.pipeline = 16, nginx, CPU beside wrk",
            "x",
            0.55,
            ratio("nginx", "pipeline", "wrk"),
        ),
        Row::spread("Unix socket, CPU beside own TCP", "x", 0.7, small("unix", &format!("{lane}-queue"))),
    ]);
    let number = |of: &Option<crate::child::Finished>, name: &str| of.as_ref()?.number(name).ok();
    let remembered = |name| number(&singles.remembered, name);
    let sessions = singles.sessions;
    rows.extend([
        Row::new("lookup of a remembered decision, 1,024 sessions", "ns", 100.0, remembered("few_ns")),
        Row::new(
            format!("lookup of a remembered decision, {sessions} sessions"),
            "ns",
            600.0,
            remembered("many_ns"),
        ),
        Row::new("lookup, allocations in 200,000", "", 0.0, remembered("many_allocations")),
        Row::new(
            "10,000 checks of one session, CPU a joiner",
            "ns",
            150.0,
            number(&singles.joiners, "joiner_ns"),
        ),
        Row::new("submit while the I/O thread is busy", "ns", 250.0, number(&singles.submit, "submit_ns")),
        // What the run does besides submitting does not quite cancel out.
        Row::new("submit while the I/O thread is busy, system calls", "", 0.01, counted.submit_system_calls),
        Row::new(
            "100,000 pending on a hung backend, each",
            "bytes",
            1024.0,
            number(&singles.waiting, "pending_bytes"),
        ),
        Row::new(
            "100,000 pending, last default action after the timeout",
            "ms",
            50.0,
            number(&singles.pending, "late_ms"),
        ),
        Row::new(
            "an idle connection, HTTP/1.1 without TLS",
            "bytes",
            IDLE_BYTES,
            number(&singles.idle, "idle_bytes"),
        ),
        Row::new(format!("{sessions} remembered decisions, each"), "bytes", 400.0, remembered("bytes")),
        Row::new(
            format!("exchange with {sessions} live sessions, CPU beside 128"),
            "x",
            1.5,
            remembered("exchange_many_us").zip(remembered("exchange_few_us")).map(|(many, few)| many / few),
        ),
    ]);
    rows
}
