//! RFC 6455's frames by a second hand: a reference decoder that sees all bytes at once and was written without looking
//! at the real one, and the real one run over chunks, both in the same terms. For the property tests and for fuzzing.

use uringcast::wire::websocket::{Assembly, Decoder, Event, MessageLimits};

use super::deflate;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

pub const LIMITS: MessageLimits = MessageLimits { message_bytes: 2000, frame_bytes: 1500, fragment_overhead: 64 };
/// What a decoder may hold beyond a message: its own bookkeeping and a control frame's payload.
const OVERHEAD: usize = 192 + 256;

/// Runs the real decoder over chunks: what it saw, the close code of its error, and how many bytes it took.
pub fn decode(chunks: &[Vec<u8>], deflate: bool) -> (Vec<Seen>, Option<u16>, usize) {
    let (mut decoder, mut seen, mut arrived) = (Decoder::new(), Vec::new(), 0);
    let mut assembly = Assembly::new(|| 0);
    if deflate {
        decoder.allow_deflate();
    }
    for chunk in chunks {
        let mut chunk = chunk.clone();
        let mut rest = &mut chunk[..];
        arrived += rest.len();
        while !rest.is_empty() {
            let available = rest.len();
            let (consumed, event) = match decoder.decode(rest, &LIMITS, &mut assembly) {
                Ok(decoded) => decoded,
                Err(error) => return (seen, Some(error.close_code()), arrived),
            };
            assert!((1..=available).contains(&consumed));
            seen.extend(event.map(|event| match event {
                Event::Text(text) => Seen::Text(text.to_vec()),
                Event::Binary(bytes) => Seen::Binary(bytes.to_vec()),
                Event::Ping(bytes) => Seen::Ping(bytes.to_vec()),
                Event::Pong(bytes) => Seen::Pong(bytes.to_vec()),
                Event::Close { code, reason } => Seen::Close(code, reason.to_string()),
            }));
            assembly.release();
            assert!(assembly.heap_bytes() <= LIMITS.message_bytes + 1);
            assert!(decoder.heap_bytes() <= OVERHEAD + LIMITS.message_bytes.min(2 * arrived));
            rest = &mut rest[consumed..];
        }
    }
    (seen, None, arrived)
}

/// The reference: sees all bytes at once, copies everything, one step after the other as RFC 6455 tells it.
pub fn reference(bytes: &[u8], deflate: bool) -> (Vec<Seen>, Option<u16>) {
    let mut seen = Vec::new();
    let mut at = 0;
    let mut parts: Option<(bool, Vec<u8>, usize)> = None;
    let mut compressed = false;
    loop {
        let rest = &bytes[at..];
        let need = |n: usize| rest.len() >= n;
        if !need(1) {
            return (seen, None);
        }
        let (fin, opcode) = (rest[0] >> 7 == 1, rest[0] & 15);
        let control = opcode >= 8;
        let rsv1 = deflate && rest[0] >> 4 & 7 == 4 && [1, 2].contains(&opcode);
        if rest[0] >> 4 & 7 != 0 && !rsv1 || ![0, 1, 2, 8, 9, 10].contains(&opcode) || control && !fin {
            return (seen, Some(1002));
        }
        if !need(2) {
            return (seen, None);
        }
        let short = usize::from(rest[1] & 127);
        if rest[1] < 128 || control && short > 125 {
            return (seen, Some(1002));
        }
        let extended = [0, 2, 8][usize::from(short > 125) + usize::from(short > 126)];
        if extended == 8 && (need(3) && rest[2] > 127 || need(8) && rest[2..8].iter().all(|&byte| byte == 0)) {
            return (seen, Some(1002));
        }
        if !need(2 + extended) {
            return (seen, None);
        }
        let len = match extended {
            0 => short as u64,
            _ => rest[2..2 + extended].iter().fold(0, |sum: u64, &byte| sum * 256 + u64::from(byte)),
        };
        if extended == 2 && len < 126 {
            return (seen, Some(1002));
        }
        let start = 2 + extended + 4;
        if !need(start) {
            return (seen, None);
        }

        if !control {
            if (opcode == 0) != parts.is_some() {
                return (seen, Some(1002));
            }
            let charge = if fin && opcode > 0 { 0 } else { LIMITS.fragment_overhead as u64 };
            let before = parts.as_ref().map_or(0, |part| part.2) as u64;
            if len > LIMITS.frame_bytes as u64 || before + len + charge > LIMITS.message_bytes as u64 {
                return (seen, Some(1009));
            }
            if opcode > 0 {
                compressed = rsv1;
            }
            let part = parts.get_or_insert((opcode == 1, Vec::new(), 0));
            part.2 += (len + charge) as usize;
        }
        let key = &rest[start - 4..start];
        let payload: Vec<u8> =
            rest[start..].iter().take(len as usize).enumerate().map(|(n, byte)| byte ^ key[n % 4]).collect();
        let whole = payload.len() as u64 == len;

        if !control {
            let (text, message, _) = parts.as_mut().expect("begun above");
            message.extend(&payload);
            if compressed && whole && fin {
                match deflate::inflate(message, LIMITS.message_bytes) {
                    Ok(content) => *message = content,
                    Err(deflate::Bad::TooBig) => return (seen, Some(1009)),
                    Err(deflate::Bad::Invalid) => return (seen, Some(1007)),
                }
            }
            let judged = !compressed || whole && fin;
            let hopeless = match std::str::from_utf8(message) {
                Ok(_) => false,
                Err(error) => error.error_len().is_some() || whole && fin,
            };
            if *text && judged && hopeless {
                return (seen, Some(1007));
            }
        }
        if !whole {
            return (seen, None);
        }
        at += start + len as usize;
        match opcode {
            8 => {
                let code = match payload[..] {
                    [] => return (append(seen, Seen::Close(None, String::new())), None),
                    [_] => return (seen, Some(1002)),
                    [high, low, ..] => u16::from(high) * 256 + u16::from(low),
                };
                if !(1000..5000).contains(&code) || (1004..=1006).contains(&code) || (1015..3000).contains(&code) {
                    return (seen, Some(1002));
                }
                return match String::from_utf8(payload[2..].to_vec()) {
                    Ok(reason) => (append(seen, Seen::Close(Some(code), reason)), None),
                    Err(_) => (seen, Some(1007)),
                };
            }
            9 => seen.push(Seen::Ping(payload)),
            10 => seen.push(Seen::Pong(payload)),
            _ if fin => {
                let (text, message, _) = parts.take().expect("begun above");
                seen.push(if text { Seen::Text(message) } else { Seen::Binary(message) });
            }
            _ => {}
        }
    }
}

fn append(mut seen: Vec<Seen>, last: Seen) -> Vec<Seen> {
    seen.push(last);
    seen
}
