//! Writes JSON objects member by member, straight into the caller's buffer, and tells how long a text is as JSON. Knows
//! JSON's syntax and nothing of the protocol.

use serde::Serialize;

/// One JSON object that is being written.
pub(crate) struct ObjectWriter<'o> {
    out: &'o mut Vec<u8>,
    /// What stands before the next member: the opening bracket, or a comma.
    separator: u8,
}

impl<'o> ObjectWriter<'o> {
    /// Begins an object in the buffer.
    pub(crate) fn begin(out: &'o mut Vec<u8>) -> Self {
        Self { out, separator: b'{' }
    }

    /// Ends the object that was begun.
    pub(crate) fn end(self) {
        if self.separator == b'{' {
            self.out.push(b'{');
        }
        self.out.push(b'}');
    }

    /// Writes a member's name, and returns the buffer for its value: one JSON value. `name` needs no escapes.
    pub(crate) fn value(&mut self, name: &str) -> &mut Vec<u8> {
        self.out.reserve(name.len() + 4);
        self.out.extend_from_slice(&[std::mem::replace(&mut self.separator, b','), b'"']);
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    /// Writes a member that is a text.
    pub(crate) fn text(&mut self, name: &str, text: &str) {
        write_text(self.value(name), text);
    }

    /// Writes a text, if there is one.
    pub(crate) fn optional_text(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    /// Writes a member that is a number.
    pub(crate) fn number(&mut self, name: &str, number: u64) {
        write_number(self.value(name), number);
    }

    /// Writes a number, if there is one.
    pub(crate) fn optional_number(&mut self, name: &str, number: Option<u64>) {
        if let Some(number) = number {
            self.number(name, number);
        }
    }

    /// Writes `true` or `false`.
    pub(crate) fn flag(&mut self, name: &str, flag: bool) {
        self.value(name).extend_from_slice(if flag { b"true" } else { b"false" });
    }

    /// Writes `true`, or leaves the member out.
    pub(crate) fn flag_if_set(&mut self, name: &str, flag: bool) {
        if flag {
            self.flag(name, true);
        }
    }

    /// Writes an object within this one.
    pub(crate) fn object(&mut self, name: &str, write: impl FnOnce(&mut ObjectWriter<'_>)) {
        let mut inner = ObjectWriter::begin(self.value(name));
        write(&mut inner);
        inner.end();
    }

    /// Writes a list, each item as `write` does.
    pub(crate) fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        write: impl FnMut(&mut Vec<u8>, T),
    ) {
        write_list(self.value(name), items, write);
    }
}

/// Writes a list, each item as `write` does.
pub(crate) fn write_list<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

/// Writes a text with its quotes.
pub(crate) fn write_text(out: &mut Vec<u8>, text: &str) {
    // Names, epochs and most texts need no escapes: they are copied at once.
    if has_escapes(text) {
        return write_json(out, text);
    }
    out.reserve(text.len() + 2);
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// Whether any byte needs an escape. All bytes are looked at: the compiler makes vector instructions of that.
fn has_escapes(text: &str) -> bool {
    text.bytes().fold(false, |found, byte| found | needs_escape(byte))
}

fn needs_escape(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

/// Writes a number in decimal.
pub(crate) fn write_number(out: &mut Vec<u8>, number: u64) {
    write_json(out, &number);
}

fn write_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out, value).expect("a Vec takes everything, and texts and numbers are JSON");
}

/// How many bytes [`write_text`] appends.
pub(crate) fn text_len(text: &str) -> usize {
    if !has_escapes(text) {
        return text.len() + 2;
    }
    let longer = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 1,
        0..=0x1f => 5,
        _ => 0,
    };
    text.len() + text.bytes().map(longer).sum::<usize>() + 2
}

/// How many bytes [`write_number`] appends.
pub(crate) fn number_len(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn objects_are_json() {
        let mut out = Vec::new();
        let mut object = ObjectWriter::begin(&mut out);
        object.text("text", "a\"\n");
        object.optional_text("no", None);
        object.number("number", 7);
        object.flag("flag", false);
        object.flag_if_set("no", false);
        object.object("inner", |_| ());
        object.list("list", [1, 2], write_number);
        object.end();
        assert_eq!(
            String::from_utf8(out).expect("text"),
            r#"{"text":"a\"\n","number":7,"flag":false,"inner":{},"list":[1,2]}"#
        );
    }

    proptest! {
        #[test]
        fn lengths_are_those_of_what_is_written(text in "[\u{0}-\u{7f}é中😀\"\\\\]{0,40}", number: u64, shift in 0..64u32) {
            let mut out = Vec::new();
            write_text(&mut out, &text);
            prop_assert_eq!(text_len(&text), out.len());
            out.clear();
            write_number(&mut out, number >> shift);
            prop_assert_eq!(number_len(number >> shift), out.len());
        }
    }
}
