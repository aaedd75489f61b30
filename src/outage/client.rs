//! Who a client is, where what one client does counts as one: for the breakers, for `fail_open = corroborated` and for
//! `limit.per_ip`. A port says nothing about it. Its address is read when it is hashed: most clients nobody asks who they are.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Client<'a> {
    /// By its address, as the host wrote it.
    At(&'a [u8]),
    /// In the place of an address, where the host gives none.
    Session(&'a [u8]),
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Identity<'a> {
    /// Also as IPv6 writes it, and as NAT64 does (RFC 6052).
    V4([u8; 4]),
    /// The first 64 bits of an IPv6 address: one subscriber has all that begin with them.
    V6([u16; 4]),
    /// What is no address, by its bytes.
    Other(&'a [u8]),
    Session(&'a [u8]),
}

impl<'a> Client<'a> {
    fn identity(self) -> Identity<'a> {
        let ip = match self {
            Self::At(ip) => ip,
            Self::Session(id) => return Identity::Session(id),
        };
        let text = str::from_utf8(ip).unwrap_or_default();
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        // `fe80::1%eth0`
        let bare = bare.split('%').next().unwrap_or_default();
        let with_port = || text.parse::<SocketAddr>().map(|address| address.ip());
        match bare.parse::<IpAddr>().or_else(|_| with_port()).map(canonical) {
            Ok(IpAddr::V4(address)) => Identity::V4(address.octets()),
            Ok(IpAddr::V6(address)) => {
                let [a, b, c, d, ..] = address.segments();
                Identity::V6([a, b, c, d])
            }
            Err(_) => Identity::Other(ip),
        }
    }
}

impl Hash for Client<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

/// The IPv4 address in an IPv6 one that stands for it: `::ffff:0:0/96`, `64:ff9b::/96`.
fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => match v6.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
                let [.., a, b, c, d] = v6.octets();
                IpAddr::from([a, b, c, d])
            }
            _ => address.to_canonical(),
        },
        IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_one_address() {
        for (one, other, expected) in [
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.1:8080", true),
            ("192.0.2.1", "64:ff9b::192.0.2.1", true),
            ("64:ff9b::c000:201", "[::ffff:192.0.2.1]:80", true),
            ("64:ff9b::192.0.2.1", "64:ff9b::192.0.2.2", false),
            ("64:ff9b::192.0.2.1", "64:ff9b:1::192.0.2.1", false),
            ("64:ff9b:0:0:1::1", "64:ff9b:0:0:2::1", true),
            ("192.0.2.1:1", "192.0.2.1:2", true),
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            ("2001:DB8:1:2:0:0:0:1", "[2001:db8:1:2::1]:443", true),
            ("[2001:db8:1:2::1]", "2001:db8:1:2::1", true),
            ("fe80::1%eth0", "fe80::2%eth1", true),
            ("somewhere", "elsewhere", false),
            ("", "somewhere", false),
        ] {
            let [one, other] = [one, other].map(|ip| Client::At(ip.as_bytes()).identity());
            assert_eq!(one == other, expected, "{one:?} {other:?}");
        }
    }
}
