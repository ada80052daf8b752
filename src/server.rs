//! Boot and end: from a configuration to running shards, and from a signal to their end. Probes what it needs of
//! the kernel first and says what is missing. The thread that calls `run` waits for signals and tells the shards
//! (flume, then the shard's bell) and the backend's API, which `control` runs on a thread of its own.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use rustls::ServerConfig;
use signal_hook::iterator::Signals;

use crate::auth::{self, ApiKeys, CacheLimits, Revocations, Verifier};
use crate::clock::{self, Clock};
use crate::config::{Config, ConfigError, Limits};
use crate::control::{self, Control, Ledger, Owners};
use crate::cpus;
use crate::http::Site;
use crate::hub::HubSettings;
use crate::ids::ShardId;
use crate::limits::{Guard, Rate, Rates, Rules};
use crate::listener;
use crate::log::LostLines;
use crate::memory::{self, Watch};
use crate::mesh::{self, Waker};
use crate::metrics::Metrics;
use crate::proto::handshake::{self, Policy};
use crate::proto::origin::Origins;
use crate::proto::websocket;
use crate::reactor::{Command, Counters, Door, Entry, Parts, Reactor};
use crate::refusals::RefusalLog;
use crate::shard::{Compression, Settings, Shard};
use crate::signals::{self, Meaning};
use crate::tls::{self, Identity};

/// Entries of each shard's submission queue; a full one with many inline completions would overflow its
/// completion queue.
const RING_ENTRIES: u32 = 4096;
/// What a fragment of a message costs beyond its payload, against the message limit.
const FRAGMENT_OVERHEAD: usize = 64;
/// Commands that may wait for a shard; the control thread waits when there are more.
const COMMANDS: usize = 256;
/// Descriptors that the process needs beside its connections, per shard and in all.
const DESCRIPTORS_PER_SHARD: u64 = 8;
const DESCRIPTORS: u64 = 32;

/// Why the server can't start, or had to stop: always with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The listening address.
    #[error("cannot listen on {addr}: {cause}{}", listen_hint(.cause))]
    Listen {
        /// What was asked for.
        addr: SocketAddr,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The second address, for TLS.
    #[error("cannot listen on {addr} for TLS (tls.listen): {cause}{}", listen_hint(.cause))]
    ListenTls {
        /// What was asked for.
        addr: SocketAddr,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The API's address.
    #[error("cannot listen on {addr} for the HTTP API (http.listen): {cause}")]
    ListenApi {
        /// What was asked for.
        addr: SocketAddr,
        /// What the kernel said.
        cause: io::Error,
    },
    /// io_uring.
    #[error(
        "io_uring is not available: {0}. It needs Linux 6.0 or later with kernel.io_uring_disabled = 0; in a \
         container the seccomp profile must allow io_uring_setup, io_uring_enter and io_uring_register (Docker's \
         default profile may not)"
    )]
    Uring(io::Error),
    /// Operations of io_uring.
    #[error("this kernel's io_uring lacks {0}: Linux 6.0 or later is needed")]
    UringOperation(&'static str),
    /// File descriptors.
    #[error(
        "only {limit} file descriptors are allowed and {needed} are needed for {shards} shards alone: raise the \
         limit (ulimit -n, or LimitNOFILE in a systemd unit; see tuning/)"
    )]
    Descriptors {
        /// The hard limit.
        limit: u64,
        /// The least that is needed.
        needed: u64,
        /// Of how many shards.
        shards: usize,
    },
    /// Anything else that the kernel refused.
    #[error("{what}: {cause}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        cause: io::Error,
    },
    /// A shard ended by a fault of the server.
    #[error("shard {0} failed; the log says why")]
    Shard(usize),
}

fn listen_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another program listens there; --listen ADDR:PORT chooses another place)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need the right CAP_NET_BIND_SERVICE)",
        io::ErrorKind::AddrNotAvailable => " (this machine has no such address)",
        _ => "",
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> BootError {
    move |cause| BootError::System { what, cause }
}

/// The running server.
#[derive(Debug)]
pub struct Server {
    places: Places,
    config: Config,
    shards: Vec<Handle>,
    signals: Signals,
    control: Option<Control>,
    certificate: Option<tls::Watch>,
    memory: Watch,
    refusals: Arc<RefusalLog>,
}

/// Where a server listens: at one of them at least.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// For plain connections.
    pub plain: Option<SocketAddr>,
    /// For TLS.
    pub tls: Option<SocketAddr>,
}

/// A shard's thread, as the control thread sees it.
#[derive(Debug)]
struct Handle {
    commands: flume::Sender<Command>,
    waker: Waker,
    thread: JoinHandle<()>,
}

impl Handle {
    fn tell(&self, command: Command) {
        // A shard that has ended needs no commands.
        let _ = self.commands.send(command);
        self.waker.wake();
    }
}

impl Server {
    /// Starts all shards. On return every one of them accepts connections. How many log lines were `lost` is a metric;
    /// `give_back` has the allocator return memory that the process doesn't use, and the calling thread.
    ///
    /// # Errors
    /// [`BootError`], with nothing left running.
    pub fn start(config: &Config, lost: LostLines, give_back: fn()) -> Result<Self, BootError> {
        probe_uring()?;
        forgo_huge_pages();
        let cpus = cpus::usable().map_err(system("reading the CPU affinity"))?;
        let count = match config.shards {
            0 => cpus::shards_for(&cpus),
            n => usize::from(n),
        };
        let api = api(config)?;
        let share = raise_descriptor_limit(count, config, api.is_some())?;
        let verifier = Arc::new(verifier(config)?);
        let settings = Arc::new(settings(config, count, give_back)?);
        let clock = Clock::start();
        // Before any thread: so that they all inherit the handlers, and a signal during boot isn't lost.
        let signals = Signals::new(signals::all()).map_err(system("installing signal handlers"))?;
        let identity = identity(config)?;
        let (places, doors) = doors(config, count)?;
        let served = identity.as_ref().map(|(_, _, served)| Arc::clone(&served.config));
        let ledger = ledger(config, clock.now().unix_ms)?;
        let endpoints = mesh::build(count, settings.lane_parcels).map_err(system("creating the lanes"))?;
        let counters = Arc::new(Counters::default());
        let entry = Entry {
            guard: Arc::clone(&settings.guard),
            proxy_protocol: config.limits.proxy_protocol,
            patience: Duration::from_millis(config.limits.handshake_ms),
            sockets_max: share.sockets,
            refusals: Arc::clone(&settings.refusals),
        };
        let (ready, started) = mpsc::channel();
        let mut shards = Vec::with_capacity(count);
        for (endpoint, doors) in endpoints.into_iter().zip(doors) {
            let (commands, inbox) = flume::bounded(COMMANDS);
            let waker = endpoint.waker();
            let own = endpoint.own();
            let cpu = config.pin_cpus.then(|| cpus[own.index() % cpus.len()]);
            let boot = Boot {
                own,
                settings: Arc::clone(&settings),
                verifier: Arc::clone(&verifier),
                revocations: ledger.table().clone(),
                cpu,
                doors,
                certificate: served.clone(),
                endpoint,
                commands: inbox,
                counters: Arc::clone(&counters),
                connections_max: config.limits.connections,
                entry: entry.clone(),
                clock,
            };
            let ready = ready.clone();
            let thread = std::thread::Builder::new()
                .name(format!("shard-{}", own.0))
                .spawn(move || boot.run(&ready))
                .map_err(system("starting a shard's thread"))?;
            shards.push(Handle { commands, waker, thread });
        }
        drop(ready);
        for _ in 0..count {
            started
                .recv()
                .unwrap_or_else(|_| Err(io::Error::other("a shard's thread died")))
                .map_err(BootError::Uring)?;
        }
        let control = match api {
            None => None,
            Some((keys, listener)) => {
                let parts = control::Parts {
                    listener,
                    room: control::Room::within(share.api),
                    hosts: config.http.hosts.clone(),
                    cors: Origins::list(&config.http.cors_origins)
                        .map_err(|fault| ConfigError::of_key("http.cors_origins", fault))?,
                    keys,
                    owners: Owners::new(shards.iter().map(|shard| (shard.commands.clone(), shard.waker.clone()))),
                    ledger,
                    revocations_kept_ms: config.auth.revocations_kept_s.saturating_mul(1000),
                    clock,
                    namespaces: Arc::clone(&settings.hub.namespaces),
                    counters,
                    metrics: settings.metrics.clone(),
                    lost,
                    refusals: Arc::clone(&settings.refusals),
                    push_bytes: config.limits.push_bytes,
                    request_ms: config.limits.request_ms,
                    head_ms: config.limits.handshake_ms,
                };
                Some(Control::start(parts).map_err(system("starting the control thread"))?)
            }
        };
        if let Some(control) = &control {
            let addr = control.addr();
            tracing::info!("HTTP API on http://{addr}");
            if !addr.ip().is_loopback() {
                tracing::warn!("the HTTP API can be reached from other machines and its keys travel in the clear");
            }
        }
        let certificate = identity.map(|found| watch(found, &shards, settings.metrics.clone())).transpose();
        let certificate = certificate.map_err(system("starting the certificate's thread"))?;
        let bound = memory::bound(config.limits.memory_bytes);
        let memory = Watch::start(bound, Arc::clone(&settings.guard), give_back)
            .map_err(system("starting the thread that watches memory"))?;
        let refusals = Arc::clone(&settings.refusals);
        Ok(Self { places, config: config.clone(), shards, signals, control, certificate, memory, refusals })
    }

    /// Where the server listens.
    pub fn places(&self) -> Places {
        self.places
    }

    /// How many shards it has.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Waits for signals and does what they mean, until one ends the server.
    ///
    /// # Errors
    /// When a shard failed.
    pub fn run(self) -> Result<(), BootError> {
        let Self { config, shards, signals: mut received, control, certificate, memory, refusals, .. } = self;
        for signal in received.forever() {
            match signals::meaning(signal) {
                Meaning::End => {
                    tracing::info!("{}: going away", signals::name(signal));
                    break;
                }
                Meaning::Nothing => tracing::info!("{} does nothing here", signals::name(signal)),
                Meaning::Reload => {
                    reload(&config, &shards, control.as_ref());
                    if let Some(certificate) = &certificate {
                        certificate.reload();
                    }
                }
            }
        }
        drop(certificate);
        let patience = Duration::from_millis(config.shutdown_ms);
        let end = Instant::now() + patience;
        // First: what the backend was let in for is still answered by all shards, and nobody waits for a window to end.
        if let Some(control) = &control {
            control.drain();
            shards.iter().for_each(|shard| shard.tell(Command::EndWindows));
            control.wait_until_idle(patience / 2);
        }
        let left = end.saturating_duration_since(Instant::now());
        shards.iter().for_each(|shard| shard.tell(Command::Drain(left)));
        for (number, shard) in shards.into_iter().enumerate() {
            shard.thread.join().map_err(|_| BootError::Shard(number))?;
        }
        if let Some(control) = control {
            control.stop(end);
        }
        memory.stop();
        refusals.finish();
        Ok(())
    }
}

/// The certificate, if TLS is spoken, and what is served with it.
fn identity(config: &Config) -> Result<Option<(Identity, tls::Pair, tls::Served)>, ConfigError> {
    let Some(identity) = Identity::new(&config.tls)? else { return Ok(None) };
    let (pair, served) = identity.load()?;
    Ok(Some((identity, pair, served)))
}

/// Tells every shard of each new certificate, and the metrics of when it expires.
fn watch(
    (identity, pair, served): (Identity, tls::Pair, tls::Served),
    shards: &[Handle],
    metrics: Metrics,
) -> io::Result<tls::Watch> {
    let expires = |served: &tls::Served| served.validity.map(|validity| validity.not_after_s);
    metrics.certificate_expires(expires(&served));
    let shards: Vec<_> = shards.iter().map(|shard| (shard.commands.clone(), shard.waker.clone())).collect();
    tls::Watch::start(identity, pair, served.validity, move |served| {
        metrics.certificate_expires(expires(&served));
        for (commands, waker) in &shards {
            // As in `Handle::tell`.
            let _ = commands.send(Command::Certificate(Arc::clone(&served.config)));
            waker.wake();
        }
    })
}

/// Binds what is listened on; one list per shard.
fn doors(config: &Config, shards: usize) -> Result<(Places, Vec<Vec<Door>>), BootError> {
    let is_tls = config.tls.cert_file.is_some() && config.tls.listen.0.is_none();
    let main = listener::bind(config.listen, shards);
    let (addr, listeners) = main.map_err(|cause| BootError::Listen { addr: config.listen, cause })?;
    let door = |tls| move |listener| Door { listener, tls };
    let mut doors: Vec<Vec<Door>> = listeners.into_iter().map(door(is_tls)).map(|door| vec![door]).collect();
    let Some(second) = config.tls.listen.0 else {
        let places = if is_tls { (None, Some(addr)) } else { (Some(addr), None) };
        return Ok((Places { plain: places.0, tls: places.1 }, doors));
    };
    let bound = listener::bind(second, shards);
    let (tls, listeners) = bound.map_err(|cause| BootError::ListenTls { addr: second, cause })?;
    doors.iter_mut().zip(listeners.into_iter().map(door(true))).for_each(|(doors, door)| doors.push(door));
    Ok((Places { plain: Some(addr), tls: Some(tls) }, doors))
}

fn reload(config: &Config, shards: &[Handle], control: Option<&Control>) {
    match verifier(config) {
        Ok(verifier) => {
            let verifier = Arc::new(verifier);
            shards.iter().for_each(|shard| shard.tell(Command::Keys(Arc::clone(&verifier))));
            tracing::info!("keys read anew");
        }
        Err(error) => tracing::error!(%error, "the keys can't be read: the old ones stay in force"),
    }
    if let Some(control) = control {
        match ApiKeys::new(&config.http) {
            Ok(keys) => {
                control.set_keys(keys);
                tracing::info!("API keys read anew");
            }
            Err(error) => tracing::error!(%error, "the API keys can't be read: the old ones stay in force"),
        }
    }
}

/// The API's keys and its socket, if it is to run.
fn api(config: &Config) -> Result<Option<(ApiKeys, TcpListener)>, BootError> {
    let Some(addr) = config.http.listener() else { return Ok(None) };
    let keys = ApiKeys::new(&config.http)?;
    let listener = TcpListener::bind(addr).map_err(|cause| BootError::ListenApi { addr, cause })?;
    Ok(Some((keys, listener)))
}

/// What was revoked before this start, if a file tells.
fn ledger(config: &Config, now_ms: u64) -> Result<Ledger, ConfigError> {
    Ledger::open(config.auth.revocations_file.as_deref(), config.limits.revocations, now_ms)
}

/// What a shard's thread starts from.
struct Boot {
    own: ShardId,
    settings: Arc<Settings>,
    verifier: Arc<Verifier>,
    revocations: Revocations,
    cpu: Option<usize>,
    doors: Vec<Door>,
    certificate: Option<Arc<ServerConfig>>,
    endpoint: mesh::Endpoint<crate::parcel::Parcel>,
    commands: flume::Receiver<Command>,
    counters: Arc<Counters>,
    connections_max: usize,
    entry: Entry,
    clock: Clock,
}

impl Boot {
    fn run(self, ready: &mpsc::Sender<io::Result<()>>) {
        let own = self.own.index();
        let body = std::panic::AssertUnwindSafe(|| self.serve(ready));
        if !matches!(std::panic::catch_unwind(body), Ok(Ok(()))) {
            // Not through the log, whose own thread would not get to it any more.
            eprintln!("uringcast: the loop of shard {own} failed: the process ends");
            // The other shards can't go on without the channels that this one owned.
            std::process::abort();
        }
    }

    fn serve(self, ready: &mpsc::Sender<io::Result<()>>) -> io::Result<()> {
        if let Some(cpu) = self.cpu
            && let Err(error) = cpus::pin(cpu)
        {
            tracing::warn!(%error, cpu, "this shard can't be pinned");
        }
        let runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
            .with_entries(RING_ENTRIES)
            .uring_builder(ring())
            .enable_timer()
            .build();
        let mut runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = ready.send(Err(error));
                return Ok(());
            }
        };
        runtime.block_on(async move {
            let mut shard = Shard::new(self.own, self.settings, self.verifier, rand::random());
            shard.set_revocations(self.revocations);
            let reactor = Reactor::new(Parts {
                shard,
                endpoint: self.endpoint,
                commands: self.commands,
                doors: self.doors,
                certificate: self.certificate,
                counters: self.counters,
                connections_max: self.connections_max,
                entry: self.entry,
                clock: self.clock,
            });
            let _ = ready.send(Ok(()));
            reactor.run().await
        })
    }
}

fn verifier(config: &Config) -> Result<Verifier, ConfigError> {
    let verifier = Verifier::new(&config.auth)?;
    verifier.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(verifier)
}

fn settings(config: &Config, shards: usize, give_back: fn()) -> Result<Settings, BootError> {
    let limits = &config.limits;
    let origins = match config.origins.as_slice() {
        [] => Origins::SameHost,
        list => Origins::list(list).map_err(|fault| ConfigError::of_key("origins", fault))?,
    };
    // Bounds of the process, shared out: owners are spread over the shards by a hash.
    let share = |bound: usize| bound.div_ceil(shards);
    warn_of_windows(config);
    let guard = Arc::new(Guard::new(rules(limits)));
    let dev = if config.dev { auth::hs256_secret(&config.auth)? } else { None };
    // The sign-in that waits is a request like others.
    let probe_ms = config.auth.probe_ms.min(limits.request_ms / 2);
    Ok(Settings {
        hub: HubSettings {
            shards,
            language: config.language,
            namespaces: Arc::new(config.channel_namespaces()),
            duplicate_login: config.auth.duplicate_login,
            connections_per_user: limits.connections_per_user,
            probes: probe_ms > 0,
            guard: Arc::clone(&guard),
            push_bytes: limits.push_bytes,
            recover_bytes: limits.outbox_bytes / 2,
            patience_ms: limits.request_ms / 2,
            channels: share(limits.channels),
            history_bytes: share(limits.history_bytes),
            idempotency_keys: u32::try_from(share(limits.idempotency_keys)).unwrap_or(u32::MAX),
            presence_digest_above: limits.presence_digest_above as u64,
            presence_list: limits.presence_list,
        },
        guard,
        metrics: Metrics::new(shards),
        refusals: Arc::default(),
        lane_parcels: limits.lane_parcels,
        site: Arc::new(Site {
            path: config.path.clone(),
            echo: config.echo,
            policy: Policy {
                origins,
                dev_hosts: config.dev,
                subprotocols: &["uringcast.v1"],
                compression: config.compression.mode,
            },
            dev,
        }),
        head: handshake::Limits { head_bytes: limits.header_bytes, headers: limits.headers },
        messages: websocket::Limits {
            message_bytes: limits.message_bytes,
            frame_bytes: limits.frame_limit(),
            fragment_overhead: FRAGMENT_OVERHEAD,
        },
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
        compression: Compression { level: config.compression.level, min_bytes: config.compression.min_bytes },
        stopwatch: clock::stopwatch_ns,
        give_back,
        boot_id: rand::random(),
    })
}

/// Users whose rates are remembered at a time: those who sent something within the last seconds.
const USERS: usize = 262_144;

fn rules(limits: &Limits) -> Rules {
    // A message that is allowed must fit, with its frame and what was sent along with it.
    let room = |burst: u64| burst.max(limits.message_bytes as u64 * 2);
    Rules {
        exempt: limits.exempt.clone(),
        trusted_proxies: limits.trusted_proxies.clone(),
        forwarded_header: limits.forwarded_header,
        connections_per_shard: limits.connections_per_shard,
        connections_per_ip: limits.connections_per_ip,
        arrivals: Rate::per_s(limits.new_connections_per_ip_per_s, limits.new_connections_per_ip_burst),
        auth_failures: Rate::per_minute(limits.auth_failures_per_ip_per_minute, limits.auth_failures_per_ip_burst),
        auth_attempts: limits.auth_attempts,
        addresses: limits.addresses,
        connection: Rates {
            messages: Rate::per_s(limits.messages_per_s, limits.messages_burst),
            bytes: Rate::per_s(limits.bytes_per_s, room(limits.bytes_burst)),
        },
        user: Rates {
            messages: Rate::per_s(limits.user_messages_per_s, limits.user_messages_burst),
            bytes: Rate::per_s(limits.user_bytes_per_s, room(limits.user_bytes_burst)),
        },
        users: USERS,
    }
}

/// A publication that waits longer for its batch to leave than its request may take is never acknowledged in time.
fn warn_of_windows(config: &Config) {
    let longest = config.limits.request_ms / 2;
    let named = config.namespaces.iter().map(|(name, rules)| (name.as_str(), rules));
    for (section, rules) in [("lobby", &config.lobby), ("channels", &config.channels)].into_iter().chain(named) {
        if rules.batch_window_ms > longest {
            tracing::warn!(section, "batch_window_ms is above half of limits.request_ms: publishes will end in 504");
        }
    }
}

/// A shard's ring: one thread enters it, and completions wait until it does. Linux 6.0.
fn ring() -> io_uring::Builder {
    let mut ring = io_uring::IoUring::builder();
    ring.setup_coop_taskrun().setup_single_issuer();
    ring
}

/// Whether the kernel gives us io_uring as the shards use it: their flags and their operations.
///
/// # Errors
/// [`BootError::Uring`] or [`BootError::UringOperation`].
pub fn probe_uring() -> Result<(), BootError> {
    use io_uring::opcode;
    let ring = ring().build(8).map_err(BootError::Uring)?;
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(BootError::Uring)?;
    let needed = [
        ("accept", opcode::Accept::CODE),
        ("poll_add", opcode::PollAdd::CODE),
        ("poll_remove", opcode::PollRemove::CODE),
        ("async_cancel", opcode::AsyncCancel::CODE),
        ("read", opcode::Read::CODE),
        ("timeout", opcode::Timeout::CODE),
        ("close", opcode::Close::CODE),
    ];
    match needed.into_iter().find(|(_, code)| !probe.is_supported(*code)) {
        Some((name, _)) => Err(BootError::UringOperation(name)),
        None => Ok(()),
    }
}

/// A heap of many small things that come and go would be backed by whole 2 MiB pages for as long as one thing
/// lives in each: 8,000 idle connections took 2.7 KB each with huge pages, and 1.1 KB without.
fn forgo_huge_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "transparent huge pages stay on");
    }
}

/// Descriptors that the process needs beside one for each connection.
pub fn descriptors(shards: u64) -> u64 {
    DESCRIPTORS + DESCRIPTORS_PER_SHARD * shards
}

/// Descriptors that the API's connections have for themselves, of those that the process doesn't need.
pub fn api_descriptors(left: usize) -> usize {
    control::Room::DESCRIPTORS.min(left / 4)
}

/// How the descriptors are shared out that the process doesn't need for itself.
#[derive(Clone, Copy, Debug)]
struct DescriptorShare {
    /// For connections of clients.
    sockets: usize,
    /// For those of the API: clients can't take them.
    api: usize,
}

/// Takes all the descriptors that the process may have, and shares them out.
fn raise_descriptor_limit(shards: usize, config: &Config, has_api: bool) -> Result<DescriptorShare, BootError> {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let needed = descriptors(shards as u64);
    if most < needed {
        return Err(BootError::Descriptors { limit: most, needed, shards });
    }
    if limit.current.is_some_and(|current| current < most) {
        let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).map_err(|error| system("raising the descriptor limit")(error.into()))?;
    }
    let left = usize::try_from(most - needed).unwrap_or(usize::MAX);
    let api = if has_api { api_descriptors(left) } else { 0 };
    let sockets = left - api;
    if sockets < config.limits.connections {
        tracing::info!(
            "{most} file descriptors are allowed: {sockets} connections, fewer than limits.connections = {}",
            config.limits.connections
        );
    }
    Ok(DescriptorShare { sockets, api })
}
