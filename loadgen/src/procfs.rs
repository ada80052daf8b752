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

/// A process's CPU time so far, in nanoseconds, counted twice.
#[derive(Clone, Copy, Debug)]
pub struct CpuTime {
    /// Exact, but only of the threads that are still there; none without scheduler statistics.
    threads: Option<u64>,
    /// Of all threads there ever were, in whole ticks of 10 ms.
    process: u64,
    /// How long the threads that are still there were ready to run and had no CPU.
    waited: u64,
}

impl CpuTime {
    /// What was used since `earlier`: exact unless threads ended meanwhile.
    pub fn since(&self, earlier: &Self) -> u64 {
        let ticks = self.process.saturating_sub(earlier.process);
        let exact = self.threads.zip(earlier.threads);
        let exact = exact.and_then(|(now, before)| now.checked_sub(before));
        match exact {
            // Two reads may each be a tick off, and a running thread's time is a little late.
            Some(exact) if exact.abs_diff(ticks) <= 30_000_000 + ticks / 50 => exact,
            _ => ticks,
        }
    }

    /// How long threads were ready to run without a CPU since `earlier`, all of them together.
    pub fn waited_since(&self, earlier: &Self) -> u64 {
        self.waited.saturating_sub(earlier.waited)
    }
}

/// `pid` and all its descendants.
fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(parent) = all.get(at).copied() {
        at += 1;
        let Ok(tasks) = fs::read_dir(format!("/proc/{parent}/task")) else {
            continue;
        };
        for task in tasks.flatten() {
            // Kernels without this file have no children to tell of: then it is the process alone.
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    all
}

/// The CPU time of `pid` and its descendants.
pub fn cpu_time(pid: u32) -> Option<CpuTime> {
    let mut all = CpuTime { threads: Some(0), process: cpu_ticks(pid)?, waited: 0 };
    for (i, each) in tree(pid).into_iter().enumerate() {
        let threads = threads_time(each);
        all.threads = all.threads.zip(threads).map(|(sum, (used, _))| sum + used);
        all.waited += threads.map_or(0, |(_, waited)| waited);
        all.process += if i == 0 { 0 } else { cpu_ticks(each).unwrap_or_default() };
    }
    Some(all)
}

/// What all threads of `pid` used, and how long they waited for a CPU.
fn threads_time(pid: u32) -> Option<(u64, u64)> {
    let mut total = (0, 0);
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        match fs::read_to_string(task.path().join("schedstat")) {
            Ok(text) => {
                let (used, waited) = first_numbers(&text)?;
                total = (total.0 + used, total.1 + waited);
            }
            Err(_) if task.path().exists() => return None,
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

/// How some CPUs spent their time, in nanoseconds, all of them together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreTime {
    /// In programs.
    pub user: u64,
    /// In the kernel, for programs and for its own threads, ksoftirqd among them.
    pub system: u64,
    /// In interrupts and what they leave to be done behind them.
    pub interrupts: u64,
    /// In nothing.
    pub idle: u64,
}

impl CoreTime {
    /// What was spent since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
            interrupts: self.interrupts.saturating_sub(earlier.interrupts),
            idle: self.idle.saturating_sub(earlier.idle),
        }
    }

    /// Time in anything.
    pub fn busy(&self) -> u64 {
        self.user + self.system + self.interrupts
    }
}

/// The CPUs that `pid` is kept on; none if it may run on all of them.
pub fn kept_on(pid: u32) -> Option<Vec<usize>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut cpus = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?);
    }
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let there = |cpu: &usize| stat.lines().any(|line| line.starts_with(&format!("cpu{cpu} ")));
    cpus.retain(there);
    let all = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count();
    (cpus.len() < all).then_some(cpus)
}

/// How `cpus` spent their time so far.
pub fn core_time(cpus: &[usize]) -> Option<CoreTime> {
    sum_of_cores(&fs::read_to_string("/proc/stat").ok()?, cpus)
}

fn sum_of_cores(stat: &str, cpus: &[usize]) -> Option<CoreTime> {
    let mut all = CoreTime::default();
    for cpu in cpus {
        let line = stat.lines().find_map(|line| line.strip_prefix(&format!("cpu{cpu} ")))?;
        let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let at = |places: &[usize]| {
            let ticks: u64 = places.iter().filter_map(|place| ticks.get(*place)).sum();
            ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second()
        };
        // user nice system idle iowait irq softirq
        all.user += at(&[0, 1]);
        all.system += at(&[2]);
        all.interrupts += at(&[5, 6]);
        all.idle += at(&[3, 4]);
    }
    Some(all)
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

/// The memory of `pid` and its descendants.
pub fn memory(pid: u32) -> Option<Memory> {
    let mut all = None;
    for each in tree(pid) {
        let Ok(text) = fs::read_to_string(format!("/proc/{each}/smaps_rollup")) else {
            continue;
        };
        let (sum, memory): (&mut Memory, _) = (all.get_or_insert_default(), parse_rollup(&text));
        sum.rss += memory.rss;
        sum.private += memory.private;
        sum.anonymous += memory.anonymous;
    }
    all
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
        assert!(cpu_time(pid).is_some());
        assert!(memory(pid).unwrap().rss > 0);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(tree(pid).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(this_thread().0 > 0);
    }

    #[test]
    fn threads_that_end_are_not_forgotten() {
        let at = |threads, process| CpuTime { threads, process, waited: 0 };
        let second = 1_000_000_000;
        let exact = at(Some(1_234), 0).since(&at(Some(1_000), 0));
        assert_eq!(exact, 234);
        let shrunk = at(Some(5), second).since(&at(Some(second), 0));
        assert_eq!(shrunk, second);
        let partly = at(Some(second / 2), second).since(&at(Some(0), 0));
        assert_eq!(partly, second);
        assert_eq!(at(None, second).since(&at(None, 0)), second);
    }

    #[test]
    fn the_time_of_chosen_cpus_is_added_up() {
        let stat = "cpu  9 9 9 9 9 9 9\ncpu0 1 2 3 4 5 6 7 0\ncpu1 10 20 30 40 50 60 70 0\ncpu10 1 1 1 1 1 1 1\n";
        let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second();
        let one = sum_of_cores(stat, &[1]).unwrap();
        assert_eq!((one.user, one.system, one.interrupts, one.idle), (30 * tick, 30 * tick, 130 * tick, 90 * tick));
        let both = sum_of_cores(stat, &[0, 1]).unwrap();
        assert_eq!((both.since(&one).busy(), both.busy()), (19 * tick, 209 * tick));
        assert_eq!(sum_of_cores(stat, &[2]), None);
    }

    #[test]
    fn a_rollup_is_read() {
        let text = "55-7f ---p 00000000 00:00 0 [rollup]\nRss:  100 kB\nPrivate_Clean: 1 kB\n\
                    Private_Dirty: 2 kB\nAnonymous: 40 kB\n";
        let memory = parse_rollup(text);
        assert_eq!((memory.rss, memory.private, memory.anonymous), (102_400, 3_072, 40_960));
    }
}
