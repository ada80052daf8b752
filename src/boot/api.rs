//! The HTTP API at the start: reads its keys and binds its socket before any thread runs, so that a mistake ends the
//! start; then puts together what its thread is made of.

use std::net::TcpListener;
use std::sync::Arc;

use crate::auth::ApiKeys;
use crate::boot::error::BootError;
use crate::boot::threads::{ShardThread, SharedParts};
use crate::config::{Config, ConfigError, ListenAddr};
use crate::control::{self, KeySetCounts, Ledger, Owners};
use crate::io::bind::BACKLOG;
use crate::io::socket_file::SocketFile;
use crate::log::LostLines;
use crate::wire::origin::Origins;

/// The API's keys and its bound socket.
pub(super) struct BoundApi {
    keys: ApiKeys,
    listener: control::ApiListener,
}

/// Reads the keys and binds the socket; `None` if no API is configured. The file of a unix socket is added to
/// `socket_files`.
///
/// # Errors
/// [`BootError::Config`] if the keys cannot be read, [`BootError::Listen`] if the address cannot be bound.
pub(super) fn bind(config: &Config, socket_files: &mut Vec<SocketFile>) -> Result<Option<BoundApi>, BootError> {
    let Some(addr) = config.http.listener() else { return Ok(None) };
    let keys = ApiKeys::new(&config.http)?;
    let listener = match addr {
        ListenAddr::Tcp(addr) => TcpListener::bind(addr).map(control::ApiListener::Tcp),
        ListenAddr::Unix(path) => SocketFile::listen(path, config.listen_mode.0, BACKLOG).map(|(listener, file)| {
            socket_files.push(file);
            control::ApiListener::Unix(listener, path.clone())
        }),
    };
    let listener = listener.map_err(|cause| BootError::Listen { key: "http.listen", addr: addr.clone(), cause })?;
    Ok(Some(BoundApi { keys, listener }))
}

impl BoundApi {
    /// What the API is made of. `descriptors` are those that its connections may take, `key_set` is what is counted of
    /// `auth.jwks_url`.
    ///
    /// # Errors
    /// [`BootError::Config`] if `http.cors_origins` holds no origins.
    #[expect(clippy::too_many_arguments, reason = "what the start has collected for the API")]
    pub(super) fn into_parts(
        self,
        config: &Config,
        shared: &SharedParts,
        shards: &[ShardThread],
        descriptors: usize,
        ledger: Ledger,
        lost: LostLines,
        key_set: Option<Arc<KeySetCounts>>,
    ) -> Result<control::ApiParts, BootError> {
        let settings = &shared.settings;
        Ok(control::ApiParts {
            listener: self.listener,
            room: control::ApiRoom::within(descriptors),
            hosts: config.http.hosts.clone(),
            cors: Origins::list(&config.http.cors_origins)
                .map_err(|fault| ConfigError::of_key("http.cors_origins", fault))?,
            keys: self.keys,
            owners: Owners::new(shards.iter().map(ShardThread::sender)),
            ledger,
            revocations_kept_ms: config.auth.revocations_kept_s.saturating_mul(1000),
            clock: shared.clock,
            namespaces: Arc::clone(&settings.hub.namespaces),
            guard: Arc::clone(&settings.guard),
            metrics: settings.metrics.clone(),
            lost,
            key_set,
            refusals: Arc::clone(&settings.refusals),
            push_bytes: config.limits.push_bytes,
            request_ms: config.limits.request_ms,
            head_ms: config.limits.handshake_ms,
        })
    }
}
