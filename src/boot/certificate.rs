//! The TLS certificate at the start: loads it before any thread runs, and then starts the thread that passes each new
//! certificate on to the shards.

use std::sync::Arc;

use rustls::ServerConfig;

use crate::boot::error::BootError;
use crate::boot::threads::ShardThread;
use crate::config::{Config, ConfigError};
use crate::io::commands::ShardCommand;
use crate::metrics::Metrics;
use crate::tls::{self, Pair, Served, TlsIdentity};

/// The configured certificate, loaded and checked.
pub(super) struct Certificate {
    identity: TlsIdentity,
    pair: Pair,
    served: Served,
}

impl Certificate {
    /// Loads the certificate and its key; `None` if TLS is not configured.
    ///
    /// # Errors
    /// [`ConfigError`] with the key and the file at fault.
    pub(super) fn load(config: &Config) -> Result<Option<Self>, ConfigError> {
        let Some(identity) = TlsIdentity::new(&config.tls)? else { return Ok(None) };
        let (pair, served) = identity.load()?;
        Ok(Some(Self { identity, pair, served }))
    }

    /// What rustls serves new connections with.
    pub(super) fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.served.config)
    }

    /// Starts the thread that watches the files. It tells every shard of each new certificate, and the metrics of when
    /// it expires.
    ///
    /// # Errors
    /// [`BootError::System`] if the kernel refuses a thread.
    pub(super) fn watch(self, shards: &[ShardThread], metrics: Metrics) -> Result<tls::CertificateWatch, BootError> {
        let expires = |served: &Served| served.validity.map(|validity| validity.not_after_s);
        metrics.certificate_expires(expires(&self.served));
        let shards: Vec<_> = shards.iter().map(ShardThread::inbox).collect();
        let publish = move |served: Served| {
            metrics.certificate_expires(expires(&served));
            for shard in &shards {
                shard.tell(ShardCommand::Certificate(Arc::clone(&served.config)));
            }
        };
        tls::CertificateWatch::start(self.identity, self.pair, self.served.validity, publish)
            .map_err(BootError::system("starting the certificate's thread"))
    }
}
