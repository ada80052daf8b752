//! File descriptors: how many the process needs for itself, and how the others are shared out between the connections of
//! clients and those of the API, so that neither can take the other's. Called by `server` at boot, and by `doctor`.

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::boot::error::BootError;
use crate::config::Config;
use crate::control::ApiRoom;

/// Descriptors that the process needs beside its connections, per shard and in all.
const PER_SHARD: u64 = 8;
const OF_PROCESS: u64 = 32;

/// Descriptors that the process needs beside one for each connection.
pub fn needed(shards: u64) -> u64 {
    OF_PROCESS + PER_SHARD * shards
}

/// Descriptors that the API's connections have for themselves, of those that the process doesn't need.
pub fn of_api(left: usize) -> usize {
    ApiRoom::DESCRIPTORS.min(left / 4)
}

/// How the descriptors are shared out that the process doesn't need for itself.
#[derive(Clone, Copy, Debug)]
pub struct DescriptorShare {
    /// For connections of clients.
    pub sockets: usize,
    /// For those of the API: clients can't take them.
    pub api: usize,
}

/// Takes all the descriptors that the process may have, and shares them out.
///
/// # Errors
/// When they are too few for the process itself, or the kernel refuses.
pub fn share_out(shards: usize, config: &Config) -> Result<DescriptorShare, BootError> {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let needed = needed(shards as u64);
    if most < needed {
        return Err(BootError::Descriptors { limit: most, needed, shards });
    }
    if limit.current.is_some_and(|current| current < most) {
        let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
        let raise = BootError::system("raising the descriptor limit");
        setrlimit(Resource::Nofile, raised).map_err(|error| raise(error.into()))?;
    }
    let left = usize::try_from(most - needed).unwrap_or(usize::MAX);
    let api = if config.http.listener().is_some() { of_api(left) } else { 0 };
    let sockets = left - api;
    if sockets < config.limits.connections {
        tracing::info!(
            "{most} file descriptors are allowed: {sockets} connections, fewer than limits.connections = {}",
            config.limits.connections
        );
    }
    Ok(DescriptorShare { sockets, api })
}
