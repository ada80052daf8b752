//! Checks of the network stack: backlogs, buffers, ports, connection tracking, and queues of the network cards.
//! The functions are pure: they judge a [`Machine`] and read nothing. The measured figures are those of docs/sizing.md.

use super::{Finding, IRQ, Machine, Nic, Plan, SYSCTLS, Severity, bytes, grouped};
use crate::io::bind::BACKLOG;

/// The size that the tuned buffers may grow to, per socket and direction, in bytes.
const BUFFER_MOST: u64 = 1 << 20;
/// The number of ports in the tuned range.
const PORTS: u64 = 50_000;

pub(super) fn checks(machine: &Machine, plan: &Plan) -> Vec<Finding> {
    let mut findings = vec![
        somaxconn(machine.somaxconn),
        syn_backlog(machine),
        tcp_mem(machine, plan),
        buffers("net.ipv4.tcp_rmem", machine.tcp_rmem),
        buffers("net.ipv4.tcp_wmem", machine.tcp_wmem),
        slow_start(machine.slow_start_after_idle),
        conntrack(machine.conntrack_max, plan),
        ports(machine.ports, plan),
    ];
    match &machine.nics {
        None => findings.push(Finding::not_known("NIC queues")),
        Some(nics) if nics.is_empty() => findings.push(Finding::fine("NIC queues", "no NIC here")),
        Some(nics) => findings.extend(nics.iter().map(|nic| queues(nic, plan))),
    }
    findings
}

fn somaxconn(most: Option<u64>) -> Finding {
    const CHECK: &str = "net.core.somaxconn";
    let asked = u64::from(BACKLOG.unsigned_abs());
    match most {
        None => Finding::not_known(CHECK),
        Some(most) if most >= asked => Finding::fine(CHECK, grouped(most)),
        Some(most) => Finding::off(Severity::Costs, CHECK, grouped(most))
            .should_be(format!("{}, which is what each shard's listener asks for", grouped(asked)))
            .since(
                "when many connect at once those who find the queue full try again after 1, 3, 7 s: of 8,000 at once \
                 half were in after 1.7 s with 128, and after 0.15 s with 4,096",
            )
            .mended_by(SYSCTLS),
    }
}

fn syn_backlog(machine: &Machine) -> Finding {
    const CHECK: &str = "net.ipv4.tcp_max_syn_backlog";
    let (Some(most), Some(cookies)) = (machine.syn_backlog, machine.syncookies) else {
        return Finding::not_known(CHECK);
    };
    if cookies > 0 || most >= u64::from(BACKLOG.unsigned_abs()) {
        return Finding::fine(CHECK, format!("{} (tcp_syncookies = {cookies})", grouped(most)));
    }
    Finding::off(Severity::Costs, CHECK, format!("{}, tcp_syncookies = 0", grouped(most)))
        .should_be("tcp_syncookies = 1, or 8,192")
        .since("without cookies it bounds the handshakes under way, and a storm's SYNs are dropped beyond it")
        .mended_by(SYSCTLS)
}

/// Checks `tcp_mem`. A socket with anything in its buffers takes at least one page of it.
fn tcp_mem(machine: &Machine, plan: &Plan) -> Finding {
    const CHECK: &str = "net.ipv4.tcp_mem";
    let Some([_, pressure, most]) = machine.tcp_mem else { return Finding::not_known(CHECK) };
    let read = format!("{} from {} on pressed", of_pages(machine, most), of_pages(machine, pressure));
    if most >= plan.connections {
        return Finding::fine(CHECK, read);
    }
    let [low, pressure, most] = [1, 2, 3].map(|part| plan.connections.saturating_mul(part) / 2);
    Finding::off(Severity::Costs, CHECK, read)
        .should_be(format!(
            "net.ipv4.tcp_mem = {low} {pressure} {most} (pages) in a file of its own, if there is memory for it"
        ))
        .since(format!(
            "one broadcast that all {} have yet to read takes a page each, {}; above the most sends fail and segments \
             are dropped",
            grouped(plan.connections),
            of_pages(machine, plan.connections)
        ))
}

fn of_pages(machine: &Machine, pages: u64) -> String {
    bytes(pages.saturating_mul(machine.page_bytes))
}

fn buffers(check: &'static str, setting: Option<[u64; 3]>) -> Finding {
    let Some([least, first, most]) = setting else { return Finding::not_known(check) };
    let read = format!("{least} {first} {most}");
    if most <= BUFFER_MOST {
        return Finding::fine(check, read);
    }
    Finding::off(Severity::Note, check, read)
        .should_be(format!("at most {BUFFER_MOST} as the last number"))
        .since(
            "idle sockets have no buffers, but a reader that stops lets them grow before the server sees it: 5 to 9 MB were \
             measured with 4 and 33 MB as the most, 2 MB with 1 MiB each",
        )
        .mended_by(SYSCTLS)
}

fn slow_start(setting: Option<u64>) -> Finding {
    const CHECK: &str = "net.ipv4.tcp_slow_start_after_idle";
    match setting {
        None => Finding::not_known(CHECK),
        Some(0) => Finding::fine(CHECK, "0"),
        Some(other) => Finding::off(Severity::Costs, CHECK, other.to_string())
            .should_be("0")
            .since("a push after silence of more than about a second begins slowly: what is over 10 segments waits a round trip")
            .mended_by(SYSCTLS),
    }
}

fn conntrack(most: Option<u64>, plan: &Plan) -> Finding {
    const CHECK: &str = "connection tracking";
    match most {
        None => Finding::fine(CHECK, "not loaded"),
        Some(most) if most >= plan.connections.saturating_add(plan.connections / 10) => {
            Finding::fine(CHECK, format!("room for {}", grouped(most)))
        }
        Some(most) => Finding::off(Severity::Costs, CHECK, format!("room for {}", grouped(most)))
            .should_be("net.netfilter.nf_conntrack_max = 2097152, or a notrack rule for the server's port")
            .since("when its table is full packets of new connections are dropped; a connection counts until long after its end")
            .mended_by(SYSCTLS),
    }
}

/// Checks the range of local ports. The server opens no connections, but a load generator or a proxy on this machine does.
fn ports(range: Option<[u64; 2]>, plan: &Plan) -> Finding {
    const CHECK: &str = "net.ipv4.ip_local_port_range";
    let Some([first, last]) = range else { return Finding::not_known(CHECK) };
    let (read, count) = (format!("{first} to {last}"), (last + 1).saturating_sub(first));
    if count >= PORTS || count >= plan.connections {
        return Finding::fine(CHECK, read);
    }
    Finding::off(Severity::Note, CHECK, read)
        .should_be("10000 65535")
        .since(format!(
            "not for the server, which only takes connections: a load generator or a proxy on this machine has {} ports \
             for each of its addresses",
            grouped(count)
        ))
        .mended_by(SYSCTLS)
}

fn queues(nic: &Nic, plan: &Plan) -> Finding {
    const CHECK: &str = "NIC queues";
    let steers = if nic.rps_queues > 0 { "RPS on" } else { "RPS off" };
    let read = format!("{}: {} in, {} out, {steers}", nic.name, nic.rx_queues, nic.tx_queues);
    if nic.rx_queues >= plan.shards || nic.rps_queues > 0 {
        return Finding::fine(CHECK, read);
    }
    Finding::off(Severity::Costs, CHECK, read)
        .should_be(format!("{} queues (ethtool -L), or RPS on", plan.shards))
        .since(format!(
            "the kernel takes in all packets on {} of {} cores, which are full before the others are",
            nic.rx_queues, plan.shards
        ))
        .mended_by(IRQ)
}
