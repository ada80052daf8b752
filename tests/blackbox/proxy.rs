//! Where a connection comes from when it comes through a proxy: the PROXY protocol and `X-Forwarded-For`, believed of
//! trusted proxies only. How it shows: the limits per address count by what the proxy says.

use std::net::IpAddr;

use crate::metrics::{self, Metrics};
use crate::support::{Options, Raw, Response, Server, request};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Trusts 127.0.0.1, takes one connection from each address.
fn options() -> Options {
    metrics::options()
        .shards(2)
        .env("URINGCAST_LIMITS__TRUSTED_PROXIES", "127.0.0.1")
        .env("URINGCAST_LIMITS__CONNECTIONS_PER_IP", 1)
}

/// A header of version 2: PROXY over TCP, with a TLV behind the addresses.
fn from(client: &str) -> Vec<u8> {
    let (family, mut body) = match client.parse().unwrap() {
        IpAddr::V4(addr) => (0x11, [&addr.octets()[..], &[10, 0, 0, 1, 0xc0, 0, 0, 80]].concat()),
        IpAddr::V6(addr) => (0x21, [&addr.octets()[..], &[0; 16], &[0xc0, 0, 0, 80]].concat()),
    };
    body.extend_from_slice(&[0x04, 0, 3, 1, 2, 3]);
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[0x21, family], &length, &body].concat()
}

/// Upgrades behind a prelude; the connection stays open with what is returned.
async fn upgrade(server: &Server, prelude: &[u8], headers: &[(&str, &str)]) -> (Response, Raw) {
    let mut raw = Raw::connect(server).await;
    raw.write(prelude).await;
    raw.write(request(server, "/ws", headers).as_bytes()).await;
    let response = raw.response().await;
    (response, raw)
}

#[tokio::test]
async fn the_proxy_protocol_says_whose_connection_it_is() {
    let server = options().env("URINGCAST_LIMITS__PROXY_PROTOCOL", "true").start();
    let mut kept = Vec::new();
    for (client, status) in [
        ("192.0.2.1", 101),
        ("192.0.2.2", 101),
        ("192.0.2.1", 429),
        ("2001:db8::1", 101),
        ("2001:db8::2", 429),
        ("2001:db8:0:1::1", 101),
        ("::ffff:192.0.2.2", 429),
    ] {
        let (response, raw) = upgrade(&server, &from(client), &[]).await;
        assert_eq!(response.status, status, "{client}");
        assert_eq!(response.header("retry-after").is_some(), status == 429);
        kept.push(raw);
    }
    assert_eq!(Metrics::of(&server).await.refusals("connections_per_ip").await, 3);
}

#[tokio::test]
async fn version_1_says_it_too() {
    let server = options().env("URINGCAST_LIMITS__PROXY_PROTOCOL", "true").start();
    let mut kept = Vec::new();
    for (line, status) in [
        ("PROXY TCP4 192.0.2.1 10.0.0.1 50000 443", 101),
        ("PROXY TCP4 192.0.2.1 10.0.0.1 50001 443", 429),
        ("PROXY TCP6 2001:db8::1 2001:db8::f 0 65535", 101),
        ("PROXY TCP6 2001:db8::2 2001:db8::f 0 65535", 429),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2", 429),
        ("PROXY UNKNOWN ffff::1 ffff::2 1 2", 101),
        ("PROXY UNKNOWN", 429),
    ] {
        let (response, raw) = upgrade(&server, format!("{line}\r\n").as_bytes(), &[]).await;
        assert_eq!(response.status, status, "{line}");
        kept.push(raw);
    }
}

#[tokio::test]
async fn a_header_in_pieces_is_a_header() {
    let server = options().env("URINGCAST_LIMITS__PROXY_PROTOCOL", "true").start();
    for header in [from("192.0.2.1"), b"PROXY TCP4 192.0.2.2 10.0.0.1 50000 443\r\n".to_vec()] {
        let whole = [header, request(&server, "/ws", &[]).into_bytes()].concat();
        let mut raw = Raw::connect(&server).await;
        for piece in whole.chunks(1) {
            raw.write(piece).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(raw.response().await.status, 101);
    }
}

#[tokio::test]
async fn a_proxy_that_speaks_for_itself_counts_by_its_own_address() {
    let server = options().env("URINGCAST_LIMITS__PROXY_PROTOCOL", "true").start();
    let local = [SIGNATURE, &[0x20, 0, 0, 0]].concat();
    let unspecified = [SIGNATURE, &[0x21, 0, 0, 4, 1, 2, 3, 4]].concat();
    let (first, _open) = upgrade(&server, &local, &[]).await;
    assert_eq!(first.status, 101);
    assert_eq!(upgrade(&server, &unspecified, &[]).await.0.status, 429);
}

#[tokio::test]
async fn a_trusted_proxy_without_a_header_is_ended() {
    let server =
        options().env("URINGCAST_LIMITS__PROXY_PROTOCOL", "true").env("URINGCAST_LIMITS__HANDSHAKE_MS", 300).start();
    let version_1 = b"PROXY TCP4 192.0.2.1 10.0.0.1 50000\r\n".to_vec();
    let endless = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 93]].concat();
    let too_long = [SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat();
    let cut = [SIGNATURE, &[0x21, 0x11, 0, 4, 1, 2, 3, 4]].concat();
    let plain = request(&server, "/ws", &[]).into_bytes();
    let silent = from("192.0.2.1")[..20].to_vec();
    let mut wrong = 0_usize;
    for prelude in [plain, version_1, endless, too_long, cut, silent] {
        let mut raw = Raw::connect(&server).await;
        raw.write(&prelude).await;
        assert!(raw.rest().await.is_empty(), "{prelude:?} was answered");
        wrong += 1;
    }
    for _ in 0..40 {
        let mut raw = Raw::connect(&server).await;
        raw.write(b"GET / HTTP/1.1\r\n").await;
        assert!(raw.rest().await.is_empty());
    }
    let metrics = Metrics::of(&server).await;
    let all = wrong as u64 + 40;
    metrics.reach("uringcast_refusals_total{limit=\"proxy_protocol\"}", |count| count == all).await;
    // The log says whose connections they were and what was wrong; of many in a row it says the first.
    server.logged("it sent no PROXY header, of neither version").await;
    let log = server.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("the trusted proxy's connection is cut")).collect();
    assert!(told.iter().all(|line| line.contains(" INFO ") && line.contains("client=127.0.0.1")), "{told:?}");
    assert!(told.len() < wrong + 40, "{told:?}");
    // Their places are free again.
    metrics.reach("uringcast_connections", |count| count == 0).await;
    assert_eq!(upgrade(&server, &from("192.0.2.1"), &[]).await.0.status, 101);
}

#[tokio::test]
async fn nobody_else_may_send_one() {
    // The proxy is 127.0.0.1, this peer 127.0.0.2: bad HTTP, whether proxies send the header or not.
    for sends in ["true", "false"] {
        let server = options()
            .env("URINGCAST_LIMITS__PROXY_PROTOCOL", sends)
            .env("URINGCAST_LIMITS__TRUSTED_PROXIES", "127.0.0.2")
            .env("URINGCAST_LIMITS__CONNECTIONS_PER_IP", 0)
            .start();
        for prelude in [from("192.0.2.1"), b"PROXY TCP4 192.0.2.1 10.0.0.1 50000 80\r\n".to_vec()] {
            assert_eq!(upgrade(&server, &prelude, &[]).await.0.status, 400, "{sends}");
        }
        assert_eq!(upgrade(&server, b"", &[]).await.0.status, 101);
    }
}

/// Headers of a proxy, and the status that they are answered with.
type Said<'a> = (&'a [(&'a str, &'a str)], u16);

/// One connection for each of what a proxy says in these headers, all kept open, and how each is answered.
async fn answered(server: &Server, cases: &[Said<'_>]) {
    let mut kept = Vec::new();
    for (headers, status) in cases {
        let (response, raw) = upgrade(server, b"", headers).await;
        assert_eq!(response.status, *status, "{headers:?}");
        kept.push(raw);
    }
}

#[tokio::test]
async fn the_rightmost_address_that_is_not_trusted_counts() {
    let server = options().env("URINGCAST_LIMITS__TRUSTED_PROXIES", "127.0.0.1,10.0.0.0/8").start();
    let other = ("Forwarded", "for=7.7.7.7");
    let cases: [Said<'_>; 8] = [
        (&[("X-Forwarded-For", "192.0.2.1"), other], 101),
        (&[("X-Forwarded-For", "192.0.2.1"), other], 429),
        (&[("X-Forwarded-For", "6.6.6.6, 192.0.2.1, 10.0.0.7"), other], 429),
        (&[("X-Forwarded-For", "6.6.6.6, 192.0.2.2, 10.0.0.7"), other], 101),
        (&[("X-Forwarded-For", "2001:db8::1"), other], 101),
        (&[("X-Forwarded-For", "[2001:db8::2]:4711"), other], 429),
        // Nobody said: the proxy's own.
        (&[other], 101),
        (&[("X-Forwarded-For", "unknown"), other], 429),
    ];
    answered(&server, &cases).await;
}

#[tokio::test]
async fn forwarded_is_read_when_it_is_configured_and_the_other_is_not() {
    let server = options().env("URINGCAST_LIMITS__FORWARDED_HEADER", "forwarded").start();
    let other = ("X-Forwarded-For", "7.7.7.7");
    let cases: [Said<'_>; 3] = [
        (&[("Forwarded", "for=192.0.2.1;proto=https"), other], 101),
        (&[("Forwarded", "For=\"192.0.2.1:99\""), other], 429),
        (&[("Forwarded", "for=192.0.2.9"), other], 101),
    ];
    answered(&server, &cases).await;
}

#[tokio::test]
async fn whoever_is_no_proxy_is_not_believed() {
    let server = options().env("URINGCAST_LIMITS__TRUSTED_PROXIES", "10.0.0.0/8").start();
    let (first, _open) = upgrade(&server, b"", &[("X-Forwarded-For", "192.0.2.1")]).await;
    assert_eq!(first.status, 101);
    assert_eq!(upgrade(&server, b"", &[("X-Forwarded-For", "192.0.2.2")]).await.0.status, 429);
}

#[tokio::test]
async fn an_exempt_proxy_does_not_exempt_its_clients() {
    let server = options().env("URINGCAST_LIMITS__EXEMPT", "127.0.0.0/8,::1").start();
    let (first, _open) = upgrade(&server, b"", &[("X-Forwarded-For", "192.0.2.1")]).await;
    assert_eq!(first.status, 101);
    assert_eq!(upgrade(&server, b"", &[("X-Forwarded-For", "192.0.2.1")]).await.0.status, 429);
    // Its own, as in health checks, are exempt.
    let own: Said<'_> = (&[], 101);
    answered(&server, &[own; 3]).await;
}
