//! The XOR mask of client frames (RFC 6455 §5.3).
//!
//! Owns one loop over bytes and nothing else: it knows neither frames nor how a payload was cut up on its way,
//! so the caller says how far into the payload it stands (`phase`). Called by `websocket` on whatever part of a
//! payload has arrived; masking and unmasking are the same operation, so tests and clients use it as well.

/// XORs `payload` with `key`, whose first byte to be used is `key[phase % 4]`: `phase` is the number of bytes
/// of this frame's payload that went through the mask before.
pub fn apply(payload: &mut [u8], key: [u8; 4], phase: usize) {
    let turned = u32::from_le_bytes(key).rotate_right(8 * (phase % 4) as u32);
    let key = turned.to_le_bytes();

    // 32 is a multiple of the key's 4, so every block starts at the same key byte. An array of known length
    // lets the compiler use vector registers without `unsafe`.
    let mut pattern = [0; 32];
    for (index, byte) in pattern.iter_mut().enumerate() {
        *byte = key[index % 4];
    }
    let (blocks, rest) = payload.as_chunks_mut::<32>();
    for block in blocks {
        for (byte, mask) in block.iter_mut().zip(pattern) {
            *byte ^= mask;
        }
    }

    // Most messages are short: what is left goes a word at a time before it goes by bytes.
    let (words, tail) = rest.as_chunks_mut::<4>();
    let word_mask = u32::from_ne_bytes(key);
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ word_mask).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(key) {
        *byte ^= mask;
    }
}

/// Appends a whole payload to `out`, XORed with `key`: as [`apply`], in the same pass that copies it.
pub(crate) fn append(out: &mut Vec<u8>, payload: &[u8], key: [u8; 4]) {
    out.reserve(payload.len());
    let word_mask = u64::from(u32::from_ne_bytes(key)) << 32 | u64::from(u32::from_ne_bytes(key));
    let (blocks, rest) = payload.as_chunks::<32>();
    for block in blocks {
        let mut unmasked = *block;
        for word in unmasked.as_chunks_mut::<8>().0 {
            *word = (u64::from_ne_bytes(*word) ^ word_mask).to_ne_bytes();
        }
        out.extend_from_slice(&unmasked);
    }
    let start = out.len();
    out.extend_from_slice(rest);
    apply(&mut out[start..], key, 0);
}

#[cfg(test)]
mod tests {
    use super::{append, apply};

    fn naive(payload: &[u8], key: [u8; 4], phase: usize) -> Vec<u8> {
        (0..payload.len()).map(|at| payload[at] ^ key[(at + phase) % 4]).collect()
    }

    #[test]
    fn rfc_example() {
        // RFC 6455 §5.7, "a single-frame masked text message".
        let mut payload = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        apply(&mut payload, [0x37, 0xfa, 0x21, 0x3d], 0);
        assert_eq!(&payload, b"Hello");
    }

    #[test]
    fn every_length_alignment_and_phase() {
        let bytes: Vec<u8> = (0..200u8).map(|n| n.wrapping_mul(37).wrapping_add(11)).collect();
        let key = [0x12, 0x34, 0x56, 0x78];
        for start in 0..33 {
            for len in 0..130 {
                for phase in [0, 1, 2, 3, 4, 7, usize::MAX] {
                    let mut copy = bytes.clone();
                    apply(&mut copy[start..start + len], key, phase);
                    assert_eq!(copy[..start], bytes[..start], "nothing before is touched");
                    assert_eq!(copy[start + len..], bytes[start + len..], "nothing after is touched");
                    let expected = naive(&bytes[start..start + len], key, phase % 4);
                    assert_eq!(copy[start..start + len], expected, "start {start} len {len} phase {phase}");
                    if phase == 0 {
                        let mut out = bytes[..start].to_vec();
                        append(&mut out, &bytes[start..start + len], key);
                        assert_eq!(out, [&bytes[..start], &expected].concat(), "start {start} len {len}");
                    }
                }
            }
        }
    }
}
