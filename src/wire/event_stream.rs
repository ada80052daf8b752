//! The event stream format of server-sent events (WHATWG HTML, section 9.2.5): the response head, events, comments.
//! Writing only: the server never reads an event stream. Pure, and without knowledge of what the events mean.
//!
//! Every event and every comment ends with an empty line, and `\n` is the only line end that is written. Data never
//! contains an empty line, because each of its lines begins with a field name. So `\n\n` is always the end of an event.

use std::borrow::Cow;

/// The media type of the response.
pub(crate) const CONTENT_TYPE: &str = "text/event-stream";

/// A comment, which readers ignore: sent when nothing else was, so that the connection carries bytes.
pub(crate) const HEARTBEAT: &[u8] = b":\n\n";

/// Whether `id` may stand in an `id` field. A reader ignores one with NUL, and CR and LF end the line. A browser sends
/// the id back in the Last-Event-ID header, so it has to be a header's value too.
pub(crate) fn is_event_id(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Begins an event: its id and its name, if it has them. An event without a name is a `message` to a browser. Follow
/// with the data and [`end_event`], which needs the returned place.
pub(crate) fn begin_event(out: &mut Vec<u8>, id: Option<&str>, name: Option<&str>) -> usize {
    if let Some(id) = id {
        write_id(out, id);
    }
    if let Some(name) = name {
        debug_assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?} is no name of an event");
        write_line(out, "event: ", name);
    }
    out.extend_from_slice(b"data: ");
    out.len()
}

/// Ends the event whose data was appended from `start` on. Line ends in the data, of whichever kind, come out as `\n`.
pub(crate) fn end_event(out: &mut Vec<u8>, start: usize) {
    let data = &out[start..];
    // Compact JSON has none: only what a client published with line ends between its tokens.
    if data.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        let data = out.split_off(start);
        let mut lines = lines(&data);
        out.extend_from_slice(lines.next().unwrap_or_default());
        for line in lines {
            out.extend_from_slice(b"\ndata: ");
            out.extend_from_slice(line);
        }
    }
    out.extend_from_slice(b"\n\n");
}

/// Appends one event.
pub(crate) fn write_event(out: &mut Vec<u8>, id: Option<&str>, name: Option<&str>, data: &[u8]) {
    let start = begin_event(out, id, name);
    out.extend_from_slice(data);
    end_event(out, start);
}

/// Appends an `id` line. A reader remembers it when the event that it belongs to ends.
pub(crate) fn write_id(out: &mut Vec<u8>, id: &str) {
    assert!(is_event_id(id), "{id:?} is no id of an event");
    write_line(out, "id: ", id);
}

/// Appends how long a browser waits before it connects again.
pub(crate) fn write_retry(out: &mut Vec<u8>, retry_ms: u64) {
    write_line(out, "retry: ", &retry_ms.to_string());
    out.push(b'\n');
}

fn write_line(out: &mut Vec<u8>, field: &str, value: &str) {
    for part in [field, value, "\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// The lines of a text: CR LF, LF and CR end one.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else { return rest.take() };
        let next = if text[end..].starts_with(b"\r\n") { end + 2 } else { end + 1 };
        rest = Some(&text[next..]);
        Some(&text[..end])
    })
}

/// The smallest end of an event or comment at or after `at` in a stretch of whole ones: what stands behind it has not
/// begun when `at` bytes were sent, and can be dropped.
pub(crate) fn first_boundary(events: &[u8], at: usize) -> usize {
    assert!(at <= events.len(), "{at} lies outside {} bytes of events", events.len());
    if at == 0 {
        return 0;
    }
    // Where the two bytes end that are an empty line: `at` itself may be such a place.
    let from = at.saturating_sub(2);
    let found = events[from..].windows(2).position(|pair| pair == b"\n\n");
    from + found.expect("the stretch ends with an event") + 2
}

/// The lengths of the events and comments that `events` consists of, in order.
pub(crate) fn events(mut events: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = first_boundary(events, usize::from(!events.is_empty()));
        let (event, rest) = events.split_at(length);
        events = rest;
        (length > 0).then_some(event)
    })
}

/// The id of an event that was written here, and the event without it.
pub(crate) fn split_id(event: &[u8]) -> (Option<&str>, &[u8]) {
    let id = event.strip_prefix(b"id: ").and_then(|rest| {
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        Some((std::str::from_utf8(&rest[..end]).ok()?, &rest[end + 1..]))
    });
    id.map_or((None, event), |(id, rest)| (Some(id), rest))
}

/// Appends the head of the response that an event stream is. The stream ends with the connection: there is no length.
/// `reader` is the origin whose pages may read it (Fetch, section 3.2).
pub(crate) fn write_head(out: &mut Vec<u8>, reader: Option<&str>) {
    let reader = reader.map_or(Cow::Borrowed(""), |origin| {
        Cow::Owned(format!("Access-Control-Allow-Origin: {origin}\r\nCross-Origin-Resource-Policy: cross-origin\r\n"))
    });
    // nginx passes on what it has at once if the response says so (X-Accel-Buffering).
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {CONTENT_TYPE}\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nVary: Origin\r\n{reader}\
         Connection: close\r\n\r\n"
    );
    out.extend_from_slice(head.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a reader dispatches.
    #[derive(Clone, PartialEq, Eq, Debug)]
    struct Dispatched {
        name: String,
        id: String,
        data: String,
    }

    /// A reader as the standard describes it (section 9.2.6), and slow.
    #[derive(Default)]
    struct Reader {
        retry_ms: Option<u64>,
        id: String,
        pending: (String, String, String),
        dispatched: Vec<Dispatched>,
    }

    impl Reader {
        fn read(stream: &[u8]) -> Self {
            let mut reader = Self { pending: Default::default(), ..Self::default() };
            let text = String::from_utf8(stream.to_vec()).expect("UTF-8").replace("\r\n", "\n").replace('\r', "\n");
            // A line that has no end yet is not processed.
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            for line in whole.split('\n') {
                reader.line(line);
            }
            reader
        }

        fn line(&mut self, line: &str) {
            let (name, id, data) = &mut self.pending;
            if line.is_empty() {
                self.id.clone_from(id);
                if !data.is_empty() {
                    data.pop();
                    let name = if name.is_empty() { "message".to_owned() } else { name.clone() };
                    self.dispatched.push(Dispatched { name, id: id.clone(), data: data.clone() });
                }
                name.clear();
                data.clear();
                return;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(name),
                "data" => {
                    data.push_str(value);
                    data.push('\n');
                }
                "id" if !value.contains('\0') => value.clone_into(id),
                "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => self.retry_ms = value.parse().ok(),
                _ => {}
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Written {
        Event { id: Option<String>, name: Option<String>, data: String },
        Heartbeat,
        Retry(u64),
    }

    fn written() -> impl Strategy<Value = Written> {
        let data = prop_oneof!["[ -~]{1,40}", "[a:\r\n ]{1,12}", "\\PC{1,20}"];
        let event = (prop::option::of("[!-~]{1,30}"), prop::option::of("[a-z_]{1,12}"), data)
            .prop_map(|(id, name, data)| Written::Event { id, name, data });
        prop_oneof![8 => event, 1 => Just(Written::Heartbeat), 1 => (0..100_000u64).prop_map(Written::Retry)]
    }

    fn write(all: &[Written]) -> (Vec<u8>, Vec<usize>) {
        let (mut out, mut ends) = (Vec::new(), Vec::new());
        for written in all {
            match written {
                Written::Event { id, name, data } => {
                    write_event(&mut out, id.as_deref(), name.as_deref(), data.as_bytes());
                }
                Written::Heartbeat => out.extend_from_slice(HEARTBEAT),
                Written::Retry(retry_ms) => write_retry(&mut out, *retry_ms),
            }
            ends.push(out.len());
        }
        (out, ends)
    }

    proptest! {
        #[test]
        fn a_reader_gets_what_was_written(all in prop::collection::vec(written(), 0..12)) {
            let (stream, ends) = write(&all);
            let reader = Reader::read(&stream);
            let (mut last, mut expected, mut retry) = (String::new(), Vec::new(), None);
            for written in all {
                match written {
                    Written::Event { id, name, data } => {
                        last = id.unwrap_or(last);
                        let data = data.replace("\r\n", "\n").replace('\r', "\n");
                        let name = name.unwrap_or_else(|| "message".to_owned());
                        expected.push(Dispatched { name, id: last.clone(), data });
                    }
                    Written::Retry(retry_ms) => retry = Some(retry_ms),
                    Written::Heartbeat => {}
                }
            }
            prop_assert_eq!(reader.dispatched, expected);
            prop_assert_eq!(reader.retry_ms, retry);
            prop_assert_eq!(&reader.id, &last);
            let lengths: Vec<usize> = events(&stream).map(<[u8]>::len).collect();
            prop_assert_eq!(lengths.iter().sum::<usize>(), stream.len());
            prop_assert_eq!(lengths.len(), ends.len());
            for at in 0..=stream.len() {
                let expected = [0].iter().chain(&ends).copied().find(|&end| end >= at);
                prop_assert_eq!(Some(first_boundary(&stream, at)), expected);
            }
        }

        #[test]
        fn a_stream_that_is_cut_brings_whole_events(all in prop::collection::vec(written(), 1..8), cut: prop::sample::Index) {
            let (stream, ends) = write(&all);
            let at = cut.index(stream.len() + 1);
            let text = String::from_utf8_lossy(&stream[..at]).into_owned();
            let whole = ends.iter().rev().find(|&&end| end <= at).copied().unwrap_or(0);
            let (cut, expected) = (Reader::read(text.as_bytes()), Reader::read(&stream[..whole]));
            prop_assert_eq!(cut.dispatched, expected.dispatched);
            prop_assert_eq!(cut.id, expected.id);
        }

        #[test]
        fn an_id_is_split_off(id in "[!-~]{1,30}", name in prop::option::of("[a-z]{1,9}"), data in "[a-z\n]{1,20}") {
            let (mut with, mut without) = (Vec::new(), Vec::new());
            write_event(&mut with, Some(&id), name.as_deref(), data.as_bytes());
            write_event(&mut without, None, name.as_deref(), data.as_bytes());
            prop_assert_eq!(split_id(&with), (Some(id.as_str()), &without[..]));
            prop_assert_eq!(split_id(&without), (None, &without[..]));
        }
    }

    #[test]
    fn an_event_reads_as_in_the_contract() {
        let mut out = Vec::new();
        write_event(&mut out, Some("e.1"), None, br#"{"a":1}"#);
        write_event(&mut out, None, Some("gap"), b"{\r\n}");
        assert_eq!(
            String::from_utf8(out).expect("text"),
            "id: e.1\ndata: {\"a\":1}\n\nevent: gap\ndata: {\ndata: }\n\n"
        );
    }

    #[test]
    fn ids_are_values_of_a_header_too() {
        for good in ["a", "0.1_-", "!~"] {
            assert!(is_event_id(good), "{good:?}");
        }
        for bad in ["", " ", "a b", "a\n", "a\r", "a\0", "é"] {
            assert!(!is_event_id(bad), "{bad:?}");
        }
    }

    #[test]
    fn the_head_lets_proxies_and_pages_read_on() {
        let mut out = Vec::new();
        write_head(&mut out, Some("https://page.example"));
        let head = String::from_utf8(out).expect("text");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        for line in ["Content-Type: text/event-stream", "Cache-Control: no-store", "X-Accel-Buffering: no"] {
            assert!(head.contains(&format!("{line}\r\n")), "{head}");
        }
        assert!(head.contains("Access-Control-Allow-Origin: https://page.example\r\n"), "{head}");
        let mut out = Vec::new();
        write_head(&mut out, None);
        assert!(!String::from_utf8(out).expect("text").contains("Access-Control"));
    }
}
