//! From the command line to a [`Config`], and from its errors to the operator.

use std::io::Write as _;
use std::sync::Arc;

use alta_auth::{Config, ConfigError, Log, LogLevel, StartError};

use crate::args::EngineArgs;
use crate::exit;

/// The configuration that the options describe, checked as a whole. The file comes first, `--backend` next,
/// `--set` last. No client depends on what the command decides, so `default_action` is deny unless the operator
/// says more. What is wrong has been said when this fails.
pub(crate) fn build(args: &EngineArgs) -> Result<Config, u8> {
    let mut config = Config::new();
    fill(&mut config, args).and_then(|()| config.validate().map_err(|error| error.to_string())).map_err(
        |why| {
            complain(&why);
            exit::USAGE
        },
    )?;
    config.set_log(Arc::new(StandardError));
    Ok(config)
}

fn fill(config: &mut Config, args: &EngineArgs) -> Result<(), String> {
    let text = |error: ConfigError| error.to_string();
    config.set("default_action", "deny").map_err(text)?;
    if let Some(path) = &args.config {
        config.load(path).map_err(text)?;
    }
    if let Some(url) = &args.backend {
        config.set("backend.url", url).map_err(text)?;
    }
    for pair in &args.set {
        // Not repeated, nor more of a key than may be one: who forgets the `=` may have written a secret.
        let (key, value) = pair.split_once('=').ok_or("--set: write KEY=VALUE")?;
        config.set(key.trim(), value.trim()).map_err(text)?;
    }
    Ok(())
}

/// Says what is wrong; the exit status that goes with it.
pub(crate) fn report_start(error: &StartError) -> u8 {
    complain(&error);
    match error {
        StartError::Config(_) => exit::USAGE,
        StartError::System(_) | StartError::Closed => exit::SYSTEM,
    }
}

/// One line on standard error. A closed one is no reason to fail.
pub(crate) fn complain(what: &dyn std::fmt::Display) {
    // One write: lines of several processes do not mix.
    let _ = std::io::stderr().write_all(format!("alta-auth: {what}\n").as_bytes());
}

/// The engine's log.
struct StandardError;

impl Log for StandardError {
    fn log(&self, _level: LogLevel, message: &str) {
        complain(&message);
    }
}
