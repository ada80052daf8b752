//! Why a client's request was not done, as the client is told: a kind of error and a sentence. A dialect writes it.
//! What an owner says to a shard is a [`Refusal`].

use crate::model::text::Text;

/// Why a request was not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestError {
    /// The kind of error, in the numbers of HTTP: programs act on it.
    pub(crate) code: u16,
    /// The sentence for people.
    pub(crate) text: Text,
}

impl RequestError {
    /// An error of this kind, with this sentence.
    pub(crate) const fn new(code: u16, text: Text) -> Self {
        Self { code, text }
    }
}

/// Why an owner did not do what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The user has another connection, which stays (`reject_new`).
    AlreadyOnline,
    /// The user has another connection, which was accepted later (`kick_old`).
    SignedInElsewhere,
    /// Too many sign-ins of this user have taken each other's place.
    TooManySignIns,
    /// The user has as many connections as a user may have.
    TooManyConnections,
    /// This connection may not publish here.
    Forbidden,
    /// The encoded push would be over its limit.
    TooLarge,
    /// The idempotency key was used for other content.
    KeyReused,
    /// The owner has as many channels as it may have.
    TooManyChannels,
    /// The lanes had no room for the deliveries in time.
    Busy,
    /// The engine did not answer in time: it may have been done.
    Unanswered,
}
