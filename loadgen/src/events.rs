//! An event stream as a client reads it (WHATWG HTML, section 9.2.6): bytes to events, as far as they have come.
//!
//! Knows no sockets and keeps no state. It takes the line ends that uringcast writes, `\n` alone.
//! Called by `client`, which owns the buffers.

use std::borrow::Cow;

use memchr::memmem;

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub struct StreamEvent<'a> {
    /// Its name; empty for a message.
    pub name: &'a str,
    /// Its data.
    pub data: Cow<'a, [u8]>,
}

/// The first event or comment in `bytes`, and its length; `None` means that more bytes are needed. A comment is no event.
#[inline]
pub fn parse(bytes: &[u8]) -> Option<(usize, Option<StreamEvent<'_>>)> {
    let end = memmem::find(bytes, b"\n\n")?;
    let length = end + 2;
    let (mut name, mut data, mut is_there) = ("", Cow::Borrowed(&b""[..]), false);
    for line in bytes[..end].split(|byte| *byte == b'\n') {
        if let Some(value) = line.strip_prefix(b"data: ") {
            if is_there {
                let data = data.to_mut();
                data.push(b'\n');
                data.extend_from_slice(value);
            } else {
                (data, is_there) = (Cow::Borrowed(value), true);
            }
        } else if let Some(value) = line.strip_prefix(b"event: ") {
            name = std::str::from_utf8(value).unwrap_or("?");
        }
    }
    Some((length, is_there.then_some(StreamEvent { name, data })))
}

/// Checks the head of a response that is to be an event stream: its length, once all of it is there.
pub fn read_head(data: &[u8]) -> Result<Option<usize>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let end = match response.parse(data) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(format!("not HTTP: {error}")),
    };
    let status = response.code.unwrap_or_default();
    if status != 200 {
        let body = String::from_utf8_lossy(&data[end..]);
        return Err(format!("HTTP {status} {}", body.lines().next().unwrap_or_default()).trim().to_owned());
    }
    let mut types = response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("content-type"));
    let is_stream = types.next().is_some_and(|header| header.value.starts_with(b"text/event-stream"));
    if is_stream { Ok(Some(end)) } else { Err("200 with something else than an event stream".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_they_come() {
        let stream = b":\n\nid: e.1\ndata: {\"a\":1}\n\nevent: gap\ndata: {\ndata: }\n\nretry: 7\n\ndata: x";
        let (mut at, mut seen) = (0, Vec::new());
        while let Some((length, event)) = parse(&stream[at..]) {
            at += length;
            seen.extend(event.map(|event| (event.name.to_owned(), event.data.into_owned())));
        }
        assert_eq!(seen, [(String::new(), b"{\"a\":1}".to_vec()), ("gap".to_owned(), b"{\n}".to_vec())]);
        assert_eq!(&stream[at..], b"data: x");
    }

    #[test]
    fn a_head_is_judged() {
        let good = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n:\n\n";
        assert_eq!(read_head(good), Ok(Some(good.len() - 3)));
        assert_eq!(read_head(&good[..20]), Ok(None));
        let refused = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(read_head(refused), Err("HTTP 401 {}".to_owned()));
        assert!(read_head(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n").is_err());
    }
}
