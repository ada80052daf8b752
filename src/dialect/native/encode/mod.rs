//! Replies and pushes as JSON: values in, one JSON text out, appended to the caller's buffer in a single pass
//! (docs/protocol.md has every shape). It knows the shapes, not when they are sent nor how they
//! are framed. Here is what one client is told; `push` has what all subscribers of a channel are told.

mod object;
mod push;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub(crate) use self::object::ObjectWriter;
use self::object::write_list;
pub use self::push::{publication_frame_len, write_element, write_gap, write_presence, write_publication, write_user};
use crate::model::notice::{About, Recovered, Reply};
use crate::model::position::Position;
use crate::model::publication::Publication;
use crate::model::text::{Language, Text};
use crate::model::user::User;

/// Appends a reply. `id` is the id of the request that it answers.
pub(crate) fn write_reply(out: &mut Vec<u8>, reply: &Reply<'_>, id: Option<&str>, language: Language) {
    let said = |text: Text| Some(text.in_language(language));
    match *reply {
        Reply::System { connection_id, timestamp } => {
            write_answer(out, Answered::event("system", 200, said(Text::Connected)), |data| {
                data.text("connection_id", connection_id);
                data.number("timestamp", timestamp);
            });
        }
        Reply::AuthSuccess { user, escape, expires_at, online_count, lobby, recovery } => {
            write_answer(
                out,
                Answered { kind: "auth_success", id, code: 200, message: said(Text::Authenticated) },
                |data| {
                    write_user(data.value("user"), user, escape);
                    data.optional_number("expires_at", expires_at);
                    data.optional_number("online_count", online_count);
                    if let Some(lobby) = lobby {
                        data.object("lobby", |data| write_restored(data, lobby, recovery));
                    }
                },
            );
        }
        Reply::AuthFailed => {
            write_bare(out, Answered { kind: "auth_failed", id, code: 401, message: said(Text::TokenInvalid) });
        }
        Reply::Kicked => write_bare(out, Answered::event("kicked", 409, said(Text::SignedInElsewhere))),
        Reply::Heartbeat { timestamp } => {
            let mut envelope = ObjectWriter::begin(out);
            Answered { kind: "heartbeat", id, code: 200, message: Some("pong") }.write(&mut envelope);
            envelope.number("timestamp", timestamp);
            envelope.end();
        }
        Reply::Users { count, members, escape, cursor } => {
            write_answer(out, Answered::to("users", id), |data| {
                data.number("count", count);
                write_members(data, members, escape);
                data.optional_text("cursor", cursor);
            });
        }
        Reply::Subscribed { position, recovery, overflow, expires_at } => {
            write_answer(out, Answered::to("subscribed", id), |data| {
                write_restored(data, position, recovery);
                data.text("overflow", overflow);
                data.optional_number("expires_at", expires_at);
            });
        }
        Reply::Unsubscribed { channel, code } => {
            write_answer(out, Answered { kind: "unsubscribed", id, code, message: None }, |data| {
                data.text("channel", channel);
            });
        }
        Reply::Ack { position, duplicate } => {
            write_answer(out, Answered::to("ack", id), |data| {
                write_position(data, position);
                data.flag_if_set("duplicate", duplicate);
            });
        }
        Reply::History { position, publications } => {
            write_answer(out, Answered::to("history", id), |data| {
                write_position(data, position);
                write_publications(data, publications);
            });
        }
        Reply::Presence { channel, count, members, escape, cursor } => {
            write_answer(out, Answered::to("presence", id), |data| {
                data.text("channel", channel);
                data.number("count", count);
                write_members(data, members, escape);
                data.optional_text("cursor", cursor);
            });
        }
        Reply::Refreshed { channel, expires_at } => {
            write_answer(out, Answered::to("refreshed", id), |data| {
                data.optional_text("channel", channel);
                data.number("expires_at", expires_at);
            });
        }
        Reply::TokenExpiring { channel, expires_at } => write_push(out, "token_expiring", |data| {
            data.optional_text("channel", channel);
            data.number("expires_at", expires_at);
        }),
        Reply::Error { error, about } => {
            let envelope = Answered { kind: "error", id, code: error.code, message: said(error.text) };
            match about {
                None => write_bare(out, envelope),
                Some(About::Channel { channel }) => write_answer(out, envelope, |data| data.text("channel", channel)),
                Some(About::Position(position)) => write_answer(out, envelope, |data| write_position(data, position)),
            }
        }
        Reply::Ping => {
            let mut envelope = ObjectWriter::begin(out);
            envelope.text("type", "ping");
            envelope.end();
        }
        Reply::Draining { reconnect_in_ms } => {
            write_push(out, "draining", |data| data.number("reconnect_in_ms", reconnect_in_ms));
        }
    }
}

/// What an answer has around its `data`.
struct Answered<'a> {
    kind: &'a str,
    id: Option<&'a str>,
    code: u16,
    message: Option<&'a str>,
}

impl<'a> Answered<'a> {
    /// The answer to a request that was done.
    fn to(kind: &'a str, id: Option<&'a str>) -> Self {
        Self { kind, id, code: 200, message: None }
    }

    /// What has the shape of an answer and answers nothing.
    fn event(kind: &'a str, code: u16, message: Option<&'a str>) -> Self {
        Self { kind, id: None, code, message }
    }

    fn write(&self, envelope: &mut ObjectWriter<'_>) {
        envelope.text("type", self.kind);
        envelope.optional_text("id", self.id);
        envelope.number("code", u64::from(self.code));
        envelope.optional_text("message", self.message);
    }
}

fn write_bare(out: &mut Vec<u8>, answered: Answered<'_>) {
    let mut envelope = ObjectWriter::begin(out);
    answered.write(&mut envelope);
    envelope.end();
}

fn write_answer(out: &mut Vec<u8>, answered: Answered<'_>, write_data: impl FnOnce(&mut ObjectWriter<'_>)) {
    let mut envelope = ObjectWriter::begin(out);
    answered.write(&mut envelope);
    envelope.object("data", write_data);
    envelope.end();
}

/// Appends a message that answers nothing and has no code.
fn write_push(out: &mut Vec<u8>, kind: &str, write_data: impl FnOnce(&mut ObjectWriter<'_>)) {
    let mut envelope = ObjectWriter::begin(out);
    envelope.text("type", kind);
    envelope.object("data", write_data);
    envelope.end();
}

/// Writes where a channel stands.
pub(crate) fn write_position(data: &mut ObjectWriter<'_>, Position { channel, epoch, offset }: Position<'_>) {
    data.text("channel", channel);
    data.text("epoch", epoch);
    data.number("offset", offset);
}

fn write_restored(data: &mut ObjectWriter<'_>, position: Position<'_>, recovery: Option<Recovered<'_>>) {
    write_position(data, position);
    if let Some(Recovered { recovered, publications }) = recovery {
        data.flag("recovered", recovered);
        write_publications(data, publications);
    }
}

/// Writes a list of publications.
pub(crate) fn write_publications(data: &mut ObjectWriter<'_>, publications: &[Arc<Publication>]) {
    write_list(data.value("publications"), publications, |out, publication| write_element(out, publication));
}

/// Writes a page of users, with the number of connections that each of them has.
pub(crate) fn write_members(data: &mut ObjectWriter<'_>, members: &[(Arc<User>, u64)], escape: bool) {
    data.list("members", members, |out, (user, connections)| {
        let mut member = ObjectWriter::begin(out);
        write_user(member.value("user"), user, escape);
        member.number("connections", *connections);
        member.end();
    });
}
