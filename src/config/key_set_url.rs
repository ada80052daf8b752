//! The address of `auth.jwks_url`, checked before anything is fetched from it. An attacker who can change the response can
//! sign tokens, so only https:// is accepted, and http:// to this machine itself. Pure; `control` fetches, and nothing that
//! a client sends can name another address.

use std::fmt;
use std::net::IpAddr;

use hyper::Uri;

/// The longest address, in bytes.
const ADDRESS_BYTES_MAX: usize = 2_048;

/// An address that a JSON Web Key Set is fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeySetUrl {
    host: String,
    port: u16,
    is_tls: bool,
    /// The path with the query.
    target: String,
}

impl KeySetUrl {
    /// Parses an address.
    ///
    /// # Errors
    /// A message that says what is wrong with the address, and how to write it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("{why}: write it like \"https://id.example.com/.well-known/jwks.json\""));
        if text.len() > ADDRESS_BYTES_MAX {
            return Err(format!("must have at most {ADDRESS_BYTES_MAX} bytes"));
        }
        if text.contains('#') {
            return wrong("must have no # part, which is never sent to a server");
        }
        let Ok(uri) = text.parse::<Uri>() else { return wrong("is not a URL") };
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return wrong("is not a whole URL");
        };
        if authority.as_str().contains('@') {
            return wrong("must name no user and no password");
        }
        let is_tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return wrong("must begin with https://"),
        };
        // `port_u16` returns `None` for a missing port and for one that is too large.
        let has_port = authority.as_str().len() > authority.host().len();
        let port = match authority.port_u16() {
            Some(0) => return wrong("must not name port 0"),
            Some(port) => port,
            None if has_port => return wrong("has a port that is not a number up to 65535"),
            None if is_tls => 443,
            None => 80,
        };
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return wrong("names no host");
        }
        Ok(Self { host, port, is_tls, target: target.to_owned() })
    }

    /// The host's name or address; an IPv6 address without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The port: the one in the address, or the scheme's default.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Whether the connection uses TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The path with the query, as the request names it.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    /// The value of the `Host` header.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.is_tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// Whether an attacker on the network could change the response: the address is plain http to another machine.
    pub(crate) fn is_open_to_others(&self) -> bool {
        let is_this_machine = match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.host.eq_ignore_ascii_case("localhost"),
        };
        !self.is_tls && !is_this_machine
    }
}

/// Shows the address without its query, which may hold a secret.
impl fmt::Display for KeySetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        let path = self.target.split('?').next().unwrap_or_default();
        write!(f, "{scheme}://{}{path}", self.authority())
    }
}

/// The check of the setting.
#[expect(clippy::ptr_arg, reason = "the check of a setting takes a reference to the setting's type")]
pub(super) fn is_key_set_url(text: &String) -> Result<(), String> {
    KeySetUrl::parse(text).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_parts() {
        for (text, host, port, authority, target, shown) in [
            ("https://id.example", "id.example", 443, "id.example", "/", "https://id.example/"),
            (
                "https://id.example:8443/a/keys?k=secret",
                "id.example",
                8443,
                "id.example:8443",
                "/a/keys?k=secret",
                "https://id.example:8443/a/keys",
            ),
            ("http://[::1]:80/keys", "::1", 80, "[::1]", "/keys", "http://[::1]/keys"),
        ] {
            let url = KeySetUrl::parse(text).unwrap();
            let parts = (url.host(), url.port(), &*url.authority(), url.target(), &*url.to_string());
            assert_eq!(parts, (host, port, authority, target, shown));
        }
    }

    #[test]
    fn plain_http_is_for_this_machine() {
        for (text, is_open) in [
            ("https://id.example/", false),
            ("http://localhost:1/", false),
            ("http://127.0.0.9/", false),
            ("http://[::1]/", false),
            ("http://id.example/", true),
            ("http://10.0.0.1/", true),
            ("http://localhost.example/", true),
        ] {
            assert_eq!(KeySetUrl::parse(text).unwrap().is_open_to_others(), is_open, "{text}");
        }
    }

    #[test]
    fn what_is_no_such_address_is_told() {
        for (text, part) in [
            ("", "not a"),
            ("id.example", "whole URL"),
            ("/keys", "whole URL"),
            ("ftp://id.example/", "https://"),
            ("file:///etc/keys", "not a"),
            ("https://", "not a"),
            ("https://user:hush@id.example/", "no user"),
            ("https://id.example/#keys", "no # part"),
            ("https://id.example:0/", "port 0"),
            ("https://id.example:99999/", "port"),
            ("https://id example/", "not a URL"),
            (&format!("https://id.example/{}", "x".repeat(3_000)), "at most"),
        ] {
            let problem = KeySetUrl::parse(text).unwrap_err();
            assert!(problem.contains(part) && !problem.contains("hush"), "{text:?}: {problem}");
        }
    }
}
