//! Where the server is: a `ws://` URL, resolved once, the first of its addresses that answers, and the source addresses
//! to connect from.
//!
//! Knows nothing of WebSockets. Called by the commands before anything starts.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long one address is tried before the next one is tried beside it (RFC 8305, section 8).
const HEAD_START: Duration = Duration::from_millis(250);
/// The rest after every address has refused.
const PAUSE: Duration = Duration::from_millis(50);

/// A resolved server address with what the upgrade request needs.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where to connect to.
    pub address: SocketAddr,
    /// All addresses of the name, in the resolver's order.
    addresses: Vec<SocketAddr>,
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
        let resolved = with_port.to_socket_addrs().with_context(|| format!("can't resolve {host}"))?;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        // A resolver names an address once for each line that it found.
        resolved.for_each(|address| {
            if !addresses.contains(&address) {
                addresses.push(address)
            }
        });
        let address = *addresses.first().with_context(|| format!("{host} has no address"))?;
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self { address, addresses, host: host.to_owned(), path: format!("{slash}{path}") })
    }

    /// Finds the address that answers, waiting up to `wait` for the server to listen. With source addresses given only
    /// those of the same family count.
    pub fn reached(mut self, sources: &[IpAddr], wait: Duration) -> Result<Self> {
        let of_a_source = |address: &&SocketAddr| sources.iter().any(|source| source.is_ipv4() == address.is_ipv4());
        let candidates: Vec<_> =
            self.addresses.iter().filter(|address| sources.is_empty() || of_a_source(address)).copied().collect();
        if candidates.is_empty() {
            bail!("{} has no address of the same family as --source", self.host);
        }
        let (start, mut told) = (Instant::now(), false);
        loop {
            let left = wait.saturating_sub(start.elapsed()).max(HEAD_START * 2);
            let error = match first_that_answers(&candidates, left) {
                Ok(address) => {
                    self.address = address;
                    return Ok(self);
                }
                Err(error) => error,
            };
            if start.elapsed() + PAUSE >= wait {
                let tried: Vec<_> = candidates.iter().map(ToString::to_string).collect();
                let (host, tried, seconds) = (&self.host, tried.join(" and "), wait.as_secs_f64());
                return Err(error).with_context(|| {
                    format!("no server at {host} after {seconds} s ({tried} tried); is it running? --wait waits longer")
                });
            }
            if !told {
                eprintln!("waiting for a server at {}", self.host);
                told = true;
            }
            thread::sleep(PAUSE);
        }
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

/// The first address of these to take a connection, which is closed again. Each has a head start before the next.
fn first_that_answers(addresses: &[SocketAddr], patience: Duration) -> io::Result<SocketAddr> {
    let (sender, outcomes) = mpsc::channel();
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    let (mut waiting, end) = (0, Instant::now() + patience);
    for (index, &address) in addresses.iter().enumerate() {
        let sender = sender.clone();
        // It may outlive this function, by as much as a connection attempt takes.
        thread::spawn(move || {
            let _ = sender.send(TcpStream::connect_timeout(&address, patience).map(|_| address));
        });
        waiting += 1;
        let is_last = index + 1 == addresses.len();
        while waiting > 0 {
            let limit = if is_last { end.saturating_duration_since(Instant::now()) } else { HEAD_START };
            match outcomes.recv_timeout(limit) {
                Ok(Ok(address)) => return Ok(address),
                Ok(Err(error)) => (last, waiting) = (error, waiting - 1),
                Err(_) => break,
            }
        }
    }
    Err(last)
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
    use std::net::TcpListener;

    use rustix::net::{self, AddressFamily, SocketType};

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

    /// A name with these addresses.
    fn named(addresses: &[SocketAddr]) -> Target {
        let target = Target::parse("ws://127.0.0.1:1/").unwrap();
        Target { address: addresses[0], addresses: addresses.to_vec(), ..target }
    }

    /// An address that refuses connections: it was listened on until now.
    fn refusing() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[test]
    fn every_address_of_a_name_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        for addresses in [vec![address], vec![refusing(), address], vec![refusing(), refusing(), address, refusing()]] {
            let reached = named(&addresses).reached(&[], Duration::from_secs(5)).unwrap();
            assert_eq!(reached.address, address, "{addresses:?}");
        }
        // An address that never answers delays loadgen only briefly. Its listen queue is full, so the kernel drops connects.
        let full = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        net::bind(&full, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        net::listen(&full, 0).unwrap();
        let silent = SocketAddr::try_from(net::getsockname(&full).unwrap()).unwrap();
        let filling: Vec<_> = (0..3).map(|_| TcpStream::connect_timeout(&silent, PAUSE)).collect();
        assert!(filling[2].is_err(), "the queue is full");
        assert_eq!(named(&[silent, address]).reached(&[], Duration::from_secs(5)).unwrap().address, address);
        let from: Vec<IpAddr> = vec!["::1".parse().unwrap()];
        assert!(named(&[address]).reached(&from, Duration::ZERO).unwrap_err().to_string().contains("--source"));
    }

    #[test]
    fn a_server_that_comes_late_is_waited_for_and_one_that_never_comes_is_told() {
        let address = refusing();
        let late = thread::spawn(move || {
            thread::sleep(PAUSE * 3);
            TcpListener::bind(address).unwrap()
        });
        assert_eq!(named(&[address]).reached(&[], Duration::from_secs(10)).unwrap().address, address);
        drop(late.join().unwrap());
        let told = format!("{:#}", named(&[refusing()]).reached(&[], PAUSE).unwrap_err());
        assert!(told.contains("no server at 127.0.0.1:1") && told.contains("refused"), "{told}");
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
