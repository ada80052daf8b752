//! The PROXY protocol, versions 1 and 2 (haproxy.org, doc/proxy-protocol.txt, §2.1 and §2.2): what a trusted proxy says,
//! before anything else, of where a connection came from. Bytes in, an address out. Version 2 tells its length up
//! front, and version 1 is a line of text; a reader looks at what has come, and takes the header and not a byte more.
//! Whether a peer may send one is not decided here.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

/// What every header of version 2 begins with.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// What every header of version 1 begins with.
const WORD: &[u8] = b"PROXY ";
/// The longest line of version 1, its end included, in bytes (§2.1).
const LINE_MAX: usize = 107;
/// The part of version 2 that tells how long the rest is.
const FIXED: usize = 16;
/// The longest rest that is taken, in bytes. Addresses need at most 216; the rest is for TLVs, among them a client's
/// certificate name.
const REST_MAX: usize = 2_048;
/// The longest header that is taken, in bytes.
pub const HEADER_MAX: usize = FIXED + REST_MAX;

/// Why what came is no header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ProxyError {
    /// Something else was sent: the proxy isn't set up for it.
    #[error("it sent no PROXY header, of neither version")]
    Missing,
    /// The stream ended within the header.
    #[error("it ended the connection before its PROXY header was whole")]
    Ended,
    /// A version, command or family that isn't defined.
    #[error("its PROXY header has an unknown version, command or address family")]
    Unknown,
    /// The header is longer than [`REST_MAX`].
    #[error("its PROXY header has more than {REST_MAX} bytes of addresses and TLVs")]
    TooLong,
    /// Shorter than the addresses that it should have, or with TLVs that go beyond its end.
    #[error("its PROXY header has addresses or TLVs that are cut short")]
    Cut,
    /// A line of version 1 without an end.
    #[error("its PROXY line has no end within {LINE_MAX} bytes")]
    Endless,
    /// A line of version 1 that isn't written as one.
    #[error("its PROXY line is not \"PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT\" or \"PROXY UNKNOWN\"")]
    Malformed,
}

/// What a header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proxied {
    /// The address that the proxy names.
    From(IpAddr),
    /// No address: the proxy speaks for itself (LOCAL, as in health checks), or the client came by other means than
    /// IP. The connection's own peer counts.
    Unknown,
}

/// How long the header is that has begun with these bytes; `None` while that can't be told, and then all of them are
/// the header's.
///
/// # Errors
/// As soon as the bytes can't become a header.
pub fn length(seen: &[u8]) -> Result<Option<usize>, ProxyError> {
    if begins(seen, WORD) {
        return match seen.iter().take(LINE_MAX).position(|byte| *byte == b'\n') {
            Some(end) => Ok(Some(end + 1)),
            None if seen.len() >= LINE_MAX => Err(ProxyError::Endless),
            None => Ok(None),
        };
    }
    if !begins(seen, &SIGNATURE) {
        return Err(ProxyError::Missing);
    }
    let Some(&[high, low]) = seen.get(FIXED - 2..FIXED) else { return Ok(None) };
    let rest = usize::from(u16::from_be_bytes([high, low]));
    if rest > REST_MAX { Err(ProxyError::TooLong) } else { Ok(Some(FIXED + rest)) }
}

/// Whether the bytes are `what` as far as they go, and more.
fn begins(bytes: &[u8], what: &[u8]) -> bool {
    let shared = bytes.len().min(what.len());
    bytes[..shared] == what[..shared]
}

/// Reads a header; `None` while it isn't complete. Bytes behind it are not looked at.
///
/// # Errors
/// When it is none.
pub fn parse(seen: &[u8]) -> Result<Option<Proxied>, ProxyError> {
    match length(seen)? {
        Some(length) if seen.len() >= length => {
            let header = &seen[..length];
            if header[0] == WORD[0] { line(header) } else { binary(header) }.map(Some)
        }
        _ => Ok(None),
    }
}

/// Version 1: words with one space between them.
fn line(header: &[u8]) -> Result<Proxied, ProxyError> {
    let text = header.strip_suffix(b"\r\n").and_then(|text| text.strip_prefix(WORD)).ok_or(ProxyError::Malformed)?;
    // What follows UNKNOWN is to be ignored.
    if text == b"UNKNOWN" || text.starts_with(b"UNKNOWN ") {
        return Ok(Proxied::Unknown);
    }
    let words: Vec<&str> = std::str::from_utf8(text).map_err(|_| ProxyError::Malformed)?.split(' ').collect();
    let [family, source, destination, ports @ ..] = &words[..] else { return Err(ProxyError::Malformed) };
    let is_port = |word: &&str| word.bytes().all(|byte| byte.is_ascii_digit()) && word.parse::<u16>().is_ok();
    if ports.len() != 2 || !ports.iter().all(is_port) {
        return Err(ProxyError::Malformed);
    }
    let read = |word: &str| match *family {
        "TCP4" => word.parse().map(IpAddr::V4).ok(),
        "TCP6" => word.parse().map(IpAddr::V6).ok(),
        _ => None,
    };
    match (read(source), read(destination)) {
        (Some(source), Some(_)) => Ok(Proxied::From(source.to_canonical())),
        _ => Err(ProxyError::Malformed),
    }
}

/// The header is one of version 2.
fn binary(header: &[u8]) -> Result<Proxied, ProxyError> {
    let body = &header[FIXED..];
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
        (2, 0) => return Ok(Proxied::Unknown),
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
    Ok(addr.map_or(Proxied::Unknown, Proxied::From))
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
    fn version_1_names_the_client_too() {
        for (text, client) in [
            ("PROXY TCP4 192.0.2.1 10.0.0.1 50000 443\r\n", "192.0.2.1"),
            ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255"),
            ("PROXY TCP6 2001:db8::1 ::1 0 443\r\n", "2001:db8::1"),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", "192.0.2.1"),
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(Some(Proxied::From(client.parse().expect("an address")))), "{text}");
        }
        let longest = "f".repeat(4) + &":ffff".repeat(7);
        let longest = format!("PROXY UNKNOWN {longest} {longest} 65535 65535\r\n");
        assert_eq!(longest.len(), LINE_MAX);
        for text in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN \r\n", "PROXY UNKNOWN whatever\r\n", &longest] {
            assert_eq!(parse(text.as_bytes()), Ok(Some(Proxied::Unknown)), "{text}");
        }
    }

    #[test]
    fn a_line_that_is_none_is_refused() {
        for text in [
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 50000 443\n",
            "PROXY  TCP4 192.0.2.1 10.0.0.1 50000 443\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1  50000 443\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 50000\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 50000 443 \r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 50000 443 1\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 +1 443\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 -1 443\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1  443\r\n",
            "PROXY TCP4 192.0.2.256 10.0.0.1 1 443\r\n",
            "PROXY TCP4 192.0.2.1 ::1 1 443\r\n",
            "PROXY TCP4 ::1 ::1 1 443\r\n",
            "PROXY TCP6 192.0.2.1 10.0.0.1 1 443\r\n",
            "PROXY UDP4 192.0.2.1 10.0.0.1 1 443\r\n",
            "PROXY tcp4 192.0.2.1 10.0.0.1 1 443\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY UNKNOWN\n",
        ] {
            assert_eq!(parse(text.as_bytes()), Err(ProxyError::Malformed), "{text:?}");
        }
        for text in ["proxy TCP4", "PROXYTCP4", "PRIXY", "GET / HTTP/1.1\r\n", "\r\nPROXY"] {
            assert_eq!(parse(text.as_bytes()), Err(ProxyError::Missing), "{text:?}");
        }
        let endless = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; LINE_MAX]].concat();
        assert_eq!(parse(&endless[..LINE_MAX - 1]), Ok(None));
        assert_eq!(parse(&endless[..LINE_MAX]), Err(ProxyError::Endless));
        assert_eq!(parse(&[&endless[..LINE_MAX - 1], b"\r\n"].concat()), Err(ProxyError::Endless));
    }

    #[test]
    fn every_split_waits_for_what_is_missing_and_takes_no_more() {
        let (line, unknown) = (b"PROXY TCP6 2001:db8::1 ::1 9 443\r\n".to_vec(), b"PROXY UNKNOWN\r\n".to_vec());
        for whole in [ipv4(), ipv6(), header(0x20, 0, &[]), line, unknown] {
            for at in 0..whole.len() {
                assert_eq!(parse(&whole[..at]), Ok(None), "cut at {at}");
                let length = length(&whole[..at]).expect("a header");
                assert!(length.is_none_or(|length| length == whole.len()), "{length:?} at {at} of {}", whole.len());
            }
            let followed = [&whole[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(parse(&followed), parse(&whole));
            assert_eq!(length(&followed), Ok(Some(whole.len())));
        }
    }

    #[test]
    fn what_is_wrong_is_said_as_soon_as_it_shows() {
        assert_eq!(parse(b"G"), Err(ProxyError::Missing));
        assert_eq!(parse(b"\r\n\r\nG"), Err(ProxyError::Missing));
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
        assert_eq!(length(&long), Err(ProxyError::TooLong));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_take_too_much(
            begun in prop::sample::select(vec![&b""[..], &SIGNATURE, WORD, b"PROXY TCP4 ", b"PROXY UNKNOWN"]),
            tail in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [begun, &tail].concat();
            let _ = parse(&bytes);
            match length(&bytes) {
                Ok(Some(length)) => prop_assert!(length <= HEADER_MAX),
                Ok(None) => prop_assert!(bytes.len() < LINE_MAX),
                Err(_) => {}
            }
        }
    }
}
