//! Fetches one small document over http:// or https://, for the control thread. Everything has a bound: the size of head and
//! body, the time to connect and the time in all. Redirects are not followed, because the document has to come from the
//! configured address and from no other. Every fetch has a connection of its own: there are a few in an hour.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::{Auth, ConfigError, FILE_BYTES_MAX, KeySetUrl, read_bytes};

/// The largest body: a key set of 32 RSA keys with their certificates has a quarter of it.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// The largest head of a response.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Most fields in it.
const HEADERS_MAX: usize = 64;
/// How long one address of the host may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// Addresses of the host that are tried.
const ADDRESSES_MAX: usize = 3;
/// How long a fetch may take in all.
const TOTAL: Duration = Duration::from_secs(8);

/// Where a document is fetched from, and whom to trust there.
#[derive(Clone, Debug)]
pub(crate) struct KeySetSource {
    url: KeySetUrl,
    /// `None` for plain http.
    tls: Option<Arc<ClientConfig>>,
}

/// A document.
#[derive(Debug)]
pub(crate) struct Document {
    /// What it says.
    pub(crate) body: Vec<u8>,
    /// For how long the server says that it stays fresh, in seconds.
    pub(crate) fresh_s: Option<u64>,
}

/// Why a document could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The host's name has no address.
    #[error("the host's name can't be resolved: {0}")]
    Resolve(io::Error),
    /// No connection came about.
    #[error("it can't be connected to: {0}")]
    Connect(io::Error),
    /// TLS failed: most often an authority that is not trusted.
    #[error("TLS with it failed: {0}")]
    Tls(io::Error),
    /// It took longer than it may.
    #[error("it took more than {} s", TOTAL.as_secs())]
    Slow,
    /// The connection failed, or what came is not HTTP.
    #[error("no response that can be read came: {0}")]
    Http(#[from] hyper::Error),
    /// The response refers to another address.
    #[error("it answered with a redirect ({0}), which is not followed: configure the address that it leads to")]
    Redirect(StatusCode),
    /// The response is no document.
    #[error("it answered with HTTP status {0}")]
    Status(StatusCode),
    /// The body is compressed, which was not asked for.
    #[error("it answered with a Content-Encoding that was not asked for")]
    Encoded,
    /// The body is longer than it may be, or broke off.
    #[error("its body has more than {BODY_BYTES_MAX} bytes or broke off: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// A fault of the server.
    #[error("the fetch failed by a fault of this server; the log says why")]
    Failed,
}

impl FetchError {
    /// Whether the server was reached and gave an answer.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self, Self::Redirect(_) | Self::Status(_) | Self::Encoded | Self::Body(_))
    }
}

impl KeySetSource {
    /// What `auth.jwks_url` names, if it is set.
    ///
    /// # Errors
    /// When the address or the file with authorities can't be used.
    pub(crate) fn of_keys(auth: &Auth) -> Result<Option<Self>, ConfigError> {
        let Some(url) = &auth.jwks_url else { return Ok(None) };
        let url = KeySetUrl::parse(url).map_err(|problem| ConfigError::of_key("auth.jwks_url", problem))?;
        let tls = if url.is_tls() { Some(Arc::new(client_config(auth)?)) } else { None };
        Ok(Some(Self { url, tls }))
    }

    /// Where it is fetched from, without what could be secret in it.
    pub(crate) fn url(&self) -> &KeySetUrl {
        &self.url
    }

    /// Fetches the document.
    ///
    /// # Errors
    /// Why it could not be fetched.
    pub(crate) async fn fetch(&self) -> Result<Document, FetchError> {
        timeout(TOTAL, self.fetch_unbounded()).await.unwrap_or(Err(FetchError::Slow))
    }

    async fn fetch_unbounded(&self) -> Result<Document, FetchError> {
        let stream = self.connect().await?;
        match &self.tls {
            None => self.ask(stream).await,
            Some(config) => {
                let name = ServerName::try_from(self.url.host().to_owned());
                let name = name.map_err(|error| FetchError::Tls(io::Error::other(error)))?;
                let connector = TlsConnector::from(Arc::clone(config));
                self.ask(connector.connect(name, stream).await.map_err(FetchError::Tls)?).await
            }
        }
    }

    async fn connect(&self) -> Result<TcpStream, FetchError> {
        let host = (self.url.host(), self.url.port());
        let addresses = tokio::net::lookup_host(host).await.map_err(FetchError::Resolve)?;
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses.take(ADDRESSES_MAX) {
            match timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(FetchError::Connect(last))
    }

    async fn ask(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Document, FetchError> {
        let mut http = http1::Builder::new();
        http.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
        let (mut sender, connection) = http.handshake(TokioIo::new(stream)).await?;
        // What it says at its end is told by the request too.
        let connection = AbortOnDrop(tokio::spawn(async move { drop(connection.await) }));
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = self.url.target().parse().expect("a part of a URL");
        let host = HeaderValue::try_from(self.url.authority()).expect("a part of a URL");
        let headers = request.headers_mut();
        headers.insert(header::HOST, host);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/jwk-set+json, application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("uringcast/", env!("CARGO_PKG_VERSION"))));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        let response = sender.send_request(request).await?;
        let status = response.status();
        if status.is_redirection() {
            return Err(FetchError::Redirect(status));
        }
        if status != StatusCode::OK {
            return Err(FetchError::Status(status));
        }
        let encoding = response.headers().get(header::CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| encoding.as_bytes() != b"identity") {
            return Err(FetchError::Encoded);
        }
        let fresh_s = fresh_s(response.headers());
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await.map_err(FetchError::Body)?;
        drop(connection);
        Ok(Document { body: body.to_bytes().into(), fresh_s })
    }
}

/// A task that ends with this.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Trusts the authorities of `auth.jwks_ca_file`, or those of the system: SSL_CERT_FILE and SSL_CERT_DIR name others.
fn client_config(auth: &Auth) -> Result<ClientConfig, ConfigError> {
    let mut roots = RootCertStore::empty();
    match &auth.jwks_ca_file {
        Some(file) => {
            let error =
                |problem: String| ConfigError::of_key("auth.jwks_ca_file", format!("{}: {problem}", file.display()));
            let pem = read_bytes(file, FILE_BYTES_MAX).map_err(|cause| error(format!("cannot be read: {cause}")))?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|cause| error(format!("is not PEM: {cause}")))?;
                roots
                    .add(certificate)
                    .map_err(|cause| error(format!("has a certificate that is unusable: {cause}")))?;
            }
            if roots.is_empty() {
                return Err(error("holds no certificate (-----BEGIN CERTIFICATE-----)".to_owned()));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let cause = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
                return Err(ConfigError::of_key(
                    "auth.jwks_url",
                    format!(
                        "this system has no certificate authorities{cause}, so no https:// address can be trusted: \
                         install the package ca-certificates, or name a file in auth.jwks_ca_file"
                    ),
                ));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::of_key("auth.jwks_url", error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// How long a response stays fresh (RFC 9111 §4.2): its `max-age`, less what caches on the way have had it for. A response that
/// is not to be reused without asking has 0.
fn fresh_s(headers: &HeaderMap) -> Option<u64> {
    let mut fresh_s = None;
    let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    for directive in values.flat_map(|value| value.split(',')).map(str::trim) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => return Some(0),
            "max-age" => fresh_s = value.trim_matches('"').parse().ok(),
            _ => {}
        }
    }
    let age_s = headers.get(header::AGE).and_then(|age| age.to_str().ok()?.trim().parse::<u64>().ok());
    fresh_s.map(|fresh_s: u64| fresh_s.saturating_sub(age_s.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freshness_is_what_the_headers_say() {
        for (headers, expected) in [
            (&[][..], None),
            (&[("cache-control", "public")], None),
            (&[("cache-control", "public, max-age=600")], Some(600)),
            (&[("cache-control", "Max-Age=\"600\"")], Some(600)),
            (&[("cache-control", "public"), ("cache-control", "max-age=60,must-revalidate")], Some(60)),
            (&[("cache-control", "max-age=600"), ("age", "590")], Some(10)),
            (&[("cache-control", "max-age=600"), ("age", "9999")], Some(0)),
            (&[("cache-control", "max-age=600, no-store")], Some(0)),
            (&[("cache-control", "max-age=soon")], None),
            (&[("cache-control", "max-age=-1")], None),
            (&[("cache-control", "s-maxage=5")], None),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(fresh_s(&map), expected, "{headers:?}");
        }
    }
}
