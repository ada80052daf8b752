//! Finds a value in the client's own bytes, given its place on simd-json's tape. The tape keeps no spans. But
//! simd-json's first pass leaves the place of every structural character of the text: brackets, colons, commas, and the
//! first byte of each string, number and word. The tape tells how many structural characters a value takes, so a place
//! on the tape gives a place in the text.

use simd_json::Node;

use super::fields::{TapeMember, width};

/// A text that simd-json has parsed.
#[derive(Clone, Copy)]
pub(crate) struct ParsedText<'t, 'a> {
    /// The text as it was received.
    pub(crate) text: &'a [u8],
    /// The places of its structural characters in `text`.
    pub(crate) structurals: &'t [u32],
    /// The tape that simd-json made of the text.
    pub(crate) tape: &'t [Node<'a>],
}

impl<'a> ParsedText<'_, 'a> {
    /// The value of `inner`, which is a member of the envelope's member `outer`, as the client wrote it.
    pub(crate) fn value_in(self, outer: &TapeMember<'a>, inner: &TapeMember<'a>) -> Option<&'a [u8]> {
        let object = self.structural_of(0, 0, outer)?;
        let first = self.structural_of(outer.at, object, inner)?;
        let nodes = self.tape.get(inner.at..inner.at + width(&inner.node))?;
        let start = *self.structurals.get(first)? as usize;
        // The structural character behind a member's value is a comma or a bracket.
        let end = *self.structurals.get(first + structurals_in(nodes))? as usize;
        Some(self.text.get(start..end)?.trim_ascii_end())
    }

    /// The number of the structural character with which the member's value begins. The member's object begins at `at`
    /// on the tape, and with the structural character number `object`.
    fn structural_of(self, at: usize, object: usize, member: &TapeMember<'a>) -> Option<usize> {
        let before = structurals_in(self.tape.get(at + 1..member.at)?);
        // Each member before it adds a colon and a comma to its key and value. Then comes the member's own colon.
        Some(object + 1 + before + 2 * member.ordinal + 1)
    }
}

/// The number of structural characters of these nodes. Commas and colons count only within whole objects and arrays.
fn structurals_in(nodes: &[Node<'_>]) -> usize {
    let of_one = |node: &Node<'_>| match *node {
        Node::Object { len, .. } => 1 + (2 * len).max(1),
        Node::Array { len, .. } => 1 + len.max(1),
        Node::String(_) | Node::Static(_) => 1,
    };
    nodes.iter().map(of_one).sum()
}

/// Takes the place of a number that no machine word holds. It is no whole number, so no field accepts it as one.
const STAND_IN: &[u8] = b"0.5";

/// Replaces numbers that JSON allows and simd-json doesn't by a short stand-in and spaces. No structural character moves,
/// so places in the copy are places in the text. Returns whether there were such numbers.
pub(crate) fn clip_numbers(scratch: &mut [u8], structurals: &[u32]) -> bool {
    let mut clipped = false;
    for &start in structurals {
        let rest = scratch.get_mut(start as usize..).unwrap_or_default();
        let len = rest.iter().take_while(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')).count();
        let number = &mut rest[..len];
        if is_number(number) && !fits(number) {
            number.fill(b' ');
            number[..STAND_IN.len()].copy_from_slice(STAND_IN);
            clipped = true;
        }
    }
    clipped
}

/// Whether the token is a number by RFC 8259 §6.
fn is_number(token: &[u8]) -> bool {
    let digits = |bytes: &[u8]| bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut rest = token.strip_prefix(b"-").unwrap_or(token);
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest[0] == b'0') {
        return false;
    }
    rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let len = digits(fraction);
        if len == 0 {
            return false;
        }
        rest = &fraction[len..];
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = match exponent {
            [b'+' | b'-', exponent @ ..] => exponent,
            exponent => exponent,
        };
        let len = digits(exponent);
        if len == 0 {
            return false;
        }
        rest = &exponent[len..];
    }
    rest.is_empty()
}

/// Whether simd-json can hold this number. All numbers of up to 4 bytes fit, so the stand-in fits too.
fn fits(number: &[u8]) -> bool {
    let Ok(number) = std::str::from_utf8(number) else { return true };
    if number.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit()) {
        number.parse::<u64>().is_ok() || number.parse::<i64>().is_ok()
    } else {
        number.parse::<f64>().is_ok_and(f64::is_finite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_json_numbers() {
        for number in
            ["0", "-0", "10", "1.5", "1e9", "1E+9", "0.0e-0", "-12.50E12345", "123456789012345678901234567890"]
        {
            assert!(is_number(number.as_bytes()), "{number}");
        }
        for not in ["", "-", "01", "-01", "+1", "1.", ".5", "1e", "1e+", "1.e5", "--1", "1-1", "1e5.5", "1.2.3"] {
            assert!(!is_number(not.as_bytes()), "{not}");
        }
    }

    #[test]
    fn only_numbers_that_do_not_fit_are_clipped() {
        let clip = |text: &str| {
            let mut scratch = text.as_bytes().to_vec();
            let structurals: Vec<u32> =
                (0..text.len() as u32).filter(|&at| at == 0 || text.as_bytes()[at as usize - 1] == b',').collect();
            clip_numbers(&mut scratch, &structurals).then(|| String::from_utf8_lossy(&scratch).into_owned())
        };
        assert_eq!(clip("1,18446744073709551615,-9223372036854775808,1e308,5e-999,0.1"), None);
        assert_eq!(clip("18446744073709551616,7").as_deref(), Some("0.5                 ,7"));
        assert_eq!(clip("-9223372036854775809").as_deref(), Some("0.5                 "));
        assert_eq!(clip("1e309,-1e999,1e308").as_deref(), Some("0.5  ,0.5   ,1e308"));
        assert_eq!(clip("1e309x,01e999,true"), Some("0.5  x,01e999,true".into()));
    }
}
