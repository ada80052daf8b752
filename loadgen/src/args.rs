//! The command line.
//!
//! Only what can be asked and whether it makes sense by itself; `main` turns it into a plan.

mod channels;

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::control::Streams;
use crate::deflate::{self, DEFAULT_OFFER, Offer};
use crate::marker::{Content, MARKER};
use crate::protocol::Template;
use crate::work::abuse::Abuse;
use crate::work::echo;

pub use channels::{ApiArgs, ChannelsArgs, NewcomersArgs};

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
    /// Many channels: deliveries, private replies or subscribing
    Channels(ChannelsArgs),
    /// Requests to the HTTP API that publish, and their deliveries
    Api(ApiArgs),
    /// Signing in to a lobby that others are in already
    Newcomers(NewcomersArgs),
    /// Opening connections, and what idle ones cost
    Connect(ConnectArgs),
    /// Users who come, go and publish, with presence
    Chat(ChatArgs),
    /// All connections dropped at once, and all of them come back
    Storm(StormArgs),
    /// One abuse after the other beside innocent clients, who are measured
    Abuse(AbuseArgs),
    /// All of it, against one or more servers that are started by command
    Suite(SuiteArgs),
}

/// What every command takes.
#[derive(Args, Clone)]
pub struct Common {
    /// Load threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
    /// CPUs to keep the threads on, in turn: 1 or 2,3 or 4-7
    #[arg(long = "cpus", alias = "cpu", value_name = "LIST")]
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
    /// How long to wait for the server to listen before the run, in seconds
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    pub wait: f64,
    /// Switch TCP_QUICKACK off: fewer acknowledgements, more load from one core
    #[arg(long)]
    pub delay_acks: bool,
    /// Whether messages are compressed.
    #[command(flatten)]
    pub compression: Compression,
    /// Write the report as JSON, too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report as one HTML page with plots, too
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// permessage-deflate (docs/loadgen.md).
#[derive(Args, Clone, Debug, Default)]
pub struct Compression {
    /// Offer permessage-deflate [OFFER by default: what browsers offer]
    #[arg(long, value_name = "OFFER", num_args = 0..=1, require_equals = true, default_missing_value = DEFAULT_OFFER)]
    pub compress: Option<String>,
    /// Every how many connections of echo and fanout one has all its messages inflated and checked; publishers have
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    pub verify_every: u16,
    /// Send messages of this size and longer compressed, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    pub compress_above: usize,
}

impl Compression {
    /// What is to be done, if anything is.
    pub fn settings(&self) -> Result<Option<deflate::Settings>> {
        let Some(text) = &self.compress else {
            return Ok(None);
        };
        let offer = Offer::parse(text).map_err(|why| anyhow::anyhow!("--compress {text:?}: {why}"))?;
        Ok(Some(deflate::Settings { offer, above: self.compress_above }))
    }

    /// Every how many connections one is checked in full.
    pub fn verify_every(&self) -> usize {
        usize::from(self.verify_every.max(1))
    }
}

/// What a server speaks that doesn't speak uringcast's protocol.
#[derive(Args, Clone, Default)]
pub struct Speak {
    /// A TOML file with tables [protocol.NAME] (docs/loadgen.md)
    #[arg(long, value_name = "FILE")]
    pub protocol_file: Option<PathBuf>,
    /// Which of them; "uringcast" is built in
    #[arg(long, value_name = "NAME")]
    pub protocol: Option<String>,
    /// A message to send after the upgrade; may be given again (\r, \n, \t and \\ are read)
    #[arg(long, value_name = "TEXT", conflicts_with = "protocol_file")]
    pub hello: Vec<String>,
    /// Text in the message that answers the hello
    #[arg(long, value_name = "TEXT", conflicts_with = "protocol_file")]
    pub hello_reply: Option<String>,
    /// How to publish: {payload} and {length} are replaced
    #[arg(long, value_name = "TEXT", conflicts_with = "protocol_file")]
    pub publish: Option<String>,
    /// Binary messages instead of text, with --hello, --publish or --plain
    #[arg(long, conflicts_with = "protocol_file")]
    pub binary_frames: bool,
    /// No hello at all: what is sent is the payload, and everyone gets it
    #[arg(long, conflicts_with = "protocol_file")]
    pub plain: bool,
    /// Choose the payload so that a delivered message is this long, as another server's is
    #[arg(long, value_name = "BYTES")]
    pub wire_bytes: Option<usize>,
    /// As the suite has read it.
    #[arg(skip)]
    pub template: Option<Template>,
}

/// Which connections are event streams.
#[derive(Args, Clone, Default)]
pub struct EventStreams {
    /// This part of those that don't publish are event streams (server-sent events), from 0 to 1
    #[arg(long, value_name = "PART", default_value_t = 0.0)]
    pub sse: f64,
    /// Where event streams are asked for; their channel is the lobby
    #[arg(long, value_name = "PATH", default_value = "/sse?channel=lobby")]
    pub sse_path: String,
}

impl EventStreams {
    fn check(&self, speak: &Speak) -> Result<()> {
        if !(0.0..=1.0).contains(&self.sse) {
            bail!("--sse must be from 0 to 1");
        }
        let speaks_another = speak.protocol_file.is_some() || !speak.hello.is_empty() || speak.plain;
        if self.sse > 0.0 && (speaks_another || speak.template.is_some()) {
            bail!("--sse is for uringcast's own protocol");
        }
        Ok(())
    }

    /// What the connections from number `from` on are to be.
    pub fn streams(&self, from: usize) -> Option<Streams> {
        (self.sse > 0.0).then(|| Streams { path: self.sse_path.clone(), from, part: self.sse })
    }
}

/// How long to send.
#[derive(Args, Clone)]
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
#[derive(Args, Clone)]
pub struct Auth {
    /// One user for every connection, or the same for all (the server must allow that)
    #[arg(long, value_enum, default_value_t = Users::Distinct)]
    pub users: Users,
    /// Make tokens with this HS256 secret
    #[arg(long, env = "URINGCAST_AUTH__HS256_SECRET", hide_env_values = true)]
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

/// Where what speaks uringcast's protocol, or another with the same commands, is to be found.
#[derive(Args, Clone)]
pub struct Place {
    /// Where the server is
    #[arg(long, default_value = "ws://127.0.0.1:2345/ws")]
    pub url: String,
    /// Who signs in.
    #[command(flatten)]
    pub auth: Auth,
    /// What every command takes.
    #[command(flatten)]
    pub common: Common,
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
    /// How many connections are on the lobby, publishers included
    #[arg(long, short = 'n', default_value_t = 1_000)]
    pub subscribers: u32,
    /// How many of the subscribers publish
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub publishers: u16,
    /// Closed loop: publications outstanding per publisher, closed by its own delivery
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub window: u32,
    /// Send a whole window in one write, and the next one when all of it came back
    #[arg(long, conflicts_with = "rate")]
    pub lockstep: bool,
    /// Bytes in a publication's text
    #[arg(long, default_value_t = 64)]
    pub payload: usize,
    /// What the text is made of behind its marker
    #[arg(long, value_enum, default_value_t = Content::Alphabet)]
    pub content: Content,
    /// Take the latency of the last subscriber of each publication, and not of a sample (open loop)
    #[arg(long)]
    pub last: bool,
    /// How many subscribers have their latencies taken
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub sample: usize,
    /// How long to send.
    #[command(flatten)]
    pub span: Span,
    /// Another protocol.
    #[command(flatten)]
    pub speak: Speak,
    /// Subscribers that are event streams.
    #[command(flatten)]
    pub streams: EventStreams,
    /// The server and its users.
    #[command(flatten)]
    pub place: Place,
}

/// `loadgen connect`
#[derive(Args)]
pub struct ConnectArgs {
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
    /// Another protocol.
    #[command(flatten)]
    pub speak: Speak,
    /// Connections that are event streams.
    #[command(flatten)]
    pub streams: EventStreams,
    /// The server and its users.
    #[command(flatten)]
    pub place: Place,
}

/// `loadgen chat`
#[derive(Args)]
pub struct ChatArgs {
    /// How many users, a connection each
    #[arg(long, short, default_value_t = 500)]
    pub connections: u32,
    /// How many of them publish; those stay
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub publishers: u16,
    /// Users that leave, a second; each comes back
    #[arg(long, default_value_t = 20.0, value_name = "PER_SECOND")]
    pub churn: f64,
    /// How long one that left stays away
    #[arg(long, default_value_t = 500)]
    pub away_ms: u32,
    /// Rooms that the users are spread over, beside the lobby that all are in; 0: all talk in the lobby
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=10_000))]
    pub rooms: u16,
    /// What the rooms' names begin with; members must be allowed to publish there
    #[arg(long, default_value = "room-", value_name = "TEXT")]
    pub room_prefix: String,
    /// Bytes in a publication's text
    #[arg(long, default_value_t = 64)]
    pub payload: usize,
    /// How long to send; without --rate it is 100 a second.
    #[command(flatten)]
    pub span: Span,
    /// The server and its users.
    #[command(flatten)]
    pub place: Place,
}

/// `loadgen storm`
#[derive(Args)]
pub struct StormArgs {
    /// How many connections, publishers included
    #[arg(long, short, default_value_t = 1_000)]
    pub connections: u32,
    /// How many of them publish; those stay
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub publishers: u16,
    /// Publications a second over all publishers, before, during and after the drop
    #[arg(long, default_value_t = 20.0, value_name = "PER_SECOND")]
    pub rate: f64,
    /// Spread the returns evenly over this time
    #[arg(long, default_value_t = 0)]
    pub jitter_ms: u32,
    /// Publish for so long before the drop
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    pub before: f64,
    /// All must be back within this time
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    pub within: f64,
    /// Bytes in a publication's text
    #[arg(long, default_value_t = 64)]
    pub payload: usize,
    /// The server and its users.
    #[command(flatten)]
    pub place: Place,
}

/// `loadgen abuse`
#[derive(Args)]
pub struct AbuseArgs {
    /// How many innocent connections are on the lobby; one of them publishes
    #[arg(long, short, default_value_t = 200)]
    pub connections: u32,
    /// Publications a second, at intended times
    #[arg(long, default_value_t = 50.0, value_name = "PER_SECOND")]
    pub rate: f64,
    /// How long each abuse goes on; the innocent are measured for as long before and after
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// These abuses only
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME,…")]
    pub only: Vec<Abuse>,
    /// The abuser's connections at a time
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub abusers: usize,
    /// The server and its users.
    #[command(flatten)]
    pub place: Place,
}

/// `loadgen suite`
#[derive(Args)]
pub struct SuiteArgs {
    /// The servers and how to start them (docs/loadgen.md)
    #[arg(long, value_name = "FILE")]
    pub servers: PathBuf,
    /// How often each work is done with each server; the medians count
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=101))]
    pub rounds: u32,
    /// CPUs of the servers: 0 or 0,1
    #[arg(long, value_name = "LIST")]
    pub server_cpu: Option<String>,
    /// CPUs of the load threads, one each: 1 or 2,3
    #[arg(long, value_name = "LIST")]
    pub load_cpu: Option<String>,
    /// Only these servers
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    pub only: Vec<String>,
    /// Only these works; page: those of the page of results
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    pub works: Vec<String>,
    /// The server that ratios refer to [default: the first]
    #[arg(long, value_name = "NAME")]
    pub base: Option<String>,
    /// How long each run sends
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Publications a second for latency-same [default: 70 % of what the base takes]
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Connections of the connect work
    #[arg(long, default_value_t = 8_000, value_name = "N")]
    pub idle: u32,
    /// Make every number of connections this many times smaller, for a quick try
    #[arg(long, default_value_t = 1, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub scale_down: u32,
    /// Bytes of a delivered message for the servers that are padded [default: uringcast's, tried out first]
    #[arg(long, value_name = "BYTES")]
    pub wire_bytes: Option<usize>,
    /// The deadline of every wait, in seconds
    #[arg(long, default_value_t = 20.0, value_name = "SECONDS")]
    pub timeout: f64,
    /// Write the page of results as Markdown: the best peer of each work, where the base is behind, all figures
    #[arg(long, value_name = "FILE")]
    pub page: Option<PathBuf>,
    /// A sentence for that page: what else is to be known of this run
    #[arg(long, value_name = "TEXT", requires = "page")]
    pub note: Option<String>,
    /// Write the tables as Markdown
    #[arg(long, value_name = "FILE")]
    pub out_md: Option<PathBuf>,
    /// Write everything as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write one HTML page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

fn positive(name: &str, value: f64) -> Result<()> {
    if !value.is_finite() || value <= 0.0 {
        bail!("--{name} must be more than 0");
    }
    Ok(())
}

fn holds_marker(payload: usize) -> Result<()> {
    if payload < MARKER {
        bail!("--payload must be at least {MARKER}, the length of the marker in it");
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

    /// The CPUs of `--cpus`.
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
        self.place.common.check(self.subscribers)?;
        self.span.check()?;
        if u32::from(self.publishers) > self.subscribers {
            bail!("publishers are subscribers, too: --publishers must not exceed --subscribers");
        }
        self.streams.check(&self.speak)?;
        if self.last && self.span.rate.is_none() {
            bail!("--last is for an open loop: give --rate");
        }
        holds_marker(self.payload)
    }
}

impl ConnectArgs {
    /// Refuses what makes no sense.
    pub fn check(&self) -> Result<()> {
        self.place.common.check(self.connections)?;
        self.streams.check(&self.speak)?;
        self.rate.map_or(Ok(()), |rate| positive("rate", rate))
    }
}

impl ChatArgs {
    /// Refuses what makes no sense.
    pub fn check(&self) -> Result<()> {
        self.place.common.check(self.connections)?;
        self.span.check()?;
        if u32::from(self.publishers) > self.connections {
            bail!("publishers are users, too: --publishers must not exceed --connections");
        }
        if self.place.auth.users == Users::Same || self.place.auth.token.is_some() {
            bail!("a chat is one of different users: no --users same and no --token");
        }
        if !self.churn.is_finite() || self.churn < 0.0 {
            bail!("--churn must be at least 0");
        }
        holds_marker(self.payload)
    }
}

impl StormArgs {
    /// Refuses what makes no sense.
    pub fn check(&self) -> Result<()> {
        self.place.common.check(self.connections)?;
        positive("rate", self.rate)?;
        positive("before", self.before)?;
        positive("within", self.within)?;
        if u32::from(self.publishers) >= self.connections {
            bail!("publishers stay: --publishers must be less than --connections");
        }
        holds_marker(self.payload)
    }
}

impl AbuseArgs {
    /// Refuses what makes no sense.
    pub fn check(&self) -> Result<()> {
        self.place.common.check(self.connections)?;
        positive("rate", self.rate)?;
        positive("seconds", self.seconds)?;
        if self.abusers == 0 {
            bail!("--abusers must be at least 1");
        }
        if self.place.auth.secret.is_none() && self.place.auth.secret_file.is_none() {
            bail!("abusers are users of their own: the server's --secret is needed");
        }
        Ok(())
    }

    /// The abuses to do.
    pub fn abuses(&self) -> Vec<Abuse> {
        if self.only.is_empty() { Abuse::value_variants().to_vec() } else { self.only.clone() }
    }

    /// The innocent, as a fan-out in an open loop.
    pub fn innocent(&self) -> FanoutArgs {
        FanoutArgs {
            subscribers: self.connections,
            publishers: 1,
            window: 1,
            lockstep: false,
            payload: 64,
            content: Content::Alphabet,
            sample: 64,
            last: false,
            span: Span { seconds: self.seconds, warmup: 0.0, rate: Some(self.rate) },
            speak: Speak::default(),
            streams: EventStreams::default(),
            place: self.place.clone(),
        }
    }
}

/// The CPUs of `1`, `2,3` or `4-7`.
pub fn cpu_list(list: &str) -> Result<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let read = |text: &str| -> Result<usize> {
            let cpu = text.trim().parse();
            cpu.with_context(|| format!("CPUs {list}: expected 1 or 2,3 or 4-7"))
        };
        let (first, last) = (read(first)?, read(last)?);
        if last < first || last > 4_096 {
            bail!("CPUs {list}: {part} is no range of CPUs");
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
