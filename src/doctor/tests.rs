//! Invented machines, and what is said of them: each check is made to speak alone, by one change to a machine that is
//! in order. Also keeps the sysctl file of tuning/ and the checks in step.

use std::fs;
use std::path::Path;

use super::machine::{Cgroup, ProcessLimit, Uring};
use super::*;

const SYSCTL_FILE: &str = include_str!("../../tuning/99-uringcast.sysctl.conf");

/// A machine that has all it needs for a million connections on eight shards.
fn sound() -> Machine {
    Machine {
        kernel: Some((6, 12)),
        page_bytes: 4_096,
        uring: Uring::Works,
        uring_disabled: Some(0),
        seccomp: Some(false),
        files: Some(ProcessLimit { soft: 1_024, hard: 1_048_576 }),
        memlock: Some(ProcessLimit { soft: 8 << 20, hard: 8 << 20 }),
        nr_open: Some(2_097_152),
        epoll_watches: Some(7_000_000),
        file_max: Some(i64::MAX as u64),
        files_open: Some(1_000),
        cpus: Some((0..8).collect()),
        online: Some((0..8).collect()),
        cgroup: Cgroup::default(),
        memory_bytes: Some(32 << 30),
        swap_bytes: Some(0),
        swappiness: Some(60),
        overcommit: Some(0),
        huge_pages: Some("always".to_owned()),
        clock: Some("tsc".to_owned()),
        governors: Some(vec!["performance".to_owned()]),
        somaxconn: Some(4_096),
        syn_backlog: Some(8_192),
        syncookies: Some(1),
        ports: Some([10_000, 65_535]),
        tcp_mem: Some([500_000, 1_000_000, 1_500_000]),
        tcp_rmem: Some([4_096, 131_072, 1 << 20]),
        tcp_wmem: Some([4_096, 16_384, 1 << 20]),
        slow_start_after_idle: Some(0),
        conntrack_max: None,
        nics: Some(vec![Nic { name: "eth0".to_owned(), rx_queues: 8, tx_queues: 8, rps_queues: 0 }]),
    }
}

const MILLION: Plan = Plan {
    connections: 1_000_000,
    shards: 8,
    shards_chosen: false,
    pin_cpus: true,
    api_connections: 0,
    driver: DriverChoice::Auto,
};

/// All that is not in order, worst first by check.
fn off(machine: &Machine, plan: &Plan) -> Vec<(Severity, &'static str)> {
    let mut off: Vec<_> = examine(machine, plan)
        .findings
        .iter()
        .filter(|finding| finding.severity != Severity::Fine)
        .map(|finding| (finding.severity, finding.check))
        .collect();
    off.sort_unstable();
    off
}

/// Changes one thing of the sound machine: exactly this is then off, and says what it should be and why.
#[track_caller]
fn only(severity: Severity, check: &'static str, change: impl FnOnce(&mut Machine, &mut Plan)) -> Finding {
    let (mut machine, mut plan) = (sound(), MILLION);
    change(&mut machine, &mut plan);
    assert_eq!(off(&machine, &plan), [(severity, check)]);
    let report = examine(&machine, &plan);
    assert_eq!(report.stops(), severity == Severity::Stops);
    let finding = report.findings.into_iter().find(|finding| finding.check == check).unwrap();
    assert!(!finding.read.is_empty() && !finding.wanted.is_empty() && !finding.why.is_empty(), "{finding:?}");
    finding
}

#[test]
fn nothing_is_said_of_a_sound_machine() {
    assert_eq!(off(&sound(), &MILLION), []);
    assert!(!examine(&sound(), &MILLION).stops());
}

#[test]
fn what_is_not_known_is_no_fault() {
    let report = examine(&Machine::default(), &MILLION);
    assert!(!report.stops());
    assert!(report.findings.iter().all(|f| matches!(f.severity, Severity::NotKnown | Severity::Fine)), "{report}");
    assert!(report.findings.iter().filter(|f| f.severity == Severity::NotKnown).count() > 15, "{report}");
}

#[test]
fn files() {
    use Severity::Stops;
    let few =
        |hard| move |machine: &mut Machine, _: &mut Plan| machine.files = Some(ProcessLimit { soft: 1_024, hard });
    assert!(only(Stops, "open files", few(20_000)).why.contains("room for 19,904 of 1,000,000"));
    assert!(only(Stops, "open files", few(40)).why.contains("does not start"));
    // One for each connection, eight for each of eight shards, and 32.
    only(Stops, "open files", few(1_000_095));
    // The API's connections have their own.
    let with_api = |hard| {
        move |machine: &mut Machine, plan: &mut Plan| {
            machine.files = Some(ProcessLimit { soft: 1_024, hard });
            plan.api_connections = 4_096;
        }
    };
    only(Stops, "open files", with_api(1_000_431));
    let mut machine = sound();
    few(1_000_096)(&mut machine, &mut MILLION.clone());
    assert_eq!(off(&machine, &MILLION), []);
    only(Stops, "fs.file-max", |machine, _| machine.file_max = Some(1_000_500));
    // A lower ceiling matters to who has not got his limit yet.
    machine = Machine { nr_open: Some(500_000), ..sound() };
    assert_eq!(off(&machine, &MILLION), []);
    machine.files = Some(ProcessLimit { soft: 1_024, hard: 500_000 });
    assert_eq!(off(&machine, &MILLION), [(Stops, "fs.nr_open"), (Stops, "open files")]);
}

#[test]
fn kernel_and_io_uring() {
    use Severity::{Costs, NotKnown, Note, Stops};
    // Without io_uring the server takes epoll, unless it is told not to.
    for (driver, severity) in [(DriverChoice::Auto, Costs), (DriverChoice::IoUring, Stops)] {
        let of_this = |change: fn(&mut Machine)| {
            move |machine: &mut Machine, plan: &mut Plan| {
                plan.driver = driver;
                change(machine);
            }
        };
        only(severity, "kernel", of_this(|machine| machine.kernel = Some((5, 15))));
        let refused = only(severity, "io_uring", of_this(|machine| machine.uring = Uring::Fails("EPERM".to_owned())));
        assert_eq!(refused.mend, None);
        assert_eq!(refused.why.contains("epoll"), driver == DriverChoice::Auto, "{}", refused.why);
        let disabled = only(
            severity,
            "io_uring",
            of_this(|machine| {
                machine.uring = Uring::Fails("EPERM".to_owned());
                machine.uring_disabled = Some(2);
            }),
        );
        assert_eq!(disabled.mend, Some(SYSCTLS));
        let filtered = only(
            severity,
            "io_uring",
            of_this(|machine| {
                machine.uring = Uring::Fails("EPERM".to_owned());
                machine.seccomp = Some(true);
            }),
        );
        assert!(filtered.read.contains("seccomp"));
        let copy = of_this(|machine| (machine.uring, machine.uring_disabled) = (Uring::NotTried, Some(2)));
        only(severity, "io_uring", copy);
    }
    only(Note, "io_uring", |machine, _| (machine.uring, machine.uring_disabled) = (Uring::NotTried, Some(1)));
    let copy = Machine { uring: Uring::NotTried, ..sound() };
    assert_eq!(off(&copy, &MILLION), [(NotKnown, "io_uring")]);
    let without = Machine { kernel: Some((5, 4)), uring: Uring::Fails("EPERM".to_owned()), ..sound() };
    assert_eq!(off(&without, &Plan { driver: DriverChoice::Epoll, ..MILLION }), []);
}

#[test]
fn clocks_frequency_and_memory_management() {
    use Severity::{Costs, Note};
    only(Costs, "clock source", |machine, _| machine.clock = Some("hpet".to_owned()));
    only(Costs, "CPU governor", |machine, _| machine.governors = Some(vec!["powersave".to_owned()]));
    only(Costs, "CPU governor", |machine, _| {
        machine.governors = Some(vec!["performance".to_owned(), "schedutil".to_owned()]);
    });
    only(Note, "vm.overcommit_memory", |machine, _| machine.overcommit = Some(2));
    only(Costs, "swap", |machine, _| machine.swap_bytes = Some(1 << 30));
    let machine = Machine { governors: Some(vec![]), swap_bytes: Some(1 << 30), swappiness: Some(1), ..sound() };
    assert_eq!(off(&machine, &MILLION), []);
}

#[test]
fn memory_threads_and_cpus() {
    use Severity::{Costs, Note, Stops};
    assert!(only(Stops, "memory", |machine, _| machine.memory_bytes = Some(4 << 30)).why.contains("5.1 GiB"));
    only(Costs, "memory", |machine, _| machine.memory_bytes = Some(7 << 30));
    let group = only(Stops, "memory", |machine, _| machine.cgroup.memory_bytes = Some(1 << 30));
    assert!(group.read.contains("control group"));
    assert_eq!(only(Stops, "threads", |machine, _| machine.cgroup.pids = Some(10)).mend, Some(SERVICE));
    only(Stops, "fs.epoll.max_user_watches", |machine, _| machine.epoll_watches = Some(1_000_000));
    only(Costs, "shards and CPUs", |machine, _| machine.cpus = Some(vec![2, 3]));
    only(Note, "shards and CPUs", |_, plan| (plan.shards, plan.shards_chosen) = (4, true));
    only(Note, "shards and CPUs", |_, plan| plan.pin_cpus = false);
    only(Costs, "CPU quota", |machine, _| machine.cgroup.cpus = Some(7_500));
}

#[test]
fn network() {
    use Severity::{Costs, Note};
    only(Costs, "net.core.somaxconn", |machine, _| machine.somaxconn = Some(128));
    only(Costs, "net.ipv4.tcp_max_syn_backlog", |machine, _| {
        (machine.syn_backlog, machine.syncookies) = (Some(512), Some(0));
    });
    let small = only(Costs, "net.ipv4.tcp_mem", |machine, _| machine.tcp_mem = Some([280_000, 380_000, 570_000]));
    assert!(small.wanted.contains("500000 1000000 1500000") && small.read.contains("2.1 GiB"), "{small:?}");
    only(Note, "net.ipv4.tcp_rmem", |machine, _| machine.tcp_rmem = Some([4_096, 131_072, 6 << 20]));
    only(Note, "net.ipv4.tcp_wmem", |machine, _| machine.tcp_wmem = Some([4_096, 16_384, 4 << 20]));
    only(Costs, "net.ipv4.tcp_slow_start_after_idle", |machine, _| machine.slow_start_after_idle = Some(1));
    only(Costs, "connection tracking", |machine, _| machine.conntrack_max = Some(262_144));
    only(Note, "net.ipv4.ip_local_port_range", |machine, _| machine.ports = Some([32_768, 60_999]));
    let nic = |rx_queues, rps_queues| Nic { name: "eth0".to_owned(), rx_queues, tx_queues: 1, rps_queues };
    let one = only(Costs, "NIC queues", |machine, _| machine.nics = Some(vec![nic(1, 0), nic(8, 0)]));
    assert_eq!(one.mend, Some(IRQ));
    for nics in [vec![nic(1, 1)], vec![]] {
        assert_eq!(off(&Machine { nics: Some(nics), ..sound() }, &MILLION), []);
    }
}

#[test]
fn nonsense_ends_in_words() {
    let machine = Machine {
        page_bytes: u64::MAX,
        files: Some(ProcessLimit { soft: 0, hard: 0 }),
        file_max: Some(0),
        files_open: Some(u64::MAX),
        cpus: Some(vec![]),
        cgroup: Cgroup { memory_bytes: Some(0), pids: Some(0), cpus: Some(0) },
        memory_bytes: Some(0),
        swap_bytes: Some(u64::MAX),
        swappiness: Some(u64::MAX),
        somaxconn: Some(0),
        ports: Some([9, 1]),
        tcp_mem: Some([u64::MAX; 3]),
        conntrack_max: Some(0),
        ..sound()
    };
    let plan = Plan { connections: 100_000_000, shards: 256, ..MILLION };
    let report = examine(&machine, &plan);
    assert!(report.stops() && report.to_string().contains("STOPS  memory: 0 B"), "{report}");
}

/// Every sysctl that a check asks for is in the file that it names, with a value which that check is content with.
#[test]
fn the_sysctl_file_mends_what_it_is_said_to_mend() {
    let root = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put("proc/self/limits", "Max open files            1048576              1048576              files\n");
    put("proc/meminfo", "MemTotal: 33554432 kB\nSwapTotal: 1048576 kB\n");
    let untuned = [
        ("kernel/io_uring_disabled", "2"),
        ("fs/nr_open", "1048576"),
        ("vm/swappiness", "60"),
        ("net/core/somaxconn", "128"),
        ("net/ipv4/tcp_max_syn_backlog", "128"),
        ("net/ipv4/tcp_syncookies", "0"),
        ("net/ipv4/tcp_rmem", "4096\t131072\t6291456"),
        ("net/ipv4/tcp_wmem", "4096\t16384\t4194304"),
        ("net/ipv4/tcp_slow_start_after_idle", "1"),
        ("net/ipv4/ip_local_port_range", "32768\t60999"),
        ("net/netfilter/nf_conntrack_max", "65536"),
    ];
    untuned.iter().for_each(|(name, value)| put(&format!("proc/sys/{name}"), value));
    let mendable = |root: &Path| -> Vec<_> {
        let report = examine(&Machine::read(Some(root), None).unwrap(), &MILLION);
        report.findings.into_iter().filter(|f| f.mend == Some(SYSCTLS)).map(|f| f.check).collect()
    };
    assert_eq!(mendable(root.path()).len(), untuned.len() - 2, "all but nr_open, which suffices, and the cookies");
    for line in SYSCTL_FILE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (key, value) = line.trim_start_matches('-').split_once(" = ").unwrap();
        put(&format!("proc/sys/{}", key.replace('.', "/")), value);
    }
    assert_eq!(mendable(root.path()), [""; 0]);
}

#[test]
fn a_copy_of_a_machine_is_read() {
    let root = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    assert!(Machine::read(Some(root.path()), None).is_err(), "there is nothing");
    put(
        "proc/7/limits",
        "ProcessLimit  Soft  Hard  Units\nMax open files            1024                 unlimited  files\n",
    );
    put("proc/7/status", "Name:\tx\nSeccomp:\t2\nCpus_allowed_list:\t0-2,5\n");
    put("proc/7/cgroup", "4:memory:/a/b\n3:cpu,cpuacct:/a\n0::/a/b\n");
    put("sys/fs/cgroup/a/memory.max", "5000\n");
    put("sys/fs/cgroup/a/b/memory.max", "max\n");
    put("sys/fs/cgroup/a/b/pids.max", "100\n");
    put("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "4000\n");
    put("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "150000\n");
    put("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
    put("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n");
    put("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n");
    put("sys/devices/system/cpu/cpufreq/scaling_governor", "no CPU\n");
    put("sys/class/net/lo/queues/rx-0/rps_cpus", "0\n");
    put("sys/class/net/eth0/device/vendor", "x\n");
    put("sys/class/net/eth0/queues/rx-0/rps_cpus", "00000000,00000003\n");
    put("sys/class/net/eth0/queues/rx-1/rps_cpus", "00000000,00000000\n");
    put("sys/class/net/eth0/queues/tx-0/xps_cpus", "3\n");
    put("proc/sys/net/ipv4/tcp_mem", "1 2\n");
    fs::create_dir_all(root.path().join("proc/sys/fs/nr_open")).unwrap();
    assert!(Machine::read(Some(root.path()), Some(8)).is_err(), "there is no such process");
    let machine = Machine::read(Some(root.path()), Some(7)).unwrap();
    assert_eq!(machine.files, Some(ProcessLimit { soft: 1_024, hard: u64::MAX }));
    assert_eq!(machine.seccomp, Some(true));
    assert_eq!(machine.cpus, Some(vec![0, 1, 2, 5]));
    assert_eq!(machine.cgroup, Cgroup { memory_bytes: Some(4_000), pids: Some(100), cpus: Some(1_500) });
    assert_eq!(machine.governors, Some(vec!["powersave".to_owned()]));
    let nic = Nic { name: "eth0".to_owned(), rx_queues: 2, tx_queues: 1, rps_queues: 1 };
    assert_eq!(machine.nics, Some(vec![nic]));
    assert_eq!((machine.tcp_mem, machine.nr_open, machine.kernel), (None, None, None), "nonsense, a folder, nothing");
    assert_eq!(machine.uring, Uring::NotTried);
}

#[test]
fn the_plan_comes_from_the_configuration_and_the_cpus() {
    let mut config = Config::default();
    let machine = Machine { cgroup: Cgroup { cpus: Some(2_500), ..Cgroup::default() }, ..sound() };
    let plan = Plan::new(&config, None, &machine);
    assert_eq!((plan.connections, plan.shards, plan.shards_chosen), (1_000_000, 3, false));
    config.shards = 5;
    config.limits.connections = 7;
    assert_eq!(Plan::new(&config, None, &machine).shards, 5);
    assert_eq!(Plan::new(&config, None, &machine).connections, 7);
    assert_eq!(Plan::new(&config, Some(9), &machine).connections, 9);
}

#[test]
fn the_configuration_is_judged() {
    let judged = |config: Result<Config, ConfigError>, configured| judge_config(&config, configured).severity;
    assert_eq!(judged(Ok(Config::default()), false), Severity::Note);
    assert_eq!(judged(Ok(Config::default()), true), Severity::Stops, "no key");
    assert_eq!(judged(Err(ConfigError::of_key("shards", "is odd")), true), Severity::Stops);
    let mut config = Config::default();
    config.auth.hs256_secret_file = Some("/no/such/file".into());
    assert_eq!(judged(Ok(config), true), Severity::Stops);
}

#[test]
fn numbers_for_people() {
    assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    assert_eq!([5, 1_536, 5 << 20, (5 << 30) + (1 << 29)].map(bytes), ["5 B", "1.5 KiB", "5.0 MiB", "5.5 GiB"]);
}
