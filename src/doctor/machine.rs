//! The facts about a machine that the checks need, as plain data, read once from /proc and /sys. A fact that cannot be read
//! or parsed is `None`. Only this file of `doctor` touches the machine; it judges nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::thread::Pid;

use crate::io::driver;

/// A limit of a process. `u64::MAX` means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessLimit {
    /// The limit that is in force.
    pub(crate) soft: u64,
    /// The limit that the process may raise it to.
    pub(crate) hard: u64,
}

/// Whether an io_uring can be set up as the shards do it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Uring {
    /// Not tried, because another machine's files are read.
    #[default]
    NotTried,
    /// The kernel has everything that the server needs.
    Works,
    /// The kernel refused something, with its answer.
    Fails(String),
}

/// The limits of the process's control group, or of a group above it if that is lower.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cgroup {
    /// The limit of memory, in bytes.
    pub(crate) memory_bytes: Option<u64>,
    /// The most processes and threads.
    pub(crate) pids: Option<u64>,
    /// The quota of CPU time, in thousandths of a CPU.
    pub(crate) cpus: Option<u64>,
}

/// A network interface with hardware behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nic {
    /// The name that `ip link` shows.
    pub(crate) name: String,
    /// The number of receive queues.
    pub(crate) rx_queues: u64,
    /// The number of transmit queues.
    pub(crate) tx_queues: u64,
    /// The number of receive queues that pass packets on to other CPUs.
    pub(crate) rps_queues: u64,
}

/// What is known about a machine and about the process that is checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    /// The major and minor version of the kernel.
    pub(crate) kernel: Option<(u32, u32)>,
    /// The size of a memory page, in bytes.
    pub(crate) page_bytes: u64,
    /// Whether an io_uring can be set up.
    pub(crate) uring: Uring,
    /// The sysctl `kernel.io_uring_disabled`, which exists since Linux 6.6.
    pub(crate) uring_disabled: Option<u64>,
    /// Whether the process has a seccomp filter.
    pub(crate) seccomp: Option<bool>,
    /// The limit of open files.
    pub(crate) files: Option<ProcessLimit>,
    /// The limit of locked memory, in bytes.
    pub(crate) memlock: Option<ProcessLimit>,
    /// The sysctl `fs.epoll.max_user_watches`.
    pub(crate) epoll_watches: Option<u64>,
    /// The sysctl `fs.nr_open`.
    pub(crate) nr_open: Option<u64>,
    /// The sysctl `fs.file-max`.
    pub(crate) file_max: Option<u64>,
    /// The number of files that all processes have open.
    pub(crate) files_open: Option<u64>,
    /// The CPUs that the affinity mask allows.
    pub(crate) cpus: Option<Vec<usize>>,
    /// The CPUs that are online.
    pub(crate) online: Option<Vec<usize>>,
    /// The limits of the process's control group.
    pub(crate) cgroup: Cgroup,
    /// The machine's memory, in bytes.
    pub(crate) memory_bytes: Option<u64>,
    /// The machine's swap space, in bytes.
    pub(crate) swap_bytes: Option<u64>,
    /// The sysctl `vm.swappiness`.
    pub(crate) swappiness: Option<u64>,
    /// The sysctl `vm.overcommit_memory`.
    pub(crate) overcommit: Option<u64>,
    /// The mode of transparent huge pages: the word in brackets.
    pub(crate) huge_pages: Option<String>,
    /// The clock source in use.
    pub(crate) clock: Option<String>,
    /// The frequency governors of the CPUs, each once. Empty if nothing scales the frequency.
    pub(crate) governors: Option<Vec<String>>,
    /// The sysctl `net.core.somaxconn`.
    pub(crate) somaxconn: Option<u64>,
    /// The sysctl `net.ipv4.tcp_max_syn_backlog`.
    pub(crate) syn_backlog: Option<u64>,
    /// The sysctl `net.ipv4.tcp_syncookies`.
    pub(crate) syncookies: Option<u64>,
    /// The sysctl `net.ipv4.ip_local_port_range`.
    pub(crate) ports: Option<[u64; 2]>,
    /// The sysctl `net.ipv4.tcp_mem`, in pages.
    pub(crate) tcp_mem: Option<[u64; 3]>,
    /// The sysctl `net.ipv4.tcp_rmem`, in bytes.
    pub(crate) tcp_rmem: Option<[u64; 3]>,
    /// The sysctl `net.ipv4.tcp_wmem`, in bytes.
    pub(crate) tcp_wmem: Option<[u64; 3]>,
    /// The sysctl `net.ipv4.tcp_slow_start_after_idle`.
    pub(crate) slow_start_after_idle: Option<u64>,
    /// The sysctl `net.netfilter.nf_conntrack_max`; `None` if the module is not loaded.
    pub(crate) conntrack_max: Option<u64>,
    /// The network interfaces; `None` if they cannot be listed.
    pub(crate) nics: Option<Vec<Nic>>,
}

impl Machine {
    /// Reads this machine, or the copy of another one below `root`, and the process `pid`, or this one.
    ///
    /// # Errors
    /// When there is no /proc, or no such process.
    pub(crate) fn read(root: Option<&Path>, pid: Option<u32>) -> io::Result<Self> {
        let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let files = Files { root: root.map_or_else(|| PathBuf::from("/"), Path::to_owned), process };
        // This file always exists and is readable. Without it there is nothing to read.
        fs::metadata(files.path("proc/PID/limits")).map_err(|error| {
            let path = files.path("proc/PID/limits");
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        let mut machine = files.machine();
        if root.is_none() {
            machine.uring = try_ring();
            machine.page_bytes = rustix::param::page_size() as u64;
            let of_process = pid.and_then(|pid| Pid::from_raw(pid.cast_signed()));
            if let Ok(set) = rustix::thread::sched_getaffinity(of_process) {
                machine.cpus = Some((0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect());
            }
        }
        Ok(machine)
    }
}

/// Sets up an io_uring as a shard does, and closes it.
fn try_ring() -> Uring {
    match driver::probe_uring() {
        Ok(()) => Uring::Works,
        Err(fault) => Uring::Fails(format!("{fault}. {}", fault.hint())),
    }
}

/// The root folder and the process that files are read of.
struct Files {
    root: PathBuf,
    process: String,
}

impl Files {
    /// The path below the root. `PID` in it stands for the process.
    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.replace("PID", &self.process))
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok().map(|text| text.trim().to_owned())
    }

    fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    fn sysctl<const N: usize>(&self, name: &str) -> Option<[u64; N]> {
        numbers(&self.text(&format!("proc/sys/{name}"))?)?.try_into().ok()
    }

    /// The names in a folder, sorted.
    fn names(&self, folder: &str) -> Option<Vec<String>> {
        let entries = fs::read_dir(self.path(folder)).ok()?;
        let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        Some(names)
    }

    fn machine(&self) -> Machine {
        let memory = self.text("proc/meminfo");
        let memory_bytes = |name| Some(field::<u64>(memory.as_deref()?, name)?.saturating_mul(1_024));
        let status = self.text("proc/PID/status");
        let status = status.as_deref();
        Machine {
            kernel: self.text("proc/sys/kernel/osrelease").as_deref().and_then(version),
            page_bytes: 4_096,
            uring: Uring::NotTried,
            uring_disabled: self.number("proc/sys/kernel/io_uring_disabled"),
            seccomp: status.and_then(|text| field::<u64>(text, "Seccomp")).map(|mode| mode != 0),
            files: self.limit("Max open files"),
            memlock: self.limit("Max locked memory"),
            epoll_watches: self.number("proc/sys/fs/epoll/max_user_watches"),
            nr_open: self.number("proc/sys/fs/nr_open"),
            file_max: self.number("proc/sys/fs/file-max"),
            files_open: self.sysctl::<3>("fs/file-nr").map(|[open, ..]| open),
            cpus: status.and_then(|text| cpu_list(&field::<String>(text, "Cpus_allowed_list")?)),
            online: self.text("sys/devices/system/cpu/online").as_deref().and_then(cpu_list),
            cgroup: self.cgroup(),
            memory_bytes: memory_bytes("MemTotal"),
            swap_bytes: memory_bytes("SwapTotal"),
            swappiness: self.number("proc/sys/vm/swappiness"),
            overcommit: self.number("proc/sys/vm/overcommit_memory"),
            huge_pages: self.text("sys/kernel/mm/transparent_hugepage/enabled").as_deref().and_then(bracketed),
            clock: self.text("sys/devices/system/clocksource/clocksource0/current_clocksource"),
            governors: self.governors(),
            somaxconn: self.number("proc/sys/net/core/somaxconn"),
            syn_backlog: self.number("proc/sys/net/ipv4/tcp_max_syn_backlog"),
            syncookies: self.number("proc/sys/net/ipv4/tcp_syncookies"),
            ports: self.sysctl("net/ipv4/ip_local_port_range"),
            tcp_mem: self.sysctl("net/ipv4/tcp_mem"),
            tcp_rmem: self.sysctl("net/ipv4/tcp_rmem"),
            tcp_wmem: self.sysctl("net/ipv4/tcp_wmem"),
            slow_start_after_idle: self.number("proc/sys/net/ipv4/tcp_slow_start_after_idle"),
            conntrack_max: self.number("proc/sys/net/netfilter/nf_conntrack_max"),
            nics: self.nics(),
        }
    }

    /// A line of /proc/PID/limits: its name, then the soft and the hard limit.
    fn limit(&self, name: &str) -> Option<ProcessLimit> {
        let text = self.text("proc/PID/limits")?;
        let mut words = text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace();
        let mut next = || match words.next()? {
            "unlimited" => Some(u64::MAX),
            number => number.parse().ok(),
        };
        Some(ProcessLimit { soft: next()?, hard: next()? })
    }

    fn governors(&self) -> Option<Vec<String>> {
        let folder = "sys/devices/system/cpu";
        let is_cpu = |name: &String| {
            name.strip_prefix("cpu").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
        };
        let cpus = self.names(folder)?.into_iter().filter(is_cpu);
        let mut governors: Vec<String> =
            cpus.filter_map(|cpu| self.text(&format!("{folder}/{cpu}/cpufreq/scaling_governor"))).collect();
        governors.sort();
        governors.dedup();
        Some(governors)
    }

    /// What both versions of control groups say. A container may see its own group as the root.
    fn cgroup(&self) -> Cgroup {
        let groups = self.text("proc/PID/cgroup").unwrap_or_default();
        let group = |controller: &str| {
            groups.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                controllers.split(',').any(|name| name == controller).then(|| path.trim_end_matches('/').to_owned())
            })
        };
        let (unified, memory, pids, cpu) = (group(""), group("memory"), group("pids"), group("cpu"));
        let least = |mount: &str, path: &Option<String>, read: &dyn Fn(&str) -> Option<u64>| -> Option<u64> {
            let mut path = path.as_deref()?;
            let mut least = read(&format!("{mount}{path}"));
            while let Some((parent, _)) = path.rsplit_once('/') {
                path = parent;
                least = [least, read(&format!("{mount}{path}"))].into_iter().flatten().min();
            }
            least
        };
        let file = |name: &'static str| move |folder: &str| self.number(&format!("{folder}/{name}"));
        let quota = |folder: &str| {
            let text = self.text(&format!("{folder}/cpu.max"))?;
            let (quota, period) = text.split_once(' ')?;
            share(quota.parse().ok()?, period.parse().ok()?)
        };
        let old_quota = |folder: &str| {
            let quota = self.number(&format!("{folder}/cpu.cfs_quota_us"))?;
            share(quota, self.number(&format!("{folder}/cpu.cfs_period_us"))?)
        };
        let both = |new: Option<u64>, old: Option<u64>| [new, old].into_iter().flatten().min();
        let root = "sys/fs/cgroup";
        Cgroup {
            memory_bytes: both(
                least(root, &unified, &file("memory.max")),
                least(&format!("{root}/memory"), &memory, &file("memory.limit_in_bytes")),
            ),
            pids: both(
                least(root, &unified, &file("pids.max")),
                least(&format!("{root}/pids"), &pids, &file("pids.max")),
            ),
            cpus: both(least(root, &unified, &quota), least(&format!("{root}/cpu"), &cpu, &old_quota)),
        }
    }

    fn nics(&self) -> Option<Vec<Nic>> {
        let names = self.names("sys/class/net")?;
        let nics = names.into_iter().filter_map(|name| {
            let folder = format!("sys/class/net/{name}");
            // What has no device behind it, as bridges and lo, has no queues of its own.
            fs::metadata(self.path(&format!("{folder}/device"))).ok()?;
            let queues = self.names(&format!("{folder}/queues"))?;
            let count = |kind: &str| queues.iter().filter(|queue| queue.starts_with(kind)).count() as u64;
            let steers = |queue: &&String| {
                let mask = self.text(&format!("{folder}/queues/{queue}/rps_cpus"));
                mask.is_some_and(|mask| mask.bytes().any(|byte| !b"0,".contains(&byte)))
            };
            let (rx_queues, tx_queues) = (count("rx-"), count("tx-"));
            let rps_queues = queues.iter().filter(steers).count() as u64;
            Some(Nic { name, rx_queues, tx_queues, rps_queues })
        });
        Some(nics.collect())
    }
}

/// Thousandths of a CPU.
fn share(quota_us: u64, period_us: u64) -> Option<u64> {
    quota_us.saturating_mul(1_000).checked_div(period_us)
}

fn numbers(text: &str) -> Option<Vec<u64>> {
    text.split_whitespace().map(|word| word.parse().ok()).collect()
}

/// The first word after "NAME:" at the start of a line.
fn field<T: FromStr>(text: &str, name: &str) -> Option<T> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// "6.18.44-generic" is (6, 18).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// "always [madvise] never" is "madvise".
fn bracketed(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

/// More CPUs than a kernel can have are no list of CPUs.
const CPUS_MAX: usize = 1 << 16;

/// "0-2,5" is 0, 1, 2, 5.
fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last >= CPUS_MAX {
            return None;
        }
        cpus.extend(first..=last);
    }
    if cpus.is_empty() { None } else { Some(cpus) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("5.4"), Some((5, 4)));
        assert_eq!(version("linux"), None);
        assert_eq!(cpu_list("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(cpu_list("7"), Some(vec![7]));
        for wrong in ["", "a", "0-", "0-99999999999", "1,,2"] {
            assert_eq!(cpu_list(wrong), None, "{wrong}");
        }
        assert_eq!(bracketed("always [madvise] never").as_deref(), Some("madvise"));
        assert_eq!(bracketed("never"), None);
        assert_eq!(numbers("4096\t131072 6291456"), Some(vec![4096, 131_072, 6_291_456]));
        assert_eq!(numbers("4096 many"), None);
        assert_eq!(field::<u64>("SwapFree: 1 kB\nMemTotal:   24684084 kB", "MemTotal"), Some(24_684_084));
        assert_eq!(field::<u64>("MemTotal 5", "MemTotal"), None);
        assert_eq!(share(150_000, 100_000), Some(1_500));
        assert_eq!(share(1, 0), None);
    }
}
