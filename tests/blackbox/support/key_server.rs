//! An identity provider for the tests: a small HTTP server that answers every request for a key set as the test tells it
//! to, and counts what it was asked. Written by hand, so that it can answer what no HTTP server would.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::tls::Files;
use super::{Options, now_s};

/// What is answered.
#[derive(Clone, Debug)]
pub enum Reply {
    /// These bytes, and the end.
    Bytes(Vec<u8>),
    /// These bytes over and over.
    Endless(&'static [u8]),
    /// One of these bytes at a time, with pauses.
    Dripping(Vec<u8>),
    /// Nothing until another answer is set; then that.
    Held,
    /// The end, without an answer.
    Hangup,
}

/// The running server; it ends with the test's runtime.
pub struct KeyServer {
    pub addr: SocketAddr,
    reply: watch::Sender<Reply>,
    count: Arc<AtomicUsize>,
    last: Arc<Mutex<String>>,
}

impl KeyServer {
    /// A server that answers with these keys.
    pub async fn start(keys: &[&TestKey]) -> Self {
        Self::listen(keys, None).await
    }

    /// The same over TLS, with the certificate of `files`.
    pub async fn start_tls(keys: &[&TestKey], files: &Files) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![files.root()], PrivateKeyDer::from_pem_file(files.key()).unwrap())
            .unwrap();
        Self::listen(keys, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn listen(keys: &[&TestKey], tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (reply, replies) = watch::channel(document(keys));
        let (count, last) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let server = Self { addr, reply, count: Arc::clone(&count), last: Arc::clone(&last) };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (replies, count, last, tls) = (replies.clone(), Arc::clone(&count), Arc::clone(&last), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => answer(stream, replies, &count, &last).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                answer(stream, replies, &count, &last).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    /// What the server under test is to fetch.
    pub fn url(&self) -> String {
        format!("http://{}/keys.json?site=1", self.addr)
    }

    /// A server that takes tokens by this one's keys alone.
    pub fn options(&self) -> Options {
        Options::bare(&["--listen", "127.0.0.1:0"])
            .env("URINGCAST_AUTH__JWKS_URL", self.url())
            .env("URINGCAST_HTTP__KEYS", "an-api-key-of-the-tests-of-key-sets")
            .env("URINGCAST_HTTP__LISTEN", "127.0.0.1:0")
            .env("URINGCAST_LIMITS__EXEMPT", "")
            .shards(2)
    }

    /// Answers with these keys from now on.
    pub fn publish(&self, keys: &[&TestKey]) {
        self.reply(document(keys));
    }

    /// Answers so from now on.
    pub fn reply(&self, reply: Reply) {
        self.reply.send_replace(reply);
    }

    /// How many requests have come.
    pub fn requests(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// The head of the last one.
    pub fn last_request(&self) -> String {
        self.last.lock().unwrap().clone()
    }
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut replies: watch::Receiver<Reply>,
    count: &AtomicUsize,
    last: &Mutex<String>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    *last.lock().unwrap() = String::from_utf8(head).unwrap();
    count.fetch_add(1, Ordering::SeqCst);
    let reply = replies.wait_for(|reply| !matches!(reply, Reply::Held)).await.unwrap().clone();
    // The server under test may have given up: what fails here is its business.
    match reply {
        Reply::Held | Reply::Hangup => {}
        Reply::Bytes(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        Reply::Endless(bytes) => while stream.write_all(bytes).await.is_ok() {},
        Reply::Dripping(bytes) => {
            for byte in bytes {
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// A response with this status line, fields and body.
pub fn response(status: &str, fields: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Bytes(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{fields}\r\n{body}").into_bytes())
}

/// A key set as a response.
pub fn document(keys: &[&TestKey]) -> Reply {
    response("200 OK", "Content-Type: application/json\r\n", &key_set(keys))
}

/// A key set as JSON.
pub fn key_set(keys: &[&TestKey]) -> String {
    let keys: Vec<Value> = keys.iter().map(|key| key.public()).collect();
    json!({ "keys": keys }).to_string()
}

/// A key that signs tokens, and its `kid`.
pub struct TestKey {
    pub kid: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl TestKey {
    pub fn ed(kid: &'static str) -> Self {
        Self { kid, algorithm: Algorithm::EdDSA, key: EncodingKey::from_ed_pem(&pem("ed.key.pem")).unwrap() }
    }

    pub fn ec(kid: &'static str) -> Self {
        Self { kid, algorithm: Algorithm::ES256, key: EncodingKey::from_ec_pem(&pem("ec.key.pem")).unwrap() }
    }

    fn public(&self) -> Value {
        let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = json!(self.kid);
        jwk
    }

    /// A token of a user.
    pub fn token(&self, user: u64) -> String {
        self.sign(&json!({"sub": user, "name": format!("u{user}"), "exp": now_s() + 600}))
    }

    pub fn sign(&self, claims: &Value) -> String {
        self.sign_with(Header::new(self.algorithm), claims)
    }

    /// A token whose header says more.
    pub fn sign_with(&self, header: Header, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.to_owned()), alg: self.algorithm, ..header };
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }
}

fn pem(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/keys/{name}", env!("CARGO_MANIFEST_DIR"))).expect("a test key")
}
