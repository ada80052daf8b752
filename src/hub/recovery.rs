//! Answers about the publications of a channel: where it stands, what a client missed of it, and pages of its history.
//! Part of `hub`.

use super::HubSettings;
use super::channel::Channel;
use super::engine::Engine;
use super::engine::history::HistoryRecovery;
use super::users::Users;
use crate::model::parcel::{Answer, Attached, Claim, HistoryPage, Missed};
use crate::model::position::Since;

/// The answer to a sign-in that succeeded.
pub(super) fn claimed(
    settings: &HubSettings,
    engine: &Engine,
    users: &Users,
    lobby: &Channel,
    claim: &Claim,
) -> Answer {
    let lobby = claim.lobby.then(|| Box::new(recovered(settings, engine, lobby, claim.recover.as_deref())));
    Answer::Claimed { lobby, online_count: users.count() }
}

/// The channel's position, and the publications that a client at `since` missed.
pub(super) fn recovered(settings: &HubSettings, engine: &Engine, channel: &Channel, since: Option<&Since>) -> Attached {
    let placed = channel.position(engine);
    let Some(since) = since else { return Attached { placed, missed: None } };
    let same = *since.epoch == **engine.logs().epoch(channel.log);
    let found = if same {
        engine.logs().since(channel.log, since.offset, placed.offset, settings.recover_bytes)
    } else {
        HistoryRecovery::Incomplete
    };
    let missed = match found {
        HistoryRecovery::Complete(publications) => Missed { publications, lost_from: None },
        HistoryRecovery::Incomplete => {
            let lost_from = Some(if same { since.offset.saturating_add(1) } else { 1 });
            Missed { publications: Vec::new(), lost_from }
        }
    };
    Attached { placed, missed: Some(Box::new(missed)) }
}

/// A page of the channel's history, if `since` is of its epoch.
pub(super) fn history(
    settings: &HubSettings,
    engine: &Engine,
    channel: &Channel,
    since: Option<&Since>,
    limit: usize,
    reverse: bool,
) -> Answer {
    if since.is_some_and(|since| *since.epoch != **engine.logs().epoch(channel.log)) {
        return Answer::EpochChanged(channel.position(engine));
    }
    let placed = channel.position(engine);
    let (since, bytes) = (since.map(|since| since.offset), settings.recover_bytes);
    let publications = engine.logs().page(channel.log, since, placed.offset, limit, bytes, reverse);
    Answer::History(Box::new(HistoryPage { placed, publications }))
}
