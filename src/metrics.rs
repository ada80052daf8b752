//! The metrics, and how they are served to Prometheus (docs/metrics.md). Each shard has numbers of its own on cache lines of
//! its own, and only its thread writes them, so counting is a load and a store. A scrape adds the shards up; `control`
//! serves the text.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::limits::Limit;
use crate::limits::api_bound::ApiBound;
use crate::limits::refusals::TokenReason;
use crate::wire::codes::close;

/// The prefix of every metric.
const PREFIX: &str = "uringcast";
/// The text format that is served.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The upper bounds of the buckets of durations, in microseconds. One more bucket takes longer durations.
const BUCKETS_US: [u64; 12] = [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000];

/// Stands for "no certificate" in place of its date.
const NO_CERTIFICATE: i64 = i64::MIN;

macro_rules! metrics {
    ($(#[doc = $doc:literal])* $Name:ident { $($Variant:ident $name:literal $help:literal,)* }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum $Name { $(#[doc = $help] $Variant,)* }

        impl $Name {
            const ALL: &[(&'static str, &'static str)] = &[$(($name, $help),)*];
        }
    };
}

metrics! {
    /// A metric that only grows.
    Count {
        Accepted "connections_accepted" "Connections taken from the kernel",
        Unadmitted "connections_unadmitted" "Connections accepted and cut without an answer: over a limit where TLS is spoken, too many were being refused already, or the socket failed",
        Upgrades "upgrades" "WebSocket upgrades",
        EventStreams "event_streams_opened" "Event streams (server-sent events) that have begun",
        UpgradesDeflate "upgrades_deflate" "WebSocket upgrades that agreed on permessage-deflate",
        InflatedMessages "inflated_messages" "Compressed messages from clients",
        InflatedPayloadBytes "inflated_payload_bytes" "Bytes of compressed messages from clients, as they came",
        InflatedContentBytes "inflated_content_bytes" "Bytes of compressed messages from clients, inflated",
        InflateNs "inflate_nanoseconds" "Time spent on inflating them",
        InflateFailures "inflate_failures" "Compressed messages from clients that were no DEFLATE (1007)",
        Packed "deflated_publications" "Messages to subscribers that were compressed, each once for a shard and variant",
        PackSkipped "undeflated_publications" "Messages to subscribers that compression was agreed on with, sent plain: too short, or no shorter compressed",
        PackBorrowed "deflate_borrowed_batches" "Batches that a client got as they were compressed for others, or plain, since a batch is compressed in three variants at most",
        PackBytesBefore "deflated_publication_bytes_before" "Bytes of the compressed batches of messages to subscribers before, each once",
        PackBytesAfter "deflated_publication_bytes_after" "Bytes of the same batches compressed, each once",
        PackNs "deflate_publications_nanoseconds" "Time spent on compressing messages to subscribers",
        DeflatedReplies "deflated_replies" "Messages meant for one client that were sent compressed",
        DeflatedReplyBytesBefore "deflated_reply_bytes_before" "Bytes of their frames if they had not been compressed",
        DeflatedReplyBytesAfter "deflated_reply_bytes_after" "Bytes of their frames as they were sent",
        UndeflatedReplies "undeflated_replies" "Messages for one client that compression was agreed on with, sent plain: too short, or no shorter compressed",
        DeflateNs "deflate_replies_nanoseconds" "Time spent on compressing messages meant for one client",
        SignIns "auth_succeeded" "Sign-ins that succeeded",
        SignInsFailed "auth_failed" "Tokens of `auth` and `refresh` that were refused",
        Kicks "kicks" "Connections closed because their user signed in elsewhere",
        Probes "probes" "Connections that had to show a sign of life because their user signed in again",
        ProbesUnanswered "probes_unanswered" "Connections that showed none and were closed for it (4504)",
        MessagesIn "messages_received" "Messages from clients, whole ones",
        BytesIn "received_bytes" "Bytes from clients",
        BytesOut "sent_bytes" "Bytes that the kernel took for clients",
        Deliveries "deliveries" "Frames of channels handed to a client's socket or queue: one publication for a thousand subscribers is a thousand",
        Replies "replies" "Frames and HTTP responses meant for one client: answers, pings, closes",
        AnswersDelayed "answers_delayed" "Requests for history, members or recovery that waited for their turn: for the client to take an earlier answer, or for its user's rate of answers",
        Sends "sends" "Send calls to the kernel; (deliveries + replies) / sends is how well frames are coalesced",
        Publications "publications" "Publications accepted by the owners of their channels",
        Sheds "sheds" "Times that publications were dropped from the queue of a slow client, behind a gap",
        MemorySheds "memory_sheds" "Queues of slow clients that were shed because memory was over limits.memory_bytes",
        MemoryCloses "memory_closes" "Connections closed for their queue or their unfinished message because memory was over limits.memory_bytes",
        MemoryEvictions "memory_evictions" "Publications that left a history because memory was over limits.memory_bytes",
        Evictions "history_evictions" "Publications that left a history for limits.history_bytes",
        ChannelEvictions "channel_evictions" "Channels without subscribers that gave up their place to new ones for limits.channels, and with it their history",
        BatchesCut "batches_cut" "Batch windows (batch_window_ms) that ended before their time, because they held as much as they may",
        Parcels "lane_parcels" "Parcels from other shards",
        LaneFull "lane_full_turns" "Turns that ended with something that found a lane full",
        Turns "turns" "Turns of the shards' loops",
        TokensKnown "token_cache_hits" "Tokens whose signature was known to be good (auth.cached_tokens)",
        TokensNew "token_cache_misses" "Tokens whose signature was not known and found good, of the kinds that are remembered: all but HS256",
        TokensPutOff "tokens_put_off" "Tokens with an unknown key that waited for auth.jwks_url to be fetched again",
        TokensWaitedInVain "tokens_waited_in_vain" "Tokens that waited longer than limits.request_ms for that, and were judged by the keys that were known",
        Errands "errands" "Errands that shards gave to the control thread",
        ErrandsNotGiven "errands_not_given" "Errands that were not given to the control thread, as it is behind with the same one, or with all that it may have",
        TlsFailures "tls_failures" "Connections ended for what their peer sent as TLS",
        ApiRequests "api_requests" "Requests to the HTTP API",
        Panics "panics" "Panics that ended one connection",
    }
}

metrics! {
    /// A metric that goes up and down.
    Gauge {
        Connections "connections" "Connections there are",
        ApiConnections "api_connections" "Open connections of the HTTP API",
        EventStreams "event_streams" "Connections that are event streams (server-sent events), or are about to be",
        TurnedAway "connections_turned_away" "Connections beside them that are over a limit, until they have been told",
        Blocked "connections_blocked" "Connections whose socket takes no more at the moment",
        Subscriptions "subscriptions" "Subscriptions, the lobby's among them",
        Users "users" "Users online",
        Channels "channels" "Channels that exist",
        QueuedBytes "queued_bytes" "Bytes of memory that wait for connections whose socket takes no more; memory that several of them share counts for each",
        HistoryBytes "history_bytes" "Bytes of publications kept as history",
        TokensKept "token_cache_tokens" "Tokens whose signature is remembered as good",
    }
}

/// Close codes that the server may send first, and 0 for what a client closed.
const CODES: [u16; 17] = [
    0,
    close::NORMAL,
    close::GOING_AWAY,
    close::PROTOCOL_ERROR,
    close::UNACCEPTABLE,
    close::INVALID_DATA,
    close::TOO_BIG,
    close::INTERNAL,
    close::UNAUTHORIZED,
    close::FORBIDDEN,
    close::AUTH_TIMEOUT,
    close::SIGNED_IN_ELSEWHERE,
    close::RATE_LIMITED,
    close::DRAINING,
    close::NO_SIGN_OF_LIFE,
    close::SLOW_CONSUMER,
    close::INSUFFICIENT_STATE,
];

/// HTTP statuses that a request on a listener for clients may be refused with.
const STATUSES: [u16; 12] = [400, 401, 403, 404, 405, 409, 413, 426, 429, 500, 503, 504];

/// HTTP statuses that a request to the API may be refused with.
const API_STATUSES: [u16; 13] = [400, 401, 403, 404, 405, 408, 409, 413, 415, 500, 503, 504, 507];

/// The metrics of one shard. Only its thread writes them; any thread reads them.
#[derive(Debug)]
#[repr(align(128))]
pub struct ShardMetrics {
    counts: [AtomicU64; Count::ALL.len()],
    gauges: [AtomicU64; Gauge::ALL.len()],
    closes: [AtomicU64; CODES.len()],
    refusals: [AtomicU64; Limit::ALL.len()],
    tokens: [AtomicU64; TokenReason::ALL.len()],
    requests: [AtomicU64; STATUSES.len()],
    api_bounds: [AtomicU64; ApiBound::ALL.len()],
    /// The number of flushes, by duration.
    flushes: [AtomicU64; BUCKETS_US.len() + 1],
    /// The duration of all flushes, in microseconds.
    flushes_us: AtomicU64,
}

/// Adds to a number with a load and a store, because no other thread writes it.
fn grow(value: &AtomicU64, by: u64) {
    value.store(value.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

fn read(value: &AtomicU64) -> u64 {
    value.load(Ordering::Relaxed)
}

impl Default for ShardMetrics {
    fn default() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; _],
            gauges: [const { AtomicU64::new(0) }; _],
            closes: [const { AtomicU64::new(0) }; _],
            refusals: [const { AtomicU64::new(0) }; _],
            tokens: [const { AtomicU64::new(0) }; _],
            requests: [const { AtomicU64::new(0) }; _],
            api_bounds: [const { AtomicU64::new(0) }; _],
            flushes: [const { AtomicU64::new(0) }; _],
            flushes_us: AtomicU64::new(0),
        }
    }
}

impl ShardMetrics {
    /// Adds one to a metric.
    pub(crate) fn count(&self, what: Count) {
        self.add(what, 1);
    }

    /// Adds a number to a metric.
    pub(crate) fn add(&self, what: Count, by: usize) {
        grow(&self.counts[what as usize], by as u64);
    }

    /// Sets a metric to a count that another part keeps.
    pub(crate) fn set_count(&self, what: Count, to: u64) {
        self.counts[what as usize].store(to, Ordering::Relaxed);
    }

    /// Sets a metric to the present number.
    pub(crate) fn set(&self, what: Gauge, to: usize) {
        self.gauges[what as usize].store(to as u64, Ordering::Relaxed);
    }

    /// Counts a connection that the server closes with this code. 0 stands for one that the client closed.
    pub(crate) fn closed(&self, code: u16) {
        let known = CODES.iter().position(|known| *known == code).unwrap_or(0);
        grow(&self.closes[known], 1);
    }

    /// Counts something that a limit refused.
    pub(crate) fn refused(&self, limit: Limit) {
        grow(&self.refusals[limit as usize], 1);
    }

    /// Counts a refused token.
    pub(crate) fn token_refused(&self, reason: TokenReason) {
        grow(&self.tokens[reason as usize], 1);
    }

    /// Counts a request that was refused with this HTTP status.
    pub(crate) fn request_refused(&self, status: u16) {
        if let Some(known) = STATUSES.iter().position(|known| *known == status) {
            grow(&self.requests[known], 1);
        }
    }

    /// Counts that a bound of the API was reached.
    pub(crate) fn api_bound(&self, bound: ApiBound) {
        grow(&self.api_bounds[bound as usize], 1);
    }

    /// Counts a flush and its duration in microseconds.
    pub(crate) fn flushed(&self, took_us: u64) {
        let bucket = BUCKETS_US.partition_point(|bound| *bound < took_us);
        grow(&self.flushes[bucket], 1);
        grow(&self.flushes_us, took_us);
    }
}

/// Metrics of the process that no shard has.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Process {
    /// The number of log lines that were lost.
    pub(crate) log_lines_lost: u64,
    /// The number of revocations in force.
    pub(crate) revocations: u64,
}

/// The metrics of all shards.
#[derive(Clone, Debug)]
pub struct Metrics {
    shards: Arc<[Arc<ShardMetrics>]>,
    /// When the certificate expires, in seconds since 1970; [`NO_CERTIFICATE`] without one.
    certificate_expires_s: Arc<AtomicI64>,
    /// The driver of the shards; empty before it is chosen.
    driver: Arc<OnceLock<&'static str>>,
    /// The number of refused requests to the API, by [`API_STATUSES`].
    api_refused: Arc<[AtomicU64; API_STATUSES.len()]>,
}

impl Metrics {
    /// The metrics of this many shards, all at zero.
    pub fn new(shards: usize) -> Self {
        let certificate_expires_s = Arc::new(AtomicI64::new(NO_CERTIFICATE));
        let api_refused = Arc::new([const { AtomicU64::new(0) }; _]);
        let shards = (0..shards).map(|_| Arc::default()).collect();
        Self { shards, certificate_expires_s, driver: Arc::default(), api_refused }
    }

    /// Sets when the certificate expires, in seconds since 1970; `None` if there is none or it does not say.
    pub(crate) fn certificate_expires(&self, at_s: Option<i64>) {
        self.certificate_expires_s.store(at_s.unwrap_or(NO_CERTIFICATE), Ordering::Relaxed);
    }

    /// Sets the driver of the shards. Only the first call counts.
    pub(crate) fn driver(&self, name: &'static str) {
        let _ = self.driver.set(name);
    }

    /// Counts a request that the API refused with this HTTP status.
    pub(crate) fn api_refused(&self, status: u16) {
        if let Some(known) = API_STATUSES.iter().position(|known| *known == status) {
            self.api_refused[known].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The metrics of one shard.
    pub fn shard(&self, index: usize) -> Arc<ShardMetrics> {
        Arc::clone(&self.shards[index])
    }

    /// The metrics of all shards and those of `others`, in the text format [`CONTENT_TYPE`].
    ///
    /// # Errors
    /// None in practice: it writes into memory.
    pub(crate) fn text(&self, others: impl IntoIterator<Item = Box<dyn Collector>>) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(self.clone()));
        others.into_iter().for_each(|other| registry.register_collector(other));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }

    fn sum(&self, of: impl Fn(&ShardMetrics) -> &AtomicU64) -> u64 {
        self.shards.iter().map(|shard| read(of(shard))).fold(0, u64::wrapping_add)
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let help = "Log lines that stderr did not take in time, or at all";
        let lost = encoder.encode_descriptor("log_lines_lost", help, None, MetricType::Counter)?;
        ConstCounter::new(self.log_lines_lost).encode(lost)?;
        let help = "Revocations in force: those whose tokens may not have expired yet";
        let revocations = encoder.encode_descriptor("revocations", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(self.revocations).unwrap_or(i64::MAX)).encode(revocations)
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for (index, (name, help)) in Gauge::ALL.iter().enumerate() {
            let value = i64::try_from(self.sum(|shard| &shard.gauges[index])).unwrap_or(i64::MAX);
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let expires_s = self.certificate_expires_s.load(Ordering::Relaxed);
        if expires_s != NO_CERTIFICATE {
            let name = "tls_certificate_expiry_timestamp_seconds";
            let help =
                "When the first of the TLS certificate's chain expires, in seconds since 1970; only with a certificate";
            ConstGauge::new(expires_s).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        if let Some(driver) = self.driver.get() {
            let help = "What the shards wait for their sockets with: always 1";
            let mut family = encoder.encode_descriptor("driver", help, None, MetricType::Gauge)?;
            ConstGauge::new(1_i64).encode(family.encode_family(&[("driver", *driver)])?)?;
        }
        for (index, (name, help)) in Count::ALL.iter().enumerate() {
            let counter = ConstCounter::new(self.sum(|shard| &shard.counts[index]));
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let help = "Connections closed, by the close code that was sent; \"client\" for those that the client closed";
        let mut family = encoder.encode_descriptor("closes", help, None, MetricType::Counter)?;
        for (index, code) in CODES.iter().enumerate() {
            let code = if *code == 0 { "client".to_owned() } else { code.to_string() };
            let counter = ConstCounter::new(self.sum(|shard| &shard.closes[index]));
            counter.encode(family.encode_family(&[("code", code.as_str())])?)?;
        }
        let help = "What was refused, by the limit that refused it";
        let mut family = encoder.encode_descriptor("refusals", help, None, MetricType::Counter)?;
        for limit in Limit::ALL {
            let counter = ConstCounter::new(self.sum(|shard| &shard.refusals[*limit as usize]));
            counter.encode(family.encode_family(&[("limit", limit.label())])?)?;
        }
        let help = "Tokens that were refused, by the reason";
        let mut family = encoder.encode_descriptor("tokens_refused", help, None, MetricType::Counter)?;
        for reason in TokenReason::ALL {
            let counter = ConstCounter::new(self.sum(|shard| &shard.tokens[*reason as usize]));
            counter.encode(family.encode_family(&[("reason", reason.label())])?)?;
        }
        let help = "Requests to connect that were refused, by the HTTP status of the answer";
        let mut family = encoder.encode_descriptor("requests_refused", help, None, MetricType::Counter)?;
        for (index, status) in STATUSES.iter().enumerate() {
            let counter = ConstCounter::new(self.sum(|shard| &shard.requests[index]));
            counter.encode(family.encode_family(&[("status", status.to_string().as_str())])?)?;
        }
        let help = "Requests to the HTTP API that were refused, by the HTTP status of the answer";
        let mut family = encoder.encode_descriptor("api_refused", help, None, MetricType::Counter)?;
        for (count, status) in self.api_refused.iter().zip(API_STATUSES) {
            let counter = ConstCounter::new(read(count));
            counter.encode(family.encode_family(&[("status", status.to_string().as_str())])?)?;
        }
        let help = "Connections of the HTTP API that gave way to others, and requests that were refused for others, by the \
                    bound that was reached";
        let mut family = encoder.encode_descriptor("api_bounds_reached", help, None, MetricType::Counter)?;
        for bound in ApiBound::ALL {
            let counter = ConstCounter::new(self.sum(|shard| &shard.api_bounds[*bound as usize]));
            counter.encode(family.encode_family(&[("bound", bound.label())])?)?;
        }
        let help = "How long a flush took: from the first send to the last of what a turn had for clients";
        let mut histogram = encoder.encode_descriptor("flush_seconds", help, None, MetricType::Histogram)?;
        let bounds = BUCKETS_US.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
        let buckets = bounds.enumerate().map(|(index, bound)| (bound, self.sum(|shard| &shard.flushes[index])));
        let buckets: Vec<(f64, u64)> = buckets.collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum_s = self.sum(|shard| &shard.flushes_us) as f64 / 1e6;
        histogram.encode_histogram::<[(&str, &str); 0]>(sum_s, count, &buckets, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(metrics: &Metrics) -> String {
        let process: Box<dyn Collector> = Box::new(Process { log_lines_lost: 3, revocations: 5 });
        metrics.text([process]).expect("a text")
    }

    #[test]
    fn the_shards_are_added_up() {
        let metrics = Metrics::new(3);
        for index in 0..3 {
            let shard = metrics.shard(index);
            shard.add(Count::Deliveries, 1 << index);
            shard.set(Gauge::Connections, 10);
            shard.closed(close::RATE_LIMITED);
            shard.closed(4999);
            shard.refused(Limit::Memory);
        }
        let text = served(&metrics);
        for line in [
            "uringcast_deliveries_total 7",
            "uringcast_connections 30",
            "uringcast_closes_total{code=\"4429\"} 3",
            "uringcast_closes_total{code=\"client\"} 3",
            "uringcast_refusals_total{limit=\"memory\"} 3",
            "uringcast_refusals_total{limit=\"bytes\"} 0",
            "uringcast_log_lines_lost_total 3",
            "uringcast_revocations 5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_duration_counts_in_its_bucket_and_all_above() {
        let metrics = Metrics::new(1);
        [50, 51, 10_000_000].iter().for_each(|took_us| metrics.shard(0).flushed(*took_us));
        let text = served(&metrics);
        for line in [
            "uringcast_flush_seconds_bucket{le=\"0.00005\"} 1",
            "uringcast_flush_seconds_bucket{le=\"0.0001\"} 2",
            "uringcast_flush_seconds_bucket{le=\"0.25\"} 2",
            "uringcast_flush_seconds_bucket{le=\"+Inf\"} 3",
            "uringcast_flush_seconds_count 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn no_two_shards_share_a_cache_line() {
        assert_eq!((align_of::<ShardMetrics>(), size_of::<ShardMetrics>() % 128), (128, 0));
    }
}
