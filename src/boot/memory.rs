//! How much memory the process may have and has. [`MemoryWatch`] looks four times a second, on a thread of its own. While
//! memory is short it tells the limits' guard, which refuses new connections and channels and gives up queues and histories
//! (docs/limits.md). It also makes the allocator return free memory to the kernel.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::limits::Guard;

/// How often the thread looks. Clients that do not read can make memory grow by about 100 MB in a second.
const INTERVAL: Duration = Duration::from_millis(250);
/// The allocator returns free memory once in this many looks, and at each look while memory is short.
const GIVE_BACK_LOOKS: u32 = 4;
/// While memory is short, a round of giving up memory begins once in this many looks. Shards need two ticks for it.
const ROUND_LOOKS: u32 = 2;
/// The share of the bound to which queues and histories are given up, in percent.
const TARGET: u64 = 90;
/// The default bound, as a share of the memory of the machine or the cgroup, in percent.
const SHARE: u64 = 80;
/// The share of the bound below which memory is enough again, in percent.
const ENOUGH: u64 = 95;

/// The bound in bytes: the configured one, or a share of the available memory. `None` if it is switched off, or the kernel
/// does not report how much memory there is.
pub(crate) fn bound(configured: Option<u64>) -> Option<u64> {
    match configured {
        Some(0) => None,
        Some(bytes) => Some(bytes),
        None => available().map(|bytes| bytes / 100 * SHARE),
    }
}

/// The available memory in bytes: the machine's, or the limit of the process's cgroup or of a group above it if that is
/// less.
fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_total(&text));
    [machine, cgroup_limit()].into_iter().flatten().min()
}

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn cgroup_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut least = None;
    for line in groups.lines() {
        let (root, path, file) = match line.split_once(":memory:") {
            Some((_, path)) => ("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes"),
            None => match line.strip_prefix("0::") {
                Some(path) => ("/sys/fs/cgroup", path, "memory.max"),
                None => continue,
            },
        };
        let mut group = path.trim_end_matches('/');
        loop {
            let text = fs::read_to_string(format!("{root}{group}/{file}")).ok();
            let limit = text.and_then(|text| text.trim().parse::<u64>().ok());
            least = [least, limit].into_iter().flatten().min();
            let Some((parent, _)) = group.rsplit_once('/') else { break };
            group = parent;
        }
    }
    least
}

/// The resident memory of this process, in bytes.
fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// The thread that watches memory.
#[derive(Debug)]
pub(crate) struct MemoryWatch {
    end: Sender<()>,
    thread: JoinHandle<()>,
}

impl MemoryWatch {
    /// Starts watching. Memory is short above `bound` bytes, if there is a bound. `give_back` makes the allocator return
    /// free memory to the kernel. By itself the allocator does so only during other work, so an idle server would keep the
    /// memory of its last burst.
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub(crate) fn start(bound: Option<u64>, guard: Arc<Guard>, give_back: fn()) -> io::Result<Self> {
        let (end, ended) = channel();
        let body = move || {
            let (mut short, mut looks) = (false, 0u32);
            while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                looks = if short { looks + 1 } else { (looks + 1) % GIVE_BACK_LOOKS };
                if short || looks == 0 {
                    give_back();
                }
                let (Some(bound), Some(resident)) = (bound, resident()) else { continue };
                let now_short = is_short(short, resident, bound);
                if now_short != short {
                    tell(now_short, resident, bound);
                    looks = 0;
                }
                short = now_short;
                guard.set_short_of_memory(short);
                if short && looks.is_multiple_of(ROUND_LOOKS) {
                    guard.relief().begin(excess(resident, bound));
                }
            }
        };
        let thread = std::thread::Builder::new().name("memory".to_owned()).spawn(body)?;
        Ok(Self { end, thread })
    }

    /// Ends the thread and waits for it.
    pub(crate) fn stop(self) {
        drop(self.end);
        if self.thread.join().is_err() {
            tracing::error!("the thread that watches memory failed");
        }
    }
}

fn tell(short: bool, resident: u64, bound: u64) {
    let (resident_mib, bound_mib) = (resident >> 20, bound >> 20);
    if short {
        tracing::warn!(
            resident_mib,
            bound_mib,
            "memory is short: new connections and channels are refused, and the largest queues are given up (limits.memory_bytes)"
        );
    } else {
        tracing::info!(resident_mib, bound_mib, "memory is enough again: new connections and channels are accepted");
    }
}

/// The number of bytes to free.
fn excess(resident: u64, bound: u64) -> u64 {
    resident.saturating_sub(bound / 100 * TARGET)
}

/// Whether memory is short. The two thresholds differ, so that the answer does not change with every look.
fn is_short(was: bool, resident: u64, bound: u64) -> bool {
    let above = if was { bound / 100 * ENOUGH } else { bound };
    resident > above
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_above_the_bound_and_enough_below_a_part_of_it() {
        assert!(!is_short(false, 1_000, 1_000) && is_short(false, 1_001, 1_000));
        assert!(is_short(true, 951, 1_000) && !is_short(true, 950, 1_000));
    }

    #[test]
    fn the_kernel_tells() {
        assert_eq!(mem_total("MemTotal:       16 kB\nMemFree: 1 kB\n"), Some(16 * 1024));
        assert!(resident().expect("a number") > 1 << 20);
        assert!(bound(None).expect("a machine has memory") > resident().expect("a number"));
        assert_eq!((bound(Some(0)), bound(Some(7))), (None, Some(7)));
    }
}
