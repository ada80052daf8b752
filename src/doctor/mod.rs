//! `uringcast doctor`: what of this machine stands in the server's way, how much it matters and which file of
//! `tuning/` mends it. `machine` reads /proc, /sys and probes io_uring; the other files judge what was read, as pure
//! functions over a `Machine` and a `Plan`, so that tests invent machines. What can't be read is not known, and no
//! fault. Changes nothing. Called by main; knows the server's own needs from `server`, `listener` and `cpus`.

mod kernel;
mod machine;
mod network;
mod process;
mod report;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::auth::{ApiKeys, Verifier};
use crate::boot::cpus;
use crate::config::{Config, ConfigError, DriverChoice, SettingOrigin};
use crate::time::clock::Clock;
use crate::tls::{Concern, TlsIdentity};

pub use machine::{Cgroup, Machine, Nic, ProcessLimit, Uring};
pub use report::Report;

/// The sysctls.
const SYSCTLS: &str = "tuning/99-uringcast.sysctl.conf";
/// Limits of a process: from a shell, and from systemd.
const LIMITS: &str = "tuning/uringcast.limits.conf (from a shell), tuning/uringcast.service (by systemd)";
/// The service.
const SERVICE: &str = "tuning/uringcast.service";
/// Interrupts and packet steering.
const IRQ: &str = "tuning/irq";

/// The flags of `doctor`.
#[derive(Clone, Debug, Default, Args)]
pub struct DoctorArgs {
    /// Configuration file (TOML) to judge by; its own faults are findings, too
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Judge for so many connections [default: limits.connections]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub connections: Option<u64>,
    /// Judge the limits of a running process, as of the service, in place of those of this shell
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Read proc/ and sys/ below another root, as a saved copy; io_uring is not tried then
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The server doesn't start, or can't hold the connections that it is to hold.
    Stops,
    /// It works, and is slower, less steady or dearer than it could be.
    Costs,
    /// Worth knowing; whether it matters depends on what the machine is for.
    Note,
    /// It could not be read.
    NotKnown,
    /// In order.
    Fine,
}

/// What one check says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What was read.
    pub read: String,
    /// What it should be; empty if it is in order.
    pub wanted: String,
    /// What follows from it; empty if it is in order.
    pub why: String,
    /// Which files of `tuning/` mend it, if one does.
    pub mend: Option<&'static str>,
}

impl Finding {
    fn fine(check: &'static str, read: impl Into<String>) -> Self {
        Self {
            check,
            severity: Severity::Fine,
            read: read.into(),
            wanted: String::new(),
            why: String::new(),
            mend: None,
        }
    }

    fn not_known(check: &'static str) -> Self {
        Self { severity: Severity::NotKnown, ..Self::fine(check, "could not be read") }
    }

    fn off(severity: Severity, check: &'static str, read: impl Into<String>) -> Self {
        Self { severity, ..Self::fine(check, read) }
    }

    fn should_be(self, wanted: impl Into<String>) -> Self {
        Self { wanted: wanted.into(), ..self }
    }

    fn since(self, why: impl Into<String>) -> Self {
        Self { why: why.into(), ..self }
    }

    fn mended_by(self, file: &'static str) -> Self {
        Self { mend: Some(file), ..self }
    }
}

/// What the machine is judged for.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many connections it is to hold.
    pub connections: u64,
    /// How many shards it will have.
    pub shards: u64,
    /// Whether that number was configured, and not taken from the CPUs.
    pub shards_chosen: bool,
    /// Whether each shard keeps to one CPU.
    pub pin_cpus: bool,
    /// Whether the HTTP API is to run.
    pub api: bool,
    /// How they are to wait for their sockets.
    pub driver: DriverChoice,
}

impl Plan {
    /// What `config` asks of a machine.
    pub fn new(config: &Config, connections: Option<u64>, machine: &Machine) -> Self {
        let chosen = u64::from(config.shards);
        let usable = machine.cpus.as_ref().map(|cpus| cpus::shards_within(cpus.len(), machine.cgroup.cpus) as u64);
        Self {
            connections: connections.unwrap_or(config.limits.connections as u64),
            shards: if chosen > 0 { chosen } else { usable.unwrap_or(1) },
            shards_chosen: chosen > 0,
            pin_cpus: config.pin_cpus,
            api: config.http.listener().is_some(),
            driver: config.driver,
        }
    }
}

/// Reads this machine, or what `args` names in its place, and judges it.
///
/// # Errors
/// When there is no /proc to read, or no such process.
pub fn run(args: &DoctorArgs, config: Result<Config, ConfigError>, configured: bool) -> io::Result<Report> {
    let machine = Machine::read(args.root.as_deref(), args.pid)?;
    let finding = judge_config(&config, configured);
    // A configuration that doesn't load says nothing of the rest: that is judged by the defaults.
    let config = config.unwrap_or_default();
    let plan = Plan::new(&config, args.connections, &machine);
    let mut report = examine(&machine, &plan);
    report.findings.insert(0, finding);
    Ok(report)
}

/// Everything that can be said of a machine.
pub fn examine(machine: &Machine, plan: &Plan) -> Report {
    let findings = [process::checks(machine, plan), kernel::checks(machine, plan), network::checks(machine, plan)];
    Report { connections: plan.connections, shards: plan.shards, findings: findings.concat() }
}

/// Whether the server would start from this configuration. `configured`: there is one, in a file or the environment.
fn judge_config(config: &Result<Config, ConfigError>, configured: bool) -> Finding {
    const CHECK: &str = "configuration";
    let stops = |error: &ConfigError| {
        let place = if error.origin == SettingOrigin::Unset { "at fault".to_owned() } else { error.origin.to_string() };
        Finding::off(Severity::Stops, CHECK, place)
            .should_be("one that the server starts from")
            .since(format!("{error}"))
    };
    let config = match config {
        Ok(config) => config,
        Err(error) => return stops(error),
    };
    if !configured {
        return Finding::off(Severity::Note, CHECK, "none: judged by the defaults")
            .should_be("--config FILE, or the server's environment")
            .since("what is configured, as limits.connections and shards, decides what the machine has to offer");
    }
    let sound = config.require_key().and_then(|()| Verifier::new(&config.auth).map(drop)).and_then(|()| {
        match config.http.listener() {
            Some(_) => ApiKeys::new(&config.http).map(drop),
            None => Ok(()),
        }
    });
    let sound = sound.and_then(|()| match TlsIdentity::new(&config.tls)? {
        Some(identity) => identity.load().map(|(_, served)| served.validity),
        None => Ok(None),
    });
    match sound {
        Ok(validity) => match validity.and_then(|validity| validity.concern(Clock::start().now().unix_s())) {
            Some(concern) => judge_dates(CHECK, concern),
            None => Finding::fine(CHECK, "loads, and so do its keys"),
        },
        Err(error) => stops(&error),
    }
}

/// A certificate that clients refuse, or soon will. The server starts with it, but whom it is for can't come in.
fn judge_dates(check: &'static str, concern: Concern) -> Finding {
    let severity = if matches!(concern, Concern::ExpiresSoon(_)) { Severity::Note } else { Severity::Stops };
    Finding::off(severity, check, format!("loads, but the certificate of tls.cert_file {concern}"))
        .should_be("good for 14 days at least")
        .since("clients refuse a certificate beside its dates; what renews it should have done so by now")
}

/// A number for people: 1,000,000.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes for people: whole KiB, MiB or GiB with one decimal.
fn bytes(number: u64) -> String {
    let (unit, name) = match number {
        0..1_024 => return format!("{number} B"),
        1_024..1_048_576 => (1 << 10, "KiB"),
        1_048_576..1_073_741_824 => (1 << 20, "MiB"),
        _ => (1_u64 << 30, "GiB"),
    };
    let tenths = u128::from(number) * 10 / u128::from(unit);
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}
