//! Where the server is: a `ws://` URL, resolved once, and the source addresses to connect from.
//!
//! Knows nothing of connections. Called by the commands before anything starts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

use anyhow::{Context, Result, bail};

/// A resolved server address with what the upgrade request needs.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where to connect to.
    pub address: SocketAddr,
    /// The Host header.
    pub host: String,
    /// The path with its query.
    pub path: String,
}

impl Target {
    /// Reads `ws://HOST[:PORT][/PATH]` and resolves the host.
    pub fn parse(url: &str) -> Result<Self> {
        let Some(rest) = url.strip_prefix("ws://") else {
            bail!("{url}: expected ws://HOST:PORT/PATH (TLS is not supported)");
        };
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(split);
        if host.is_empty() || host.contains('@') || path.contains(['#', ' ', '\r', '\n']) {
            bail!("{url}: expected ws://HOST:PORT/PATH");
        }
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let with_port = if has_port { host.to_owned() } else { format!("{host}:80") };
        let address = with_port
            .to_socket_addrs()
            .with_context(|| format!("can't resolve {host}"))?
            .next()
            .with_context(|| format!("{host} has no address"))?;
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self { address, host: host.to_owned(), path: format!("{slash}{path}") })
    }

    /// The source addresses for `connections`: those given, or as many of 127.0.0.0/8 as a loopback
    /// target needs when the ephemeral ports of one would run out. Empty leaves the choice to the kernel.
    pub fn sources(&self, given: &[IpAddr], connections: usize) -> Vec<IpAddr> {
        if !given.is_empty() || !matches!(self.address.ip(), IpAddr::V4(ip) if ip.is_loopback()) {
            return given.to_vec();
        }
        // Ports that still rest from an earlier run can't be had, so not all of the range counts.
        let per_address = ephemeral_ports() * 2 / 3;
        if connections <= per_address {
            return Vec::new();
        }
        let needed = connections.div_ceil(per_address.max(1)).min(250) as u8;
        let sources = (0..needed).map(|i| IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2 + i)));
        sources.collect()
    }
}

fn ephemeral_ports() -> usize {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let range = range.unwrap_or_default();
    let mut ends = range.split_whitespace().map(str::parse::<usize>);
    match (ends.next(), ends.next()) {
        (Some(Ok(low)), Some(Ok(high))) if high > low => high - low + 1,
        _ => 28_232,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let target = Target::parse("ws://127.0.0.1:2345/echo?x=1").unwrap();
        assert_eq!(target.address, "127.0.0.1:2345".parse().unwrap());
        assert_eq!((target.host.as_str(), target.path.as_str()), ("127.0.0.1:2345", "/echo?x=1"));
        let target = Target::parse("ws://127.0.0.1").unwrap();
        assert_eq!((target.address.port(), target.path.as_str()), (80, "/"));
        let target = Target::parse("ws://[::1]:9/a").unwrap();
        assert_eq!(target.address, "[::1]:9".parse().unwrap());
        for bad in ["http://x/", "wss://x/", "ws:///x", "ws://u@h/", "ws://127.0.0.1/ b"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn loopback_addresses_are_added_only_when_ports_run_out() {
        let target = Target::parse("ws://127.0.0.1:1/").unwrap();
        assert!(target.sources(&[], 100).is_empty());
        assert!(target.sources(&[], 200_000).len() > 1);
        let given: Vec<IpAddr> = vec!["127.0.0.9".parse().unwrap()];
        assert_eq!(target.sources(&given, 200_000), given);
    }
}
