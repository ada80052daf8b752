//! The stream against rustls' own client, in memory. The test's kernel takes any number of bytes, and its network cuts the
//! stream anywhere. Also the certificate's files: which are accepted, which are refused, and with which messages.

use std::io::{IoSlice, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore, ServerConfig, version};

use super::*;
use crate::config::{Tls, TlsVersion};

const VERSIONS: [&rustls::SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];

struct Files {
    folder: tempfile::TempDir,
    root: CertificateDer<'static>,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut files = Self { folder, root: CertificateDer::from(Vec::new()) };
        files.renew();
        files
    }

    fn renew(&mut self) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        std::fs::write(self.path("cert.pem"), made.cert.pem()).expect("written");
        std::fs::write(self.path("key.pem"), made.signing_key.serialize_pem()).expect("written");
        self.root = made.cert.der().clone();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> Tls {
        let (cert_file, key_file) = (Some(self.path("cert.pem")), Some(self.path("key.pem")));
        Tls { cert_file, key_file, ..Tls::default() }
    }

    fn identity(&self) -> TlsIdentity {
        TlsIdentity::new(&self.config()).expect("randomness").expect("a certificate is named")
    }

    fn served(&self) -> Arc<ServerConfig> {
        self.identity().load().expect("loads").1.config
    }

    fn client(&self, version: &'static rustls::SupportedProtocolVersion, alpn: &[&str]) -> ClientConnection {
        let name = ServerName::try_from("localhost").expect("a name");
        ClientConnection::new(self.client_config(version, alpn), name).expect("a client")
    }

    fn client_config(&self, version: &'static rustls::SupportedProtocolVersion, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).expect("builds");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// The bytes that the client wants to send.
fn flight(client: &mut ClientConnection) -> Vec<u8> {
    let mut out = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut out).expect("to memory");
    }
    out
}

/// Gives the client what the server sent. Returns the plaintext.
fn read(client: &mut ClientConnection, mut bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).expect("from memory");
        client.process_new_packets().expect("sound records");
        let mut chunk = [0; 20_000];
        while let Ok(count @ 1..) = client.reader().read(&mut chunk) {
            plain.extend_from_slice(&chunk[..count]);
        }
    }
    plain
}

fn flushed(stream: &mut Stream) -> Vec<u8> {
    let mut out = Vec::new();
    let all = |bytes: &[u8]| {
        out.extend_from_slice(bytes);
        Some(bytes.len())
    };
    assert_eq!(stream.flush(all), Some(true));
    out
}

/// Gives the stream the client's bytes in parts of `step` bytes.
fn arrive(stream: &mut Stream, bytes: &[u8], step: usize) -> Result<(Vec<u8>, Opened), TlsError> {
    let (mut plain, mut opened) = (Vec::new(), Opened::Open);
    for part in bytes.chunks(step) {
        opened = stream.open(&mut part.to_vec(), &mut plain)?;
    }
    Ok((plain, opened))
}

/// A connection after its handshake.
fn established(
    files: &Files,
    version: &'static rustls::SupportedProtocolVersion,
    step: usize,
) -> (Stream, ClientConnection) {
    let mut stream = Stream::new(files.served()).expect("a stream");
    let mut client = files.client(version, &["http/1.1"]);
    for _ in 0..4 {
        let said = flight(&mut client);
        let (plain, _) = arrive(&mut stream, &said, step).expect("a sound flight");
        assert!(plain.is_empty());
        assert!(read(&mut client, &flushed(&mut stream)).is_empty());
    }
    assert!(!client.is_handshaking());
    assert_eq!(client.alpn_protocol(), Some(&b"http/1.1"[..]));
    (stream, client)
}

fn send(stream: &mut Stream, pieces: &[&[u8]], kernel: impl FnMut(&[u8]) -> Option<usize>) -> Option<usize> {
    let pieces: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    stream.send(&pieces, &mut Scratch::default(), kernel)
}

#[test]
fn a_handshake_may_come_byte_by_byte_in_both_versions() {
    let files = Files::new();
    for version in VERSIONS {
        for step in [1, 2, 3, 5, 7, 64, 100_000] {
            let (mut stream, mut client) = established(&files, version, step);
            client.writer().write_all(b"hello").expect("to memory");
            client.send_close_notify();
            let said = flight(&mut client);
            let (plain, opened) = arrive(&mut stream, &said, step).expect("sound");
            assert_eq!((&plain[..], opened), (&b"hello"[..], Opened::PeerClosed));
        }
    }
}

#[test]
fn an_idle_connection_keeps_no_buffer() {
    let files = Files::new();
    for version in VERSIONS {
        let (mut stream, mut client) = established(&files, version, 1000);
        client.writer().write_all(&[7; 40_000]).expect("to memory");
        let said = flight(&mut client);
        arrive(&mut stream, &said[..said.len() - 1], 4096).expect("sound");
        assert!((1..=20_000).contains(&stream.buffered().0), "one partial record");
        arrive(&mut stream, &said[said.len() - 1..], 1).expect("sound");
        assert_eq!(send(&mut stream, &[&[1; 100_000]], |bytes| Some(bytes.len() - 10)), Some(2 * 16_384 - 1));
        assert_eq!(stream.buffered(), (0, 10));
        flushed(&mut stream);
        assert_eq!(stream.buffered(), (0, 0));
    }
}

#[test]
fn pieces_share_records_and_large_ones_fill_them() {
    let files = Files::new();
    let (mut stream, mut client) = established(&files, &version::TLS13, 1000);
    let large = vec![3; 40_000];
    let mut out = Vec::new();
    let all = |bytes: &[u8]| {
        out.extend_from_slice(bytes);
        Some(bytes.len())
    };
    let pieces: [&[u8]; 5] = [b"a", b"bc", &[], &large, b"d"];
    assert_eq!(send(&mut stream, &pieces, all), Some(40_004));
    let mut lengths = Vec::new();
    let mut rest = &out[..];
    while let [23, 3, 3, high, low, ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        lengths.push(length - 17);
        rest = &rest[5 + length..];
    }
    assert_eq!(lengths, [16_384, 16_384, 40_004 - 2 * 16_384]);
    assert_eq!(read(&mut client, &out), pieces.concat());
}

#[test]
fn the_byte_that_is_owed_keeps_the_caller_waiting_until_all_has_left() {
    let files = Files::new();
    let (mut stream, mut client) = established(&files, &version::TLS13, 1000);
    let mut out = Vec::new();
    assert_eq!(send(&mut stream, &[b"frame"], |_| Some(0)), Some(4));
    assert_eq!(send(&mut stream, &[b"e"], |_| Some(0)), Some(0), "what waits goes first");
    let take = |bytes: &[u8]| {
        out.extend_from_slice(bytes);
        Some(bytes.len())
    };
    assert_eq!(send(&mut stream, &[b"e", b" two"], take), Some(5));
    assert_eq!(read(&mut client, &out), b"frame two");
    assert_eq!(send(&mut stream, &[b"x"], |_| None), None, "the peer is gone");
}

#[test]
fn nothing_is_encrypted_before_the_handshake_is_over() {
    let files = Files::new();
    let mut stream = Stream::new(files.served()).expect("a stream");
    let kernel = |_: &[u8]| -> Option<usize> { panic!("in the clear") };
    assert_eq!(send(&mut stream, &[b"secret"], kernel), None);
    stream.close();
    assert_eq!(stream.buffered(), (0, 0));
}

#[test]
fn a_goodbye_is_said_once() {
    let files = Files::new();
    for version in VERSIONS {
        let (mut stream, mut client) = established(&files, version, 1000);
        stream.close();
        stream.close();
        let out = flushed(&mut stream);
        let mut rest = &out[..];
        client.read_tls(&mut rest).expect("from memory");
        assert!(client.process_new_packets().expect("sound").peer_has_closed());
        assert!(rest.is_empty());
    }
}

/// An alert in the clear: level, description.
fn alert(bytes: &[u8]) -> Option<(u8, u8)> {
    match bytes {
        [21, 3, _, 0, 2, level, description] => Some((*level, *description)),
        _ => None,
    }
}

#[test]
fn what_is_no_tls_ends_with_an_alert_or_is_known_as_http() {
    let files = Files::new();
    let fault = |bytes: &[u8], step| {
        let mut stream = Stream::new(files.served()).expect("a stream");
        let fault = arrive(&mut stream, bytes, step).expect_err("no TLS");
        (fault, flushed(&mut stream))
    };
    for step in [1, 4, 100] {
        assert_eq!(fault(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", step).0, TlsError::PlainHttp);
        let (found, said) = fault(&[0xff; 50], step);
        assert!(matches!(found, TlsError::Tls(_)), "{found}");
        assert_eq!(alert(&said).map(|(level, _)| level), Some(2), "fatal: {said:?}");
        // A record whose length is above the maximum.
        assert!(matches!(fault(&[22, 3, 1, 0xff, 0xff, 1, 0, 0, 0], step).0, TlsError::Tls(_)));
    }
    // A hello that announces 60,000 bytes and sends them.
    let mut hello = Vec::new();
    let body = [&[1, 0, 0xea, 0x60][..], &[0; 59_000]].concat();
    for part in body.chunks(16_000) {
        hello.extend([22, 3, 1, (part.len() >> 8) as u8, part.len() as u8]);
        hello.extend_from_slice(part);
    }
    assert_eq!(fault(&hello, 10_000).0, TlsError::TooLarge);
}

#[test]
fn an_old_version_and_another_protocol_are_refused_with_their_alerts() {
    let files = Files::new();
    let config = Tls { min_version: TlsVersion::Tls13, ..files.config() };
    let served = TlsIdentity::new(&config).expect("randomness").expect("named").load().expect("loads").1.config;
    for (mut client, served, expected) in [
        (files.client(&version::TLS12, &[]), served, AlertDescription::ProtocolVersion),
        (files.client(&version::TLS13, &["h2"]), files.served(), AlertDescription::NoApplicationProtocol),
    ] {
        let mut stream = Stream::new(served).expect("a stream");
        let said = flight(&mut client);
        assert!(matches!(arrive(&mut stream, &said, 1000), Err(TlsError::Tls(_))));
        let answer = flushed(&mut stream);
        client.read_tls(&mut &answer[..]).expect("from memory");
        assert_eq!(client.process_new_packets().expect_err("refused"), rustls::Error::AlertReceived(expected));
    }
}

#[test]
fn a_record_that_was_tampered_with_ends_the_connection() {
    let files = Files::new();
    for version in VERSIONS {
        let (mut stream, mut client) = established(&files, version, 1000);
        client.writer().write_all(b"first").expect("to memory");
        let mut said = flight(&mut client);
        *said.last_mut().expect("a record") ^= 1;
        assert!(matches!(arrive(&mut stream, &said, 1000), Err(TlsError::Tls(rustls::Error::DecryptError))));
        assert!(!flushed(&mut stream).is_empty(), "the alert");
    }
}

#[test]
fn keys_may_be_refreshed_between_and_amid_messages() {
    let files = Files::new();
    let (mut stream, mut client) = established(&files, &version::TLS13, 1000);
    for round in 0..20_u8 {
        client.refresh_traffic_keys().expect("after the handshake");
        client.writer().write_all(&[round; 3]).expect("to memory");
        let said = flight(&mut client);
        // The server sends while a record of the peer is incomplete.
        let (early, late) = said.split_at(said.len() - 2);
        let (mut plain, _) = arrive(&mut stream, early, 9).expect("sound");
        let mut out = Vec::new();
        let take = |bytes: &[u8]| {
            out.extend_from_slice(bytes);
            Some(bytes.len())
        };
        assert_eq!(send(&mut stream, &[b"answer"], take), Some(6));
        plain.extend(arrive(&mut stream, late, 1).expect("sound").0);
        assert_eq!(plain, [round; 3]);
        let said = [&flushed(&mut stream)[..], &out].concat();
        assert_eq!(read(&mut client, &said), b"answer");
    }
}

#[test]
fn a_session_is_resumed_with_a_ticket_from_before_a_reload() {
    let mut files = Files::new();
    let identity = files.identity();
    for version in VERSIONS {
        let config = files.client_config(version, &[]);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let mut stream = Stream::new(identity.load().expect("loads").1.config).expect("a stream");
            let name = ServerName::try_from("localhost").expect("a name");
            let mut client = ClientConnection::new(Arc::clone(&config), name).expect("a client");
            for _ in 0..4 {
                let said = flight(&mut client);
                arrive(&mut stream, &said, 1000).expect("sound");
                read(&mut client, &flushed(&mut stream));
            }
            kinds.push(client.handshake_kind());
            let certificate = files.root.clone();
            files.renew();
            assert_ne!(certificate, files.root);
        }
        assert_eq!(kinds[1], Some(rustls::HandshakeKind::Resumed), "{version:?} {kinds:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The client reads exactly what was offered, however many bytes the kernel takes and however they arrive. Like the
    /// shard, the test offers again what was not taken, with more behind it.
    #[test]
    fn the_client_reads_what_was_offered(
        sizes in prop::collection::vec(prop_oneof![0..40_usize, 0..3_000_usize, 15_000..50_000_usize], 1..12),
        takes in prop::collection::vec(prop_oneof![Just(0_usize), 1..50_usize, 1..70_000_usize], 1..40),
        splits in prop::collection::vec(1..5_000_usize, 1..20),
        per_call in 1..6_usize,
        old in any::<bool>(),
    ) {
        let files = Files::new();
        let (mut stream, mut client) = established(&files, VERSIONS[usize::from(old)], 1000);
        let all: Vec<Vec<u8>> = (0..).zip(&sizes).map(|(n, &size)| (0..size).map(|at| (at * 31 + n) as u8).collect()).collect();
        let (mut wire, mut takes) = (Vec::new(), takes.iter().cycle());
        let mut scratch = Scratch::default();
        let (mut first, mut at, mut calls) = (0, 0, 0);
        while first < all.len() {
            let mut pieces = vec![IoSlice::new(&all[first][at..])];
            pieces.extend(all[first + 1..].iter().take(per_call - 1).map(|piece| IoSlice::new(piece)));
            calls += 1;
            let kernel = |bytes: &[u8]| {
                // Sometimes the kernel takes everything, so that the test ends.
                let count = if calls % 7 == 0 { bytes.len() } else { bytes.len().min(*takes.next().unwrap_or(&1)) };
                wire.extend_from_slice(&bytes[..count]);
                Some(count)
            };
            let mut taken = stream.send(&pieces, &mut scratch, kernel).expect("the peer is there");
            prop_assert!(stream.buffered().1 <= 34_000, "bounded");
            while first < all.len() && taken >= all[first].len() - at {
                taken -= all[first].len() - at;
                (first, at) = (first + 1, 0);
            }
            at += taken;
        }
        prop_assert_eq!(stream.buffered().1, 0, "all taken means all left");
        let (mut got, mut rest) = (Vec::new(), &wire[..]);
        for &split in splits.iter().cycle() {
            let (now, later) = rest.split_at(split.min(rest.len()));
            got.extend(read(&mut client, now));
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(got == all.concat());
    }
}

#[test]
fn faults_of_the_files_name_the_key_and_the_file() {
    let mut files = Files::new();
    let problem = |files: &Files| files.identity().load().expect_err("refused").to_string();
    let key = std::fs::read(files.path("key.pem")).expect("readable");
    let certificate = std::fs::read(files.path("cert.pem")).expect("readable");
    files.renew();
    for (file, content, key_name, words) in [
        ("key.pem", &key[..], "tls.key_file", "is not the key of tls.cert_file"),
        ("key.pem", b"", "tls.key_file", "holds no private key"),
        ("key.pem", &certificate, "tls.key_file", "holds no private key"),
        ("cert.pem", &key, "tls.cert_file", "holds no certificate"),
        ("cert.pem", b"-----BEGIN CERTIFICATE-----\nAA", "tls.cert_file", "is not PEM"),
        ("cert.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "tls.cert_file", "unusable"),
    ] {
        files.renew();
        std::fs::write(files.path(file), content).expect("written");
        let problem = problem(&files);
        assert!(problem.contains(key_name) && problem.contains(file) && problem.contains(words), "{problem}");
        assert!(!problem.contains("PRIVATE KEY-----\n"), "{problem}");
    }
    std::fs::remove_file(files.path("cert.pem")).expect("removed");
    let problem = problem(&files);
    assert!(problem.contains("tls.cert_file") && problem.contains("cert.pem: cannot be read"), "{problem}");
}
