//! The rules of a channel's namespace: who may subscribe and publish, how much history is kept, how presence is
//! announced, what happens to a slow consumer. A channel's name alone says which namespace the channel is in. Rules are
//! made from the configuration at boot, never change, and are shared by the shards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The channel that a sign-in attaches to, if the lobby's own rules let the user in.
pub const LOBBY: &str = "lobby";
/// The longest name of a namespace, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 64;

/// Whether `name` can be a namespace's: 1 to 64 of `[A-Za-z0-9_-]`.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Who may subscribe to a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubscribeRule {
    /// Every user who is signed in.
    SignedIn,
    /// Users whose token names the channel, and users who have a token for the channel.
    Token,
    /// The users that the configuration names, and those whom a token lets in.
    Named,
}

/// Who may publish in a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublishRule {
    /// Only the backend publishes.
    Backend,
    /// The backend and every subscriber.
    Members,
}

/// What subscribers are told when others come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PresenceMode {
    /// Each join and leave. Digests while there are many members.
    Events,
    /// One digest for each window of time.
    Digest,
    /// The number of members, once for each window of time.
    Count,
    /// Nothing. Clients cannot ask for the members either.
    Off,
}

/// What happens when more bytes wait for a subscriber than the limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// The connection is closed with 4508. The client recovers when it returns.
    Disconnect,
    /// The oldest publications are dropped, and a gap names them.
    DropOldest,
    /// The newest publication of each key is kept. A gap says that there were more.
    Conflate,
}

impl Overflow {
    /// The value in the configuration, which is the one on the wire too (`subscribed.data.overflow`).
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
    /// What happens to a slow consumer.
    pub overflow: Overflow,
    /// Whether publications are compressed.
    pub compress: Compress,
}

/// Whether publications are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compress {
    /// Compress from a size up, for clients that have agreed on compression.
    Auto,
    /// Send publications as they are.
    Off,
}

/// The rules of one namespace's channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// The part of a channel's name before the colon. Empty for the default namespace, "lobby" for the lobby's own.
    pub name: String,
    /// Who may subscribe to its channels.
    pub subscribe: SubscribeRule,
    /// The user keys for [`SubscribeRule::Named`].
    pub users: BTreeSet<String>,
    /// Who may publish in its channels.
    pub publish: PublishRule,
    /// The most publications that a channel's history keeps; 0 keeps none.
    pub history_size: usize,
    /// How long a channel's history keeps a publication, in milliseconds.
    pub history_age_ms: u64,
    /// What subscribers are told when others come and go.
    pub presence: PresenceMode,
    /// Texts and names are HTML-escaped.
    pub escape: bool,
    /// What happens to a slow consumer.
    pub overflow: Overflow,
    /// How long publications are gathered before they are sent, in milliseconds; 0 sends them at once.
    pub batch_window_ms: u64,
    /// How long joins and leaves are gathered for a digest or a count, in milliseconds.
    pub presence_window_ms: u64,
    /// Whether publications are compressed.
    pub compress: Compress,
}

impl Namespace {
    /// The rules of a namespace of which the configuration has nothing but the name.
    pub fn plain(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            subscribe: SubscribeRule::SignedIn,
            users: BTreeSet::new(),
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

    /// How the publications of its channels are sent.
    pub(crate) fn sending(&self) -> Sending {
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

/// All namespaces of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespaces {
    lobby: Arc<Namespace>,
    default: Arc<Namespace>,
    named: BTreeMap<String, Arc<Namespace>>,
}

impl Namespaces {
    /// The rules of the lobby, the rules of channels without a colon in their name, and those of each named namespace.
    pub fn new(lobby: Namespace, default: Namespace, named: impl IntoIterator<Item = Namespace>) -> Self {
        let named = named.into_iter().map(|namespace| (namespace.name.clone(), Arc::new(namespace))).collect();
        Self { lobby: Arc::new(lobby), default: Arc::new(default), named }
    }

    /// The rules of the lobby.
    pub fn lobby(&self) -> &Arc<Namespace> {
        &self.lobby
    }

    /// The namespace that a channel is in: the part before the first colon names it. `None` if the configuration has no
    /// such namespace, so that a misspelled name does not make a channel under the wrong rules.
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
pub(crate) mod tests {
    use super::*;

    /// The namespaces of a configuration with the namespace `chat`, for the tests of modules that know channels.
    pub(crate) fn namespaces() -> Namespaces {
        let of = |name| Namespace { presence: PresenceMode::Events, ..namespace(name, SubscribeRule::SignedIn) };
        Namespaces::new(of("lobby"), namespace("", SubscribeRule::SignedIn), [of("chat")])
    }

    fn namespace(name: &str, subscribe: SubscribeRule) -> Namespace {
        Namespace { subscribe, users: ["1".to_owned(), "bob".to_owned()].into(), ..Namespace::plain(name) }
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
