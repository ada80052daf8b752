//! What the owner of a channel and a remote engine say to each other. The engine is one more endpoint of the mesh: asks
//! go to it, news comes from it, each in a bounded FIFO lane. Every ask with a ticket is answered once or never; the
//! owner gives up on it after a deadline.
//!
//! What an engine has to keep: the news of one channel comes in the order in which the engine did the work, and a
//! publication of a followed channel comes before the outcome that acknowledges it. The news of different channels has
//! no order among itself.

use std::sync::Arc;

use super::position::{Placed, Since};
use super::publication::Publish;
use super::refusal::Refusal;

/// Names one ask of one owner. Later asks have higher tickets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Ticket(pub u64);

/// How an engine has to keep the publications of a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeepTerms {
    /// Most publications in the history.
    pub count: usize,
    /// The age at which a publication leaves the history, in milliseconds.
    pub age_ms: u64,
}

/// An owner's request to the engine.
#[derive(Debug)]
pub enum EngineAsk {
    /// Accept a publication. Answered by [`EngineNews::Outcome`].
    Publish {
        /// The ticket that the outcome will name.
        ticket: Ticket,
        /// The publication, without a wire format.
        publish: Arc<Publish>,
        /// How to keep it.
        terms: KeepTerms,
    },
    /// Send the channel's publications from now on. Answered by [`EngineNews::Following`], also if the channel is
    /// followed already: then the owner wants to know whether it has everything.
    Follow {
        /// The ticket that the outcome will name.
        ticket: Ticket,
        /// The name of the channel.
        channel: Arc<str>,
        /// The position up to which the owner has everything; `None` if it knows nothing of the channel.
        since: Option<Since>,
    },
    /// Send the channel's publications no more. Not answered.
    Unfollow {
        /// The name of the channel.
        channel: Arc<str>,
    },
    /// Read the history of a channel that the owner does not follow. Answered by [`EngineNews::Page`], or by an
    /// [`EngineNews::Outcome`] if `since` is in another epoch.
    Page {
        /// The ticket that the outcome will name.
        ticket: Ticket,
        /// The name of the channel.
        channel: Arc<str>,
        /// Only publications after this position, or before it if `reverse`.
        since: Option<Since>,
        /// Most publications in the page.
        limit: usize,
        /// The newest publication comes first.
        reverse: bool,
    },
}

/// What the engine tells an owner.
#[derive(Debug)]
pub enum EngineNews {
    /// What became of a publication that the owner submitted.
    Outcome {
        /// The ticket of the ask.
        ticket: Ticket,
        /// Accepted, or why not.
        outcome: EngineOutcome,
    },
    /// The owner follows the channel: what comes after this position comes as [`EngineNews::Publication`].
    Following {
        /// The ticket of the ask.
        ticket: Ticket,
        /// The newest publication's position.
        placed: Placed,
        /// The publications after the owner's position as far as they are kept, or all that are kept if the owner knew
        /// no position. The last one is the newest publication.
        publications: Vec<EnginePublication>,
    },
    /// The next publication of a followed channel.
    Publication {
        /// The publication's position in its channel.
        placed: Placed,
        /// The publication, without a wire format.
        publication: EnginePublication,
    },
    /// Publications of a followed channel are lost for good: no subscriber will get these offsets.
    Gap {
        /// The channel, its epoch from now on, and the last lost offset.
        placed: Placed,
        /// The first lost offset. If the epoch is new it is 1.
        from: u64,
    },
    /// A page of a history.
    Page {
        /// The ticket of the ask.
        ticket: Ticket,
        /// The newest publication's position.
        placed: Placed,
        /// In the order that was asked for.
        publications: Vec<EnginePublication>,
    },
}

/// What an engine says to a publication.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EngineOutcome {
    /// Accepted in this place.
    Accepted(Placed),
    /// Accepted before in this place, under the same idempotency key.
    Duplicate(Placed),
    /// Not accepted: the channel is in another epoch than the publisher demands. This is its position.
    EpochChanged(Placed),
    /// Not accepted. [`Refusal::Unanswered`] says that the engine may have accepted it.
    Refused(Refusal),
}

/// A publication as the engine keeps it: without a wire format.
#[derive(Clone, Debug)]
pub struct EnginePublication {
    /// Its number in the channel.
    pub offset: u64,
    /// Unix milliseconds, by the engine's clock.
    pub timestamp: u64,
    /// Sender, content and conflation key.
    pub publish: Arc<Publish>,
}

impl EngineAsk {
    /// Bytes that the ask carries beyond its own size.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Publish { publish, .. } => publish.content.len(),
            Self::Follow { .. } | Self::Unfollow { .. } | Self::Page { .. } => 0,
        }
    }
}

impl EngineNews {
    /// Bytes that the news carries beyond its own size.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Publication { publication, .. } => publication.publish.content.len(),
            Self::Following { publications, .. } | Self::Page { publications, .. } => {
                publications.iter().map(|publication| publication.publish.content.len()).sum()
            }
            Self::Outcome { .. } | Self::Gap { .. } => 0,
        }
    }
}
