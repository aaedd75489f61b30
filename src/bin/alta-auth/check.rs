//! `alta-auth check`: one check, shown as it happens on the wire, then the decision in plain words.
//!
//! It answers what an operator asks when a stream does not start: is the connection refused, does the
//! response hang, or did the backend say no?

mod explain;
mod lax;
mod show;
mod words;

use std::io::{self, BufRead, Write as _};
use std::os::unix::ffi::OsStrExt as _;

use alta_auth::{Origin, ProbeReport};

use crate::args::CheckArgs;
use crate::client::Client;
use crate::client_url::ClientUrl;
use crate::verify::MAX_LINE;
use crate::{config, exit, redact};

/// `alta-auth check`.
pub(crate) fn run(args: &CheckArgs) -> u8 {
    let mut client = Client::of_args(&args.client);
    let url = match args.url.as_bytes() {
        b"-" => match first_line(io::stdin().lock()) {
            Ok(url) => url,
            Err(status) => return status,
        },
        url => url.to_vec(),
    };
    match ClientUrl::parse(&url) {
        Ok(url) => client.set_url(&url),
        Err(why) => {
            config::complain(&format_args!("the client's URL: {why}"));
            return exit::USAGE;
        }
    }
    if args.client.session.is_none() {
        client.session_id = b"check".to_vec();
    }
    let config = match config::build(&args.engine) {
        Ok(config) => config,
        Err(status) => return status,
    };
    // Told before it is asked: the answer may take the whole timeout.
    print(&format!("* Check: {}\n", question(&client, args.show_secrets)));
    let asked = match alta_auth::probe(&config, &client.check()) {
        Ok(asked) => asked,
        Err(error) => return config::report_start(&error),
    };
    let status = match asked {
        Ok(report) => {
            print(&show::report(&report, &client, args.show_secrets, args.explain));
            status_of(&report)
        }
        Err(error) => {
            print(&format!("* DENY: the backend is not asked: {error}\n"));
            return exit::DENY;
        }
    };
    if !args.probe {
        return status;
    }
    match lax::probe(&config, &client) {
        Ok(lax::Finding::None) => status,
        Ok(lax::Finding::Unknown) => exit::UNDETERMINED,
        Ok(lax::Finding::Lax) => exit::TOO_LAX,
        Err(error) => config::report_start(&error),
    }
}

/// Without its end. What is wrong has been said when this fails.
fn first_line(input: impl BufRead) -> Result<Vec<u8>, u8> {
    let mut line = Vec::new();
    if let Err(error) = input.take(MAX_LINE as u64 + 3).read_until(b'\n', &mut line) {
        config::complain(&format_args!("the client's URL cannot be read: {error}"));
        return Err(exit::IO);
    }
    let end = line.strip_suffix(b"\n").map_or(&line[..], |line| line.strip_suffix(b"\r").unwrap_or(line));
    line.truncate(end.len());
    if line.len() > MAX_LINE {
        config::complain(&format_args!("the client's URL: longer than {MAX_LINE} bytes"));
        return Err(exit::USAGE);
    }
    Ok(line.trim_ascii().to_vec())
}

fn status_of(report: &ProbeReport) -> u8 {
    match report.decision.origin {
        Origin::Default => exit::UNDETERMINED,
        _ if report.decision.allows() => exit::SUCCESS,
        _ => exit::DENY,
    }
}

fn question(client: &Client, show_secrets: bool) -> String {
    let mut text = redact::printable(&client.origin) + &redact::printable(&client.path);
    if !client.query.is_empty() {
        text.push('?');
        let query = if show_secrets { client.query.clone() } else { redact::query(&client.query) };
        text.push_str(&redact::printable(&query));
    }
    for (name, value) in [("session", &client.session_id), ("ip", &client.ip), ("scope", &client.scope)] {
        if !value.is_empty() {
            text.extend([", ", name, " ", &redact::printable(value)]);
        }
    }
    text
}

/// A reader that has gone away wants no more, and no complaint.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
