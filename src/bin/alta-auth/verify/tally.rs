//! What a batch comes to: counts and latencies, as a bar while it runs on a terminal, as a summary after it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use alta_auth::{Cause, Decision, Origin, Stats};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::config::complain;
use crate::human::{self, Latencies};

/// How often the bar is drawn.
const REDRAW: Duration = Duration::from_millis(100);

/// Lines without an answer, by the reason for it.
type ByCause = [u64; Cause::ALL.len()];

pub(crate) struct Tally {
    began: Instant,
    shown: Instant,
    /// Only on a terminal that does not show the decisions too.
    bar: Option<ProgressBar>,
    allowed: u64,
    denied: u64,
    by_default: ByCause,
    /// What the backend had said before stood in.
    last_known: ByCause,
    bad: u64,
    latencies: Latencies,
}

impl Tally {
    /// `bar`: standard error is a terminal of its own, so that a bar disturbs no decision. `length` of the input in
    /// bytes, if it has one.
    pub(crate) fn new(show_bar: bool, length: Option<u64>) -> Self {
        let now = Instant::now();
        Self {
            began: now,
            shown: now,
            bar: show_bar.then(|| bar(length)),
            allowed: 0,
            denied: 0,
            by_default: ByCause::default(),
            last_known: ByCause::default(),
            bad: 0,
            latencies: Latencies::new(),
        }
    }

    pub(crate) fn read(&mut self, position: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(position);
        }
    }

    pub(crate) fn decided(&mut self, decision: &Decision) {
        self.latencies.record(decision.latency);
        match decision.origin {
            Origin::Default => self.by_default[decision.cause as usize] += 1,
            Origin::LastKnown => self.last_known[decision.cause as usize] += 1,
            _ if decision.allows() => self.allowed += 1,
            _ => self.denied += 1,
        }
    }

    /// Counts a bad line and says so.
    pub(crate) fn bad(&mut self, line: u64, why: &str) {
        self.bad += 1;
        self.beside_bar(|| complain(&format_args!("line {line}: {why}")));
    }

    pub(crate) fn bad_lines(&self) -> u64 {
        self.bad
    }

    /// Nothing was decided, and no line was bad.
    pub(crate) fn is_empty(&self) -> bool {
        self.allowed + self.denied + self.undetermined() + self.bad == 0
    }

    /// Decided without an answer.
    pub(crate) fn undetermined(&self) -> u64 {
        sum(&self.by_default) + sum(&self.last_known)
    }

    /// Redraws the bar, if there is one and it is time.
    pub(crate) fn show(&mut self) {
        if let Some(bar) = &self.bar
            && self.shown.elapsed() >= REDRAW
        {
            self.shown = Instant::now();
            bar.set_message(format!("{}, {}/s", self.counts(), human::count(self.rate())));
        }
    }

    /// The summary.
    pub(crate) fn finish(&mut self, stats: &Stats) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let mut text = format!(
            "{}, {} bad; {}, {} checks/s\n",
            self.counts(),
            human::counted(self.bad, "line"),
            human::time(self.began.elapsed()),
            human::count(self.rate())
        );
        for (what, counts) in [("last known", &self.last_known), ("by default", &self.by_default)] {
            if sum(counts) > 0 {
                let causes: Vec<String> = Cause::ALL
                    .into_iter()
                    .filter(|cause| counts[*cause as usize] > 0)
                    .map(|cause| format!("{} {}", cause.name(), human::count(counts[cause as usize])))
                    .collect();
                let _ = writeln!(text, "{what} because of: {}", causes.join(", "));
            }
        }
        let _ = writeln!(text, "latency: {}", self.latencies.line());
        let _ = writeln!(
            text,
            "{}, {} coalesced, {} opened",
            human::counted(stats.exchanges, "exchange"),
            human::counted(stats.coalesced, "check"),
            human::counted(stats.connections_opened, "connection")
        );
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    fn counts(&self) -> String {
        let last_known = match sum(&self.last_known) {
            0 => String::new(),
            known => format!("{} last known, ", human::count(known)),
        };
        format!(
            "{} allowed, {} denied, {last_known}{} by default",
            human::count(self.allowed),
            human::count(self.denied),
            human::count(sum(&self.by_default))
        )
    }

    fn rate(&self) -> u64 {
        human::per_second(self.allowed + self.denied + self.undetermined(), self.began.elapsed())
    }

    fn beside_bar(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

fn sum(counts: &ByCause) -> u64 {
    counts.iter().sum()
}

fn bar(length: Option<u64>) -> ProgressBar {
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), "{bar:30} {percent:>3}%  {msg}  {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {elapsed}  {msg}"),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr());
    bar.with_style(ProgressStyle::with_template(template).expect("the template is a constant that parses"))
}
