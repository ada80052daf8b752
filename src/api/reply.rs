//! What a request leaves behind for its response and for the log. A connection keeps one for each request that is not
//! answered yet, so it is small.

use super::routes::{ApiMethod, ApiRoute};

/// The most bytes of an unknown path or method that are kept for the log.
const KEPT_BYTES: usize = 256;

/// What the response to a request needs to know of it.
#[derive(Debug)]
pub struct ApiReply {
    route: ApiRoute,
    method: ApiMethod,
    is_http_1_0: bool,
    is_last: bool,
    rare: Option<Box<RareReply>>,
}

/// What few requests have.
#[derive(Debug, Default)]
struct RareReply {
    /// The method, if it is none of the API's.
    method: Box<str>,
    /// The path, if it is none of the API's.
    path: Box<str>,
    /// The origin of the page whose browser may show it the response.
    origin: Option<Box<str>>,
}

impl ApiReply {
    /// The reply to what is no request: the last one of its connection.
    pub(super) fn to_no_request() -> Self {
        let (route, method) = (ApiRoute::Unknown, ApiMethod::Other);
        Self { route, method, is_http_1_0: false, is_last: true, rare: None }
    }

    /// The reply to a request of this method for this path.
    pub(super) fn new(method: &str, path: &str, is_http_1_0: bool, is_last: bool) -> Self {
        let (known_method, route) = (ApiMethod::of(method), ApiRoute::of(path));
        let mut rare = None;
        if known_method == ApiMethod::Other || route == ApiRoute::Unknown {
            rare = Some(Box::new(RareReply { method: start_of(method), path: start_of(path), origin: None }));
        }
        Self { route, method: known_method, is_http_1_0, is_last, rare }
    }

    /// Allows the pages of this origin to read the response.
    pub(super) fn share_with(&mut self, origin: &str) {
        self.rare.get_or_insert_default().origin = Some(origin.into());
    }

    /// Makes the response the last one of its connection.
    pub(crate) fn close_after(&mut self) {
        self.is_last = true;
    }

    /// Whether the connection closes after the response.
    pub fn is_last(&self) -> bool {
        self.is_last
    }

    /// The path as a route.
    pub(super) fn route(&self) -> ApiRoute {
        self.route
    }

    /// Whether the response has a body: not if the request was HEAD.
    pub(super) fn has_body(&self) -> bool {
        self.method != ApiMethod::Head
    }

    /// The request was HTTP/1.0.
    pub(super) fn is_http_1_0(&self) -> bool {
        self.is_http_1_0
    }

    /// The origin whose pages may read the response.
    pub(super) fn origin(&self) -> Option<&str> {
        self.rare.as_ref()?.origin.as_deref()
    }

    /// The method, for the log. Empty if there was no request.
    pub(crate) fn method(&self) -> &str {
        self.method.name().or_else(|| self.rare.as_ref().map(|rare| &*rare.method)).unwrap_or_default()
    }

    /// The path, for the log. Empty if there was no request.
    pub(crate) fn path(&self) -> &str {
        self.route.path().or_else(|| self.rare.as_ref().map(|rare| &*rare.path)).unwrap_or_default()
    }

    /// Whether the request asked for `/health`, where a refusal is no news.
    pub(crate) fn is_health(&self) -> bool {
        self.route == ApiRoute::Health
    }
}

fn start_of(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(KEPT_BYTES)].into()
}
