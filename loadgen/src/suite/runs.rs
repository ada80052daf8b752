//! The single runs of a suite: a work and a running server become the arguments of a command.
//!
//! Called by `suite`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;

use super::works::Kind;
use crate::args::{
    ApiArgs, Auth, ChannelsArgs, ChatArgs, Common, Compression, ConnectArgs, EchoArgs, EventStreams, FanoutArgs,
    NewcomersArgs, Place, Span, Speak, StormArgs, Users,
};
use crate::commands;
use crate::marker::Content;
use crate::protocol::Template;
use crate::report::Report;
use crate::work::channels::Mode;

/// What the channels' names begin with: a namespace that uringcast servers are started with.
const PREFIX: &str = "room:";

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
    /// The same on a channel.
    pub around_text_in_channels: Option<usize>,
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
    /// HOST:PORT of its HTTP API.
    pub api: &'a str,
    /// The key for that.
    pub api_key: &'a str,
}

/// One run of one work on one server.
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
    /// Runs it against a server, and returns what was measured.
    pub fn go(&self, endpoint: &Endpoint<'_>, settings: &Settings, interrupted: &Arc<AtomicBool>) -> Result<Report> {
        let common = self.common(endpoint, settings);
        let auth = Auth {
            users: match self.kind {
                Kind::Chat | Kind::Newcomers { .. } => Users::Distinct,
                _ => Users::Same,
            },
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
        let padded = endpoint.template.is_some() && endpoint.pad;
        let wire_bytes = |payload: usize| settings.around_text.filter(|_| padded).map(|around| around + payload);
        let in_channels = Place { url: url("/ws", |template| &template.channels_path), ..place.clone() };
        let around_in_channels = settings.around_text_in_channels.filter(|_| padded);
        let in_channels_speak = Speak { wire_bytes: around_in_channels.map(|around| around + 64), ..speak.clone() };
        match self.kind {
            Kind::Channels { mode, each, fanout, window } => commands::channels(
                &ChannelsArgs {
                    connections,
                    // A try with few connections has fewer channels.
                    each: each.min((connections * each).div_ceil(fanout.min(connections))),
                    fanout: fanout.min(connections),
                    mode,
                    // Those that are looked at for memory subscribe a few at a time.
                    window: if mode == Mode::Subscribe { window.min(connections) } else { window },
                    payload: 64,
                    prefix: PREFIX.to_owned(),
                    span,
                    speak: in_channels_speak,
                    place: in_channels,
                },
                interrupted,
            ),
            Kind::Api { .. } | Kind::Broadcast { .. } | Kind::IdleApi => {
                let (subscribers, pipeline, broadcast) = match self.kind {
                    Kind::Api { subscribers, pipeline } => (subscribers, pipeline, None),
                    Kind::Broadcast { channels } => (channels, 1, Some(channels)),
                    _ => (0, 1, None),
                };
                commands::api(
                    &ApiArgs {
                        api: format!("http://{}", endpoint.api),
                        key: Some(endpoint.api_key.to_owned()),
                        connections: if broadcast.is_some() { 1 } else { connections },
                        pipeline,
                        subscribers,
                        broadcast,
                        idle: self.kind == Kind::IdleApi,
                        settle: 1.0,
                        payload: 64,
                        prefix: PREFIX.to_owned(),
                        span,
                        speak: in_channels_speak,
                        place: in_channels,
                    },
                    interrupted,
                )
            }
            Kind::Newcomers { newcomers } => commands::newcomers(
                &NewcomersArgs {
                    residents: connections,
                    newcomers: newcomers.min(connections),
                    at_a_time: 1,
                    within: settings.timeout,
                    place,
                },
                interrupted,
            ),
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
            Kind::Fanout { .. } | Kind::Saturated | Kind::Latency { .. } | Kind::Talk { .. } | Kind::Low { .. } => {
                let (window, payload, content) = match self.kind {
                    Kind::Fanout { window, payload, content } => (window, payload, content),
                    _ => (1, 64, Content::Alphabet),
                };
                let talk = matches!(self.kind, Kind::Talk { .. });
                let args = FanoutArgs {
                    subscribers: connections,
                    publishers: if talk { connections as u16 } else { 1 },
                    window,
                    lockstep: endpoint.lockstep && self.rate.is_none(),
                    payload,
                    content,
                    sample: 64,
                    last: matches!(self.kind, Kind::Low { .. }),
                    span,
                    speak: Speak { wire_bytes: wire_bytes(payload), ..speak },
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
