//! What is served over plain HTTP on the WebSocket port, and where upgrades lead: the native endpoint, the echo
//! endpoint and, in dev mode only, the demo page, its assets and its tokens. Pure: a request in, a route out.

use std::borrow::Cow;

use rust_embed::RustEmbed;

use crate::auth::{self, NewToken, UserId};
use crate::config::Secret;
use crate::proto::handshake::{Policy, Refusal, Request, Upgrade, upgrade};

/// The one path of the echo endpoint.
const ECHO_PATH: &str = "/echo";
/// How long a token of the demo page is good for.
const DEMO_TOKEN_S: u64 = 12 * 3600;
/// Longest name that the demo page may sign in under, in bytes.
const NAME_BYTES: usize = 64;

#[derive(RustEmbed)]
#[folder = "client/"]
#[include = "uringcast.js"]
#[include = "demo/*"]
struct Assets;

/// What this server serves.
#[derive(Debug)]
pub struct Site {
    /// Path of the native endpoint.
    pub path: String,
    /// Whether the echo endpoint is served.
    pub echo: bool,
    /// Who may upgrade.
    pub policy: Policy,
    /// In dev mode, the secret that signs the demo page's tokens.
    pub dev: Option<Secret>,
}

/// Where a request leads.
#[derive(Debug)]
pub enum Route {
    /// To the native protocol.
    Native(Upgrade),
    /// To the echo endpoint.
    Echo(Upgrade),
    /// To a page; the connection ends with it.
    Page(Page),
}

/// A page: status 200 and a body, or, to OPTIONS, the methods that there are.
#[derive(Debug)]
pub struct Page {
    /// The page of another origin that may read it (Fetch §3.2), if one asked that the configuration lists.
    reader: Option<String>,
    /// `None` to OPTIONS.
    content: Option<Content>,
}

#[derive(Debug)]
struct Content {
    content_type: &'static str,
    body: Cow<'static, [u8]>,
}

impl Site {
    /// Whether this is dev mode: only this machine is served.
    pub fn is_dev(&self) -> bool {
        self.policy.dev_hosts
    }

    /// Decides where a request leads.
    ///
    /// # Errors
    /// The HTTP refusal to send.
    pub fn route(&self, request: &Request<'_>, now_unix_ms: u64) -> Result<Route, Refusal> {
        let is_endpoint = |path: &str| path == self.path || (path == ECHO_PATH && self.echo);
        match request.path() {
            // What is asked of the server as a whole, or of an endpoint: which methods there are (RFC 9110 §9.3.7).
            path if request.method() == "OPTIONS" && (path == "*" || is_endpoint(path)) => {
                self.policy.check_host(request)?;
                Ok(Route::Page(Page { reader: None, content: None }))
            }
            path if path == self.path => upgrade(request, &self.policy).map(Route::Native),
            ECHO_PATH if self.echo => upgrade(request, &self.policy).map(Route::Echo),
            path => {
                let Some(secret) = &self.dev else { return Err(Refusal::not_found()) };
                self.policy.check_host(request)?;
                let page = match path {
                    "/token" => demo_token(secret, request.query().unwrap_or_default(), now_unix_ms),
                    path => asset(path),
                };
                let reader = request.origin().filter(|origin| self.policy.origins.lists(origin));
                let reader = reader.map(str::to_owned);
                match request.method() {
                    "GET" | "HEAD" => page.map(|content| Route::Page(Page { reader, content: Some(content) })),
                    // Also a preflight (Fetch §4.8): asked before what a page would not send by itself.
                    "OPTIONS" => page.map(|_| Route::Page(Page { reader, content: None })),
                    _ => Err(page.map_or_else(|refusal| refusal, |_| Refusal::method_not_allowed())),
                }
            }
        }
    }
}

fn asset(path: &str) -> Result<Content, Refusal> {
    let (file, content_type) = match path {
        "/" => ("demo/index.html", "text/html; charset=utf-8"),
        "/app.js" => ("demo/app.js", "text/javascript; charset=utf-8"),
        "/style.css" => ("demo/style.css", "text/css; charset=utf-8"),
        "/uringcast.js" => ("uringcast.js", "text/javascript; charset=utf-8"),
        _ => return Err(Refusal::not_found()),
    };
    let file = Assets::get(file).ok_or(Refusal::not_found())?;
    Ok(Content { content_type, body: file.data })
}

/// Signs the visitor in under any name: only where the server is for trying things out.
fn demo_token(secret: &Secret, query: &str, now_unix_ms: u64) -> Result<Content, Refusal> {
    let name = query.split('&').find_map(|pair| pair.strip_prefix("name=")).and_then(percent_decode);
    let refused = Refusal::bad_request("a name of 1 to 64 bytes is needed: /token?name=Alice");
    let name = name.filter(|name| name.len() <= NAME_BYTES && !name.trim().is_empty()).ok_or(refused)?;
    let name = name.trim();
    let id = UserId::text(name).ok_or(refused)?;
    let token =
        NewToken { user: &id, name, ttl_s: DEMO_TOKEN_S, channels: &[], issuer: None, audience: None, token_id: None };
    let token =
        auth::issue(secret, &token, now_unix_ms).map_err(|_| Refusal::unavailable("no token can be made", 1))?;
    let body = serde_json::json!({ "token": token }).to_string();
    Ok(Content { content_type: "application/json", body: Cow::Owned(body.into_bytes()) })
}

/// A query value (WHATWG URL, application/x-www-form-urlencoded); `None` if it isn't UTF-8 or cut short.
fn percent_decode(value: &str) -> Option<String> {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

impl Page {
    /// Appends the response to a request of this method: to HEAD, without the body.
    pub fn write(&self, method: &str, out: &mut Vec<u8>) {
        match &self.content {
            None => out.extend_from_slice(b"HTTP/1.1 204 No Content\r\nAllow: GET, HEAD, OPTIONS\r\n"),
            Some(Content { content_type, body }) => {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
                     Content-Security-Policy: default-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; \
                     form-action 'self'; frame-ancestors 'none'\r\nX-Content-Type-Options: nosniff\r\n\
                     Referrer-Policy: no-referrer\r\n",
                    body.len()
                );
                out.extend_from_slice(head.as_bytes());
            }
        }
        out.extend_from_slice(b"Vary: Origin\r\nConnection: close\r\n");
        if let Some(reader) = &self.reader {
            let cors = format!("Access-Control-Allow-Origin: {reader}\r\nAccess-Control-Allow-Methods: GET\r\n");
            out.extend_from_slice(cors.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        if let Some(Content { body, .. }) = self.content.as_ref().filter(|_| method != "HEAD") {
            out.extend_from_slice(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_values_decode_as_browsers_encode_them() {
        assert_eq!(percent_decode("a%20b+c%2B"), Some("a b c+".into()));
        assert_eq!(percent_decode("%E5%BC%A0"), Some("张".into()));
        assert_eq!(percent_decode("%E5"), None);
        assert_eq!(percent_decode("%4"), None);
        assert_eq!(percent_decode("%zz"), None);
    }
}
