//! What a channel's namespace allows and asks for: who may subscribe and publish, how much history is kept, how
//! presence is told, what a slow consumer meets. A channel's name alone says which namespace it is in. Pure and
//! immutable: made from the configuration at boot, shared by the shards; knows no channel's state and no client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The channel that a sign-in attaches to, if its rules let the user in. They are its own.
pub const LOBBY: &str = "lobby";
/// The longest name of a namespace.
pub const MAX_NAME_BYTES: usize = 64;

/// Whether `name` can be a namespace's: 1 to 64 of `[A-Za-z0-9_-]`.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Who may subscribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubscribeRule {
    /// Anyone signed in.
    SignedIn,
    /// Whose token names the channel, or who has a token for it.
    Token,
    /// The users that are named, and whoever a token lets in.
    Named,
}

/// Who may publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublishRule {
    /// Nobody but the backend.
    Backend,
    /// The backend, and who is subscribed.
    Members,
}

/// How much subscribers hear of each other's coming and going.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PresenceMode {
    /// Each join and leave, at once; digests while there are many members.
    Events,
    /// One digest per window.
    Digest,
    /// The number of members, per window.
    Count,
    /// Nothing, and members can't be asked for.
    Off,
}

/// What happens when more waits for a subscriber than may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// It is disconnected (4508) and recovers when it returns.
    Disconnect,
    /// The oldest are left out, and a gap tells which.
    DropOldest,
    /// The newest per key is kept, and a gap tells that there were more.
    Conflate,
}

impl Overflow {
    /// The value on the wire (`subscribed.data.overflow`), which is the one in the configuration too.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disconnect => "disconnect",
            Self::DropOldest => "drop_oldest",
            Self::Conflate => "conflate",
        }
    }
}

/// How a channel's publications are sent to its subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sending {
    /// What is done for a client that is slow.
    pub overflow: Overflow,
    /// Whether they are compressed.
    pub compress: Compress,
}

/// Whether publications are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compress {
    /// For clients that compression was agreed on with, from a size up.
    Auto,
    /// Never.
    Off,
}

/// The rules of one namespace's channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// What stands before the colon: empty for the default one, "lobby" for the lobby's own.
    pub name: String,
    /// Who may subscribe.
    pub subscribe: SubscribeRule,
    /// The user keys that [`SubscribeRule::Named`] means.
    pub users: BTreeSet<String>,
    /// Who may publish.
    pub publish: PublishRule,
    /// The most publications kept per channel; 0 keeps none.
    pub history_size: usize,
    /// How long they are kept.
    pub history_age_ms: u64,
    /// What is told of members.
    pub presence: PresenceMode,
    /// Texts are HTML-escaped.
    pub escape: bool,
    /// What a slow consumer meets.
    pub overflow: Overflow,
    /// How long publications are gathered before they leave; 0 sends at once.
    pub batch_window_ms: u64,
    /// How long joins and leaves are gathered for a digest or a count.
    pub presence_window_ms: u64,
    /// Whether publications are compressed.
    pub compress: Compress,
}

impl Namespace {
    /// How its channels' publications are sent.
    pub fn sending(&self) -> Sending {
        Sending { overflow: self.overflow, compress: self.compress }
    }

    /// Whether a user may subscribe. `granted`: the user's token names the channel in `channels`, or a valid
    /// token for that user and this channel came with the request.
    pub fn may_subscribe(&self, user_key: &str, granted: bool) -> bool {
        match self.subscribe {
            SubscribeRule::SignedIn => true,
            SubscribeRule::Token => granted,
            SubscribeRule::Named => granted || self.users.contains(user_key),
        }
    }
}

/// All namespaces there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespaces {
    lobby: Arc<Namespace>,
    default: Arc<Namespace>,
    named: BTreeMap<String, Arc<Namespace>>,
}

impl Namespaces {
    /// The lobby's rules, those of channels without a colon in their name, and the rest, each under its name.
    pub fn new(lobby: Namespace, default: Namespace, named: impl IntoIterator<Item = Namespace>) -> Self {
        let named = named.into_iter().map(|namespace| (namespace.name.clone(), Arc::new(namespace))).collect();
        Self { lobby: Arc::new(lobby), default: Arc::new(default), named }
    }

    /// The lobby's.
    pub fn lobby(&self) -> &Arc<Namespace> {
        &self.lobby
    }

    /// The one that a channel is in: what stands before the first colon names it. `None` if there is none of
    /// that name, so that a channel can't be made by a slip of the pen under rules that nobody meant.
    pub fn of(&self, channel: &str) -> Option<&Arc<Namespace>> {
        if channel == LOBBY {
            return Some(&self.lobby);
        }
        match channel.split_once(':') {
            None => Some(&self.default),
            Some((name, _)) => self.named.get(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str, subscribe: SubscribeRule) -> Namespace {
        Namespace {
            name: name.to_owned(),
            subscribe,
            users: ["1".to_owned(), "bob".to_owned()].into(),
            publish: PublishRule::Backend,
            history_size: 100,
            history_age_ms: 300_000,
            presence: PresenceMode::Off,
            escape: true,
            overflow: Overflow::Disconnect,
            batch_window_ms: 0,
            presence_window_ms: 1_000,
            compress: Compress::Auto,
        }
    }

    #[test]
    fn the_name_says_which_namespace() {
        let of = |name| namespace(name, SubscribeRule::SignedIn);
        let namespaces = Namespaces::new(of("lobby"), of(""), [of("chat"), of("Chat"), of("a-b_9")]);
        let name = |channel| namespaces.of(channel).map(|namespace| namespace.name.as_str());
        assert_eq!(name("lobby"), Some("lobby"));
        assert_eq!(namespaces.lobby().name, "lobby");
        for default in ["news", "Lobby", "lobby2", "chat", "a/b#c", ""] {
            assert_eq!(name(default), Some(""), "{default}");
        }
        for (channel, expected) in
            [("chat:room", "chat"), ("chat:", "chat"), ("chat:a:b", "chat"), ("Chat:x", "Chat"), ("a-b_9:é", "a-b_9")]
        {
            assert_eq!(name(channel), Some(expected), "{channel}");
        }
        // The lobby's rules and the default ones are not to be had by a prefix.
        for none in ["lobby:x", ":", ":room", "cha:t", "chats:1", "CHAT:room", " chat:x"] {
            assert_eq!(name(none), None, "{none}");
        }
    }

    #[test]
    fn who_may_subscribe() {
        for (rule, user, granted, may) in [
            (SubscribeRule::SignedIn, "eve", false, true),
            (SubscribeRule::SignedIn, "eve", true, true),
            (SubscribeRule::Token, "bob", false, false),
            (SubscribeRule::Token, "eve", true, true),
            (SubscribeRule::Named, "bob", false, true),
            (SubscribeRule::Named, "1", false, true),
            (SubscribeRule::Named, "eve", false, false),
            (SubscribeRule::Named, "Bob", false, false),
            (SubscribeRule::Named, "", false, false),
            (SubscribeRule::Named, "eve", true, true),
        ] {
            assert_eq!(namespace("", rule).may_subscribe(user, granted), may, "{rule:?} {user:?} {granted}");
        }
    }

    #[test]
    fn names() {
        for good in ["a", "chat", "Chat_2-x", "-", "_", &"x".repeat(64)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "a:b", "a.b", "é", "a b", "a/b", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn overflow_has_one_spelling() {
        for overflow in [Overflow::Disconnect, Overflow::DropOldest, Overflow::Conflate] {
            assert_eq!(serde_json::to_value(overflow).unwrap(), overflow.as_str());
        }
    }
}
