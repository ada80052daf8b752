//! The echo endpoint: the frame codec from outside. Autobahn does the rest of this (./check autobahn).

use tokio_tungstenite::tungstenite::Message;

use crate::support::{Client, Event, Options, Raw, Server, frame};

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
