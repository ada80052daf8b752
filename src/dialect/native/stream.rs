//! The native protocol in an event stream (docs/sse.md). The data of an event is the JSON object that a WebSocket gets as
//! a message. Publications are events without a name, so that a browser's `onmessage` gets them; everything else is an
//! event with the name of its `type`, only `error` is `channel_error`: a browser has an event `error` of its own. What only
//! answers a request that an event stream can't make is left out.
//!
//! An event that moves a channel's position has the new position as its id. For a stream of one channel that is all. The
//! outbox of a stream of several channels puts the positions of all of them in its place when the event is sent.

use std::io::Write as _;

use super::encode;
use super::event_stream::{closed_id, is_final, write_position_id};
use crate::model::namespace::LOBBY;
use crate::model::notice::{Gap, Recovered, Reply};
use crate::model::position::Position;
use crate::model::presence::{Announcement, PresenceNews};
use crate::model::publication::Publication;
use crate::model::text::Language;
use crate::wire::event_stream::{begin_event, end_event, write_event, write_retry};

/// Appends a reply, if an event stream is told it.
pub(crate) fn write_reply(out: &mut Vec<u8>, reply: &Reply<'_>, language: Language) {
    let name = match *reply {
        Reply::Subscribed { position, recovery, overflow, expires_at } => {
            return write_subscribed(out, position, recovery, language, |recovery| Reply::Subscribed {
                position,
                recovery,
                overflow,
                expires_at,
            });
        }
        Reply::AuthSuccess { .. } => "auth_success",
        Reply::AuthFailed => "auth_failed",
        Reply::Kicked => "kicked",
        Reply::Unsubscribed { .. } => "unsubscribed",
        Reply::TokenExpiring { .. } => "token_expiring",
        Reply::Error { .. } => "channel_error",
        Reply::Draining { reconnect_in_ms } => {
            write_retry(out, reconnect_in_ms);
            "draining"
        }
        Reply::System { .. }
        | Reply::Heartbeat { .. }
        | Reply::Users { .. }
        | Reply::Ack { .. }
        | Reply::History { .. }
        | Reply::Presence { .. }
        | Reply::Refreshed { .. }
        | Reply::Ping => return,
    };
    let start = begin_event(out, None, Some(name));
    encode::write_reply(out, reply, None, language);
    end_event(out, start);
}

/// Appends `subscribed`, and what was recovered as events of their own, so that a client that is cut between two of them
/// has a position there too. Until the first of them the client's position is the old one, and so it is until the gap if
/// not everything could be recovered.
fn write_subscribed<'a>(
    out: &mut Vec<u8>,
    position: Position<'_>,
    recovery: Option<Recovered<'_>>,
    language: Language,
    reply: impl FnOnce(Option<Recovered<'a>>) -> Reply<'a>,
) {
    let publications = recovery.map_or(&[][..], |recovery| recovery.publications);
    let is_there = recovery.is_none_or(|recovery| recovery.recovered) && publications.is_empty();
    if is_there {
        write_position_id(out, position.epoch, position.offset);
    }
    let start = begin_event(out, None, Some("subscribed"));
    let told = recovery.map(|recovery| Recovered { publications: &[], ..recovery });
    encode::write_reply(out, &reply(told), None, language);
    end_event(out, start);
    for publication in publications {
        write_publication(out, publication);
    }
}

/// Appends a position by itself: no event, but the client's position from here on.
pub(crate) fn write_position(out: &mut Vec<u8>, position: Position<'_>) {
    write_position_id(out, position.epoch, position.offset);
    out.push(b'\n');
}

/// Appends a publication as one event.
pub(crate) fn write_publication(out: &mut Vec<u8>, publication: &Publication) {
    write_position_id(out, &publication.placed.epoch, publication.offset());
    let start = begin_event(out, None, None);
    encode::write_publication(out, publication);
    end_event(out, start);
}

/// Appends news of a channel's members.
pub(crate) fn write_presence(out: &mut Vec<u8>, news: &PresenceNews, language: Language) {
    let is_lobby = *news.channel == *LOBBY;
    let name = match &news.announcement {
        Announcement::Event { joined: true, .. } if is_lobby => "user_online",
        Announcement::Event { .. } if is_lobby => "user_offline",
        Announcement::Event { joined: true, .. } => "join",
        Announcement::Event { .. } => "leave",
        Announcement::Digest(_) => "presence_digest",
    };
    let start = begin_event(out, None, Some(name));
    encode::write_presence(out, news, is_lobby, language);
    end_event(out, start);
}

/// Appends a gap. The event's id moves the client's position to the end of the gap.
pub(crate) fn write_gap(out: &mut Vec<u8>, gap: &Gap<'_>) {
    write_position_id(out, gap.epoch, gap.to);
    let start = begin_event(out, None, Some("gap"));
    encode::write_gap(out, gap);
    end_event(out, start);
}

/// Appends the last event of a stream: why it ends. After one that is final a browser's own retry finds that it is over.
pub(crate) fn write_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let (id, reconnect) = if is_final(code) { (Some(closed_id(code)), false) } else { (None, true) };
    let mut data = Vec::new();
    let reason = serde_json::Value::from(reason);
    let _ = write!(data, r#"{{"code":{code},"reason":{reason},"reconnect":{reconnect}}}"#);
    write_event(out, id.as_deref(), Some("close"), &data);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::notice::{About, GapReason};
    use crate::model::publication::tests::publication_of;
    use crate::model::refusal::RequestError;
    use crate::model::text::Text;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    fn reply(reply: &Reply<'_>) -> String {
        written(|out| write_reply(out, reply, Language::En))
    }

    fn subscribed<'a>(recovery: Option<Recovered<'a>>) -> Reply<'a> {
        let position = Position { channel: "c", epoch: "e", offset: 2 };
        Reply::Subscribed { position, recovery, overflow: "disconnect", expires_at: None }
    }

    const SUBSCRIBED: &str = "event: subscribed\ndata: {\"type\":\"subscribed\",\"code\":200,\"data\":{\"channel\":\"c\",\
                              \"epoch\":\"e\",\"offset\":2";

    #[test]
    fn a_publication_is_an_event_without_a_name() {
        let event = written(|out| write_publication(out, &publication_of(7, (*b"{\n\"a\":1}").into())));
        assert_eq!(
            event,
            "id: e.7\ndata: {\"type\":\"publication\",\"data\":{\"channel\":\"c\",\"offset\":7,\"data\":{\ndata: \
             \"a\":1},\"timestamp\":7}}\n\n"
        );
    }

    #[test]
    fn a_position_moves_when_what_is_before_it_has_come() {
        let fresh = reply(&subscribed(None));
        assert_eq!(fresh, format!("id: e.2\n{SUBSCRIBED},\"overflow\":\"disconnect\"}}}}\n\n"));
        let nothing = reply(&subscribed(Some(Recovered { recovered: true, publications: &[] })));
        assert!(nothing.starts_with(&format!("id: e.2\n{SUBSCRIBED},\"recovered\":true")), "{nothing}");
        let publications: Vec<Arc<Publication>> =
            vec![publication_of(1, (*b"1").into()), publication_of(2, (*b"2").into())];
        let some = reply(&subscribed(Some(Recovered { recovered: true, publications: &publications })));
        let (first, rest) = some.split_once("\n\n").expect("several events");
        assert!(first.starts_with(SUBSCRIBED), "{some}");
        let ids: Vec<_> = rest.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
        assert_eq!(ids, ["e.1", "e.2"]);
        let lost = reply(&subscribed(Some(Recovered { recovered: false, publications: &[] })));
        assert!(lost.starts_with(SUBSCRIBED), "{lost}");
        let gap = Gap { channel: "c", epoch: "e", from: 1, to: 2, reason: GapReason::HistoryLost };
        assert!(written(|out| write_gap(out, &gap)).starts_with("id: e.2\nevent: gap\ndata: {\"type\":\"gap\""));
        assert_eq!(written(|out| write_position(out, Position { channel: "c", epoch: "e", offset: 0 })), "id: e.0\n\n");
    }

    #[test]
    fn an_event_has_the_name_of_its_type() {
        let error = RequestError::new(403, Text::Forbidden);
        let refused = reply(&Reply::Error { error, about: Some(About::Channel { channel: "c" }) });
        assert!(refused.starts_with("event: channel_error\ndata: {\"type\":\"error\",\"code\":403"), "{refused}");
        assert!(reply(&Reply::Kicked).starts_with("event: kicked\ndata: {\"type\":\"kicked\""));
        let draining = reply(&Reply::Draining { reconnect_in_ms: 700 });
        assert!(draining.starts_with("retry: 700\n\nevent: draining\ndata: {\"type\":\"draining\""), "{draining}");
        assert_eq!(reply(&Reply::Ping), "");
    }

    #[test]
    fn the_last_event_says_whether_to_come_back() {
        assert_eq!(
            written(|out| write_close(out, 4401, "token \"x\"\n")),
            "id: !4401\nevent: close\ndata: {\"code\":4401,\"reason\":\"token \\\"x\\\"\\n\",\"reconnect\":false}\n\n"
        );
        assert_eq!(
            written(|out| write_close(out, 1001, "")),
            "event: close\ndata: {\"code\":1001,\"reason\":\"\",\"reconnect\":true}\n\n"
        );
    }
}
