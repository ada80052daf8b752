//! What the start asks of the kernel before anything runs: whether io_uring can be used, and small memory pages. The
//! probe itself is `io::driver`'s; this file decides what its answer means.

use crate::boot::error::BootError;
use crate::config::DriverChoice;
use crate::io::driver::{self, Driver};

/// The driver of the shards' event loops: the configured one, or with `auto` the best that this kernel allows.
///
/// # Errors
/// [`BootError::Uring`] if io_uring is configured and cannot be used.
pub(super) fn choose_driver(configured: DriverChoice) -> Result<Driver, BootError> {
    let probe = || driver::probe_uring().map_err(|cause| BootError::Uring { hint: cause.hint(), cause });
    match configured {
        DriverChoice::Epoll => Ok(Driver::Epoll),
        DriverChoice::IoUring => probe().map(|()| Driver::IoUring),
        DriverChoice::Auto => match driver::probe_uring() {
            Ok(()) => Ok(Driver::IoUring),
            Err(fault) => {
                tracing::warn!(
                    "io_uring cannot be used, so this server uses epoll, which needs more CPU time: {fault}. {}. Set \
                     driver = \"epoll\" to silence this warning",
                    fault.hint()
                );
                Ok(Driver::Epoll)
            }
        },
    }
}

/// Asks the kernel for small pages only. The heap holds many small objects that come and go; with transparent huge
/// pages one object keeps a whole 2 MiB page. 8,000 idle connections took 2.7 KB each with huge pages, and 1.1 KB
/// without.
pub(super) fn disable_huge_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "transparent huge pages stay on");
    }
}
