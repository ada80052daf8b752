//! A client's stream of frames, cut anywhere, against the reference decoder of RFC 6455.
//! Input: how many cuts, their places (two bytes each), the stream.

use crate::dice::Dice;
use crate::oracles::frames::{decode, reference};

/// The stream of an input, cut at its places and whole.
pub fn cut(bytes: &[u8]) -> Option<(Vec<Vec<u8>>, &[u8])> {
    let (&count, rest) = bytes.split_first()?;
    let (places, stream) = rest.split_at_checked(usize::from(count % 8) * 2)?;
    let place = |pair: &[u8]| usize::from(u16::from_be_bytes([pair[0], pair[1]])) % (stream.len() + 1);
    let mut places: Vec<usize> = places.chunks_exact(2).map(place).collect();
    places.extend([0, stream.len()]);
    places.sort_unstable();
    Some((places.windows(2).map(|pair| stream[pair[0]..pair[1]].to_vec()).collect(), stream))
}

/// The decoder sees what the reference sees, however the stream is cut, and no later.
pub fn run(bytes: &[u8]) {
    let Some((chunks, stream)) = cut(bytes) else { return };
    let (seen, error) = reference(stream, false);
    let cut_up = decode(&chunks, false);
    assert_eq!((&cut_up.0, cut_up.1), (&seen, error));
    let singles: Vec<Vec<u8>> = stream.iter().map(|&byte| vec![byte]).collect();
    let (seen_by_byte, error_by_byte, arrived) = decode(&singles, false);
    assert_eq!((&seen_by_byte, error_by_byte), (&seen, error));
    if error.is_some() {
        // At the first byte that shows it.
        assert_eq!(reference(&stream[..arrived - 1], false).1, None);
    }
}

/// Frames in an order that is often legal.
pub fn generate(dice: &mut Dice) -> Vec<u8> {
    let cuts = dice.below(8);
    let mut out = vec![cuts as u8];
    out.extend((0..cuts * 2).map(|_| dice.throw() as u8));
    for _ in 0..dice.below(10) {
        let first = dice.pick(&[0x81, 0x81, 0x82, 0x01, 0x01, 0x02, 0x00, 0x00, 0x80, 0x80, 0x89, 0x8a, 0x88]);
        let payload = payload(first, dice);
        frame(&mut out, first, &payload, dice);
    }
    out
}

fn payload(first: u8, dice: &mut Dice) -> Vec<u8> {
    if first == 0x88 {
        let code = dice.between(995, 1020) as u16;
        return [&code.to_be_bytes()[..], "grüße".as_bytes()].concat();
    }
    let length = dice.pick(&[0, 1, 3, 40, 124, 125, 126, 127, 600, 1499, 1500, 1501]);
    let alphabet = ["a", "é", "中", "😀", "\u{10ffff}"];
    let mut text = String::new();
    while text.len() < length {
        text.push_str(dice.pick(&alphabet));
    }
    let mut bytes = text.into_bytes();
    // Often in the middle of a character.
    bytes.truncate(length);
    if dice.once_in(20) && !bytes.is_empty() {
        let at = dice.below(bytes.len());
        bytes[at] = dice.pick(&[0xc0, 0xff, 0xed, 0xa0, 0x80]);
    }
    bytes
}

/// Appends a masked frame with the shortest length.
pub fn frame(out: &mut Vec<u8>, first: u8, payload: &[u8], dice: &mut Dice) {
    out.push(first);
    match payload.len() {
        short @ 0..126 => out.push(0x80 | short as u8),
        medium @ 126..65_536 => {
            out.push(0xfe);
            out.extend((medium as u16).to_be_bytes());
        }
        long => {
            out.push(0xff);
            out.extend((long as u64).to_be_bytes());
        }
    }
    let key = if dice.once_in(2) { [0; 4] } else { (dice.throw() as u32).to_be_bytes() };
    out.extend(key);
    out.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]));
}
