//! The names under which the API answers without a key. If the listener can only be reached from this machine, some
//! responses need no key. A foreign name is refused there: a page whose name was rebound to 127.0.0.1 (DNS rebinding) must
//! not read them.

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

#[cfg(test)]
mod tests {
    use super::*;

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
