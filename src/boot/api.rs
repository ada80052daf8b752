//! The HTTP API at the start: binds its address for every shard before any thread runs, so that a mistake ends the start, and
//! puts together what the shards and the control thread need for it.

use std::sync::Arc;
use std::time::Duration;

use crate::api::ApiSettings;
use crate::auth::ApiKeys;
use crate::boot::descriptors;
use crate::boot::error::BootError;
use crate::boot::threads::{ShardThread, SharedParts};
use crate::config::{Config, ConfigError, ListenAddr};
use crate::control::{self, KeySetCounts, Ledger, Owners};
use crate::io::accept::ShardListener;
use crate::io::bind;
use crate::io::commands::ApiOrder;
use crate::io::socket_file::SocketFile;
use crate::log::LostLines;
use crate::model::namespace::Namespaces;
use crate::shard::ApiServing;
use crate::wire::origin::Origins;

/// Bytes that all requests of the API may take together until they are answered.
const BODY_BYTES: usize = 256 << 20;

/// What the shards need to know of the API. `descriptors` are those that its connections may take.
///
/// # Errors
/// [`ConfigError`] if the keys cannot be read, or `http.cors_origins` holds no origins.
pub(super) fn serving(
    config: &Config,
    namespaces: &Arc<Namespaces>,
    shards: usize,
    descriptors: usize,
) -> Result<ApiServing, ConfigError> {
    let Some(addr) = config.http.listener() else { return Ok(ApiServing::none()) };
    let rules = ApiSettings {
        keys: Arc::new(ApiKeys::new(&config.http)?),
        hosts: config.http.hosts.clone(),
        // Browsers cannot reach a unix socket, so only a loopback address needs the check of the Host header.
        checks_hosts: addr.is_local() && matches!(addr, ListenAddr::Tcp(_)),
        metrics_need_key: !addr.is_local(),
        cors: Origins::list(&config.http.cors_origins)
            .map_err(|fault| ConfigError::of_key("http.cors_origins", fault))?,
        namespaces: Arc::clone(namespaces),
        push_bytes: config.limits.push_bytes,
    };
    Ok(ApiServing {
        rules: Some(rules),
        connections: descriptors::api_places(descriptors).min(config.limits.api_connections) / shards,
        requests: config.limits.api_requests.div_ceil(shards),
        body_bytes: BODY_BYTES / shards,
        idle_ms: config.limits.api_idle_ms,
    })
}

/// The API's bound address, and the queue of calls to the control thread.
pub(super) struct BoundApi {
    addr: ListenAddr,
    sender: flume::Sender<ApiOrder>,
    orders: flume::Receiver<ApiOrder>,
}

/// Binds the address for every shard; `None` if no API is configured. The listeners are added to those of the shards, and
/// the file of a unix socket to `socket_files`.
///
/// # Errors
/// [`BootError::Listen`] if the address cannot be bound.
pub(super) fn bind(
    config: &Config,
    descriptors: usize,
    by_shard: &mut [Vec<ShardListener>],
    socket_files: &mut Vec<SocketFile>,
) -> Result<Option<BoundApi>, BootError> {
    let Some(addr) = config.http.listener() else { return Ok(None) };
    let bound = bind::bind(addr, config.listen_mode, by_shard.len(), &[]).map_err(|cause| BootError::Listen {
        key: "http.listen",
        addr: addr.clone(),
        cause,
    })?;
    for (listeners, socket) in by_shard.iter_mut().zip(bound.listeners) {
        listeners.push(ShardListener::of_api(socket, bound.file.is_some()));
    }
    socket_files.extend(bound.file);
    // Each connection has one call there at a time.
    let (sender, orders) = flume::bounded(descriptors.max(1));
    Ok(Some(BoundApi { addr: bound.addr, sender, orders }))
}

impl BoundApi {
    /// The end that shards hand calls to.
    pub(super) fn sender(&self) -> flume::Sender<ApiOrder> {
        self.sender.clone()
    }

    /// What calls are answered from. `key_set` is what is counted of `auth.jwks_url`.
    pub(super) fn into_parts(
        self,
        config: &Config,
        shared: &SharedParts,
        shards: &[ShardThread],
        ledger: Ledger,
        lost: LostLines,
        key_set: Option<Arc<KeySetCounts>>,
    ) -> control::CallParts {
        match &self.addr {
            ListenAddr::Tcp(addr) => tracing::info!("HTTP API on http://{addr}"),
            ListenAddr::Unix(_) => tracing::info!("HTTP API on {}", self.addr),
        }
        if !self.addr.is_local() {
            tracing::warn!("the HTTP API can be reached from other machines and its keys travel in the clear");
        }
        control::CallParts {
            orders: self.orders,
            owners: Owners::new(shards.iter().map(ShardThread::sender)),
            ledger,
            revocations_kept_ms: config.auth.revocations_kept_s.saturating_mul(1000),
            clock: shared.clock,
            metrics: shared.settings.metrics.clone(),
            lost,
            key_set,
            patience: Duration::from_millis(config.limits.request_ms),
        }
    }
}
