//! Incremental UTF-8 validation (RFC 3629), for text that arrives in pieces.
//!
//! Owns up to three bytes of a character that was cut in two; keeps no text. It fails at the first chunk after
//! which no continuation could be valid (RFC 6455 §8.1, Autobahn 6.4.*), not when the character would be whole.
//! Called by `websocket` for partial frames and fragments, and by whoever inflates compressed text.

use thiserror::Error;

/// The bytes are not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("invalid UTF-8")]
pub struct InvalidUtf8;

/// Validates a text that is whole.
pub fn validate(text: &[u8]) -> Result<(), InvalidUtf8> {
    match simdutf8::basic::from_utf8(text) {
        Ok(_) => Ok(()),
        Err(_) => Err(InvalidUtf8),
    }
}

/// Validates a text chunk by chunk.
#[derive(Debug, Default, Clone, Copy)]
pub struct Validator {
    /// The start of a character whose end has not come yet: so far a valid prefix.
    pending: [u8; 3],
    pending_len: u8,
}

impl Validator {
    /// Takes the next chunk of the text. After an error the validator is of no use until it is `reset`.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), InvalidUtf8> {
        let rest = self.complete_pending(chunk)?;
        match simdutf8::compat::from_utf8(rest) {
            Ok(_) => Ok(()),
            // A length tells of a sequence that nothing can mend; none, of one that merely stops short.
            Err(error) if error.error_len().is_some() => Err(InvalidUtf8),
            Err(error) => {
                self.keep(&rest[error.valid_up_to()..]);
                Ok(())
            }
        }
    }

    /// Says that the text ends here: a character that is cut off is an error.
    pub fn finish(&self) -> Result<(), InvalidUtf8> {
        if self.pending_len == 0 { Ok(()) } else { Err(InvalidUtf8) }
    }

    /// Feeds the pending character from `chunk` until it is whole; returns what is left of the chunk.
    fn complete_pending<'a>(&mut self, chunk: &'a [u8]) -> Result<&'a [u8], InvalidUtf8> {
        let mut rest = chunk;
        while self.pending_len > 0 {
            let Some((&next, after)) = rest.split_first() else {
                break;
            };
            rest = after;
            let pending_len = usize::from(self.pending_len);
            let mut character = [0; 4];
            character[..pending_len].copy_from_slice(&self.pending[..pending_len]);
            character[pending_len] = next;
            match std::str::from_utf8(&character[..=pending_len]) {
                Ok(_) => self.pending_len = 0,
                Err(error) if error.error_len().is_some() => return Err(InvalidUtf8),
                Err(_) => self.keep(&character[..=pending_len]),
            }
        }
        Ok(rest)
    }

    fn keep(&mut self, prefix: &[u8]) {
        assert!(prefix.len() <= self.pending.len(), "four bytes are a character or an error");
        self.pending[..prefix.len()].copy_from_slice(prefix);
        self.pending_len = prefix.len() as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::{InvalidUtf8, Validator, validate};

    /// Whether some continuation of `prefix` is UTF-8: tried, not reasoned.
    fn can_become_valid(prefix: &[u8]) -> bool {
        let valid = match std::str::from_utf8(prefix) {
            Ok(_) => return true,
            Err(error) => error.valid_up_to(),
        };
        let tail = &prefix[valid..];
        // A character's second byte has the only uneven ranges; 0x80, 0x90 and 0xBF meet each of them.
        let candidates = [0x80, 0x90, 0xBF];
        tail.len() < 4
            && candidates.iter().any(|&second| {
                (1..=3usize).any(|missing| {
                    let mut whole = tail.to_vec();
                    whole.extend((0..missing).map(|at| if at == 0 { second } else { 0x80 }));
                    std::str::from_utf8(&whole).is_ok_and(|text| text.chars().count() == 1)
                })
            })
    }

    fn samples() -> Vec<Vec<u8>> {
        let mut samples: Vec<Vec<u8>> = vec![
            b"".to_vec(),
            b"plain".to_vec(),
            "κόσμε \u{10FFFF}\u{D7FF}\u{E000} 😀 中文".as_bytes().to_vec(),
            "ascii that is longer than a vector register, ".repeat(5).into_bytes(),
        ];
        // Every lead byte with the second bytes at the edges of their ranges, alone and amid text.
        for lead in 0x80..=0xFFu8 {
            for second in [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF] {
                samples.push(vec![lead, second]);
                samples.push(vec![b'a', lead, second, 0x80, 0x80, b'z']);
                samples.push([&[b'x'; 70][..], &[lead, second, 0xBF, b'z']].concat());
            }
        }
        samples
    }

    #[test]
    fn every_split_fails_where_no_continuation_is_valid() {
        for sample in samples() {
            for split in 0..=sample.len() {
                let mut validator = Validator::default();
                let first = validator.push(&sample[..split]);
                assert_eq!(first.is_ok(), can_become_valid(&sample[..split]), "{sample:x?} to {split}");
                if first.is_err() {
                    continue;
                }
                let second = validator.push(&sample[split..]);
                assert_eq!(second.is_ok(), can_become_valid(&sample), "{sample:x?} from {split}");
                if second.is_ok() {
                    assert_eq!(validator.finish().is_ok(), std::str::from_utf8(&sample).is_ok());
                }
            }
        }
    }

    #[test]
    fn byte_by_byte_fails_at_the_first_hopeless_byte() {
        for sample in samples() {
            let mut validator = Validator::default();
            for (at, byte) in sample.iter().enumerate() {
                let result = validator.push(&[*byte]);
                assert_eq!(result.is_ok(), can_become_valid(&sample[..=at]), "{sample:x?} at {at}");
                if result.is_err() {
                    break;
                }
            }
        }
    }

    #[test]
    fn whole_texts_agree_with_std() {
        for sample in samples() {
            assert_eq!(validate(&sample).is_ok(), std::str::from_utf8(&sample).is_ok(), "{sample:x?}");
        }
    }

    #[test]
    fn an_incomplete_tail_is_an_error_only_at_the_end() {
        let mut validator = Validator::default();
        assert_eq!(validator.push(&[0xF0, 0x9F]), Ok(()));
        assert_eq!(validator.finish(), Err(InvalidUtf8));
        assert_eq!(validator.push(b""), Ok(()));
        assert_eq!(validator.push(&[0x98, 0x80]), Ok(()));
        assert_eq!(validator.finish(), Ok(()));
        assert_eq!(validator.push(&[0xE2]), Ok(()));
        validator = Validator::default();
        assert_eq!(validator.finish(), Ok(()));
    }

    #[test]
    fn stays_small() {
        assert!(size_of::<Validator>() <= 8);
    }
}
