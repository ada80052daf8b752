//! permessage-deflate from outside (RFC 7692): every offer over a socket, messages in every shape, bombs, bad streams,
//! RSV1 where it must not be, and what other clients notice of all that: nothing. What is compressed and inflated here
//! is the work of miniz, which shares no code with the server. Autobahn's groups 12 and 13 do the rest (./check).

#[path = "../oracles/deflate.rs"]
mod reference;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::metrics::{self, Metrics};
use crate::support::{Client, DEADLINE, Options, Random, Raw, Response, Server, frame, request, seed, token};
use reference::{deflate, inflate};

const KIB: usize = 1 << 10;
const OFFER: &str = "permessage-deflate; client_max_window_bits";
const PLAIN: &str = "permessage-deflate; client_no_context_takeover";

fn on() -> Options {
    metrics::options().echo().env("URINGCAST_COMPRESSION__MODE", "on").env("URINGCAST_LIMITS__EXEMPT", "127.0.0.0/8")
}

async fn offer(server: &Server, path: &str, extensions: &str) -> (Response, Raw) {
    let mut raw = Raw::connect(server).await;
    raw.write(request(server, path, &[("Sec-WebSocket-Extensions", extensions)]).as_bytes()).await;
    (raw.response().await, raw)
}

async fn agreed(server: &Server, path: &str) -> Deflated {
    let (response, raw) = offer(server, path, OFFER).await;
    assert_eq!((response.status, response.header("sec-websocket-extensions")), (101, Some(PLAIN)));
    Deflated { raw }
}

/// A masked frame with RSV1.
fn rsv1(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame(fin, opcode, payload);
    bytes[0] |= 0x40;
    bytes
}

/// One whole message, compressed.
fn compressed(opcode: u8, content: &[u8]) -> Vec<u8> {
    rsv1(true, opcode, &deflate(content, 6, false))
}

/// A connection on which compression was agreed.
struct Deflated {
    raw: Raw,
}

/// A frame of the server's, inflated if it was compressed.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    opcode: u8,
    content: Vec<u8>,
    compressed: bool,
    /// Bytes on the wire, the header's not counted.
    payload_bytes: usize,
}

impl Deflated {
    /// The next frame; none at the end.
    async fn frame(&mut self) -> Option<Seen> {
        loop {
            if let Some((first, payload, used)) = split(&self.raw.received) {
                self.raw.received.drain(..used);
                assert_eq!(first & 0xb0, 0x80, "whole messages, and no bit but RSV1");
                let (opcode, compressed) = (first & 0x0f, first & 0x40 != 0);
                assert!(!compressed || opcode < 8, "a control frame is never compressed");
                let payload_bytes = payload.len();
                // Inflated alone, so it stands alone.
                let content = if compressed { inflate(&payload, 32 << 20).expect("inflates") } else { payload };
                return Some(Seen { opcode, content, compressed, payload_bytes });
            }
            let read = timeout(DEADLINE, self.raw.tcp.read_buf(&mut self.raw.received)).await;
            if !matches!(read.expect("an answer in time"), Ok(1..)) {
                return None;
            }
        }
    }

    async fn echoes(&mut self, opcode: u8, content: &[u8]) -> Seen {
        let seen = self.frame().await.expect("an echo");
        assert_eq!(seen.opcode, opcode);
        assert!(seen.content == content, "{} bytes came back as {}", content.len(), seen.content.len());
        seen
    }

    async fn json(&mut self) -> (Value, bool) {
        let seen = self.frame().await.expect("a message");
        assert_eq!(seen.opcode, 1);
        (serde_json::from_slice(&seen.content).expect("JSON"), seen.compressed)
    }

    async fn closed(mut self, code: u16) {
        let seen = self.frame().await.expect("a close");
        assert_eq!((seen.opcode, &seen.content[..2]), (8, &code.to_be_bytes()[..]), "{seen:?}");
        assert_eq!(self.frame().await, None);
    }
}

/// The first byte, payload and length of the frame that `bytes` begin with.
fn split(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (length, start) = match second {
        126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?, 10),
        short => (usize::from(short), 2),
    };
    Some((first, bytes.get(start..start + length)?.to_vec(), start + length))
}

fn text(bytes: usize) -> Vec<u8> {
    r#"{"type":"message","data":{"text":"so it goes, and on it goes"}}"#.bytes().cycle().take(bytes).collect()
}

#[tokio::test]
async fn every_offer_is_answered_as_rfc_7692_says() {
    let server = on().start();
    for (offered, answer) in [
        ("permessage-deflate", PLAIN),
        ("permessage-deflate; client_max_window_bits", PLAIN),
        ("permessage-deflate; client_max_window_bits=8", PLAIN),
        ("permessage-deflate; client_max_window_bits=15", PLAIN),
        ("permessage-deflate; client_no_context_takeover", PLAIN),
        ("permessage-deflate;server_no_context_takeover", &format!("{PLAIN}; server_no_context_takeover")),
        ("permessage-deflate; server_max_window_bits=9", &format!("{PLAIN}; server_max_window_bits=9")),
        ("permessage-deflate; server_max_window_bits=15", &format!("{PLAIN}; server_max_window_bits=15")),
        ("permessage-deflate; server_max_window_bits=\"10\"", &format!("{PLAIN}; server_max_window_bits=10")),
        (
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=11; \
             client_max_window_bits=12",
            &format!("{PLAIN}; server_no_context_takeover; server_max_window_bits=11"),
        ),
        ("x-other; a=b, permessage-deflate", PLAIN),
        (
            "permessage-deflate; server_max_window_bits=8, permessage-deflate; mystery, \
             permessage-deflate; server_max_window_bits=12, permessage-deflate",
            &format!("{PLAIN}; server_max_window_bits=12"),
        ),
    ] {
        let (response, raw) = offer(&server, "/echo", offered).await;
        assert_eq!((response.status, response.header("sec-websocket-extensions")), (101, Some(answer)), "{offered}");
        let mut raw = Deflated { raw };
        raw.raw.write(&compressed(1, &text(2000))).await;
        assert!(raw.echoes(1, &text(2000)).await.compressed, "{offered}");
    }
    for declined in [
        "",
        "x-webkit-deflate-frame",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=09",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=\"010\"",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover=true",
        "permessage-deflate; client_max_window_bits; client_max_window_bits",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; mystery",
    ] {
        let (response, mut raw) = offer(&server, "/echo", declined).await;
        assert_eq!((response.status, response.header("sec-websocket-extensions")), (101, None), "{declined}");
        // Then nothing may be compressed, either way.
        raw.write(&frame(true, 1, &text(2000))).await;
        assert_eq!(raw.frame().await.expect("an echo").payload, text(2000));
        raw.write(&compressed(1, b"x")).await;
        raw.closed(1002).await;
    }
    for malformed in [
        "permessage-deflate;",
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; client_max_window_bits=\"10",
        "permessage-deflate, a b",
        "permessage-deflate; server_max_window_bits=\"1 0\"",
    ] {
        assert_eq!(offer(&server, "/ws", malformed).await.0.status, 400, "{malformed}");
    }
}

#[tokio::test]
async fn offers_may_stand_on_several_lines() {
    let server = on().start();
    let mut raw = Raw::connect(&server).await;
    let lines = "Sec-WebSocket-Extensions: permessage-deflate; mystery\r\n\
                 sec-websocket-extensions: other, permessage-deflate; server_max_window_bits=13\r\n\r\n";
    let head = request(&server, "/echo", &[]);
    raw.write(format!("{}\r\n{lines}", head.trim_end()).as_bytes()).await;
    let response = raw.response().await;
    let answer = format!("{PLAIN}; server_max_window_bits=13");
    assert_eq!(response.header("sec-websocket-extensions"), Some(answer.as_str()));
}

#[tokio::test]
async fn it_is_off_unless_it_is_switched_on_and_can_be_demanded() {
    let off = Options::new().echo().start();
    let (response, _) = offer(&off, "/echo", OFFER).await;
    assert_eq!((response.status, response.header("sec-websocket-extensions")), (101, None));
    let forced = on().env("URINGCAST_COMPRESSION__MODE", "forced").start();
    for path in ["/echo", "/ws"] {
        for refused in ["", "permessage-deflate; server_max_window_bits=8", "other"] {
            assert_eq!(offer(&forced, path, refused).await.0.status, 400, "{refused}");
        }
        agreed(&forced, path).await;
    }
}

#[tokio::test]
async fn windows_are_kept_to() {
    let server = on().start();
    // Random bytes that come again 20,000 bytes later: only a window of 32 KiB can make anything of that.
    let mut random = Random(seed());
    let half: Vec<u8> = (0..20_000).map(|_| random.next() as u8).collect();
    let message = [&half[..], &half].concat();
    let mut sizes = Vec::new();
    for bits in 9..=15 {
        let (response, raw) =
            offer(&server, "/echo", &format!("permessage-deflate; server_max_window_bits={bits}")).await;
        assert_eq!(response.status, 101);
        let mut raw = Deflated { raw };
        raw.raw.write(&compressed(2, &message)).await;
        sizes.push(raw.echoes(2, &message).await.payload_bytes);
    }
    assert!(sizes[..6].iter().all(|&size| size >= 40_000) && sizes[6] < 25_000, "{sizes:?}");
}

#[tokio::test]
async fn messages_of_all_sizes_and_shapes_come_back() {
    let server = on().start();
    let mut raw = agreed(&server, "/echo").await;
    for bytes in [0, 1, 125, 126, 255, 256, 257, 4096, 65_535, 65_536, 1 << 20] {
        for opcode in [1, 2] {
            let content: Vec<u8> = (0..bytes).map(|n| b'a' + (n / 7 % 26) as u8).collect();
            for level in [0, 1, 6, 9] {
                for last in [false, true] {
                    // A message of the largest size may have no more than that on the wire either.
                    if level == 0 && bytes == 1 << 20 {
                        continue;
                    }
                    raw.raw.write(&rsv1(true, opcode, &deflate(&content, level, last))).await;
                    let seen = raw.echoes(opcode, &content).await;
                    assert_eq!(seen.compressed, bytes >= 256, "{bytes}");
                }
            }
            // Plain messages stay legal.
            raw.raw.write(&frame(true, opcode, &content)).await;
            raw.echoes(opcode, &content).await;
        }
    }
    // What doesn't get shorter is sent as it is.
    let mut random = Random(seed());
    let noise: Vec<u8> = (0..3000).map(|_| random.next() as u8).collect();
    raw.raw.write(&compressed(2, &noise)).await;
    assert!(!raw.echoes(2, &noise).await.compressed);
}

#[tokio::test]
async fn fragments_with_pings_between_byte_by_byte() {
    let server = on().start();
    let mut raw = agreed(&server, "/echo").await;
    let content = text(700);
    let payload = deflate(&content, 9, false);
    let thirds: Vec<&[u8]> = payload.chunks(payload.len().div_ceil(3)).collect();
    let bytes = [
        rsv1(false, 1, thirds[0]),
        frame(true, 9, b"between"),
        frame(false, 0, thirds[1]),
        frame(false, 0, b""),
        frame(true, 10, b"unasked"),
        frame(true, 0, thirds[2]),
        frame(true, 1, b"plain"),
    ]
    .concat();
    for chunk_bytes in [bytes.len(), 7, 1] {
        for chunk in bytes.chunks(chunk_bytes) {
            raw.raw.write(chunk).await;
        }
        assert_eq!(raw.frame().await.expect("a pong").content, b"between");
        raw.echoes(1, &content).await;
        raw.echoes(1, b"plain").await;
    }
}

#[tokio::test]
async fn rsv1_where_it_must_not_be_is_1002() {
    let server = on().start();
    let payload = deflate(&text(100), 6, false);
    for (name, bytes) in [
        ("on a continuation", [rsv1(false, 1, &payload[..9]), rsv1(true, 0, &payload[9..])].concat()),
        ("on the continuation alone", [frame(false, 1, b"text"), rsv1(true, 0, &payload)].concat()),
        ("on a ping", rsv1(true, 9, b"")),
        ("on a pong", rsv1(true, 10, b"x")),
        ("on a close", rsv1(true, 8, &[0x03, 0xe8])),
        ("with RSV2", vec![0xe1, 0x80, 1, 2, 3, 4]),
    ] {
        for path in ["/echo", "/ws"] {
            let mut raw = agreed(&server, path).await;
            if path == "/ws" {
                raw.json().await;
            }
            raw.raw.write(&bytes).await;
            eprintln!("{name} {path}");
            raw.closed(1002).await;
        }
    }
}

#[tokio::test]
async fn bad_streams_are_1007_and_harm_nobody() {
    let server = on().start();
    let metrics = Metrics::of(&server).await;
    let (mut watcher, _) = Client::join(&server, "watcher", "Watcher").await;
    let mut bystander = agreed(&server, "/echo").await;
    let whole = deflate(&text(600), 6, false);
    let bad: [&[u8]; 7] = [
        b"Hello",
        &whole[..whole.len() / 2],
        &[0x06],
        &[0xff; 60],
        // Beyond the end of a final block.
        &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0xde, 0xad],
        // It refers to what the client sent before, which it was told not to do.
        &[0xf2, 0x00, 0x11, 0x00, 0x00],
        // Content that is no text.
        &[0x00, 2, 0, 0xfd, 0xff, 0xff, 0xfe, 0x00],
    ];
    for (n, payload) in bad.iter().enumerate() {
        for path in ["/echo", "/ws"] {
            let mut raw = agreed(&server, path).await;
            if path == "/ws" {
                raw.json().await;
            } else {
                raw.raw.write(&rsv1(true, 1, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00])).await;
                raw.echoes(1, b"Hello").await;
            }
            raw.raw.write(&rsv1(true, 1, payload)).await;
            raw.closed(1007).await;
        }
        // The inflater is the same for all of the shard.
        bystander.raw.write(&compressed(2, &text(3000))).await;
        bystander.echoes(2, &text(3000)).await;
        watcher.nothing_pending().await;
        let failures = metrics.reach("uringcast_inflate_failures_total", |count| count >= 2 * (n as u64 + 1) - 2).await;
        assert!(failures <= 2 * (n as u64 + 1));
    }
    // All but the last one, which was good DEFLATE.
    metrics.reach("uringcast_inflate_failures_total", |count| count == 12).await;
}

/// A megabyte of zeros is a kilobyte; that compressed again is less yet.
#[tokio::test]
async fn bombs_are_1009_at_the_limit() {
    let limit = 64 * KIB;
    let server = on().shards(1).env("URINGCAST_LIMITS__MESSAGE_BYTES", limit).start();
    let metrics = Metrics::of(&server).await;
    let mut bystander = agreed(&server, "/echo").await;
    let largest = vec![0; limit];
    bystander.raw.write(&compressed(2, &largest)).await;
    bystander.echoes(2, &largest).await;
    let inflated = metrics.get("uringcast_inflated_content_bytes_total").await;
    assert_eq!(inflated, limit as u64);

    let zeros = deflate(&vec![0; 1 << 20], 9, false);
    assert!(zeros.len() < 2 * KIB, "{}", zeros.len());
    let huge = deflate(&vec![0; 60 << 20], 9, false);
    assert!(huge.len() < limit, "{}", huge.len());
    let before = server.resident();
    let mut peak = before;
    let bombs = [zeros.clone(), huge.clone(), deflate(&vec![0; limit + 1], 9, true)];
    for round in 0..50 {
        let bomb = &bombs[round % bombs.len()];
        let mut raw = agreed(&server, "/echo").await;
        // Whole, and in fragments.
        let bytes = match round % 2 {
            0 => rsv1(true, 2, bomb),
            _ => [rsv1(false, 2, &bomb[..bomb.len() / 2]), frame(true, 0, &bomb[bomb.len() / 2..])].concat(),
        };
        raw.raw.write(&bytes).await;
        raw.closed(1009).await;
        peak = peak.max(server.resident());
        bystander.raw.write(&compressed(1, &text(900))).await;
        bystander.echoes(1, &text(900)).await;
    }
    eprintln!(
        "50 bombs of up to 60 MiB under a limit of 64 KiB: memory grew by {} KiB at most",
        (peak - before) / 1024
    );
    assert!(peak - before < 2 << 20, "{} KiB", (peak - before) / 1024);
    assert_eq!(metrics.reach("uringcast_refusals_total{limit=\"inflated_bytes\"}", |count| count == 50).await, 50);
    // What was made of them before they were given up: the limit and a byte, each.
    let made = metrics.get("uringcast_inflated_content_bytes_total").await - inflated - 50 * 900;
    assert_eq!(made, 50 * (limit as u64 + 1));

    // A bomb within a bomb is a message like any other: one layer is all that is looked at.
    let nested = deflate(&huge, 9, false);
    bystander.raw.write(&rsv1(true, 2, &nested)).await;
    bystander.echoes(2, &huge).await;
}

#[tokio::test]
async fn final_blocks_without_end_cost_nothing() {
    let server = on().start();
    let mut raw = agreed(&server, "/echo").await;
    raw.raw.write(&rsv1(true, 2, &[0x03, 0x00].repeat(17))).await;
    raw.echoes(2, b"").await;
    raw.raw.write(&rsv1(true, 2, &[0x03, 0x00].repeat(400_000))).await;
    raw.closed(1009).await;
}

#[tokio::test]
async fn what_a_client_is_told_is_compressed_from_a_size_up() {
    let options = on().env("URINGCAST_CHANNELS__PUBLISH", "members").env("URINGCAST_LOBBY__ESCAPE", "false");
    let server = options.start();
    let metrics = Metrics::of(&server).await;
    let mut raw = agreed(&server, "/ws").await;
    assert!(!raw.json().await.1, "the welcome is short");
    let auth = json!({"type": "auth", "data": {"token": token("ann", "Ann")}}).to_string();
    raw.raw.write(&compressed(1, auth.as_bytes())).await;
    assert_eq!(raw.json().await.0["type"], "auth_success");
    for n in 0..20 {
        let line = format!("line {n} of many that resemble each other");
        let message = json!({"type": "message", "data": {"text": line}}).to_string();
        raw.raw.write(&compressed(1, message.as_bytes())).await;
        assert_eq!(raw.json().await.0["type"], "message");
    }
    let deflated = metrics.get("uringcast_deflated_replies_total").await;
    raw.raw.write(&frame(true, 1, br#"{"type":"history","id":"h","data":{"channel":"lobby"}}"#)).await;
    let (history, was_compressed) = raw.json().await;
    assert_eq!((&history["type"], &history["id"]), (&json!("history"), &json!("h")));
    assert!(was_compressed && history["data"]["publications"].as_array().unwrap().len() == 20, "{history}");
    metrics.reach("uringcast_deflated_replies_total", |count| count == deflated + 1).await;
    let before = metrics.get("uringcast_deflated_reply_bytes_before_total").await;
    let after = metrics.get("uringcast_deflated_reply_bytes_after_total").await;
    assert!(after > 0 && after * 3 < before, "{before} {after}");
    assert_eq!(metrics.get("uringcast_upgrades_deflate_total").await, 1);
    assert_eq!(metrics.get("uringcast_inflated_messages_total").await, 21);
    assert!(metrics.get("uringcast_undeflated_replies_total").await > 0);
    assert!(metrics.get("uringcast_inflate_nanoseconds_total").await > 0);
    assert!(metrics.get("uringcast_deflate_replies_nanoseconds_total").await > 0);
}

/// `compress = "off"` holds for publications and for whatever else tells of the channel.
#[tokio::test]
async fn a_namespace_may_be_left_alone() {
    let server = on().env("URINGCAST_CHANNELS__COMPRESS", "off").env("URINGCAST_CHANNELS__PUBLISH", "members").start();
    let mut raw = agreed(&server, "/ws").await;
    raw.json().await;
    let auth = json!({"type": "auth", "data": {"token": token("ann", "Ann")}});
    raw.raw.write(&compressed(1, auth.to_string().as_bytes())).await;
    raw.json().await;
    let text = String::from_utf8(text(1000)).unwrap();
    for (channel, is_compressed) in [("secret", false), ("lobby", true)] {
        for kind in ["subscribe", "publish", "history"] {
            if (kind, channel) == ("subscribe", "lobby") {
                continue;
            }
            let request =
                json!({"type": kind, "id": kind, "data": {"channel": channel, "data": {"text": text}, "text": text}});
            raw.raw.write(&frame(true, 1, request.to_string().as_bytes())).await;
            loop {
                let (answer, was_compressed) = raw.json().await;
                assert!(answer["type"] != "error", "{answer}");
                assert!(!was_compressed || is_compressed, "{answer}");
                if answer["id"] == kind {
                    let long = answer.to_string().len() > 1000;
                    assert_eq!(
                        (long, was_compressed),
                        (kind == "history", kind == "history" && is_compressed),
                        "{answer}"
                    );
                    break;
                }
            }
        }
    }
}

/// However exotic the subscribers' agreements are, what a publication costs is bounded.
#[tokio::test]
async fn a_publication_is_compressed_three_times_at_most() {
    let server = on().shards(1).env("URINGCAST_AUTH__DUPLICATE_LOGIN", "allow").start();
    let metrics = Metrics::of(&server).await;
    let mut clients = Vec::new();
    for bits in 9..=15 {
        for more in ["", "; server_no_context_takeover"] {
            let extensions = format!("permessage-deflate; server_max_window_bits={bits}{more}");
            let (response, raw) = offer(&server, "/ws", &extensions).await;
            assert_eq!(response.status, 101);
            let mut client = Deflated { raw };
            client.json().await;
            let auth = json!({"type": "auth", "data": {"token": token("ann", "Ann")}});
            client.raw.write(&frame(true, 1, auth.to_string().as_bytes())).await;
            assert_eq!(client.json().await.0["type"], "auth_success");
            clients.push(client);
        }
    }
    let name = "uringcast_deflated_publications_total";
    let before = metrics.get(name).await;
    let text = String::from_utf8(text(3000)).unwrap();
    for _ in 0..5 {
        let message = json!({"type": "message", "data": {"text": text}});
        clients[0].raw.write(&frame(true, 1, message.to_string().as_bytes())).await;
        let mut is_compressed = 0;
        for client in &mut clients {
            let (message, was_compressed) = client.json().await;
            assert_eq!(message["type"], "message");
            is_compressed += usize::from(was_compressed);
        }
        assert!(is_compressed > clients.len() / 2, "{is_compressed} of {} got it compressed", clients.len());
    }
    metrics.reach("uringcast_deflate_borrowed_batches_total", |count| count > 0).await;
    let compressed = metrics.get(name).await - before;
    assert!((5..=15).contains(&compressed), "5 publications were compressed {compressed} times");
}

/// What a message inflates to counts against its sender's rate, or a kilobyte would pass for a megabyte.
#[tokio::test]
async fn rates_count_what_comes_out() {
    let options = on().env("URINGCAST_LIMITS__EXEMPT", "").env("URINGCAST_LIMITS__BYTES_PER_S", 1);
    let server =
        options.env("URINGCAST_LIMITS__MESSAGE_BYTES", 100_000).env("URINGCAST_LIMITS__BYTES_BURST", 1).start();
    let metrics = Metrics::of(&server).await;
    let mut raw = agreed(&server, "/echo").await;
    let message = compressed(2, &[0; 100_000]);
    assert!(message.len() < KIB);
    // The bucket has room for two messages of the largest size.
    let many: Vec<u8> = std::iter::repeat_n(message, 30).flatten().collect();
    raw.raw.write(&many).await;
    let mut echoes = 0;
    loop {
        match raw.frame().await {
            Some(seen) if seen.opcode == 2 => echoes += 1,
            Some(seen) => break assert_eq!((seen.opcode, &seen.content[..2]), (8, &4429_u16.to_be_bytes()[..])),
            None => panic!("cut without a close"),
        }
    }
    assert!((2..=4).contains(&echoes), "{echoes}");
    assert!(metrics.refusals("bytes").await > 0);
}

/// Any messages, compressed in any way and cut anywhere: the same come back.
#[tokio::test]
async fn random_messages_in_random_pieces_come_back() {
    let server = on().start();
    let mut random = Random(seed());
    for _ in 0..30 {
        let mut raw = agreed(&server, "/echo").await;
        let mut sent = Vec::new();
        for _ in 0..1 + random.below(10) {
            let bytes = [0, 1, 40, 255, 256, 3000, 70_000][random.below(7) as usize];
            let noise = random.below(3) == 0;
            let content: Vec<u8> =
                (0..bytes).map(|n| if noise { random.next() as u8 } else { b'a' + (n % 17) as u8 }).collect();
            let plain = random.below(4) == 0;
            let payload = match plain {
                true => content.clone(),
                false => deflate(&content, random.below(11) as u8, random.below(3) == 0),
            };
            let at = random.below(payload.len() as u64 + 1) as usize;
            let mut first = frame(false, 2, &payload[..at]);
            first[0] |= if plain { 0 } else { 0x40 };
            raw.raw.write(&first).await;
            let rest = frame(true, 0, &payload[at..]);
            let cut = random.below(rest.len() as u64) as usize;
            raw.raw.write(&rest[..cut]).await;
            raw.raw.write(&rest[cut..]).await;
            sent.push(content);
        }
        for content in sent {
            raw.echoes(2, &content).await;
        }
    }
}
