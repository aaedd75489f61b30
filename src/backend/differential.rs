//! The guard of protected names against the parsers that backends use: PHP's, Python's and Node's own. Of Rack and qs, which
//! are not there, our imitation of what they make of a name stands behind one of these.
//!
//! Each program reads all targets in one batch and says what it finds for the names that a backend would ask
//! for. That must be what it finds when the client sends nothing at all.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::RequestPlan;
use super::fixture::{check, settings, url};
use super::properties::{RULES, guarded_plan, hostile_query, target};
use crate::check::{Check, Question};

/// How many queries each program reads.
const QUERIES: usize = 4000;

/// What every program does: hexadecimal queries in, a line of `name=value` for each out, hexadecimal too.
/// Names are what a backend of that language asks for, in any case.
const PHP: &str = r#"
    $asked = ["ip", "api_key", "a_b", "token", "user", "sess"];
    while (($line = fgets(STDIN)) !== false) {
        parse_str(hex2bin(trim($line)), $found);
        foreach ($found as $name => $value) {
            if (in_array(strtolower($name), $asked)) {
                echo bin2hex($name), "=", bin2hex(json_encode($value, JSON_INVALID_UTF8_SUBSTITUTE)), " ";
            }
        }
        echo "\n";
    }
"#;

/// Cuts at `&` as today's `parse_qsl` does, or at `;` as well as older ones do; or names are what Ruby's Rack 2 makes
/// of them.
const PYTHON: &str = r#"
import re, sys
from urllib.parse import parse_qsl
asked = ["ip", "api.key", "a_b", "token", "user" if sys.argv[1] == "rack" else "user[id]", "sess"]
for line in sys.stdin:
    query = bytes.fromhex(line.strip()).decode("latin-1")
    if sys.argv[1] != "new":
        query = query.replace(";", "&")
    for name, value in parse_qsl(query, keep_blank_values=True, errors="ignore"):
        if sys.argv[1] == "rack":
            name = re.match(r"[\[\]]*([^\[\]]*)", name)[1]
        if name.strip().lower() in asked:
            print(name.encode().hex() + "=" + value.encode().hex(), end=" ")
    print()
"#;

/// `URLSearchParams`, or the older `querystring`; in both, bracketed names are also looked up by their base. Or the first
/// key that qs, Express 4's parser, makes of a name, without and with its dots.
const NODE: &str = r#"
        const [old, qs, dots] = ["old", "qs", "qs-dots"].map((way) => process.argv[1] === way);
    const asked = ["ip", dots ? "api" : "api.key", "a_b", "token", "user", "user[id]", "sess"];
    const key = (name) => {
        const bracketed = dots ? name.replace(/\.([^.[]+)/g, "[$1]") : name;
        const child = /\[([^[\]]*)]/.exec(bracketed);
        return child ? bracketed.slice(0, child.index) || child[1] : bracketed;
    };
    const querystring = require("querystring");
    const hex = (text) => Buffer.from(String(text)).toString("hex");
    let out = "";
    for (const line of require("fs").readFileSync(0, "latin1").split("\n").slice(0, -1)) {
        const query = Buffer.from(line, "hex").toString("latin1");
        const pairs = old
            ? Object.entries(querystring.parse(query)).flatMap(([name, value]) => [value].flat().map((one) => [name, one]))
            : [...new URLSearchParams(query)];
        for (const [name, value] of pairs) {
            const plain = (qs || dots ? key(name) : name).trim().toLowerCase();
            if (asked.includes(plain) || asked.includes(plain.split("[")[0])) {
                out += hex(name) + "=" + hex(value) + " ";
            }
        }
        out += "\n";
    }
    process.stdout.write(out);
"#;

#[test]
fn php_finds_the_operators_parameters_and_no_others() {
    compare("php", "php-cli", &["-n", "-r", PHP]);
}

#[test]
fn python_finds_the_operators_parameters_and_no_others() {
    compare("python3", "python3", &["-c", PYTHON, "new"]);
    compare("python3", "python3", &["-c", PYTHON, "old"]);
    compare("python3", "python3", &["-c", PYTHON, "rack"]);
}

#[test]
fn node_finds_the_operators_parameters_and_no_others() {
    compare("node", "nodejs", &["-e", NODE, "new"]);
    compare("node", "nodejs", &["-e", NODE, "old"]);
    compare("node", "nodejs", &["-e", NODE, "qs"]);
    compare("node", "nodejs", &["-e", NODE, "qs-dots"]);
}

fn compare(program: &str, package: &str, arguments: &[&str]) {
    let mut queries = vec![Vec::new()];
    let mut runner = TestRunner::deterministic();
    while queries.len() < QUERIES {
        queries.push(hostile_query().new_tree(&mut runner).expect("a query").current());
    }
    let questions: Vec<_> =
        queries.iter().filter_map(|query| Question::new(&Check { query, ..check() }, RULES).ok()).collect();
    let (guarded, open) = (guarded_plan(), RequestPlan::new(&url("/auth", None), &settings(&[], &[], &[])));
    let targets: Vec<_> = questions.iter().map(|question| target(&guarded, question)).collect();

    let found = run(program, package, arguments, &targets);
    assert_eq!(found.len(), targets.len(), "{program} did not read every query");
    assert_eq!(found[0].split_whitespace().count(), 5, "{program} finds the operator's five: {}", found[0]);
    for (found_here, target) in found.iter().zip(&targets) {
        assert_eq!(*found_here, found[0], "{program}: {}", target.escape_ascii());
    }

    // The same queries appended without the guard: most of them are attacks indeed.
    let appended = questions.iter().map(|question| {
        let client = target(&open, question);
        [&targets[0][..], b"&", client.strip_prefix(b"/auth?").unwrap_or_default()].concat()
    });
    let forged = run(program, package, arguments, &appended.collect::<Vec<_>>());
    let forged = forged.iter().filter(|found_here| **found_here != found[0]).count();
    assert!(forged > QUERIES / 8, "{program}: only {forged} queries would have changed anything");
    let passed = targets.iter().collect::<BTreeSet<_>>().len();
    assert!(
        passed > QUERIES / 8,
        "{program}: only {passed} different targets; the guard drops nearly everything"
    );
}

fn run(program: &str, package: &str, arguments: &[&str], targets: &[Vec<u8>]) -> Vec<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; this test needs it: apt-get install {package}"));
    let mut input = String::new();
    for target in targets {
        let query = target.iter().position(|&byte| byte == b'?').map_or(&[][..], |at| &target[at + 1..]);
        input.extend(query.iter().map(|byte| format!("{byte:02x}")));
        input.push('\n');
    }
    let mut stdin = child.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("the program ends");
    writer.join().expect("no panic").expect("the program reads its input");
    assert!(output.status.success(), "{program}: {}", output.status);
    String::from_utf8(output.stdout).expect("hexadecimal").lines().map(str::to_owned).collect()
}
