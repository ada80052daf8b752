//! Every key of the configuration: its name, meaning, default and bounds. The comments on keys are what operators read in
//! `uringcast config` and docs/configuration.md. To add a key, add its lines here. To add a section, add a `settings!`
//! struct and name it in `Config`. The rest of the module needs no change. The keys of a channel's rules stand in
//! `channels`.

#![expect(clippy::ptr_arg, reason = "the checks at the end take what a key holds: a `String` or a `Vec`, not a slice")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::limits::Net;
use crate::model::text::Language;
use crate::model::user::DuplicateLogin;
use crate::wire::deflate::Mode;
use crate::wire::forwarded::ForwardedHeader;
use crate::wire::origin::{Origins, split_port};

use super::channels::ChannelRules;
use super::key_set_url::is_key_set_url;
use super::listen::{FileMode, ListenAddr, Listeners};
use super::setting::{DAY_MS, ListElement, Secret, ShownValue, if_set, range, settings, show_plain, textual};

/// The largest value of settings in bytes about one message or connection.
const GIB: usize = 1 << 30;
/// The largest value of settings in bytes about the whole process.
const TIB: usize = 1 << 40;

settings! {
    /// The whole configuration, section by section.
    pub struct Config {
        /// The address to listen on: an IP address and a port (0 takes a free port), or a unix socket such as
        /// "unix:/run/uringcast/push.sock"; or a list of these. (In dev mode: 127.0.0.1:2345.)
        listen: Listeners = Listeners::at((Ipv4Addr::UNSPECIFIED, 2345)), one_at_least;
        /// The permissions of unix sockets, including `http.listen`, in octal. A process that may write to the file may
        /// connect. The file belongs to the server's user and group. A file that an ended server left is replaced.
        listen_mode: FileMode = FileMode(0o660);
        /// The path of the WebSocket endpoint.
        path: String = "/ws".to_owned(), endpoint_path;
        /// Path of event streams: server-sent events, for clients that only receive (docs/sse.md). "" switches them off.
        sse_path: String = "/sse".to_owned(), sse_path;
        /// The number of shards: threads that serve connections, at most 256. 0 means one for each CPU that this process
        /// may use (its affinity mask, capped by the quota of its cgroup).
        shards: u16 = 0, range(0..=256);
        /// How shards wait for their sockets: "io_uring", "epoll" or "auto". "auto" takes io_uring if the kernel allows it
        /// (the seccomp profiles of many containers do not), and otherwise epoll, with a warning. With "io_uring" the
        /// server does not start if the kernel refuses it.
        driver: DriverChoice = DriverChoice::Auto;
        /// Keep each shard on one CPU.
        pin_cpus: bool = true;
        /// How long a shard goes on asking the kernel for work before it sleeps, in microseconds, counted from the last work.
        /// This saves the time that waking a sleeping thread takes, and costs as much CPU time: with 50 a shard that gets a
        /// message every 50 µs never sleeps. Only worth it on CPUs that nothing else uses. 0 sleeps at once.
        busy_poll_us: u32 = 0, range(0..=10_000);
        /// Serve /echo, which sends every message back and needs no token. It is for conformance and load tests. (In dev
        /// mode: true.)
        echo: bool = false;
        /// The language of messages that are meant for people: "en" or "zh".
        language: Language = Language::En;
        /// The web pages that may connect, each as `location.origin` shows it on the page: "https://example.com",
        /// "http://10.0.0.1:8080". "http://localhost:*" means any port, "https://*.example.com" every host below
        /// example.com but not example.com itself, "*" every page. Pages that were opened as files are "file://". Pages
        /// without an origin of their own, such as sandboxed frames, are "null". Browsers send "null" for files too, so
        /// "file://" allows both. Empty: only pages from the host that they connect to. A client that sends no Origin
        /// header is not a browser and may always connect.
        origins: Vec<String> = Vec::new(), origin_list;
        /// The longest time that the server takes to stop, in milliseconds. In the first half accepted publications reach
        /// all subscribers; in the rest connections close.
        shutdown_ms: u64 = 5_000, range(0..=DAY_MS);
    }
    sections {
        /// The log, which is written to stderr.
        log: Log;
        /// The keys and rules that tokens are checked with. Outside dev mode at least one key or token is needed. Paths
        /// are relative to the directory that the server is started in.
        auth: Auth;
        /// How the server finds connections whose peer is gone.
        liveness: Liveness;
        /// Limits, so that no client, and not all clients together, can use up the server.
        limits: Limits;
        /// Encryption of connections (wss). Without a certificate connections are not encrypted.
        tls: Tls;
        /// Compression of messages: permessage-deflate (RFC 7692).
        compression: CompressionSection;
        /// The HTTP API for backends: publishing, presence and history, on a listener of its own.
        http: Http;
        /// The lobby: the channel that every authenticated connection is subscribed to.
        lobby: ChannelRules = ChannelRules::lobby();
        /// The channels without a colon in their name, except the lobby.
        channels: ChannelRules;
        /// Namespaces, any number of them, each in a section of its own: `chat:room1` is a channel of
        /// `[namespaces.chat]`. A name has 1 to 64 of the characters A-Z, a-z, 0-9, _ and -. The keys are those of
        /// `[channels]`, with the built-in defaults; values that are set in `[channels]` do not change them. A namespace
        /// without a section has no channels. Names from environment variables are lower-cased:
        /// URINGCAST_NAMESPACES__CHAT__HISTORY_SIZE=500 is for "chat". In a file:
        ///
        /// [namespaces.chat]
        /// subscribe = "token"
        /// publish = "members"
        /// presence = "events"
        /// history_size = 500
        namespaces: BTreeMap<String, ChannelRules>;
    }
    state {
        /// Whether this is dev mode. The command line decides it; it is not a key.
        dev: bool = false;
    }
}

settings! {
    /// The log, which is written to stderr.
    pub struct Log {
        /// The least important level that is written: "error", "warn", "info", "debug" or "off"; or a filter that names
        /// modules of the server, such as "info,uringcast::io::accept=debug".
        level: String = "info".to_owned(), log_filter;
        /// The format of a line: "text" for people or "json" for machines.
        format: LogFormat = LogFormat::Text;
        /// The most lines that may wait for stderr. Further lines are lost and counted
        /// (`uringcast_log_lines_lost_total`).
        queue_lines: usize = 16_384, range(1..=1 << 24);
    }
}

settings! {
    /// The keys and rules that tokens are checked with.
    pub struct Auth {
        /// The secret that signs HS256 tokens: at least 16 bytes, better 32 random ones (`openssl rand -base64 32`). A
        /// file or an environment variable is a safer place for it than this one. Line ends at its end do not count.
        hs256_secret: Option<Secret> = None, if_set(long_enough);
        /// A file that holds the secret for HS256. Line ends at its end do not count.
        hs256_secret_file: Option<PathBuf> = None, if_set(path_not_empty);
        /// PEM files with public keys. An RSA key is for RS256, an EC key on P-256 for ES256, on P-384 for ES384, an
        /// Ed25519 key for EdDSA. Another algorithm of the family is named: { file = "rsa.pem", algorithm = "PS256" }.
        public_key_files: Vec<PublicKeyFile> = Vec::new();
        /// A file with a JSON Web Key Set. A token's `kid` and `alg` choose the key. Keys that cannot verify a token, such
        /// as keys for encryption, are skipped with a warning. A broken key is an error.
        jwks_file: Option<PathBuf> = None, if_set(path_not_empty);
        /// The https:// address of a JSON Web Key Set, as identity providers publish it. Its keys join the configured
        /// ones. The server fetches it at the start, before the keys get old, at SIGHUP, and for a token whose `kid` is
        /// unknown, at most once in 30 s. Old keys stay in force while that fails. (docs/security.md, "Keys by URL")
        jwks_url: Option<String> = None, if_set(is_key_set_url);
        /// A PEM file with the certificate authorities that count for `auth.jwks_url`, in place of the system's.
        jwks_ca_file: Option<PathBuf> = None, if_set(path_not_empty);
        /// How long fetched keys are used before they are fetched again, in seconds, if the answer has no `max-age`. A
        /// `max-age` counts from one minute to one day.
        jwks_refresh_s: u64 = 600, range(60..=86_400);
        /// Fetch keys over plain http:// from another machine too. Whoever can change what passes on the way can then
        /// sign in as anyone.
        jwks_allow_http: bool = false;
        /// The value that the `iss` claim must have. Unset: the claim is not checked.
        issuer: Option<String> = None, if_set(not_empty);
        /// The value that the `aud` claim must be or contain. Unset: the claim is not checked.
        audience: Option<String> = None, if_set(not_empty);
        /// How far the clock of the machine that issues tokens may be off, in seconds. Tokens are accepted this long after
        /// `exp`, and this long before `nbf` and `iat`. Clocks that follow NTP differ by less than a second, and those of
        /// virtual machines that were paused by a few.
        leeway_s: u64 = 5, range(0..=3_600);
        /// Fixed tokens, for trying things out. They never expire.
        /// [{ token = "…", user = 1, name = "Alice", channels = ["news"] }]
        tokens: Vec<StaticToken> = Vec::new(), token_list;
        /// What happens when a connected user signs in again: "kick_old" closes the older connection, "reject_new" refuses
        /// the newer one, "allow" keeps both.
        duplicate_login: DuplicateLogin = DuplicateLogin::KickOld;
        /// How long a user's older connections have to answer a ping, in milliseconds, when they stand in the way of a new
        /// sign-in. Those that do not answer are closed (4504), and the sign-in succeeds. 0 refuses the sign-in at once. At
        /// most half of `limits.request_ms` counts.
        probe_ms: u64 = 2_000, range(0..=60_000);
        /// The most tokens whose valid signature is remembered, over all shards, so that a reconnect does not cost a
        /// verification. The least recently used are forgotten first. Claims are checked again each time. HS256 tokens are
        /// not remembered, because verifying them is as cheap. 0 remembers none.
        cached_tokens: usize = 65_536, range(0..=100_000_000);
        /// The most memory of remembered tokens, in bytes, over all shards.
        cached_tokens_bytes: usize = 32 << 20, range(0..=TIB);
        /// How long a revocation is kept whose request has no `expires_at`, in seconds. It should be at least as long as
        /// tokens live: a token that lives longer is accepted again afterwards.
        revocations_kept_s: u64 = 30 * 86_400, range(1..=3_650 * 86_400);
        /// A file that keeps revocations over a restart. The server creates it, readable by its own user only. Unset: a
        /// restart forgets revocations.
        revocations_file: Option<PathBuf> = None, if_set(path_not_empty);
        /// How long a new connection may take to authenticate, in milliseconds.
        deadline_ms: u64 = 10_000, range(1..=DAY_MS);
    }
}

settings! {
    /// How the server finds connections whose peer is gone.
    pub struct Liveness {
        /// A client that has sent nothing for this long is pinged, in milliseconds.
        ping_interval_ms: u64 = 25_000, range(10..=DAY_MS);
        /// A client that does not answer the ping within this time is closed (4504), in milliseconds.
        pong_timeout_ms: u64 = 10_000, range(10..=DAY_MS);
    }
}

settings! {
    /// Limits, so that no client, and not all clients together, can use up the server.
    pub struct Limits {
        /// The largest message from a client, in bytes, over all its frames.
        message_bytes: usize = 1 << 20, range(1..=GIB);
        /// The largest frame from a client, in bytes. Unset: as large as a message.
        frame_bytes: Option<usize> = None, if_set(range(1..=GIB));
        /// The largest message from a client that has not signed in, in bytes. It has room for an `auth` with as many
        /// channels and tokens as `subscriptions` allows.
        auth_message_bytes: usize = 384 << 10, range(1_024..=GIB);
        /// The most bytes of unfinished messages over all connections of one address. A client whose message finds no room
        /// is closed (4503). 0 means no limit.
        unfinished_bytes_per_ip: usize = 16 << 20, range(0..=GIB);
        /// The most bytes of unfinished messages over all connections; the same answer. 0 means no limit.
        unfinished_bytes: usize = 256 << 20, range(0..=TIB);
        /// The largest head of an HTTP request, in bytes.
        header_bytes: usize = 8_192, range(256..=1 << 20);
        /// The most header lines in an HTTP request.
        headers: usize = 64, range(8..=1_024);
        /// How long a new connection may take to complete its handshake, in milliseconds.
        handshake_ms: u64 = 10_000, range(1..=DAY_MS);
        /// The most connections at a time, over all shards. Further ones are answered 503.
        connections: usize = 1_000_000, range(1..=100_000_000);
        /// The most connections at a time on one shard (503). 0 means no limit per shard.
        connections_per_shard: usize = 0, range(0..=100_000_000);
        /// The most connections at a time from one address (429). Here and below an IPv6 address counts by its /64. 0 means
        /// no limit.
        connections_per_ip: u32 = 512, range(0..=100_000_000);
        /// The most new connections per second from one address, over time (429). 0 means no limit.
        new_connections_per_ip_per_s: u64 = 50, range(0..=1_000_000);
        /// The most new connections from one address at once.
        new_connections_per_ip_burst: u64 = 512, range(1..=10_000_000);
        /// The most addresses that are remembered for the limits per address. An address without a connection is forgotten
        /// once all its rates have recovered. A new address that finds no place is answered 503.
        addresses: usize = 1_000_000, range(64..=100_000_000);
        /// The most connections at a time of one user with `auth.duplicate_login = "allow"` (`error` 429, then 4429). 0 means
        /// no limit. Connections from `exempt` are always admitted.
        connections_per_user: usize = 100, range(0..=100_000_000);
        /// A connection is closed (4429) after this many of its tokens were refused.
        auth_attempts: u8 = 5, range(1..=255);
        /// The most tokens per minute of one address that may be refused, over time. Beyond that no token of the address is
        /// checked (`error` 429, then 4429). 0 means no limit.
        auth_failures_per_ip_per_minute: u64 = 60, range(0..=1_000_000);
        /// The most tokens of one address that may be refused at once.
        auth_failures_per_ip_burst: u64 = 60, range(1..=1_000_000);
        /// The most messages per second from one connection, over time; pings count. A message over the rate is dropped and
        /// answered with `error` 429. After more than ten of these the client is closed (4429). 0 means no limit.
        messages_per_s: u64 = 100, range(0..=10_000_000);
        /// The most messages from one connection at once.
        messages_burst: u64 = 500, range(1..=100_000_000);
        /// The most bytes per second from one connection, over time; the same answers. 0 means no limit.
        bytes_per_s: u64 = 1 << 20, range(0..=1 << 40);
        /// The most bytes from one connection at once. Two messages of the largest size always fit.
        bytes_burst: u64 = 4 << 20, range(1..=1 << 40);
        /// The most messages per second from one user, over all connections and over time. 0 means no limit.
        user_messages_per_s: u64 = 200, range(0..=10_000_000);
        /// The most messages from one user at once.
        user_messages_burst: u64 = 1_000, range(1..=100_000_000);
        /// The most bytes per second from one user, over time. Payloads count, frame headers do not. 0 means no limit.
        user_bytes_per_s: u64 = 2 << 20, range(0..=1 << 40);
        /// The most bytes from one user at once. Two messages of the largest size always fit.
        user_bytes_burst: u64 = 8 << 20, range(1..=1 << 40);
        /// The most bytes per second of large answers to one user, over all connections and over time: pages of `history`,
        /// `presence` and `users`, and recovered publications. With compression each byte counts three times. An answer
        /// over the rate comes later. 0 means no limit.
        user_answer_bytes_per_s: u64 = 16 << 20, range(0..=1 << 40);
        /// The most bytes of large answers to one user at once. It is never less than twice `outbox_bytes`.
        user_answer_bytes_burst: u64 = 64 << 20, range(1..=1 << 40);
        /// Networks without limits per address and without rates. A proxy on this machine belongs into `trusted_proxies`,
        /// so that its clients count by their own addresses. "unix" means the peers of unix sockets; if they are not
        /// exempt, all of them count as one address.
        exempt: Vec<Net> = this_machine();
        /// Networks of reverse proxies and load balancers. The server believes what they say about where a connection came
        /// from. "unix" means the peers of unix sockets.
        trusted_proxies: Vec<Net> = Vec::new();
        /// Whether trusted proxies begin every connection with a PROXY protocol header, version 1 or 2. A connection
        /// without one is ended then. If false, trusted proxies name the client in an HTTP header instead.
        proxy_protocol: bool = false;
        /// The header in which trusted proxies name the client: "x-forwarded-for" or "forwarded" (RFC 7239). The other one
        /// is not read, because a proxy passes it on as the client wrote it.
        forwarded_header: ForwardedHeader = ForwardedHeader::XForwardedFor;
        /// The most resident memory, in bytes. Above it new connections and channels are refused (503) and the largest
        /// queues are given up, until memory is below 95 % of it. 0 switches this off. Unset: 80 % of the machine's memory
        /// or of the cgroup's limit.
        memory_bytes: Option<u64> = None, if_set(range(0..=1 << 50));
        /// The largest encoded push, in bytes: a publication with its envelope, escaped.
        push_bytes: usize = 1 << 20, range(1_024..=GIB);
        /// The most unsent bytes of one connection. A client above it is treated as its channels' `overflow` says, or closed
        /// (4508).
        outbox_bytes: usize = 4 << 20, range(4_096..=GIB);
        /// The most requests of one connection that may wait for their answer at a time. The server reads nothing more from
        /// the connection until one is answered. A client that publishes in bulk gets this many into one batch.
        requests_per_connection: usize = 256, range(1..=65_536);
        /// How long a request may wait for its answer, in milliseconds.
        request_ms: u64 = 10_000, range(1..=DAY_MS);
        /// The most connections of the HTTP API at a time, over all shards, but at most a quarter of the file descriptors that the
        /// process can spare. When there are more, idle ones are closed. A part of them is kept for health checks.
        api_connections: usize = 4_096, range(8..=1 << 20);
        /// The most requests to the HTTP API that may be unanswered at a time, over all shards. One address may have three
        /// quarters of them. Further ones are refused (503).
        api_requests: usize = 16_384, range(8..=1 << 20);
        /// How long a connection of the HTTP API may stay open without a request, in milliseconds.
        api_idle_ms: u64 = 600_000, range(1..=DAY_MS);
        /// The most parcels in each lane between two shards.
        lane_parcels: usize = 1_024, range(16..=1 << 20);
        /// The most channels that one connection may be subscribed to at a time.
        subscriptions: usize = 128, range(1..=65_536);
        /// The most channels at a time, over all shards. Beyond that a new channel replaces the channel that has been without
        /// subscribers for the longest time, whose history is lost. If every channel has subscribers, the new one is refused
        /// (503).
        channels: usize = 1_000_000, range(1..=100_000_000);
        /// The most memory of all channels' history, in bytes, over all shards.
        history_bytes: usize = 256 << 20, range(0..=TIB);
        /// The most idempotency keys that are remembered at a time, over all shards.
        idempotency_keys: usize = 1_000_000, range(1..=100_000_000);
        /// The most revocations at a time. Further ones are refused (507) until some have expired.
        revocations: usize = 100_000, range(1..=10_000_000);
        /// Channels with more members than this get digests of joins and leaves even if their presence is "events". They
        /// get events again below half of it.
        presence_digest_above: usize = 200, range(1..=100_000_000);
        /// Joins and leaves of a channel with more subscribers than `presence_gather_above` are sent at most once in this
        /// time, in milliseconds. An event after a quiet time is sent at once, and those that follow are sent together.
        /// 0 sends each at once.
        presence_gather_ms: u64 = 50, range(0..=10_000);
        /// In channels with at most this many subscribers on a shard each join and leave is sent at once.
        presence_gather_above: usize = 20, range(0..=100_000_000);
        /// The most users that one digest lists. A digest says if there were more.
        presence_list: usize = 100, range(1..=10_000);
    }
}

settings! {
    /// Encryption of connections.
    pub struct Tls {
        /// A PEM file with the server's certificate, followed by the certificates that lead to a root that clients trust. The
        /// server reads it again on SIGHUP and within seconds of a change. Open connections stay.
        cert_file: Option<PathBuf> = None, if_set(path_not_empty);
        /// A PEM file with the certificate's private key.
        key_file: Option<PathBuf> = None, if_set(path_not_empty);
        /// The address to listen on for TLS, written as `listen` is. `listen` stays without TLS then. With "" and a
        /// certificate, `listen` speaks TLS.
        listen: Listeners = Listeners(Vec::new());
        /// The oldest version of TLS that is accepted: "1.2" or "1.3".
        min_version: TlsVersion = TlsVersion::Tls12;
    }
}

settings! {
    /// Compression of messages.
    pub struct CompressionSection {
        /// "off"; "on" (for clients that offer compression, as browsers do); "forced" (clients that offer none, or none that
        /// the server can use, are refused with 400). A secret and text that an attacker chooses should not be compressed in
        /// one message (docs/security.md).
        mode: Mode = Mode::Off;
        /// The level of compression, from 1 (fastest) to 9 (smallest).
        level: u32 = 3, range(1..=9);
        /// Messages with fewer bytes than this are not compressed. Below about 200 bytes there is nothing to gain.
        min_bytes: usize = 256, range(0..=GIB);
    }
}

settings! {
    /// The HTTP API for backends.
    pub struct Http {
        /// The address of the API: one IP address and port (0 takes a free port) or one unix socket. "" switches the API off,
        /// and so does having no API key. If other machines can reach it, put a proxy with TLS in front of it.
        listen: Listeners = Listeners::at((Ipv4Addr::LOCALHOST, 2346)), one_at_most;
        /// The API keys, each with at least 16 visible ASCII characters (`openssl rand -hex 32`). Every request must bring
        /// one of them. A file or an environment variable is a safer place for them than this one.
        keys: Vec<Secret> = Vec::new(), api_key_list;
        /// A file with further API keys, one per line. Empty lines, and lines that begin with #, do not count.
        keys_file: Option<PathBuf> = None, if_set(path_not_empty);
        /// The origins whose pages may use the API from a browser (CORS), written as in `origins`. None by default, because
        /// every visitor of a page can read an API key in it. `["https://status.example.com"]` lets that page read /health.
        cors_origins: Vec<String> = Vec::new(), origin_list;
        /// Host names under which the API answers without a key (/health, /metrics) if it listens on a loopback address, such
        /// as `["metrics.internal"]`; "*" allows all. `localhost`, loopback addresses and names without a dot are always
        /// allowed. Other names are refused, so that a web page whose own name was pointed at this machine (DNS rebinding)
        /// cannot read the responses. Requests with a key may use any name.
        hosts: Vec<String> = Vec::new(), host_list;
    }
}

impl Config {
    /// The defaults of every key, with the namespaces of this configuration.
    pub(super) fn defaults(&self) -> Config {
        let namespaces = self.namespaces.keys().map(|name| (name.clone(), ChannelRules::default())).collect();
        Config { namespaces, ..Config::default() }
    }
}

impl Http {
    /// The shortest API key that is accepted.
    pub(crate) const MIN_KEY_BYTES: usize = 16;
    /// The longest API key that is accepted.
    pub(crate) const MAX_KEY_BYTES: usize = 512;
    /// The most API keys. Every request is compared with each of them.
    pub(crate) const MAX_KEYS: usize = 100;

    /// The address that the API listens on; `None` if it is switched off, or no API key is configured.
    pub(crate) fn listener(&self) -> Option<&ListenAddr> {
        let has_key = !self.keys.is_empty() || self.keys_file.is_some();
        self.listen.0.first().filter(|_| has_key)
    }

    /// What is wrong with an API key, without the key itself; `None` if nothing is.
    pub(crate) fn key_fault(key: &str) -> Option<String> {
        let (bytes, least, most) = (key.len(), Http::MIN_KEY_BYTES, Http::MAX_KEY_BYTES);
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Some(
                "has a character that is not visible ASCII, such as a space, and a header cannot carry it".to_owned(),
            );
        }
        (!(least..=most).contains(&bytes))
            .then(|| format!("has {bytes} bytes and needs {least} to {most}; `openssl rand -hex 32` makes a good one"))
    }
}

impl Limits {
    /// The size of the largest frame: the configured one, or that of a message.
    pub(crate) fn frame_limit(&self) -> usize {
        self.frame_bytes.unwrap_or(self.message_bytes)
    }
}

/// The networks of this machine: 127.0.0.0/8, ::1 and the peers of unix sockets.
fn this_machine() -> Vec<Net> {
    ["127.0.0.0/8", "::1", "unix"].into_iter().filter_map(|net| net.parse().ok()).collect()
}

impl ListElement for Net {
    const WANTED_LIST: &'static str =
        "a list of networks such as \"10.0.0.0/8\" or \"2001:db8::/32\", and \"unix\" for peers of unix sockets";

    fn from_word(word: &str) -> Option<Net> {
        word.parse().ok()
    }

    fn show_list(list: &[Net]) -> ShownValue {
        show_plain(&list)
    }
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text for people to read.
    Text,
    /// JSON for log collectors.
    Json,
}

/// How shards wait for their sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverChoice {
    /// io_uring if the kernel allows it, otherwise epoll.
    Auto,
    /// io_uring, or no start.
    IoUring,
    /// Always epoll, even if io_uring works.
    Epoll,
}

/// The oldest version of TLS that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    Tls13,
}

textual! {
    TlsVersion: "\"1.2\" or \"1.3\"";
    Language: "\"en\" or \"zh\"";
    DriverChoice: "\"auto\", \"io_uring\" or \"epoll\"";
    FileMode: "a mode in octal such as \"0660\"";
    LogFormat: "\"text\" or \"json\"";
    DuplicateLogin: "\"kick_old\", \"reject_new\" or \"allow\"";
    ForwardedHeader: "\"x-forwarded-for\" or \"forwarded\"";
    Mode: "\"off\", \"on\" or \"forced\"";
}

/// A PEM file with one public key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PublicKeyFileForm")]
pub struct PublicKeyFile {
    /// The path of the PEM file.
    pub file: PathBuf,
    /// The JWT name of the algorithm; `None` for the usual one of the key's type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<String>,
}

/// The two ways to write a `PublicKeyFile` in TOML.
#[derive(Deserialize)]
#[serde(untagged)]
enum PublicKeyFileForm {
    Path(PathBuf),
    Table(PublicKeyFileTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublicKeyFileTable {
    file: PathBuf,
    algorithm: Option<String>,
}

impl From<PublicKeyFileForm> for PublicKeyFile {
    fn from(form: PublicKeyFileForm) -> PublicKeyFile {
        match form {
            PublicKeyFileForm::Path(file) => PublicKeyFile { file, algorithm: None },
            PublicKeyFileForm::Table(PublicKeyFileTable { file, algorithm }) => PublicKeyFile { file, algorithm },
        }
    }
}

impl ListElement for PublicKeyFile {
    const WANTED_LIST: &'static str = "a list whose elements are paths or { file = \"…\", algorithm = \"…\" }";

    fn from_word(word: &str) -> Option<PublicKeyFile> {
        Some(PublicKeyFile { file: word.into(), algorithm: None })
    }

    fn show_list(list: &[PublicKeyFile]) -> ShownValue {
        show_plain(&list)
    }
}

/// A fixed token that never expires, for trying things out.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticToken {
    /// The token as the client sends it.
    pub token: Secret,
    /// The user's id, a number or a text. `auth` checks it by the rules of a token's claim.
    pub user: serde_json::Value,
    /// The user's name for display; without one the id is shown.
    pub name: Option<String>,
    /// Channels that the user may subscribe to beyond the namespace's rule.
    #[serde(default)]
    pub channels: Vec<String>,
}

impl ListElement for StaticToken {
    const WANTED_LIST: &'static str = "a list of { token = \"…\", user = 1, name = \"…\" }";

    fn from_word(_: &str) -> Option<StaticToken> {
        None
    }

    fn show_list(list: &[StaticToken]) -> ShownValue {
        if list.is_empty() {
            return ShownValue::Plain("[]".to_owned());
        }
        let shown = list.iter().map(|entry| {
            let name = entry.name.as_deref().unwrap_or_default();
            format!("{{ token = \"…\", user = {}, name = {name:?} }}", entry.user)
        });
        ShownValue::Redacted(format!("[{}]", shown.collect::<Vec<_>>().join(", ")))
    }
}

impl Auth {
    /// The shortest HS256 secret that is accepted, in bytes. RFC 7518 §3.2 asks for 32, and `auth` warns below that.
    pub(crate) const MIN_SECRET_BYTES: usize = 16;

    /// Whether a key or a fixed token is configured, so that a client can sign in.
    pub fn has_key(&self) -> bool {
        self.hs256_secret.is_some()
            || self.hs256_secret_file.is_some()
            || self.jwks_file.is_some()
            || self.jwks_url.is_some()
            || !self.public_key_files.is_empty()
            || !self.tokens.is_empty()
    }
}

fn long_enough(secret: &Secret) -> Result<(), String> {
    let (bytes, least) = (secret.expose().len(), Auth::MIN_SECRET_BYTES);
    if bytes >= least {
        return Ok(());
    }
    Err(format!(
        "is too short to be a secret: it has {bytes} bytes and needs at least {least}; \
         `openssl rand -base64 32` makes a good one"
    ))
}

fn one_at_least(listeners: &Listeners) -> Result<(), String> {
    if listeners.0.is_empty() { Err("must name at least one address".to_owned()) } else { Ok(()) }
}

fn one_at_most(listeners: &Listeners) -> Result<(), String> {
    if listeners.0.len() > 1 { Err("must name at most one address".to_owned()) } else { Ok(()) }
}

fn not_empty(text: &String) -> Result<(), String> {
    if text.trim().is_empty() { Err("must not be empty".to_owned()) } else { Ok(()) }
}

/// Checks each directive of the filter. The logging library would take a misspelt level for the name of a module, and then
/// log nothing at all.
fn log_filter(filter: &String) -> Result<(), String> {
    let is_level = |level: &str| LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level));
    let is_part = |part: &str| {
        let inside = part.strip_prefix("uringcast");
        inside.is_some_and(|inside| inside.is_empty() || inside.starts_with("::") && !inside.ends_with(':'))
    };
    let levels = LEVELS.join(", ");
    let directives: Vec<_> = filter.split(',').map(str::trim).filter(|directive| !directive.is_empty()).collect();
    if directives.is_empty() {
        return Err(format!("must not be empty: write one of {levels}"));
    }
    for directive in directives {
        let fault = match directive.split_once('=') {
            None if is_level(directive) || is_part(directive) => continue,
            Some((part, level)) if is_part(part) && is_level(level) => continue,
            Some((part, level)) if is_part(part) => format!("{level:?} is not a level"),
            Some((part, _)) => {
                format!("{part:?} is not a module of this server, such as uringcast::io::accept")
            }
            None => format!("{directive:?} is not a level"),
        };
        return Err(format!(
            "{fault}: write one of {levels}, or a filter such as \"info,uringcast::io::accept=debug\""
        ));
    }
    Ok(())
}

/// The levels that a filter may name, quietest first.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

fn path_not_empty(path: &PathBuf) -> Result<(), String> {
    if path.as_os_str().is_empty() { Err("must not be empty".to_owned()) } else { Ok(()) }
}

fn endpoint_path(path: &String) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'%');
    if !path.starts_with('/') || !path.bytes().all(plain) || path.len() > 256 {
        return Err("must start with / and have no space, ?, # or %, at most 256 bytes".to_owned());
    }
    if path == "/echo" {
        return Err("must not be /echo, which is the path of the echo endpoint".to_owned());
    }
    Ok(())
}

fn sse_path(path: &String) -> Result<(), String> {
    if path.is_empty() { Ok(()) } else { endpoint_path(path) }
}

fn origin_list(origins: &Vec<String>) -> Result<(), String> {
    Origins::list(origins).map(drop)
}

fn host_list(hosts: &Vec<String>) -> Result<(), String> {
    let is_name =
        |host: &String| host == "*" || split_port(host).is_some_and(|(name, port)| name == host && port.is_none());
    match hosts.iter().find(|host| !is_name(host)) {
        Some(wrong) => {
            Err(format!("{wrong:?} is not a host name: write metrics.internal, without a scheme or a port, or \"*\""))
        }
        None => Ok(()),
    }
}

fn api_key_list(keys: &Vec<Secret>) -> Result<(), String> {
    if keys.len() > Http::MAX_KEYS {
        return Err(format!("has {} keys and may have {}", keys.len(), Http::MAX_KEYS));
    }
    let fault = |(index, key): (usize, &Secret)| Some((index + 1, Http::key_fault(key.expose())?));
    match keys.iter().enumerate().find_map(fault) {
        Some((number, fault)) => Err(format!("key number {number} {fault}")),
        None => Ok(()),
    }
}

fn token_list(tokens: &Vec<StaticToken>) -> Result<(), String> {
    for (index, entry) in tokens.iter().enumerate() {
        let number = index + 1;
        if entry.token.expose().is_empty() {
            return Err(format!("token number {number} is empty"));
        }
        if tokens[..index].iter().any(|other| other.token == entry.token) {
            return Err(format!("token number {number} is there twice"));
        }
    }
    Ok(())
}
