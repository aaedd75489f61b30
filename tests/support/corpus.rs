//! What the two corpora of replies have in common: lines of four columns, and bytes and marks in the last.
//! `tests/corpus/*/README.md` say what they mean.

use std::path::Path;

use alta_auth::{Cause, Verdict};

/// One case.
#[derive(Clone)]
pub(crate) struct Line {
    /// File and line, for texts.
    pub(crate) at: String,
    pub(crate) verdict: Verdict,
    /// Why the backend did not decide; `None`: it did.
    pub(crate) cause: Cause,
    /// The peer said that it had not done what it was asked: it is asked once more.
    pub(crate) again: bool,
    /// Whether the connection is kept; `None`: either.
    pub(crate) kept: Option<bool>,
    pub(crate) remembered: bool,
    pub(crate) reply: Vec<Part>,
}

#[derive(Clone, Debug)]
pub(crate) enum Part {
    Bytes(Vec<u8>),
    /// What stands between `\[` and `]`.
    Mark(String),
}

/// Every case of the files in `tests/corpus/FOLDER`.
pub(crate) fn corpus(folder: &str) -> Vec<Line> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(folder);
    let mut files: Vec<_> = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "txt"))
        .collect();
    files.sort();
    let mut lines = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy();
        for (number, line) in text.lines().enumerate() {
            if !line.is_empty() && !line.starts_with('#') {
                lines.push(Line::parse(format!("{name}:{}: {line:.120}", number + 1), line));
            }
        }
    }
    lines
}

impl Line {
    fn parse(at: String, line: &str) -> Self {
        let mut rest = line;
        let mut word = || {
            let (word, after) = rest.split_once(' ').unwrap_or_else(|| panic!("{at}: four columns"));
            rest = after.trim_start_matches(' ');
            word
        };
        let verdict = word();
        let (name, again) = verdict.strip_suffix("+1").map_or((verdict, false), |name| (name, true));
        let (verdict, cause) = match name {
            "allow" => (Verdict::Allow, Cause::None),
            "deny" => (Verdict::Deny, Cause::None),
            "PROTOCOL" => (Verdict::Deny, Cause::Protocol),
            "RESET" => (Verdict::Deny, Cause::Reset),
            "TIMEOUT" => (Verdict::Deny, Cause::Timeout),
            "CONNECT" => (Verdict::Deny, Cause::Connect),
            _ => panic!("{at}: no verdict {name}"),
        };
        let kept = match word() {
            "kept" => Some(true),
            "closed" => Some(false),
            "either" => None,
            other => panic!("{at}: no fate of a connection: {other}"),
        };
        let remembered = match word() {
            "remembered" => true,
            "forgotten" => false,
            other => panic!("{at}: not about memory: {other}"),
        };
        let reply = parts(rest).unwrap_or_else(|what| panic!("{at}: {what}"));
        Self { at, verdict, cause, again, kept, remembered, reply }
    }

    /// Whether the reply has this mark.
    pub(crate) fn has(&self, mark: &str) -> bool {
        self.reply.iter().any(|part| matches!(part, Part::Mark(other) if other == mark))
    }
}

/// What a text says, with its escapes taken out; two neighbours are never both bytes.
pub(crate) fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    read(text, None, &mut parts)?;
    Ok(parts)
}

/// Reads up to `end`; what follows it is left.
fn read<'a>(mut text: &'a str, end: Option<char>, parts: &mut Vec<Part>) -> Result<&'a str, String> {
    loop {
        let mut letters = text.chars();
        let Some(letter) = letters.next() else {
            return if end.is_none() { Ok(text) } else { Err("a brace is not closed".to_owned()) };
        };
        text = letters.as_str();
        if Some(letter) == end {
            return Ok(text);
        }
        if letter != '\\' {
            push(parts, letter.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let escaped = letters.next().ok_or("a backslash at the end")?;
        text = letters.as_str();
        match escaped {
            'r' => push(parts, b"\r"),
            'n' => push(parts, b"\n"),
            't' => push(parts, b"\t"),
            '0' => push(parts, b"\0"),
            '\\' => push(parts, b"\\"),
            'x' => {
                let (digits, rest) = text.split_at_checked(2).ok_or("\\x and two digits")?;
                push(parts, &[u8::from_str_radix(digits, 16).map_err(|error| error.to_string())?]);
                text = rest;
            }
            '{' => {
                let (count, rest) = text.split_once('*').ok_or("\\{ and how often")?;
                let count = count.parse().map_err(|_| format!("not a number: {count}"))?;
                let mut inner = Vec::new();
                text = read(rest, Some('}'), &mut inner)?;
                if let [Part::Bytes(bytes)] = &inner[..] {
                    push(parts, &bytes.repeat(count));
                } else {
                    for part in std::iter::repeat_n(inner, count).flatten() {
                        match part {
                            Part::Bytes(bytes) => push(parts, &bytes),
                            mark @ Part::Mark(_) => parts.push(mark),
                        }
                    }
                }
            }
            '[' => {
                let (mark, rest) = text.split_once(']').ok_or("\\[ without an end")?;
                parts.push(Part::Mark(mark.to_owned()));
                text = rest;
            }
            other => return Err(format!("no escape: \\{other}")),
        }
    }
}

fn push(parts: &mut Vec<Part>, bytes: &[u8]) {
    match parts.last_mut() {
        Some(Part::Bytes(last)) => last.extend_from_slice(bytes),
        _ => parts.push(Part::Bytes(bytes.to_vec())),
    }
}
