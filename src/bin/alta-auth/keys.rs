//! `alta-auth config`: every key, from the table that the parser itself uses.

use std::fmt::Write as _;
use std::io::Write as _;

use alta_auth::Config;

use crate::args::ConfigArgs;
use crate::config::complain;
use crate::exit;

/// Prints the table.
pub(crate) fn run(args: &ConfigArgs) -> u8 {
    let text = if args.markdown { Config::readme_table() } else { plain() };
    let mut out = std::io::stdout();
    match out.write_all(text.trim_start().as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => exit::SUCCESS,
        // A reader that has gone away wants no more, and no complaint.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => exit::CLOSED_OUTPUT,
        Err(error) => {
            complain(&format_args!("cannot write: {error}"));
            exit::IO
        }
    }
}

fn plain() -> String {
    let mut text = String::new();
    let mut section = "";
    for key in Config::keys() {
        if key.section != section {
            section = key.section;
            let _ = writeln!(text, "\n# {section}");
        }
        let _ = match (key.required, key.default) {
            (true, _) => write!(text, "\n{} (required)", key.name),
            (false, "") => write!(text, "\n{}", key.name),
            (false, default) => write!(text, "\n{} = {default}", key.name),
        };
        let _ = writeln!(text, "    [{}]", [key.kind, &key.bounds].join(" ").trim());
        let _ = writeln!(text, "    {}", key.text.replace('`', ""));
    }
    let _ = writeln!(text, "\n# Presets: what backend.preset sets unless the key is set");
    for preset in Config::presets() {
        let _ = writeln!(text, "\n{}\n    {}", preset.name, preset.text.replace('`', ""));
        for (key, value) in preset.defaults {
            let _ = writeln!(text, "    {key} = {value}");
        }
    }
    text
}
