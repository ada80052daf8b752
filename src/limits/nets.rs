//! Peers, networks and addresses. `limits.exempt` and `limits.trusted_proxies` are lists of networks. Limits by address
//! count an IPv4 address whole, and an IPv6 address by its /64, because a household or a server gets a whole /64. All
//! peers of unix sockets count as one address.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The word for all peers of unix sockets, in lists and in the log.
const UNIX: &str = "unix";

/// The other end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// A peer with an IP address.
    Ip(IpAddr),
    /// A process on this machine, through a unix socket. It has no address.
    Unix,
}

impl From<IpAddr> for Peer {
    fn from(addr: IpAddr) -> Self {
        Self::Ip(addr)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => addr.to_canonical().fmt(f),
            Self::Unix => f.write_str(UNIX),
        }
    }
}

/// A network in CIDR notation, one address, or all peers of unix sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Net(Range);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Range {
    Ip { base: IpAddr, bits: u8 },
    Unix,
}

impl Net {
    /// Whether the peer is in the network. An IPv4 address that came as IPv6 (`::ffff:10.0.0.1`) is IPv4.
    pub(crate) fn contains(&self, peer: Peer) -> bool {
        let (base, bits, addr) = match (self.0, peer) {
            (Range::Unix, Peer::Unix) => return true,
            (Range::Ip { base, bits }, Peer::Ip(addr)) => (base, bits, addr),
            _ => return false,
        };
        let shared = match (base, addr.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(addr)) => (base.to_bits() ^ addr.to_bits()).leading_zeros(),
            (IpAddr::V6(base), IpAddr::V6(addr)) => (base.to_bits() ^ addr.to_bits()).leading_zeros(),
            _ => return false,
        };
        shared >= u32::from(bits)
    }
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == UNIX {
            return Ok(Self(Range::Unix));
        }
        let wrong = || format!("{text:?} is not a network: write 10.0.0.0/8, 2001:db8::/32, one address or \"unix\"");
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base, Some(bits)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| wrong())?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse().map_err(|_| wrong())?,
            Some(_) => return Err(wrong()),
        };
        if bits > most {
            return Err(wrong());
        }
        let tail_is_zero = match base {
            IpAddr::V4(base) => base.to_bits().checked_shl(bits.into()).unwrap_or(0) == 0,
            IpAddr::V6(base) => base.to_bits().checked_shl(bits.into()).unwrap_or(0) == 0,
        };
        if !tail_is_zero {
            return Err(format!("{text:?} is not a network: the bits after the first {bits} must be 0"));
        }
        Ok(Self(Range::Ip { base, bits }))
    }
}

impl TryFrom<String> for Net {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Net> for String {
    fn from(net: Net) -> Self {
        net.to_string()
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range::Ip { base, bits } = self.0 else { return f.write_str(UNIX) };
        let whole = if base.is_ipv4() { 32 } else { 128 };
        if bits == whole { write!(f, "{base}") } else { write!(f, "{base}/{bits}") }
    }
}

/// Whether the peer is in any of the networks.
pub fn any_contains(nets: &[Net], peer: Peer) -> bool {
    nets.iter().any(|net| net.contains(peer))
}

/// The address that limits count by, in 8 bytes: a whole IPv4 address, or the first 64 bits of an IPv6 address. The two
/// have no value in common except in ::/32, which is not routed. An IPv6 address that embeds an IPv4 address counts as
/// the latter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Address(u64);

impl Address {
    /// Stands for an exempt peer, which is not counted. No peer can have it: ff00::/8 is multicast.
    pub(crate) const NONE: Self = Self(u64::MAX);
    /// Stands for all peers of unix sockets. No other peer can have it.
    const UNIX: Self = Self(u64::MAX - 1);

    /// The address that this peer counts under.
    pub(crate) fn of(peer: Peer) -> Self {
        match peer {
            Peer::Unix => Self::UNIX,
            Peer::Ip(addr) => match addr.to_canonical() {
                IpAddr::V4(addr) => Self(addr.to_bits().into()),
                IpAddr::V6(addr) => Self(u64::try_from(addr.to_bits() >> 64).unwrap_or(u64::MAX)),
            },
        }
    }

    /// The address as a number, for a table.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::UNIX {
            return f.write_str(UNIX);
        }
        match u32::try_from(self.0) {
            Ok(bits) => Ipv4Addr::from_bits(bits).fmt(f),
            Err(_) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(self.0) << 64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Net {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> Peer {
        Peer::Ip(text.parse().unwrap())
    }

    #[test]
    fn a_network_has_its_addresses_and_no_others() {
        for (of, inside, outside) in [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.0"),
            ("127.0.0.0/8", "::ffff:127.0.0.9", "::1"),
            ("192.168.1.0/24", "192.168.1.255", "192.168.2.0"),
            ("1.2.3.4", "1.2.3.4", "1.2.3.5"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "::2"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "2001::1", "::ffff:1.2.3.4"),
        ] {
            assert!(net(of).contains(ip(inside)), "{of} {inside}");
            assert!(!net(of).contains(ip(outside)), "{of} {outside}");
            assert_eq!(net(&net(of).to_string()), net(of));
        }
    }

    #[test]
    fn peers_of_unix_sockets_are_in_no_network_but_their_own() {
        assert!(net("unix").contains(Peer::Unix) && !net("unix").contains(ip("127.0.0.1")));
        assert!(!net("0.0.0.0/0").contains(Peer::Unix) && !net("::/0").contains(Peer::Unix));
        assert_eq!(net("unix").to_string(), "unix");
        assert_eq!((Peer::Unix.to_string(), Address::of(Peer::Unix).to_string()), ("unix".into(), "unix".into()));
        assert_ne!(Address::of(Peer::Unix), Address::NONE);
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "a/8",
            "10.0.0.0/8/8",
            " ::1",
            "unix:",
            "Unix",
        ] {
            assert!(text.parse::<Net>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn addresses_are_whole_ipv4_addresses_and_half_ipv6_ones() {
        let same = |a: &str, b: &str| Address::of(ip(a)) == Address::of(ip(b));
        assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff::9") && !same("2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert!(same("::ffff:1.2.3.4", "1.2.3.4") && !same("1.2.3.4", "1.2.3.5"));
        assert_eq!(Address::of(ip("1.2.3.4")).to_string(), "1.2.3.4");
        assert_eq!(Address::of(ip("2001:db8:1:2:3::4")).to_string(), "2001:db8:1:2::/64");
        assert_ne!(Address::of(ip("255.255.255.255")), Address::NONE);
    }
}
