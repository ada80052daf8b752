//! wss: the real binary with a certificate, against rustls' client under tungstenite, and against bytes that are no TLS.
//! What the adapter does with splits and partial sends is tested beside it; here it is sockets, deadlines and reloads.

use std::process::{Command, Stdio};

use rustls::pki_types::CertificateDer;
use rustls::version;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::metrics::{self, Metrics};
use crate::support::tls::{Files, Secure, secured, tcp};
use crate::support::{Client, DEADLINE, Event, Options, Raw, Server, installed, missing, now_s, request, until};

#[tokio::test]
async fn one_address_speaks_tls_alone_or_a_second_one_does() {
    let files = Files::new();
    let alone = files.options().start();
    assert_eq!((alone.tls, alone.ready_line.contains("on ws://")), (Some(alone.addr), false), "{}", alone.ready_line);
    let mut one = Secure::signed_in(&alone, &files, 1, &version::TLS13).await;
    let mut old = Secure::signed_in(&alone, &files, 2, &version::TLS12).await;
    one.say("hello").await;
    assert_eq!(old.text().await, "hello");

    let both = files.both().shards(2).start();
    let (mut plain, _) = Client::join(&both, 1, "u1").await;
    let mut secure = Secure::signed_in(&both, &files, 2, &version::TLS13).await;
    plain.say("to all").await;
    assert_eq!(secure.text().await, "to all");
    secure.say("and back").await;
    while plain.find("message").await["data"]["text"] != "and back" {}
}

#[tokio::test]
async fn the_agreed_protocol_is_http_1_1_and_tls_1_2_can_be_refused() {
    let files = Files::new();
    let server = files.options().env("URINGCAST_TLS__MIN_VERSION", "1.3").start();
    let tls = secured(&server, files.root(), &version::TLS13, tcp(&server).await).await.unwrap();
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let error = secured(&server, files.root(), &version::TLS12, tcp(&server).await).await.unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
}

#[tokio::test]
async fn a_page_and_an_echo_of_any_size_come_over_tls() {
    let files = Files::new();
    let server = files.options().echo().start();
    let mut tls = secured(&server, files.root(), &version::TLS12, tcp(&server).await).await.unwrap();
    tls.write_all(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // An end without close_notify would be an error here.
    timeout(DEADLINE, tls.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(&answer));

    let mut echo = Secure::secure(&server, &files, "/echo").await;
    for size in [0, 1, 125, 126, 16_383, 16_384, 16_385, 65_536, 1_000_000] {
        let text: String = (0..size).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
        echo.send_message(Message::text(text.clone())).await;
        assert!(matches!(echo.event().await, Event::Text(echoed) if echoed == text), "{size}");
    }
    echo.leave().await;
}

#[tokio::test]
async fn every_byte_of_the_handshake_may_come_alone() {
    let files = Files::new();
    let server = files.options().start();
    for version in [&version::TLS13, &version::TLS12] {
        let socket = tcp(&server).await;
        socket.set_nodelay(true).unwrap();
        // A relay that passes on one byte at a time, to the server only.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        let relay = tokio::spawn(async move {
            let ((mut from, mut to), (mut back, mut home)) = (far.into_split(), socket.into_split());
            let mut byte = [0];
            let there =
                async { while from.read_exact(&mut byte).await.is_ok() && home.write_all(&byte).await.is_ok() {} };
            tokio::select! {
                () = there => {}
                _ = tokio::io::copy(&mut back, &mut to) => {}
            }
        });
        let tls = secured(&server, files.root(), version, near).await.unwrap();
        let mut client = Secure::on(&server, "/ws", tls).await;
        client.sign_in(1).await;
        drop(client);
        relay.await.unwrap();
    }
}

#[tokio::test]
async fn a_broadcast_reaches_many_over_tls_in_order_and_once() {
    const CLIENTS: u64 = 60;
    const MESSAGES: usize = 300;
    let files = Files::new();
    let server = files.both().shards(2).start();
    let mut readers = Vec::new();
    for id in 1..=CLIENTS {
        let version = if id % 2 == 0 { &version::TLS13 } else { &version::TLS12 };
        readers.push(Secure::signed_in(&server, &files, id, version).await);
    }
    let (mut publisher, _) = Client::join(&server, 1000, "publisher").await;
    let reading = readers.into_iter().map(|mut reader| {
        tokio::spawn(async move {
            for number in 0..MESSAGES {
                let text = reader.text().await;
                assert!(text.starts_with(&format!("{number} ")), "{number}: {text:.20}");
                assert_eq!(text.len(), number.to_string().len() + 2 + number * 7 % 3000, "{number}");
            }
        })
    });
    let reading: Vec<_> = reading.collect();
    for number in 0..MESSAGES {
        publisher.say(&format!("{number} {}.", "x".repeat(number * 7 % 3000))).await;
        publisher.find("message").await;
    }
    for reader in reading {
        reader.await.unwrap();
    }
}

#[tokio::test]
async fn a_slow_reader_gets_all_of_it_later_and_one_that_never_reads_is_closed() {
    let files = Files::new();
    let server = files.both().env("URINGCAST_LIMITS__OUTBOX_BYTES", 8 << 20).shards(1).start();
    let narrow = TcpSocket::new_v4().unwrap();
    narrow.set_recv_buffer_size(4096).unwrap();
    let tcp = narrow.connect(server.tls.unwrap()).await.unwrap();
    let tls = secured(&server, files.root(), &version::TLS13, tcp).await.unwrap();
    let mut slow = Secure::on(&server, "/ws", tls).await;
    slow.sign_in(1).await;
    let (mut publisher, _) = Client::join(&server, 2, "publisher").await;
    let body = "y".repeat(60_000);
    // Far above what the kernel takes, and below the bound.
    for number in 0..100 {
        publisher.say(&format!("{number} {body}")).await;
        publisher.find("message").await;
    }
    for number in 0..100 {
        let text = slow.text().await;
        assert!(text.len() > 60_000 && text.starts_with(&format!("{number} ")), "{number}: {text:.20}");
    }
    // Beyond the bound it is closed, with what had begun whole: the records stay sound to the last.
    for number in 0..400 {
        publisher.say(&format!("{number} {body}")).await;
        publisher.find("message").await;
    }
    let mut next = 0;
    let code = loop {
        match slow.event().await {
            Event::Text(text) if text.contains("\"message\"") => {
                assert!(text.contains(&format!("\"{next} y")), "{next}: {text:.200}");
                next += 1;
            }
            Event::Close(code, _) => break Some(code),
            Event::Ended => break None,
            Event::Text(_) | Event::Binary(_) => {}
        }
    };
    assert!(next < 400, "it was sent {next}");
    assert!(code.is_none() || code == Some(4508), "{code:?}");
    assert!(server.resident() < 100 << 20, "{}", server.resident());
}

#[tokio::test]
async fn a_new_certificate_is_served_on_sighup_and_open_connections_stay() {
    let files = Files::new();
    let server = files.both().shards(2).start();
    let mut open = Secure::signed_in(&server, &files, 1, &version::TLS13).await;
    let old = files.root();
    files.renew();
    server.signal("HUP");
    server.logged("TLS certificate read again").await;
    let new = served(&server, &files, &old).await;
    assert_eq!(new, files.root());
    open.say("still here").await;
    assert_eq!(open.text().await, "still here");
}

#[tokio::test]
async fn a_change_of_the_files_is_noticed_and_a_pair_that_does_not_fit_is_not_taken() {
    let files = Files::new();
    let server = files.both().shards(1).start();
    let (old, key) = (files.root(), std::fs::read(files.key()).unwrap());
    files.renew();
    let (new, fitting) = (files.root(), std::fs::read(files.key()).unwrap());
    // Noticed without a signal: the second half is missing …
    std::fs::write(files.key(), &key).unwrap();
    server.signal("HUP");
    server.logged("the old one stays in use").await;
    assert!(server.log().contains("tls.key_file"), "{}", server.log());
    secured(&server, old.clone(), &version::TLS13, tcp(&server).await).await.expect("the old one is served");
    // … and when it comes the pair is taken.
    std::fs::write(files.key(), &fitting).unwrap();
    assert_eq!(served(&server, &files, &old).await, new);
}

/// The certificate that new connections see, once it isn't the old one any more.
async fn served(server: &Server, files: &Files, old: &CertificateDer<'static>) -> CertificateDer<'static> {
    let another = async || {
        let tls = secured(server, files.root(), &version::TLS13, tcp(server).await).await.ok()?;
        let seen = tls.get_ref().1.peer_certificates()?.first()?.clone().into_owned();
        Some(seen).filter(|seen| seen != old)
    };
    until("the new certificate is served", another).await
}

#[tokio::test]
async fn a_certificate_that_ends_is_spoken_of_at_the_start_and_at_a_reload() {
    const DAY_S: i64 = 86_400;
    let expiry = "uringcast_tls_certificate_expiry_timestamp_seconds";
    let files = Files::new();
    // Half a day more, so that no second decides what is said.
    files.renew_for(-80 * DAY_S, 10 * DAY_S + DAY_S / 2);
    let server = files.beside(metrics::options()).shards(1).start();
    server.logged("the TLS certificate expires in 10 days").await;
    let metrics = Metrics::of(&server).await;
    let soon = metrics.get(expiry).await;
    assert!(soon.abs_diff((now_s() + 10 * DAY_S + DAY_S / 2) as u64) < 600, "{soon}");
    files.renew_for(-80 * DAY_S, -3 * DAY_S - 60);
    server.signal("HUP");
    server.logged("the TLS certificate expired 3 days ago; clients refuse it").await;
    metrics.reach(expiry, |at| at < soon).await;
    files.renew_for(5 * DAY_S + DAY_S / 2, 80 * DAY_S);
    server.signal("HUP");
    server.logged("becomes valid in 5 days").await;
    // One that has long to go is nothing to speak of.
    files.renew_for(-DAY_S, 90 * DAY_S);
    let before = server.log().matches("the TLS certificate ").count();
    server.signal("HUP");
    metrics.reach(expiry, |at| at.abs_diff((now_s() + 90 * DAY_S) as u64) < 600).await;
    // The shard hears of it a moment later than the metrics.
    let is_good = async || secured(&server, files.root(), &version::TLS13, tcp(&server).await).await.ok();
    until("it is good now", is_good).await;
    assert_eq!(server.log().matches("the TLS certificate ").count(), before, "{}", server.log());
}

/// Asks for a renegotiation on a connection of TLS 1.2, as only OpenSSL still does; returns what it says of that.
fn renegotiate(server: &Server) -> String {
    let mut client = Command::new("openssl")
        .args(["s_client", "-tls1_2", "-connect", &server.tls.unwrap().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl runs");
    // Kept open until it has ended: the end of its input would end the connection in peace.
    let mut input = client.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"R\n").unwrap();
    let output = client.wait_with_output().unwrap();
    drop(input);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renegotiation_is_refused_and_harms_nobody() {
    if !installed("openssl") {
        return missing("openssl", "a renegotiation is asked for");
    }
    let files = Files::new();
    let server = files.both().shards(1).start();
    let mut old = Secure::signed_in(&server, &files, 1, &version::TLS12).await;
    for n in 0..20 {
        let said = tokio::task::block_in_place(|| renegotiate(&server));
        assert!(said.contains("RENEGOTIATING") && said.contains("no renegotiation"), "{said}");
        old.say(&format!("after {n}")).await;
        assert_eq!(old.text().await, format!("after {n}"));
    }
}

#[tokio::test]
async fn who_speaks_the_wrong_protocol_is_told_so() {
    let files = Files::new();
    let server = files.both().start();
    let mut http = Raw { tcp: tcp(&server).await, received: Vec::new() };
    http.write(request(&server, "/ws", &[]).as_bytes()).await;
    let answer = to_the_end(&mut http.tcp).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("this port speaks TLS"), "{answer}");

    let mut plain = Raw::connect(&server).await;
    plain.write(&[22, 3, 1, 0, 5, 1, 0, 0, 1, 3]).await;
    let answer = to_the_end(&mut plain.tcp).await;
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{answer:?}");

    let mut garbage = Raw { tcp: tcp(&server).await, received: Vec::new() };
    garbage.write(&[0xff; 100]).await;
    let alert = to_the_end(&mut garbage.tcp).await;
    assert!(matches!(alert[..], [21, 3, _, 0, 2, 2, _]), "a fatal alert: {alert:?}");
    // And the server serves on.
    Secure::signed_in(&server, &files, 1, &version::TLS13).await;
}

async fn to_the_end(tcp: &mut TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    // A reset after the answer is an end as well.
    let _ = timeout(DEADLINE, tcp.read_to_end(&mut received)).await.expect("an end in time");
    received
}

#[tokio::test]
async fn a_handshake_that_hangs_ends_at_its_deadline() {
    let files = Files::new();
    let server = files.options().env("URINGCAST_LIMITS__HANDSHAKE_MS", 300).start();
    let mut silent = tcp(&server).await;
    let mut half = tcp(&server).await;
    half.write_all(&[22, 3, 1, 1, 0, 1, 0]).await.unwrap();
    let mut after = secured(&server, files.root(), &version::TLS13, tcp(&server).await).await.unwrap();
    assert!(to_the_end(&mut silent).await.is_empty());
    assert!(to_the_end(&mut half).await.is_empty());
    let mut rest = Vec::new();
    let _ = timeout(DEADLINE, after.read_to_end(&mut rest)).await.expect("TLS alone is no handshake");
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_server_that_stops_says_goodbye_over_tls() {
    let files = Files::new();
    let mut server = files.both().start();
    let mut client = Secure::signed_in(&server, &files, 1, &version::TLS13).await;
    server.signal("TERM");
    client.find("draining").await;
    client.closed(1001).await;
    assert!(server.ended(DEADLINE).success());
}

#[test]
fn faults_of_the_configuration_are_told_at_the_start() {
    let files = Files::new();
    let cert = files.cert();
    Options::new()
        .env("URINGCAST_TLS__CERT_FILE", cert.display())
        .run()
        .refused(&["URINGCAST_TLS__CERT_FILE", "needs tls.key_file"]);
    Options::new().env("URINGCAST_TLS__LISTEN", "127.0.0.1:0").run().refused(&["tls.listen", "needs a certificate"]);
    files.options().env("URINGCAST_TLS__MIN_VERSION", "1.1").run().refused(&["tls.min_version", "\"1.2\" or \"1.3\""]);
    std::fs::write(files.key(), std::fs::read(files.cert()).unwrap()).unwrap();
    files.options().run().refused(&["tls.key_file", "key.pem", "holds no private key"]);
    std::fs::remove_file(files.cert()).unwrap();
    files.options().run().refused(&["tls.cert_file", "cert.pem: cannot be read"]);
}

#[tokio::test]
async fn over_a_limit_there_is_an_alert_and_no_handshake() {
    let files = Files::new();
    let server = files
        .beside(metrics::options())
        .env("URINGCAST_TLS__LISTEN", "")
        .env("URINGCAST_LIMITS__CONNECTIONS", 1)
        .start();
    let metrics = Metrics::of(&server).await;
    let _one = Secure::signed_in(&server, &files, 1, &version::TLS13).await;
    for _ in 0..3 {
        let error = secured(&server, files.root(), &version::TLS13, tcp(&server).await).await.unwrap_err();
        // The client may find the connection reset over what it has just sent.
        let text = error.to_string();
        let is_told = text.contains("InternalError");
        assert!(is_told || error.kind() != std::io::ErrorKind::InvalidData, "{text}");
        // Nothing is awaited of whoever only listens.
        let mut raw = Raw { tcp: tcp(&server).await, received: Vec::new() };
        assert_eq!(raw.rest().await, [21, 3, 3, 0, 2, 2, 80]);
    }
    assert_eq!(metrics.refusals("connections").await, 6);
    assert_eq!(metrics.get("uringcast_connections_unadmitted_total").await, 6);
    assert_eq!(metrics.get("uringcast_connections_turned_away").await, 0);
}
