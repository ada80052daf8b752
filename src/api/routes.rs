//! The paths of the API and the methods that each takes (docs/api.md). Knows no request; `gate` asks it, and `reply`
//! keeps what it knows for the response.

/// A path of the API.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ApiRoute {
    /// `/api/publish`
    Publish,
    /// `/api/broadcast`
    Broadcast,
    /// `/api/presence`
    Presence,
    /// `/api/history`
    History,
    /// `/api/revoke`
    Revoke,
    /// `/api/unrevoke`
    Unrevoke,
    /// `/api/revocations`
    Revocations,
    /// `/health`
    Health,
    /// `/metrics`
    Metrics,
    /// `*`, the server as a whole.
    Server,
    /// Every other path: there is no such endpoint.
    Unknown,
}

impl ApiRoute {
    /// The route of a path, which is compared as it was sent.
    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/api/publish" => Self::Publish,
            "/api/broadcast" => Self::Broadcast,
            "/api/presence" => Self::Presence,
            "/api/history" => Self::History,
            "/api/revoke" => Self::Revoke,
            "/api/unrevoke" => Self::Unrevoke,
            "/api/revocations" => Self::Revocations,
            "/health" => Self::Health,
            "/metrics" => Self::Metrics,
            "*" => Self::Server,
            _ => Self::Unknown,
        }
    }

    /// The path; `None` for [`ApiRoute::Unknown`], which has many.
    pub(crate) fn path(self) -> Option<&'static str> {
        match self {
            Self::Publish => Some("/api/publish"),
            Self::Broadcast => Some("/api/broadcast"),
            Self::Presence => Some("/api/presence"),
            Self::History => Some("/api/history"),
            Self::Revoke => Some("/api/revoke"),
            Self::Unrevoke => Some("/api/unrevoke"),
            Self::Revocations => Some("/api/revocations"),
            Self::Health => Some("/health"),
            Self::Metrics => Some("/metrics"),
            Self::Server => Some("*"),
            Self::Unknown => None,
        }
    }

    /// The methods that it takes, as the Allow header lists them.
    pub(crate) fn allowed(self) -> &'static str {
        match self {
            Self::Publish | Self::Broadcast | Self::History | Self::Revoke | Self::Unrevoke => "POST",
            Self::Presence => "GET,HEAD,POST",
            Self::Revocations | Self::Health | Self::Metrics => "GET,HEAD",
            Self::Server | Self::Unknown => "GET, HEAD, POST, OPTIONS",
        }
    }

    /// Whether it takes the method.
    pub(crate) fn takes(self, method: ApiMethod) -> bool {
        let is_read = matches!(self, Self::Presence | Self::Revocations | Self::Health | Self::Metrics);
        match method {
            ApiMethod::Get | ApiMethod::Head => is_read,
            ApiMethod::Post => self == Self::Presence || !is_read,
            ApiMethod::Options | ApiMethod::Other => false,
        }
    }
}

/// The method of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ApiMethod {
    /// `GET`
    Get,
    /// `HEAD`: as GET, and the response has no body.
    Head,
    /// `POST`
    Post,
    /// `OPTIONS`
    Options,
    /// Every other method: no endpoint takes it.
    Other,
}

impl ApiMethod {
    /// The method of this name. Names of methods are compared in their case (RFC 9110 §9.1).
    pub(crate) fn of(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "OPTIONS" => Self::Options,
            _ => Self::Other,
        }
    }

    /// The name; `None` for [`ApiMethod::Other`], which has many.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::Get => Some("GET"),
            Self::Head => Some("HEAD"),
            Self::Post => Some("POST"),
            Self::Options => Some("OPTIONS"),
            Self::Other => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_and_its_route_name_each_other() {
        for path in [
            "/api/publish",
            "/api/broadcast",
            "/api/presence",
            "/api/history",
            "/api/revoke",
            "/api/unrevoke",
            "/api/revocations",
            "/health",
            "/metrics",
            "*",
        ] {
            assert_eq!(ApiRoute::of(path).path(), Some(path));
        }
        for path in ["/", "", "/api/publish/", "/API/publish", "/api//publish", "/api/%70ublish", "/healthz"] {
            assert_eq!(ApiRoute::of(path), ApiRoute::Unknown, "{path}");
        }
    }

    #[test]
    fn what_is_allowed_is_what_is_taken() {
        for path in ["/api/publish", "/api/presence", "/api/revocations", "/health", "/metrics", "/api/history"] {
            let route = ApiRoute::of(path);
            for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "get"] {
                let listed = route.allowed().split(',').any(|allowed| allowed == method);
                assert_eq!(route.takes(ApiMethod::of(method)), listed, "{method} {path}");
            }
        }
    }
}
