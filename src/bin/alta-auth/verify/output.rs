//! Decisions as JSON lines, in the order of completion or of the input. In the order of the input each line
//! waits for those before it; what waits counts against the window, so that it is bounded too.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};

use alta_auth::{Cause, Decision, Origin};
use serde_json::Value;

use crate::redact::{self, Secrets};

pub(crate) struct Output<W: Write> {
    out: BufWriter<W>,
    show_secrets: bool,
    /// The queries of the lines under way: what of them a backend repeats is not shown.
    queries: HashMap<u64, Vec<u8>>,
    order: Option<Order>,
}

/// Lines in the input's order, from the first that is not written.
#[derive(Default)]
struct Order {
    lines: VecDeque<(u64, Option<String>)>,
    /// How many of them are decided.
    ready: usize,
}

impl<W: Write> Output<W> {
    pub(crate) fn new(out: W, ordered: bool, show_secrets: bool) -> Self {
        Self {
            out: BufWriter::with_capacity(64 * 1024, out),
            show_secrets,
            queries: HashMap::new(),
            order: ordered.then(Order::default),
        }
    }

    /// `line` will get a decision or an error. Called in the order of the input.
    pub(crate) fn expect(&mut self, line: u64) {
        if let Some(order) = &mut self.order {
            order.lines.push_back((line, None));
        }
    }

    /// Decided lines that wait for one before them.
    pub(crate) fn held(&self) -> usize {
        self.order.as_ref().map_or(0, |order| order.ready)
    }

    /// `line` is under way, with this query.
    pub(crate) fn asked(&mut self, line: u64, query: Vec<u8>) {
        if !self.show_secrets {
            self.queries.insert(line, query);
        }
    }

    pub(crate) fn decision(&mut self, line: u64, decision: &Decision) -> io::Result<()> {
        let query = self.queries.remove(&line).unwrap_or_default();
        let text = json(line, decision, (!self.show_secrets).then_some(&query));
        self.write(line, text)
    }

    pub(crate) fn error(&mut self, line: u64, why: &str) -> io::Result<()> {
        self.write(line, format!("{{\"line\":{line},\"error\":{}}}\n", quoted(why)))
    }

    fn write(&mut self, line: u64, text: String) -> io::Result<()> {
        let Some(order) = &mut self.order else { return self.out.write_all(text.as_bytes()) };
        let index = order.lines.binary_search_by_key(&line, |(line, _)| *line);
        order.lines[index.expect("every line was expected, in order, and is written once")].1 = Some(text);
        order.ready += 1;
        while let Some((_, Some(text))) = order.lines.front() {
            self.out.write_all(text.as_bytes())?;
            order.lines.pop_front();
            order.ready -= 1;
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Everything is decided: nothing can be waiting.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        debug_assert_eq!(self.held(), 0);
        self.out.flush()
    }
}

/// `hidden`: the query whose values are not shown where the backend repeats them.
fn json(line: u64, decision: &Decision, hidden: Option<&Vec<u8>>) -> String {
    let (user, location) = (decision.user_id().as_bytes(), decision.location().as_bytes());
    let (user, location) = match hidden {
        _ if user.is_empty() && location.is_empty() => Default::default(),
        Some(query) => {
            let mut secrets = Secrets::default();
            secrets.add_query(query);
            let shown = redact::target(location);
            // Where a client is sent to log in says nothing of it.
            let authority = redact::authority(&shown);
            let location = [authority, &secrets.masked(&shown[authority.len()..])[..]].concat();
            match redact::names_user(query, user) {
                true => (user.to_vec(), location),
                false => (secrets.masked(user), location),
            }
        }
        None => (user.to_vec(), location.to_vec()),
    };
    let mut text = format!(
        "{{\"line\":{line},\"verdict\":\"{}\",\"origin\":\"{}\",\"cause\":\"{}\"",
        decision.verdict,
        decision.origin.name(),
        decision.cause.name()
    );
    if let Some(status) = decision.http_status {
        let _ = write!(text, ",\"http_status\":{status}");
    }
    let _ =
        write!(text, ",\"coalesced\":{},\"latency_us\":{}", decision.coalesced, decision.latency.as_micros());
    if !decision.ttl.is_zero() {
        let _ = write!(text, ",\"ttl_ms\":{}", decision.ttl.as_millis());
    }
    if !user.is_empty() {
        let _ = write!(text, ",\"user_id\":{}", quoted(&String::from_utf8_lossy(&user)));
    }
    if decision.max_sessions > 0 {
        let _ = write!(text, ",\"max_sessions\":{}", decision.max_sessions);
    }
    if decision.unique {
        text.push_str(",\"unique\":true");
    }
    if !location.is_empty() {
        let _ = write!(text, ",\"location\":{}", quoted(&redact::printable(&location)));
    }
    // Of a deny the status need not be the reason: `verdict.body`, `sessions.enforce`.
    if !decision.allows() || decision.origin == Origin::Default || decision.cause != Cause::None {
        let _ = write!(text, ",\"detail\":{}", quoted(decision.detail()));
    }
    text.push_str("}\n");
    text
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(output: &Output<Vec<u8>>) -> String {
        String::from_utf8([output.out.get_ref(), output.out.buffer()].concat()).unwrap()
    }

    #[test]
    fn errors_are_json_whatever_they_say() {
        let mut output = Output::new(Vec::new(), false, false);
        output.error(3, "a \"quote\"\n").unwrap();
        let line: Value = serde_json::from_str(&written(&output)).unwrap();
        assert_eq!(line, serde_json::json!({"line": 3, "error": "a \"quote\"\n"}));
    }

    #[test]
    fn in_order_a_line_waits_for_those_before_it() {
        let mut output = Output::new(Vec::new(), true, false);
        for line in [1, 2, 3] {
            output.expect(line);
        }
        output.error(1, "x").unwrap();
        output.error(3, "y").unwrap();
        assert_eq!(written(&output), "{\"line\":1,\"error\":\"x\"}\n");
        assert_eq!(output.held(), 1);
        output.error(2, "z").unwrap();
        assert!(written(&output).ends_with("\"z\"}\n{\"line\":3,\"error\":\"y\"}\n"));
        assert_eq!(output.held(), 0);
    }
}
