//! The body of a request, taken off the stream piece by piece (RFC 9112 §6, §7.1): a length, or chunks. Keeps no bytes:
//! the caller gets slices of what it gave. Anything in the framing of chunks that has two readings is refused.

use super::{BodyFraming, HttpFault};

/// The most bytes of a chunk's size line. Extensions are read over.
const SIZE_LINE_BYTES: u16 = 256;
/// The most bytes of the trailer section, which is read over.
const TRAILER_BYTES: u16 = 4 * 1024;
/// The most hexadecimal digits of a chunk's size: more do not fit a `u64`.
const SIZE_DIGITS: u16 = 16;

/// Takes one body off a stream of bytes.
#[derive(Debug)]
pub struct BodyDecoder {
    place: BodyPlace,
    /// The bytes of the size line or of the trailer section so far.
    line_bytes: u16,
}

/// What the decoder reads next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyPlace {
    /// This many bytes of a body whose length was told.
    Plain(u64),
    /// The digits of a chunk's size.
    Size(u64),
    /// The rest of a size line, up to its carriage return.
    Extension(u64),
    /// The line feed of a size line.
    SizeEnd(u64),
    /// This many bytes of a chunk.
    Data(u64),
    /// The carriage return behind a chunk.
    DataReturn,
    /// The line feed behind a chunk.
    DataEnd,
    /// The first byte of a trailer line, or the carriage return that ends the body.
    LineStart,
    /// The rest of a trailer line.
    Line,
    /// The line feed of a trailer line.
    LineEnd,
    /// The line feed that ends the body.
    LastEnd,
    /// The body has ended.
    Done,
}

impl BodyDecoder {
    /// Begins behind the head of a request.
    pub fn new(framing: BodyFraming) -> Self {
        let place = match framing {
            BodyFraming::Length(0) => BodyPlace::Done,
            BodyFraming::Length(length) => BodyPlace::Plain(length),
            BodyFraming::Chunked => BodyPlace::Size(0),
        };
        Self { place, line_bytes: 0 }
    }

    /// Takes bytes off `input` up to the end of the body, and gives its content to `take`, slice by slice. Returns whether
    /// the body has ended; what follows it stays in `input`. If not, all of `input` was taken.
    ///
    /// # Errors
    /// The chunks are malformed. Where the next request begins is unknown then.
    pub fn feed<'a>(&mut self, input: &mut &'a [u8], mut take: impl FnMut(&'a [u8])) -> Result<bool, HttpFault> {
        loop {
            match self.place {
                BodyPlace::Done => return Ok(true),
                BodyPlace::Plain(left) | BodyPlace::Data(left) => {
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    if count == 0 {
                        return Ok(false);
                    }
                    let (data, rest) = input.split_at(count);
                    take(data);
                    *input = rest;
                    let left = left - count as u64;
                    self.place = match (self.place, left) {
                        (BodyPlace::Plain(_), 0) => BodyPlace::Done,
                        (BodyPlace::Plain(_), left) => BodyPlace::Plain(left),
                        (_, 0) => BodyPlace::DataReturn,
                        (_, left) => BodyPlace::Data(left),
                    };
                }
                place => {
                    let [byte, rest @ ..] = *input else { return Ok(false) };
                    *input = rest;
                    self.place = self.framing_byte(place, *byte)?;
                }
            }
        }
    }

    /// The place behind one byte that is no content.
    fn framing_byte(&mut self, place: BodyPlace, byte: u8) -> Result<BodyPlace, HttpFault> {
        let most = match place {
            BodyPlace::LineStart | BodyPlace::Line | BodyPlace::LineEnd | BodyPlace::LastEnd => TRAILER_BYTES,
            _ => SIZE_LINE_BYTES,
        };
        self.line_bytes += 1;
        if self.line_bytes > most {
            return Err(HttpFault::Chunk);
        }
        let is_text = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        match (place, byte) {
            (BodyPlace::Size(size), _) if byte.is_ascii_hexdigit() && self.line_bytes <= SIZE_DIGITS => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                Ok(BodyPlace::Size(size << 4 | u64::from(digit)))
            }
            // A size has at least one digit.
            (BodyPlace::Size(size), b'\r') if self.line_bytes > 1 => Ok(BodyPlace::SizeEnd(size)),
            (BodyPlace::Size(size), b';' | b' ' | b'\t') if self.line_bytes > 1 => Ok(BodyPlace::Extension(size)),
            (BodyPlace::Extension(size), b'\r') => Ok(BodyPlace::SizeEnd(size)),
            (BodyPlace::Extension(size), _) if is_text => Ok(BodyPlace::Extension(size)),
            (BodyPlace::SizeEnd(size), b'\n') => {
                self.line_bytes = 0;
                Ok(if size == 0 { BodyPlace::LineStart } else { BodyPlace::Data(size) })
            }
            (BodyPlace::DataReturn, b'\r') => Ok(BodyPlace::DataEnd),
            (BodyPlace::DataEnd, b'\n') => {
                self.line_bytes = 0;
                Ok(BodyPlace::Size(0))
            }
            (BodyPlace::LineStart, b'\r') => Ok(BodyPlace::LastEnd),
            (BodyPlace::Line, b'\r') => Ok(BodyPlace::LineEnd),
            (BodyPlace::LineStart | BodyPlace::Line, _) if is_text => Ok(BodyPlace::Line),
            (BodyPlace::LineEnd, b'\n') => Ok(BodyPlace::LineStart),
            (BodyPlace::LastEnd, b'\n') => Ok(BodyPlace::Done),
            _ => Err(HttpFault::Chunk),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body, and the bytes that follow it; `None` if the body has no end.
    type BodyAndRest = Result<Option<(Vec<u8>, Vec<u8>)>, HttpFault>;

    /// Decodes a stream that is given in pieces of `step` bytes.
    fn decode(framing: BodyFraming, bytes: &[u8], step: usize) -> BodyAndRest {
        let (mut decoder, mut body) = (BodyDecoder::new(framing), Vec::new());
        let mut at = 0;
        loop {
            let piece = &bytes[at..(at + step).min(bytes.len())];
            let mut input = piece;
            let done = decoder.feed(&mut input, |data| body.extend_from_slice(data))?;
            at += piece.len() - input.len();
            if done {
                return Ok(Some((body, bytes[at..].to_vec())));
            }
            assert!(input.is_empty(), "all was taken");
            if at == bytes.len() {
                return Ok(None);
            }
        }
    }

    fn chunked(bytes: &[u8]) -> BodyAndRest {
        let whole = decode(BodyFraming::Chunked, bytes, usize::MAX / 2);
        for step in 1..=3 {
            assert_eq!(
                decode(BodyFraming::Chunked, bytes, step),
                whole,
                "{:?} by {step}",
                String::from_utf8_lossy(bytes)
            );
        }
        whole
    }

    #[test]
    fn a_length_ends_a_body() {
        for step in [1, 3, 100] {
            let body = decode(BodyFraming::Length(5), b"helloGET", step);
            assert_eq!(body, Ok(Some((b"hello".to_vec(), b"GET".to_vec()))));
            assert_eq!(decode(BodyFraming::Length(0), b"GET", step), Ok(Some((Vec::new(), b"GET".to_vec()))));
            assert_eq!(decode(BodyFraming::Length(9), b"hello", step), Ok(None));
        }
    }

    #[test]
    fn chunks_are_put_together() {
        for (bytes, body, rest) in [
            ("0\r\n\r\n", "", ""),
            ("5\r\nhello\r\n0\r\n\r\nGET", "hello", "GET"),
            ("00a\r\n0123456789\r\n1\r\nx\r\n0000\r\n\r\n", "0123456789x", ""),
            ("2;a=b;c=\"d e\"\r\n\r\n\r\n0;x\r\n\r\n", "\r\n", ""),
            ("1 \t;a\r\nx\r\n0\r\nTrailer: 1\r\nAnother: 2\r\n\r\nGET", "x", "GET"),
            ("A\r\n0123456789\r\n0\r\n\r\n", "0123456789", ""),
        ] {
            assert_eq!(chunked(bytes.as_bytes()), Ok(Some((body.into(), rest.into()))), "{bytes:?}");
        }
        for unfinished in ["", "5", "5\r\nhell", "5\r\nhello", "5\r\nhello\r\n0\r\n", "0\r\nA: b\r\n"] {
            assert_eq!(chunked(unfinished.as_bytes()), Ok(None), "{unfinished:?}");
        }
    }

    #[test]
    fn chunks_have_one_reading() {
        for bytes in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\nx",
            "0x1\r\nx",
            " 1\r\nx",
            ";a\r\n",
            "1\nx",
            "1\r\nxy",
            "1\r\nx\n",
            "1\r\nx\r\r",
            "1;\n\r\n",
            "1;\0\r\n",
            "1 a\rb",
            "0\r\n\n",
            "0\r\nA: b\n\r\n",
            "0\r\n\rX",
            "11111111111111111\r\n",
            "1\r\nx\r\n\r\n",
        ] {
            assert_eq!(chunked(bytes.as_bytes()), Err(HttpFault::Chunk), "{bytes:?}");
        }
        let long = |count: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(count));
        assert!(chunked(long(252).as_bytes()).is_ok());
        assert_eq!(chunked(long(300).as_bytes()), Err(HttpFault::Chunk));
        let trailer = |count: usize| format!("0\r\nA: {}\r\n\r\n", "e".repeat(count));
        assert!(chunked(trailer(4_000).as_bytes()).is_ok());
        assert_eq!(chunked(trailer(5_000).as_bytes()), Err(HttpFault::Chunk));
    }

    #[test]
    fn a_size_has_room_for_every_u64() {
        let (mut decoder, mut input) = (BodyDecoder::new(BodyFraming::Chunked), &b"ffffffffffffffff\r\nx"[..]);
        let mut taken = 0;
        assert_eq!(decoder.feed(&mut input, |data| taken += data.len()), Ok(false));
        assert_eq!(taken, 1);
    }
}
