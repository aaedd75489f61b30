//! The result: tables for the terminal, and what goes into the JSON file.

use std::fmt;
use std::fs;

use serde::Serialize;

use crate::child;
use crate::rounds::Group;
use crate::rows::Row;

/// Above this distance of wrk's quartiles, as a share of its median, differences mean nothing.
const TOO_NOISY: f64 = 0.10;

/// Below so many checks of wrk a round, what a process takes to start and end shows in its figures.
const TOO_FEW: f64 = 10_000.0;

#[derive(Serialize)]
pub struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    #[serde(skip)]
    pub two_cores: bool,
}

impl Machine {
    pub fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        Self {
            cpu: cpu.trim_start_matches([':', ' ', '\t']).to_owned(),
            cores: child::cores(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            two_cores: child::cores() > 1,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} cores, Linux {}", self.cpu, self.cores, self.kernel)
    }
}

#[derive(Serialize)]
pub struct Report {
    pub machine: Machine,
    /// What made the library.
    pub build: &'static str,
    pub quick: bool,
    /// Of each client in each round.
    pub seconds: f64,
    /// Whose figures the rows are.
    pub lane: String,
    pub groups: Vec<Group>,
    pub rows: Vec<Row>,
}

impl Report {
    /// How far wrk's own figures are apart, the worst of the servers.
    fn noise(&self) -> f64 {
        let wrk = self.groups.iter().filter_map(|group| group.series("wrk")?.of(|sample| sample.cpu_us));
        wrk.map(super::rounds::Spread::width).fold(0.0, f64::max)
    }

    fn void(&self) -> bool {
        self.groups.iter().flat_map(|group| &group.series).any(|series| series.void.is_some())
    }

    /// Of wrk, which knows whole seconds only, in a round, where it had the fewest.
    fn checks(&self) -> f64 {
        let rates = self.groups.iter().filter_map(|group| group.series("wrk")?.of(|sample| sample.rate));
        rates.map(|rate| rate.median * self.seconds.ceil()).fold(f64::INFINITY, f64::min)
    }

    pub fn reliable(&self) -> bool {
        !self.void() && self.noise() <= TOO_NOISY && self.checks() >= TOO_FEW
    }

    pub fn print(&self) {
        for group in &self.groups {
            println!("\n64 in flight, {}: medians of {} rounds", group.server, rounds(group));
            println!(
                "{:<42} {:>19} {:>20} {:>9} {:>8} {:>8} {:>8}",
                "", "CPU us (user/sys)", "x wrk (quartiles)", "checks/s", "p50 us", "p99 us", "p99.9 us"
            );
            for series in &group.series {
                if let Some(why) = &series.void {
                    println!("{:<42} VOID: {why}", series.label);
                    continue;
                }
                let median =
                    |what: fn(&crate::rounds::Sample) -> f64| series.of(what).map_or(0.0, |all| all.median);
                let cpu = format!(
                    "{:.2} ({:.2}/{:.2})",
                    median(|sample| sample.cpu_us),
                    median(|sample| sample.user_us),
                    median(|sample| sample.system_us)
                );
                let ratio = group.ratio(&series.id, "wrk").map_or("-".to_owned(), |all| {
                    format!("{:.2} ({:.2}-{:.2})", all.median, all.low, all.high)
                });
                println!(
                    "{:<42} {cpu:>19} {ratio:>20} {:>9.0} {:>8.0} {:>8.0} {:>8.0}",
                    series.label,
                    median(|sample| sample.rate),
                    median(|sample| sample.p50_us),
                    median(|sample| sample.p99_us),
                    median(|sample| sample.p999_us)
                );
            }
        }
        println!("\nBeside the targets, lane {}, those missed first:", self.lane);
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by_key(|row| match row.met() {
            Some(false) => 0,
            None => 1,
            Some(true) => 2,
        });
        for row in rows {
            let target = format!("<= {} {}", row.target, row.unit);
            let (word, figure) = match (row.met(), row.measured) {
                (Some(met), Some(measured)) => {
                    (if met { "met" } else { "MISSED" }, format!("{} {}", rounded(measured), row.unit))
                }
                _ => ("-", "not measured".to_owned()),
            };
            let spread = row.low.zip(row.high);
            let spread = spread.map_or(String::new(), |(low, high)| format!("({low:.2}-{high:.2})"));
            println!("{word:<7} {:<58} {figure:>14} {spread:<13} target {target}", row.work);
        }
        self.print_noise();
    }

    fn print_noise(&self) {
        let noise = self.noise() * 100.0;
        let limit = TOO_NOISY * 100.0;
        if noise > limit {
            println!(
                "\nTHIS MACHINE WAS TOO NOISY: the quartiles of wrk's own CPU a check are {noise:.0} % apart, more than \
                 {limit:.0} %. Repeat it when nothing else runs; until then no figure of CPU or time means anything."
            );
        } else {
            println!(
                "\nNoise: the quartiles of wrk's own CPU a check are {noise:.1} % apart ({limit:.0} % is the limit)."
            );
        }
        let checks = self.checks();
        if checks < TOO_FEW {
            println!(
                "THIS MACHINE WAS TOO BUSY: wrk had {checks:.0} checks a round, fewer than {TOO_FEW}, so that the start and \
                 end of each process show in its figures."
            );
        }
        if self.void() {
            println!("Void rows above: a verdict, an origin or a count was not what it must be.");
        }
    }
}

fn rounds(group: &Group) -> usize {
    group.series("wrk").map_or(0, |wrk| wrk.samples.len())
}

fn rounded(figure: f64) -> String {
    if figure.abs() >= 100.0 { format!("{figure:.0}") } else { format!("{figure:.3}") }
}
