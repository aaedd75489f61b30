//! The harness: this engine through its C ABI beside wrk, libcurl and hyper-util's legacy client, by turns, and what else
//! docs/performance.md has a target for. `make bench` builds what it starts and runs it.
//!
//!     harness BIN OUT [--quick] [--lane hyper|wire] [--rounds N] [--seconds S]
//!
//! BIN holds the programs, OUT gets performance.json and performance.svg. Everything it starts is bound to its life and
//! ended by process id; ports are ephemeral. Exit 1: a run was void, or this machine was too noisy to tell.

mod child;
mod clients;
mod counts;
mod picture;
mod report;
mod rounds;
mod rows;
mod servers;
mod singles;

use std::path::PathBuf;
use std::process::ExitCode;

pub type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// What the arguments say.
pub struct Options {
    /// Where the programs are.
    pub bin: PathBuf,
    pub out: PathBuf,
    pub quick: bool,
    /// The lane whose figures stand beside the targets; none: `wire` if the library has it.
    pub lane: Option<String>,
    pub rounds: usize,
    pub seconds: f64,
}

fn main() -> ExitCode {
    child::die_tidily();
    match options().and_then(|options| run(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("harness: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Fallible<Options> {
    let mut args = std::env::args().skip(1);
    let (Some(bin), Some(out)) = (args.next(), args.next()) else {
        return Err("usage: harness BIN OUT [--quick] [--lane hyper|wire] [--rounds N] [--seconds S]".into());
    };
    let mut options =
        Options { bin: bin.into(), out: out.into(), quick: false, lane: None, rounds: 12, seconds: 1.2 };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--quick" => {
                options.quick = true;
                (options.rounds, options.seconds) = (3, 0.4);
            }
            "--lane" => options.lane = Some(value()?),
            "--rounds" => options.rounds = value()?.parse()?,
            "--seconds" => options.seconds = value()?.parse()?,
            _ => return Err(format!("unknown argument {arg}").into()),
        }
    }
    Ok(options)
}

/// Whether every figure can be relied on.
fn run(options: &Options) -> Fallible<bool> {
    let machine = report::Machine::this();
    println!("{machine}");
    if !machine.two_cores {
        println!("One core: servers and clients share it, which flatters nobody and blurs everything.");
    }
    let lanes = clients::lanes(options)?;
    let lane = match &options.lane {
        Some(lane) if lanes.contains(&lane.as_str()) => lane.clone(),
        Some(lane) => return Err(format!("this library has no http.lane = {lane}").into()),
        None => (*lanes.last().ok_or("this library has no lane")?).to_owned(),
    };
    let build = if clients::plain(options).is_some() { "make optimised" } else { "cargo build --release" };
    println!("the library of {build}, lanes {}; beside the targets stands {lane}\n", lanes.join(", "));

    let small = {
        let mut server = servers::Small::start(options, "plain")?;
        let clients = clients::for_small(options, &lanes, &server);
        rounds::run("small server", options, &mut server, &clients)?
    };
    let nginx = match servers::Nginx::start() {
        Ok(mut server) => {
            let clients = clients::for_nginx(options, &lanes, &server);
            Some(rounds::run("nginx", options, &mut server, &clients)?)
        }
        Err(error) => {
            println!("nginx: not measured: {error}");
            None
        }
    };
    let counted = counts::take(options, &lane)?;
    let singles = singles::take(options, &lane)?;

    let groups: Vec<rounds::Group> = std::iter::once(small).chain(nginx).collect();
    let rows = rows::of(&lane, &groups, &counted, &singles);
    let result =
        report::Report { machine, build, quick: options.quick, seconds: options.seconds, lane, groups, rows };
    result.print();
    std::fs::create_dir_all(&options.out)?;
    std::fs::write(options.out.join("performance.json"), serde_json::to_string_pretty(&result)? + "\n")?;
    picture::draw(&result, &options.out.join("performance.svg"))?;
    println!("\n{0}/performance.json and {0}/performance.svg have been written.", options.out.display());
    Ok(result.reliable())
}
