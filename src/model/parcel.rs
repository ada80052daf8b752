//! What shards say to each other. A parcel is small, owned and `Send`; it rides in a lane of `mesh`, in order.
//! Asks go to a channel's owner and are answered exactly once; everything an owner sends to one shard shares one
//! FIFO lane, which is what makes "subscribed, then live" hold.

use std::sync::Arc;

use crate::ids::ConnId;
use crate::model::position::{Placed, Since};
use crate::model::presence::PresenceNews;
use crate::model::publication::{Publication, Publish};
use crate::model::user::User;
use crate::model::voice::Voiced;

/// One message between two shards.
#[derive(Debug)]
pub enum Parcel {
    /// Shard → owner: a request that takes a credit and is answered by one [`Parcel::Answer`].
    Ask {
        /// Who asks.
        asker: Asker,
        /// The asker's own number for it.
        request: u32,
        /// What.
        ask: Ask,
    },
    /// Shard → owner: a subscription that was accepted is over. Never refused; a no-op if a later one stands.
    Unsubscribe {
        /// Whose.
        conn: ConnId,
        /// The number of the ask that made it.
        request: u32,
        /// Of what.
        channel: Arc<str>,
    },
    /// Shard → the lobby's owner: the connection is gone. Never refused; a no-op unless it still holds.
    Release {
        /// The connection that held.
        conn: ConnId,
        /// The user whom it held.
        user: Arc<User>,
    },
    /// Owner → shard: the answer to an ask.
    Answer {
        /// Who asked.
        asker: Asker,
        /// The number given with the ask.
        request: u32,
        /// The outcome.
        answer: Answer,
        /// Whether it gives the ask's credit back; not after [`Parcel::Deferred`].
        credit: bool,
    },
    /// Owner → shard: an ask of a client waits for something else than room in a lane. Gives its credit back, so that
    /// other clients need not wait too; the answer comes later.
    Deferred,
    /// The lobby's owner → shard: another connection took the user over.
    Kick {
        /// The connection to close.
        conn: ConnId,
    },
    /// The lobby's owner → shard: a sign-in waits for what the connection's user holds. The connection has to show a sign
    /// of life, or is let go. Answered by [`Parcel::Alive`] or [`Parcel::Release`].
    Probe {
        /// The connection that holds the user.
        conn: ConnId,
    },
    /// Shard → the lobby's owner: the connection has shown a sign of life.
    Alive {
        /// The connection that was asked for it.
        conn: ConnId,
        /// The user whom it holds.
        user: Arc<User>,
    },
    /// Either way: the sender is going away, see `shard::farewell`.
    Farewell(Farewell),
    /// Owner → shard: a publication for every subscriber of the channel there.
    Deliver {
        /// The publication, and what the voices make of it: encoded once for all shards.
        delivery: Arc<Delivery>,
    },
    /// Owner → shard: the publications of a batch window, in order, for every subscriber of the channel there. One parcel,
    /// so that no window takes more of a lane than a publication does.
    DeliverBatch {
        /// The publications, and what the voices make of each.
        deliveries: Arc<[Delivery]>,
        /// The sum of their `frame_bytes`.
        bytes: usize,
    },
    /// Owner → shard: answers that waited for the end of a batch window, in order. Their credits went back before.
    LateAnswers(Vec<LateAnswer>),
    /// Owner → shard: news of the channel's members, for every subscriber of the channel there.
    Announce {
        /// The news, and what the voices make of it: encoded once for all shards.
        news: Arc<Voiced<PresenceNews>>,
    },
}

/// A publication on its way to the subscribers. The lanes share it and what the voices make of it; the history keeps the
/// publication alone.
pub type Delivery = Voiced<Arc<Publication>>;

/// What comes no more through a lane after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Farewell {
    /// Asks.
    NoMoreAsks,
    /// Deliveries and answers.
    NoMoreDeliveries,
}

/// The answer to a client's ask whose credit has been given back.
#[derive(Debug)]
pub struct LateAnswer {
    /// Who asked.
    pub conn: ConnId,
    /// The number given with the ask.
    pub request: u32,
    /// The outcome.
    pub answer: Answer,
}

/// Who asks an owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    /// A client.
    Conn(ConnId),
    /// The backend, through the API; it asks on the owner's own shard.
    Backend,
}

/// A request to a channel's owner.
#[derive(Debug)]
pub enum Ask {
    /// Sign the user in on this connection and attach it to the lobby, in one step.
    Claim(Box<Claim>),
    /// Attach the connection to a channel.
    Subscribe {
        /// Which.
        channel: Arc<str>,
        /// Who.
        user: Arc<User>,
        /// Where the client had been.
        recover: Option<Box<Since>>,
    },
    /// Publish to a channel.
    Publish(Box<Publish>),
    /// Publications of the past.
    History {
        /// Of which channel.
        channel: Arc<str>,
        /// Only those after it.
        since: Option<Box<Since>>,
        /// At most so many.
        limit: u32,
        /// The newest first.
        reverse: bool,
    },
    /// A page of the users in a channel.
    Presence {
        /// Which channel.
        channel: Arc<str>,
        /// Where the page before ended.
        cursor: Option<Box<str>>,
        /// Most members in the page.
        limit: u32,
    },
    /// A page of who is online.
    Users {
        /// Where the page before ended.
        cursor: Option<Box<str>>,
        /// Most members in the page.
        limit: u32,
    },
}

/// A sign-in on its way to the lobby's owner.
#[derive(Debug)]
pub struct Claim {
    /// Who signs in.
    pub user: Arc<User>,
    /// Where in the lobby the client had been.
    pub recover: Option<Box<Since>>,
    /// Whether the lobby's rules let the user in: otherwise the sign-in does not attach the connection to it.
    pub lobby: bool,
    /// `limits.connections_per_user` holds for it.
    pub bounded: bool,
    /// When its connection was accepted, see `shard::Arrival`.
    pub accepted_ns: u64,
}

/// The outcome of an [`Ask`].
#[derive(Debug)]
pub enum Answer {
    /// Signed in; from here on the lane carries the lobby, if the claim asked for that.
    Claimed {
        /// Where the lobby stands, and what was missed.
        lobby: Option<Box<Attached>>,
        /// Users online.
        online_count: u64,
    },
    /// Attached; from here on the lane carries the channel.
    Subscribed(Box<Attached>),
    /// Accepted with this offset; its `Deliver` went before.
    Published {
        /// The publication's place.
        placed: Placed,
        /// It had been accepted before, under the same key.
        duplicate: bool,
    },
    /// Publications of the past.
    History(Box<Attached>),
    /// A page of a channel's members.
    Presence(Arc<str>, Box<UsersPage>),
    /// A page of users.
    Users(Box<UsersPage>),
    /// Tokens are revoked on this shard, and so many connections ended for it. Only the backend asks for that.
    Revoked {
        /// Connections.
        closed: u64,
    },
    /// Not done.
    Refused(Refusal),
    /// Not done: the channel began a new life. This is where it stands.
    EpochChanged(Placed),
}

/// Where a channel stands, with what came before.
#[derive(Debug)]
pub struct Attached {
    /// The channel's position.
    pub placed: Placed,
    /// Whether all that was missed is in `publications`, if that was asked for.
    pub recovered: Option<bool>,
    /// The first offset that can't be given, when it was not recovered.
    pub lost_from: u64,
    /// In order.
    pub publications: Vec<Arc<Publication>>,
}

/// A page of users, in the order of user keys.
#[derive(Debug)]
pub struct UsersPage {
    /// Users in all.
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
    /// The user is connected by a connection that was accepted later (`kick_old`).
    SignedInElsewhere,
    /// Too many sign-ins of this user took each other over.
    TooManySignIns,
    /// The user has as many connections as a user may have.
    TooManyConnections,
    /// This connection may not publish here.
    Forbidden,
    /// The encoded push would be over its limit.
    TooLarge,
    /// The idempotency key was used for other content.
    KeyReused,
    /// There are as many channels as there may be.
    TooManyChannels,
    /// No room for the deliveries in time: certainly not done.
    Busy,
}

impl Ask {
    /// Bytes that the ask carries beyond its own size.
    pub fn weight(&self) -> usize {
        match self {
            Self::Publish(publish) => publish.content.len(),
            _ => 0,
        }
    }
}

impl Ask {
    /// Whether the answer may carry publications or members: it is asked for when the client has room for it.
    pub fn may_be_large(&self) -> bool {
        match self {
            Self::Claim(claim) => claim.recover.is_some(),
            Self::Subscribe { recover, .. } => recover.is_some(),
            Self::History { .. } | Self::Presence { .. } | Self::Users { .. } => true,
            Self::Publish(_) => false,
        }
    }
}

/// How large a page of users may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageSize {
    /// Most users.
    pub users: usize,
    /// Most bytes of them, about as they are sent. The first one always has room.
    pub bytes: usize,
}

impl UsersPage {
    /// The page that begins with the first of `rest`, who are in the order of user keys.
    pub fn fill(count: u64, mut rest: impl Iterator<Item = (Arc<User>, u64)>, size: PageSize) -> Self {
        let (mut members, mut bytes) = (Vec::new(), 0);
        let mut next = rest.next();
        while let Some((user, connections)) = next.take_if(|(user, _)| {
            bytes += member_bytes(user);
            members.len() < size.users && (members.is_empty() || bytes <= size.bytes)
        }) {
            members.push((user, connections));
            next = rest.next();
        }
        let cursor = members.last().filter(|_| next.is_some()).map(|(user, _)| Arc::clone(user.key()));
        Self { count, members, cursor }
    }
}

/// About how many bytes a member takes in a page.
fn member_bytes(user: &User) -> usize {
    user.shown_bytes() + 27
}

impl Answer {
    /// Bytes of the publications and members that the answer carries: about what the client will be sent.
    pub fn weight(&self) -> usize {
        match self {
            Self::Claimed { lobby, .. } => lobby.as_ref().map_or(0, |attached| attached.weight()),
            Self::Subscribed(attached) | Self::History(attached) => attached.weight(),
            Self::Users(page) | Self::Presence(_, page) => {
                page.members.iter().map(|(user, _)| member_bytes(user)).sum()
            }
            Self::Published { .. } | Self::Revoked { .. } | Self::Refused(_) | Self::EpochChanged(_) => 0,
        }
    }
}

impl Attached {
    fn weight(&self) -> usize {
        self.publications.iter().map(|publication| publication.frame_bytes).sum()
    }
}

impl Parcel {
    /// Bytes that the parcel carries beyond its own size: what a turn's byte budget counts.
    pub fn weight(&self) -> usize {
        match self {
            Self::Ask { ask, .. } => ask.weight(),
            Self::Deliver { delivery } => delivery.value().frame_bytes,
            Self::DeliverBatch { bytes, .. } => *bytes,
            Self::Announce { news } => news.value().weight(),
            Self::Answer { answer, .. } => answer.weight(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::user::tests::user;

    #[test]
    fn pages_end_where_their_bytes_do() {
        let all: Vec<_> = (0..10).map(|n| (user(&format!("u{n}")), 1)).collect();
        let each = member_bytes(&all[0].0);
        for (bytes, expected) in [(0, 1), (3 * each - 1, 2), (3 * each, 3), (usize::MAX, 4)] {
            let (mut rest, mut seen) = (&all[..], 0);
            loop {
                let page = UsersPage::fill(10, rest.iter().cloned(), PageSize { users: 4, bytes });
                seen += page.members.len();
                rest = &rest[page.members.len()..];
                let Some(cursor) = page.cursor else { break };
                assert_eq!(page.members.len(), expected);
                assert_eq!(Some(&cursor), page.members.last().map(|(user, _)| user.key()));
            }
            assert_eq!((seen, rest.len()), (10, 0));
        }
        assert!(UsersPage::fill(0, std::iter::empty(), PageSize { users: 4, bytes: 0 }).cursor.is_none());
    }

    #[test]
    fn a_parcel_fits_a_cache_line() {
        assert!(std::mem::size_of::<super::Parcel>() <= 88, "{}", std::mem::size_of::<super::Parcel>());
    }
}
