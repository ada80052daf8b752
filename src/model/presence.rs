//! What the subscribers of a channel are told about its members, without a format. The hub makes it, a dialect writes
//! it. It has no offset, and no history keeps it.

use std::sync::Arc;

use crate::model::user::User;

/// One piece of news about the members of a channel.
#[derive(Debug)]
pub struct PresenceNews {
    /// The channel. In the lobby the members are the users who are online.
    pub(crate) channel: Arc<str>,
    /// The time in Unix milliseconds, by the owner's clock.
    pub(crate) timestamp: u64,
    /// Names are shown HTML-escaped.
    pub(crate) escape: bool,
    /// What has changed in the channel.
    pub(crate) announcement: Announcement,
}

/// What has changed among the members of a channel.
#[derive(Debug)]
pub enum Announcement {
    /// One user came or went.
    Event {
        /// The user came, and did not go.
        joined: bool,
        /// The user who came or went.
        user: Arc<User>,
        /// The number of members after the change.
        count: u64,
    },
    /// The changes of a window.
    Digest(PresenceDigest),
}

/// The changes of a window. A user who came and went within it is in neither list.
#[derive(Debug)]
pub struct PresenceDigest {
    /// The number of members at the window's end.
    pub count: u64,
    /// Members at the window's end who were not members at its start, in the order of keys.
    pub joined: Vec<Arc<User>>,
    /// Members at the window's start who were not members at its end, in the order of keys.
    pub left: Vec<Arc<User>>,
    /// The lists do not have all changes: `count` is right, but a copy of the members is not right any more. Always set
    /// under `count`, whose lists are empty by design.
    pub truncated: bool,
    /// Something before this was lost: a client has to ask for the members again.
    pub reset: bool,
}

impl PresenceNews {
    /// About how many bytes it takes as a message.
    pub(crate) fn weight(&self) -> usize {
        let users = match &self.announcement {
            Announcement::Event { user, .. } => user.shown_bytes(),
            Announcement::Digest(digest) => {
                digest.joined.iter().chain(&digest.left).map(|user| user.shown_bytes() + 1).sum()
            }
        };
        self.channel.len() + users + 100
    }
}
