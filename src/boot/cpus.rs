//! The CPUs that this process may use, by its affinity mask and the quota of its cgroup, and the number of shards that fit
//! them. Also pins a thread to a CPU. `doctor` uses this file too.

use std::fs;
use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The most shards that are started by default.
const SHARDS_MAX: usize = 256;

/// The CPUs in the affinity mask, in ascending order. There is at least one.
///
/// # Errors
/// When the kernel does not report the mask.
pub(crate) fn usable() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect();
    if cpus.is_empty() { Err(io::Error::other("the affinity mask is empty")) } else { Ok(cpus) }
}

/// The number of shards for these CPUs, within the cgroup's quota.
pub(crate) fn shards_for(cpus: &[usize]) -> usize {
    shards_within(cpus.len(), quota_of_this_process().map(|cpus| cpus as u64 * 1_000))
}

/// The number of shards for this many usable CPUs, with a quota in thousandths of a CPU; `None` is no quota.
pub(crate) fn shards_within(cpus: usize, quota: Option<u64>) -> usize {
    let whole = quota.map_or(usize::MAX, |share| usize::try_from(share.div_ceil(1_000)).unwrap_or(usize::MAX));
    cpus.min(whole).clamp(1, SHARDS_MAX)
}

/// Pins the calling thread to one CPU.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// The number of CPUs that the quotas of the process's cgroup v2 and of the groups above it allow.
fn quota_of_this_process() -> Option<usize> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut least = None;
    let mut group = path.trim_end_matches('/');
    loop {
        let file = format!("/sys/fs/cgroup{group}/cpu.max");
        let quota = fs::read_to_string(file).ok().and_then(|text| parse_quota(&text));
        least = [least, quota].into_iter().flatten().min();
        let Some((parent, _)) = group.rsplit_once('/') else { return least };
        group = parent;
    }
}

/// Parses `cpu.max`: "QUOTA PERIOD" in microseconds, or "max PERIOD". A part of a CPU counts as a whole one.
fn parse_quota(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    if period == 0 { None } else { usize::try_from(quota.div_ceil(period).max(1)).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_rounded_up_to_whole_cpus() {
        assert_eq!(parse_quota("max 100000\n"), None);
        assert_eq!(parse_quota("200000 100000\n"), Some(2));
        assert_eq!(parse_quota("150000 100000\n"), Some(2));
        assert_eq!(parse_quota("1000 100000\n"), Some(1));
        assert_eq!(parse_quota("nonsense"), None);
    }

    #[test]
    fn there_is_a_usable_cpu_and_a_shard_for_it() {
        let cpus = usable().expect("an affinity mask");
        assert!(!cpus.is_empty());
        assert!((1..=cpus.len()).contains(&shards_for(&cpus)));
    }
}
