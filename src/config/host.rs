//! Host names and addresses, of a URL or of `tls.server_name`.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A host name or an IP literal (IPv6 without brackets), as far as it can be told without a resolver.
pub(super) fn check(host: &str) -> Result<(), String> {
    if host.contains(':') {
        return match host.parse::<Ipv6Addr>() {
            Ok(_) => Ok(()),
            Err(_) if host.contains('%') => {
                Err("has an IPv6 zone, which is not supported; remove it from %".into())
            }
            Err(_) => Err("has no valid IPv6 address for its host; write e.g. [2001:db8::1]".into()),
        };
    }
    if !host.is_ascii() {
        return Err("has a host name beyond ASCII; write its xn-- form".into());
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if name.len() > 253 || !name.split('.').all(fits) {
        return Err("has no valid host name; it is made of letters, digits, - and dots".into());
    }
    // Resolvers read `127.1` and `0177.0.0.1` as addresses that nobody meant.
    let last = name.rsplit('.').next().unwrap_or(name);
    if last.bytes().all(|byte| byte.is_ascii_digit()) && host.parse::<Ipv4Addr>().is_err() {
        return Err(
            "has a host that looks like an IPv4 address and is none; write four numbers up to 255".into()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn names_and_addresses_are_told_from_what_only_looks_like_them() {
        for good in
            ["a", "A-1.b_2.example", "example.", "127.0.0.1", "::1", "1.example", "xn--bcher-kva.example"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, expected) in [
            ("", "no valid host name"),
            (".", "no valid host name"),
            ("a..b", "no valid host name"),
            ("a b", "no valid host name"),
            ("a%2e", "no valid host name"),
            ("a\r\n", "no valid host name"),
            (&"a".repeat(64), "no valid host name"),
            (&"a.".repeat(128), "no valid host name"),
            ("bücher.example", "xn--"),
            ("127.0.0.256", "looks like an IPv4"),
            ("127.1", "looks like an IPv4"),
            ("0177.0.0.1", "looks like an IPv4"),
            ("2130706433", "looks like an IPv4"),
            ("fe80::1%eth0", "zone"),
            ("::g", "no valid IPv6"),
        ] {
            let error = check(bad).expect_err(bad);
            assert!(error.contains(expected), "{bad:?}: {error}");
        }
    }
}
