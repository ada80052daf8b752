//! The host that a request names (RFC 9112 §3.2): exactly one Host header, or the authority of an absolute target, which
//! then replaces it. `api::hosts` says which names are answered without a key.

use axum::extract::Request;
use axum::http::{Version, header};

use crate::api::error::ApiError;
use crate::wire::origin::split_port;

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
}
