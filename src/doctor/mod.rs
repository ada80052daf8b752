//! `uringcast doctor`: checks whether this machine is set up for the server, how much each finding matters, and which file
//! of `tuning/` helps. It changes nothing. `machine` reads /proc and /sys and probes io_uring. The other files judge what
//! was read, as pure functions of a [`Machine`] and a [`Plan`], so that tests can invent machines. A fact that cannot be
//! read is reported as not known.

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

pub(crate) use machine::{Machine, Nic};
pub(crate) use report::Report;

/// The file of `tuning/` with sysctls.
const SYSCTLS: &str = "tuning/99-uringcast.sysctl.conf";
/// The files of `tuning/` with limits of a process, for a shell and for systemd.
const LIMITS: &str = "tuning/uringcast.limits.conf (from a shell), tuning/uringcast.service (by systemd)";
/// The file of `tuning/` with the systemd service.
const SERVICE: &str = "tuning/uringcast.service";
/// The file of `tuning/` for interrupts and packet steering.
const IRQ: &str = "tuning/irq";

/// The flags of `doctor`.
#[derive(Clone, Debug, Default, Args)]
pub struct DoctorArgs {
    /// Configuration file (TOML) to check for; errors in it are findings too
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check for this many connections [default: limits.connections]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) connections: Option<u64>,
    /// Check the limits of a running process, such as the service, instead of this shell's
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Read proc/ and sys/ below another root, such as a saved copy; io_uring is not tried then
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Severity {
    /// The server cannot start, or cannot have the planned number of connections.
    Stops,
    /// The server works, but it is slower, less steady or needs more resources than necessary.
    Costs,
    /// Worth knowing. Whether it matters depends on what the machine is used for.
    Note,
    /// The facts could not be read.
    NotKnown,
    /// Everything is as it should be.
    Fine,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The name of the check.
    pub(crate) check: &'static str,
    /// How much the finding matters.
    pub(crate) severity: Severity,
    /// The values that were read.
    pub(crate) read: String,
    /// The values that should be there; empty if all is well.
    pub(crate) wanted: String,
    /// The consequences; empty if all is well.
    pub(crate) why: String,
    /// The files of `tuning/` that help; `None` if none does.
    pub(crate) mend: Option<&'static str>,
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

/// The plan that the machine is checked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// The number of connections.
    pub(crate) connections: u64,
    /// The number of shards.
    pub(crate) shards: u64,
    /// Whether the number of shards was configured, and not derived from the CPUs.
    pub(crate) shards_chosen: bool,
    /// Whether each shard is pinned to a CPU.
    pub(crate) pin_cpus: bool,
    /// The most connections of the HTTP API; 0 if it will not run.
    pub(crate) api_connections: usize,
    /// The configured driver of the shards.
    pub(crate) driver: DriverChoice,
}

impl Plan {
    /// The plan that `config` needs a machine for.
    pub(crate) fn new(config: &Config, connections: Option<u64>, machine: &Machine) -> Self {
        let chosen = u64::from(config.shards);
        let usable = machine.cpus.as_ref().map(|cpus| cpus::shards_within(cpus.len(), machine.cgroup.cpus) as u64);
        Self {
            connections: connections.unwrap_or(config.limits.connections as u64),
            shards: if chosen > 0 { chosen } else { usable.unwrap_or(1) },
            shards_chosen: chosen > 0,
            pin_cpus: config.pin_cpus,
            api_connections: config.http.listener().map_or(0, |_| config.limits.api_connections),
            driver: config.driver,
        }
    }
}

/// Reads this machine, or the copy that `args` names, and checks it.
///
/// # Errors
/// When there is no /proc to read, or no such process.
pub fn run(args: &DoctorArgs, config: Result<Config, ConfigError>, configured: bool) -> io::Result<Report> {
    let machine = Machine::read(args.root.as_deref(), args.pid)?;
    let finding = judge_config(&config, configured);
    // If the configuration does not load, the other checks use the defaults.
    let config = config.unwrap_or_default();
    let plan = Plan::new(&config, args.connections, &machine);
    let mut report = examine(&machine, &plan);
    report.findings.insert(0, finding);
    Ok(report)
}

/// The findings of all checks.
pub(crate) fn examine(machine: &Machine, plan: &Plan) -> Report {
    let findings = [process::checks(machine, plan), kernel::checks(machine, plan), network::checks(machine, plan)];
    Report { connections: plan.connections, shards: plan.shards, findings: findings.concat() }
}

/// Checks whether the server would start with this configuration. `configured` says whether there is a file or a variable.
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

/// Checks the dates of the certificate. The server starts with an expired one, but clients refuse it.
fn judge_dates(check: &'static str, concern: Concern) -> Finding {
    let severity = if matches!(concern, Concern::ExpiresSoon(_)) { Severity::Note } else { Severity::Stops };
    Finding::off(severity, check, format!("loads, but the certificate of tls.cert_file {concern}"))
        .should_be("good for 14 days at least")
        .since("clients refuse a certificate beside its dates; what renews it should have done so by now")
}

/// A number with separators: 1,000,000.
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

/// A number of bytes as KiB, MiB or GiB with one decimal.
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
