//! RFC 7692 by a second hand: messages inflated and compressed by miniz, which shares no code with what the server has.
//! Naive: all bytes at once, one block of room for the output. For the property tests and for fuzzing.

use miniz_oxide::deflate::core::{CompressorOxide, TDEFLFlush, compress_to_output, create_comp_flags_from_zip_params};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF as FLAT,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// Why a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    TooBig,
    Invalid,
}

/// What is cut off the end of a message (section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// An empty block, the last one.
const LAST: [u8; 5] = [1, 0, 0, 0xff, 0xff];

/// The content of a message: of a sequence of whole blocks, when the tail is back on it.
pub fn inflate(payload: &[u8], most: usize) -> Result<Vec<u8>, Bad> {
    let mut out = vec![0; most + 100_000];
    if payload.is_empty() {
        return Ok(Vec::new());
    }
    let tail: &[u8] = if payload.ends_with(&TAIL) { &[] } else { &TAIL };
    let whole = [payload, tail, &LAST].concat();
    let (mut at, mut filled, mut content, mut finals) = (0, 0, None, 0);
    loop {
        let mut state = Box::new(DecompressorOxide::new());
        // First all of the payload, so that it is known what came of it, then the rest.
        for end in [payload.len(), payload.len() + tail.len(), whole.len()] {
            if end < at {
                continue;
            }
            let flags = FLAT | TINFL_FLAG_HAS_MORE_INPUT;
            let (status, taken, made) = decompress(&mut state, &whole[at..end], &mut out, filled, flags);
            at += taken;
            filled += made;
            if filled > most {
                return Err(Bad::TooBig);
            }
            let silent = content.is_none_or(|content| content == filled);
            match status {
                TINFLStatus::Done if at < payload.len() => {
                    finals += 1;
                    break;
                }
                TINFLStatus::Done if silent && at == end => {
                    out.truncate(filled);
                    return Ok(out);
                }
                TINFLStatus::NeedsMoreInput if silent && at == end && end < whole.len() => content = Some(filled),
                _ => return Err(Bad::Invalid),
            }
        }
        if finals > 16 {
            return Err(Bad::TooBig);
        }
    }
}

/// A message compressed at a level from 0 to 10. With `last`, its block says that it is the last one, and the octet
/// of section 7.2.3.4 follows.
pub fn deflate(content: &[u8], level: u8, last: bool) -> Vec<u8> {
    let flags = create_comp_flags_from_zip_params(i32::from(level), -15, 0);
    let mut compressor = CompressorOxide::new(flags);
    let mut out = Vec::new();
    let flush = if last { TDEFLFlush::Finish } else { TDEFLFlush::Sync };
    compress_to_output(&mut compressor, content, flush, |bytes| {
        out.extend_from_slice(bytes);
        true
    });
    if last {
        out.push(0);
    } else {
        assert!(out.ends_with(&TAIL));
        out.truncate(out.len() - TAIL.len());
    }
    out
}
