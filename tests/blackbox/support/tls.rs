//! TLS for the tests: a certificate in files, as an operator would have it, and rustls' client, which trusts it.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Client, DEADLINE, Options, Server, token};

/// A certificate, its key, and a client's trust in it.
pub struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    pub fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        files.renew();
        files
    }

    /// A new pair; the certificate is written first, so that for a moment they don't fit.
    pub fn renew(&self) {
        self.write(rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap());
    }

    /// A new pair that is good between two moments, in seconds from now.
    pub fn renew_for(&self, from_s: i64, until_s: i64) {
        let now = std::time::SystemTime::now();
        let at = |seconds: i64| {
            let distance = std::time::Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 { now - distance } else { now + distance }
        };
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (at(from_s).into(), at(until_s).into());
        self.write(params);
    }

    fn write(&self, params: rcgen::CertificateParams) {
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(self.cert(), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(self.key(), key.serialize_pem()).unwrap();
    }

    pub fn cert(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    pub fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    pub fn root(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.cert()).unwrap()
    }

    /// A server that speaks TLS alone.
    pub fn options(&self) -> Options {
        self.serve(Options::new())
    }

    /// One address for both kinds.
    pub fn both(&self) -> Options {
        self.beside(Options::new())
    }

    /// The same for a server with options of its own.
    pub fn beside(&self, options: Options) -> Options {
        self.serve(options).env("URINGCAST_TLS__LISTEN", "127.0.0.1:0")
    }

    fn serve(&self, options: Options) -> Options {
        let (cert, key) = (self.cert(), self.key());
        options.env("URINGCAST_TLS__CERT_FILE", cert.display()).env("URINGCAST_TLS__KEY_FILE", key.display())
    }
}

pub async fn secured(
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

/// Connects to where TLS is spoken.
pub async fn tcp(server: &Server) -> TcpStream {
    TcpStream::connect(server.tls.unwrap()).await.unwrap()
}

/// A client over TLS.
pub type Secure = Client<TlsStream<TcpStream>>;

impl Secure {
    /// Upgrades on `path`.
    pub async fn on(server: &Server, path: &str, tls: TlsStream<TcpStream>) -> Self {
        Self::over(tls, &format!("wss://{}{path}", server.tls.unwrap())).await
    }

    pub async fn secure(server: &Server, files: &Files, path: &str) -> Self {
        let tls = secured(server, files.root(), &version::TLS13, tcp(server).await).await.unwrap();
        Self::on(server, path, tls).await
    }

    /// Connects and signs in.
    pub async fn signed_in(
        server: &Server,
        files: &Files,
        id: u64,
        version: &'static SupportedProtocolVersion,
    ) -> Self {
        let tls = secured(server, files.root(), version, tcp(server).await).await.unwrap();
        let mut client = Self::on(server, "/ws", tls).await;
        client.sign_in(id).await;
        client
    }

    pub async fn sign_in(&mut self, id: u64) {
        assert_eq!(self.next().await["type"], "system");
        assert_eq!(self.auth(&token(id, &format!("u{id}"))).await["type"], "auth_success");
    }

    /// The next text of the lobby.
    pub async fn text(&mut self) -> String {
        self.find("message").await["data"]["text"].as_str().unwrap().to_owned()
    }
}
