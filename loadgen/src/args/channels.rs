//! The command lines of what is measured on channels, on the HTTP API and in a lobby that others are in already.

use anyhow::{Result, bail};
use clap::Args;

use super::{Place, Span, Speak, Users, holds_marker, positive};
use crate::protocol::CHANNELS_MAX;
use crate::work::channels::Mode;

/// `loadgen channels`
#[derive(Args)]
pub struct ChannelsArgs {
    /// How many connections
    #[arg(long, short, default_value_t = 1_600)]
    pub connections: u32,
    /// Channels that each connection is subscribed to
    #[arg(long, short = 'k', default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub each: u32,
    /// Subscribers of each channel: there are as many channels as that takes
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pub fanout: u32,
    /// What is measured
    #[arg(long = "do", value_enum, default_value_t = Mode::Publish)]
    pub mode: Mode,
    /// Publications outstanding, requests outstanding per connection, or connections that subscribe at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub window: u32,
    /// Bytes in a publication's text
    #[arg(long, default_value_t = 64)]
    pub payload: usize,
    /// What the channels' names begin with; members must be allowed to publish there
    #[arg(long, default_value = "room:", value_name = "TEXT")]
    pub prefix: String,
    /// How long to send.
    #[command(flatten)]
    pub span: Span,
    /// Another protocol.
    #[command(flatten)]
    pub speak: Speak,
    /// The server and its users.
    #[command(flatten)]
    pub place: Place,
}

impl ChannelsArgs {
    /// How many channels there are.
    pub fn channels(&self) -> usize {
        (self.connections as usize * self.each as usize).div_ceil(self.fanout as usize)
    }

    /// Refuses what makes no sense.
    pub fn check(&self) -> Result<()> {
        self.place.common.check(self.connections)?;
        self.span.check()?;
        let (each, channels) = (self.each as usize, self.channels());
        if each > channels {
            bail!("{each} channels each of {channels}: --fanout is more than --connections");
        }
        if channels > CHANNELS_MAX {
            bail!("{channels} channels: there can be {CHANNELS_MAX}");
        }
        if self.span.rate.is_some() && self.mode != Mode::Publish {
            bail!("--rate is for --do publish");
        }
        one_user(&self.place)?;
        holds_marker(self.payload)
    }
}

/// `loadgen api`
#[derive(Args)]
pub struct ApiArgs {
    /// Where the API is
    #[arg(long, default_value = "http://127.0.0.1:2346")]
    pub api: String,
    /// The key to bring
    #[arg(long, env = "LOADGEN_API_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// Connections that send requests
    #[arg(long, short, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Requests on their way per connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub pipeline: u32,
    /// Subscribers of the channel, or over all channels with --broadcast; 0: the API alone
    #[arg(long, short = 'n', default_value_t = 1)]
    pub subscribers: u32,
    /// Publish to this many channels with each request, and count channels
    #[arg(long, value_name = "CHANNELS", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub broadcast: Option<u32>,
    /// Send one request on each connection and look what memory idle ones take
    #[arg(long, conflicts_with = "broadcast")]
    pub idle: bool,
    /// Rest before the look at the server's memory, with --idle
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    pub settle: f64,
    /// Bytes in a publication's text
    #[arg(long, default_value_t = 64)]
    pub payload: usize,
    /// What the channels' names begin with
    #[arg(long, default_value = "room:", value_name = "TEXT")]
    pub prefix: String,
    /// How long to send.
    #[command(flatten)]
    pub span: Span,
    /// Another protocol.
    #[command(flatten)]
    pub speak: Speak,
    /// The server and its users.
    #[command(flatten)]
    pub place: Place,
}

impl ApiArgs {
    /// Refuses what makes no sense.
    pub fn check(&self) -> Result<()> {
        self.place.common.check(self.connections + self.subscribers)?;
        self.span.check()?;
        if self.span.rate.is_some() {
            bail!("requests are sent in a closed loop: no --rate");
        }
        if self.connections as usize > CHANNELS_MAX {
            bail!("--connections: at most {CHANNELS_MAX}");
        }
        one_user(&self.place)?;
        holds_marker(self.payload)
    }
}

/// `loadgen newcomers`
#[derive(Args)]
pub struct NewcomersArgs {
    /// Users who are in the lobby first
    #[arg(long, short = 'n', default_value_t = 900, value_parser = clap::value_parser!(u32).range(1..))]
    pub residents: u32,
    /// Users who sign in then
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub newcomers: u32,
    /// Newcomers that sign in at a time
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub at_a_time: u32,
    /// All must have signed in, and be known to everyone, within this time
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    pub within: f64,
    /// The server and its users.
    #[command(flatten)]
    pub place: Place,
}

impl NewcomersArgs {
    /// Refuses what makes no sense.
    pub fn check(&self) -> Result<()> {
        self.place.common.check(self.residents)?;
        positive("within", self.within)?;
        if self.place.auth.users == Users::Same || self.place.auth.token.is_some() {
            bail!("newcomers are different users: no --users same and no --token");
        }
        Ok(())
    }
}

/// Many users would tell each other of their coming and going.
fn one_user(place: &Place) -> Result<()> {
    match place.auth.users {
        Users::Same => Ok(()),
        Users::Distinct if place.auth.token.is_some() => Ok(()),
        Users::Distinct => bail!("--users same is needed, and a server that allows it, or the lobby's presence counts"),
    }
}
