//! The works of a suite: what each measures, and the single runs that it is made of.
//!
//! Turns a work and a running server into the arguments of a command. Called by `suite`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;

use crate::args::{
    Auth, ChatArgs, Common, Compression, ConnectArgs, EchoArgs, EventStreams, FanoutArgs, Place, Span, Speak,
    StormArgs, Users,
};
use crate::commands;
use crate::marker::Content;
use crate::protocol::Template;
use crate::report::Report;

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
    /// Connect rate and idle memory.
    Connect,
    /// Users who come, go and publish.
    Chat,
    /// All dropped, all back.
    Storm,
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

const DELIVERIES: &str = "deliveries/s";

/// All works, in the order in which they are done.
pub const ALL: [Work; 19] = [
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
    work("connect", "Connecting, and memory of idle connections", "connections/s", 8_000, Kind::Connect),
    work("chat", "Chat: 500 users, 100 messages/s, 20 leave and return a second", DELIVERIES, 500, Kind::Chat),
    work("storm", "Storm: 1,000 dropped at once, with recovery", "returns/s", 1_000, Kind::Storm),
];

impl Work {
    /// The works called `names`, or all; the search goes ahead of what needs its rate.
    pub fn chosen(names: &[String]) -> Result<Vec<Self>> {
        for name in names {
            if !ALL.iter().any(|work| work.covered_by(name)) {
                let known: Vec<_> = ALL.iter().map(|work| work.name).collect();
                anyhow::bail!("--works {name}: no such work; there are {}", known.join(", "));
            }
        }
        let asked = |work: &Self| names.is_empty() || names.iter().any(|name| work.covered_by(name));
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
        matches!(self.kind, Kind::Chat | Kind::Storm)
    }
}

/// What all runs of a suite have in common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long to send, in seconds.
    pub seconds: f64,
    /// The load threads' CPUs, one each.
    pub load_cpus: Vec<usize>,
    /// The deadline of every wait, in seconds.
    pub timeout: f64,
    /// The secret that uringcast servers are started with.
    pub secret: String,
    /// Bytes that uringcast adds to a text in a delivered message.
    pub around_text: Option<usize>,
}

/// A server that listens, and how to speak to it.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// HOST:PORT.
    pub address: &'a str,
    /// Its process.
    pub pid: u32,
    /// Its protocol, if not uringcast's.
    pub template: Option<&'a Template>,
    /// Its deliveries are to be as long as uringcast's.
    pub pad: bool,
    /// Send whole windows.
    pub lockstep: bool,
    /// What is offered to it to compress.
    pub compress: Option<&'a str>,
    /// How large a part of the subscribers are event streams.
    pub sse: f64,
    /// Its secret.
    pub secret: &'a str,
}

/// One single run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// How many connections.
    pub connections: u32,
    /// What is done.
    pub kind: Kind,
    /// Publications a second, for an open loop.
    pub rate: Option<f64>,
    /// How long to send, in seconds.
    pub seconds: f64,
}

impl Run {
    /// Does it.
    pub fn go(&self, endpoint: &Endpoint<'_>, settings: &Settings, interrupted: &Arc<AtomicBool>) -> Result<Report> {
        let common = self.common(endpoint, settings);
        let auth = Auth {
            users: if self.kind == Kind::Chat { Users::Distinct } else { Users::Same },
            secret: Some(endpoint.secret.to_owned()),
            secret_file: None,
            token: None,
            dev: false,
        };
        let seconds = self.seconds;
        let span = Span { seconds, warmup: (seconds / 5.0).min(1.0), rate: self.rate };
        let speak = Speak { template: endpoint.template.cloned(), ..Speak::default() };
        let url = |own: &str, path: fn(&Template) -> &str| {
            format!("ws://{}{}", endpoint.address, endpoint.template.map_or(own, path))
        };
        let streams = EventStreams { sse: endpoint.sse, sse_path: "/sse?channel=lobby".to_owned() };
        let place = Place { url: url("/ws", |template| &template.fanout_path), auth, common: common.clone() };
        let connections = self.connections;
        match self.kind {
            Kind::Echo { pipeline } => {
                let url = url("/echo", |template| &template.echo_path);
                let args = EchoArgs { url, connections, pipeline, payload: 64, binary: false, span, common };
                commands::echo(&args, interrupted)
            }
            Kind::Connect => commands::connect(
                &ConnectArgs { connections, rate: None, no_auth: false, settle: 1.0, hold: 0.0, speak, streams, place },
                interrupted,
            ),
            Kind::Chat => commands::chat(
                &ChatArgs {
                    connections,
                    publishers: 8.min(connections as u16),
                    churn: 20.0,
                    away_ms: 500,
                    rooms: 0,
                    room_prefix: String::new(),
                    payload: 64,
                    span,
                    place,
                },
                interrupted,
            ),
            Kind::Storm => commands::storm(
                &StormArgs {
                    connections,
                    publishers: 1,
                    rate: 20.0,
                    jitter_ms: 0,
                    before: 0.5,
                    within: settings.timeout,
                    payload: 64,
                    place,
                },
                interrupted,
            ),
            Kind::Fanout { .. } | Kind::Saturated | Kind::Latency { .. } => {
                let (window, payload, content) = match self.kind {
                    Kind::Fanout { window, payload, content } => (window, payload, content),
                    _ => (1, 64, Content::Alphabet),
                };
                let padded = endpoint.template.is_some() && endpoint.pad;
                let wire_bytes = settings.around_text.filter(|_| padded).map(|around| around + payload);
                let args = FanoutArgs {
                    subscribers: connections,
                    publishers: 1,
                    window,
                    lockstep: endpoint.lockstep && self.rate.is_none(),
                    payload,
                    content,
                    sample: 64,
                    last: false,
                    span,
                    speak: Speak { wire_bytes, ..speak },
                    streams,
                    place,
                };
                commands::fanout(&args, interrupted)
            }
        }
    }

    fn common(&self, endpoint: &Endpoint<'_>, settings: &Settings) -> Common {
        let threads = settings.load_cpus.len().clamp(1, (self.connections as usize).min(256));
        let cpus: Vec<_> = settings.load_cpus.iter().map(usize::to_string).collect();
        Common {
            threads: threads as u16,
            cpu: (!cpus.is_empty()).then(|| cpus.join(",")),
            pid: Some(endpoint.pid),
            source: Vec::new(),
            in_flight: 128,
            timeout: settings.timeout,
            wait: settings.timeout,
            delay_acks: true,
            compression: Compression {
                verify_every: 64,
                compress_above: 256,
                compress: endpoint.compress.map(str::to_owned),
            },
            json: None,
            html: None,
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
    }
}
