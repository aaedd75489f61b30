//! Clients by turns against one server: round after round, each round in another order, so that what disturbs the machine
//! disturbs all alike. Figures are ratios within a round, and their median and quartiles.

use std::time::Duration;

use serde::Serialize;

use crate::clients::{Client, REQUEST_BYTES};
use crate::servers::Server;
use crate::{Fallible, Options, child};

/// wrk's in flight when it stops.
const IN_FLIGHT: u64 = 64;

/// Of one client in one round.
#[derive(Clone, Copy, Serialize)]
pub struct Sample {
    pub cpu_us: f64,
    pub user_us: f64,
    pub system_us: f64,
    pub rate: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
}

#[derive(Serialize)]
pub struct Series {
    pub id: String,
    pub label: String,
    /// One a round, of all series alike; fewer if it is void.
    pub samples: Vec<Sample>,
    /// Why it measures nothing.
    pub void: Option<String>,
}

#[derive(Serialize)]
pub struct Group {
    pub server: &'static str,
    pub series: Vec<Series>,
}

/// The median with its quartiles.
#[derive(Clone, Copy, Serialize)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    pub fn of(mut all: Vec<f64>) -> Option<Self> {
        all.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (all.len().checked_sub(1)? as f64);
            let (below, above) = (all[place.floor() as usize], all[place.ceil() as usize]);
            Some(below + (above - below) * place.fract())
        };
        Some(Self { median: at(0.5)?, low: at(0.25)?, high: at(0.75)? })
    }

    /// How far the quartiles are apart, as a share of the median.
    pub fn width(self) -> f64 {
        (self.high - self.low) / self.median
    }
}

impl Series {
    pub fn of(&self, what: impl Fn(&Sample) -> f64) -> Option<Spread> {
        if self.void.is_some() { None } else { Spread::of(self.samples.iter().map(what).collect()) }
    }
}

impl Group {
    pub fn series(&self, id: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.id == id)
    }

    /// CPU of one by that of the other, round by round.
    pub fn ratio(&self, id: &str, to: &str) -> Option<Spread> {
        let (one, other) = (self.series(id)?, self.series(to)?);
        if one.void.is_some() || other.void.is_some() {
            return None;
        }
        Spread::of(one.samples.iter().zip(&other.samples).map(|(a, b)| a.cpu_us / b.cpu_us).collect())
    }
}

pub fn run(
    name: &'static str,
    options: &Options,
    server: &mut dyn Server,
    clients: &[Client],
) -> Fallible<Group> {
    let mut series: Vec<Series> = clients
        .iter()
        .map(|client| Series {
            id: client.id.clone(),
            label: client.label.clone(),
            samples: Vec::new(),
            void: None,
        })
        .collect();
    // The first round warms caches and is not kept.
    for round in 0..=options.rounds {
        eprint!("\r{name}: round {round} of {}   ", options.rounds);
        for turn in 0..clients.len() {
            let index = (turn + round) % clients.len();
            if series[index].void.is_some() {
                continue;
            }
            match sample(options, server, &clients[index]) {
                Ok(sample) if round > 0 => series[index].samples.push(sample),
                Ok(_) => {}
                Err(error) if error.to_string().ends_with("interrupted") => return Err(error),
                Err(error) => series[index].void = Some(error.to_string()),
            }
        }
    }
    eprintln!();
    Ok(Group { server: name, series })
}

fn sample(options: &Options, server: &mut dyn Server, client: &Client) -> Fallible<Sample> {
    server.arrived()?;
    let end = child::run(client.command(options.seconds), Duration::from_mins(1))?;
    let arrived = server.arrived()?;
    let checks = end.number("checks")?;
    if client.stops_short {
        if end.number("errors")? != 0.0 {
            return Err(format!("void: errors of wrk: {}", end.output).into());
        }
        if arrived.requests < checks as u64 || arrived.requests > checks as u64 + IN_FLIGHT {
            return Err(format!("void: {checks} exchanges, {} at the server", arrived.requests).into());
        }
    } else if arrived.requests != checks as u64 {
        return Err(format!("void: {checks} checks, {} exchanges at the server", arrived.requests).into());
    }
    if let Some(bytes) = arrived.bytes.filter(|_| client.over_tcp)
        && bytes != arrived.requests * REQUEST_BYTES
    {
        // What wrk cut off when it stopped is less than a request a connection.
        let missing = (arrived.requests + IN_FLIGHT) * REQUEST_BYTES;
        if !client.stops_short || bytes < arrived.requests * REQUEST_BYTES || bytes > missing {
            return Err(format!("void: {bytes} bytes in {} requests", arrived.requests).into());
        }
    }
    let seconds = end.number("seconds")?;
    Ok(Sample {
        cpu_us: (end.user_us + end.system_us) / checks,
        user_us: end.user_us / checks,
        system_us: end.system_us / checks,
        rate: checks / seconds,
        p50_us: end.number("p50_us")?,
        p99_us: end.number("p99_us")?,
        p999_us: end.number("p999_us")?,
    })
}
