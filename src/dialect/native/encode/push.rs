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
    let mut push = ObjectWriter::begin(out);
    push.value("type").extend_from_slice(quoted_kind(publication));
    if let Content::Text(_) = publication.content {
        push.number("code", 200);
    }
    push.object("data", |data| write_fields(data, publication));
    push.end();
}

/// Appends a publication as an answer lists it.
pub fn write_element(out: &mut Vec<u8>, publication: &Publication) {
    out.reserve(publication.frame_bytes);
    let mut element = ObjectWriter::begin(out);
    element.value("type").extend_from_slice(quoted_kind(publication));
    write_fields(&mut element, publication);
    element.end();
}

fn quoted_kind(publication: &Publication) -> &'static [u8] {
    match publication.content {
        Content::Json(_) => b"\"publication\"",
        Content::Text(_) => b"\"message\"",
    }
}

fn write_fields(data: &mut ObjectWriter<'_>, publication: &Publication) {
    let Publication { placed, timestamp, sender, escape, content, key, .. } = publication;
    let write_sender = |data: &mut ObjectWriter<'_>| {
        if let Some(sender) = sender {
            write_user(data.value("sender"), sender, *escape);
        }
    };
    match content {
        Content::Json(json) => {
            data.text("channel", &placed.channel);
            data.number("offset", placed.offset);
            data.value("data").extend_from_slice(json);
            data.optional_text("key", key.as_deref());
            write_sender(data);
        }
        Content::Text(text) => {
            write_message_id(data.value("id"), &placed.epoch, placed.offset);
            data.text("channel", &placed.channel);
            data.number("offset", placed.offset);
            write_sender(data);
            data.text("text", text);
        }
    }
    data.number("timestamp", *timestamp);
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
    let mut object = ObjectWriter::begin(out);
    match user.has_number() {
        true => object.value("id").extend_from_slice(user.key().as_bytes()),
        false => object.text("id", user.key()),
    }
    object.text("username", &name);
    object.end();
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
