//! The host that a request names (RFC 9112 §3.2): exactly one Host header, or the authority of an absolute target, which
//! then replaces it. If the listener can only be reached from this machine, some responses need no key. A foreign name is
//! refused there: a page whose name was rebound to 127.0.0.1 (DNS rebinding) must not read them.

use axum::extract::Request;
use axum::http::{Version, header};

use super::error::ApiError;
use crate::wire::handshake::is_loopback;
use crate::wire::origin::split_port;

/// The names under which the API answers without a key.
#[derive(Debug)]
pub(crate) struct Hosts {
    /// Whether the listener is on a loopback address. Otherwise every name is served.
    is_local: bool,
    /// Names that are served beside those of this machine; `*` stands for any name.
    allowed: Vec<String>,
}

impl Hosts {
    /// `allowed` is the setting `http.hosts`.
    pub(crate) fn new(is_local: bool, allowed: Vec<String>) -> Self {
        Self { is_local, allowed }
    }

    /// Whether a request that names this host may be answered without a key.
    pub(crate) fn serve(&self, host: Option<&str>) -> bool {
        // Browsers always send a Host header, so a request without one comes from no page.
        let Some(host) = host else { return true };
        let name = split_port(host).map_or(host, |(name, _)| name);
        // A name without a dot cannot be registered in the public DNS: it belongs to this machine's network.
        let is_near = is_loopback(host) || !name.contains(['.', '[']);
        !self.is_local || is_near || self.allowed.iter().any(|one| one == "*" || one.eq_ignore_ascii_case(name))
    }
}

/// The host that a request names, with its port if it names one. `None` for HTTP/1.0 without a Host header.
///
/// # Errors
/// When the request names no host, two of them, or something that is not a host.
pub(crate) fn host_of(request: &Request) -> Result<Option<&str>, ApiError> {
    let mut values = request.headers().get_all(header::HOST).iter();
    let host = match (values.next(), values.next()) {
        (None, _) if request.version() < Version::HTTP_11 => None,
        (Some(host), None) => Some(host.to_str().ok().filter(|host| split_port(host).is_some())),
        _ => return Err(ApiError::malformed("exactly one Host header is required")),
    };
    if host == Some(None) {
        return Err(ApiError::malformed("the Host header must be a host, with or without a port"));
    }
    let Some(authority) = request.uri().authority() else { return Ok(host.flatten()) };
    let authority = authority.as_str();
    match split_port(authority) {
        Some(_) => Ok(Some(authority)),
        None => Err(ApiError::malformed("the target must name a host, with or without a port")),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Uri;

    use super::*;

    fn host(version: Version, target: &str, hosts: &[&str]) -> Result<Option<String>, ()> {
        let mut request = Request::builder().version(version).uri(target.parse::<Uri>().expect("a target"));
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        let request = request.body(Body::empty()).expect("a request");
        host_of(&request).map(|host| host.map(str::to_owned)).map_err(drop)
    }

    #[test]
    fn exactly_one_host_is_named() {
        let found = |name: &str| Ok(Some(name.to_owned()));
        assert_eq!(host(Version::HTTP_11, "/health", &["a:1"]), found("a:1"));
        for hosts in [&[][..], &["a", "a"], &[""], &["a b"], &["a/b"], &["u@a"], &["a:b"], &["[::1"], &["a,b"]] {
            assert_eq!(host(Version::HTTP_11, "/health", hosts), Err(()), "{hosts:?}");
        }
        assert_eq!(host(Version::HTTP_10, "/health", &[]), Ok(None));
        assert_eq!(host(Version::HTTP_10, "/health", &["a", "b"]), Err(()));
        assert_eq!(host(Version::HTTP_11, "http://b:2/health", &["a:1"]), found("b:2"));
        for hosts in [&[][..], &["a", "b"], &["a b"]] {
            assert_eq!(host(Version::HTTP_11, "http://b/health", hosts), Err(()), "{hosts:?}");
        }
        assert_eq!(host(Version::HTTP_11, "http://u:p@b/health", &["a"]), Err(()));
    }

    #[test]
    fn a_foreign_name_is_served_where_it_is_listed() {
        let local = Hosts::new(true, vec!["Metrics.internal".to_owned()]);
        for host in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:2346",
            "127.9.9.9",
            "[::1]:1",
            "metrics.INTERNAL:9",
            "pushserver:2346",
        ] {
            assert!(local.serve(Some(host)), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "x.metrics.internal", "10.0.0.1", "0.0.0.0", "[::2]", "evil."]
        {
            assert!(!local.serve(Some(host)), "{host}");
            assert!(Hosts::new(true, vec!["*".to_owned()]).serve(Some(host)), "{host}");
            assert!(Hosts::new(false, Vec::new()).serve(Some(host)), "{host}");
        }
        assert!(local.serve(None));
    }
}
