//! What shards say to each other. A parcel is small, owned and `Send`; it rides in a lane of `mesh`, in order.
//! Asks go from a connection's shard to a channel's owner and are answered exactly once; everything an owner
//! sends to one shard shares one FIFO lane, which is what makes "subscribed, then live" hold.

use std::sync::Arc;

use crate::ids::ConnId;
use crate::proto::encode::Position;
use crate::user::User;

/// One message between two shards.
#[derive(Debug)]
pub enum Parcel {
    /// Shard → owner: a request that takes a credit and is answered by one [`Parcel::Answer`].
    Ask {
        /// Who asks.
        conn: ConnId,
        /// The connection's own number for it.
        request: u32,
        /// What.
        ask: Ask,
    },
    /// Shard → the lobby's owner: the connection is gone. Never refused; a no-op unless it still holds.
    Release {
        /// The connection that held.
        conn: ConnId,
        /// The user whom it held.
        user: Arc<User>,
    },
    /// Owner → shard: the answer to an ask; gives its credit back.
    Answer {
        /// Who asked.
        conn: ConnId,
        /// The number given with the ask.
        request: u32,
        /// The outcome.
        answer: Answer,
    },
    /// The lobby's owner → shard: another connection took the user over.
    Kick {
        /// The connection to close.
        conn: ConnId,
    },
    /// Owner → shard: one frame for every subscriber of the channel there.
    Deliver {
        /// The channel.
        channel: Arc<str>,
        /// Encoded once, for all shards.
        frame: Arc<[u8]>,
    },
}

/// A request to a channel's owner.
#[derive(Debug)]
pub enum Ask {
    /// Sign the user in on this connection and attach it to the lobby, in one step.
    Claim {
        /// Who signs in.
        user: Arc<User>,
    },
    /// Publish a text to a channel.
    Publish {
        /// Where to.
        channel: Arc<str>,
        /// Who says it.
        sender: Arc<User>,
        /// Trimmed, not escaped.
        text: Box<str>,
    },
    /// A page of who is online.
    Users {
        /// Where the page before ended.
        cursor: Option<Box<str>>,
        /// Most members in the page.
        limit: usize,
    },
}

/// The outcome of an [`Ask`].
#[derive(Debug)]
pub enum Answer {
    /// Signed in; from here on the lane carries the lobby.
    Claimed {
        /// Where the lobby stands.
        lobby: Placed,
        /// Users online.
        online_count: u64,
    },
    /// Accepted with this offset; its `Deliver` went before.
    Published(Placed),
    /// A page of users.
    Users(Box<UsersPage>),
    /// Not done.
    Refused(Refusal),
}

/// A position in a channel, owned.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The channel.
    pub channel: Arc<str>,
    /// Which life of its offsets.
    pub epoch: Arc<str>,
    /// The newest publication's number.
    pub offset: u64,
}

impl Placed {
    /// The position as messages show it.
    pub fn position(&self) -> Position<'_> {
        Position { channel: &self.channel, epoch: &self.epoch, offset: self.offset }
    }
}

/// A page of who is online, in the order of user keys.
#[derive(Debug)]
pub struct UsersPage {
    /// Users online in all.
    pub count: u64,
    /// The page: users and how many connections each has.
    pub members: Vec<(Arc<User>, u64)>,
    /// Where the next page starts, if there is one.
    pub cursor: Option<Arc<str>>,
}

/// Why an owner did not do what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The user is connected elsewhere and stays there (`reject_new`).
    AlreadyOnline,
    /// Too many sign-ins of this user took each other over.
    TooManySignIns,
    /// This connection may not publish here.
    Forbidden,
    /// The encoded push would be over its limit.
    TooLarge,
    /// No room for the deliveries in time: certainly not done.
    Busy,
}

impl Parcel {
    /// Bytes that the parcel carries beyond its own size: what a turn's byte budget counts.
    pub fn weight(&self) -> usize {
        match self {
            Self::Ask { ask: Ask::Publish { text, .. }, .. } => text.len(),
            Self::Deliver { frame, .. } => frame.len(),
            Self::Answer { answer: Answer::Users(page), .. } => page.members.len() * 64,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_parcel_fits_a_cache_line() {
        assert!(std::mem::size_of::<super::Parcel>() <= 80, "{}", std::mem::size_of::<super::Parcel>());
    }
}
