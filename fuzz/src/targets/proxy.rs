//! The PROXY protocol's header, at every place where it may be cut, against a second reading of its document.
//! Input: what a proxy sends, and what follows it.

use std::net::IpAddr;

use uringcast::wire::proxy::{HEADER_MAX, Proxied, SIGNATURE, length, parse};

use crate::dice::Dice;

/// A reader that looks at more and more of the bytes decides once, exactly when the header is whole or wrong, and comes to
/// the verdict that the reference comes to.
pub fn run(bytes: &[u8]) {
    let mut told = None;
    let mut verdict = Ok(None);
    for end in 0..=bytes.len() {
        let seen = &bytes[..end];
        let (parsed, taken) = (parse(seen), length(seen));
        match (verdict, parsed) {
            (Ok(None), Ok(Some(_))) => assert_eq!(taken, Ok(Some(end)), "it is read when it is whole"),
            (Ok(None), _) => {}
            (before, now) => assert_eq!(before, now, "what was decided stays so, at {end} bytes"),
        }
        if let Ok(Some(length)) = taken {
            assert!(length <= HEADER_MAX && *told.get_or_insert(length) == length);
        }
        verdict = parsed;
    }
    let expected = reference(bytes).or_else(|| line(bytes));
    assert_eq!(verdict.ok().flatten(), expected.map(|(proxied, _)| proxied));
    if let Some((_, taken)) = expected {
        assert_eq!(told, Some(taken));
    }
}

/// Version 1, by its document (§2.1).
fn line(bytes: &[u8]) -> Option<(Proxied, usize)> {
    let end = bytes.iter().take(107).position(|byte| *byte == b'\n')?;
    let mut words = bytes[..end].strip_suffix(b"\r")?.split(|byte| *byte == b' ');
    if words.next()? != b"PROXY" {
        return None;
    }
    let family = words.next()?;
    if family == b"UNKNOWN" {
        return Some((Proxied::Unknown, end + 1));
    }
    let mut word = || std::str::from_utf8(words.next()?).ok();
    let (source, destination, ports) = (word()?, word()?, [word()?, word()?]);
    if words.next().is_some() || ports.iter().any(|port| port.starts_with('+') || port.parse::<u16>().is_err()) {
        return None;
    }
    let (source, destination): (IpAddr, IpAddr) = (source.parse().ok()?, destination.parse().ok()?);
    match family {
        b"TCP4" if source.is_ipv4() && destination.is_ipv4() => {}
        b"TCP6" if source.is_ipv6() && destination.is_ipv6() => {}
        _ => return None,
    }
    Some((Proxied::From(source.to_canonical()), end + 1))
}

/// Version 2 in the document's words (§2.2) and its order, over bytes that are all there: what is said and how long it is.
fn reference(bytes: &[u8]) -> Option<(Proxied, usize)> {
    let after = bytes.strip_prefix(b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a")?;
    let (&[version_command, family, high, low], after) = after.split_first_chunk()?;
    let length = usize::from(high) * 256 + usize::from(low);
    let body = after.get(..length).filter(|_| 16 + length <= HEADER_MAX)?;
    // The sender's and the receiver's addresses, with a port each where there are ports.
    let (size, tlvs_from) = match family {
        0x00 => (0, None),
        0x11 | 0x12 => (4, Some(4 + 4 + 2 + 2)),
        0x21 | 0x22 => (16, Some(16 + 16 + 2 + 2)),
        0x31 | 0x32 => (0, Some(108 + 108)),
        _ => return None,
    };
    let proxied = match version_command {
        0x20 => Proxied::Unknown,
        0x21 => {
            if let Some(from) = tlvs_from {
                let mut rest = body.get(from..)?.iter();
                while rest.next().is_some() {
                    let length = usize::from(*rest.next()?) << 8 | usize::from(*rest.next()?);
                    if length > 0 {
                        rest.nth(length - 1)?;
                    }
                }
            }
            match size {
                4 => Proxied::From(IpAddr::from(<[u8; 4]>::try_from(&body[..4]).ok()?)),
                16 => Proxied::From(IpAddr::from(<[u8; 16]>::try_from(&body[..16]).ok()?).to_canonical()),
                _ => Proxied::Unknown,
            }
        }
        _ => return None,
    };
    Some((proxied, 16 + length))
}

/// A header with a wrong byte here and there, and something behind it.
pub fn generate(dice: &mut Dice) -> Vec<u8> {
    if dice.once_in(3) {
        return generate_line(dice);
    }
    let mut bytes = SIGNATURE.to_vec();
    bytes.push(dice.pick(&[0x21, 0x21, 0x21, 0x20, 0x22, 0x11, 0x31]));
    let family = dice.pick(&[0x11, 0x11, 0x21, 0x21, 0x12, 0x22, 0x31, 0x32, 0x00, 0x13, 0x41]);
    bytes.push(family);
    let addresses = [0, 12, 36, 216][usize::from(family >> 4) & 3];
    let mut body: Vec<u8> = (0..addresses).map(|_| dice.throw() as u8).collect();
    if dice.once_in(4) && family >> 4 == 2 {
        // An IPv4 address in IPv6's clothes.
        body[..12].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    }
    for _ in 0..dice.pick(&[0, 0, 1, 3]) {
        let length = dice.pick(&[0_u16, 1, 4, 300]);
        body.push(dice.throw() as u8);
        body.extend(length.to_be_bytes());
        body.extend((0..length).map(|n| n as u8));
    }
    if dice.once_in(6) {
        body.truncate(dice.below(body.len() + 1));
    }
    let told = if dice.once_in(12) { dice.throw() as u16 } else { body.len() as u16 };
    bytes.extend(told.to_be_bytes());
    bytes.extend(body);
    if dice.once_in(3) {
        bytes.extend(b"GET / HTTP/1.1\r\n");
    }
    bytes
}

fn generate_line(dice: &mut Dice) -> Vec<u8> {
    let addresses = ["192.0.2.1", "10.0.0.1", "2001:db8::1", "::ffff:192.0.2.7", "x"];
    let family = dice.pick(&["TCP4", "TCP4", "TCP6", "UNKNOWN", "UDP4"]);
    let of_family = |dice: &mut Dice| match family {
        _ if dice.once_in(12) => dice.pick(&addresses),
        "TCP6" => dice.pick(&addresses[2..4]),
        _ => dice.pick(&addresses[..2]),
    };
    let (source, destination) = (of_family(dice), of_family(dice));
    let (from, to) = (dice.below(70_000), dice.below(70_000));
    let mut bytes = format!("PROXY {family} {source} {destination} {from} {to}\r\nGET / HTTP/1.1\r\n").into_bytes();
    if dice.once_in(4) {
        let at = dice.below(bytes.len());
        bytes[at] = dice.pick(b" \r\n0+PX");
    }
    if dice.once_in(8) {
        let at = dice.below(bytes.len());
        bytes.splice(at..at, vec![b'x'; dice.below(120)]);
    }
    bytes
}
