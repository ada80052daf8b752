//! What the kernel says of processes: the server's CPU time and memory, this program's own threads.
//!
//! Reads /proc and nothing else. Called by `run` at the edges of a measurement.

use std::fs;

use serde::Serialize;

/// A process's memory, in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// Resident.
    pub rss: u64,
    /// Resident and of this process alone.
    pub private: u64,
    /// Anonymous: heap and stacks, no files.
    pub anonymous: u64,
}

/// The process exists and its files may be read.
pub fn readable(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok()
}

/// CPU time of all threads of `pid`, in nanoseconds. Threads that end meanwhile are lost to the exact
/// counters, so a process that loses threads should be measured over its steady time only.
pub fn cpu_time(pid: u32) -> Option<u64> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        match fs::read_to_string(task.path().join("schedstat")) {
            Ok(text) => total += first_numbers(&text)?.0,
            // A kernel without scheduler statistics: whole ticks of 10 ms.
            Err(_) if task.path().exists() => return cpu_ticks(pid),
            Err(_) => {}
        }
    }
    Some(total)
}

fn cpu_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * 1_000_000_000 / rustix::param::clock_ticks_per_second())
}

fn first_numbers(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// What the calling thread used: nanoseconds on a CPU, and ready to run but waiting for one.
pub fn this_thread() -> (u64, u64) {
    let text = fs::read_to_string("/proc/thread-self/schedstat");
    let waited = text.ok().and_then(|text| first_numbers(&text));
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let used = used.tv_sec as u64 * 1_000_000_000 + used.tv_nsec as u64;
    (used, waited.unwrap_or_default().1)
}

/// The memory of `pid`.
pub fn memory(pid: u32) -> Option<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    Some(parse_rollup(&text))
}

fn parse_rollup(text: &str) -> Memory {
    let mut memory = Memory::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(kilobytes)) = (words.next(), words.next()) else {
            continue;
        };
        let bytes = kilobytes.parse::<u64>().unwrap_or_default() * 1024;
        match name {
            "Rss:" => memory.rss = bytes,
            "Private_Clean:" | "Private_Dirty:" => memory.private += bytes,
            "Anonymous:" => memory.anonymous = bytes,
            _ => {}
        }
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        assert!(readable(pid));
        let before = cpu_time(pid).unwrap();
        let mut sum = 0u64;
        for i in 0..20_000_000u64 {
            sum = std::hint::black_box(sum ^ i);
        }
        assert!(cpu_time(pid).unwrap() > before);
        assert!(cpu_ticks(pid).is_some());
        assert!(memory(pid).unwrap().rss > 0);
        assert!(this_thread().0 > 0);
    }

    #[test]
    fn a_rollup_is_read() {
        let text = "55-7f ---p 00000000 00:00 0 [rollup]\nRss:  100 kB\nPrivate_Clean: 1 kB\n\
                    Private_Dirty: 2 kB\nAnonymous: 40 kB\n";
        let memory = parse_rollup(text);
        assert_eq!(
            (memory.rss, memory.private, memory.anonymous),
            (102_400, 3_072, 40_960)
        );
    }
}
