//! What all subscribers of a channel are told: publications and presence. A publication is also an element of
//! `publications` in the answers that recover it, with the same fields in the same order.

use std::borrow::Cow;

use super::object::{ObjectWriter, number_len, text_len, write_number, write_text};
use super::write_push;
use crate::model::notice::{Gap, GapReason};
use crate::model::presence::{Announcement, PresenceNews};
use crate::model::publication::{Content, Publication};
use crate::model::text::{Language, Text, escape_html};
use crate::model::user::User;
use crate::wire::frame;

/// Appends a publication as a push: a `publication`, or a `message` if it is a text.
pub fn write_publication(out: &mut Vec<u8>, publication: &Publication) {
    out.reserve(publication.frame_bytes);
    out.extend_from_slice(match publication.content {
        Content::Json(_) => br#"{"type":"publication","data":{"#,
        Content::Text(_) => br#"{"type":"message","code":200,"data":{"#,
    });
    write_fields(out, publication);
    out.extend_from_slice(b"}}");
}

/// Appends a publication as an answer lists it.
pub fn write_element(out: &mut Vec<u8>, publication: &Publication) {
    out.reserve(publication.frame_bytes);
    out.extend_from_slice(match publication.content {
        Content::Json(_) => br#"{"type":"publication","#,
        Content::Text(_) => br#"{"type":"message","#,
    });
    write_fields(out, publication);
    out.push(b'}');
}

/// Writes the members that a push and an element have in common. This is the most frequent of all messages, so it is
/// written in few pieces and not member by member.
fn write_fields(out: &mut Vec<u8>, publication: &Publication) {
    let Publication { placed, timestamp, sender, escape, content, key, .. } = publication;
    let write_place = |out: &mut Vec<u8>| {
        out.extend_from_slice(br#""channel":"#);
        write_text(out, &placed.channel);
        out.extend_from_slice(br#","offset":"#);
        write_number(out, placed.offset);
    };
    let write_sender = |out: &mut Vec<u8>| {
        if let Some(sender) = sender {
            out.extend_from_slice(br#","sender":"#);
            write_user(out, sender, *escape);
        }
    };
    match content {
        Content::Json(json) => {
            write_place(out);
            out.extend_from_slice(br#","data":"#);
            out.extend_from_slice(json);
            if let Some(key) = key {
                out.extend_from_slice(br#","key":"#);
                write_text(out, key);
            }
            write_sender(out);
        }
        Content::Text(text) => {
            out.extend_from_slice(br#""id":"#);
            write_message_id(out, &placed.epoch, placed.offset);
            out.push(b',');
            write_place(out);
            write_sender(out);
            out.extend_from_slice(br#","text":"#);
            write_text(out, text);
        }
    }
    out.extend_from_slice(br#","timestamp":"#);
    write_number(out, *timestamp);
}

/// The id of a message, unique for ever: the epoch is random, the offset counts.
fn write_message_id(out: &mut Vec<u8>, epoch: &str, offset: u64) {
    write_text(out, epoch);
    out.pop();
    out.push(b'-');
    write_number(out, offset);
    out.push(b'"');
}

/// The length of a publication's push as one text frame, its header included.
pub fn publication_frame_len(publication: &Publication) -> usize {
    let Publication { placed, timestamp, sender, escape, content, key, .. } = publication;
    let place = text_len(&placed.channel) + number_len(placed.offset);
    let sender = sender.as_ref().map_or(0, |user| r#","sender":"#.len() + user_len(user, *escape));
    let of_kind = match content {
        Content::Json(json) => {
            const FIXED: usize = r#"{"type":"publication","data":{"channel":,"offset":,"data":,"timestamp":}}"#.len();
            let key = key.as_deref().map_or(0, |key| r#","key":"#.len() + text_len(key));
            FIXED + json.len() + key
        }
        Content::Text(text) => {
            const FIXED: usize =
                r#"{"type":"message","code":200,"data":{"id":-,"channel":,"offset":,"text":,"timestamp":}}"#.len();
            FIXED + text_len(&placed.epoch) + number_len(placed.offset) + text_len(text)
        }
    };
    frame::frame_len(of_kind + place + sender + number_len(*timestamp))
}

/// Appends a user as everybody is shown them.
pub fn write_user(out: &mut Vec<u8>, user: &User, escape: bool) {
    let name: Cow<'_, str> = if escape { escape_html(user.name()) } else { user.name().into() };
    out.extend_from_slice(br#"{"id":"#);
    match user.has_number() {
        true => out.extend_from_slice(user.key().as_bytes()),
        false => write_text(out, user.key()),
    }
    out.extend_from_slice(br#","username":"#);
    write_text(out, &name);
    out.push(b'}');
}

fn user_len(user: &User, escape: bool) -> usize {
    let id = if user.has_number() { user.key().len() } else { text_len(user.key()) };
    let name = if escape { text_len(&escape_html(user.name())) } else { text_len(user.name()) };
    r#"{"id":,"username":}"#.len() + id + name
}

/// Appends news of a channel's members.
pub fn write_presence(out: &mut Vec<u8>, news: &PresenceNews, is_lobby: bool, language: Language) {
    let PresenceNews { channel, timestamp, escape, announcement } = news;
    match announcement {
        Announcement::Event { joined, user, count } if is_lobby => {
            let (kind, text) =
                if *joined { ("user_online", Text::UserOnline) } else { ("user_offline", Text::UserOffline) };
            let mut push = ObjectWriter::begin(out);
            push.text("type", kind);
            push.number("code", 200);
            push.text("message", text.in_language(language));
            push.object("data", |data| {
                write_user(data.value("user"), user, *escape);
                data.number("online_count", *count);
                data.number("timestamp", *timestamp);
            });
            push.end();
        }
        Announcement::Event { joined, user, count } => {
            write_push(out, if *joined { "join" } else { "leave" }, |data| {
                data.text("channel", channel);
                write_user(data.value("user"), user, *escape);
                data.number("count", *count);
                data.number("timestamp", *timestamp);
            });
        }
        Announcement::Digest(digest) => write_push(out, "presence_digest", |data| {
            data.text("channel", channel);
            data.number("count", digest.count);
            data.list("joined", &digest.joined, |out, user| write_user(out, user, *escape));
            data.list("left", &digest.left, |out, user| write_user(out, user, *escape));
            data.flag_if_set("truncated", digest.truncated);
            data.flag_if_set("reset", digest.reset);
            data.number("timestamp", *timestamp);
        }),
    }
}

/// Appends a gap in a channel.
pub fn write_gap(out: &mut Vec<u8>, gap: &Gap<'_>) {
    let reason = match gap.reason {
        GapReason::SlowConsumer => "slow_consumer",
        GapReason::Conflated => "conflated",
        GapReason::HistoryLost => "history_lost",
        GapReason::Engine => "engine",
    };
    write_push(out, "gap", |data| {
        data.text("channel", gap.channel);
        data.text("epoch", gap.epoch);
        data.number("from", gap.from);
        data.number("to", gap.to);
        data.text("reason", reason);
    });
}
