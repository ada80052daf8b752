//! Frames that RFC 6455 doesn't allow, or that announce what will never come: each ends its own connection with the
//! code that docs/protocol.md states, and none costs what it announces.

use tokio::io::AsyncWriteExt;

use super::{KIB, MIB, Scene, lifted, unlimited};
use crate::support::frame;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reserved_bits_and_opcodes_are_1002() {
    let scene = Scene::open(unlimited()).await;
    for path in ["/ws", "/echo"] {
        for bits in 1..8_u8 {
            for opcode in [0, 1, 2, 8, 9, 10] {
                let mut bytes = frame(true, opcode, b"");
                bytes[0] |= bits << 4;
                scene.ends_with(path, &bytes, 1002).await;
            }
        }
        for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
            for fin in [true, false] {
                scene.ends_with(path, &frame(fin, opcode, b"x"), 1002).await;
            }
        }
        // Not masked; control frames in pieces or too long; a continuation of nothing; a message within a message.
        scene.ends_with(path, &[0x81, 0x01, b'x'], 1002).await;
        for control in [8, 9, 10] {
            scene.ends_with(path, &frame(false, control, b""), 1002).await;
            scene.ends_with(path, &frame(true, control, &[b'x'; 126]), 1002).await;
        }
        scene.ends_with(path, &frame(true, 0, b"x"), 1002).await;
        let opening = if path == "/ws" { 1 } else { 2 };
        let within = [frame(false, opening, b"x"), frame(true, opening, b"y")].concat();
        scene.ends_with(path, &within, 1002).await;
    }
    scene.over(MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn illegal_close_codes_are_1002() {
    let scene = Scene::open(unlimited()).await;
    for path in ["/ws", "/echo"] {
        for code in [0_u16, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
            scene.ends_with(path, &frame(true, 8, &code.to_be_bytes()), 1002).await;
        }
        scene.ends_with(path, &frame(true, 8, &[3]), 1002).await;
        scene.ends_with(path, &frame(true, 8, &[0x03, 0xe8, 0xff, 0xfe]), 1007).await;
        scene.ends_with(path, &frame(true, 8, &[0x03, 0xe8, 0xe2, 0x82]), 1007).await;
        // The legal ones come back.
        for code in [1000_u16, 1001, 1003, 1007, 1014, 3000, 4999] {
            scene.ends_with(path, &frame(true, 8, &code.to_be_bytes()), code).await;
        }
    }
    scene.over(MIB).await;
}

/// The head of a masked frame that announces `length` bytes in eight.
fn announces(opcode: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode, 0xff];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&[1, 2, 3, 4]);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lengths_nobody_has_are_refused_before_they_come() {
    let scene = Scene::open(unlimited()).await;
    for path in ["/ws", "/echo"] {
        for (length, code) in [
            (1 << 63, 1002),
            (u64::MAX, 1002),
            ((1 << 63) - 1, 1009),
            (1 << 62, 1009),
            (1 << 32, 1009),
            ((1 << 32) - 1, 1009),
            ((1 << 20) + 1, 1009),
        ] {
            scene.ends_with(path, &announces(1, length), code).await;
        }
        // A length that a shorter form would hold (RFC 6455 §5.2).
        scene.ends_with(path, &announces(1, 5), 1002).await;
        scene.ends_with(path, &[0x81, 0xfe, 0, 5, 1, 2, 3, 4], 1002).await;
        scene.ends_with(path, &announces(9, 126), 1002).await;
    }
    scene.over(MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_byte_by_byte_cost_what_has_come_of_them() {
    const MANY: usize = 200;
    let scene = Scene::open(lifted(&["CONNECTIONS_PER_IP", "NEW_CONNECTIONS_PER_IP_PER_S"])).await;
    let mut slow = Vec::new();
    for _ in 0..MANY {
        slow.push(scene.upgraded("/ws").await);
    }
    // A mebibyte each is announced: 200 of them would be 200 MiB.
    let mut bytes = announces(1, 1 << 20);
    bytes.extend_from_slice(&[b'x'; 60]);
    for byte in bytes {
        for raw in &mut slow {
            raw.write(&[byte]).await;
        }
    }
    // And a whole one, byte by byte, is a message like any other.
    let mut raw = scene.upgraded("/ws").await;
    for byte in frame(true, 1, br#"{"type":"heartbeat","id":"slow"}"#) {
        raw.write(&[byte]).await;
    }
    assert_eq!(raw.json().await["id"], "slow");
    drop((slow, raw));
    scene.over(MANY as u64 * 12 * KIB).await;
}

/// What isn't UTF-8 (RFC 3629 §3, and what it warns of): each wherever it stands.
const INVALID: [&[u8]; 12] = [
    b"\x80",
    b"\xbf",
    b"\xc0\x80",
    b"\xc1\xbf",
    b"\xe0\x80\x80",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xf0\x80\x80\x80",
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
    b"\xff",
    b"\xe2\x82",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_utf8_is_1007_at_every_split() {
    let scene = Scene::open(unlimited()).await;
    for invalid in INVALID {
        for tail in [&b""[..], b"d"] {
            let payload = [b"ab\xe2\x82\xac", invalid, tail].concat();
            let whole = frame(true, 1, &payload);
            scene.ends_with("/ws", &whole, 1007).await;
            for split in 0..=payload.len() {
                let pieces = [frame(false, 1, &payload[..split]), frame(true, 0, &payload[split..])].concat();
                scene.ends_with("/echo", &pieces, 1007).await;
            }
            // Cut by the transport, within the head and within the character.
            for split in 1..whole.len() {
                let mut raw = scene.upgraded("/ws").await;
                raw.write(&whole[..split]).await;
                let _ = raw.tcp.write_all(&whole[split..]).await;
                assert_eq!(super::outcome(&mut raw).await.close, Some(1007), "{invalid:02x?} cut at {split}");
            }
        }
    }
    // What is valid is whole again whichever way it was cut.
    let text = "κόσμε € 𝄞 \u{10ffff}".as_bytes();
    let mut raw = scene.upgraded("/echo").await;
    for split in 0..=text.len() {
        raw.write(&[frame(false, 1, &text[..split]), frame(true, 0, &text[split..])].concat()).await;
        assert_eq!(raw.frame().await.expect("an echo").payload, text);
    }
    drop(raw);
    scene.over(MIB).await;
}

/// A message of which all but the end has come.
fn unfinished(bytes: usize) -> Vec<u8> {
    let whole = frame(true, 1, &vec![b' '; bytes]);
    whole[..whole.len() - 1].to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_sign_in_a_message_has_room_for_auth_and_no_more() {
    let scene = Scene::open(unlimited()).await;
    // As much as the JavaScript client puts into one `auth`, and a token of the longest.
    let mut honest = scene.upgraded("/ws").await;
    let padding = " ".repeat(262_144 + 8 * 1024);
    let auth = format!(r#"{{"type":"auth",{padding}"data":{{"token":"{}"}}}}"#, crate::support::token("hon", "Hon"));
    honest.write(&frame(true, 1, auth.as_bytes())).await;
    assert_eq!(honest.json().await["type"], "auth_success");
    honest.write(&frame(true, 1, format!(r#"{{"type":"heartbeat"{}}}"#, " ".repeat(1_000_000)).as_bytes())).await;
    while honest.json().await["type"] != "heartbeat" {}
    let fragments = [frame(false, 1, &[b' '; 300_000]), frame(true, 0, &[b' '; 100_000])].concat();
    for message in [unfinished(400 << 10), fragments] {
        scene.ends_with("/ws", &message, 1009).await;
    }
    drop(honest);
    scene.over(4 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_messages_of_one_address_stay_within_a_bound() {
    const BOUND: u64 = 16 * MIB;
    let scene = Scene::open(unlimited().env("URINGCAST_LIMITS__UNFINISHED_BYTES_PER_IP", BOUND)).await;
    let mut held = Vec::new();
    for n in 0..100 {
        let (mut raw, bytes) = match n % 2 {
            0 => (scene.upgraded("/ws").await, 380 << 10),
            _ => (scene.signed_in(&format!("u{n}")).await, 1_000 << 10),
        };
        // Where there is no room the connection is ended while it still sends.
        let _ = raw.tcp.write_all(&unfinished(bytes)).await;
        held.push(raw);
    }
    let refused = "uringcast_refusals_total{limit=\"unfinished_bytes\"}";
    scene.metrics.reach(refused, |count| count > 20).await;
    scene.metrics.reach("uringcast_closes_total{code=\"4503\"}", |count| count > 20).await;
    // Another address has room of its own.
    let mut other = scene.connect_from("127.0.0.3").await;
    other.write(crate::support::request(&scene.server, "/echo", &[]).as_bytes()).await;
    assert_eq!(other.response().await.status, 101);
    let message = frame(true, 2, &[7; 900_000]);
    other.write(&message[..500_000]).await;
    other.write(&message[500_000..]).await;
    assert_eq!(other.frame().await.expect("the echo").payload.len(), 900_000);
    drop((held, other));
    // Between the pieces that the allocator gave out for them there are others that stay.
    scene.over_but_for(BOUND + 8 * MIB, BOUND / 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_behind_our_close_is_neither_inflated_nor_read_for_ever() {
    let scene = Scene::open(unlimited().env("URINGCAST_COMPRESSION__MODE", "on")).await;
    let mut raw = scene.connect().await;
    let offer = [("Sec-WebSocket-Extensions", "permessage-deflate")];
    raw.write(crate::support::request(&scene.server, "/ws", &offer).as_bytes()).await;
    assert_eq!(raw.response().await.status, 101);
    raw.write(&frame(true, 2, b"x")).await;
    while raw.frame().await.expect("the Close").opcode != 8 {}
    // Empty stored blocks: five bytes each that come to nothing.
    let mut message = frame(true, 2, &[0x00, 0x00, 0x00, 0xff, 0xff].repeat(20_000));
    message[0] |= 0x40;
    let sent = crate::limits::flood(&mut raw, &message, 200 << 20).await;
    assert!(sent < 64 << 20, "{} MiB were taken of a client that was told to go", sent >> 20);
    assert_eq!(scene.metrics.get("uringcast_inflated_messages_total").await, 0);
    drop(raw);
    scene.over(8 * MIB).await;
}
