//! The PROXY protocol's header, at every place where it may be cut, against a second reading of its document.
//! Input: what a proxy sends, and what follows it.

use std::net::IpAddr;

use uringcast::proto::proxy::{Proxied, ProxyError, REST_MAX, SIGNATURE, parse, wanted};

use crate::dice::Dice;

/// A reader that does as it is told takes the header and not a byte more, never asks for nothing, and comes to the
/// verdict that the reference comes to.
pub fn run(bytes: &[u8]) {
    let mut taken = 0;
    let verdict = loop {
        let header = &bytes[..taken];
        match (parse(header), wanted(header)) {
            (Ok(Some(proxied)), Ok(0)) => break Some(Ok(proxied)),
            (Err(error), Ok(0)) => break Some(Err(error)),
            (Err(error), wanted) => {
                assert_eq!(wanted, Err(error), "one says that it is none, the other asks for more");
                break Some(Err(error));
            }
            (Ok(None), Ok(more)) if more > 0 && taken + more <= SIGNATURE.len() + 4 + REST_MAX => {
                // Whatever comes early is the same however it is cut.
                (taken..bytes.len().min(taken + more)).for_each(|end| early(&bytes[..end], bytes));
                taken += more;
                if taken > bytes.len() {
                    break None;
                }
            }
            contradiction => panic!("{contradiction:?} after {taken} bytes"),
        }
    };
    match verdict {
        Some(Ok(proxied)) => assert_eq!(reference(bytes), Some((proxied, taken))),
        Some(Err(_)) => assert_eq!(reference(bytes), None),
        None => assert!(parse(bytes).is_ok_and(|proxied| proxied.is_none()) || wanted(bytes).is_err()),
    }
}

/// A part is undecided, or it is wrong and stays so.
fn early(part: &[u8], whole: &[u8]) {
    match parse(part) {
        Ok(None) => {}
        Ok(Some(_)) => panic!("{} bytes are a header, which had asked for more", part.len()),
        Err(error) => assert!(
            parse(whole) == Err(error) && matches!(error, ProxyError::Missing | ProxyError::TooLong),
            "{error} at {} bytes",
            part.len()
        ),
    }
}

/// The document's words, in its order, over bytes that are all there: what is said and how long it is.
fn reference(bytes: &[u8]) -> Option<(Proxied, usize)> {
    let after = bytes.strip_prefix(b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a")?;
    let (&[version_command, family, high, low], after) = after.split_first_chunk()?;
    let length = usize::from(high) * 256 + usize::from(low);
    let body = after.get(..length).filter(|_| length <= REST_MAX)?;
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
