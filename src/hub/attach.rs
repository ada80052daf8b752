//! Sign-ins and subscriptions: single login, the lobby, and what other subscribers hear of it. The order is always the
//! same: the change is counted, then announced to the present subscribers, and only then is the newcomer attached. So a
//! newcomer never hears of itself. Part of `hub`.

use std::sync::Arc;

use super::HubSettings;
use super::channel::{Channel, ChannelPresence};
use super::presence::{Announcer, AnnouncerSettings, Change, Members};
use super::users::{Claimed, Released, Users, Waiter};
use crate::ids::ConnId;
use crate::mesh::Staging;
use crate::model::namespace::{LOBBY, PresenceMode};
use crate::model::parcel::{Claim, Parcel, Refusal};
use crate::model::presence::{Announcement, PresenceNews};
use crate::model::user::User;
use crate::model::voice::Voiced;
use crate::time::clock::Now;

/// Signs a user in on a connection and attaches it to the lobby, in one step. Under `allow` they may have `most`
/// connections, 0 for as many as they like.
///
/// # Errors
/// The refusal that `duplicate_login` asks for; nothing has changed then.
pub(crate) fn claim(
    settings: &HubSettings,
    users: &mut Users,
    lobby: &mut Channel,
    (conn, request): (ConnId, u32),
    (claim, most): (&Claim, usize),
    now: Now,
    out: &mut Staging<Parcel>,
) -> Result<(), Refusal> {
    match users.claim(conn, claim, settings.duplicate_login, most, now.mono_ms)? {
        Claimed::First => {
            let joined = Change::Joined(Arc::clone(&claim.user));
            announce(settings, lobby, joined, users.count(), now, out);
        }
        Claimed::Another => {}
        Claimed::Instead(old) => {
            lobby.detach(old, None);
            out.push(old.shard, Parcel::Kick { conn: old });
        }
    }
    if claim.lobby {
        lobby.attach(conn, request);
    }
    Ok(())
}

/// The connection is gone: its user is offline if it was the last one that held them, unless a sign-in waited for
/// that. Such a sign-in is attached to the lobby and returned, to be answered. The second part are sign-ins that
/// waited in vain.
pub(crate) fn release(
    settings: &HubSettings,
    users: &mut Users,
    lobby: &mut Channel,
    (conn, user): (ConnId, &User),
    now: Now,
    out: &mut Staging<Parcel>,
) -> (Option<Box<Waiter>>, Vec<Waiter>) {
    let (released, refused) = users.release(conn, user.key());
    match released {
        Released::Nothing => {}
        Released::Still => {
            lobby.detach(conn, None);
        }
        Released::Next(next) => {
            lobby.detach(conn, None);
            if next.claim.lobby {
                lobby.attach(next.conn, next.request);
            }
            return (Some(next), refused);
        }
        Released::Last(user) => {
            lobby.detach(conn, None);
            announce(settings, lobby, Change::Left(user), users.count(), now, out);
        }
    }
    (None, refused)
}

/// Attaches a connection to a channel. In the lobby it changes nothing about who is online.
pub(crate) fn subscribe(
    settings: &HubSettings,
    channel: &mut Channel,
    (conn, request): (ConnId, u32),
    user: &Arc<User>,
    now: Now,
    out: &mut Staging<Parcel>,
) {
    if has_members(channel) {
        let members = &mut presence(settings, channel).members;
        let (change, count) = (members.join(conn, user), members.count());
        announce(settings, channel, change, count, now, out);
    }
    channel.attach(conn, request);
}

/// Detaches a connection, unless a later ask has attached it anew.
pub(crate) fn unsubscribe(
    settings: &HubSettings,
    channel: &mut Channel,
    (conn, request): (ConnId, u32),
    now: Now,
    out: &mut Staging<Parcel>,
) {
    if !channel.detach(conn, Some(request)) {
        return;
    }
    channel.used_ms = now.mono_ms;
    if has_members(channel) {
        let members = &mut presence(settings, channel).members;
        let (change, count) = (members.leave(conn), members.count());
        announce(settings, channel, change, count, now, out);
    }
}

/// Ends the presence window, if it is time.
pub(crate) fn poll(users: &Users, channel: &mut Channel, now: Now, out: &mut Staging<Parcel>) {
    let count = if **channel.name() == *LOBBY { users.count() } else { channel.member_count() };
    let Some(presence) = &mut channel.presence else { return };
    if let Some(digest) = presence.announcer.poll(count, now.mono_ms) {
        push(channel, Announcement::Digest(digest), now, out);
    }
}

/// The lobby's members are the users, wherever they subscribe; other channels count their own.
fn has_members(channel: &Channel) -> bool {
    **channel.name() != *LOBBY && channel.namespace.presence != PresenceMode::Off
}

fn announce(
    settings: &HubSettings,
    channel: &mut Channel,
    change: Change,
    count: u64,
    now: Now,
    out: &mut Staging<Parcel>,
) {
    if channel.namespace.presence == PresenceMode::Off {
        return;
    }
    if let Some(announcement) = presence(settings, channel).announcer.change(change, count, now.mono_ms) {
        push(channel, announcement, now, out);
    }
}

/// The channel's members and what announces them.
fn presence<'c>(settings: &HubSettings, channel: &'c mut Channel) -> &'c mut ChannelPresence {
    let Channel { presence, namespace, .. } = channel;
    presence.get_or_insert_with(|| {
        let announcer = Announcer::new(AnnouncerSettings {
            mode: namespace.presence,
            digest_above: settings.presence_digest_above,
            window_ms: namespace.presence_window_ms,
            list_max: settings.presence_list,
        });
        Box::new(ChannelPresence { members: Members::default(), announcer })
    })
}

fn push(channel: &mut Channel, announcement: Announcement, now: Now, out: &mut Staging<Parcel>) {
    let timestamp = channel.timestamp(now.unix_ms);
    let (escape, name) = (channel.namespace.escape, Arc::clone(channel.name()));
    let news = Arc::new(Voiced::new(PresenceNews { channel: name, timestamp, escape, announcement }));
    for shard in channel.interested() {
        out.push(shard, Parcel::Announce { news: Arc::clone(&news) });
    }
}
