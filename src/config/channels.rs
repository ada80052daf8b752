//! The keys of a channel's rules. `[lobby]`, `[channels]` and every `[namespaces.NAME]` have these keys in common. Also
//! turns a section into the [`Namespace`] that the shards use.

#![expect(clippy::ptr_arg, reason = "the checks take what a key holds: a `Vec`, not a slice")]

use std::collections::BTreeMap;

use crate::model::namespace::{self, Compress, LOBBY, Namespace, Overflow, PresenceMode, PublishRule, SubscribeRule};

use super::setting::{DAY_MS, DescribedItem, Raw, Section, SettingError, range, settings, textual};

/// The longest time that history may be kept, in milliseconds.
const MONTH_MS: u64 = 31 * DAY_MS;
/// The longest window, in milliseconds. Subscribers wait that long for a publication or a digest.
const MINUTE_MS: u64 = 60 * 1000;
/// The longest user id, in bytes. `model::user` has the rule, and a test holds the two together.
pub(super) const MAX_ID_BYTES: usize = 128;
/// The most users that one namespace may name. A site with more users issues tokens instead.
const MAX_USERS: usize = 10_000;

settings! {
    /// The rules of the channels of one namespace. The defaults are those of `[channels]`.
    pub struct ChannelRules {
        /// Who may subscribe: "signed_in" (every user), "token" (users whose token lists the channel in `channels`, or who
        /// send a channel token for it) or "named" (the `users` below, and those that "token" would allow).
        subscribe: SubscribeRule = SubscribeRule::SignedIn;
        /// The ids of the users who may subscribe, as texts: ["1", "alice"]. Only with subscribe = "named".
        users: Vec<String> = Vec::new(), user_list;
        /// Who may publish: "backend" (only the HTTP API) or "members" (subscribers too).
        publish: PublishRule = PublishRule::Backend;
        /// The most publications that each channel keeps for clients that reconnect. 0 keeps none.
        history_size: usize = 100, range(0..=1_000_000);
        /// How long each publication is kept, in milliseconds.
        history_age_ms: u64 = 300_000, range(0..=MONTH_MS);
        /// What members learn about each other: "events" (each join and leave), "digest" (one list per window), "count"
        /// (the number of members, once per window) or "off". Large channels with "events" send them together, and then
        /// digests: see `presence_gather_ms` and `presence_digest_above` in `limits`.
        presence: PresenceMode = PresenceMode::Off;
        /// How long joins and leaves are collected for one digest or count, in milliseconds.
        presence_window_ms: u64 = 1_000, range(10..=MINUTE_MS);
        /// Replace & < > " ' in texts and user names by HTML entities, for pages that insert them as HTML. Data that is
        /// published as JSON is never changed. (In dev mode: false in the lobby, because the demo page inserts text.)
        escape: bool = true;
        /// What happens to a subscriber that cannot keep up: "disconnect" (4508; it recovers when it reconnects),
        /// "drop_oldest" (a gap says what it missed) or "conflate" (the newest publication of each key is kept).
        overflow: Overflow = Overflow::Disconnect;
        /// How long publications are collected before they are sent together, in milliseconds. 0 sends at once.
        batch_window_ms: u64 = 0, range(0..=MINUTE_MS);
        /// Whether publications and answers of the channel are compressed for clients that use compression: "auto" (from
        /// `compression.min_bytes` up) or "off" (for secrets, or for data that is compressed already).
        compress: Compress = Compress::Auto;
    }
}

textual! {
    SubscribeRule: "\"signed_in\", \"token\" or \"named\"";
    PublishRule: "\"backend\" or \"members\"";
    PresenceMode: "\"events\", \"digest\", \"count\" or \"off\"";
    Overflow: "\"disconnect\", \"drop_oldest\" or \"conflate\"";
    Compress: "\"auto\" or \"off\"";
}

impl ChannelRules {
    /// The defaults of `[lobby]`, where they differ from `[channels]`.
    pub(super) fn lobby() -> ChannelRules {
        ChannelRules { publish: PublishRule::Members, presence: PresenceMode::Events, ..ChannelRules::default() }
    }

    /// An error if `users` has no effect: the operator would believe in a restriction that does not exist.
    pub(super) fn users_fault(&self) -> Option<String> {
        let without_effect = !self.users.is_empty() && self.subscribe != SubscribeRule::Named;
        without_effect.then(|| "has no effect without subscribe = \"named\"".to_owned())
    }

    /// These rules as the shards use them.
    pub(super) fn namespace(&self, name: &str) -> Namespace {
        let rules = self.clone();
        Namespace {
            name: name.to_owned(),
            subscribe: rules.subscribe,
            users: rules.users.into_iter().collect(),
            publish: rules.publish,
            history_size: rules.history_size,
            history_age_ms: rules.history_age_ms,
            presence: rules.presence,
            escape: rules.escape,
            overflow: rules.overflow,
            batch_window_ms: rules.batch_window_ms,
            presence_window_ms: rules.presence_window_ms,
            compress: rules.compress,
        }
    }
}

impl Section for BTreeMap<String, ChannelRules> {
    fn enter(&mut self, path: &[&str]) -> Result<(), SettingError> {
        let [name, rest @ ..] = path else {
            return Ok(());
        };
        entry(self, name)?.enter(rest)
    }

    fn set(&mut self, path: &[&str], raw: Raw<'_>) -> Result<(), SettingError> {
        let [name, rest @ ..] = path else {
            return Err(SettingError::Unknown);
        };
        entry(self, name)?.set(rest, raw)
    }

    fn is_section(&self, path: &[&str]) -> bool {
        // A section of rules has keys and no sections.
        path.len() < 2
    }

    fn walk(&self, prefix: &str, out: &mut Vec<DescribedItem>) {
        for (name, rules) in self {
            let path = format!("{prefix}{name}");
            let mut items = Vec::new();
            rules.walk(&format!("{path}."), &mut items);
            out.push(DescribedItem::Section { path, docs: &[" The keys have the same meaning as in [channels]."] });
            // The descriptions stand in [channels] and are not repeated.
            out.extend(items.into_iter().map(|item| match item {
                DescribedItem::Key { path, shown, .. } => DescribedItem::Key { path, docs: &[], shown },
                section => section,
            }));
        }
    }
}

fn entry<'a>(all: &'a mut BTreeMap<String, ChannelRules>, name: &str) -> Result<&'a mut ChannelRules, SettingError> {
    if name == LOBBY {
        return Err(SettingError::invalid("the lobby's section is [lobby], and no namespace can have its name"));
    }
    if !namespace::is_name(name) {
        return Err(SettingError::invalid(format!(
            "a namespace's name has 1 to {} of A-Z, a-z, 0-9, _ and -",
            namespace::MAX_NAME_BYTES
        )));
    }
    Ok(all.entry(name.to_owned()).or_default())
}

fn user_list(users: &Vec<String>) -> Result<(), String> {
    if users.len() > MAX_USERS {
        return Err(format!("names {} users and may name {MAX_USERS}: for more, issue tokens", users.len()));
    }
    match users.iter().position(|user| !(1..=MAX_ID_BYTES).contains(&user.len())) {
        Some(index) => Err(format!("id number {} must have 1 to {MAX_ID_BYTES} bytes", index + 1)),
        None => Ok(()),
    }
}
