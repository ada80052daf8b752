//! A client's stream of frames with permessage-deflate agreed on, cut anywhere, against the reference decoder and an
//! inflater by other hands. Input: how many cuts, their places (two bytes each), the stream.

use crate::dice::Dice;
use crate::oracles::deflate::{deflate, inflate};
use crate::oracles::frames::{LIMITS, decode, reference};

use super::frames::{cut, frame};

/// What the decoder sees doesn't depend on the cuts. It is what the reference sees; but the server's inflater may be
/// the stricter one of the two, and call a set of codes bad (1007) that the other one makes something of.
pub fn run(bytes: &[u8]) {
    let Some((chunks, stream)) = cut(bytes) else { return };
    let (seen, error) = reference(stream, true);
    let cut_up = decode(&chunks, true);
    if cut_up.1 == Some(1007) {
        assert_eq!(cut_up.0, seen[..cut_up.0.len().min(seen.len())]);
    } else {
        assert_eq!((&cut_up.0, cut_up.1), (&seen, error));
    }
    let singles: Vec<Vec<u8>> = stream.iter().map(|&byte| vec![byte]).collect();
    let by_byte = decode(&singles, true);
    assert_eq!((&by_byte.0, by_byte.1), (&cut_up.0, cut_up.1));
    // What a compressor made has to be taken, whatever it was made of.
    for (level, last) in [(0, false), (1, true), (6, false), (9, true)] {
        let content = &stream[..stream.len().min(LIMITS.message_bytes)];
        let payload = deflate(content, level, last);
        assert_eq!(inflate(&payload, LIMITS.message_bytes).as_deref(), Ok(content));
        let mut inflater = uringcast::wire::deflate::inflate::Inflater::new(|| 0);
        assert_eq!(inflater.inflate(&payload, LIMITS.message_bytes).as_deref(), Ok(content));
    }
}

/// Messages compressed, plain and in pieces, control frames between, now and then damaged.
pub fn generate(dice: &mut Dice) -> Vec<u8> {
    let cuts = dice.below(8);
    let mut out = vec![cuts as u8];
    out.extend((0..cuts * 2).map(|_| dice.throw() as u8));
    for _ in 0..dice.between(1, 6) {
        let text = dice.once_in(2);
        let length = dice.pick(&[0, 1, 30, 300, 1_400, 1_990, 2_000, 2_001, 60_000]);
        let content: Vec<u8> = match dice.below(3) {
            0 => "aé中😀".bytes().cycle().take(length).collect(),
            1 => vec![b'x'; length],
            _ => (0..length).map(|_| dice.throw() as u8).collect(),
        };
        let compressed = !dice.once_in(4);
        let mut payload = match compressed {
            true => deflate(&content, dice.below(11) as u8, dice.once_in(3)),
            false => content,
        };
        match dice.below(12) {
            0 => payload.extend(deflate(b"and more", 6, false)),
            1 => payload.extend([0, 0, 0xff, 0xff]),
            2 => payload.truncate(dice.below(payload.len() + 1)),
            3 if !payload.is_empty() => {
                let at = dice.below(payload.len());
                payload[at] ^= 1 << dice.below(8);
            }
            _ => {}
        }
        let opcode = if text { 1 } else { 2 } | if compressed { 0x40 } else { 0 };
        let at = if dice.once_in(2) { payload.len() } else { dice.below(payload.len() + 1) };
        let (first, rest) = payload.split_at(at);
        if rest.is_empty() && !dice.once_in(5) {
            frame(&mut out, 0x80 | opcode, first, dice);
            continue;
        }
        frame(&mut out, opcode, first, dice);
        if dice.once_in(3) {
            frame(&mut out, dice.pick(&[0x89, 0x8a, 0xc9, 0x88]), b"", dice);
        }
        frame(&mut out, dice.pick(&[0x80, 0x80, 0x80, 0x80, 0xc0]), rest, dice);
    }
    out
}
