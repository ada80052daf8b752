//! The echo endpoint: the frame codec from outside. Autobahn does the rest of this (./check autobahn).

use tokio_tungstenite::tungstenite::Message;

use crate::support::{Client, Event, Options, Random, Raw, Server, frame, request, seed};

const MIB: usize = 1 << 20;

fn server() -> Server {
    Options::new().echo().start()
}

#[tokio::test]
async fn text_and_binary_come_back_as_they_were() {
    let server = server();
    let mut client = Client::connect(&server, "/echo").await;
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, MIB] {
        let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        client.send_message(Message::binary(bytes.clone())).await;
        assert!(matches!(client.event().await, Event::Binary(back) if back == bytes), "{length}");
        let text: String =
            std::iter::repeat_n("aé你😀", length / 10).chain(std::iter::repeat_n("z", length % 10)).collect();
        client.send_text(&text).await;
        assert!(matches!(client.event().await, Event::Text(back) if back == text), "{length}");
    }
}

#[tokio::test]
async fn pipelined_messages_come_back_in_order() {
    let server = server();
    let mut raw = Raw::upgraded(&server, "/echo").await;
    let mut bytes = Vec::new();
    for n in 0..5000_u32 {
        bytes.extend(frame(true, 2, &n.to_be_bytes()));
    }
    let (mut reader, mut writer) = raw.tcp.into_split();
    let sending = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        // Odd pieces, so that frames are cut at every place.
        for piece in bytes.chunks(777) {
            writer.write_all(piece).await.expect("writes");
        }
        writer
    });
    let expected: Vec<u8> = (0..5000_u32).flat_map(|n| [vec![0x82, 4], n.to_be_bytes().to_vec()].concat()).collect();
    while raw.received.len() < expected.len() {
        use tokio::io::AsyncReadExt;
        let read = tokio::time::timeout(crate::support::DEADLINE, reader.read_buf(&mut raw.received)).await;
        assert!(read.expect("in time").expect("reads") > 0, "cut");
    }
    assert_eq!(raw.received, expected);
    sending.await.expect("sent");
}

#[tokio::test]
async fn one_mebibyte_passes_and_one_byte_more_is_1009() {
    let server = server();
    for path in ["/echo", "/ws"] {
        let mut raw = Raw::upgraded(&server, path).await;
        if path == "/ws" {
            raw.json().await;
        }
        // The length alone is enough: no server should wait for what it will refuse.
        raw.write(&frame(true, 1, &vec![b'x'; MIB + 1])[..14]).await;
        raw.closed(1009).await;

        // The same in fragments.
        let mut raw = Raw::upgraded(&server, path).await;
        if path == "/ws" {
            raw.json().await;
        }
        raw.write(&frame(false, 1, &vec![b'x'; MIB / 2])).await;
        raw.write(&frame(true, 0, &vec![b'x'; MIB / 2 + 1])[..14]).await;
        raw.closed(1009).await;
    }
}

#[tokio::test]
async fn the_limit_is_configurable() {
    let server = Options::new().echo().env("URINGCAST_LIMITS__MESSAGE_BYTES", 1000).start();
    let mut client = Client::connect(&server, "/echo").await;
    client.send_message(Message::binary(vec![7; 1000])).await;
    assert!(matches!(client.event().await, Event::Binary(back) if back.len() == 1000));
    client.send_message(Message::binary(vec![7; 1001])).await;
    client.closed(1009).await;
}

#[tokio::test]
async fn bad_utf8_is_1007_as_soon_as_it_is_seen() {
    let server = server();
    for path in ["/echo", "/ws"] {
        for bad in [&b"\xff"[..], b"ok \xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"cut \xe4\xbd"] {
            let mut raw = Raw::upgraded(&server, path).await;
            if path == "/ws" {
                raw.json().await;
            }
            raw.write(&frame(true, 1, bad)).await;
            raw.closed(1007).await;
        }
    }
    // Fails fast: the message is not complete, the frame is not even.
    let mut raw = Raw::upgraded(&server, "/echo").await;
    let bytes = frame(false, 1, &[&b"fine \xff"[..], &[b'x'; 100]].concat());
    raw.write(&bytes[..20]).await;
    raw.closed(1007).await;
}

#[tokio::test]
async fn violations_are_1002() {
    let server = server();
    let masked = |first: u8| {
        let mut bytes = frame(true, 1, b"hi");
        bytes[0] = first;
        bytes
    };
    for (name, bytes) in [
        ("unmasked", vec![0x81, 0x02, b'h', b'i']),
        ("reserved bit 1", masked(0xc1)),
        ("reserved bit 2", masked(0xa1)),
        ("reserved bit 3", masked(0x91)),
        ("reserved opcode", masked(0x83)),
        ("reserved control opcode", masked(0x8b)),
        ("a continuation of nothing", masked(0x80)),
        ("a fragmented ping", frame(false, 9, b"x")),
        ("a long ping", frame(true, 9, &[0; 126])),
        ("two starts", [frame(false, 1, b"a"), frame(true, 1, b"b")].concat()),
        ("a length with the top bit", vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1]),
        ("a length too long for its value", vec![0x82, 0xfe, 0, 5, 0, 0, 0, 0, 1, 2, 3, 4, 5]),
    ] {
        let mut raw = Raw::upgraded(&server, "/echo").await;
        raw.write(&bytes).await;
        let close = raw.frame().await.unwrap_or_else(|| panic!("{name}: cut without a close"));
        let code = close.close_code();
        // A length beyond every limit may as well be called too big.
        assert!(code == 1002 || (name.starts_with("a length with") && code == 1009), "{name}: {code}");
        assert_eq!(raw.frame().await, None, "{name}");
    }
}

#[tokio::test]
async fn what_came_before_a_violation_is_answered_first() {
    let server = server();
    let mut raw = Raw::upgraded(&server, "/echo").await;
    let mut bytes = frame(true, 1, b"first");
    bytes.extend(frame(true, 9, b"ping"));
    bytes.extend([0xff; 12]);
    raw.write(&bytes).await;
    assert_eq!(raw.frame().await.unwrap().payload, b"first");
    assert_eq!(raw.frame().await.unwrap().payload, b"ping");
    raw.closed(1002).await;
}

/// Any message, in any fragments, with control frames in between, cut anywhere on its way: the same comes back.
#[tokio::test]
async fn random_messages_in_random_pieces_come_back() {
    let server = server();
    let mut random = Random(seed());
    for _ in 0..60 {
        let raw = Raw::upgraded(&server, "/echo").await;
        let (mut bytes, mut messages, mut pings) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..1 + random.below(12) {
            let opcode = 1 + random.below(2) as u8;
            let length = [0, 1, 7, 125, 126, 127, 300, 4096, 65_535, 65_536, 70_000][random.below(11) as usize];
            let message: Vec<u8> = match opcode {
                1 => "aé你😀\u{0}".chars().cycle().take(length / 3).collect::<String>().into_bytes(),
                _ => (0..length).map(|_| random.next() as u8).collect(),
            };
            let mut rest = message.as_slice();
            let mut first = true;
            loop {
                let last = random.below(3) == 0;
                let take = if last { rest.len() } else { random.below(rest.len() as u64 + 1) as usize };
                let (piece, left) = rest.split_at(take);
                bytes.extend(frame(last, if first { opcode } else { 0 }, piece));
                (rest, first) = (left, false);
                if random.below(4) == 0 {
                    let ping: Vec<u8> = (0..random.below(126)).map(|n| n as u8).collect();
                    bytes.extend(frame(true, 9, &ping));
                    pings.push(ping);
                }
                if last {
                    break;
                }
            }
            messages.push((opcode, message));
        }
        bytes.extend(frame(true, 8, &[0x03, 0xe8]));
        let (mut reader, mut writer) = raw.tcp.into_split();
        let mut cuts = Random(random.next());
        let sending = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let most = [1, 3, 14, 200, 5000, 100_000][cuts.below(6) as usize];
                let (piece, left) = rest.split_at(most.min(rest.len()));
                writer.write_all(piece).await.expect("writes");
                tokio::task::yield_now().await;
                rest = left;
            }
            writer
        });
        let mut received = Vec::new();
        let reading = tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut received);
        tokio::time::timeout(crate::support::DEADLINE, reading).await.expect("in time").expect("reads");
        drop(sending.await.expect("sent"));
        let (mut back, mut pongs, mut closed) = (Vec::new(), Vec::new(), false);
        for frame in crate::support::frames(&received) {
            match frame.opcode {
                10 => pongs.push(frame.payload),
                8 => closed = true,
                0 => {
                    let (_, message): &mut (u8, Vec<u8>) = back.last_mut().expect("a message to go on with");
                    message.extend(frame.payload);
                }
                opcode => back.push((opcode, frame.payload)),
            }
        }
        assert!(closed, "no close at the end");
        assert!(back == messages, "{} messages of {}", back.len(), messages.len());
        // An answer to an older ping may be left out in favour of a newer one (RFC 6455 section 5.5.3).
        assert!(pongs.len() <= pings.len() && pongs.last() == pings.last(), "{} pongs of {}", pongs.len(), pings.len());
        let mut sent = pings.iter();
        assert!(pongs.iter().all(|pong| sent.any(|ping| ping == pong)), "pongs in the order of the pings");
    }
}

/// Whatever bytes come, the server lives, and the others with it.
#[tokio::test]
async fn random_bytes_end_one_connection_only() {
    let mut server = server();
    let (mut watcher, _) = Client::join(&server, "watcher", "Watcher").await;
    let mut random = Random(seed());
    for round in 0..400 {
        let mut raw = Raw::connect(&server).await;
        let path = ["/echo", "/ws"][round % 2];
        let mut bytes = request(&server, path, &[]).into_bytes();
        for _ in 0..random.below(6) {
            let text =
                [&br#"{"type":"heartbeat"}"#[..], br#"{"type":"auth","data":{"token":"x.y.z"}}"#, b"\xe4\xbd\xa0"];
            let opcode = [1, 2, 9, 10, 0][random.below(5) as usize];
            bytes.extend(frame(random.below(4) > 0, opcode, text[random.below(3) as usize]));
        }
        for _ in 0..random.below(8) {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(3) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes.insert(at, random.next() as u8),
                _ => drop(bytes.remove(at)),
            }
        }
        use tokio::io::AsyncWriteExt;
        // The server may well have ended it in the middle.
        let _ = raw.tcp.write_all(&bytes).await;
        let _ = raw.tcp.shutdown().await;
        raw.rest().await;
    }
    watcher.nothing_pending().await;
    assert!(server.running());
}
