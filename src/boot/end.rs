//! The orderly end: first the HTTP API stops taking requests and those under way are answered, then the shards say goodbye
//! to their clients, then the control thread ends.

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
    drain_api(&shards, Instant::now() + patience / 2);
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
        control.stop();
    }
    Ok(())
}

/// Has the API refuse requests, and waits until those under way are answered, at most until a moment.
fn drain_api(shards: &[ShardThread], until: Instant) {
    ask_all(shards, until, ShardCommand::DrainApi);
    // Publishes that wait for their batch window are answered now.
    shards.iter().for_each(|shard| shard.tell(ShardCommand::EndWindows));
    while Instant::now() < until && !ask_all(shards, until, ShardCommand::IsApiIdle).into_iter().all(|is_idle| is_idle)
    {
        std::thread::sleep(LOOK);
    }
}

/// Asks every shard, and waits for the answers until a moment. A shard that has ended gives none.
fn ask_all<R>(shards: &[ShardThread], until: Instant, command: fn(flume::Sender<R>) -> ShardCommand) -> Vec<R> {
    let asked = shards.iter().map(|shard| {
        let (reply, answer) = flume::bounded(1);
        shard.tell(command(reply));
        answer
    });
    let answers: Vec<_> = asked.collect();
    answers.into_iter().filter_map(|answer| answer.recv_deadline(until).ok()).collect()
}
