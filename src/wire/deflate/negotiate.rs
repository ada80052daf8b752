//! The Sec-WebSocket-Extensions header: what a client offers (RFC 6455 §9.1), and which of its offers of
//! permessage-deflate is taken (RFC 7692 §5, §7.1).
//!
//! The first offer that can be taken is, whatever its place and line. One that has a parameter that is unknown,
//! repeated or has a value that it can't have is declined (§7.1) and the next one looked at. A header that is not even
//! a list of extensions fails the handshake, as RFC 6455 §9.1 demands.

use super::Deflate;

/// The name of the extension.
const NAME: &[u8] = b"permessage-deflate";
/// Windows that can be named (§7.1.2) …
const WINDOW_BITS: std::ops::RangeInclusive<u8> = 8..=15;
/// … the least that is offered to be kept to, since zlib has no compressor for 8, and that without a word.
const LEAST_WINDOW_BITS: u8 = 9;
/// The windows that are compressed with. A client that names another gets the next smaller one, which it can inflate
/// as well: the same messages are compressed anew for each window.
const USED_WINDOW_BITS: [u8; 3] = [15, 12, LEAST_WINDOW_BITS];

/// The header is no list of extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// An offer that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// What the server compresses with.
    pub(crate) deflate: Deflate,
    /// The window that the client named for the server. It has to be answered (§7.1.2.1).
    named_window: Option<u8>,
}

impl Agreed {
    /// The value of the response's header.
    pub(crate) fn response(&self) -> String {
        // Always told, though not asked for (§7.1.1.2): no inflater has to be kept.
        let mut response = String::from("permessage-deflate; client_no_context_takeover");
        if !self.deflate.takeover {
            response.push_str("; server_no_context_takeover");
        }
        if let Some(bits) = self.named_window {
            response.push_str("; server_max_window_bits=");
            response.push_str(&bits.to_string());
        }
        response
    }
}

/// The first offer of permessage-deflate that can be taken; `lines` are all the headers of that name.
///
/// # Errors
/// [`Malformed`], wherever in the header the fault stands. An empty header offers nothing, and is none.
pub(crate) fn negotiate<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Result<Option<Agreed>, Malformed> {
    let mut agreed = None;
    for line in lines {
        let mut rest = Rest(line);
        while let Some(name) = rest.element()? {
            let mut offer = Offer::default();
            while rest.eat(b';') {
                let (name, value) = rest.parameter()?;
                offer.take(name, value);
            }
            if !rest.ends_element() {
                return Err(Malformed);
            }
            if name == NAME && agreed.is_none() {
                agreed = offer.agreed();
            }
        }
    }
    Ok(agreed)
}

/// An offer of permessage-deflate, as far as it was read.
#[derive(Default)]
struct Offer {
    declined: bool,
    /// The parameters seen, a bit each.
    seen: u8,
    server_no_takeover: bool,
    server_window: Option<u8>,
}

impl Offer {
    fn take(&mut self, name: &[u8], value: Option<Value<'_>>) {
        let window = value.map(|value| value.number().filter(|bits| WINDOW_BITS.contains(bits)));
        let bit = match (name, window) {
            (b"server_no_context_takeover", None) => {
                self.server_no_takeover = true;
                0b0001
            }
            // What it asks for is what every client is told.
            (b"client_no_context_takeover", None) => 0b0010,
            (b"server_max_window_bits", Some(Some(bits))) => {
                self.server_window = Some(bits);
                self.declined |= bits < LEAST_WINDOW_BITS;
                0b0100
            }
            // A hint that we may be told a smaller window: any will do (§7.1.2.2).
            (b"client_max_window_bits", None | Some(Some(_))) => 0b1000,
            _ => {
                self.declined = true;
                0
            }
        };
        self.declined |= self.seen & bit != 0;
        self.seen |= bit;
    }

    fn agreed(&self) -> Option<Agreed> {
        let fits = |bits: &u8| self.server_window.is_none_or(|named| *bits <= named);
        let window_bits = USED_WINDOW_BITS.into_iter().find(fits)?;
        let deflate = Deflate { window_bits, takeover: !self.server_no_takeover };
        (!self.declined).then_some(Agreed { deflate, named_window: self.server_window })
    }
}

/// What stands behind a parameter's equals sign: a token, or a quoted string with one in it.
#[derive(Clone, Copy)]
struct Value<'a> {
    text: &'a [u8],
    quoted: bool,
}

impl Value<'_> {
    /// The bytes with the backslashes taken away that a quoted string may have.
    fn bytes(&self) -> impl Iterator<Item = u8> {
        let mut bytes = self.text.iter().copied();
        let quoted = self.quoted;
        std::iter::from_fn(move || match bytes.next()? {
            b'\\' if quoted => bytes.next(),
            byte => Some(byte),
        })
    }

    /// A decimal number without leading zeros (§7.1.2).
    fn number(&self) -> Option<u8> {
        if self.bytes().next() == Some(b'0') {
            return None;
        }
        self.bytes().try_fold(0_u8, |number, byte| {
            let digit = byte.is_ascii_digit().then(|| byte - b'0')?;
            number.checked_mul(10)?.checked_add(digit)
        })
    }
}

/// What is left of a line. White space may stand between any two parts of it (RFC 2616 §2.1, which RFC 6455 goes by).
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    /// The name of the next extension; `None` at the end. An element may be empty (RFC 2616 §2.1).
    fn element(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        while self.eat(b',') {}
        if self.0.is_empty() { Ok(None) } else { self.token().map(Some) }
    }

    /// Whether an element ends here.
    fn ends_element(&self) -> bool {
        matches!(self.0.first(), None | Some(b','))
    }

    fn parameter(&mut self) -> Result<(&'a [u8], Option<Value<'a>>), Malformed> {
        self.skip_blanks();
        let name = self.token()?;
        let value = if self.eat(b'=') { Some(self.value()?) } else { None };
        self.skip_blanks();
        Ok((name, value))
    }

    fn value(&mut self) -> Result<Value<'a>, Malformed> {
        self.skip_blanks();
        if self.0.first() != Some(&b'"') {
            return Ok(Value { text: self.token()?, quoted: false });
        }
        let inside = &self.0[1..];
        let mut escaped = false;
        let end = inside.iter().position(|&byte| {
            let is_end = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            is_end
        });
        let end = end.ok_or(Malformed)?;
        self.0 = &inside[end + 1..];
        let value = Value { text: &inside[..end], quoted: true };
        // RFC 6455 §9.1: what is quoted has to be a token by itself.
        let is_token = end > 0 && value.bytes().all(is_token);
        is_token.then_some(value).ok_or(Malformed)
    }

    fn token(&mut self) -> Result<&'a [u8], Malformed> {
        let end = self.0.iter().position(|&byte| !is_token(byte)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        self.skip_blanks();
        if token.is_empty() { Err(Malformed) } else { Ok(token) }
    }

    fn eat(&mut self, byte: u8) -> bool {
        self.skip_blanks();
        let found = self.0.first() == Some(&byte);
        self.0 = &self.0[usize::from(found)..];
        found
    }

    fn skip_blanks(&mut self) {
        while let [b' ' | b'\t', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What the lines of a header are answered with; an empty text for "declined".
    fn answer(lines: &[&str]) -> Result<String, Malformed> {
        let agreed = negotiate(lines.iter().map(|line| line.as_bytes()))?;
        Ok(agreed.map_or(String::new(), |agreed| agreed.response()))
    }

    const PLAIN: &str = "permessage-deflate; client_no_context_takeover";

    #[track_caller]
    fn taken(line: &str, more: &str) {
        assert_eq!(answer(&[line]), Ok(format!("{PLAIN}{more}")), "{line}");
    }

    #[track_caller]
    fn declined(line: &str) {
        assert_eq!(answer(&[line]), Ok(String::new()), "{line}");
        // It does no harm to what follows.
        assert_eq!(answer(&[&format!("{line}, permessage-deflate")]), Ok(PLAIN.to_owned()), "{line}");
        assert_eq!(answer(&[line, "permessage-deflate"]), Ok(PLAIN.to_owned()), "{line}");
    }

    #[track_caller]
    fn malformed(line: &str) {
        assert_eq!(answer(&[line]), Err(Malformed), "{line}");
        assert_eq!(answer(&["permessage-deflate", line]), Err(Malformed), "{line}");
    }

    #[test]
    fn offers_of_clients_in_use() {
        // Chromium, Firefox, ws and undici; Safari; Python's websockets; aiohttp; Autobahn.
        taken("permessage-deflate; client_max_window_bits", "");
        taken("permessage-deflate", "");
        taken(
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
            "; server_max_window_bits=12",
        );
        taken("permessage-deflate; client_max_window_bits=15", "");
        taken(
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9; \
             client_max_window_bits",
            "; server_no_context_takeover; server_max_window_bits=9",
        );
    }

    #[test]
    fn the_window_that_is_used_is_no_larger_than_the_named_one() {
        let agreed = |line: &str| negotiate([line.as_bytes()].into_iter()).unwrap().unwrap().deflate;
        assert_eq!(agreed("permessage-deflate"), Deflate { window_bits: 15, takeover: true });
        let line = "permessage-deflate; server_max_window_bits=10; server_no_context_takeover";
        assert_eq!(agreed(line), Deflate { window_bits: 9, takeover: false });
        let used = [9, 9, 9, 12, 12, 12, 15];
        for (named, used) in (9..=15).zip(used) {
            assert_eq!(agreed(&format!("permessage-deflate; server_max_window_bits={named}")).window_bits, used);
        }
    }

    #[test]
    fn every_value_of_every_parameter() {
        for name in ["server_max_window_bits", "client_max_window_bits"] {
            for bits in 0..=300 {
                let line = format!("permessage-deflate; {name}={bits}");
                match (name, bits) {
                    ("server_max_window_bits", 9..=15) => taken(&line, &format!("; {name}={bits}")),
                    ("client_max_window_bits", 8..=15) => taken(&line, ""),
                    _ => declined(&line),
                }
            }
            for value in ["09", "015", "0", "+9", "-9", "9.0", "1e1", "ten", "x", "99999999999999999999", "0xA", "1_0"]
            {
                declined(&format!("permessage-deflate; {name}={value}"));
            }
        }
        declined("permessage-deflate; server_max_window_bits");
        for name in ["server_no_context_takeover", "client_no_context_takeover"] {
            for value in ["1", "true", "0", "\"x\""] {
                declined(&format!("permessage-deflate; {name}={value}"));
            }
        }
    }

    #[test]
    fn repeated_and_unknown_parameters_decline() {
        for parameter in [
            "server_no_context_takeover",
            "client_no_context_takeover",
            "server_max_window_bits=10",
            "client_max_window_bits",
            "client_max_window_bits=10",
        ] {
            declined(&format!("permessage-deflate; {parameter}; {parameter}"));
        }
        declined("permessage-deflate; client_max_window_bits=10; client_max_window_bits");
        declined("permessage-deflate; server_max_window_bits=10; server_max_window_bits=11");
        declined("permessage-deflate; mystery");
        declined("permessage-deflate; mystery=1; client_max_window_bits");
        declined("permessage-deflate; Client_Max_Window_Bits");
        // Another extension that begins alike, or is no longer in use, is none of ours.
        for other in ["permessage-deflate2", "x-webkit-deflate-frame", "permessage-bzip2; client_max_compress_level=9"]
        {
            declined(other);
        }
    }

    #[test]
    fn the_first_offer_that_can_be_taken_is() {
        let offers = "permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=11, \
                      permessage-deflate";
        taken(offers, "; server_max_window_bits=11");
        let lines = ["foo; bar=\"a\", permessage-deflate; x", "permessage-deflate; server_no_context_takeover", "baz"];
        assert_eq!(answer(&lines), Ok(format!("{PLAIN}; server_no_context_takeover")));
        assert_eq!(answer(&[]), Ok(String::new()));
    }

    #[test]
    fn quotes_and_blanks_are_grammar() {
        taken("permessage-deflate;server_max_window_bits=\"11\"", "; server_max_window_bits=11");
        taken("permessage-deflate; server_max_window_bits=\"1\\1\"", "; server_max_window_bits=11");
        taken("permessage-deflate; client_max_window_bits=\"\\8\"", "");
        taken(" \tpermessage-deflate\t;\tserver_max_window_bits = 11 ,", "; server_max_window_bits=11");
        taken(", ,permessage-deflate,,", "");
        declined("permessage-deflate; server_max_window_bits=\"09\"");
        for empty in ["", " ", ",", " , ,"] {
            declined(empty);
        }
    }

    #[test]
    fn what_is_no_list_of_extensions() {
        for line in [
            ";",
            "=",
            "permessage-deflate;",
            "permessage-deflate; ; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; =10",
            "permessage-deflate; client_max_window_bits=10 11",
            "permessage-deflate client_max_window_bits",
            "permessage-deflate; client_max_window_bits=\"10",
            "permessage-deflate; client_max_window_bits=\"10\\",
            "permessage-deflate; client_max_window_bits=\"\"",
            "permessage-deflate; client_max_window_bits=\"1 0\"",
            "permessage-deflate; client_max_window_bits=\"1\"0",
            "permessage/deflate",
            "permessage-deflate; client_max_window_bits=10=10",
            "foo; bar=\"a,b\"",
            "fö",
            "a\u{7f}",
            "\u{1}",
        ] {
            malformed(line);
        }
    }
}
