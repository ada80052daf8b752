//! Messages inflated and compressed (RFC 7692, section 7.2).
//!
//! An inflater belongs to one connection and keeps what came before, as the server may refer to it. What is sent
//! refers to nothing before it, which is always allowed, so that one compressor per window size serves a whole thread.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::frame::MAX_MESSAGE;

/// What a message's DEFLATE ends with and does not send (section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// The smallest window that can be compressed for, as a base-2 logarithm.
const LEAST_WINDOW_BITS: u8 = 9;
/// Of what is asked for: fast, as a client that sends live does.
const LEVEL: u32 = 1;

/// Inflates one connection's messages, in their order.
pub struct Inflater {
    stream: Decompress,
    /// The server begins each message afresh.
    forgets: bool,
}

impl Inflater {
    /// At the beginning of a connection.
    pub fn new(forgets: bool) -> Self {
        // The largest window reads what was written with any.
        Self { stream: Decompress::new(false), forgets }
    }

    /// Puts the content of the next message into `out`.
    ///
    /// # Errors
    /// What is no DEFLATE or longer than is taken, for people.
    pub fn message(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        out.clear();
        let ended = self.part(payload, out)? || self.part(&TAIL, out)?;
        if ended || self.forgets {
            self.stream.reset(false);
        }
        Ok(())
    }

    /// Returns whether a final block ended the stream.
    fn part(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<bool, String> {
        let start = self.stream.total_in();
        loop {
            if out.len() == out.capacity() {
                out.reserve(out.len().max(4096));
            }
            let done = (self.stream.total_in() - start) as usize;
            let before = (done, out.len());
            let status = self.stream.decompress_vec(&input[done..], out, FlushDecompress::Sync);
            let status = status.map_err(|error| format!("a message that is no DEFLATE: {error}"))?;
            if out.len() > MAX_MESSAGE {
                return Err(format!("a message that inflates to more than {MAX_MESSAGE} bytes"));
            }
            let done = (self.stream.total_in() - start) as usize;
            if status == Status::StreamEnd {
                return Ok(true);
            }
            // Room that was not used up: there is no more to be had.
            if done == input.len() && out.len() < out.capacity() {
                return Ok(false);
            }
            if (done, out.len()) == before && out.len() < out.capacity() {
                return Err("a message that is no DEFLATE: it ends in the middle".to_owned());
            }
        }
    }
}

/// The compressors of one thread, by window size.
#[derive(Default)]
pub struct Compressors {
    pool: [Option<Box<Compress>>; 7],
    scratch: Vec<u8>,
}

impl Compressors {
    /// The message compressed by itself for a window of so many bits, 9 to 15; none if that is not shorter.
    pub fn message(&mut self, payload: &[u8], window_bits: u8) -> Option<&[u8]> {
        let slot = self.pool.get_mut(usize::from(window_bits.checked_sub(LEAST_WINDOW_BITS)?))?;
        let stream = slot.get_or_insert_with(|| {
            Box::new(Compress::new_with_window_bits(Compression::new(LEVEL), false, window_bits))
        });
        stream.reset();
        self.scratch.clear();
        // A stream that stops for want of room is not left clean by a reset (zlib-rs 0.6.8): there is always enough.
        self.scratch.reserve(payload.len() + payload.len() / 8 + 1024);
        let status = stream.compress_vec(payload, &mut self.scratch, FlushCompress::Sync).ok()?;
        let is_whole = status == Status::Ok && stream.total_in() == payload.len() as u64;
        let body = self.scratch.strip_suffix(&TAIL)?;
        (is_whole && body.len() < payload.len()).then_some(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(number: usize) -> Vec<u8> {
        format!(r#"{{"type":"message","data":{{"offset":{number},"text":"{}"}}}}"#, "word ".repeat(number % 300)).into()
    }

    #[test]
    fn what_is_compressed_comes_back_in_every_window() {
        let mut compressors = Compressors::default();
        let mut inflater = Inflater::new(false);
        let mut out = Vec::new();
        for bits in 9..=15 {
            for number in [10, 299, 40, 65_536] {
                let plain = text(number);
                let packed = compressors.message(&plain, bits).unwrap();
                inflater.message(packed, &mut out).unwrap();
                assert_eq!(out, plain, "window {bits}");
            }
        }
        let mut random = crate::random::Random::new(7);
        for length in [0, 1, 70_000, 70_000, 70_000, 300_000] {
            let noise: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            assert_eq!(compressors.message(&noise, 15), None, "{length} bytes of noise don't shrink");
        }
        assert!(compressors.message(&text(100), 15).is_some());
        assert_eq!(compressors.message(&text(100), 8), None);
    }

    /// A server that takes its context over: each message refers to those before.
    #[test]
    fn the_context_is_kept_unless_the_server_forgets() {
        let mut server = Compress::new(Compression::new(6), false);
        let mut whole = Vec::new();
        let mut messages = Vec::new();
        for number in 0..50 {
            let (from, mut part) = (server.total_out(), Vec::with_capacity(64 << 10));
            server.compress_vec(&text(120 + number % 2), &mut part, FlushCompress::Sync).unwrap();
            assert_eq!(part.len() as u64, server.total_out() - from);
            part.truncate(part.len() - 4);
            messages.push(part.clone());
            whole.extend(part);
        }
        assert!(messages[2].len() < messages[0].len(), "the third is little but a reference");
        let (mut keeps, mut out) = (Inflater::new(false), Vec::new());
        for (number, message) in messages.iter().enumerate() {
            keeps.message(message, &mut out).unwrap();
            assert_eq!(out, text(120 + number % 2));
        }
        let mut forgets = Inflater::new(true);
        forgets.message(&messages[0], &mut out).unwrap();
        assert!(forgets.message(&messages[2], &mut out).is_err(), "it refers to what was forgotten");
    }

    #[test]
    fn final_blocks_are_taken_and_what_is_no_deflate_is_not() {
        let (mut inflater, mut out) = (Inflater::new(false), Vec::new());
        // RFC 7692, 7.2.3.4: "Hello" with BFINAL set, and a zero behind it.
        inflater.message(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], &mut out).unwrap();
        assert_eq!(out, b"Hello");
        // 7.2.3.1, 7.2.3.3 and 7.2.3.6: one block, no compression, an empty message.
        for (message, content) in [
            (&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..], &b"Hello"[..]),
            (&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], b"Hello"),
            (&[0x00], b""),
        ] {
            inflater.message(message, &mut out).unwrap();
            assert_eq!(out, content);
        }
        for bad in [&[0xff, 0xff, 0xff, 0xff][..], &[0x00, 0x05, 0x00, 0x00, 0x00, 0x48]] {
            assert!(Inflater::new(false).message(bad, &mut out).is_err(), "{bad:?}");
        }
    }
}
