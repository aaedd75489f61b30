//! The known key that an unknown one was probably meant to be.

use super::table::{KEYS, Key};

/// None where nothing is near enough to be more than a guess.
pub(super) fn nearest(written: &str) -> Option<String> {
    if written.len() > 64 {
        return None;
    }
    let lower = written.to_ascii_lowercase();
    if let Some(key) =
        KEYS.iter().find(|key| key.name.rsplit_once('.').is_some_and(|(_, last)| last == lower))
    {
        return Some(key.name.to_owned());
    }
    // Of `param.NAME` only `param` can be misspelt.
    let candidate = |key: &Key| {
        let (typed, meant, whole) = match (key.prefix(), lower.split_once('.')) {
            (Some(prefix), Some((group, _))) => {
                (group, prefix.trim_end_matches('.'), format!("{prefix}{}", &written[group.len() + 1..]))
            }
            _ => (lower.as_str(), key.name, key.name.to_owned()),
        };
        let distance = edit_distance(typed, meant);
        // A third of the word mistaken is still that word; more is another one.
        (distance <= 1.max(meant.len() / 3)).then_some((distance, whole))
    };
    KEYS.iter().filter_map(candidate).min_by_key(|(distance, _)| *distance).map(|(_, whole)| whole)
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                let swapped: &Vec<usize> = &before;
                row[j] = row[j].min(swapped[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_named() {
        for (written, expected) in [
            ("time_out", "timeout"),
            ("Timeout", "timeout"),
            ("tiemout", "timeout"),
            ("backend_url", "backend.url"),
            ("url", "backend.url"),
            ("max_connections", "pool.max_connections"),
            ("pool.max_conections", "pool.max_connections"),
            ("default-action", "default_action"),
            ("default.action", "default_action"),
            ("headers.X-Api-Key", "header.X-Api-Key"),
            ("Header.X", "header.X"),
            ("params.ip", "param.ip"),
            ("tls.cafile", "tls.ca_file"),
            ("scpoe", "scope"),
        ] {
            assert_eq!(nearest(written).as_deref(), Some(expected), "{written}");
        }
        for written in ["", "x", "cache.size", "retry.attempts", &"timeout".repeat(10)] {
            assert_eq!(nearest(written), None, "{written}");
        }
    }

    #[test]
    fn distances_are_those_of_the_definition() {
        for (a, b, distance) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("ab", "ba", 1),
            ("abcd", "acbd", 1),
        ] {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
        }
    }
}
