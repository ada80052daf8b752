//! The PROXY protocol, version 2 (haproxy.org, doc/proxy-protocol.txt, §2.2): what a trusted proxy says, before
//! anything else, of where a connection came from. Bytes in, an address out. The header tells its length up front, so
//! that a reader takes it and not a byte more. Version 1, a line of text without that, is not taken.
//! Whether a peer may send one is not decided here.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

/// What every header begins with.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The part that tells how long the rest is.
const FIXED: usize = 16;
/// The longest rest that is taken, in bytes. Addresses need at most 216; the rest is for TLVs, among them a client's
/// certificate name.
pub const REST_MAX: usize = 2_048;

/// Why what came is no header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ProxyError {
    /// Something else was sent: the proxy isn't set up for it, or sends version 1.
    #[error("no PROXY protocol version 2 header")]
    Missing,
    /// A version, command or family that isn't defined.
    #[error("an unknown version, command or address family")]
    Unknown,
    /// Longer than [`REST_MAX`].
    #[error("more than {REST_MAX} bytes of addresses and TLVs")]
    TooLong,
    /// Shorter than the addresses that it should have, or with TLVs that go beyond its end.
    #[error("addresses or TLVs are cut short")]
    Cut,
}

/// What a header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proxied {
    /// The client's address.
    From(IpAddr),
    /// No address: the proxy speaks for itself (LOCAL, as in health checks), or the client came by other means than
    /// IP. The connection's own peer counts.
    Unknown,
}

/// How many bytes to read before [`parse`] can say more: never more than the header has.
///
/// # Errors
/// As soon as the bytes can't become a header.
pub fn wanted(header: &[u8]) -> Result<usize, ProxyError> {
    let begun = header.len().min(SIGNATURE.len());
    if header[..begun] != SIGNATURE[..begun] {
        return Err(ProxyError::Missing);
    }
    let Some(&[high, low]) = header.get(FIXED - 2..FIXED) else { return Ok(FIXED - header.len()) };
    let rest = usize::from(u16::from_be_bytes([high, low]));
    if rest > REST_MAX {
        return Err(ProxyError::TooLong);
    }
    Ok((FIXED + rest).saturating_sub(header.len()))
}

/// Reads a header; `None` while it isn't complete. Bytes behind it are not looked at.
///
/// # Errors
/// When it is none.
pub fn parse(header: &[u8]) -> Result<Option<Proxied>, ProxyError> {
    if wanted(header)? > 0 {
        return Ok(None);
    }
    let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
    let body = &header[FIXED..FIXED + rest];
    let (version, command, family) = (header[12] >> 4, header[12] & 0x0f, header[13]);
    // UNSPEC; then INET, INET6 and UNIX, as a stream or as datagrams.
    let addresses = match family {
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(ProxyError::Unknown),
    };
    let from = match (version, command) {
        // Whatever it carries is to be ignored.
        (2, 0) => return Ok(Some(Proxied::Unknown)),
        (2, 1) if body.len() < addresses => return Err(ProxyError::Cut),
        (2, 1) => &body[..addresses],
        _ => return Err(ProxyError::Unknown),
    };
    // What UNSPEC carries isn't said, so nothing of it can be wrong.
    if family != 0 {
        skip_tlvs(&body[addresses..])?;
    }
    let addr = match family >> 4 {
        1 => from.first_chunk().map(|octets: &[u8; 4]| IpAddr::V4(Ipv4Addr::from(*octets))),
        2 => from.first_chunk().map(|octets: &[u8; 16]| IpAddr::V6(Ipv6Addr::from(*octets)).to_canonical()),
        _ => None,
    };
    Ok(Some(addr.map_or(Proxied::Unknown, Proxied::From)))
}

/// A type, a length in two bytes, a value; nothing of it is needed.
fn skip_tlvs(mut tlvs: &[u8]) -> Result<(), ProxyError> {
    while let [_, high, low, rest @ ..] = tlvs {
        tlvs = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..).ok_or(ProxyError::Cut)?;
    }
    if tlvs.is_empty() { Ok(()) } else { Err(ProxyError::Cut) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    /// From 192.0.2.1:50000 to 10.0.0.1:443, with one TLV.
    fn ipv4() -> Vec<u8> {
        let body = [192, 0, 2, 1, 10, 0, 0, 1, 0xc3, 0x50, 1, 0xbb, 0x04, 0, 2, 7, 7];
        header(0x21, 0x11, &body)
    }

    fn ipv6() -> Vec<u8> {
        let mut body = [0; 36];
        body[..16].copy_from_slice(&Ipv6Addr::from_bits(0x2001_0db8 << 96 | 1).octets());
        header(0x21, 0x21, &body)
    }

    #[test]
    fn the_address_of_the_client_is_read() {
        assert_eq!(parse(&ipv4()), Ok(Some(Proxied::From(Ipv4Addr::new(192, 0, 2, 1).into()))));
        assert_eq!(parse(&ipv6()), Ok(Some(Proxied::From(Ipv6Addr::from_bits(0x2001_0db8 << 96 | 1).into()))));
        let mapped = Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets();
        let body = [&mapped[..], &[0; 20]].concat();
        assert_eq!(parse(&header(0x21, 0x21, &body)), Ok(Some(Proxied::From(Ipv4Addr::new(192, 0, 2, 1).into()))));
    }

    #[test]
    fn whoever_has_no_address_is_the_peer_itself() {
        for unknown in [
            header(0x20, 0x00, &[]),
            header(0x20, 0x11, &[1, 2, 3]),
            header(0x21, 0x00, &[9; 40]),
            header(0x21, 0x31, &[0; 216]),
        ] {
            assert_eq!(parse(&unknown), Ok(Some(Proxied::Unknown)), "{unknown:?}");
        }
    }

    #[test]
    fn every_split_asks_for_what_is_missing_and_no_more() {
        for whole in [ipv4(), ipv6(), header(0x20, 0, &[])] {
            for at in 0..whole.len() {
                assert_eq!(parse(&whole[..at]), Ok(None), "cut at {at}");
                let want = wanted(&whole[..at]).expect("a header");
                assert!((1..=whole.len() - at).contains(&want), "{want} wanted at {at} of {}", whole.len());
            }
            let followed = [&whole[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(parse(&followed), parse(&whole));
        }
    }

    #[test]
    fn what_is_wrong_is_said_as_soon_as_it_shows() {
        assert_eq!(parse(b"G"), Err(ProxyError::Missing));
        assert_eq!(parse(b"\r\n\r\nG"), Err(ProxyError::Missing));
        assert_eq!(parse(b"PROXY TCP4 192.0.2.1 10.0.0.1 50000 443\r\n"), Err(ProxyError::Missing));
        for (command, family) in [(0x11, 0x11), (0x31, 0x11), (0x22, 0x11), (0x21, 0x41), (0x21, 0x13), (0x21, 0x01)] {
            assert_eq!(parse(&header(command, family, &[0; 40])), Err(ProxyError::Unknown), "{command:x} {family:x}");
        }
        for (family, length) in [(0x11, 11), (0x21, 35), (0x31, 215)] {
            assert_eq!(parse(&header(0x21, family, &vec![0; length])), Err(ProxyError::Cut));
        }
        let addresses = [0; 12];
        for tlvs in [&[1][..], &[1, 0], &[1, 0, 2, 9], &[1, 0, 0, 1, 0xff, 0xff, 0]] {
            assert_eq!(parse(&header(0x21, 0x11, &[&addresses[..], tlvs].concat())), Err(ProxyError::Cut), "{tlvs:?}");
        }
        let long = [&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat();
        assert_eq!(wanted(&long), Err(ProxyError::TooLong));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_want_too_much(
            signed in any::<bool>(),
            tail in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = if signed { [&SIGNATURE[..], &tail].concat() } else { tail };
            let _ = parse(&bytes);
            if let Ok(want) = wanted(&bytes) {
                prop_assert!(want <= FIXED + REST_MAX);
            }
        }
    }
}
