//! Checks of what the process may have: files, memory, threads and CPUs.
//! The functions are pure: they judge a [`Machine`] and read nothing.

use super::machine::ProcessLimit;
use super::{Finding, LIMITS, Machine, Plan, SERVICE, SYSCTLS, Severity, bytes, grouped};
use crate::boot::descriptors;

/// The memory of an idle connection in the process and in the kernel, in bytes, as measured in docs/sizing.md.
const USER_BYTES: u64 = 950;
const KERNEL_BYTES: u64 = 4_600;
/// Threads beside the shards: main, the API's, the log's, and those that io_uring starts for a file it cannot poll.
const THREADS: u64 = 16;

pub(super) fn checks(machine: &Machine, plan: &Plan) -> Vec<Finding> {
    vec![
        open_files(machine.files, plan),
        nr_open(machine, plan),
        epoll_watches(machine.epoll_watches, plan),
        file_max(machine, plan),
        memlock(machine.memlock),
        memory(machine, plan),
        threads(machine, plan),
        shards(machine, plan),
        quota(machine, plan),
    ]
}

/// The number of descriptors that the plan needs.
fn needed(plan: &Plan) -> u64 {
    plan.connections.saturating_add(own(plan))
}

/// The number of descriptors that are not for clients' connections. The API has up to a quarter of those that the process
/// can spare.
fn own(plan: &Plan) -> u64 {
    let spare = plan.connections.saturating_add(plan.connections / 3);
    let api = descriptors::of_api(plan.api_connections, usize::try_from(spare).unwrap_or(usize::MAX));
    descriptors::needed(plan.shards) + if plan.api_connections > 0 { api as u64 } else { 0 }
}

fn open_files(limit: Option<ProcessLimit>, plan: &Plan) -> Finding {
    const CHECK: &str = "open files";
    let Some(limit) = limit else { return Finding::not_known(CHECK) };
    let read = format!("soft {}, hard {}", count(limit.soft), count(limit.hard));
    let own = own(plan);
    if limit.hard >= needed(plan) {
        // The server raises the soft limit itself.
        return Finding::fine(CHECK, read);
    }
    let why = match limit.hard.checked_sub(own).filter(|room| *room > 0) {
        None => format!("{} shards alone need {own}: the server does not start", plan.shards),
        Some(room) => format!(
            "there is room for {} of {} connections; newcomers beyond are closed, or wait",
            grouped(room),
            grouped(plan.connections)
        ),
    };
    Finding::off(Severity::Stops, CHECK, read)
        .should_be(format!("hard at least {}: one per connection, and {own}", grouped(needed(plan))))
        .since(why)
        .mended_by(LIMITS)
}

fn nr_open(machine: &Machine, plan: &Plan) -> Finding {
    const CHECK: &str = "fs.nr_open";
    let Some(most) = machine.nr_open else { return Finding::not_known(CHECK) };
    // A process keeps the limit that it had before the sysctl was lowered.
    if most >= needed(plan) || machine.files.is_some_and(|limit| limit.hard >= needed(plan)) {
        return Finding::fine(CHECK, grouped(most));
    }
    Finding::off(Severity::Stops, CHECK, grouped(most))
        .should_be(format!("at least {}", grouped(needed(plan))))
        .since("no process's limit of open files can be raised above it")
        .mended_by(SYSCTLS)
}

fn epoll_watches(most: Option<u64>, plan: &Plan) -> Finding {
    const CHECK: &str = "fs.epoll.max_user_watches";
    match most {
        None => Finding::not_known(CHECK),
        Some(most) if most >= needed(plan) => Finding::fine(CHECK, grouped(most)),
        Some(most) => Finding::off(Severity::Stops, CHECK, grouped(most))
            .should_be(format!("at least {}", grouped(needed(plan))))
            .since(
                "each connection is in the epoll set of its shard, and the sets of all processes of the user count against \
                 it; the kernel sets it from the memory, and someone lowered it",
            ),
    }
}

fn file_max(machine: &Machine, plan: &Plan) -> Finding {
    const CHECK: &str = "fs.file-max";
    let Some(most) = machine.file_max else { return Finding::not_known(CHECK) };
    let open = machine.files_open.unwrap_or(0);
    if most >= needed(plan).saturating_add(open) {
        return Finding::fine(CHECK, count(most));
    }
    Finding::off(Severity::Stops, CHECK, format!("{}, of which {} are open", grouped(most), grouped(open)))
        .should_be(format!("at least {}", grouped(needed(plan).saturating_add(open))))
        .since(
            "the files of all processes count against it; the kernel sets it from the memory, and someone lowered it",
        )
}

fn memlock(limit: Option<ProcessLimit>) -> Finding {
    const CHECK: &str = "locked memory";
    // Rings counted as locked memory before Linux 5.12, and the server needs 6.0.
    match limit {
        None => Finding::not_known(CHECK),
        Some(limit) => Finding::fine(CHECK, format!("{} (not needed: rings don't count)", size(limit.soft))),
    }
}

fn memory(machine: &Machine, plan: &Plan) -> Finding {
    const CHECK: &str = "memory";
    let (group, all) = (machine.cgroup.memory_bytes, machine.memory_bytes);
    let Some(limit) = [group, all].into_iter().flatten().min() else { return Finding::not_known(CHECK) };
    let by_group = group.is_some_and(|group| all.is_none_or(|all| group < all));
    let read = format!("{} ({})", bytes(limit), if by_group { "of the control group" } else { "of the machine" });
    let idle = plan.connections.saturating_mul(USER_BYTES + KERNEL_BYTES);
    if idle <= limit / 10 * 7 {
        return Finding::fine(CHECK, read);
    }
    let (severity, what) = if idle > limit {
        (Severity::Stops, "more than there is")
    } else {
        (Severity::Costs, "which leaves little for what is sent, and for history")
    };
    Finding::off(severity, CHECK, read).should_be(format!("at least {}", bytes(idle / 7 * 10))).since(format!(
        "{} idle connections take about {} ({USER_BYTES} B of the process and {KERNEL_BYTES} B of the kernel each), \
             {what}; docs/sizing.md reckons the rest",
        grouped(plan.connections),
        bytes(idle)
    ))
}

fn threads(machine: &Machine, plan: &Plan) -> Finding {
    const CHECK: &str = "threads";
    let needed = plan.shards + THREADS;
    match machine.cgroup.pids {
        None => Finding::fine(CHECK, "no limit by a control group"),
        Some(most) if most >= needed => Finding::fine(CHECK, grouped(most)),
        Some(most) => Finding::off(Severity::Stops, CHECK, format!("{most} in the control group (pids.max)"))
            .should_be(format!("at least {needed}"))
            .since("each shard is a thread, and starting one fails")
            .mended_by(SERVICE),
    }
}

fn shards(machine: &Machine, plan: &Plan) -> Finding {
    const CHECK: &str = "shards and CPUs";
    let Some(cpus) = &machine.cpus else { return Finding::not_known(CHECK) };
    let (usable, shards) = (cpus.len() as u64, plan.shards);
    let online = machine.online.as_ref().map_or(usable, |online| online.len() as u64);
    let read = format!("{shards} shards, {usable} usable CPUs of {online}");
    if shards > usable {
        return Finding::off(Severity::Costs, CHECK, read)
            .should_be(format!("at most {usable} shards"))
            .since("shards that share a CPU wait for each other: the same work, and latency of whole time slices")
            .mended_by(SERVICE);
    }
    if plan.shards_chosen && shards < usable {
        return Finding::off(Severity::Note, CHECK, read)
            .should_be("shards = 0 for one per usable CPU, unless the others have other work")
            .since(format!("{} CPUs serve no connection", usable - shards));
    }
    if !plan.pin_cpus && shards > 1 {
        return Finding::off(Severity::Note, CHECK, format!("{read}, not pinned"))
            .should_be("pin_cpus = true, unless something else places the threads")
            .since("a shard that moves to another CPU leaves its caches behind");
    }
    Finding::fine(CHECK, read)
}

fn quota(machine: &Machine, plan: &Plan) -> Finding {
    const CHECK: &str = "CPU quota";
    let Some(quota) = machine.cgroup.cpus else { return Finding::fine(CHECK, "none") };
    let read = format!("{}.{:02} CPUs", quota / 1_000, quota % 1_000 / 10);
    if quota >= plan.shards.saturating_mul(1_000) {
        return Finding::fine(CHECK, read);
    }
    Finding::off(Severity::Costs, CHECK, read)
        .should_be(format!("at least {} CPUs, or none", plan.shards))
        .since("when the quota is used up, all shards stand still until the next period, mostly 100 ms")
}

/// A number, or "no limit" for the kernel's highest.
fn count(number: u64) -> String {
    if number >= i64::MAX as u64 { "unlimited".to_owned() } else { grouped(number) }
}

fn size(number: u64) -> String {
    if number >= i64::MAX as u64 { "unlimited".to_owned() } else { bytes(number) }
}
