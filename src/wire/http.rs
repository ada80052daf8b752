//! HTTP/1.0 and HTTP/1.1 as a server reads and writes them (RFC 9112): the head of a request here, its body in `body`,
//! the head of a response in `response`. Knows no path and no socket. `handshake` builds upgrades on it, `api` the
//! backend's API.
//!
//! A request has one reading or it is refused: one Host header, one length, no folded lines. So a proxy in front and this
//! server never disagree on where a request ends (RFC 9112 §11.2).

pub mod body;
pub mod response;

use std::mem::MaybeUninit;

use thiserror::Error;

use super::origin::split_port;

/// What a request's head may cost.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Bytes of the head, its empty line included.
    pub head_bytes: usize,
    /// Header lines, 64 at most.
    pub headers: usize,
}

const HEADERS_MAX: usize = 64;

impl Default for HeadLimits {
    fn default() -> Self {
        Self { head_bytes: 8 * 1024, headers: HEADERS_MAX }
    }
}

/// Why bytes are not a request that this server takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HttpFault {
    /// The head is longer than its limit, or has more header lines.
    #[error("request header too large")]
    HeadTooLarge,
    /// The bytes are not HTTP/1.0 or HTTP/1.1.
    #[error("malformed request")]
    Malformed,
    /// The target has no form that a server takes.
    #[error("malformed request target")]
    Target,
    /// There is no Host header, or more than one.
    #[error("exactly one Host header is required")]
    HostCount,
    /// The Host header is not a host with or without a port.
    #[error("the Host header must be a host, with or without a port")]
    HostForm,
    /// A header that must not be repeated is there twice, or is not UTF-8.
    #[error("a header is malformed or repeated")]
    Repeated,
    /// The value of Content-Length is not a number.
    #[error("malformed Content-Length header")]
    Length,
    /// Both Content-Length and Transfer-Encoding are there, or HTTP/1.0 has a Transfer-Encoding: two readings.
    #[error("Content-Length and Transfer-Encoding contradict each other")]
    TwoLengths,
    /// The transfer coding is not `chunked` alone.
    #[error("the only Transfer-Encoding that is accepted is chunked")]
    Coding,
    /// A chunk of the body is malformed.
    #[error("malformed chunk in the body")]
    Chunk,
    /// The Expect header asks for something else than `100-continue`.
    #[error("the only Expect that is met is 100-continue")]
    Expectation,
}

/// Room for the header lines of one head, on the stack.
pub struct HeaderRoom<'a>([MaybeUninit<httparse::Header<'a>>; HEADERS_MAX]);

impl Default for HeaderRoom<'_> {
    fn default() -> Self {
        Self([const { MaybeUninit::uninit() }; HEADERS_MAX])
    }
}

impl std::fmt::Debug for HeaderRoom<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeaderRoom").finish_non_exhaustive()
    }
}

/// The head of a request, borrowed from the bytes that it was parsed from. Only its syntax has been checked.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'h, 'a> {
    method: &'a str,
    target: &'a str,
    headers: &'h [httparse::Header<'a>],
    /// Bit n is set if a header's name has n bytes: most look-ups are for a header that is not there.
    lengths: u64,
    is_http_1_0: bool,
}

impl<'h, 'a> RequestHead<'h, 'a> {
    /// Parses the head of a request at the front of `buf`: `None` asks for more bytes, the number is the head's length.
    ///
    /// # Errors
    /// Bytes that can't become a request are refused as soon as they show it.
    pub fn parse(
        buf: &'a [u8],
        limits: &HeadLimits,
        room: &'h mut HeaderRoom<'a>,
    ) -> Result<Option<(Self, usize)>, HttpFault> {
        // What lies beyond the limit must not change the verdict, for it may not have come yet.
        let (head, is_over) = match buf.get(..limits.head_bytes) {
            Some(head) => (head, true),
            None => (buf, false),
        };
        let mut parsed = httparse::Request::new(&mut []);
        let status = parsed.parse_with_uninit_headers(head, &mut room.0[..limits.headers.min(HEADERS_MAX)]);
        let head_bytes = match status {
            Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
            Ok(httparse::Status::Partial) if is_over => return Err(HttpFault::HeadTooLarge),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(HttpFault::HeadTooLarge),
            Err(_) => return Err(HttpFault::Malformed),
        };
        // A complete head has both. An empty target is refused later, like any other that is no target.
        let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
        let is_http_1_0 = parsed.version == Some(0);
        let headers = &*parsed.headers;
        let lengths = headers.iter().fold(0, |lengths, header| lengths | length_bit(header.name));
        Ok(Some((Self { method, target, headers, lengths, is_http_1_0 }, head_bytes)))
    }

    /// The method, as it was sent.
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// The target of the request line, taken apart.
    ///
    /// # Errors
    /// It has no form that a server takes (RFC 9112 §3.2).
    pub fn target(&self) -> Result<Target<'a>, HttpFault> {
        Target::of(self.method, self.target).ok_or(HttpFault::Target)
    }

    /// All header lines.
    pub(crate) fn headers(&self) -> &'h [httparse::Header<'a>] {
        self.headers
    }

    /// The request is HTTP/1.0, as some proxies and old tools speak.
    pub fn is_http_1_0(&self) -> bool {
        self.is_http_1_0
    }

    /// All headers of this name, in any case, in the order they came.
    pub fn values<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'n, 'h, 'a> {
        values(self.with_length_of(name), name)
    }

    /// All headers, or none if no header's name has as many bytes as this one.
    fn with_length_of(&self, name: &str) -> &'h [httparse::Header<'a>] {
        if self.lengths & length_bit(name) == 0 { &[] } else { self.headers }
    }

    /// The value of a header that must not be repeated.
    ///
    /// # Errors
    /// It is there twice, or is not UTF-8.
    pub fn single(&self, name: &str) -> Result<Option<&'a str>, HttpFault> {
        single(self.with_length_of(name), name)
    }

    /// The value of the Host header (RFC 9112 §3.2). `None` is possible in HTTP/1.0 only.
    ///
    /// # Errors
    /// HTTP/1.1 without a Host header, two of them, or one that is no host.
    pub fn host(&self) -> Result<Option<&'a str>, HttpFault> {
        match self.single("host") {
            Ok(None) if self.is_http_1_0 => Ok(None),
            Ok(Some(host)) if split_port(host).is_some() => Ok(Some(host)),
            Ok(Some(_)) => Err(HttpFault::HostForm),
            Ok(None) | Err(_) => Err(HttpFault::HostCount),
        }
    }

    /// Where the body ends (RFC 9112 §6.3).
    ///
    /// # Errors
    /// There is more than one reading, or a coding that is not understood.
    pub fn framing(&self) -> Result<BodyFraming, HttpFault> {
        let length = match self.single("content-length")? {
            None => None,
            Some(digits) => Some(content_length(digits)?),
        };
        let mut codings = self.values("transfer-encoding");
        let Some(coding) = codings.next() else { return Ok(BodyFraming::Length(length.unwrap_or(0))) };
        // HTTP/1.0 has no transfer codings, so a server of that time would read another body (§6.1).
        if length.is_some() || self.is_http_1_0 {
            return Err(HttpFault::TwoLengths);
        }
        match coding.trim_ascii().eq_ignore_ascii_case(b"chunked") && codings.next().is_none() {
            true => Ok(BodyFraming::Chunked),
            false => Err(HttpFault::Coding),
        }
    }

    /// Whether the client takes another response on this connection (RFC 9112 §9.3).
    pub fn keeps_alive(&self) -> bool {
        let mut options = self.values("connection").flat_map(|line| line.split(|&byte| byte == b','));
        let has = |option: &[u8], wanted: &[u8]| option.trim_ascii().eq_ignore_ascii_case(wanted);
        if self.is_http_1_0 {
            let (mut keeps, mut closes) = (false, false);
            for option in options {
                keeps |= has(option, b"keep-alive");
                closes |= has(option, b"close");
            }
            return keeps && !closes;
        }
        !options.any(|option| has(option, b"close"))
    }

    /// Whether the client waits for `100 Continue` before it sends the body (RFC 9110 §10.1.1).
    ///
    /// # Errors
    /// The client expects something else.
    pub fn expects_continue(&self) -> Result<bool, HttpFault> {
        match self.single("expect")? {
            // A client of HTTP/1.0 cannot expect it.
            Some(_) if self.is_http_1_0 => Ok(false),
            None => Ok(false),
            Some(expected) if expected.eq_ignore_ascii_case("100-continue") => Ok(true),
            Some(_) => Err(HttpFault::Expectation),
        }
    }
}

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// After this many bytes; 0 if there is no body.
    Length(u64),
    /// After the last chunk (RFC 9112 §7.1).
    Chunked,
}

/// The target of a request, taken apart (RFC 9112 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// The host that the target names, with or without a port: it counts, whatever Host says (§3.2.2).
    pub authority: Option<&'a str>,
    /// The path, still percent-encoded; it begins with `/`, unless it is the `*` of `OPTIONS *`.
    pub path: &'a str,
    /// What follows the first `?`, still percent-encoded.
    pub query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// The origin form, the absolute form (§3.2.2: a server must accept it), or the asterisk of `OPTIONS`.
    pub(crate) fn of(method: &str, target: &'a str) -> Option<Self> {
        if target == "*" {
            return (method == "OPTIONS").then_some(Self { authority: None, path: target, query: None });
        }
        if target.contains('#') {
            return None;
        }
        let (authority, rest) = if target.starts_with('/') {
            (None, target)
        } else {
            let (scheme, rest) = target.split_once("://")?;
            // The schemes of RFC 6455 §3 are those of HTTP to a proxy, but some clients write them.
            let is_known = ["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
            let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            (is_known && split_port(authority).is_some()).then_some((Some(authority), rest))?
        };
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        // RFC 9110 §4.2.3: an empty path is the same as `/`.
        Some(Self { authority, path: if path.is_empty() { "/" } else { path }, query })
    }
}

/// The bit for the length of a header's name. Long names share one.
fn length_bit(name: &str) -> u64 {
    1 << name.len().min(63)
}

/// All headers of this name, in any case, in the order they came.
pub(crate) fn values<'a>(headers: &[httparse::Header<'a>], name: &str) -> impl Iterator<Item = &'a [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// The value of a header that must not be repeated.
pub(crate) fn single<'a>(headers: &[httparse::Header<'a>], name: &str) -> Result<Option<&'a str>, HttpFault> {
    let mut values = values(headers, name);
    match (values.next().map(std::str::from_utf8), values.next()) {
        (None, _) => Ok(None),
        (Some(Ok(value)), None) => Ok(Some(value.trim_ascii())),
        _ => Err(HttpFault::Repeated),
    }
}

/// The number that a Content-Length says: digits only, for `+5` and `5, 5` have other readings elsewhere.
pub(crate) fn content_length(digits: &str) -> Result<u64, HttpFault> {
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| digits.parse().ok()).flatten().ok_or(HttpFault::Length)
}

#[cfg(test)]
mod tests;
