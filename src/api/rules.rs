//! What the API judges requests by: keys, hosts, origins, namespaces, sizes. Each shard has one set for all connections of
//! its API. Keys are replaced on a reload, and the end of the server changes what is answered.

use std::sync::Arc;

use super::error::ApiError;
use super::hosts::Hosts;
use crate::auth::ApiKeys;
use crate::model::channel_name::is_channel_name;
use crate::model::namespace::{Namespace, Namespaces};
use crate::model::text::Text;
use crate::wire::http::{HeadLimits, RequestHead};
use crate::wire::origin::Origins;

/// Bytes of a request's head.
pub(crate) const HEAD_BYTES: usize = 16 * 1024;
/// What a body may have beside its content, in bytes: a broadcast's list of channels.
const LIST_BYTES: usize = 256 * 1024;
/// The most bytes of a body of lines, or what a single publication may have if that is more.
const LINES_BYTES: usize = 8 << 20;

/// What the API's rules are made of.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// The keys that requests must bring.
    pub keys: Arc<ApiKeys>,
    /// Host names under which the API answers without a key, beside those of this machine.
    pub hosts: Vec<String>,
    /// The listener is on a loopback address, so a request without a key must name this machine.
    pub checks_hosts: bool,
    /// The listener can be reached from other machines, so `/metrics` needs a key.
    pub metrics_need_key: bool,
    /// The origins whose pages may use the API from a browser.
    pub cors: Origins,
    /// The rules of all channels.
    pub namespaces: Arc<Namespaces>,
    /// The largest encoded push, in bytes.
    pub push_bytes: usize,
}

impl ApiSettings {
    /// The settings with these keys, without a check of hosts and without CORS: for simulations.
    pub fn of_keys(keys: &[&str], namespaces: Arc<Namespaces>, push_bytes: usize) -> Self {
        Self {
            keys: Arc::new(ApiKeys::of(keys)),
            hosts: Vec::new(),
            checks_hosts: false,
            metrics_need_key: false,
            cors: Origins::default(),
            namespaces,
            push_bytes,
        }
    }
}

/// What requests are judged by.
#[derive(Debug)]
pub struct ApiRules {
    keys: Arc<ApiKeys>,
    hosts: Hosts,
    metrics_need_key: bool,
    cors: Origins,
    namespaces: Arc<Namespaces>,
    /// The most bytes that one body may have.
    body_bytes: usize,
    /// The server is about to end.
    is_draining: bool,
}

impl ApiRules {
    /// The rules of a server that is not about to end.
    pub fn new(settings: ApiSettings) -> Self {
        Self {
            keys: settings.keys,
            hosts: Hosts::new(settings.checks_hosts, settings.hosts),
            metrics_need_key: settings.metrics_need_key,
            cors: settings.cors,
            namespaces: settings.namespaces,
            // A text may come with every character escaped, in twice the bytes.
            body_bytes: settings.push_bytes.saturating_mul(2).saturating_add(LIST_BYTES),
            is_draining: false,
        }
    }

    /// Replaces the keys that requests must bring.
    pub(crate) fn set_keys(&mut self, keys: Arc<ApiKeys>) {
        self.keys = keys;
    }

    /// Refuses requests with a key from now on: the server is about to end.
    pub(crate) fn set_draining(&mut self) {
        self.is_draining = true;
    }

    /// Whether the server is about to end.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// Whether a request with this head brings a valid key: `Authorization: Bearer KEY`, or `X-API-Key: KEY`.
    pub(super) fn admits(&self, head: &RequestHead<'_, '_>) -> bool {
        let first = |name| std::str::from_utf8(head.values(name).next()?).ok();
        let bearer = first("authorization").and_then(|value| {
            let (scheme, key) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
        });
        let key = bearer.or_else(|| first("x-api-key").map(str::trim));
        key.is_some_and(|key| self.keys.matches(key))
    }

    /// Whether a request that names this host may be answered without a key.
    pub(super) fn serves(&self, host: Option<&str>) -> bool {
        self.hosts.serve(host)
    }

    /// Whether pages of this origin may read responses.
    pub(super) fn shares_with(&self, origin: &str) -> bool {
        self.cors.lists(origin)
    }

    /// Whether `/metrics` needs a key.
    pub(super) fn metrics_need_key(&self) -> bool {
        self.metrics_need_key
    }

    /// The bounds of a request's head.
    pub(super) fn head_limits(&self) -> HeadLimits {
        HeadLimits { head_bytes: HEAD_BYTES, ..HeadLimits::default() }
    }

    /// The most bytes that one body may have.
    pub(crate) fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    /// The most bytes that a body of lines may have.
    pub(super) fn lines_bytes(&self) -> usize {
        self.body_bytes.max(LINES_BYTES)
    }

    /// The rules of a channel of this name.
    ///
    /// # Errors
    /// No channel of this name can exist.
    pub(super) fn check_channel(&self, name: &str) -> Result<&Arc<Namespace>, ApiError> {
        if !is_channel_name(name) {
            return Err(ApiError::of(400, Text::BadChannel));
        }
        self.namespaces.of(name).ok_or_else(|| ApiError::of(404, Text::UnknownNamespace))
    }
}
