//! The configuration as the shards' settings. Bounds of the whole process are divided among the shards here, and
//! settings that hang together are derived from each other.

use std::sync::Arc;

use rustix::process::{Resource, getrlimit};

use crate::auth::{self, CacheLimits, Verifier};
use crate::boot::api;
use crate::boot::error::BootError;
use crate::config::{Config, ConfigError, Limits};
use crate::dialect::native::encode::publication_frame_len;
use crate::hub::HubSettings;
use crate::hub::engine::{EngineKind, EngineSettings};
use crate::limits::{Guard, GuardSettings, Rate, Rates};
use crate::metrics::Metrics;
use crate::shard::{Compression, Settings};
use crate::site::Site;
use crate::time::clock;
use crate::wire::handshake::Policy;
use crate::wire::http;
use crate::wire::origin::Origins;
use crate::wire::websocket;

/// What a fragment of a message counts beyond its payload, in bytes, against the limit of a message.
const FRAGMENT_OVERHEAD: usize = 64;
/// At most this many connections at a time are being told that they are over a limit.
const REFUSALS_MAX: usize = 1024;
/// Connections that are being refused may take one of this many descriptors.
const REFUSALS_PART: u64 = 16;
/// Users whose rates are remembered at a time: those who sent something within the last seconds.
const USERS: usize = 262_144;

/// The keys that tokens are verified with.
///
/// # Errors
/// [`ConfigError`] if a key cannot be read.
pub(super) fn verifier(config: &Config) -> Result<Verifier, ConfigError> {
    let verifier = Verifier::new(&config.auth)?;
    verifier.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(verifier)
}

/// The settings of all shards. `api_descriptors` are those that the API's connections may take. `give_back` makes the allocator return free memory to the kernel.
///
/// # Errors
/// [`BootError::Config`] if `origins`, the keys of the API or the secret of `--dev` cannot be read.
pub(super) fn of_shards(
    config: &Config,
    shards: usize,
    api_descriptors: usize,
    give_back: fn(),
) -> Result<Settings, BootError> {
    let limits = &config.limits;
    let origins = match config.origins.as_slice() {
        [] => Origins::SameHost,
        list => Origins::list(list).map_err(|fault| ConfigError::of_key("origins", fault))?,
    };
    // A bound of the process is divided evenly: channels and users are spread over the shards by a hash.
    let share = |bound: usize| bound.div_ceil(shards);
    warn_of_windows(config);
    let guard = Arc::new(Guard::new(guard(limits)));
    let dev = if config.dev { auth::hs256_secret(&config.auth)? } else { None };
    // A sign-in that waits for a probe is a request too: it must be answered within `limits.request_ms`.
    let probe_ms = config.auth.probe_ms.min(limits.request_ms / 2);
    let namespaces = Arc::new(config.channel_namespaces());
    Ok(Settings {
        api: api::serving(config, &namespaces, shards, api_descriptors)?,
        hub: HubSettings {
            shards,
            namespaces: Arc::clone(&namespaces),
            duplicate_login: config.auth.duplicate_login,
            connections_per_user: limits.connections_per_user,
            probes: probe_ms > 0,
            guard: Arc::clone(&guard),
            frame_len: publication_frame_len,
            push_bytes: limits.push_bytes,
            recover_bytes: limits.outbox_bytes / 2,
            patience_ms: limits.request_ms / 2,
            channels: share(limits.channels),
            engine: EngineSettings {
                kind: EngineKind::Memory,
                history_bytes: share(limits.history_bytes),
                idempotency_keys: u32::try_from(share(limits.idempotency_keys)).unwrap_or(u32::MAX),
            },
            presence_digest_above: limits.presence_digest_above as u64,
            presence_list: limits.presence_list,
        },
        presence_gather_ms: limits.presence_gather_ms,
        presence_gather_above: limits.presence_gather_above,
        language: config.language,
        guard,
        metrics: Metrics::new(shards),
        refusals: Arc::default(),
        lane_parcels: limits.lane_parcels,
        site: Arc::new(Site {
            path: config.path.clone(),
            event_stream_path: config.sse_path.clone(),
            echo: config.echo,
            policy: Policy {
                origins,
                dev_hosts: config.dev,
                subprotocols: &["uringcast.v1"],
                compression: config.compression.mode,
            },
            dev,
        }),
        head: http::HeadLimits { head_bytes: limits.header_bytes, headers: limits.headers },
        messages: websocket::MessageLimits {
            message_bytes: limits.message_bytes,
            frame_bytes: limits.frame_limit(),
            fragment_overhead: FRAGMENT_OVERHEAD,
        },
        auth_message_bytes: limits.auth_message_bytes,
        outbox_bytes: limits.outbox_bytes,
        subscriptions: limits.subscriptions,
        requests_per_connection: limits.requests_per_connection,
        request_ms: limits.request_ms,
        handshake_ms: limits.handshake_ms,
        auth_ms: config.auth.deadline_ms,
        probe_ms,
        token_cache: CacheLimits {
            tokens: share(config.auth.cached_tokens),
            bytes: share(config.auth.cached_tokens_bytes),
        },
        ping_interval_ms: config.liveness.ping_interval_ms,
        pong_timeout_ms: config.liveness.pong_timeout_ms,
        compression: Compression::new(config.compression.level, config.compression.min_bytes),
        stopwatch: clock::stopwatch_ns,
        give_back,
        boot_id: rand::random(),
    })
}

/// How many connections at a time may be told that they are over a limit. They must not take the descriptors of
/// connections that are admitted.
fn refusals() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(descriptors / REFUSALS_PART).map_or(REFUSALS_MAX, |part| part.min(REFUSALS_MAX))
}

fn guard(limits: &Limits) -> GuardSettings {
    // The largest message that is allowed must fit into a burst, with its frame and what was sent along with it.
    let room = |burst: u64| burst.max(limits.message_bytes as u64 * 2);
    GuardSettings {
        exempt: limits.exempt.clone(),
        trusted_proxies: limits.trusted_proxies.clone(),
        forwarded_header: limits.forwarded_header,
        connections: limits.connections,
        refusals: refusals(),
        connections_per_shard: limits.connections_per_shard,
        connections_per_ip: limits.connections_per_ip,
        arrivals: Rate::per_s(limits.new_connections_per_ip_per_s, limits.new_connections_per_ip_burst),
        auth_failures: Rate::per_minute(limits.auth_failures_per_ip_per_minute, limits.auth_failures_per_ip_burst),
        auth_attempts: limits.auth_attempts,
        unfinished_per_ip: limits.unfinished_bytes_per_ip,
        unfinished: limits.unfinished_bytes,
        addresses: limits.addresses,
        connection: Rates {
            messages: Rate::per_s(limits.messages_per_s, limits.messages_burst),
            bytes: Rate::per_s(limits.bytes_per_s, room(limits.bytes_burst)),
        },
        user: Rates {
            messages: Rate::per_s(limits.user_messages_per_s, limits.user_messages_burst),
            bytes: Rate::per_s(limits.user_bytes_per_s, room(limits.user_bytes_burst)),
        },
        answers: Rate::per_s(
            limits.user_answer_bytes_per_s,
            limits.user_answer_bytes_burst.max(2 * limits.outbox_bytes as u64),
        ),
        unread_answers: 4 * limits.outbox_bytes as u64,
        users: USERS,
    }
}

/// Warns of a batch window that is longer than a request may take: such a publish would never be answered in time.
fn warn_of_windows(config: &Config) {
    let longest = config.limits.request_ms / 2;
    let named = config.namespaces.iter().map(|(name, rules)| (name.as_str(), rules));
    for (section, rules) in [("lobby", &config.lobby), ("channels", &config.channels)].into_iter().chain(named) {
        if rules.batch_window_ms > longest {
            tracing::warn!(section, "batch_window_ms is above half of limits.request_ms: publishes will end in 504");
        }
    }
}
