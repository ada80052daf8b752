//! wss: the real binary with a certificate, against rustls' client under tungstenite, and against bytes that are no TLS.
//! What the adapter does with splits and partial sends is tested beside it; here it is sockets, deadlines and reloads.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::{Client, DEADLINE, Options, Raw, Server, request, small_buffers, token};

/// A certificate, its key, and a client's trust in it.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        files.renew();
        files
    }

    /// A new pair; the certificate is written first, so that for a moment they don't fit.
    fn renew(&self) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(self.cert(), made.cert.pem()).unwrap();
        std::fs::write(self.key(), made.signing_key.serialize_pem()).unwrap();
    }

    fn cert(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    fn root(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.cert()).unwrap()
    }

    fn options(&self) -> Options {
        let (cert, key) = (self.cert(), self.key());
        Options::new().env("URINGCAST_TLS__CERT_FILE", cert.display()).env("URINGCAST_TLS__KEY_FILE", key.display())
    }

    /// One address for both kinds.
    fn both(&self) -> Options {
        self.options().env("URINGCAST_TLS__LISTEN", "127.0.0.1:0")
    }
}

async fn secured(
    server: &Server,
    root: CertificateDer<'static>,
    version: &'static SupportedProtocolVersion,
    tcp: TcpStream,
) -> Result<TlsStream<TcpStream>, std::io::Error> {
    assert!(server.tls.is_some(), "{}", server.ready_line);
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    timeout(DEADLINE, connector.connect(ServerName::try_from("localhost").unwrap(), tcp)).await.unwrap()
}

async fn tcp(server: &Server) -> TcpStream {
    TcpStream::connect(server.tls.unwrap()).await.unwrap()
}

/// A client over TLS.
struct Secure {
    ws: WebSocketStream<TlsStream<TcpStream>>,
}

impl Secure {
    async fn over(server: &Server, path: &str, tls: TlsStream<TcpStream>) -> Self {
        let request = format!("wss://{}{path}", server.tls.unwrap()).into_client_request().unwrap();
        let upgrading = tokio_tungstenite::client_async_with_config(request, tls, Some(small_buffers()));
        Self { ws: timeout(DEADLINE, upgrading).await.unwrap().unwrap().0 }
    }

    async fn connect(server: &Server, files: &Files, path: &str) -> Self {
        let tls = secured(server, files.root(), &version::TLS13, tcp(server).await).await.unwrap();
        Self::over(server, path, tls).await
    }

    async fn join(server: &Server, files: &Files, id: u64, version: &'static SupportedProtocolVersion) -> Self {
        let tls = secured(server, files.root(), version, tcp(server).await).await.unwrap();
        let mut client = Self::over(server, "/ws", tls).await;
        client.sign_in(id).await;
        client
    }

    async fn sign_in(&mut self, id: u64) {
        self.send(&json!({"type": "auth", "data": {"token": token(id, &format!("u{id}"))}})).await;
        self.find("auth_success").await;
    }

    async fn send(&mut self, value: &Value) {
        timeout(DEADLINE, self.ws.send(Message::text(value.to_string()))).await.unwrap().unwrap();
    }

    async fn say(&mut self, text: &str) {
        self.send(&json!({"type": "message", "data": {"text": text}})).await;
    }

    async fn message(&mut self) -> Option<Message> {
        timeout(DEADLINE, self.ws.next()).await.expect("an answer in time").and_then(Result::ok)
    }

    async fn find(&mut self, kind: &str) -> Value {
        loop {
            if let Message::Text(text) = self.message().await.expect("the connection lives") {
                let value: Value = serde_json::from_str(&text).unwrap();
                if value["type"] == kind {
                    return value;
                }
            }
        }
    }

    /// The next text of the lobby.
    async fn text(&mut self) -> String {
        self.find("message").await["data"]["text"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn one_address_speaks_tls_alone_or_a_second_one_does() {
    let files = Files::new();
    let alone = files.options().start();
    assert_eq!((alone.tls, alone.ready_line.contains("on ws://")), (Some(alone.addr), false), "{}", alone.ready_line);
    let mut one = Secure::join(&alone, &files, 1, &version::TLS13).await;
    let mut old = Secure::join(&alone, &files, 2, &version::TLS12).await;
    one.say("hello").await;
    assert_eq!(old.text().await, "hello");

    let both = files.both().shards(2).start();
    let (mut plain, _) = Client::join(&both, 1, "u1").await;
    let mut secure = Secure::join(&both, &files, 2, &version::TLS13).await;
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

    let mut echo = Secure::connect(&server, &files, "/echo").await;
    for size in [0, 1, 125, 126, 16_383, 16_384, 16_385, 65_536, 1_000_000] {
        let text: String = (0..size).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
        echo.ws.send(Message::text(text.clone())).await.unwrap();
        assert_eq!(echo.message().await.unwrap().into_text().unwrap().as_str(), text);
    }
    echo.ws.close(None).await.unwrap();
    while echo.message().await.is_some() {}
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
        let mut client = Secure::over(&server, "/ws", tls).await;
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
        readers.push(Secure::join(&server, &files, id, version).await);
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
    let mut slow = Secure::over(&server, "/ws", tls).await;
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
        match slow.message().await {
            Some(Message::Text(text)) if text.contains("\"message\"") => {
                assert!(text.contains(&format!("\"{next} y")), "{next}: {text:.200}");
                next += 1;
            }
            Some(Message::Close(frame)) => break frame.map(|frame| u16::from(frame.code)),
            Some(_) => {}
            None => break None,
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
    let mut open = Secure::join(&server, &files, 1, &version::TLS13).await;
    let old = files.root();
    files.renew();
    server.signal("HUP");
    logged(&server, "TLS certificate read anew").await;
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
    logged(&server, "the old one stays in force").await;
    assert!(server.log().contains("tls.key_file"), "{}", server.log());
    secured(&server, old.clone(), &version::TLS13, tcp(&server).await).await.expect("the old one is served");
    // … and when it comes the pair is taken.
    std::fs::write(files.key(), &fitting).unwrap();
    assert_eq!(served(&server, &files, &old).await, new);
}

/// Waits until a line of the log has the words.
async fn logged(server: &Server, words: &str) {
    let waiting = async {
        while !server.log().contains(words) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("no {words:?} in:\n{}", server.log()));
}

/// The certificate that new connections see, once it isn't the old one any more.
async fn served(server: &Server, files: &Files, old: &CertificateDer<'static>) -> CertificateDer<'static> {
    let waiting = async {
        loop {
            if let Ok(tls) = secured(server, files.root(), &version::TLS13, tcp(server).await).await {
                let seen = tls.get_ref().1.peer_certificates().unwrap()[0].clone();
                if seen != *old {
                    return seen.into_owned();
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, waiting).await.expect("the new certificate is served in time")
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
    Secure::join(&server, &files, 1, &version::TLS13).await;
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
    let mut client = Secure::join(&server, &files, 1, &version::TLS13).await;
    server.signal("TERM");
    client.find("draining").await;
    let code = loop {
        match client.message().await {
            Some(Message::Close(frame)) => break frame.map(|frame| u16::from(frame.code)),
            Some(_) => {}
            None => break None,
        }
    };
    assert_eq!(code, Some(1001));
    while client.message().await.is_some() {}
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
