//! Checks of the kernel and its settings: version, io_uring, clocks, frequency, pages and swap.
//! The functions are pure: they judge a [`Machine`] and read nothing.

use super::machine::Uring;
use super::{Finding, Machine, Plan, SYSCTLS, Severity, bytes};
use crate::config::DriverChoice;

/// The first Linux version with IORING_SETUP_SINGLE_ISSUER, which the shards use.
const KERNEL_LEAST: (u32, u32) = (6, 0);
/// The clock sources that are read without a system call.
const FAST_CLOCKS: [&str; 4] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"];
/// With a higher `vm.swappiness`, memory of idle connections is swapped out before the page cache is given up.
const SWAPPINESS_MOST: u64 = 10;

pub(super) fn checks(machine: &Machine, plan: &Plan) -> Vec<Finding> {
    vec![
        version(machine.kernel, plan.driver),
        uring(machine, plan.driver),
        clock(machine.clock.as_deref()),
        governor(machine.governors.as_deref()),
        huge_pages(machine.huge_pages.as_deref()),
        overcommit(machine.overcommit),
        swap(machine),
    ]
}

fn version(kernel: Option<(u32, u32)>, driver: DriverChoice) -> Finding {
    const CHECK: &str = "kernel";
    let Some((major, minor)) = kernel else { return Finding::not_known(CHECK) };
    let read = format!("Linux {major}.{minor}");
    if (major, minor) >= KERNEL_LEAST || driver == DriverChoice::Epoll {
        return Finding::fine(CHECK, read);
    }
    Finding::off(without_uring(driver), CHECK, read)
        .should_be("Linux 6.0 or later; 6.1 is the first that is maintained for long")
        .since("the shards' rings are set up with IORING_SETUP_COOP_TASKRUN (5.19) and SINGLE_ISSUER (6.0)")
}

/// How much it matters that io_uring cannot be used.
fn without_uring(driver: DriverChoice) -> Severity {
    match driver {
        DriverChoice::IoUring => Severity::Stops,
        DriverChoice::Auto | DriverChoice::Epoll => Severity::Costs,
    }
}

fn uring(machine: &Machine, driver: DriverChoice) -> Finding {
    const CHECK: &str = "io_uring";
    const WANTED: &str =
        "kernel.io_uring_disabled = 0, and no filter that refuses io_uring_setup, _enter and _register";
    if driver == DriverChoice::Epoll {
        return Finding::fine(CHECK, "not used: driver = \"epoll\"");
    }
    let taken = match driver {
        DriverChoice::IoUring => "the server doesn't start: driver = \"io_uring\" in its configuration",
        DriverChoice::Auto | DriverChoice::Epoll => "the server waits with epoll: more CPU time for each message",
    };
    match (&machine.uring, machine.uring_disabled) {
        (Uring::Works, _) => Finding::fine(CHECK, "a ring was set up and waited through: the server takes it"),
        (Uring::Fails(error), disabled) => {
            let read = match disabled {
                Some(word @ 1..) => format!("refused, kernel.io_uring_disabled = {word}"),
                _ if machine.seccomp == Some(true) => "refused, and there is a seccomp filter".to_owned(),
                _ => "refused".to_owned(),
            };
            let file = if disabled.is_some_and(|word| word > 0) { Some(SYSCTLS) } else { None };
            let finding = Finding::off(without_uring(driver), CHECK, read);
            let finding = finding.should_be(WANTED).since(format!("{taken} ({error})"));
            Finding { mend: file, ..finding }
        }
        (Uring::NotTried, Some(word @ 1..)) => {
            // 1 allows it for members of one group, and the process may be one.
            let severity = if word == 1 { Severity::Note } else { without_uring(driver) };
            Finding::off(severity, CHECK, format!("kernel.io_uring_disabled = {word}"))
                .should_be(WANTED)
                .since(taken)
                .mended_by(SYSCTLS)
        }
        (Uring::NotTried, _) => Finding { read: "not tried".to_owned(), ..Finding::not_known(CHECK) },
    }
}

fn clock(source: Option<&str>) -> Finding {
    const CHECK: &str = "clock source";
    match source {
        None => Finding::not_known(CHECK),
        Some(source) if FAST_CLOCKS.contains(&source) => Finding::fine(CHECK, source),
        Some(source) => Finding::off(Severity::Costs, CHECK, source)
            .should_be("tsc, or the hypervisor's own (kvm-clock)")
            .since("every look at the clock becomes a system call, some hundred ns to 1 µs, and a shard looks at each turn"),
    }
}

fn governor(governors: Option<&[String]>) -> Finding {
    const CHECK: &str = "CPU governor";
    match governors {
        None => Finding::not_known(CHECK),
        Some([]) => Finding::fine(CHECK, "none: the hypervisor or the firmware decides"),
        Some([one]) if one == "performance" => Finding::fine(CHECK, "performance"),
        Some(some) => Finding::off(Severity::Costs, CHECK, some.join(", "))
            .should_be("performance (cpupower frequency-set -g performance)")
            .since("a core that was idle begins a burst at its lowest frequency, so the first deliveries are slow"),
    }
}

fn huge_pages(word: Option<&str>) -> Finding {
    const CHECK: &str = "transparent huge pages";
    match word {
        None => Finding::not_known(CHECK),
        // The server switches huge pages off for itself, because they would more than double its memory.
        Some(word) => Finding::fine(CHECK, format!("{word}, and off in the server by itself")),
    }
}

fn overcommit(mode: Option<u64>) -> Finding {
    const CHECK: &str = "vm.overcommit_memory";
    match mode {
        None => Finding::not_known(CHECK),
        Some(2) => Finding::off(Severity::Note, CHECK, "2")
            .should_be("0, or a vm.overcommit_ratio that leaves room for what is reserved and not used")
            .since("reservations count as use: an allocation can fail, and end the server, while memory is free"),
        Some(mode) => Finding::fine(CHECK, mode.to_string()),
    }
}

fn swap(machine: &Machine) -> Finding {
    const CHECK: &str = "swap";
    let (Some(swap), Some(swappiness)) = (machine.swap_bytes, machine.swappiness) else {
        return if machine.swap_bytes == Some(0) { Finding::fine(CHECK, "none") } else { Finding::not_known(CHECK) };
    };
    let read = format!("{}, vm.swappiness = {swappiness}", bytes(swap));
    if swap == 0 || swappiness <= SWAPPINESS_MOST {
        return Finding::fine(CHECK, if swap == 0 { "none".to_owned() } else { read });
    }
    Finding::off(Severity::Costs, CHECK, read)
        .should_be("vm.swappiness = 1")
        .since(
            "idle connections are what is swapped out first, and a shard that waits for a page waits with all of them",
        )
        .mended_by(SYSCTLS)
}
