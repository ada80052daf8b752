//! Every key: its name, meaning, default and bounds, each in one place. The comments are what the operator
//! reads in `uringcast config` and docs/configuration.md. To add a key, add its lines here; to add a section,
//! add a `settings!` struct and name it in `Config`. The rest of the module needs no change. (What a channel's
//! rules are stands in `channels`.)

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

/// The largest size that a setting in bytes may name, for one message or connection …
const GIB: usize = 1 << 30;
/// … and for the whole process.
const TIB: usize = 1 << 40;

settings! {
    /// All of the configuration.
    pub struct Config {
        /// Where to listen: an address and a port (0 takes a free one), or a unix socket such as
        /// "unix:/run/uringcast/push.sock"; or a list of these. (In dev mode: 127.0.0.1:2345.)
        listen: Listeners = Listeners::at((Ipv4Addr::UNSPECIFIED, 2345)), one_at_least;
        /// Permissions of unix sockets, `http.listen` among them, in octal: who may write to the file may connect. The file
        /// belongs to the server's user and group; that of a server that is gone is replaced.
        listen_mode: FileMode = FileMode(0o660);
        /// Path of the WebSocket endpoint.
        path: String = "/ws".to_owned(), endpoint_path;
        /// Number of shards, that is, of threads that serve connections, at most 256. 0 takes one for each CPU
        /// that this process may use (its affinity mask, capped by the quota of its cgroup).
        shards: u16 = 0, range(0..=256);
        /// How shards wait for their sockets: "io_uring", "epoll", or "auto", which takes io_uring where the kernel allows
        /// it (many containers' seccomp profiles don't) and else epoll, with a warning. "io_uring" doesn't start without it.
        driver: DriverChoice = DriverChoice::Auto;
        /// Keep each shard on one CPU.
        pin_cpus: bool = true;
        /// Serve /echo, which sends back what it gets without asking for a token: for conformance and load
        /// tests. (In dev mode: true.)
        echo: bool = false;
        /// Language of the messages that people read: "en" or "zh".
        language: Language = Language::En;
        /// Web pages that may connect, each as `location.origin` on the page shows it: "https://example.com",
        /// "http://10.0.0.1:8080". "http://localhost:*" is any port, "https://*.example.com" every host below example.com
        /// (and not that itself), "*" every page. Pages that were opened as files are "file://"; pages without an origin
        /// of their own, as in a sandboxed frame, are "null". Browsers send "null" for files too, so "file://" lets both
        /// in. Empty: only pages from the host that they connect to. A client without an Origin header is no page and may.
        origins: Vec<String> = Vec::new(), origin_list;
        /// How long the server takes to stop at most, in milliseconds: half of it for what was accepted to reach everyone,
        /// all of it for connections to close.
        shutdown_ms: u64 = 5_000, range(0..=DAY_MS);
    }
    sections {
        /// What is written to stderr.
        log: Log;
        /// Who may connect, and how that is proved. At least one key (or token) is needed outside dev mode.
        /// Paths are relative to the directory that the server is started in.
        auth: Auth;
        /// How dead connections are found.
        liveness: Liveness;
        /// Bounds that keep one client, or all of them, from using up the server.
        limits: Limits;
        /// Encryption of what clients send and are sent: wss. Without a certificate there is none.
        tls: Tls;
        /// Compression of what clients send and are sent: permessage-deflate (RFC 7692).
        compression: CompressionSection;
        /// The backend's way in: publishing, presence and history over HTTP, on a listener of its own.
        http: Http;
        /// The channel that every authenticated connection is on.
        lobby: ChannelRules = ChannelRules::lobby();
        /// Channels without a colon in their name, other than the lobby.
        channels: ChannelRules;
        /// Any number of namespaces, each a section of its own: `chat:room1` is a channel of `[namespaces.chat]`. A
        /// name has 1 to 64 of A-Z, a-z, 0-9, _ and -. The keys are those of `[channels]`, with the defaults that are
        /// built in for that, whatever it says here. A namespace without a section has no channels. In the
        /// environment names are lower-cased: URINGCAST_NAMESPACES__CHAT__HISTORY_SIZE=500 is for "chat". In a file:
        ///
        /// [namespaces.chat]
        /// subscribe = "token"
        /// publish = "members"
        /// presence = "events"
        /// history_size = 500
        namespaces: BTreeMap<String, ChannelRules>;
    }
    state {
        /// Whether this is dev mode: decided on the command line, and not a key.
        dev: bool = false;
    }
}

settings! {
    /// What is written to stderr.
    pub struct Log {
        /// The least important level that is written: "error", "warn", "info", "debug" or "off"; or a filter that names
        /// parts of the server, such as "info,uringcast::io::accept=debug".
        level: String = "info".to_owned(), log_filter;
        /// "text" for people or "json" for machines.
        format: LogFormat = LogFormat::Text;
        /// The most lines that may wait for stderr to take them; further ones are lost, and counted
        /// (`uringcast_log_lines_lost_total`).
        queue_lines: usize = 16_384, range(1..=1 << 24);
    }
}

settings! {
    /// Who may connect, and how that is proved.
    pub struct Auth {
        /// The secret that signs HS256 tokens: at least 16 bytes, better 32 random ones
        /// (`openssl rand -base64 32`). Prefer the file or the environment to writing it here. Line ends at its end are
        /// not part of it.
        hs256_secret: Option<Secret> = None, if_set(long_enough);
        /// A file that holds that secret. Line ends at its end are not part of it.
        hs256_secret_file: Option<PathBuf> = None, if_set(path_not_empty);
        /// PEM files with public keys. RSA means RS256, EC on P-256 ES256, on P-384 ES384, Ed25519 EdDSA; another
        /// algorithm of that family is named: { file = "rsa.pem", algorithm = "PS256" }.
        public_key_files: Vec<PublicKeyFile> = Vec::new();
        /// A file with a JSON Web Key Set. A token's `kid` and `alg` choose the key. What can't check a token, as keys for
        /// encryption, is passed over with a warning; a key that is broken is refused.
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
        /// What the `iss` claim must be. Unset: it is not looked at.
        issuer: Option<String> = None, if_set(not_empty);
        /// What the `aud` claim must be or contain. Unset: it is not looked at.
        audience: Option<String> = None, if_set(not_empty);
        /// How far the clock of the machine that issues tokens may be off, in seconds: tokens are taken that much longer
        /// after `exp`, and earlier before `nbf` and `iat`. Clocks that follow NTP differ by less than a second, virtual
        /// machines that were paused by a few; and a token that leaked lives no longer than this beyond its end.
        leeway_s: u64 = 5, range(0..=3_600);
        /// Fixed tokens, for trying things out: they never expire.
        /// [{ token = "…", user = 1, name = "Alice", channels = ["news"] }]
        tokens: Vec<StaticToken> = Vec::new(), token_list;
        /// What happens when a user who is connected signs in again: "kick_old" closes the older connection,
        /// "reject_new" the newer one, "allow" keeps both.
        duplicate_login: DuplicateLogin = DuplicateLogin::KickOld;
        /// When a sign-in would be refused because of the connections that its user has, these are pinged, and have so long
        /// to show a sign of life, in milliseconds; those that don't are closed (4504), and the sign-in goes through. 0
        /// refuses at once. At most half of `limits.request_ms` counts.
        probe_ms: u64 = 2_000, range(0..=60_000);
        /// How many tokens are remembered whose signature was found good, over all shards, so that reconnects don't
        /// pay for it again; those unused for longest go first. What a token says is judged anew each time. HS256 is
        /// never remembered: it costs no more. 0: none.
        cached_tokens: usize = 65_536, range(0..=100_000_000);
        /// The most that those tokens may take, in bytes, over all shards.
        cached_tokens_bytes: usize = 32 << 20, range(0..=TIB);
        /// How long a revocation is kept that doesn't name its tokens' end, in seconds: at least as long as tokens
        /// live. A token that lives longer is taken again after it.
        revocations_kept_s: u64 = 30 * 86_400, range(1..=3_650 * 86_400);
        /// A file in which revocations outlive a restart; it is made if it isn't there, for the server's user alone to
        /// read. Unset: they don't.
        revocations_file: Option<PathBuf> = None, if_set(path_not_empty);
        /// How long a new connection has to authenticate, in milliseconds.
        deadline_ms: u64 = 10_000, range(1..=DAY_MS);
    }
}

settings! {
    /// How dead connections are found.
    pub struct Liveness {
        /// After this long without a byte from a client it is pinged, in milliseconds.
        ping_interval_ms: u64 = 25_000, range(10..=DAY_MS);
        /// A client that has not answered the ping after this long is closed (4504), in milliseconds.
        pong_timeout_ms: u64 = 10_000, range(10..=DAY_MS);
    }
}

settings! {
    /// Bounds that keep one client, or all of them, from using up the server.
    pub struct Limits {
        /// The largest message taken from a client, in bytes, over all its frames.
        message_bytes: usize = 1 << 20, range(1..=GIB);
        /// The largest single frame taken from a client, in bytes. Unset: as large as a message.
        frame_bytes: Option<usize> = None, if_set(range(1..=GIB));
        /// The largest message taken from a client that has not signed in, in bytes: room for `auth` with as many channels
        /// and tokens as `subscriptions` allows.
        auth_message_bytes: usize = 384 << 10, range(1_024..=GIB);
        /// The most that is kept of messages whose end has not come yet, in bytes, over all connections of one address.
        /// The client whose message finds no room is closed (4503). 0 is no bound …
        unfinished_bytes_per_ip: usize = 16 << 20, range(0..=GIB);
        /// … and over all connections.
        unfinished_bytes: usize = 256 << 20, range(0..=TIB);
        /// The largest request head, in bytes.
        header_bytes: usize = 8_192, range(256..=1 << 20);
        /// The most header lines in a request.
        headers: usize = 64, range(8..=1_024);
        /// How long a new connection has to complete its handshake, in milliseconds.
        handshake_ms: u64 = 10_000, range(1..=DAY_MS);
        /// The most connections at a time, over all shards. Above it they are answered 503.
        connections: usize = 1_000_000, range(1..=100_000_000);
        /// The most connections at a time on one shard (503); 0 is no bound of its own.
        connections_per_shard: usize = 0, range(0..=100_000_000);
        /// The most connections at a time from one address (429). IPv6 counts by /64, here and below; 0 is no bound.
        connections_per_ip: u32 = 512, range(0..=100_000_000);
        /// How many new connections a second one address may make, over time (429); 0 is no bound …
        new_connections_per_ip_per_s: u64 = 50, range(0..=1_000_000);
        /// … and how many at once.
        new_connections_per_ip_burst: u64 = 512, range(1..=10_000_000);
        /// The most addresses that are remembered, for the limits per address. Those without a connection are forgotten
        /// as soon as they may do again all that they might; newcomers that still find no place are answered 503.
        addresses: usize = 1_000_000, range(64..=100_000_000);
        /// The most connections at a time of one user (`error` 429, then 4429), with `auth.duplicate_login = "allow"`; 0
        /// is no bound. Connections from `exempt` are always let in.
        connections_per_user: usize = 100, range(0..=100_000_000);
        /// How many tokens one connection may have refused: after so many it is closed (4429).
        auth_attempts: u8 = 5, range(1..=255);
        /// How many tokens of one address may be refused in a minute, over time; above it none is looked at (`error`
        /// 429, then 4429). 0 is no bound …
        auth_failures_per_ip_per_minute: u64 = 60, range(0..=1_000_000);
        /// … and how many at once.
        auth_failures_per_ip_burst: u64 = 60, range(1..=1_000_000);
        /// How many messages a second one connection may send, over time; pings count. What is over is answered `error`
        /// 429 and not done; who goes on for more than ten of these is closed (4429). 0 is no bound …
        messages_per_s: u64 = 100, range(0..=10_000_000);
        /// … and how many at once.
        messages_burst: u64 = 500, range(1..=100_000_000);
        /// How many bytes a second one connection may send, over time; the same answers. 0 is no bound …
        bytes_per_s: u64 = 1 << 20, range(0..=1 << 40);
        /// … and how many at once: never less than one message may have.
        bytes_burst: u64 = 4 << 20, range(1..=1 << 40);
        /// The same four over all connections of a user.
        user_messages_per_s: u64 = 200, range(0..=10_000_000);
        /// Messages of a user at once.
        user_messages_burst: u64 = 1_000, range(1..=100_000_000);
        /// Bytes of a user a second; the messages' own, without their frames.
        user_bytes_per_s: u64 = 2 << 20, range(0..=1 << 40);
        /// Bytes of a user at once: never less than one message may have.
        user_bytes_burst: u64 = 8 << 20, range(1..=1 << 40);
        /// How many bytes of answers that carry publications or members a second one user gets over all connections: pages
        /// of `history`, `presence` and `users`, and what is recovered. With compression each byte counts three times. What
        /// is over is answered later. 0 is no bound …
        user_answer_bytes_per_s: u64 = 16 << 20, range(0..=1 << 40);
        /// … and how many at once: never less than twice `outbox_bytes`.
        user_answer_bytes_burst: u64 = 64 << 20, range(1..=1 << 40);
        /// Networks that are free of the limits per address and of rates. A proxy on this machine belongs into
        /// `trusted_proxies`, so that its clients count by their own addresses. "unix" means the peers of unix sockets,
        /// which have none: where they aren't exempt, all of them count as one address.
        exempt: Vec<Net> = this_machine();
        /// Networks whose word on where a connection came from is taken: reverse proxies and balancers. "unix" means the
        /// peers of unix sockets.
        trusted_proxies: Vec<Net> = Vec::new();
        /// Trusted proxies begin every connection with a PROXY protocol header, version 1 or 2; without one it is ended.
        /// False: none of them does, and they say it in HTTP, below.
        proxy_protocol: bool = false;
        /// The header in which trusted proxies say it: "x-forwarded-for" or "forwarded" (RFC 7239). The other is not
        /// read: a proxy that writes one passes the other on as a client made it up.
        forwarded_header: ForwardedHeader = ForwardedHeader::XForwardedFor;
        /// Above so many resident bytes no new connection or channel is taken (503), until they are below 95 % of it.
        /// 0 switches it off. Unset: 80 % of the machine's memory or of the cgroup's limit.
        memory_bytes: Option<u64> = None, if_set(range(0..=1 << 50));
        /// The largest push, encoded, in bytes: what a text becomes when it is escaped and wrapped.
        push_bytes: usize = 1 << 20, range(1_024..=GIB);
        /// The most that may wait to be sent to one connection, in bytes. Above it the client is closed (4508).
        outbox_bytes: usize = 4 << 20, range(4_096..=GIB);
        /// The most requests of one connection that may wait for their answer at a time; nothing more is read of it
        /// meanwhile. A client that publishes in bulk gets as many into one batch.
        requests_per_connection: usize = 256, range(1..=65_536);
        /// How long a request may wait for its answer, in milliseconds.
        request_ms: u64 = 10_000, range(1..=DAY_MS);
        /// The most parcels in each lane between two shards.
        lane_parcels: usize = 1_024, range(16..=1 << 20);
        /// The most channels that one connection may be subscribed to at a time.
        subscriptions: usize = 128, range(1..=65_536);
        /// The most channels that exist at a time, over all shards. A new one then takes the place, and the history, of the
        /// one that nobody has been on for the longest time; if somebody is on each, it is refused (503).
        channels: usize = 1_000_000, range(1..=100_000_000);
        /// The most that all channels' history may take together, in bytes, over all shards.
        history_bytes: usize = 256 << 20, range(0..=TIB);
        /// The most idempotency keys that are remembered at a time, over all shards.
        idempotency_keys: usize = 1_000_000, range(1..=100_000_000);
        /// The most revocations in force at a time; further ones are refused (507) until some have expired.
        revocations: usize = 100_000, range(1..=10_000_000);
        /// Above so many members a channel's joins and leaves are told in digests even if its presence is "events";
        /// below half of it they are told one by one again.
        presence_digest_above: usize = 1_000, range(1..=100_000_000);
        /// The most users that one digest lists. It says so if there were more.
        presence_list: usize = 100, range(1..=10_000);
    }
}

settings! {
    /// Encryption of what clients send and are sent.
    pub struct Tls {
        /// A PEM file with the server's certificate, and after it those that lead to a root that clients trust. It is
        /// read anew on SIGHUP and within seconds of a change; connections that are open stay.
        cert_file: Option<PathBuf> = None, if_set(path_not_empty);
        /// A PEM file with the certificate's private key.
        key_file: Option<PathBuf> = None, if_set(path_not_empty);
        /// Where to listen for TLS beside `listen`, which then stays plain; written as `listen` is. With "" it is `listen`
        /// that speaks TLS, as soon as there is a certificate.
        listen: Listeners = Listeners(Vec::new());
        /// The oldest version of TLS that is spoken: "1.2" or "1.3".
        min_version: TlsVersion = TlsVersion::Tls12;
    }
}

settings! {
    /// Compression of what clients send and are sent.
    pub struct CompressionSection {
        /// "off"; "on" (with clients that offer it, as browsers do); "forced" (a client that offers none that can be
        /// taken is answered 400: where traffic costs more than a client that is turned away). What is secret and what
        /// an attacker may write should not be compressed in one message: docs/security.md.
        mode: Mode = Mode::Off;
        /// How hard to try, from 1 (fastest) to 9 (smallest).
        level: u32 = 3, range(1..=9);
        /// Messages that are shorter, in bytes, are sent as they are: below some 200 there is nothing to gain.
        min_bytes: usize = 256, range(0..=GIB);
    }
}

settings! {
    /// The backend's way in.
    pub struct Http {
        /// Where that listener is: one address and port (0 takes a free one) or one unix socket; "" switches it off. It is
        /// off as well while there is no API key. Beyond this machine it should stand behind something that does TLS.
        listen: Listeners = Listeners::at((Ipv4Addr::LOCALHOST, 2346)), one_at_most;
        /// The API keys, one of which a request has to bring: each at least 16 visible ASCII characters
        /// (`openssl rand -hex 32`). Prefer the file or the environment to writing them here.
        keys: Vec<Secret> = Vec::new(), api_key_list;
        /// A file with API keys, one a line, beside those of `keys`. Empty lines don't count, nor lines that begin
        /// with #.
        keys_file: Option<PathBuf> = None, if_set(path_not_empty);
        /// Origins whose pages may use that listener from a browser (CORS), written as in `origins`. None by default:
        /// an API key in a page is everyone's. `["https://status.example.com"]` lets such a page read /health.
        cors_origins: Vec<String> = Vec::new(), origin_list;
        /// Names under which that listener answers without a key (/health, /metrics), where it is on a loopback address:
        /// `["metrics.internal"]`; "*" allows all. `localhost`, loopback addresses and names without a dot are always
        /// answered. So a web page whose own name was pointed at this machine (DNS rebinding) can't read the answers.
        /// Requests that bring a key may use any name.
        hosts: Vec<String> = Vec::new(), host_list;
    }
}

impl Config {
    /// What this configuration would be if no value were given: with the same namespaces.
    pub(super) fn defaults(&self) -> Config {
        let namespaces = self.namespaces.keys().map(|name| (name.clone(), ChannelRules::default())).collect();
        Config { namespaces, ..Config::default() }
    }
}

impl Http {
    /// The shortest API key that is accepted.
    pub const MIN_KEY_BYTES: usize = 16;
    /// The longest one.
    pub const MAX_KEY_BYTES: usize = 512;
    /// The most there may be: each is compared with for every request.
    pub const MAX_KEYS: usize = 100;

    /// Where the API listens, if it does: only with a key that could be shown to it.
    pub fn listener(&self) -> Option<&ListenAddr> {
        let has_key = !self.keys.is_empty() || self.keys_file.is_some();
        self.listen.0.first().filter(|_| has_key)
    }

    /// What is wrong with an API key, without telling it.
    pub fn key_fault(key: &str) -> Option<String> {
        let (bytes, least, most) = (key.len(), Http::MIN_KEY_BYTES, Http::MAX_KEY_BYTES);
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Some(
                "has a character that is not visible ASCII, as a space, and no header could carry it".to_owned(),
            );
        }
        (!(least..=most).contains(&bytes))
            .then(|| format!("has {bytes} bytes and needs {least} to {most}; `openssl rand -hex 32` makes a good one"))
    }
}

impl Limits {
    /// The largest frame in force.
    pub fn frame_limit(&self) -> usize {
        self.frame_bytes.unwrap_or(self.message_bytes)
    }
}

/// This machine: 127.0.0.0/8, ::1 and the peers of unix sockets.
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

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// How shards wait for their sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverChoice {
    /// With io_uring if it can be had, else with epoll.
    Auto,
    /// With io_uring.
    IoUring,
    /// With epoll.
    Epoll,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsVersion {
    /// RFC 5246.
    #[serde(rename = "1.2")]
    Tls12,
    /// RFC 8446.
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
    /// Where it is.
    pub file: PathBuf,
    /// The algorithm's JWT name, if it isn't the usual one for such a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<String>,
}

/// The two ways to write a `PublicKeyFile`.
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

/// A token that simply is valid, for trying things out.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticToken {
    /// What the client sends.
    pub token: Secret,
    /// The user's id, a number or a text. Its rules are those of a token's claim, so `auth` checks it.
    pub user: serde_json::Value,
    /// The name to show; the id's text if there is none.
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
    /// The shortest HS256 secret that is accepted. RFC 7518 §3.2 asks for 32; `auth` warns below that.
    pub const MIN_SECRET_BYTES: usize = 16;

    /// Whether anything is configured that a token could be checked with.
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
    if listeners.0.is_empty() { Err("must name one place at least".to_owned()) } else { Ok(()) }
}

fn one_at_most(listeners: &Listeners) -> Result<(), String> {
    if listeners.0.len() > 1 { Err("must name one place at most".to_owned()) } else { Ok(()) }
}

fn not_empty(text: &String) -> Result<(), String> {
    if text.trim().is_empty() { Err("must not be empty".to_owned()) } else { Ok(()) }
}

/// What the log's own filter makes of a word that is no level is a part of the program that says nothing: no line at all.
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
            Some((part, level)) if is_part(part) => format!("{level:?} is no level"),
            Some((part, _)) => {
                format!("{part:?} is no part of this server, which are uringcast::io::accept and the like")
            }
            None => format!("{directive:?} is no level"),
        };
        return Err(format!(
            "{fault}: write one of {levels}, or a filter such as \"info,uringcast::io::accept=debug\""
        ));
    }
    Ok(())
}

/// The levels that a log line can have, least first, and none.
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
        return Err("must not be /echo, which is the echo endpoint's".to_owned());
    }
    Ok(())
}

fn origin_list(origins: &Vec<String>) -> Result<(), String> {
    Origins::list(origins).map(drop)
}

fn host_list(hosts: &Vec<String>) -> Result<(), String> {
    let is_name =
        |host: &String| host == "*" || split_port(host).is_some_and(|(name, port)| name == host && port.is_none());
    match hosts.iter().find(|host| !is_name(host)) {
        Some(wrong) => {
            Err(format!("{wrong:?} is no host: write metrics.internal, without a scheme or a port, or \"*\""))
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
