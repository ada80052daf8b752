//! The orderly end: first the HTTP API stops taking requests and the shards answer those under way, then the shards say
//! goodbye to their clients, then the API's thread ends.

use std::time::{Duration, Instant};

use crate::boot::error::BootError;
use crate::boot::threads::ShardThread;
use crate::control::Control;
use crate::io::commands::ShardCommand;
use crate::io::socket_file::SocketFile;

/// How long a shard's thread may take to end after its patience is over.
const OVERTIME: Duration = Duration::from_secs(3);
/// How often `end` looks whether a shard's thread has ended.
const LOOK: Duration = Duration::from_millis(2);

/// Ends the API and all shards within `patience`. `socket_files` are removed as soon as the shards stop accepting, so
/// that a successor can bind the same paths at once.
///
/// # Errors
/// [`BootError::Stuck`] if a shard does not end, [`BootError::Shard`] if its thread panicked.
pub(super) fn end(
    patience: Duration,
    shards: Vec<ShardThread>,
    control: Option<Control>,
    socket_files: Vec<SocketFile>,
) -> Result<(), BootError> {
    let end = Instant::now() + patience;
    if let Some(control) = &control {
        control.drain();
        // Publishes that wait for their batch window are answered now.
        shards.iter().for_each(|shard| shard.tell(ShardCommand::EndWindows));
        control.wait_until_idle(patience / 2);
    }
    let left = end.saturating_duration_since(Instant::now());
    shards.iter().for_each(|shard| shard.tell(ShardCommand::Drain(left)));
    drop(socket_files);
    for (number, shard) in shards.into_iter().enumerate() {
        let thread = shard.into_thread();
        while !thread.is_finished() {
            if Instant::now() > end + OVERTIME {
                return Err(BootError::Stuck(number));
            }
            std::thread::sleep(LOOK);
        }
        thread.join().map_err(|_| BootError::Shard(number))?;
    }
    if let Some(control) = control {
        control.stop(end);
    }
    Ok(())
}
