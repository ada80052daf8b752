//! Why a client's request was not done, as the client is told: a kind of error and a sentence. A dialect writes it.
//! What an owner says to a shard is `parcel::Refusal`.

use crate::model::text::Text;

/// Why a request was not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestError {
    /// The kind of error, in the numbers of HTTP: programs act on it.
    pub code: u16,
    /// The sentence for people.
    pub text: Text,
}

impl RequestError {
    /// An error of this kind, with this sentence.
    pub const fn new(code: u16, text: Text) -> Self {
        Self { code, text }
    }
}
