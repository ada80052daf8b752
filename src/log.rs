//! The way of log lines to stderr: a bounded queue, and a thread that writes, so that logging never delays a shard. A line
//! is lost and counted if the queue is full or stderr fails. `main` sets this up, and the metrics show the count.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// The number of lines that were lost.
#[derive(Clone, Debug)]
pub struct LostLines {
    /// Counts lines that found the queue full.
    queued: ErrorCounter,
    /// The number of lines that could not be written.
    refused: Arc<AtomicU64>,
}

impl LostLines {
    /// The number of lost lines since the process started.
    pub fn count(&self) -> u64 {
        self.queued.dropped_lines() as u64 + self.refused.load(Ordering::Relaxed)
    }
}

/// A queue of at most `lines` lines, and a thread that writes them to `to`. Dropping the guard writes the waiting lines, for
/// at most one second.
pub fn queue(to: impl Write + Send + 'static, lines: usize) -> (NonBlocking, WorkerGuard, LostLines) {
    let refused = Arc::new(AtomicU64::new(0));
    let writer = Counted { to, refused: Arc::clone(&refused) };
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(lines).thread_name("log");
    let (queue, guard) = builder.finish(writer);
    let queued = queue.error_counter();
    (queue, guard, LostLines { queued, refused })
}

/// Counts lines that cannot be written, because the queue's thread ignores the error.
struct Counted<W> {
    to: W,
    refused: Arc<AtomicU64>,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes)
    }

    /// Writes one line, and counts it if that fails.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        self.to.write_all(line).inspect_err(|_| {
            self.refused.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// A writer that takes a line, and then blocks until the test releases it.
    struct Stuck {
        taken: SyncSender<()>,
        go_on: Receiver<()>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.taken.send(()).map_err(io::Error::other)?;
            self.go_on.recv().map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_finds_no_room_is_lost_and_counted() {
        let ((taken, has_taken), (release, go_on)) = (sync_channel(0), sync_channel(9));
        let (mut lines, guard, lost) = queue(Stuck { taken, go_on }, 3);
        lines.write_all(b"the writer has it\n").expect("never fails");
        has_taken.recv().expect("a line");
        for _ in 0..8 {
            lines.write_all(b"3 wait, 5 are lost\n").expect("never fails");
        }
        assert_eq!(lost.count(), 5);
        for _ in 0..3 {
            release.send(()).expect("there");
            has_taken.recv().expect("a line");
        }
        release.send(()).expect("there");
        drop(guard);
        assert_eq!(lost.count(), 5);
    }

    #[test]
    fn what_is_refused_is_lost_and_counted() {
        let full = OpenOptions::new().write(true).open("/dev/full").expect("a device");
        let (mut lines, guard, lost) = queue(full, 100);
        for _ in 0..7 {
            lines.write_all(b"no space left on device\n").expect("never fails");
        }
        drop(guard);
        assert_eq!(lost.count(), 7);
    }
}
