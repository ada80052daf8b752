//! What is served over plain HTTP on the WebSocket port, and where upgrades lead: the native endpoint, event streams,
//! the echo endpoint, the JavaScript client and, in dev mode only, the demo page and its tokens. Pure: a request in, a
//! route out.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rust_embed::{EmbeddedFile, RustEmbed};

use crate::auth::{self, NewToken, UserId};
use crate::config::Secret;
use crate::dialect::native::event_stream::{StreamRequest, StreamRequestError};
use crate::wire::event_stream;
use crate::wire::handshake::{HttpRefusal, Policy, Upgrade, UpgradeRequest, upgrade};

/// The one path of the echo endpoint.
const ECHO_PATH: &str = "/echo";
/// The JavaScript client: in every mode, for the pages of every origin …
const CLIENT_PATH: &str = "/uringcast.js";
/// … and where the modules are that it imports.
const CLIENT_MODULES: &str = "/uringcast/";
/// How long a token of the demo page is good for.
const DEMO_TOKEN_S: u64 = 12 * 3600;
/// Of a longer name the demo page's visitors sign in under the first so many characters …
const NAME_CHARS: usize = 64;
/// … and bytes, which is what a user's id may have.
const NAME_BYTES: usize = 128;

#[derive(RustEmbed)]
#[folder = "client/"]
#[include = "uringcast.js"]
#[include = "uringcast/*.js"]
#[include = "demo/*"]
struct Assets;

/// What this server serves.
#[derive(Debug)]
pub struct Site {
    /// Path of the native endpoint.
    pub path: String,
    /// Path of event streams; empty if none are served.
    pub event_stream_path: String,
    /// Whether the echo endpoint is served.
    pub echo: bool,
    /// Who may upgrade, and ask for an event stream.
    pub policy: Policy,
    /// In dev mode, the secret that signs the demo page's tokens.
    pub dev: Option<Secret>,
}

/// Where a request leads.
#[derive(Debug)]
pub(crate) enum Route {
    /// To the native protocol.
    Native(Upgrade),
    /// To the echo endpoint.
    Echo(Upgrade),
    /// To an event stream, once its token has been found good.
    EventStream(Box<StreamRoute>),
    /// To a page; the connection ends with it.
    Page(Page),
}

/// A request for an event stream.
#[derive(Debug)]
pub(crate) struct StreamRoute {
    /// What it asks for.
    pub(crate) request: StreamRequest,
    /// The origin whose pages may read the answer; `None`: only this server's own.
    pub(crate) reader: Option<Box<str>>,
}

/// A page: status 200 and a body, 304 without one, or, to OPTIONS, the methods that there are.
#[derive(Debug)]
pub(crate) struct Page {
    /// The origin whose pages may read it (Fetch §3.2), `*` for all; `None`: only this server's own.
    reader: Option<String>,
    /// What a copy of it is known by, if one may be kept.
    etag: Option<String>,
    reply: PageReply,
}

#[derive(Debug)]
enum PageReply {
    Content(PageContent),
    /// To HEAD: the head that an event stream begins with.
    StreamHead,
    /// The event stream was closed for good: a browser that is told so does not come back.
    StreamOver,
    /// To OPTIONS of a page that wants to send a token or an id in a header (Fetch, section 4.8).
    StreamMethods,
    /// The asker's copy is still good.
    NotModified,
    /// The response to an OPTIONS request.
    Methods,
}

#[derive(Debug)]
struct PageContent {
    content_type: &'static str,
    body: Cow<'static, [u8]>,
}

impl Site {
    /// Whether this is dev mode: only this machine is served.
    pub(crate) fn is_dev(&self) -> bool {
        self.policy.dev_hosts
    }

    /// Decides where a request leads.
    ///
    /// # Errors
    /// The HTTP refusal to send.
    pub(crate) fn route(&self, request: &UpgradeRequest<'_>, now_unix_ms: u64) -> Result<Route, HttpRefusal> {
        let is_endpoint = |path: &str| path == self.path || (path == ECHO_PATH && self.echo);
        match request.path() {
            path if self.is_event_stream(path) => self.event_stream(request),
            // What is asked of the server as a whole, or of an endpoint: which methods there are (RFC 9110 §9.3.7).
            path if request.method() == "OPTIONS" && (path == "*" || is_endpoint(path)) => {
                self.policy.check_host(request)?;
                Ok(Route::Page(Page { reader: None, etag: None, reply: PageReply::Methods }))
            }
            path if path == self.path => upgrade(request, &self.policy).map(Route::Native),
            ECHO_PATH if self.echo => upgrade(request, &self.policy).map(Route::Echo),
            path if path == CLIENT_PATH || path.starts_with(CLIENT_MODULES) => client_file(request).map(Route::Page),
            path => {
                let Some(secret) = &self.dev else { return Err(HttpRefusal::not_found()) };
                self.policy.check_host(request)?;
                let page = match path {
                    "/token" => demo_token(secret, request.query().unwrap_or_default(), now_unix_ms),
                    path => asset(path),
                };
                let reader = request.origin().filter(|origin| self.policy.origins.lists(origin));
                let reader = reader.map(str::to_owned);
                match request.method() {
                    "GET" | "HEAD" => {
                        page.map(|content| Route::Page(Page { reader, etag: None, reply: PageReply::Content(content) }))
                    }
                    // Also a preflight (Fetch §4.8): asked before what a page would not send by itself.
                    "OPTIONS" => page.map(|_| Route::Page(Page { reader, etag: None, reply: PageReply::Methods })),
                    _ => Err(page.map_or_else(|refusal| refusal, |_| HttpRefusal::method_not_allowed())),
                }
            }
        }
    }
}

impl Site {
    fn is_event_stream(&self, path: &str) -> bool {
        !self.event_stream_path.is_empty() && path == self.event_stream_path
    }

    fn event_stream(&self, request: &UpgradeRequest<'_>) -> Result<Route, HttpRefusal> {
        self.policy.check_host(request)?;
        let reader = self.stream_reader(request);
        let page = |reply| Ok(Route::Page(Page { reader: reader.clone(), etag: None, reply }));
        match request.method() {
            "GET" | "HEAD" => {}
            "OPTIONS" => return page(PageReply::StreamMethods),
            _ => return Err(HttpRefusal::method_not_allowed()),
        }
        self.policy.check_origin(request)?;
        let query = request.query().unwrap_or_default();
        match StreamRequest::parse(query, request.header("authorization"), request.header("last-event-id")) {
            Ok(_) if request.method() == "HEAD" => page(PageReply::StreamHead),
            Ok(asked) => {
                let reader = reader.map(String::into_boxed_str);
                Ok(Route::EventStream(Box::new(StreamRoute { request: asked, reader })))
            }
            Err(StreamRequestError::Over) => page(PageReply::StreamOver),
            Err(StreamRequestError::NoToken) => {
                Err(HttpRefusal::unauthorized("a token is needed: Authorization: Bearer TOKEN, or ?token=TOKEN"))
            }
            Err(StreamRequestError::Malformed(what)) => Err(HttpRefusal::bad_request(what)),
        }
    }

    /// The origin of the page that asks for a stream, if it may read the answer.
    fn stream_reader(&self, request: &UpgradeRequest<'_>) -> Option<String> {
        let may_read = |origin: &&str| self.policy.origins.allow(origin, request.host());
        request.origin().filter(may_read).map(str::to_owned)
    }

    /// Appends the response to a request that is refused; `None` if its head made no sense. Who asks for an event stream
    /// gets JSON, that its page may read.
    pub(crate) fn write_refusal(
        &self,
        request: Option<&UpgradeRequest<'_>>,
        method: &str,
        refusal: &HttpRefusal,
        out: &mut Vec<u8>,
    ) {
        match request {
            Some(request) if self.is_event_stream(request.path()) => {
                write_stream_refusal(refusal, refusal.text, method, self.stream_reader(request).as_deref(), out);
            }
            _ => refusal.write(method, out),
        }
    }
}

/// Appends the response to a request for an event stream that is refused: an `error` as a WebSocket client gets one, with
/// this text for people.
pub(crate) fn write_stream_refusal(
    refusal: &HttpRefusal,
    text: &str,
    method: &str,
    reader: Option<&str>,
    out: &mut Vec<u8>,
) {
    let body = serde_json::json!({ "type": "error", "code": refusal.status, "message": text }).to_string();
    let mut headers = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nVary: Origin\r\n".to_owned();
    if let Some(reader) = reader {
        headers += &format!("Access-Control-Allow-Origin: {reader}\r\nAccess-Control-Expose-Headers: Retry-After\r\n");
    }
    refusal.write_with(method, "application/json", &body, &headers, out);
}

fn asset(path: &str) -> Result<PageContent, HttpRefusal> {
    let (file, content_type) = match path {
        "/" => ("demo/index.html", "text/html; charset=utf-8"),
        "/app.js" => ("demo/app.js", "text/javascript; charset=utf-8"),
        "/style.css" => ("demo/style.css", "text/css; charset=utf-8"),
        // Browsers ask for the first by themselves.
        "/favicon.ico" | "/favicon.svg" => ("demo/favicon.svg", "image/svg+xml"),
        _ => return Err(HttpRefusal::not_found()),
    };
    let file = Assets::get(file).ok_or(HttpRefusal::not_found())?;
    Ok(PageContent { content_type, body: file.data })
}

/// One of the client's modules.
fn module(path: &str) -> Result<EmbeddedFile, HttpRefusal> {
    let is_module = path == CLIENT_PATH || path.starts_with(CLIENT_MODULES);
    Assets::get(&path[1..]).filter(|_| is_module).ok_or(HttpRefusal::not_found())
}

/// A module of the client, which any page may import and any browser keep. It asks each time whether its copy is still the
/// same: modules of two versions don't fit together.
fn client_file(request: &UpgradeRequest<'_>) -> Result<Page, HttpRefusal> {
    let file = module(request.path())?;
    let etag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(file.metadata.sha256_hash()));
    // RFC 9110 §13.1.2: a list, or * for any.
    let known =
        |known: &str| known.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag || tag.trim() == "*");
    let is_known = request.header("if-none-match").is_some_and(known);
    let reply = match request.method() {
        "GET" | "HEAD" if is_known => PageReply::NotModified,
        "GET" | "HEAD" => {
            PageReply::Content(PageContent { content_type: "text/javascript; charset=utf-8", body: file.data })
        }
        "OPTIONS" => PageReply::Methods,
        _ => return Err(HttpRefusal::method_not_allowed()),
    };
    Ok(Page { reader: Some("*".to_owned()), etag: Some(etag), reply })
}

/// Signs the visitor in under any name: only where the server is for trying things out.
fn demo_token(secret: &Secret, query: &str, now_unix_ms: u64) -> Result<PageContent, HttpRefusal> {
    let name = query.split('&').find_map(|pair| pair.strip_prefix("name=")).and_then(percent_decode);
    let refused = HttpRefusal::bad_request("a name is needed, in UTF-8: /token?name=Alice");
    let name = cut_name(name.as_deref().ok_or(refused)?);
    let id = UserId::text(name).ok_or(refused)?;
    let token =
        NewToken { user: &id, name, ttl_s: DEMO_TOKEN_S, channels: &[], issuer: None, audience: None, token_id: None };
    let token =
        auth::issue(secret, &token, now_unix_ms).map_err(|_| HttpRefusal::unavailable("no token can be made", 1))?;
    let body = serde_json::json!({ "token": token }).to_string();
    Ok(PageContent { content_type: "application/json", body: Cow::Owned(body.into_bytes()) })
}

/// The first `NAME_CHARS` characters, as far as a token can hold them.
fn cut_name(name: &str) -> &str {
    let name = name.trim();
    let end = name.char_indices().nth(NAME_CHARS).map_or(name.len(), |(end, _)| end);
    name[..name.floor_char_boundary(end.min(NAME_BYTES))].trim_end()
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
    pub(crate) fn write(&self, method: &str, out: &mut Vec<u8>) {
        let status = match self.reply {
            PageReply::StreamHead => return event_stream::write_head(out, self.reader.as_deref()),
            PageReply::Content(_) => "200 OK",
            PageReply::NotModified => "304 Not Modified",
            PageReply::StreamOver => "204 No Content",
            PageReply::StreamMethods => {
                "204 No Content\r\nAllow: GET, HEAD, OPTIONS\r\n\
                 Access-Control-Allow-Headers: Authorization, Last-Event-ID, Cache-Control\r\n\
                 Access-Control-Max-Age: 7200"
            }
            PageReply::Methods => "204 No Content\r\nAllow: GET, HEAD, OPTIONS",
        };
        let caching = match &self.etag {
            Some(etag) => format!("no-cache\r\nETag: {etag}"),
            None => "no-store".to_owned(),
        };
        let head = format!("HTTP/1.1 {status}\r\nCache-Control: {caching}\r\n");
        out.extend_from_slice(head.as_bytes());
        if let PageReply::Content(PageContent { content_type, body }) = &self.reply {
            // RFC 9110 §8.6: the length of what a 200 would bring, or none.
            let content = format!("Content-Type: {content_type}\r\nContent-Length: {}\r\n", body.len());
            out.extend_from_slice(content.as_bytes());
        }
        out.extend_from_slice(
            b"Content-Security-Policy: default-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; \
              form-action 'self'; frame-ancestors 'none'\r\nX-Content-Type-Options: nosniff\r\n\
              Referrer-Policy: no-referrer\r\nVary: Origin\r\nConnection: close\r\n",
        );
        if let Some(reader) = &self.reader {
            let cors = format!(
                "Access-Control-Allow-Origin: {reader}\r\nAccess-Control-Allow-Methods: GET\r\n\
                 Cross-Origin-Resource-Policy: cross-origin\r\n"
            );
            out.extend_from_slice(cors.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        if let PageReply::Content(PageContent { body, .. }) = &self.reply
            && method != "HEAD"
        {
            out.extend_from_slice(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_between_characters() {
        assert_eq!(cut_name(" Alice "), "Alice");
        assert_eq!(cut_name(&"Ж".repeat(65)), "Ж".repeat(64));
        assert_eq!(cut_name(&"张".repeat(64)), "张".repeat(42));
        assert_eq!(cut_name(&"🦀".repeat(64)), "🦀".repeat(32));
        assert_eq!(cut_name(&format!("{} x", "a".repeat(63))), "a".repeat(63));
        assert_eq!(cut_name(" \t"), "");
        for name in [cut_name(&"Ж".repeat(65)), cut_name(&"🦀".repeat(64))] {
            assert!(UserId::text(name).is_some(), "{name}");
        }
    }

    #[test]
    fn the_client_is_served_with_every_module_that_it_imports() {
        let (mut served, mut next) = (Vec::new(), vec!["/uringcast.js".to_owned()]);
        while let Some(path) = next.pop() {
            let file = module(&path).expect("a module");
            let text = String::from_utf8(file.data.into_owned()).expect("a text");
            let folder = path.rsplit_once('/').expect("a path").0;
            for line in text.lines() {
                let Some((_, imported)) = line.split_once(" from './") else { continue };
                let imported = format!("{folder}/{}", imported.strip_suffix("';").expect("an import"));
                if !served.contains(&imported) && !next.contains(&imported) {
                    next.push(imported);
                }
            }
            served.push(path);
        }
        assert!(served.len() > 2, "{served:?}");
    }

    #[test]
    fn nothing_else_of_the_clients_folder_is_served() {
        for path in [
            "/uringcast/",
            "/uringcast/../package.json",
            "/uringcast/nothing.js",
            "/README.md",
            "/package.json",
            "/uringcast.d.ts",
        ] {
            assert!(asset(path).is_err() && module(path).is_err(), "{path}");
        }
    }

    #[test]
    fn query_values_decode_as_browsers_encode_them() {
        assert_eq!(percent_decode("a%20b+c%2B"), Some("a b c+".into()));
        assert_eq!(percent_decode("%E5%BC%A0"), Some("张".into()));
        assert_eq!(percent_decode("%E5"), None);
        assert_eq!(percent_decode("%4"), None);
        assert_eq!(percent_decode("%zz"), None);
    }
}
