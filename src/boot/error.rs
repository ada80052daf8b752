//! Why the server cannot start or had to stop. Each message says what failed, why, and what to do about it. Every other
//! file of `boot` uses this one, and this one uses none of them.

use std::io;

use crate::config::{ConfigError, ListenAddr};
use crate::io::driver::UringFault;

/// Why the server cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A mistake in the configuration, or in a file that it names.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be bound.
    #[error("cannot listen on {addr}{}: {cause}{}", key_hint(.key), listen_hint(.addr, .cause))]
    Listen {
        /// The configuration key that names the address.
        key: &'static str,
        /// The address as it was configured.
        addr: ListenAddr,
        /// The error that the kernel returned.
        cause: io::Error,
    },
    /// `driver = "io_uring"` is configured and the kernel does not allow io_uring.
    #[error("io_uring cannot be used: {cause}. {hint}. Or set driver = \"auto\", which falls back to epoll")]
    Uring {
        /// The part of io_uring that is missing.
        cause: UringFault,
        /// The setting of the machine that would allow it.
        hint: String,
    },
    /// A shard's event loop did not begin to turn.
    #[error("a shard cannot serve with {driver}: {cause}")]
    Driver {
        /// The driver's name: `io_uring` or `epoll`.
        driver: &'static str,
        /// The kernel's error, or that the loop did not turn in time.
        cause: io::Error,
    },
    /// The process may not open enough files for its shards.
    #[error(
        "only {limit} file descriptors are allowed and {needed} are needed for {shards} shards alone: raise the \
         limit (ulimit -n, or LimitNOFILE in a systemd unit; see tuning/)"
    )]
    Descriptors {
        /// The hard limit of this process.
        limit: u64,
        /// The least that the shards need, without any connection.
        needed: u64,
        /// The number of shards.
        shards: usize,
    },
    /// Anything else that the kernel refused.
    #[error("{what}: {cause}")]
    System {
        /// The step that failed.
        what: &'static str,
        /// The error that the kernel returned.
        cause: io::Error,
    },
    /// A shard's thread ended by a panic.
    #[error("shard {0} failed; the log says why")]
    Shard(usize),
    /// A shard's thread did not end in time.
    #[error("shard {0} did not end in time, so the process ends without waiting for it")]
    Stuck(usize),
}

impl BootError {
    /// Makes an error of the step `what` from what the kernel says: for `map_err`.
    pub(super) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::System { what, cause }
    }
}

/// Names the configuration key, unless it is `listen`, which everybody knows.
fn key_hint(key: &str) -> String {
    match key {
        "listen" => String::new(),
        "http.listen" => format!(" for the HTTP API ({key})"),
        key => format!(" for TLS ({key})"),
    }
}

fn listen_hint(addr: &ListenAddr, error: &io::Error) -> &'static str {
    match (addr, error.kind()) {
        (ListenAddr::Tcp(_), io::ErrorKind::AddrInUse) => {
            " (another program listens there; --listen ADDR:PORT chooses another address)"
        }
        (ListenAddr::Tcp(_), io::ErrorKind::PermissionDenied) => {
            " (ports below 1024 need the capability CAP_NET_BIND_SERVICE)"
        }
        (ListenAddr::Tcp(_), io::ErrorKind::AddrNotAvailable) => " (this machine has no such address)",
        (ListenAddr::Unix(_), io::ErrorKind::AddrInUse) => " (a running server listens there)",
        (ListenAddr::Unix(_), io::ErrorKind::NotFound) => " (its folder must exist)",
        (ListenAddr::Unix(_), io::ErrorKind::PermissionDenied) => {
            " (the server's user must be allowed to write to its folder)"
        }
        _ => "",
    }
}
