//! The answers of an HTTP/1.1 server, as far as an API needs them: a status, a length, a body.
//!
//! Pure. Called by `client`.

use crate::frame::MAX_MESSAGE;

/// The most header lines that are read.
const HEADERS: usize = 64;

/// The head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Bytes of the head, with the empty line.
    pub head: usize,
    /// Bytes of the body.
    pub body: usize,
}

/// The answer that `bytes` begin with; none until its head is whole.
pub fn parse(bytes: &[u8]) -> Result<Option<Answer>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse::<usize>().ok());
    // Chunks are not read: an API that answers from memory knows its lengths.
    let body = length.ok_or("it has no Content-Length")?;
    if body > MAX_MESSAGE {
        return Err(format!("a body of {body} bytes"));
    }
    Ok(Some(Answer { status: response.code.unwrap_or_default(), head, body }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_and_in_parts() {
        let text = b"HTTP/1.1 200 OK\r\ncontent-Length: 2\r\n\r\n{}HTTP/1.1 404";
        assert_eq!(parse(text), Ok(Some(Answer { status: 200, head: text.len() - 14, body: 2 })));
        for end in 0..text.len() - 14 {
            assert_eq!(parse(&text[..end]), Ok(None));
        }
    }

    #[test]
    fn other_answers_are_refused() {
        assert!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n").is_err());
        assert!(parse(b"{}\r\n").is_err());
    }
}
