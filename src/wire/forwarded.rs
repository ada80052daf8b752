//! Where a request came from, as HTTP proxies say it: `X-Forwarded-For`, or `Forwarded` (RFC 7239). Each proxy appends
//! the address that it was asked from, so the list is read from its right end, through the proxies that are trusted,
//! to the first address that is none of them; what stands left of it anyone may have written.
//! Who is trusted is the caller's to say.

use core::net::{IpAddr, SocketAddr, SocketAddrV6};

use serde::{Deserialize, Serialize};

/// Which header is read. One only: a proxy that writes one passes the other on as the client sent it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`: what most proxies write.
    #[default]
    #[serde(rename = "x-forwarded-for")]
    XForwardedFor,
    /// The header `Forwarded` of RFC 7239.
    #[serde(rename = "forwarded")]
    Forwarded,
}

impl ForwardedHeader {
    /// The name of the header, in lower case.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }

    /// The rightmost address that isn't trusted, in the values of the header in the order they came. If all are
    /// trusted, the leftmost; if the first that matters isn't an address, the last trusted one before it. `None` if
    /// there is none at all: the peer speaks for itself.
    pub(crate) fn client<'a>(
        self,
        values: impl Iterator<Item = &'a [u8]>,
        is_trusted: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let values: Vec<&[u8]> = values.collect();
        let hops = values.iter().rev().flat_map(|value| split_unquoted(value, b',').into_iter().rev());
        let mut nearest = None;
        for hop in hops {
            let Some(addr) = self.node(hop) else { break };
            nearest = Some(addr);
            if !is_trusted(addr) {
                break;
            }
        }
        nearest
    }

    /// The address in one element.
    fn node(self, element: &[u8]) -> Option<IpAddr> {
        let node = match self {
            Self::XForwardedFor => element,
            Self::Forwarded => {
                let pairs = split_unquoted(element, b';');
                let is_for = |pair: &&[u8]| pair.get(..4).is_some_and(|name| name.eq_ignore_ascii_case(b"for="));
                &pairs.into_iter().map(<[u8]>::trim_ascii).find(is_for)?[4..]
            }
        };
        address(std::str::from_utf8(node).ok()?.trim_ascii())
    }
}

/// An address, in quotes or not, with a port or not (RFC 7239 §6).
fn address(text: &str) -> Option<IpAddr> {
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|addr| addr.ip());
    let with_zone = || text.parse::<SocketAddrV6>().ok().map(|addr| IpAddr::V6(*addr.ip()));
    let addr = text.parse().ok().or_else(bracketed).or_else(with_port).or_else(with_zone)?;
    Some(addr.to_canonical())
}

/// Splits at a separator outside of quotes.
fn split_unquoted(text: &[u8], separator: u8) -> Vec<&[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    let at_separator = |byte: &u8| {
        let literal = escaped;
        escaped = quoted && *byte == b'\\' && !literal;
        quoted ^= *byte == b'"' && !literal;
        *byte == separator && !quoted
    };
    text.split(at_separator).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(header: ForwardedHeader, values: &[&str]) -> Option<String> {
        let trusted = |addr: IpAddr| addr.to_string().starts_with("10.") || addr.to_string().starts_with("fd00::");
        header.client(values.iter().map(|value| value.as_bytes()), trusted).map(|addr| addr.to_string())
    }

    #[test]
    fn the_rightmost_address_that_is_not_trusted_is_the_client() {
        for (values, client) in [
            (&["192.0.2.1"][..], Some("192.0.2.1")),
            (&["6.6.6.6, 192.0.2.1"], Some("192.0.2.1")),
            (&["6.6.6.6, 192.0.2.1, 10.0.0.2,10.0.0.3"], Some("192.0.2.1")),
            (&["6.6.6.6", "192.0.2.1", "10.0.0.2"], Some("192.0.2.1")),
            (&["10.0.0.9, 10.0.0.2"], Some("10.0.0.9")),
            (&["192.0.2.1, unknown, 10.0.0.2"], Some("10.0.0.2")),
            (&["192.0.2.1, , 10.0.0.2"], Some("10.0.0.2")),
            (&["192.0.2.1:4711"], Some("192.0.2.1")),
            (&["2001:db8::1"], Some("2001:db8::1")),
            (&["[2001:db8::1]:4711"], Some("2001:db8::1")),
            (&["::ffff:192.0.2.1"], Some("192.0.2.1")),
            (&["not an address"], None),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(found(ForwardedHeader::XForwardedFor, values).as_deref(), client, "{values:?}");
        }
    }

    #[test]
    fn forwarded_is_read_by_its_grammar() {
        for (values, client) in [
            (&["for=192.0.2.1"][..], Some("192.0.2.1")),
            (&["For=\"[2001:db8::1]:4711\""], Some("2001:db8::1")),
            (&["for=6.6.6.6, proto=https;for=192.0.2.1;by=10.0.0.3 , for=10.0.0.2"], Some("192.0.2.1")),
            (&["for=192.0.2.1;host=\"a,for=6.6.6.6\""], Some("192.0.2.1")),
            (&["for=192.0.2.1;host=\"a\\\",for=6.6.6.6\""], Some("192.0.2.1")),
            (&["for=6.6.6.6, for=_hidden"], None),
            (&["for=6.6.6.6, proto=https"], None),
        ] {
            assert_eq!(found(ForwardedHeader::Forwarded, values).as_deref(), client, "{values:?}");
        }
    }
}
