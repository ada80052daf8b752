//! Boot and end: from a configuration to running shards, and from a signal to their end. Probes what it needs of
//! the kernel first and says what is missing. The thread that calls `run` waits for signals and tells the shards
//! (flume, then the shard's bell) and the backend's API, which `control` runs on a thread of its own.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};
use rustls::ServerConfig;
use signal_hook::iterator::Signals;

use crate::auth::{self, ApiKeys, CacheLimits, Revocations, Verifier};
use crate::boot::cpus;
use crate::boot::descriptors;
use crate::boot::memory::{self, Watch};
use crate::boot::signals::{self, Meaning};
use crate::config::{Config, ConfigError, DriverChoice, Limits, ListenAddr};
use crate::control::{self, Control, Ledger, Owners};
use crate::hub::HubSettings;
use crate::hub::engine::EngineSettings;
use crate::ids::ShardId;
use crate::io::driver::{self, Driver, UringFault};
use crate::io::listener::{self, Door};
use crate::io::reactor::{Command, Entry, OpenSockets, Parts, Reactor};
use crate::io::socket_file::SocketFile;
use crate::limits::refusals::RefusalLog;
use crate::limits::{Guard, Rate, Rates, Rules};
use crate::log::LostLines;
use crate::mesh::{self, Waker};
use crate::metrics::Metrics;
use crate::shard::{Compression, Settings, Shard};
use crate::site::Site;
use crate::time::clock::{self, Clock};
use crate::tls::{self, Identity};
use crate::wire::handshake::{self, Policy};
use crate::wire::origin::Origins;
use crate::wire::websocket;

/// What a fragment of a message costs beyond its payload, against the message limit.
const FRAGMENT_OVERHEAD: usize = 64;
/// Commands that may wait for a shard; the control thread waits when there are more.
const COMMANDS: usize = 256;

/// How long the shards' loops may take to turn for the first time.
const START: Duration = Duration::from_secs(10);
/// How long they may take to end, beyond what `shutdown_ms` gives them, and how often that is looked at.
const END: Duration = Duration::from_secs(3);
const END_LOOK: Duration = Duration::from_millis(2);

/// Why the server can't start, or had to stop: always with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A place to listen at.
    #[error("cannot listen on {addr}{}: {cause}{}", key_hint(.key), listen_hint(.addr, .cause))]
    Listen {
        /// The key that names it.
        key: &'static str,
        /// What was asked for.
        addr: ListenAddr,
        /// What the kernel said.
        cause: io::Error,
    },
    /// io_uring, where it is asked for.
    #[error("io_uring can't be used: {cause}. {hint}. Or set driver = \"auto\", which takes epoll then")]
    Uring {
        /// What is missing.
        cause: UringFault,
        /// What to do about it.
        hint: String,
    },
    /// The shards' threads.
    #[error("a shard can't serve with {driver}: {cause}")]
    Driver {
        /// What it was to wait with.
        driver: &'static str,
        /// What the kernel said.
        cause: io::Error,
    },
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
    /// A shard doesn't end.
    #[error("shard {0} did not end in time: the process ends without it")]
    Stuck(usize),
}

/// Where a key has to be named: most who read this know of one place only.
fn key_hint(key: &str) -> String {
    match key {
        "listen" => String::new(),
        "http.listen" => format!(" for the HTTP API ({key})"),
        key => format!(" for TLS ({key})"),
    }
}

fn listen_hint(addr: &ListenAddr, error: &io::Error) -> &'static str {
    match (addr, error.kind()) {
        (ListenAddr::Tcp(_), io::ErrorKind::AddrInUse) => {
            " (another program listens there; --listen ADDR:PORT chooses another place)"
        }
        (ListenAddr::Tcp(_), io::ErrorKind::PermissionDenied) => {
            " (ports below 1024 need the right CAP_NET_BIND_SERVICE)"
        }
        (ListenAddr::Tcp(_), io::ErrorKind::AddrNotAvailable) => " (this machine has no such address)",
        (ListenAddr::Unix(_), io::ErrorKind::AddrInUse) => " (a server that lives listens there)",
        (ListenAddr::Unix(_), io::ErrorKind::NotFound) => " (its folder must be there)",
        (ListenAddr::Unix(_), io::ErrorKind::PermissionDenied) => {
            " (the server's user must be allowed to write to its folder)"
        }
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
    /// Of the unix sockets.
    files: Vec<SocketFile>,
    refusals: Arc<RefusalLog>,
}

/// Where a server listens: at one place at least.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// For plain connections.
    pub plain: Vec<ListenAddr>,
    /// For TLS.
    pub tls: Vec<ListenAddr>,
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
        let driver = choose(config.driver)?;
        forgo_huge_pages();
        let cpus = cpus::usable().map_err(system("reading the CPU affinity"))?;
        let count = match config.shards {
            0 => cpus::shards_for(&cpus),
            n => usize::from(n),
        };
        let share = descriptors::share_out(count, config)?;
        let verifier = Arc::new(verifier(config)?);
        let settings = Arc::new(settings(config, count, give_back)?);
        settings.metrics.driver(driver.name());
        let clock = Clock::start();
        // Before any thread: so that they all inherit the handlers, and a signal during boot isn't lost.
        let signals = Signals::new(signals::all()).map_err(system("installing signal handlers"))?;
        let identity = identity(config)?;
        let Doors { places, by_shard: doors, mut files } = doors(config, count)?;
        let api = api(config, &mut files)?;
        let served = identity.as_ref().map(|(_, _, served)| Arc::clone(&served.config));
        let ledger = ledger(config, clock.now().unix_ms)?;
        let endpoints = mesh::build(count, settings.lane_parcels).map_err(system("creating the lanes"))?;
        let open_sockets = Arc::new(OpenSockets::default());
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
                driver,
                settings: Arc::clone(&settings),
                verifier: Arc::clone(&verifier),
                revocations: ledger.table().clone(),
                cpu,
                doors,
                certificate: served.clone(),
                endpoint,
                commands: inbox,
                open_sockets: Arc::clone(&open_sockets),
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
        let latest = Instant::now() + START;
        for _ in 0..count {
            let begun = started.recv_timeout(latest.saturating_duration_since(Instant::now()));
            begun
                .unwrap_or_else(|_| {
                    Err(io::Error::other(format!("its loop did not turn within {} s", START.as_secs())))
                })
                .map_err(|cause| BootError::Driver { driver: driver.name(), cause })?;
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
                    guard: Arc::clone(&settings.guard),
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
            match addr {
                ListenAddr::Tcp(addr) => tracing::info!("HTTP API on http://{addr}"),
                ListenAddr::Unix(_) => tracing::info!("HTTP API on {addr}"),
            }
            if !addr.is_local() {
                tracing::warn!("the HTTP API can be reached from other machines and its keys travel in the clear");
            }
        }
        let certificate = identity.map(|found| watch(found, &shards, settings.metrics.clone())).transpose();
        let certificate = certificate.map_err(system("starting the certificate's thread"))?;
        let bound = memory::bound(config.limits.memory_bytes);
        let memory = Watch::start(bound, Arc::clone(&settings.guard), give_back)
            .map_err(system("starting the thread that watches memory"))?;
        let refusals = Arc::clone(&settings.refusals);
        Ok(Self { places, config: config.clone(), shards, signals, control, certificate, memory, files, refusals })
    }

    /// Where the server listens.
    pub fn places(&self) -> &Places {
        &self.places
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
        let Self { config, shards, signals: mut received, control, certificate, memory, files, refusals, .. } = self;
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
        // A successor may have the places at once.
        drop(files);
        let latest = end + END;
        for (number, shard) in shards.into_iter().enumerate() {
            while !shard.thread.is_finished() {
                if Instant::now() > latest {
                    return Err(BootError::Stuck(number));
                }
                std::thread::sleep(END_LOOK);
            }
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

/// What is listened on.
#[derive(Default)]
struct Doors {
    places: Places,
    by_shard: Vec<Vec<Door>>,
    files: Vec<SocketFile>,
}

/// Binds what is listened on.
fn doors(config: &Config, shards: usize) -> Result<Doors, BootError> {
    let is_tls = config.tls.cert_file.is_some() && config.tls.listen.0.is_empty();
    let mut doors = Doors { by_shard: (0..shards).map(|_| Vec::new()).collect(), ..Doors::default() };
    for (key, listeners, tls) in [("listen", &config.listen, is_tls), ("tls.listen", &config.tls.listen, true)] {
        for addr in &listeners.0 {
            let bound = listener::bind(addr, config.listen_mode, shards, &listeners.0);
            let bound = bound.map_err(|cause| BootError::Listen { key, addr: addr.clone(), cause })?;
            for (doors, listener) in doors.by_shard.iter_mut().zip(bound.listeners) {
                doors.push(Door::new(listener, tls, bound.file.is_some()));
            }
            doors.files.extend(bound.file);
            let places = if tls { &mut doors.places.tls } else { &mut doors.places.plain };
            places.push(bound.addr);
        }
    }
    Ok(doors)
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
fn api(config: &Config, files: &mut Vec<SocketFile>) -> Result<Option<(ApiKeys, control::Listener)>, BootError> {
    let Some(addr) = config.http.listener() else { return Ok(None) };
    let keys = ApiKeys::new(&config.http)?;
    let listener = match addr {
        ListenAddr::Tcp(addr) => TcpListener::bind(addr).map(control::Listener::Tcp),
        ListenAddr::Unix(path) => {
            SocketFile::listen(path, config.listen_mode.0, listener::BACKLOG).map(|(listener, file)| {
                files.push(file);
                control::Listener::Unix(listener, path.clone())
            })
        }
    };
    let listener = listener.map_err(|cause| BootError::Listen { key: "http.listen", addr: addr.clone(), cause })?;
    Ok(Some((keys, listener)))
}

/// What was revoked before this start, if a file tells.
fn ledger(config: &Config, now_ms: u64) -> Result<Ledger, ConfigError> {
    Ledger::open(config.auth.revocations_file.as_deref(), config.limits.revocations, now_ms)
}

/// What a shard's thread starts from.
struct Boot {
    own: ShardId,
    driver: Driver,
    settings: Arc<Settings>,
    verifier: Arc<Verifier>,
    revocations: Revocations,
    cpu: Option<usize>,
    doors: Vec<Door>,
    certificate: Option<Arc<ServerConfig>>,
    endpoint: mesh::Endpoint<crate::model::parcel::Parcel>,
    commands: flume::Receiver<Command>,
    open_sockets: Arc<OpenSockets>,
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
        let driver = self.driver;
        driver.serve(|| async move {
            let mut shard = Shard::new(self.own, self.settings, self.verifier, rand::random());
            shard.set_revocations(self.revocations);
            let reactor = Reactor::new(Parts {
                driver,
                shard,
                endpoint: self.endpoint,
                commands: self.commands,
                doors: self.doors,
                certificate: self.certificate,
                open_sockets: self.open_sockets,
                entry: self.entry,
                clock: self.clock,
            });
            let begun = || drop(ready.send(Ok(())));
            reactor.run(begun).await
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
            engine: EngineSettings {
                history_bytes: share(limits.history_bytes),
                idempotency_keys: u32::try_from(share(limits.idempotency_keys)).unwrap_or(u32::MAX),
            },
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

/// The most connections that are told at a time that they are over a limit, and their part of all descriptors.
const REFUSALS_MAX: usize = 1024;
const REFUSALS_PART: u64 = 16;
/// Users whose rates are remembered at a time: those who sent something within the last seconds.
const USERS: usize = 262_144;

/// Connections over a limit that may be told so at a time. They must not take the descriptors of those that are let in.
fn refusals() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(descriptors / REFUSALS_PART).map_or(REFUSALS_MAX, |part| part.min(REFUSALS_MAX))
}

fn rules(limits: &Limits) -> Rules {
    // A message that is allowed must fit, with its frame and what was sent along with it.
    let room = |burst: u64| burst.max(limits.message_bytes as u64 * 2);
    Rules {
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

/// What the shards wait with: what is `wanted`, if it can be had.
fn choose(wanted: DriverChoice) -> Result<Driver, BootError> {
    let probe = || driver::probe_uring().map_err(|cause| BootError::Uring { hint: cause.hint(), cause });
    match wanted {
        DriverChoice::Epoll => Ok(Driver::Epoll),
        DriverChoice::IoUring => probe().map(|()| Driver::IoUring),
        DriverChoice::Auto => match driver::probe_uring() {
            Ok(()) => Ok(Driver::IoUring),
            Err(fault) => {
                tracing::warn!(
                    "io_uring can't be used, so this server waits with epoll, which costs more: {fault}. {}. To be \
                     without this warning set driver = \"epoll\"",
                    fault.hint()
                );
                Ok(Driver::Epoll)
            }
        },
    }
}

/// A heap of many small things that come and go would be backed by whole 2 MiB pages for as long as one thing
/// lives in each: 8,000 idle connections took 2.7 KB each with huge pages, and 1.1 KB without.
fn forgo_huge_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "transparent huge pages stay on");
    }
}
