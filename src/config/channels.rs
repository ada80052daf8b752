//! The keys of a channel's rules, which `[lobby]`, `[channels]` and every `[namespaces.NAME]` have in common, and
//! what they become: the `Namespaces` that the shards go by. Used by `schema`, by `load` for the checks between keys,
//! and at boot.

#![expect(clippy::ptr_arg, reason = "the checks take what a key holds: a `Vec`, not a slice")]

use std::collections::BTreeMap;

use crate::model::namespace::{self, Compress, LOBBY, Namespace, Overflow, PresenceMode, PublishRule, SubscribeRule};

use super::setting::{DAY_MS, DescribedItem, Raw, Section, SettingError, range, settings, textual};

/// The longest time that history may be kept.
const MONTH_MS: u64 = 31 * DAY_MS;
/// The longest window: who waits for a publication or a digest waits this long.
const MINUTE_MS: u64 = 60 * 1000;
/// The longest user id; `auth` has the rule, and a test holds the two together.
pub(super) const MAX_ID_BYTES: usize = 128;
/// The most users that one namespace may name. Who has more issues tokens.
const MAX_USERS: usize = 10_000;

settings! {
    /// What the channels of a namespace allow. The defaults are those of `[channels]`.
    pub struct ChannelRules {
        /// Who may subscribe: "signed_in" (anyone who is), "token" (whose token lists the channel in `channels`, or who
        /// sends a token for it), "named" (the users below, and whoever a token lets in).
        subscribe: SubscribeRule = SubscribeRule::SignedIn;
        /// The ids of those users, as texts: ["1", "alice"]. With subscribe = "named" only.
        users: Vec<String> = Vec::new(), user_list;
        /// Who may publish: "backend" (nobody else) or "members" (subscribers too).
        publish: PublishRule = PublishRule::Backend;
        /// The most publications that each channel keeps for those who return. 0 keeps none.
        history_size: usize = 100, range(0..=1_000_000);
        /// How long each publication is kept, in milliseconds.
        history_age_ms: u64 = 300_000, range(0..=MONTH_MS);
        /// What members hear of each other: "events" (each join and leave), "digest" (one list per window), "count"
        /// (their number, per window) or "off". In a lobby of thousands, "events" makes sign-ins many times as dear as
        /// "count" or "off" do: each is told to all.
        presence: PresenceMode = PresenceMode::Off;
        /// How long joins and leaves are gathered for a digest or a count, in milliseconds.
        presence_window_ms: u64 = 1_000, range(10..=MINUTE_MS);
        /// Replace & < > " ' in texts and user names by HTML entities, for pages that insert them as HTML. Data that is
        /// published as JSON is never touched. (In dev mode: false in the lobby, since the demo page does not.)
        escape: bool = true;
        /// What happens to a subscriber that can't keep up: "disconnect" (4508; it recovers when it returns),
        /// "drop_oldest" (a gap says what was left out) or "conflate" (the newest publication per key is kept).
        overflow: Overflow = Overflow::Disconnect;
        /// How long publications are gathered so that many leave together, in milliseconds. 0 sends at once.
        batch_window_ms: u64 = 0, range(0..=MINUTE_MS);
        /// Whether publications, and answers that tell of the channel, are compressed for clients that compression was
        /// agreed on with: "auto" (from `compression.min_bytes` up) or "off" (what is secret, or compressed already).
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
    /// The defaults of `[lobby]`.
    pub(super) fn lobby() -> ChannelRules {
        ChannelRules { publish: PublishRule::Members, presence: PresenceMode::Events, ..ChannelRules::default() }
    }

    /// A list that has no effect is a restriction that someone believes in.
    pub(super) fn users_fault(&self) -> Option<String> {
        let without_effect = !self.users.is_empty() && self.subscribe != SubscribeRule::Named;
        without_effect.then(|| "has no effect without subscribe = \"named\"".to_owned())
    }

    /// These rules as the shards take them.
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
        // The rules have keys alone.
        path.len() < 2
    }

    fn walk(&self, prefix: &str, out: &mut Vec<DescribedItem>) {
        for (name, rules) in self {
            let path = format!("{prefix}{name}");
            let mut items = Vec::new();
            rules.walk(&format!("{path}."), &mut items);
            out.push(DescribedItem::Section { path, docs: &[" The keys mean what they mean in [channels]."] });
            // What they mean is said there; ten namespaces needn't say it ten times.
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
