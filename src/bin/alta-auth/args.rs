//! The command line. What a value means is decided where it is used; here is only its shape.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::human;

/// Asks an HTTP authorization backend "may this client watch?", once, in batches, or as the backend itself.
#[derive(Debug, Parser)]
#[command(name = "alta-auth", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask about one client URL and show everything that happens
    #[command(after_help = CHECK_EXIT)]
    Check(CheckArgs),
    /// Ask about every line of a file and print the decisions as JSON lines
    #[command(after_help = VERIFY_HELP)]
    Verify(VerifyArgs),
    /// Be a backend: the reference rule, or a stand-in for Ministra or Smarty
    #[command(after_help = BACKEND_HELP)]
    Backend(BackendArgs),
    /// 100,000 checks against an embedded backend, an outage and the recovery; under half a minute
    Demo,
    /// Print every configuration key with its type, default and meaning
    Config(ConfigArgs),
}

const CHECK_EXIT: &str = "\
The request and the reply are shown as they were on the wire. Every query value, every header that is not
one of the protocol's own, and what of them comes back in the reply, is shown as `…` unless --show-secrets.

Others see the command line (ps, the shell's history). No secret has to stand on it: `-` in the place of the URL, a
file's content as the value of a header or parameter (--set header.X-Api-Key=@/path), and --config for all the rest.

Exit status: 0 allow; 1 deny; 2 undetermined, the default action decided (deny where none is configured),
or --probe proved nothing; 3 --probe found a backend that allows without a valid token; 64 usage or configuration;
71 system; 74 standard input cannot be read.";

const VERIFY_HELP: &str = r#"Input, one check a line, at most 64 KiB each; blank lines are skipped:
  {"session_id":"s1","ip":"192.0.2.7","url":"https://live.example.com/ch/index.m3u8?token=123"}
  {"session_id":"s1","path":"/ch/index.m3u8","query":"token=123","origin":"https://live.example.com",
   "user_agent":"VLC/3.0","scope":"ch"}
  https://live.example.com/ch/index.m3u8?token=123
JSON is UTF-8: a URL in other bytes can only be given as a bare URL, a user agent by --user-agent; hosts pass any.
A bare URL gets the session id `line-N` (equal lines are then different sessions) unless --session is given.
--session, --ip, --user-agent, --origin and --scope stand in for what a line does not say.

A server's configuration holds here too, but for overload: a line that finds no room waits. With limit.per_ip all lines
without an ip are one client, and what is beyond its rate is denied.

Output, one JSON object a line: line, verdict, origin, cause, http_status, coalesced, latency_us, and where
present ttl_ms, user_id, max_sessions, unique, location, and detail unless the backend allowed; or line and error.
What user_id and location repeat of the line's query values is shown as `…` unless --show-secrets.

SIGINT and SIGTERM finish what is in flight and name the line to go on from (--from-line); a second one ends
at once.

Exit status: 0 every line was decided by the backend; 1 some lines are bad (also when some are undetermined);
2 some were decided by the default action or, with last_known, by what the backend had said before;
64 usage or configuration; 66 no such input; 71 system; 74 the input broke off; 130 interrupted;
141 nobody reads the output any more."#;

const BACKEND_HELP: &str = "\
Rules:
  custom      200 if the query's last `token` is `123`, else 403, whatever the path. PHP's loose comparison
              (0123, 1.23e2, …) is not imitated.
  ministra    /stalker_portal/server/api/chk_flussonic_tmp_link.php; tokens live 5 s from their creation
  smarty      /tvmiddleware/api/streamservice/token/check/; an error is 403 with JSON
  smarty-200  the same; an error is 200 with JSON

Besides the rule:
  GET /_alta/stats    counts as JSON: requests, connections, allowed, denied, failed (itself not counted)
  GET /_alta/create   ministra, smarty: makes a token and returns it; ?token= (else random), &user=, &ip=,
                      &name=, &lifetime=SECONDS

A failure (--fail) closes the connection in the middle of the status line, so that no verdict can be read.
Standard output begins with `listening on http://ADDRESS:PORT`; one line a request goes to standard error.
SIGINT and SIGTERM stop it with status 0.";

/// Which backend, and how it is asked.
#[derive(Debug, Args)]
#[expect(clippy::doc_markdown, reason = "these are the texts of --help, not Markdown")]
pub(crate) struct EngineArgs {
    /// The backend's URL, e.g. http://127.0.0.1:6000/auth (the key backend.url)
    #[arg(long, value_name = "URL")]
    pub(crate) backend: Option<String>,
    /// Configuration as TOML; see `alta-auth config`
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) config: Option<PathBuf>,
    /// One configuration key; comes after --config and --backend, may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

/// What is said about the client besides its URL. Any bytes.
#[derive(Debug, Args)]
#[expect(clippy::doc_markdown, reason = "these are the texts of --help, not Markdown")]
pub(crate) struct ClientArgs {
    /// Session id
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<OsString>,
    /// The client's address
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Option<OsString>,
    /// The client's User-Agent
    #[arg(long, value_name = "TEXT")]
    pub(crate) user_agent: Option<OsString>,
    /// scheme://host[:port], instead of the URL's
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) origin: Option<OsString>,
    /// What the decision covers, e.g. a channel
    #[arg(long, value_name = "NAME")]
    pub(crate) scope: Option<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The URL the client asked the media server for; `-`: it is the first line of standard input
    #[arg(value_name = "URL")]
    pub(crate) url: OsString,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Show tokens and header values as they are
    #[arg(long)]
    pub(crate) show_secrets: bool,
    /// Also say which rules led to the decision: endpoints, key, verdict, reuse, each step's time
    #[arg(long)]
    pub(crate) explain: bool,
    /// Ask three times more, without a valid token, and say so when the backend allows
    #[arg(long)]
    pub(crate) probe: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Lines to check; `-` is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print decisions in the order of the input instead of the order of completion
    #[arg(long)]
    pub(crate) ordered: bool,
    /// How many checks may be under way (with --ordered: read and not yet printed) at once
    #[arg(long, value_name = "N", default_value = "4096", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) window: u32,
    /// Skip what comes before this line
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) from_line: u64,
    /// Show query values where locations and user ids repeat them
    #[arg(long)]
    pub(crate) show_secrets: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RuleName {
    Custom,
    Ministra,
    Smarty,
    #[value(name = "smarty-200")]
    Smarty200,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Framing {
    /// Content-Length (uvicorn, hypercorn, node)
    Length,
    /// Transfer-Encoding: chunked, also for an empty body (nginx + php-fpm, gunicorn)
    Chunked,
    /// Neither; the body ends with the connection (php -S)
    Close,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of a command line")]
#[expect(clippy::doc_markdown, reason = "these are the texts of --help, not Markdown")]
pub(crate) struct BackendArgs {
    /// The rule to keep
    #[arg(long, value_enum, default_value = "custom")]
    pub(crate) rule: RuleName,
    /// ADDRESS:PORT (port 0: any free one) or unix:/path/to.sock
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:6000")]
    pub(crate) listen: String,
    /// Wait this long before each answer: 20ms, 1.5s
    #[arg(long, value_name = "TIME", value_parser = human::parse_duration)]
    pub(crate) delay: Option<Duration>,
    /// This share of the requests gets a cut connection instead of an answer: 5%
    #[arg(long, value_name = "PERCENT", value_parser = human::parse_percent, default_value = "0%")]
    pub(crate) fail: f64,
    /// Close the connection after each answer, and say so
    #[arg(long)]
    pub(crate) close: bool,
    /// How answers are framed
    #[arg(long, value_enum, default_value = "length")]
    pub(crate) framing: Framing,
    /// Close connections that are idle this long (gunicorn 2s, uvicorn 5s)
    #[arg(long, value_name = "TIME", value_parser = human::parse_duration)]
    pub(crate) idle: Option<Duration>,
    /// Send no reason phrase (hypercorn)
    #[arg(long)]
    pub(crate) no_reason: bool,
    /// Log nothing, and print no summary at the end
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Log tokens as they are
    #[arg(long)]
    pub(crate) show_secrets: bool,
    /// Print what this rule does, and whether that was measured, documented or assumed; then end
    #[arg(long)]
    pub(crate) explain: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// As the README's table
    #[arg(long)]
    pub(crate) markdown: bool,
}
