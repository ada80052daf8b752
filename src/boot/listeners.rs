//! The addresses that clients connect to: binds each of them once per shard, before any thread runs. The sockets
//! themselves are made by `io::bind`.

use crate::boot::error::BootError;
use crate::config::{Config, ListenAddr};
use crate::io::accept::ShardListener;
use crate::io::bind;
use crate::io::socket_file::SocketFile;

/// The addresses that clients connect to. There is at least one.
#[derive(Clone, Debug, Default)]
pub struct ListenAddrs {
    /// Addresses that speak plain HTTP and WebSocket.
    pub plain: Vec<ListenAddr>,
    /// Addresses that speak TLS.
    pub tls: Vec<ListenAddr>,
}

/// Everything that was bound for clients.
#[derive(Default)]
pub(super) struct ShardListeners {
    pub(super) addrs: ListenAddrs,
    /// For each shard, one listener of every address.
    pub(super) by_shard: Vec<Vec<ShardListener>>,
    /// The files of the unix sockets, which are removed when these values are dropped.
    pub(super) socket_files: Vec<SocketFile>,
}

/// Binds every configured address for every shard.
///
/// # Errors
/// [`BootError::Listen`] if one of them cannot be bound.
pub(super) fn bind(config: &Config, shard_count: usize) -> Result<ShardListeners, BootError> {
    let is_tls = config.tls.cert_file.is_some() && config.tls.listen.0.is_empty();
    let by_shard = (0..shard_count).map(|_| Vec::new()).collect();
    let mut all = ShardListeners { by_shard, ..ShardListeners::default() };
    for (key, configured, tls) in [("listen", &config.listen, is_tls), ("tls.listen", &config.tls.listen, true)] {
        for addr in &configured.0 {
            let bound = bind::bind(addr, config.listen_mode, shard_count, &configured.0)
                .map_err(|cause| BootError::Listen { key, addr: addr.clone(), cause })?;
            for (listeners, socket) in all.by_shard.iter_mut().zip(bound.listeners) {
                listeners.push(ShardListener::new(socket, tls, bound.file.is_some()));
            }
            all.socket_files.extend(bound.file);
            let addrs = if tls { &mut all.addrs.tls } else { &mut all.addrs.plain };
            addrs.push(bound.addr);
        }
    }
    Ok(all)
}
