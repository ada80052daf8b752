//! File descriptors: how many the process needs for itself, and how the others are divided between clients' connections
//! and those of the API, so that neither can use up the other's. `doctor` uses this file too.

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::boot::error::BootError;
use crate::config::Config;

/// Descriptors that each shard needs beside its connections.
const PER_SHARD: u64 = 8;
/// Descriptors that the process needs beside those of shards and connections.
const OF_PROCESS: u64 = 32;

/// Descriptors that the process needs beside one for each connection.
pub(crate) fn needed(shards: u64) -> u64 {
    OF_PROCESS + PER_SHARD * shards
}

/// Descriptors for connections of the API that give way: each keeps its descriptor until its task has run.
const OF_LEAVING: usize = 16;

/// The descriptors that are kept for the API's connections, out of those that the process does not need itself.
/// `connections` is `limits.api_connections`.
pub(crate) fn of_api(connections: usize, left: usize) -> usize {
    connections.saturating_add(OF_LEAVING).min(left / 4)
}

/// How many connections the API may have, given the number of descriptors.
pub(super) fn api_places(descriptors: usize) -> usize {
    descriptors - OF_LEAVING.min(descriptors / 4)
}

/// How the descriptors that the process does not need itself are divided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DescriptorShare {
    /// Descriptors for clients' connections.
    pub(crate) sockets: usize,
    /// Descriptors for the API's connections.
    pub(crate) api: usize,
}

/// Raises the limit of descriptors as far as the process may, and divides them.
///
/// # Errors
/// When they are too few for the process itself, or the kernel refuses to raise the limit.
pub(crate) fn share_out(shards: usize, config: &Config) -> Result<DescriptorShare, BootError> {
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
    let api = if config.http.listener().is_some() { of_api(config.limits.api_connections, left) } else { 0 };
    let sockets = left - api;
    if sockets < config.limits.connections {
        tracing::info!(
            "{most} file descriptors are allowed, so there can be {sockets} connections, fewer than limits.connections = {}",
            config.limits.connections
        );
    }
    Ok(DescriptorShare { sockets, api })
}
