//! An ask to the owner of one channel, with what its answer needs to know of the channel. `input` makes asks of bodies and
//! queries.

use crate::model::namespace::LOBBY;
use crate::model::parcel::Ask;

/// An ask to the owner of one channel.
#[derive(Debug)]
pub struct ApiAsk {
    /// What the owner is asked for.
    pub ask: Ask,
    /// Names in the answer are HTML-escaped.
    pub(crate) escape: bool,
}

impl ApiAsk {
    /// The channel whose owner is asked.
    pub(crate) fn channel(&self) -> &str {
        match &self.ask {
            Ask::Publish(publish) => &publish.channel,
            Ask::History { channel, .. } | Ask::Presence { channel, .. } => channel,
            _ => LOBBY,
        }
    }
}
