//! The works of a suite: what each measures, on how many connections, and which figure of it counts.
//!
//! A list. Called by `suite`; `runs` turns a work into the arguments of a command.

use anyhow::Result;

use crate::marker::Content;
use crate::protocol::{Dialect, Template};
use crate::work::channels::Mode;

/// The windows that the search tries.
pub const WINDOWS: [u32; 5] = [16, 64, 128, 256, 512];
/// The part of the saturated rate at which latency is taken.
pub const PART: f64 = 0.7;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Closed loop: one publishes, `connections` receive.
    Fanout {
        /// Publications outstanding.
        window: u32,
        /// Bytes in a text.
        payload: usize,
        /// What it is made of.
        content: Content,
    },
    /// The window with the most deliveries.
    Saturated,
    /// Open loop at a part of the server's own saturated rate, or of the base's.
    Latency {
        /// The base's: the same for all.
        same: bool,
    },
    /// Closed loop echoes.
    Echo {
        /// Messages on their way per connection.
        pipeline: u32,
    },
    /// Open loop: everyone talks in one lobby.
    Talk {
        /// Messages a second.
        rate: u32,
    },
    /// Open loop at a low rate: the latency of the last subscriber.
    Low {
        /// Publications a second.
        rate: u32,
    },
    /// Connections with several channels each.
    Channels {
        /// What is measured.
        mode: Mode,
        /// Channels of a connection.
        each: u32,
        /// Subscribers of a channel.
        fanout: u32,
        /// See `ChannelsArgs`.
        window: u32,
    },
    /// HTTP requests that publish.
    Api {
        /// Subscribers of their channel.
        subscribers: u32,
        /// Requests on their way per connection.
        pipeline: u32,
    },
    /// HTTP requests that publish to many channels, each with a subscriber.
    Broadcast {
        /// How many.
        channels: u32,
    },
    /// The memory of idle connections of the HTTP API.
    IdleApi,
    /// Users who sign in where others are.
    Newcomers {
        /// How many.
        newcomers: u32,
    },
    /// Connect rate and idle memory.
    Connect,
    /// Users who come, go and publish.
    Chat,
    /// All dropped, all back.
    Storm,
}

impl Kind {
    /// Messages go through channels other than the lobby.
    pub fn has_channels(&self) -> bool {
        matches!(self, Self::Channels { .. }) || self.needs_api()
    }

    /// The HTTP API takes part.
    pub fn needs_api(&self) -> bool {
        matches!(self, Self::Api { .. } | Self::Broadcast { .. } | Self::IdleApi)
    }
}

/// A work with its name.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// As --works takes it.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// What is counted a second.
    pub unit: &'static str,
    /// How many connections.
    pub connections: u32,
    /// What is done.
    pub kind: Kind,
}

const fn work(name: &'static str, title: &'static str, unit: &'static str, connections: u32, kind: Kind) -> Work {
    Work { name, title, unit, connections, kind }
}

/// Texts of 64 bytes.
pub const fn fanout(window: u32) -> Kind {
    Kind::Fanout { window, payload: 64, content: Content::Alphabet }
}

const fn feed(window: u32) -> Kind {
    Kind::Fanout { window, payload: 1_024, content: Content::Feed }
}

const fn echo(pipeline: u32) -> Kind {
    Kind::Echo { pipeline }
}

/// Rooms with a fan-out of 32.
pub const fn channels(mode: Mode, each: u32, window: u32) -> Kind {
    Kind::Channels { mode, each, fanout: 32, window }
}

const fn api(subscribers: u32, pipeline: u32) -> Kind {
    Kind::Api { subscribers, pipeline }
}

const DELIVERIES: &str = "deliveries/s";
const REPLIES: &str = "replies/s";
const SUBSCRIPTIONS: &str = "subscriptions/s";
const REQUESTS: &str = "requests/s";
const CHANNELS: &str = "channels/s";

/// All works, in the order in which they are done.
pub const ALL: [Work; 44] = [
    work("fanout-100-w1", "Fan-out to 100, window 1", DELIVERIES, 100, fanout(1)),
    work("fanout-100-w64", "Fan-out to 100, window 64", DELIVERIES, 100, fanout(64)),
    work("fanout-1000-w1", "Fan-out to 1,000, window 1", DELIVERIES, 1_000, fanout(1)),
    work("fanout-1000-w64", "Fan-out to 1,000, window 64", DELIVERIES, 1_000, fanout(64)),
    work("fanout-8000-w1", "Fan-out to 8,000, window 1", DELIVERIES, 8_000, fanout(1)),
    work("fanout-8000-w64", "Fan-out to 8,000, window 64", DELIVERIES, 8_000, fanout(64)),
    work(
        "fanout-1000-w64-1k",
        "Fan-out of 1 KiB to 1,000, window 64",
        DELIVERIES,
        1_000,
        Kind::Fanout { window: 64, payload: 1_024, content: Content::Alphabet },
    ),
    work("fanout-1000-w1-feed", "Fan-out of 1 KiB of quotes to 1,000, window 1", DELIVERIES, 1_000, feed(1)),
    work("fanout-1000-w64-feed", "Fan-out of 1 KiB of quotes to 1,000, window 64", DELIVERIES, 1_000, feed(64)),
    work("saturated", "Fan-out to 1,000, the best window", DELIVERIES, 1_000, Kind::Saturated),
    work(
        "latency",
        "Fan-out to 1,000, open loop at 70 % of each server's own saturated rate",
        DELIVERIES,
        1_000,
        Kind::Latency { same: false },
    ),
    work(
        "latency-same",
        "Fan-out to 1,000, open loop at one rate for all",
        DELIVERIES,
        1_000,
        Kind::Latency { same: true },
    ),
    work("echo-100-p1", "Echo on 100 connections, pipeline 1", "echoes/s", 100, echo(1)),
    work("echo-100-p16", "Echo on 100 connections, pipeline 16", "echoes/s", 100, echo(16)),
    work("echo-1000-p1", "Echo on 1,000 connections, pipeline 1", "echoes/s", 1_000, echo(1)),
    work("echo-1000-p16", "Echo on 1,000 connections, pipeline 16", "echoes/s", 1_000, echo(16)),
    work(
        "channels-wide",
        "8,000 connections with 20 of 5,000 channels",
        DELIVERIES,
        8_000,
        channels(Mode::Publish, 20, 1),
    ),
    work(
        "channels-k1",
        "Rooms: 1 channel each, fan-out 32, window 1",
        DELIVERIES,
        1_600,
        channels(Mode::Publish, 1, 1),
    ),
    work("channels-k10", "Rooms: 10 channels each, window 1", DELIVERIES, 1_600, channels(Mode::Publish, 10, 1)),
    work("channels-k30", "Rooms: 30 channels each, window 1", DELIVERIES, 1_600, channels(Mode::Publish, 30, 1)),
    work("channels-k100", "Rooms: 100 channels each, window 1", DELIVERIES, 1_600, channels(Mode::Publish, 100, 1)),
    work("channels-k1-w32", "Rooms: 1 channel each, window 32", DELIVERIES, 1_600, channels(Mode::Publish, 1, 32)),
    work("channels-k30-w32", "Rooms: 30 channels each, window 32", DELIVERIES, 1_600, channels(Mode::Publish, 30, 32)),
    work("replies-k1", "Private replies, 1 subscription each", REPLIES, 1_600, channels(Mode::Reply, 1, 1)),
    work("replies-k100", "Private replies, 100 subscriptions each", REPLIES, 1_600, channels(Mode::Reply, 100, 1)),
    work(
        "subscribe-k20",
        "Subscribing to 20 channels in a row",
        SUBSCRIPTIONS,
        1_600,
        channels(Mode::Subscribe, 20, 16),
    ),
    work(
        "subscribe-k100",
        "Subscribing to 100 channels in a row",
        SUBSCRIPTIONS,
        1_600,
        channels(Mode::Subscribe, 100, 16),
    ),
    work("talk", "Chat: 500 talk in one lobby, 2,000 messages/s", DELIVERIES, 500, Kind::Talk { rate: 2_000 }),
    work("low-rate", "100 publications/s to 100, the last subscriber", DELIVERIES, 100, Kind::Low { rate: 100 }),
    work("api-1", "HTTP publish to 1 subscriber, 1 connection", REQUESTS, 1, api(1, 1)),
    work("api-16", "HTTP publish to 1 subscriber, 16 connections", REQUESTS, 16, api(1, 1)),
    work("api-64", "HTTP publish to 1 subscriber, 64 connections", REQUESTS, 64, api(1, 1)),
    work("api-alone", "HTTP publish to nobody, 64 connections", REQUESTS, 64, api(0, 1)),
    work("api-alone-p16", "HTTP publish to nobody, 64 connections, 16 in a row", REQUESTS, 64, api(0, 16)),
    work("broadcast-10", "HTTP broadcast to 10 channels", CHANNELS, 1, Kind::Broadcast { channels: 10 }),
    work("broadcast-100", "HTTP broadcast to 100 channels", CHANNELS, 1, Kind::Broadcast { channels: 100 }),
    work("broadcast-1000", "HTTP broadcast to 1,000 channels", CHANNELS, 1, Kind::Broadcast { channels: 1_000 }),
    work("newcomers", "Signing in beside 900 others", "sign-ins/s", 900, Kind::Newcomers { newcomers: 100 }),
    work(
        "memory-channel",
        "Memory of a channel with one subscriber",
        SUBSCRIPTIONS,
        1_000,
        Kind::Channels { mode: Mode::Subscribe, each: 50, fanout: 1, window: 16 },
    ),
    work(
        "memory-subscription",
        "Memory of a further subscription",
        SUBSCRIPTIONS,
        1_000,
        Kind::Channels { mode: Mode::Subscribe, each: 100, fanout: 1_000, window: 16 },
    ),
    work("memory-api", "Memory of an idle connection of the HTTP API", "connections/s", 2_000, Kind::IdleApi),
    work("connect", "Connecting, and memory of idle connections", "connections/s", 8_000, Kind::Connect),
    work("chat", "Chat: 500 users, 100 messages/s, 20 leave and return a second", DELIVERIES, 500, Kind::Chat),
    work("storm", "Storm: 1,000 dropped at once, with recovery", "returns/s", 1_000, Kind::Storm),
];

/// The works of the page of results: `--works page`.
pub const PAGE: [&str; 34] = [
    "fanout-100-w1",
    "fanout-100-w64",
    "fanout-1000-w1",
    "fanout-1000-w64",
    "fanout-8000-w1",
    "fanout-8000-w64",
    "echo-100-p1",
    "echo-100-p16",
    "echo-1000-p1",
    "echo-1000-p16",
    "channels-wide",
    "channels-k1",
    "channels-k10",
    "channels-k30",
    "channels-k100",
    "channels-k30-w32",
    "replies-k1",
    "replies-k100",
    "subscribe-k20",
    "subscribe-k100",
    "talk",
    "low-rate",
    "api-1",
    "api-16",
    "api-64",
    "api-alone",
    "broadcast-10",
    "broadcast-100",
    "broadcast-1000",
    "newcomers",
    "memory-channel",
    "memory-subscription",
    "memory-api",
    "connect",
];

impl Work {
    /// The works called `names`, or all; the search goes ahead of what needs its rate.
    pub fn chosen(names: &[String]) -> Result<Vec<Self>> {
        for name in names {
            if name != "page" && !ALL.iter().any(|work| work.covered_by(name)) {
                let known: Vec<_> = ALL.iter().map(|work| work.name).collect();
                anyhow::bail!("--works {name}: no such work; there are {}", known.join(", "));
            }
        }
        let is_asked = |work: &Self, name: &String| match name.as_str() {
            "page" => PAGE.contains(&work.name),
            _ => work.covered_by(name),
        };
        let asked = |work: &Self| names.is_empty() || names.iter().any(|name| is_asked(work, name));
        Ok(ALL.into_iter().filter(asked).collect())
    }

    /// `name` is this work's, or, if it is no other's, what stands before a dash in it.
    fn covered_by(&self, name: &str) -> bool {
        if ALL.iter().any(|work| work.name == name) {
            return self.name == name;
        }
        self.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    /// Only uringcast's protocol has what it takes.
    pub fn needs_uringcast(&self) -> bool {
        matches!(self.kind, Kind::Chat | Kind::Storm | Kind::Newcomers { .. })
    }

    /// A server with this protocol has what it takes; none is uringcast's.
    pub fn is_possible(&self, template: Option<&Template>) -> bool {
        let Some(template) = template else {
            return true;
        };
        let channels = |asks| Dialect::Template(Box::new(template.clone())).lacks_channels(asks).is_none();
        match self.kind {
            Kind::Channels { mode, .. } => channels(mode == Mode::Reply),
            Kind::Api { .. } | Kind::IdleApi => channels(false) && template.api_path.is_some(),
            Kind::Broadcast { .. } => channels(false) && template.broadcast_path.is_some(),
            _ => !self.needs_uringcast(),
        }
    }

    /// The figures that say who is better, less of each being better.
    pub fn judged_by(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Talk { .. } | Kind::Low { .. } => &["p50_us", "p99_us"],
            Kind::Latency { .. } => &["p50_us", "p99_us"],
            Kind::Connect | Kind::IdleApi => &["bytes_per_connection"],
            _ if self.name.starts_with("memory-") => &["bytes_each"],
            _ => &["server_cpu_ns"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn works_are_chosen_by_name_or_family() {
        let names = |asked: &[&str]| {
            let asked: Vec<_> = asked.iter().map(|name| (*name).to_owned()).collect();
            Work::chosen(&asked).map(|works| works.iter().map(|work| work.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap().len(), ALL.len());
        assert_eq!(names(&["echo-100"]).unwrap(), ["echo-100-p1", "echo-100-p16"]);
        assert_eq!(names(&["latency"]).unwrap(), ["latency"]);
        assert_eq!(names(&["storm", "fanout-8000-w1"]).unwrap(), ["fanout-8000-w1", "storm"]);
        assert!(names(&["fan"]).is_err());
        assert_eq!(names(&["page"]).unwrap().len(), PAGE.len());
    }
}
