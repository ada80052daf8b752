//! Publications, without a format: on their way to the owner, and accepted. An accepted one has its place in the channel.
//! It is shared by `Arc` between the lanes, the owner's history and the answers that recover it. The hub makes it, a
//! dialect writes it.

use std::sync::Arc;

use crate::model::position::Placed;
use crate::model::user::User;

/// One publication that was accepted.
#[derive(Debug)]
pub struct Publication {
    /// The channel, its epoch, and the publication's offset.
    pub placed: Placed,
    /// Unix milliseconds, by the owner's clock.
    pub timestamp: u64,
    /// Who published it; `None` if the backend did.
    pub sender: Option<Arc<User>>,
    /// The name of the sender is shown HTML-escaped.
    pub escape: bool,
    /// What was published. A text is HTML-escaped already where the namespace asks for that.
    pub content: Content,
    /// Under `conflate`, of what it is the newest state.
    pub key: Option<Box<str>>,
    /// The length of the frame of the native protocol, in bytes. Limits count it whatever a client's voice is.
    pub frame_bytes: usize,
}

impl Publication {
    /// What a publication costs beyond its texts: itself, the counts of an `Arc`, and its place in a queue that may be
    /// half empty.
    pub(crate) const OVERHEAD: usize = size_of::<Self>() + 2 * size_of::<usize>() + 4 * size_of::<usize>();

    /// The publication's number in the channel, from 1 up.
    pub fn offset(&self) -> u64 {
        self.placed.offset
    }

    /// The bytes of memory that keeping it holds. A sender is counted as if nothing else held it.
    pub fn weight(&self) -> usize {
        let key = self.key.as_ref().map_or(0, |key| key.len());
        let sender = self.sender.as_ref().map_or(0, |user| user.weight());
        self.content.len() + key + sender + Self::OVERHEAD
    }
}

/// A publication on its way to the owner.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The channel to publish in.
    pub channel: Arc<str>,
    /// The user who publishes; `None` for the backend.
    pub sender: Option<Arc<User>>,
    /// What is published. A text is not escaped yet.
    pub content: Content,
    /// What the publication is the newest state of, for `conflate`.
    pub key: Option<Box<str>>,
    /// The publication is accepted once under this key.
    pub idempotency_key: Option<Box<str>>,
    /// The publication is accepted only in this epoch.
    pub epoch: Option<Box<str>>,
}

/// The content of a publication.
#[derive(Clone, Debug)]
pub enum Content {
    /// A trimmed text that people write: the tutorial's `message`.
    Text(Box<str>),
    /// One JSON value, forwarded byte for byte.
    Json(Box<[u8]>),
}

impl Content {
    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Json(json) => json.len(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A publication of the backend whose frame counts as long as its content: for the tests of modules that hold
    /// publications.
    pub(crate) fn publication_of(offset: u64, json: Box<[u8]>) -> Arc<Publication> {
        let placed = Placed { channel: "c".into(), epoch: "e".into(), offset };
        let (frame_bytes, content) = (json.len(), Content::Json(json));
        let (timestamp, sender, escape, key) = (offset, None, false, None);
        Arc::new(Publication { placed, timestamp, sender, escape, content, key, frame_bytes })
    }

    #[test]
    fn what_a_publication_holds_is_counted() {
        let mut publication = publication_of(7, (*b"12345").into());
        assert_eq!(publication.weight(), 5 + Publication::OVERHEAD);
        let user = crate::model::user::tests::user("ann");
        let changed = Arc::get_mut(&mut publication).expect("not shared");
        (changed.key, changed.sender) = (Some("key".into()), Some(Arc::clone(&user)));
        assert_eq!(publication.weight(), 8 + user.weight() + Publication::OVERHEAD);
    }
}
