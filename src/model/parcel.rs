//! What shards say to each other. A parcel is small, owned and `Send`. The lanes of `mesh` carry parcels in order.
//! An ask goes to a channel's owner and is answered exactly once. Everything that an owner sends to one shard goes
//! through one lane, so a client's `subscribed` comes before the publications that follow it.

use std::sync::Arc;

use crate::ids::{ConnId, ShardId};
use crate::model::engine::{EngineAsk, EngineNews};
use crate::model::position::{Placed, Since};
use crate::model::presence::PresenceNews;
use crate::model::publication::{Publication, Publish};
pub use crate::model::refusal::Refusal;
use crate::model::user::User;
use crate::model::voice::Voiced;

/// One message between two shards.
#[derive(Debug)]
pub enum Parcel {
    /// Shard → owner: a request that takes a credit and is answered by one [`Parcel::Answer`].
    Ask {
        /// The client or the backend that asks.
        asker: Asker,
        /// The asker's own number for the ask.
        request: u32,
        /// What the owner is asked for.
        ask: Ask,
    },
    /// Shard → owner: a subscription that was accepted is over. It is never refused. It does nothing if a later ask has
    /// attached the connection again.
    Unsubscribe {
        /// The connection that was subscribed.
        conn: ConnId,
        /// The number of the ask that made the subscription.
        request: u32,
        /// The channel of the subscription.
        channel: Arc<str>,
    },
    /// Shard → the lobby's owner: the connection is gone. It is never refused. It does nothing if the connection does not
    /// hold the user any more.
    Release {
        /// The connection that held the user.
        conn: ConnId,
        /// The user whom the connection held.
        user: Arc<User>,
    },
    /// Owner → shard: the answer to an ask.
    Answer {
        /// The client or the backend that asked.
        asker: Asker,
        /// The number given with the ask.
        request: u32,
        /// The outcome of the ask.
        answer: Answer,
        /// The answer gives the ask's credit back. Not set if [`Parcel::Deferred`] has done so.
        credit: bool,
    },
    /// Owner → shard: the answer to an ask of a client or of the API comes later, because the ask waits for something else than room in a
    /// lane. This parcel gives the ask's credit back, so that others do not have to wait too.
    Deferred {
        /// Which credits the ask's credit belongs to.
        purse: Purse,
    },
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
        /// The connection that was asked for a sign of life.
        conn: ConnId,
        /// The user whom the connection holds.
        user: Arc<User>,
    },
    /// In both directions: the sender is going away, see `shard::farewell`.
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
    /// Owner → shard: publications of the channel are lost for good, and every subscriber there is told. If the epoch is
    /// new, the old one has ended.
    Gap {
        /// The channel, its epoch from now on, and the last lost offset.
        placed: Placed,
        /// The first lost offset.
        from: u64,
    },
    /// Owner → engine: a request.
    ToEngine(Box<EngineAsk>),
    /// Engine → owner: the answer to a request, or what happened in a channel.
    FromEngine(Box<EngineNews>),
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
pub(crate) type Delivery = Voiced<Arc<Publication>>;

/// What a lane does not carry any more after this parcel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Farewell {
    /// The sender sends no more asks.
    NoMoreAsks,
    /// The sender sends no more deliveries and answers.
    NoMoreDeliveries,
}

/// Credits for asks to one owner. Clients and the API have credits of their own, so that neither uses up the other's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purse {
    /// The credits of clients.
    Clients,
    /// The credits of the API's requests.
    Api,
}

/// The answer to an ask whose credit has been given back.
#[derive(Debug)]
pub struct LateAnswer {
    /// The client's or the API's connection that asked.
    pub(crate) asker: Asker,
    /// The number given with the ask.
    pub(crate) request: u32,
    /// The outcome of the ask.
    pub(crate) answer: Answer,
}

/// Who asks an owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    /// The client of this connection.
    Conn(ConnId),
    /// A connection of the API.
    Api(ConnId),
    /// An owner itself, which carries out one publication of an [`Ask::PublishMany`]. The number names that ask at the
    /// owner, and the ask's own number is the publication's index in it.
    Part(u32),
}

impl Asker {
    /// The shard to which the answer goes, if that is not the owner itself.
    pub(crate) fn shard(self) -> Option<ShardId> {
        match self {
            Self::Conn(conn) | Self::Api(conn) => Some(conn.shard),
            Self::Part(_) => None,
        }
    }

    /// The connection of a client; `None` for the backend, whose asks have no order among themselves.
    pub(crate) fn client(self) -> Option<ConnId> {
        if let Self::Conn(conn) = self { Some(conn) } else { None }
    }

    /// The credits that an ask of this asker takes from; `None` if it takes no credit.
    pub(crate) fn purse(self) -> Option<Purse> {
        match self {
            Self::Conn(_) => Some(Purse::Clients),
            Self::Api(_) => Some(Purse::Api),
            Self::Part(_) => None,
        }
    }
}

/// A request to a channel's owner.
#[derive(Debug)]
pub enum Ask {
    /// Sign the user in on this connection and attach it to the lobby, in one step.
    Claim(Box<Claim>),
    /// Attach the connection to a channel.
    Subscribe {
        /// The name of the channel.
        channel: Arc<str>,
        /// The user who has signed in on the connection.
        user: Arc<User>,
        /// How far the client has received the channel, if it asks for what it missed.
        recover: Option<Box<Since>>,
    },
    /// Publish to a channel.
    Publish(Box<Publish>),
    /// Publish to channels of one owner, one after the other. Only the API asks for that.
    PublishMany(Box<PublishMany>),
    /// A page of a channel's history.
    History {
        /// The name of the channel.
        channel: Arc<str>,
        /// The page begins behind this place; with `reverse`, before it.
        since: Option<Box<Since>>,
        /// Most publications in the page.
        limit: u32,
        /// The newest publications come first.
        reverse: bool,
    },
    /// A page of the users in a channel.
    Presence {
        /// The name of the channel.
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

/// Publications of one request of the API, all of them to channels of one owner.
#[derive(Debug)]
pub struct PublishMany {
    /// The asker's number for this part of its request. It is in the answer again.
    pub(crate) part: u32,
    /// When the owner answers without the outcomes that it does not have yet, in milliseconds of the monotonic clock.
    pub(crate) until_ms: u64,
    /// The publications, in order.
    #[expect(clippy::vec_box, reason = "each box moves on into an ask of its own")]
    pub(crate) publishes: Vec<Box<Publish>>,
}

/// What became of the publications of a [`PublishMany`].
#[derive(Debug)]
pub struct PublishedMany {
    /// The asker's number for this part of its request.
    pub(crate) part: u32,
    /// The outcome of each publication, in order: `Published`, `Refused` or `EpochChanged`.
    pub(crate) outcomes: Vec<Answer>,
}

/// A sign-in on its way to the lobby's owner.
#[derive(Debug)]
pub struct Claim {
    /// The user who signs in.
    pub(crate) user: Arc<User>,
    /// How far the client has received the lobby, if it asks for what it missed.
    pub(crate) recover: Option<Box<Since>>,
    /// The lobby's rules let the user in. Otherwise the sign-in does not attach the connection to the lobby.
    pub(crate) lobby: bool,
    /// `limits.connections_per_user` holds for this connection.
    pub(crate) bounded: bool,
    /// When the connection was accepted, see `shard::Arrival`.
    pub(crate) accepted_ns: u64,
}

/// The outcome of an [`Ask`].
#[derive(Debug)]
pub enum Answer {
    /// The user is signed in. If the claim asked for the lobby, the lane carries it from here on.
    Claimed {
        /// Where the lobby stands, and what the client missed.
        lobby: Option<Box<Attached>>,
        /// The number of users online.
        online_count: u64,
    },
    /// The connection is attached. The lane carries the channel from here on.
    Subscribed(Attached),
    /// The publication was accepted. Its `Deliver` went before this answer.
    Published {
        /// The place of the publication in the channel.
        placed: Placed,
        /// It had been accepted before, under the same key.
        duplicate: bool,
    },
    /// What became of several publications.
    PublishedMany(Box<PublishedMany>),
    /// A page of a channel's history.
    History(Box<HistoryPage>),
    /// A page of a channel's members.
    Presence(Arc<str>, Box<UsersPage>),
    /// A page of users.
    Users(Box<UsersPage>),
    /// Tokens are revoked on this shard. Only the control thread asks for that.
    Revoked {
        /// The number of connections that ended for it.
        closed: u64,
    },
    /// The ask was refused and changed nothing.
    Refused(Refusal),
    /// The ask was refused because the channel is in another epoch than it named. This is where the channel stands.
    EpochChanged(Placed),
}

/// Where a channel stands, and what the client missed of it.
#[derive(Debug)]
pub struct Attached {
    /// Where the channel stands.
    pub(crate) placed: Placed,
    /// `None` if the client did not ask what it missed.
    pub(crate) missed: Option<Box<Missed>>,
}

/// What a client missed of a channel.
#[derive(Debug)]
pub struct Missed {
    /// The publications, in order, if all of them are there. Otherwise there is none.
    pub(crate) publications: Vec<Arc<Publication>>,
    /// The first offset that is lost to the client; `None` if all of it is there.
    pub(crate) lost_from: Option<u64>,
}

/// A page of a channel's history.
#[derive(Debug)]
pub struct HistoryPage {
    /// Where the channel stands.
    pub(crate) placed: Placed,
    /// The publications, in the order that was asked for.
    pub(crate) publications: Vec<Arc<Publication>>,
}

/// A page of users, in the order of user keys.
#[derive(Debug)]
pub struct UsersPage {
    /// The number of users on all pages together.
    pub count: u64,
    /// The users of the page, and how many connections each of them has.
    pub members: Vec<(Arc<User>, u64)>,
    /// Where the next page starts, if there is one.
    pub cursor: Option<Arc<str>>,
}

impl Ask {
    /// Bytes that the ask carries beyond its own size.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Publish(publish) => publish.content.len(),
            Self::PublishMany(many) => many.publishes.iter().map(|publish| publish.content.len()).sum(),
            _ => 0,
        }
    }
}

impl Ask {
    /// Whether the answer may carry publications or members. Such an ask is sent when the client has room for the answer.
    pub(crate) fn may_be_large(&self) -> bool {
        match self {
            Self::Claim(claim) => claim.recover.is_some(),
            Self::Subscribe { recover, .. } => recover.is_some(),
            Self::History { .. } | Self::Presence { .. } | Self::Users { .. } => true,
            Self::Publish(_) | Self::PublishMany(_) => false,
        }
    }
}

/// How large a page of users may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageSize {
    /// Most users in a page.
    pub users: usize,
    /// Most bytes of a page, about as it is sent. The first user always has room.
    pub bytes: usize,
}

impl UsersPage {
    /// The page that begins with the first user of `rest`. `rest` is in the order of user keys.
    pub(crate) fn fill(count: u64, mut rest: impl Iterator<Item = (Arc<User>, u64)>, size: PageSize) -> Self {
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
    /// The bytes of the publications and members that the answer carries: about what the client will be sent.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Claimed { lobby, .. } => lobby.as_ref().map_or(0, |attached| attached.weight()),
            Self::Subscribed(attached) => attached.weight(),
            Self::History(page) => weight_of(&page.publications),
            Self::Users(page) | Self::Presence(_, page) => {
                page.members.iter().map(|(user, _)| member_bytes(user)).sum()
            }
            Self::Published { .. }
            | Self::PublishedMany(_)
            | Self::Revoked { .. }
            | Self::Refused(_)
            | Self::EpochChanged(_) => 0,
        }
    }
}

impl Attached {
    /// Whether all that the client missed is there, and the publications. `None` if the client did not ask.
    pub(crate) fn recovery(&self) -> Option<(bool, &[Arc<Publication>])> {
        let missed = self.missed.as_ref()?;
        Some((missed.lost_from.is_none(), &missed.publications))
    }

    /// The first offset that is lost to the client, if any is.
    pub(crate) fn lost_from(&self) -> Option<u64> {
        self.missed.as_ref()?.lost_from
    }

    fn weight(&self) -> usize {
        self.missed.as_ref().map_or(0, |missed| weight_of(&missed.publications))
    }
}

fn weight_of(publications: &[Arc<Publication>]) -> usize {
    publications.iter().map(|publication| publication.frame_bytes).sum()
}

impl Parcel {
    /// The bytes that the parcel carries beyond its own size. A turn's budget of bytes counts them.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Ask { ask, .. } => ask.weight(),
            Self::Deliver { delivery } => delivery.value().frame_bytes,
            Self::DeliverBatch { bytes, .. } => *bytes,
            Self::Announce { news } => news.value().weight(),
            Self::Answer { answer, .. } => answer.weight(),
            Self::ToEngine(ask) => ask.weight(),
            Self::FromEngine(news) => news.weight(),
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
