//! `alta-auth verify`: a batch of checks from a file or a pipe, decisions as JSON lines.
//!
//! A thread reads and parses; this one submits, collects and prints; the engine's threads decide. Memory is
//! bounded by the window, whatever the input's length: lines wait unread while the window is full.

mod input;
mod lines;
mod output;
mod tally;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::sync::Arc;
use std::time::Duration;

use alta_auth::{Completed, Decision, Engine, Receiver, SubmitError};
use crossbeam_channel as channel;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::args::VerifyArgs;
use crate::client::Client;
use crate::config::{self, complain};
use crate::{exit, human};
pub(crate) use lines::MAX_LINE;
use lines::{Chunk, Item};
use output::Output;
use tally::Tally;

/// `alta-auth verify`.
pub(crate) fn run(args: &VerifyArgs) -> u8 {
    let mut config = match config::build(&args.engine) {
        Ok(config) => config,
        Err(status) => return status,
    };
    // A line that finds no room waits here: what a server does then would decide it without its backend.
    config.set("overload", "refuse").expect("it is a word of this key");
    let (input, length): (Box<dyn Read + Send>, Option<u64>) = if args.file.as_os_str() == "-" {
        (Box::new(io::stdin()), None)
    } else {
        match File::open(&args.file) {
            Ok(file) => {
                let length = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|file| file.len());
                (Box::new(file), length)
            }
            Err(error) => {
                complain(&format_args!("{}: {error}", args.file.display()));
                return exit::NO_INPUT;
            }
        }
    };
    let engine = match Engine::new(&config) {
        Ok(engine) => engine,
        Err(error) => return config::report_start(&error),
    };
    let (interrupts, chunks) = match signals().and_then(|interrupts| {
        let chunks = lines::spawn(input, input::Parser::new(Client::of_args(&args.client)), args.from_line)?;
        Ok((interrupts, chunks))
    }) {
        Ok(channels) => channels,
        Err(error) => {
            complain(&format_args!("cannot start: {error}"));
            return exit::SYSTEM;
        }
    };
    let (decided_tx, decided) = channel::unbounded();
    let mut batch = Batch {
        engine: &engine,
        receiver: Arc::new(ToChannel(decided_tx)),
        waiting: VecDeque::new(),
        in_flight: 0,
        window: args.window as usize,
        next_line: args.from_line,
        output: Output::new(io::stdout(), args.ordered, args.show_secrets),
        tally: Tally::new(io::stderr().is_terminal() && !io::stdout().is_terminal(), length),
    };
    let end = batch.work(&chunks, &decided, &interrupts);
    // An input that could not be read at all has nothing to sum up.
    if !(matches!(end, End::Unreadable(_)) && batch.tally.is_empty()) {
        batch.tally.finish(&engine.stats());
    }
    let status = batch.status(end);
    engine.shutdown(Duration::ZERO);
    status
}

/// Why a batch ended.
enum End {
    Finished,
    Interrupted,
    Unreadable(io::Error),
    /// Nobody reads the output.
    Unwritable(io::Error),
    /// The engine closed under us.
    Closed,
}

struct Batch<'a> {
    engine: &'a Engine,
    receiver: Arc<dyn Receiver>,
    /// Read, not yet submitted.
    waiting: VecDeque<Item>,
    in_flight: usize,
    window: usize,
    /// Every line before it has been submitted or reported, or waits because the engine was full.
    next_line: u64,
    output: Output<io::Stdout>,
    tally: Tally,
}

type Decided = Vec<(usize, Decision)>;

impl Batch<'_> {
    fn work(
        &mut self,
        chunks: &channel::Receiver<Chunk>,
        decided: &channel::Receiver<Decided>,
        interrupts: &channel::Receiver<()>,
    ) -> End {
        let mut ending = None;
        loop {
            if let Err(error) = self.submit() {
                return error;
            }
            if self.in_flight == 0
                && self.waiting.is_empty()
                && let Some(end) = ending
            {
                return self.output.finish().map_or_else(End::Unwritable, |()| end);
            }
            // Nothing to do but wait: whoever reads the output gets what there is.
            if decided.is_empty()
                && let Err(error) = self.output.flush()
            {
                return End::Unwritable(error);
            }
            let wants_lines = ending.is_none() && self.waiting.is_empty();
            let lines = if wants_lines { chunks.clone() } else { channel::never() };
            // Full with nothing of ours in flight: the last delivery is still being counted.
            let retry = if self.in_flight == 0 && !self.waiting.is_empty() {
                channel::after(Duration::from_millis(1))
            } else {
                channel::never()
            };
            let written = channel::select! {
                recv(decided) -> batch => self.take(batch.unwrap_or_default()),
                recv(lines) -> chunk => {
                    match chunk {
                        Ok(chunk) => {
                            self.tally.read(chunk.position);
                            for item in chunk.items {
                                self.output.expect(item.line);
                                self.waiting.push_back(item);
                            }
                            if let Some(error) = chunk.error {
                                ending = Some(End::Unreadable(error));
                            }
                        }
                        Err(_) => ending = Some(End::Finished),
                    }
                    Ok(())
                }
                recv(interrupts) -> _ => {
                    // What the engine refused for now, while it took later lines, still has its turn.
                    self.waiting.retain(|item| item.line < self.next_line);
                    complain(&format_args!(
                        "finishing {}; interrupt again to end at once",
                        human::counted((self.in_flight + self.waiting.len()) as u64, "check")
                    ));
                    ending = Some(End::Interrupted);
                    Ok(())
                }
                recv(retry) -> _ => Ok(()),
            };
            if let Err(error) = written {
                return End::Unwritable(error);
            }
        }
    }

    /// Submits what waits, as far as the window and the engine allow.
    fn submit(&mut self) -> Result<(), End> {
        loop {
            let room = self.window.saturating_sub(self.in_flight + self.output.held());
            let good = self.waiting.iter().take(room).take_while(|item| item.client.is_ok()).count();
            if good > 0 {
                if !self.submit_first(good)? {
                    return Ok(());
                }
            } else if room > 0
                && let Some(Item { line, client: Err(why) }) = self.waiting.pop_front()
            {
                self.bad(line, &why).map_err(End::Unwritable)?;
            } else {
                return Ok(());
            }
        }
    }

    /// Submits the first `good` of what waits. False: the engine is full, and the rest waits again.
    fn submit_first(&mut self, good: usize) -> Result<bool, End> {
        let items: Vec<Item> = self.waiting.drain(..good).collect();
        let mut outcomes = Vec::with_capacity(good);
        let checks = items
            .iter()
            .filter_map(|item| item.client.as_ref().ok().map(|client| (client.check(), item.line as usize)));
        self.engine.submit_batch(checks, &self.receiver, |outcome| outcomes.push(outcome));
        let mut refused = Vec::new();
        for (item, outcome) in items.into_iter().zip(outcomes) {
            match outcome {
                Ok(_) => {
                    self.next_line = self.next_line.max(item.line + 1);
                    self.in_flight += 1;
                    if let Ok(client) = item.client {
                        self.output.asked(item.line, client.query);
                    }
                }
                Err(SubmitError::Full) => refused.push(item),
                Err(SubmitError::Closed) => return Err(End::Closed),
                Err(error) => self.bad(item.line, &error.to_string()).map_err(End::Unwritable)?,
            }
        }
        let accepted = refused.is_empty();
        for item in refused.into_iter().rev() {
            self.waiting.push_front(item);
        }
        Ok(accepted)
    }

    fn take(&mut self, decided: Decided) -> io::Result<()> {
        for (line, decision) in decided {
            self.in_flight -= 1;
            self.tally.decided(&decision);
            self.output.decision(line as u64, &decision)?;
        }
        self.tally.show();
        Ok(())
    }

    fn bad(&mut self, line: u64, why: &str) -> io::Result<()> {
        self.next_line = self.next_line.max(line + 1);
        self.tally.bad(line, why);
        self.output.error(line, why)
    }

    fn status(&self, end: End) -> u8 {
        match end {
            End::Finished if self.tally.bad_lines() > 0 => exit::FAILED,
            End::Finished if self.tally.undetermined() > 0 => exit::UNDETERMINED,
            End::Finished => exit::SUCCESS,
            End::Interrupted => {
                complain(&format_args!("stopped before line {}; go on with --from-line {0}", self.next_line));
                exit::INTERRUPTED
            }
            End::Unreadable(error) => {
                complain(&format_args!("cannot read on at line {}: {error}", self.next_line));
                exit::IO
            }
            End::Unwritable(error) if error.kind() == io::ErrorKind::BrokenPipe => exit::CLOSED_OUTPUT,
            End::Unwritable(error) => {
                complain(&format_args!("cannot write: {error}"));
                exit::IO
            }
            End::Closed => {
                complain(&"the engine has stopped");
                exit::SYSTEM
            }
        }
    }
}

/// Hands each turn's decisions to this command's thread. Unbounded as a channel, bounded by the window.
struct ToChannel(channel::Sender<Decided>);

impl Receiver for ToChannel {
    fn receive(&self, batch: &mut Vec<Completed>) {
        let decided = batch.drain(..).filter_map(|completed| {
            let line = completed.user_data();
            completed.take().map(|decision| (line, decision))
        });
        // Nobody collects any more: the command is ending.
        let _ = self.0.send(decided.collect());
    }
}

/// A word for the first SIGINT or SIGTERM; the second ends the process.
fn signals() -> io::Result<channel::Receiver<()>> {
    let (word, words) = channel::bounded(1);
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut signals = signals.forever();
        signals.next();
        let sent = word.send(());
        signals.next();
        // Held until here: a channel without sender would be ready for ever.
        drop((sent, word));
        std::process::exit(exit::INTERRUPTED.into());
    })?;
    Ok(words)
}
