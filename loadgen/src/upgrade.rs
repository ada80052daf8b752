//! The answer to an upgrade request: whether the server agreed to speak WebSocket, and what it agreed to besides.
//!
//! Pure. Called by `client`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::deflate::{Agreed, Offer};

/// Where extensions are offered and agreed on.
pub const EXTENSIONS: &str = "Sec-WebSocket-Extensions";
/// The longest head of an answer that is taken.
pub const MAX_RESPONSE: usize = 16 << 10;

/// Checks an answer to an upgrade request (RFC 6455, section 4.1): its length, and what was agreed on by it.
pub fn read_response(
    data: &[u8],
    expected: &str,
    offer: Option<&Offer>,
) -> Result<Option<(usize, Option<Agreed>)>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let end = match response.parse(data) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) if data.len() > MAX_RESPONSE => {
            return Err("an answer without an end".to_owned());
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(format!("not HTTP: {error}")),
    };
    let status = response.code.unwrap_or_default();
    if status != 101 {
        let body = String::from_utf8_lossy(&data[end..]);
        let line = body.lines().next().unwrap_or_default();
        let reason = response.reason.unwrap_or_default();
        return Err(format!("HTTP {status} {reason} {line}").trim().to_owned());
    }
    let find = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let has = |name: &str, token: &str| {
        let value = find(name).unwrap_or_default();
        value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token))
    };
    if !has("upgrade", "websocket") || !has("connection", "upgrade") {
        return Err("101 without Upgrade: websocket and Connection: Upgrade".to_owned());
    }
    if find("sec-websocket-accept").map(str::trim) != Some(expected) {
        return Err("101 with a wrong Sec-WebSocket-Accept".to_owned());
    }
    let mut extensions = response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(EXTENSIONS));
    let extension = extensions.next().map(|header| String::from_utf8_lossy(header.value));
    if find("sec-websocket-protocol").is_some() || (extension.is_some() && offer.is_none()) {
        return Err("101 with an extension or subprotocol that was not offered".to_owned());
    }
    if extensions.next().is_some() {
        return Err(format!("101 with {EXTENSIONS} twice"));
    }
    let agreed = extension.zip(offer).map(|(answer, offer)| offer.agree(answer.trim())).transpose();
    let agreed = agreed.map_err(|why| format!("101 with {why}, in answer to {:?}", offer.map_or("", Offer::text)))?;
    Ok(Some((end, agreed)))
}

/// The key that the answer to a request with `key` must bring (RFC 6455, section 1.3).
pub fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accept_key_is_the_one_of_the_rfc() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn answers_to_the_upgrade_are_judged() {
        let good = "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\n\
                    Connection: keep-alive, Upgrade\r\nSec-WebSocket-Accept: key\r\n\r\n\x01";
        let all = good.len() - 1;
        for cut in 0..all {
            assert_eq!(read_response(&good.as_bytes()[..cut], "key", None), Ok(None));
        }
        assert_eq!(read_response(good.as_bytes(), "key", None), Ok(Some((all, None))));
        assert!(read_response(good.as_bytes(), "other", None).is_err());
        let refused = b"HTTP/1.1 503 Service Unavailable\r\n\r\nfull\n";
        let told = read_response(refused, "key", None).unwrap_err();
        assert_eq!(told, "HTTP 503 Service Unavailable full");
    }
}
