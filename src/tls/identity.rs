//! The server's identity in TLS: reads the certificate chain and the private key from PEM files and makes a rustls
//! configuration of them. Decides on versions, ALPN and tickets. An error names the setting and the file.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::{ServerConfig, SupportedProtocolVersion, version};

use super::validity::Validity;
use crate::config::{ConfigError, FILE_BYTES_MAX, Tls, TlsVersion, read_bytes};

const BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
const NEW: [&SupportedProtocolVersion; 1] = [&version::TLS13];

/// The contents of the certificate's file and of the key's.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// What new connections are served with.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    /// The rustls configuration with this certificate.
    pub(crate) config: Arc<ServerConfig>,
    /// When the chain is valid; `None` if its dates cannot be read.
    pub(crate) validity: Option<Validity>,
}

/// The configured files, and what stays the same when they change.
#[derive(Debug)]
pub(crate) struct TlsIdentity {
    config: Tls,
    /// Kept over reloads, so that clients can resume with older tickets. Tickets cost no memory per session.
    tickets: Arc<dyn ProducesTickets>,
}

impl TlsIdentity {
    /// The identity that the configuration names; `None` if it names no certificate.
    ///
    /// # Errors
    /// When the machine has no randomness for the tickets' keys.
    pub(crate) fn new(config: &Tls) -> Result<Option<Self>, ConfigError> {
        if config.cert_file.is_none() {
            return Ok(None);
        }
        let tickets = aws_lc_rs::Ticketer::new().map_err(|error| ConfigError::general(format!("TLS: {error}")))?;
        Ok(Some(Self { config: config.clone(), tickets }))
    }

    /// Reads both files and checks that they belong together.
    ///
    /// # Errors
    /// [`ConfigError`] with the setting and the file that are wrong.
    pub(crate) fn load(&self) -> Result<(Pair, Served), ConfigError> {
        let pair = self.read()?;
        let served = self.serve(&pair)?;
        Ok((pair, served))
    }

    /// Reads both files without checking them.
    pub(super) fn read(&self) -> Result<Pair, ConfigError> {
        let read = |name, path: Option<&Path>| {
            let bytes = read_bytes(path.unwrap_or(Path::new("")), FILE_BYTES_MAX);
            bytes.map_err(|error| fault(name, path, format!("cannot be read: {error}")))
        };
        let certificate = read("tls.cert_file", self.config.cert_file.as_deref())?;
        Ok(Pair { certificate, key: read("tls.key_file", self.config.key_file.as_deref())? })
    }

    /// Makes a rustls configuration of the files' contents.
    pub(super) fn serve(&self, pair: &Pair) -> Result<Served, ConfigError> {
        let of_cert = |problem: String| fault("tls.cert_file", self.config.cert_file.as_deref(), problem);
        let of_key = |problem: String| fault("tls.key_file", self.config.key_file.as_deref(), problem);
        let chain = CertificateDer::pem_slice_iter(&pair.certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| of_cert(format!("is not PEM: {error}")))?;
        if chain.is_empty() {
            return Err(of_cert("holds no certificate (-----BEGIN CERTIFICATE-----)".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_slice(&pair.key).map_err(|error| match error {
            PemError::NoItemsFound => of_key("holds no private key (-----BEGIN PRIVATE KEY-----)".to_owned()),
            error => of_key(format!("is not PEM: {error}")),
        })?;
        let validity = Validity::of(&chain);
        let versions = if self.config.min_version == TlsVersion::Tls12 { &BOTH[..] } else { &NEW[..] };
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .map_err(|error| ConfigError::of_key("tls.min_version", error.to_string()))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => of_key("is not the key of tls.cert_file".to_owned()),
                rustls::Error::InvalidCertificate(error) => of_cert(format!("its certificate is unusable: {error}")),
                error => of_key(format!("its key is unusable: {error}")),
            })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = Arc::clone(&self.tickets);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // A client has one WebSocket, so one ticket is enough to reconnect with.
        config.send_tls13_tickets = 1;
        Ok(Served { config: Arc::new(config), validity })
    }
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pair(…)")
    }
}

fn fault(key: &str, path: Option<&Path>, problem: String) -> ConfigError {
    ConfigError::of_key(key, format!("{}: {problem}", path.unwrap_or(Path::new("(no file)")).display()))
}
