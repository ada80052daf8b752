//! Abuse before the upgrade: requests that never end or are too large, requests that two readers understand in two
//! ways, and what isn't HTTP at all.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::{KIB, MIB, Scene, lifted, outcome, unlimited};
use crate::support::{Random, Raw, request, seed};

/// What a refused connection was told, to its end.
async fn answer(raw: &mut Raw) -> String {
    String::from_utf8_lossy(&raw.rest().await).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_handshakes_are_cut_and_cost_a_head_each() {
    const MANY: usize = 400;
    let scene = Scene::open(lifted(&["CONNECTIONS_PER_IP"]).env("URINGCAST_LIMITS__HANDSHAKE_MS", 2_500)).await;
    let head = format!("GET /ws HTTP/1.1\r\nHost: {}\r\nX-Slow: {}", scene.server.addr, "z".repeat(8_000));
    let mut slow = Vec::new();
    for _ in 0..MANY {
        slow.push(scene.connect().await);
    }
    // A byte at a time to each in turn, for as long as anyone takes one.
    let mut open = vec![true; MANY];
    for byte in head.bytes() {
        for (raw, open) in slow.iter_mut().zip(&mut open) {
            *open = *open && raw.tcp.write_all(&[byte]).await.is_ok();
        }
        if !open.contains(&true) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for raw in &mut slow {
        let answer = answer(raw).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    drop(slow);
    scene.over(MANY as u64 * 12 * KIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_heads_are_413() {
    let scene = Scene::open(unlimited()).await;
    let long = "x".repeat(100_000);
    for _ in 0..100 {
        let one = request(&scene.server, "/ws", &[("Cookie", &long)]);
        let many: String = (0..200).map(|n| format!("X-{n}: {n}\r\n")).collect();
        let many = request(&scene.server, "/ws", &[]).replace("\r\n\r\n", &format!("\r\n{many}\r\n"));
        for head in [one, many, format!("GET /{long}"), format!("GET / HTTP/1.1\r\n{long}: x")] {
            let mut raw = scene.connect().await;
            let _ = raw.tcp.write_all(head.as_bytes()).await;
            // A reset may overtake the answer when more was sent than was read.
            let answer = answer(&mut raw).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
        }
    }
    // Byte by byte nothing is left unread, so that the answer always arrives.
    let mut raw = scene.connect().await;
    let head = request(&scene.server, "/ws", &[("Cookie", &"x".repeat(8_200))]);
    for part in head.as_bytes()[..8_192].chunks(1_024) {
        raw.write(part).await;
    }
    assert!(answer(&mut raw).await.starts_with("HTTP/1.1 413"));
    drop(raw);
    scene.over(MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_smuggled_through_an_upgrade() {
    let scene = Scene::open(unlimited()).await;
    let good = request(&scene.server, "/ws", &[]);
    let with = |lines: &str| good.replace("\r\n\r\n", &format!("\r\n{lines}\r\n\r\n"));
    let host = format!("Host: {}", scene.server.addr);
    for head in [
        with("Content-Length: 5"),
        with("Content-Length: 5, 5"),
        with("Content-Length: +0"),
        with("Content-Length: -1"),
        with("Content-Length: 0x0"),
        with("Content-Length: 0\r\nContent-Length: 0"),
        with("Content-Length: 18446744073709551616"),
        with("Transfer-Encoding: chunked"),
        with("Transfer-Encoding: identity"),
        with("Transfer-Encoding: xchunked"),
        with("Transfer-Encoding: chunked\r\nContent-Length: 0"),
        with("Transfer-Encoding : chunked"),
        with(" Transfer-Encoding: chunked"),
        with("X-Folded: a\r\n Transfer-Encoding: chunked"),
        with("X-Folded: a\r\n\tb"),
        with("X-Nul: a\0b"),
        with("X-Return: a\rb"),
        with("Host: other.example"),
        with("Sec-WebSocket-Version: 13"),
        good.replace(&host, "Host: a b"),
        good.replace(&host, "Host: a,b"),
        good.replace(&host, "Host: user@a"),
        good.replace("GET /ws", "GET http://user@other.example/ws"),
        good.replace("GET /ws", "GET http:///ws"),
        good.replace("GET /ws", "GET ws"),
        good.replace("GET /ws", "GET /ws /ws"),
        good.replace("HTTP/1.1", "HTTP/1.1 HTTP/1.1"),
        good.replace("HTTP/1.1", "HTTP/2.0"),
        good.replace("HTTP/1.1", "http/1.1"),
    ] {
        // A second request behind it, which a reader that gets the first one wrong would answer.
        let mut raw = scene.connect().await;
        let _ = raw.tcp.write_all(format!("{head}0\r\n\r\n{good}").as_bytes()).await;
        let answer = answer(&mut raw).await;
        let status = answer.get(9..12).unwrap_or_default();
        assert!(matches!(status, "400" | "426" | "505"), "{head:?}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head:?}: {answer:?}");
    }
    // Behind an upgrade that was agreed to there are frames, and a request is none.
    for behind in [good.clone(), "0\r\n\r\n".to_owned(), "GET / HTTP/1.1\r\n\r\n".to_owned(), "PRI * HTTP/2".to_owned()]
    {
        let mut raw = scene.connect().await;
        raw.write(format!("{good}{behind}").as_bytes()).await;
        assert_eq!(raw.response().await.status, 101);
        assert_eq!(raw.json().await["type"], "system");
        assert_eq!(outcome(&mut raw).await.close, Some(1002), "{behind:?}");
    }
    scene.over(MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_garbage_is_refused_before_and_behind_an_upgrade() {
    let scene = Scene::open(unlimited()).await;
    let mut random = Random(seed());
    for round in 0..200 {
        let mut garbage: Vec<u8> = (0..random.below(3_000) + 30).map(|_| random.next() as u8).collect();
        if round % 2 == 0 {
            // It ends, so that nothing waits for the rest of it.
            garbage.extend_from_slice(b"\r\n\r\n");
            let mut raw = scene.connect().await;
            let _ = raw.tcp.write_all(&garbage).await;
            let answer = answer(&mut raw).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "round {round}: {answer}");
        } else {
            // The first byte is no frame's that may come.
            garbage[0] |= 0x70;
            let mut raw = scene.upgraded("/ws").await;
            let _ = raw.tcp.write_all(&garbage).await;
            assert_eq!(outcome(&mut raw).await.close, Some(1002), "round {round}");
        }
    }
    scene.over(MIB).await;
}
