//! The HTTP side of a connection's first moments: a request read, an upgrade (RFC 6455 §4.2) or a refusal written.
//!
//! Owns which requests are well formed, which origins and hosts may upgrade, and every HTTP answer before the
//! upgrade (docs/protocol.md, "Closing codes"). Knows no socket and no paths; the head must lie in one stretch
//! of bytes, and what follows it stays with the caller. Called by `conn`, and by `http` for the demo page.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use sha1::{Digest as _, Sha1};
use thiserror::Error;

use super::deflate::negotiate::{Agreed, negotiate};
use super::deflate::{Deflate, Mode};
use super::http::{HeadLimits, HeaderRoom, HttpFault, RequestHead, Target, content_length, single, values};
use super::origin::{Origins, split_port};

/// A well-formed HTTP/1.1 or HTTP/1.0 request, borrowed from the bytes it was parsed from.
#[derive(Debug)]
pub struct UpgradeRequest<'a> {
    method: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    host: &'a str,
    origin: Option<&'a str>,
    content_length: u64,
    headers: Vec<httparse::Header<'a>>,
    /// HTTP/1.0, as some proxies speak to servers: it has no upgrades.
    is_http_1_0: bool,
}

impl<'a> UpgradeRequest<'a> {
    /// Parses the head of a request at the front of `buf`: `None` asks for more bytes, the number is the head's
    /// length. Bytes that can't become a request are refused as soon as they show it.
    pub fn parse(buf: &'a [u8], limits: &HeadLimits) -> Result<Option<(Self, usize)>, HttpRefusal> {
        let mut room = HeaderRoom::default();
        let Some((head, head_bytes)) = RequestHead::parse(buf, limits, &mut room)? else { return Ok(None) };
        let request = Self::check(head.method(), &head)?;
        Ok(Some((request, head_bytes)))
    }

    fn check(method: &'a str, head: &RequestHead<'_, 'a>) -> Result<Self, HttpRefusal> {
        if method == "CONNECT" {
            return Err(HttpRefusal::method_not_allowed());
        }
        let Target { authority, path, query } = head.target()?;
        // RFC 9112 §3.2: exactly one Host.
        let host = match head.host() {
            Ok(Some(host)) => host,
            Ok(None) => return Err(HttpFault::HostCount.into()),
            Err(fault) => return Err(fault.into()),
        };
        // §3.2.2: the host that the target names counts, whatever Host says.
        let host = authority.unwrap_or(host);
        let origin = head.single("origin")?;
        // Two readings of where a request ends are how requests are smuggled (RFC 9112 §6.3, §11.2).
        if head.values("transfer-encoding").next().is_some() {
            return Err(HttpRefusal::bad_request("Transfer-Encoding is not accepted"));
        }
        let content_length = head.single("content-length")?.map_or(Ok(0), content_length)?;
        if content_length > 0 && matches!(method, "GET" | "HEAD") {
            return Err(HttpRefusal::bad_request("a body is not accepted here"));
        }
        let (headers, is_http_1_0) = (head.headers().to_vec(), head.is_http_1_0());
        Ok(Self { method, path, query, host, origin, content_length, headers, is_http_1_0 })
    }

    /// The method, as it was sent.
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// The path, still percent-encoded; it begins with `/`, unless it is the `*` of `OPTIONS *`.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// What follows the first `?`, still percent-encoded.
    pub fn query(&self) -> Option<&'a str> {
        self.query
    }

    /// The host that the target names, or else the Host header: a name or address, with or without a port.
    pub(crate) fn host(&self) -> &'a str {
        self.host
    }

    /// The Origin header, which browsers always send with an upgrade and nothing else has to.
    pub(crate) fn origin(&self) -> Option<&'a str> {
        self.origin
    }

    /// The length of the body that follows the head: 0 for GET and HEAD.
    pub fn content_length(&self) -> u64 {
        self.content_length
    }

    /// The first header of this name, in any case, if it is UTF-8.
    pub(crate) fn header(&self, name: &str) -> Option<&'a str> {
        self.headers(name).next().and_then(|value| std::str::from_utf8(value).ok())
    }

    /// All headers of this name, in any case, in the order they came.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        values(&self.headers, name)
    }

    /// The extensions offered (RFC 6455 §9.1), a line each.
    pub(crate) fn extensions(&self) -> impl Iterator<Item = &'a [u8]> {
        self.headers("sec-websocket-extensions")
    }

    /// Whether a header that is a comma-separated list, maybe over several lines, has `token` in any case.
    fn lists(&self, name: &str, token: &str) -> bool {
        self.elements(name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }

    fn elements(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers(name).flat_map(|line| line.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
    }
}

/// The method that a request begins with, whatever follows it.
pub(crate) fn method_of(head: &[u8]) -> &str {
    let end = head.iter().position(|&byte| byte == b' ').unwrap_or(0);
    std::str::from_utf8(&head[..end]).unwrap_or_default()
}

/// Whether a Host names this machine's loopback: `localhost`, 127.0.0.0/8 or `[::1]`, with any port.
pub(crate) fn is_loopback(host: &str) -> bool {
    let Some((host, _)) = split_port(host) else {
        return false;
    };
    let mut octets = host.split('.').map(str::parse::<u8>);
    let ipv4 = octets.next() == Some(Ok(127)) && octets.clone().count() == 3 && octets.all(|octet| octet.is_ok());
    ipv4 || host == "[::1]" || host.eq_ignore_ascii_case("localhost")
}

/// The rules for upgrades.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// The origins whose pages may upgrade.
    pub origins: Origins,
    /// Development mode: serve only requests whose Host is this machine, so that a page whose name was rebound
    /// to 127.0.0.1 (DNS rebinding) can't reach a server that hands out tokens.
    pub dev_hosts: bool,
    /// The subprotocols spoken here, the preferred first.
    pub subprotocols: &'static [&'static str],
    /// Whether messages may be compressed.
    pub compression: Mode,
}

impl Policy {
    /// Refuses a foreign Host in development mode. `upgrade` does it too; pages and tokens need it as well.
    pub(crate) fn check_host(&self, request: &UpgradeRequest<'_>) -> Result<(), HttpRefusal> {
        if self.dev_hosts && !is_loopback(request.host()) {
            return Err(HttpRefusal::forbidden("in development mode Host must be localhost"));
        }
        Ok(())
    }

    /// Refuses a page's request if its origin may not connect. `upgrade` does it too; event streams need it as well.
    pub(crate) fn check_origin(&self, request: &UpgradeRequest<'_>) -> Result<(), HttpRefusal> {
        match request.origin() {
            Some(origin) if !self.origins.allow(origin, request.host()) => {
                Err(HttpRefusal::forbidden("origin not allowed: it is not this host's, and `origins` does not list it"))
            }
            _ => Ok(()),
        }
    }

    /// Chooses among the extensions offered. A header that is no list of them fails the handshake whatever the mode
    /// (RFC 6455 §9.1).
    fn agree(&self, request: &UpgradeRequest<'_>) -> Result<Option<Agreed>, HttpRefusal> {
        let agreed = negotiate(request.extensions())
            .map_err(|_| HttpRefusal::bad_request("malformed Sec-WebSocket-Extensions header"))?;
        match self.compression {
            Mode::Off => Ok(None),
            Mode::Forced if agreed.is_none() => {
                Err(HttpRefusal::bad_request("an acceptable offer of permessage-deflate is required here"))
            }
            Mode::On | Mode::Forced => Ok(agreed),
        }
    }
}

/// An upgrade that was agreed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    accept: String,
    subprotocol: Option<&'static str>,
    agreed: Option<Agreed>,
}

/// Decides on an upgrade (RFC 6455 §4.2.1).
pub fn upgrade(request: &UpgradeRequest<'_>, policy: &Policy) -> Result<Upgrade, HttpRefusal> {
    policy.check_host(request)?;
    if !["GET", "HEAD"].contains(&request.method()) {
        return Err(HttpRefusal::method_not_allowed());
    }
    if request.is_http_1_0 {
        return Err(HttpRefusal::bad_request("HTTP/1.1 is required"));
    }
    // HEAD is a GET that upgrades nothing.
    if request.method() == "HEAD" || !request.lists("upgrade", "websocket") {
        return Err(HttpRefusal::upgrade_required("this is a WebSocket endpoint"));
    }
    if !request.lists("connection", "upgrade") {
        return Err(HttpRefusal::bad_request("the Connection header must list upgrade"));
    }
    if single(&request.headers, "sec-websocket-version") != Ok(Some("13")) {
        return Err(HttpRefusal::upgrade_required("WebSocket version 13 is required"));
    }
    let key = single(&request.headers, "sec-websocket-key")?.filter(|key| is_key(key));
    let Some(key) = key else {
        return Err(HttpRefusal::bad_request("the Sec-WebSocket-Key header must be 16 bytes in base64"));
    };
    policy.check_origin(request)?;
    let offered = |name: &&str| request.elements("sec-websocket-protocol").any(|offer| offer == name.as_bytes());
    let subprotocol = policy.subprotocols.iter().copied().find(offered);
    let agreed = policy.agree(request)?;
    Ok(Upgrade { accept: accept_key(key), subprotocol, agreed })
}

/// The key is compared by no one, so unused bits of its last character don't matter: some load tools set them.
fn is_key(key: &str) -> bool {
    const LENIENT: GeneralPurpose =
        GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));
    // 24 characters decode to at most 18 bytes.
    let mut decoded = [0; 18];
    key.len() == 24 && LENIENT.decode_slice(key, &mut decoded) == Ok(16)
}

/// The answer to a Sec-WebSocket-Key (RFC 6455 §4.2.2).
pub(crate) fn accept_key(key: &str) -> String {
    let mut sha1 = Sha1::new();
    sha1.update(key);
    sha1.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(sha1.finalize())
}

impl Upgrade {
    /// The subprotocol that client and server share, if the client offered one.
    #[cfg(test)]
    pub(crate) fn subprotocol(&self) -> Option<&'static str> {
        self.subprotocol
    }

    /// What was agreed on about compression.
    pub fn deflate(&self) -> Option<Deflate> {
        self.agreed.map(|agreed| agreed.deflate)
    }

    /// Appends the 101 response.
    pub fn write_response(&self, out: &mut Vec<u8>) {
        let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
        out.extend_from_slice(head.as_bytes());
        write_header(out, "Sec-WebSocket-Accept", &self.accept);
        if let Some(subprotocol) = self.subprotocol {
            write_header(out, "Sec-WebSocket-Protocol", subprotocol);
        }
        if let Some(agreed) = self.agreed {
            write_header(out, "Sec-WebSocket-Extensions", &agreed.response());
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn write_header(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// A request refused: the status and a line for people. The connection is closed after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{status} {text}")]
pub struct HttpRefusal {
    /// The HTTP status of the response.
    pub status: u16,
    /// The text of the body, for people.
    pub(crate) text: &'static str,
    /// When to come back, in seconds.
    pub(crate) retry_after_s: Option<u32>,
}

impl From<HttpFault> for HttpRefusal {
    fn from(fault: HttpFault) -> Self {
        match fault {
            HttpFault::HeadTooLarge => Self::head_too_large(),
            HttpFault::Malformed => Self::bad_request("malformed request"),
            HttpFault::Target => Self::bad_request("malformed request target"),
            HttpFault::HostCount => Self::bad_request("exactly one Host header is required"),
            HttpFault::HostForm => Self::bad_request("malformed Host header"),
            HttpFault::Length => Self::bad_request("malformed Content-Length header"),
            // The others are faults of bodies, which no upgrade has.
            _ => Self::bad_request("a header is malformed or repeated"),
        }
    }
}

impl HttpRefusal {
    const fn new(status: u16, text: &'static str) -> Self {
        Self { status, text, retry_after_s: None }
    }

    /// 400: not a request that this server understands.
    pub(crate) const fn bad_request(text: &'static str) -> Self {
        Self::new(400, text)
    }

    /// 401: there is no token, or it is not good.
    pub(crate) const fn unauthorized(text: &'static str) -> Self {
        Self::new(401, text)
    }

    /// 403: the origin or host is not allowed.
    pub(crate) const fn forbidden(text: &'static str) -> Self {
        Self::new(403, text)
    }

    /// 404: nothing is served at this path.
    pub(crate) const fn not_found() -> Self {
        Self::new(404, "not found")
    }

    /// 405: the endpoint and the pages are only read.
    pub(crate) const fn method_not_allowed() -> Self {
        Self::new(405, "only GET and HEAD are allowed here")
    }

    /// 409: another connection is in the way.
    pub(crate) const fn conflict(text: &'static str) -> Self {
        Self::new(409, text)
    }

    /// 413: the head is over a limit.
    pub(crate) const fn head_too_large() -> Self {
        Self::new(413, "request header too large")
    }

    /// 426: the path takes WebSocket version 13 and nothing else.
    pub(crate) const fn upgrade_required(text: &'static str) -> Self {
        Self::new(426, text)
    }

    /// 429: too many connections or attempts from this peer.
    pub(crate) const fn too_many_requests(retry_after_s: u32) -> Self {
        Self { status: 429, text: "too many requests", retry_after_s: Some(retry_after_s) }
    }

    /// 500: a fault of the server.
    pub(crate) const fn internal(text: &'static str) -> Self {
        Self::new(500, text)
    }

    /// 504: what had to be asked has not answered in time.
    pub(crate) const fn gateway_timeout(text: &'static str) -> Self {
        Self::new(504, text)
    }

    /// 503: at capacity or draining.
    pub(crate) const fn unavailable(text: &'static str, retry_after_s: u32) -> Self {
        Self { status: 503, text, retry_after_s: Some(retry_after_s) }
    }

    /// Appends the response to a request of this method: to HEAD, without the content (RFC 9110 §9.3.2).
    pub fn write(&self, method: &str, out: &mut Vec<u8>) {
        let body = format!("{}\n", self.text);
        self.write_with(method, "text/plain; charset=utf-8", &body, "", out);
    }

    /// The same with another body, and with header lines of the caller's.
    pub(crate) fn write_with(&self, method: &str, content_type: &str, body: &str, headers: &str, out: &mut Vec<u8>) {
        let status_line = match self.status {
            400 => "HTTP/1.1 400 Bad Request\r\n",
            // RFC 9110 §15.5.2 asks for the challenge.
            401 => "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\n",
            403 => "HTTP/1.1 403 Forbidden\r\n",
            404 => "HTTP/1.1 404 Not Found\r\n",
            405 => "HTTP/1.1 405 Method Not Allowed\r\nAllow: GET, HEAD, OPTIONS\r\n",
            409 => "HTTP/1.1 409 Conflict\r\n",
            413 => "HTTP/1.1 413 Content Too Large\r\n",
            // RFC 9110 §15.5.22 asks for Upgrade, RFC 6455 §4.4 for the version.
            426 => "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            429 => "HTTP/1.1 429 Too Many Requests\r\n",
            500 => "HTTP/1.1 500 Internal Server Error\r\n",
            503 => "HTTP/1.1 503 Service Unavailable\r\n",
            504 => "HTTP/1.1 504 Gateway Timeout\r\n",
            status => unreachable!("no refusal has status {status}"),
        };
        out.extend_from_slice(status_line.as_bytes());
        if let Some(seconds) = self.retry_after_s {
            write_header(out, "Retry-After", &seconds.to_string());
        }
        write_header(out, "Content-Type", content_type);
        write_header(out, "Content-Length", &body.len().to_string());
        out.extend_from_slice(headers.as_bytes());
        // Upgrade counts only when Connection lists it (RFC 9110 §7.8).
        write_header(out, "Connection", if self.status == 426 { "close, Upgrade" } else { "close" });
        out.extend_from_slice(b"\r\n");
        if method != "HEAD" {
            out.extend_from_slice(body.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
