//! The fast way of a delivery against the slow one: two shards go through the same publications, replies, subscriptions
//! and full sockets. One of them sends directly where it may. In the other everything goes through outboxes. Each
//! connection has to be sent the same bytes at the same time. Only tests.

use std::sync::Arc;

use proptest::prelude::*;

use super::conns::{Conn, Framing, Stage};
use super::{ApiServing, Compression, Sent, Settings, ShardCore, Wire};
use crate::auth::{CacheLimits, Verifier};
use crate::config::Auth;
use crate::dialect::native::encode::publication_frame_len;
use crate::hub::HubSettings;
use crate::hub::engine::{EngineKind, EngineSettings};
use crate::ids::{ConnId, ShardId};
use crate::limits::{Guard, GuardSettings, Peer};
use crate::metrics::Metrics;
use crate::model::namespace::{Compress, Namespace, Namespaces, Overflow, PublishRule, Sending};
use crate::model::text::Language;
use crate::model::user::DuplicateLogin;
use crate::model::voice::Voice;
use crate::site::Site;
use crate::time::clock::Now;
use crate::wire::deflate::Deflate;
use crate::wire::handshake::Policy;
use crate::wire::{frame, http, websocket};

const NOW: Now = Now { mono_ms: 1_000, unix_ms: 1_800_000_000_000 };
const CONNECTIONS: usize = 6;
const CHANNELS: usize = 100;

#[derive(Clone, Debug)]
enum TwinStep {
    /// A connection subscribes to `count` channels from `first` on, unless it does so already.
    Subscribe {
        conn: usize,
        first: usize,
        count: usize,
    },
    Unsubscribe {
        conn: usize,
        channel: usize,
    },
    /// A frame for the subscribers of a channel, with its length in bytes.
    Publish {
        channel: usize,
        length: usize,
    },
    Reply {
        conn: usize,
        length: usize,
    },
    /// What one read of a connection leads to is sent at once.
    ReplyNow {
        conn: usize,
        length: usize,
    },
    /// The flush begins, unless one is under way.
    Begin,
    /// A part of the flush, with the most sends that it makes.
    Flush {
        sends: usize,
    },
    /// The socket takes this many more bytes.
    Read {
        conn: usize,
        length: usize,
    },
    /// The socket takes everything from now on.
    Open {
        conn: usize,
    },
    /// The peer is gone.
    Reset {
        conn: usize,
    },
}

fn step() -> impl Strategy<Value = TwinStep> {
    let (conn, channel) = (|| 0..CONNECTIONS, || prop_oneof![3 => 0..4usize, 1 => 0..CHANNELS]);
    prop_oneof![
        3 => (conn(), channel(), prop_oneof![3 => 1..4usize, 1 => 1..=CHANNELS])
            .prop_map(|(conn, first, count)| TwinStep::Subscribe { conn, first, count }),
        2 => (conn(), channel()).prop_map(|(conn, channel)| TwinStep::Unsubscribe { conn, channel }),
        8 => (channel(), prop_oneof![9 => 1..400usize, 1 => 4_000..9_000usize])
            .prop_map(|(channel, length)| TwinStep::Publish { channel, length }),
        2 => (conn(), 1..200usize).prop_map(|(conn, length)| TwinStep::Reply { conn, length }),
        1 => (conn(), 1..200usize).prop_map(|(conn, length)| TwinStep::ReplyNow { conn, length }),
        3 => Just(TwinStep::Begin),
        6 => (1..20usize).prop_map(|sends| TwinStep::Flush { sends }),
        3 => (conn(), 0..3_000usize).prop_map(|(conn, length)| TwinStep::Read { conn, length }),
        2 => conn().prop_map(|conn| TwinStep::Open { conn }),
        1 => conn().prop_map(|conn| TwinStep::Reset { conn }),
    ]
}

/// The sockets: what each has taken, and how much more it takes.
#[derive(Debug, Default)]
struct TwinPipes(Vec<TwinPipe>);

#[derive(Debug)]
struct TwinPipe {
    taken: Vec<u8>,
    room: usize,
    is_gone: bool,
}

impl Wire for TwinPipes {
    fn send(&mut self, conn: ConnId, pieces: &[std::io::IoSlice<'_>]) -> Sent {
        let pipe = &mut self.0[conn.slot as usize];
        if pipe.is_gone {
            return Sent::Gone;
        }
        let before = pipe.taken.len();
        for piece in pieces {
            let count = piece.len().min(pipe.room);
            pipe.room -= count;
            pipe.taken.extend_from_slice(&piece[..count]);
        }
        Sent::Bytes(pipe.taken.len() - before)
    }

    fn unacknowledged(&mut self, _: ConnId) -> usize {
        0
    }
}

struct TwinShard {
    core: ShardCore,
    pipes: TwinPipes,
    ids: Vec<ConnId>,
    /// How many frames there were: each has a content of its own.
    frames: u64,
}

impl TwinShard {
    fn new(deflates: &[Option<Deflate>], outbox_bytes: usize, sends_through_outboxes: bool) -> Self {
        let verifier = Arc::new(Verifier::new(&Auth::default()).expect("no key is read"));
        let mut core = ShardCore::new(ShardId(0), Arc::new(settings(outbox_bytes)), verifier, 1);
        core.sends_through_outboxes = sends_through_outboxes;
        let (mut ids, mut pipes) = (Vec::new(), TwinPipes::default());
        for deflate in deflates {
            let mut conn = Conn::new(None, NOW.mono_ms);
            conn.stage = Stage::Native;
            conn.framing = Framing::WebSocket(*deflate);
            ids.push(core.conns.insert(conn, Peer::Unix));
            pipes.0.push(TwinPipe { taken: Vec::new(), room: usize::MAX, is_gone: false });
        }
        Self { core, pipes, ids, frames: 0 }
    }

    fn name(channel: usize) -> Arc<str> {
        format!("c{channel}").into()
    }

    fn frame(&mut self, length: usize) -> Vec<u8> {
        self.frames += 1;
        let mut out = Vec::new();
        frame::write_text(&mut out, format!("{:>length$}", self.frames).as_bytes());
        out
    }

    fn take(&mut self, step: &TwinStep) {
        let Self { core, pipes, ids, .. } = self;
        match *step {
            TwinStep::Subscribe { conn, first, count } => {
                for channel in first..(first + count).min(CHANNELS) {
                    let (id, name) = (ids[conn], Self::name(channel));
                    if core.find_subscription(id, &name).is_some() || core.conns.at(id.slot).is_closing() {
                        continue;
                    }
                    let overflow = [Overflow::Disconnect, Overflow::DropOldest, Overflow::Conflate][channel % 3];
                    let sending = Sending { overflow, compress: Compress::Auto };
                    let epoch = "e".into();
                    let subscription = core.fanout.subscribe((&name, Voice::NativeText), &epoch, sending, id.slot);
                    core.conns.at(id.slot).subscriptions.insert(subscription);
                }
            }
            TwinStep::Unsubscribe { conn, channel } => core.unsubscribe(ids[conn], &Self::name(channel)),
            TwinStep::Publish { channel, length } => {
                let frame = self.frame(length);
                for (_, index) in self.core.fanout.places(&Self::name(channel)) {
                    self.core.fanout.append(index, &frame, self.frames, self.frames % 3);
                }
            }
            TwinStep::Reply { conn, length } => {
                let frame = self.frame(length);
                self.core.push_private(self.ids[conn].slot, |out| out.extend_from_slice(&frame));
            }
            TwinStep::ReplyNow { conn, length } => {
                let frame = self.frame(length);
                self.core.push_private(self.ids[conn].slot, |out| out.extend_from_slice(&frame));
                self.core.reply(self.ids[conn], &mut self.pipes, NOW);
            }
            TwinStep::Begin => {
                if !core.sender.is_flushing() {
                    core.sender.begin_flush(&mut core.fanout);
                }
            }
            TwinStep::Flush { sends } => drop(core.flush_step(sends, pipes, NOW)),
            TwinStep::Read { conn, length } => {
                pipes.0[conn].room = length;
                core.writable(ids[conn], pipes, NOW);
            }
            TwinStep::Open { conn } => {
                pipes.0[conn].room = usize::MAX;
                core.writable(ids[conn], pipes, NOW);
            }
            TwinStep::Reset { conn } => pipes.0[conn].is_gone = true,
        }
    }

    /// All that is left is sent.
    fn rest(&mut self) {
        for conn in 0..CONNECTIONS {
            self.take(&TwinStep::Open { conn });
        }
        while self.core.sender.is_flushing() || self.core.wants_flush() {
            self.take(&TwinStep::Begin);
            self.take(&TwinStep::Flush { sends: usize::MAX });
        }
        for id in &self.ids {
            assert_eq!(self.core.fanout.due_channels(id.slot), 0);
        }
    }
}

proptest! {
    #[test]
    fn a_connection_is_sent_the_same_bytes_either_way(
        steps in prop::collection::vec(step(), 1..150),
        deflates in prop::collection::vec(
            prop::option::weighted(0.3, (9..=15u8, any::<bool>())
                .prop_map(|(window_bits, takeover)| Deflate { window_bits, takeover })),
            CONNECTIONS,
        ),
        outbox_bytes in prop::sample::select(&[4_096, 20_000, 1 << 20][..]),
    ) {
        let mut fast = TwinShard::new(&deflates, outbox_bytes, false);
        let mut slow = TwinShard::new(&deflates, outbox_bytes, true);
        for step in &steps {
            fast.take(step);
            slow.take(step);
            for (fast, slow) in fast.pipes.0.iter().zip(&slow.pipes.0) {
                prop_assert_eq!(&fast.taken, &slow.taken, "after {:?}", step);
            }
        }
        fast.rest();
        slow.rest();
        for (fast, slow) in fast.pipes.0.iter().zip(&slow.pipes.0) {
            prop_assert_eq!(&fast.taken, &slow.taken);
        }
    }
}

fn settings(outbox_bytes: usize) -> Settings {
    let namespace = |name: &str| Namespace {
        publish: PublishRule::Members,
        history_size: 0,
        escape: false,
        ..Namespace::plain(name)
    };
    let guard = Arc::new(Guard::new(GuardSettings::default()));
    Settings {
        hub: HubSettings {
            shards: 1,
            namespaces: Arc::new(Namespaces::new(namespace("lobby"), namespace(""), [])),
            duplicate_login: DuplicateLogin::Allow,
            connections_per_user: 0,
            probes: false,
            guard: Arc::clone(&guard),
            frame_len: publication_frame_len,
            push_bytes: 1 << 20,
            recover_bytes: 1 << 20,
            patience_ms: 1_000,
            channels: 1_000,
            engine: EngineSettings { kind: EngineKind::Memory, history_bytes: 0, idempotency_keys: 1 },
            presence_digest_above: 1_000,
            presence_list: 1,
        },
        language: Language::En,
        guard,
        metrics: Metrics::new(1),
        refusals: Arc::default(),
        lane_parcels: 64,
        site: Arc::new(Site {
            path: "/ws".into(),
            event_stream_path: String::new(),
            echo: false,
            policy: Policy::default(),
            dev: None,
        }),
        head: http::HeadLimits::default(),
        messages: websocket::MessageLimits { message_bytes: 1 << 20, frame_bytes: 1 << 20, fragment_overhead: 64 },
        auth_message_bytes: 1 << 20,
        outbox_bytes,
        subscriptions: CHANNELS,
        requests_per_connection: 32,
        request_ms: 1_000,
        api: ApiServing { rules: None, connections: 1, requests: 1, body_bytes: 1, idle_ms: 1_000 },
        handshake_ms: 1_000,
        auth_ms: 1_000,
        token_cache: CacheLimits::default(),
        probe_ms: 0,
        ping_interval_ms: 25_000,
        pong_timeout_ms: 10_000,
        presence_gather_ms: 0,
        presence_gather_above: 0,
        compression: Compression { level: 1, min_bytes: 60, slice_bytes: 1 << 16 },
        stopwatch: || 0,
        give_back: || (),
        boot_id: 1,
    }
}
