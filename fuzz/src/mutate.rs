//! Damage to an input, where there is no coverage to lead: bytes flipped, put in, left out, stretches repeated or
//! taken from another input, numbers at the edges of their types. Knows no format.

use crate::dice::Dice;

/// Bytes that mean something to one target or another.
const TELLING: &[u8] = b"\0\x01\x7d\x7e\x7f\x80\x81\x88\x89\xc0\xe2\xff{}[]\",:\\ \r\n\t-+.eE0123456789=";
/// Longest input that is made.
const MAX_BYTES: usize = 16 * 1024;

/// Damages `input` in up to eight places; `other` is what may be cut from.
pub fn mutate(input: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    for _ in 0..dice.between(1, 8) {
        let at = dice.below(input.len() + 1);
        let end = (at + dice.pick(&[1, 1, 2, 4, 16, 100])).min(input.len());
        match dice.below(7) {
            0 if at < input.len() => input[at] = dice.pick(TELLING),
            1 if at < input.len() => input[at] ^= 1 << dice.below(8),
            2 => input.insert(at, dice.pick(TELLING)),
            3 => drop(input.drain(at..end)),
            4 => {
                let stretch = input[at..end].to_vec();
                let times = dice.pick(&[1, 2, 70]);
                input.splice(at..at, stretch.repeat(times));
            }
            5 if !other.is_empty() => {
                let from = dice.below(other.len());
                let to = (from + dice.between(1, 64)).min(other.len());
                input.splice(at..end, other[from..to].iter().copied());
            }
            _ => {
                let edge = dice.pick(&[0, 125, 126, 65_535, 65_536, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX]);
                let edge = if dice.once_in(2) { edge.to_be_bytes().to_vec() } else { edge.to_string().into_bytes() };
                input.splice(at..end, edge);
            }
        }
    }
    input.truncate(MAX_BYTES);
}
