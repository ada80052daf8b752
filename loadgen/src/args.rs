//! The command line.
//!
//! Only what can be asked and whether it makes sense by itself; `main` turns it into a plan.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::echo;
use crate::marker::MARKER;

/// Measures WebSocket servers, and checks that nothing is lost, doubled, reordered or changed.
#[derive(Parser)]
#[command(name = "loadgen", version)]
pub struct Cli {
    /// What to measure.
    #[command(subcommand)]
    pub command: Command,
}

/// What to measure.
#[derive(Subcommand)]
pub enum Command {
    /// Messages to an echo endpoint and back
    Echo(EchoArgs),
    /// One lobby: a few publish, everyone receives
    Fanout(FanoutArgs),
    /// Opening connections, and what idle ones cost
    Connect(ConnectArgs),
}

/// What every command takes.
#[derive(Args)]
pub struct Common {
    /// Load threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
    /// CPUs to keep the threads on, in turn: 1 or 2,3 or 4-7
    #[arg(long, value_name = "LIST")]
    pub cpu: Option<String>,
    /// The server's process, for its CPU time and memory
    #[arg(long)]
    pub pid: Option<u32>,
    /// Source addresses, in turn [default: more of 127.0.0.0/8 when ports would run out]
    #[arg(long, value_delimiter = ',', value_name = "ADDR,…")]
    pub source: Vec<IpAddr>,
    /// Connections on their way at a time, when connecting has no rate
    #[arg(long, default_value_t = 128, value_name = "N")]
    pub in_flight: usize,
    /// The deadline of every wait, in seconds
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub timeout: f64,
    /// Switch TCP_QUICKACK off: fewer acknowledgements, more load from one core
    #[arg(long)]
    pub delay_acks: bool,
    /// Write the report as JSON, too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// How long to send.
#[derive(Args)]
pub struct Span {
    /// How long to send
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// The first part of it, which is not measured
    #[arg(long, default_value_t = 0.5, value_name = "SECONDS")]
    pub warmup: f64,
    /// Open loop: messages a second over all senders, at intended times
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
}

/// Who signs in.
#[derive(Args)]
pub struct Auth {
    /// One user for every connection, or the same for all (the server must allow that)
    #[arg(long, value_enum, default_value_t = Users::Distinct)]
    pub users: Users,
    /// Make tokens with this HS256 secret
    #[arg(
        long,
        env = "URINGCAST_AUTH__HS256_SECRET",
        hide_env_values = true,
        conflicts_with_all = ["token", "dev"]
    )]
    pub secret: Option<String>,
    /// Make tokens with the HS256 secret in this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["token", "dev"])]
    pub secret_file: Option<PathBuf>,
    /// Sign in with this token, everyone
    #[arg(long)]
    pub token: Option<String>,
    /// Get tokens from the server's dev mode [default without a secret or token]
    #[arg(long, conflicts_with = "token")]
    pub dev: bool,
}

/// How many users the connections belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Users {
    /// One each.
    Distinct,
    /// One for all.
    Same,
}

/// `loadgen echo`
#[derive(Args)]
pub struct EchoArgs {
    /// Where the echo endpoint is
    #[arg(long, default_value = "ws://127.0.0.1:2345/echo")]
    pub url: String,
    /// How many connections
    #[arg(long, short, default_value_t = 100)]
    pub connections: u32,
    /// Closed loop: messages on their way per connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub pipeline: u32,
    /// Bytes in a message
    #[arg(long, default_value_t = 64)]
    pub payload: usize,
    /// Binary messages instead of text
    #[arg(long)]
    pub binary: bool,
    /// How long to send.
    #[command(flatten)]
    pub span: Span,
    /// What every command takes.
    #[command(flatten)]
    pub common: Common,
}

/// `loadgen fanout`
#[derive(Args)]
pub struct FanoutArgs {
    /// Where the server is
    #[arg(long, default_value = "ws://127.0.0.1:2345/ws")]
    pub url: String,
    /// How many connections are on the lobby, publishers included
    #[arg(long, short = 'n', default_value_t = 1_000)]
    pub subscribers: u32,
    /// How many of the subscribers publish
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub publishers: u16,
    /// Closed loop: publications outstanding per publisher, closed by its own delivery
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub window: u32,
    /// Bytes in a publication's text
    #[arg(long, default_value_t = 64)]
    pub payload: usize,
    /// How many subscribers have their latencies taken
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub sample: usize,
    /// How long to send.
    #[command(flatten)]
    pub span: Span,
    /// Who signs in.
    #[command(flatten)]
    pub auth: Auth,
    /// What every command takes.
    #[command(flatten)]
    pub common: Common,
}

/// `loadgen connect`
#[derive(Args)]
pub struct ConnectArgs {
    /// Where the server is
    #[arg(long, default_value = "ws://127.0.0.1:2345/ws")]
    pub url: String,
    /// How many connections
    #[arg(long, short, default_value_t = 1_000)]
    pub connections: u32,
    /// Open loop: new connections a second
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Connect and upgrade, but don't sign in
    #[arg(long)]
    pub no_auth: bool,
    /// Rest before the look at the server's memory
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    pub settle: f64,
    /// Keep the connections for so long after that
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    pub hold: f64,
    /// Who signs in.
    #[command(flatten)]
    pub auth: Auth,
    /// What every command takes.
    #[command(flatten)]
    pub common: Common,
}

fn positive(name: &str, value: f64) -> Result<()> {
    if !value.is_finite() || value <= 0.0 {
        bail!("--{name} must be more than 0");
    }
    Ok(())
}

impl Common {
    /// Refuses what makes no sense; `connections` of them are wanted.
    pub fn check(&self, connections: u32) -> Result<()> {
        positive("timeout", self.timeout)?;
        if connections == 0 {
            bail!("no connections asked for");
        }
        if u32::from(self.threads) > connections {
            bail!("more threads than connections");
        }
        if let Some(pid) = self.pid
            && !crate::procfs::readable(pid)
        {
            bail!("--pid {pid}: no such process");
        }
        Ok(())
    }

    /// The CPUs of `--cpu`.
    pub fn cpus(&self) -> Result<Vec<usize>> {
        self.cpu.as_deref().map_or(Ok(Vec::new()), cpu_list)
    }
}

impl Span {
    fn check(&self) -> Result<()> {
        positive("seconds", self.seconds)?;
        if self.warmup.is_nan() || self.warmup < 0.0 || self.warmup >= self.seconds {
            bail!("--warmup must be at least 0 and less than --seconds");
        }
        self.rate.map_or(Ok(()), |rate| positive("rate", rate))
    }
}

impl EchoArgs {
    /// Refuses what makes no sense.
    pub fn check(&self) -> Result<()> {
        self.common.check(self.connections)?;
        self.span.check()?;
        if self.payload < echo::LEAST_PAYLOAD {
            bail!("--payload must be at least {}", echo::LEAST_PAYLOAD);
        }
        Ok(())
    }
}

impl FanoutArgs {
    /// Refuses what makes no sense.
    pub fn check(&self) -> Result<()> {
        self.common.check(self.subscribers)?;
        self.span.check()?;
        if u32::from(self.publishers) > self.subscribers {
            bail!("publishers are subscribers, too: --publishers must not exceed --subscribers");
        }
        if self.payload < MARKER {
            bail!("--payload must be at least {MARKER}, the length of the marker in it");
        }
        Ok(())
    }
}

impl ConnectArgs {
    /// Refuses what makes no sense.
    pub fn check(&self) -> Result<()> {
        self.common.check(self.connections)?;
        self.rate.map_or(Ok(()), |rate| positive("rate", rate))
    }
}

fn cpu_list(list: &str) -> Result<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let read = |text: &str| -> Result<usize> {
            let cpu = text.trim().parse();
            cpu.with_context(|| format!("--cpu {list}: expected 1 or 2,3 or 4-7"))
        };
        let (first, last) = (read(first)?, read(last)?);
        if last < first || last > 4_096 {
            bail!("--cpu {list}: {part} is no range of CPUs");
        }
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn cpu_lists_are_read() {
        assert_eq!(cpu_list("1").unwrap(), [1]);
        assert_eq!(cpu_list("0,2-4").unwrap(), [0, 2, 3, 4]);
        for bad in ["", "x", "3-1", "1,", "-2"] {
            assert!(cpu_list(bad).is_err(), "{bad}");
        }
    }
}
