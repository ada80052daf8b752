//! How much memory the process may have and has. `MemoryWatch` looks four times a second, on a thread of its own, and tells the
//! limits' guard when it gets short: nothing new is taken, and what is there gives way (docs/limits.md). It also has the
//! allocator give back what is free. Started by `server`. Knows the kernel's files, not what memory is used for.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::limits::Guard;

/// How often it looks. Clients that don't read can make it grow by some 100 MB in a second.
const INTERVAL: Duration = Duration::from_millis(250);
/// The allocator gives back each so many looks, and while memory is short at each.
const GIVE_BACK_LOOKS: u32 = 4;
/// A round of giving way is begun at each so many looks while memory is short: shards need two of their ticks for it.
const ROUND_LOOKS: u32 = 2;
/// What is there gives way until so much of the bound is left in use, in percent.
const TARGET: u64 = 90;
/// Of what the machine or the cgroup has, in percent, if nothing else is configured.
const SHARE: u64 = 80;
/// Memory is short above the bound, and enough again below so much of it, in percent.
const ENOUGH: u64 = 95;

/// The bound in force, in bytes: what is configured, or a share of what there is. `None`: it is switched off, or the
/// kernel doesn't tell.
pub fn bound(configured: Option<u64>) -> Option<u64> {
    match configured {
        Some(0) => None,
        Some(bytes) => Some(bytes),
        None => available().map(|bytes| bytes / 100 * SHARE),
    }
}

/// The least of the machine's memory and of what the process's cgroup, and the groups above it, allow; in bytes.
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

/// Resident memory of this process, in bytes.
fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// The thread that looks.
#[derive(Debug)]
pub struct MemoryWatch {
    end: Sender<()>,
    thread: JoinHandle<()>,
}

impl MemoryWatch {
    /// Starts looking: more than `bound` bytes are too much, if there is a bound. `give_back` has the allocator return
    /// to the kernel what the process doesn't use: by itself it does so along with its other work only, and after a burst
    /// an idle server would keep all that the burst took, and one that is short of memory would stay so.
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub fn start(bound: Option<u64>, guard: Arc<Guard>, give_back: fn()) -> io::Result<Self> {
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

    /// Ends the thread.
    pub fn stop(self) {
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
            "memory is short: no new connections or channels, and the largest queues give way (limits.memory_bytes)"
        );
    } else {
        tracing::info!(resident_mib, bound_mib, "memory is enough again: new connections and channels are taken");
    }
}

/// How much has to be freed.
fn excess(resident: u64, bound: u64) -> u64 {
    resident.saturating_sub(bound / 100 * TARGET)
}

/// With some play, so that it doesn't go to and fro.
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
