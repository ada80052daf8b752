//! What the protocols of clients look like on the wire, one folder for each protocol. A dialect turns a client's bytes
//! into commands, and replies and pushes into bytes. It decides nothing. The functions here write a message for a
//! *voice*: the dialect writes it, and it is framed as the connection is.

pub mod native;

use self::native::{encode, stream};
use crate::model::namespace::LOBBY;
use crate::model::notice::{Gap, Reply};
use crate::model::presence::PresenceNews;
use crate::model::publication::Publication;
use crate::model::text::Language;
use crate::model::voice::Voice;
use crate::wire::event_stream;
use crate::wire::frame::{self, Opcode};

/// Appends a reply. `id` is the id of the request that it answers.
pub fn write_reply(voice: Voice, out: &mut Vec<u8>, reply: &Reply<'_>, id: Option<&str>, language: Language) {
    match voice {
        Voice::NativeText => framed(out, |out| encode::write_reply(out, reply, id, language)),
        Voice::EventStream => stream::write_reply(out, reply, language),
    }
}

/// Appends a publication as its subscribers get it.
pub fn write_publication(voice: Voice, out: &mut Vec<u8>, publication: &Publication) {
    match voice {
        Voice::NativeText => {
            // One allocation, although the header is written first.
            out.reserve(publication.frame_bytes + frame::RESERVED);
            framed(out, |out| encode::write_publication(out, publication));
        }
        Voice::EventStream => stream::write_publication(out, publication),
    }
}

/// Appends news of a channel's members.
pub(crate) fn write_presence(voice: Voice, out: &mut Vec<u8>, news: &PresenceNews, language: Language) {
    match voice {
        Voice::NativeText => framed(out, |out| encode::write_presence(out, news, *news.channel == *LOBBY, language)),
        Voice::EventStream => stream::write_presence(out, news, language),
    }
}

/// Appends a gap in a channel.
pub(crate) fn write_gap(voice: Voice, out: &mut Vec<u8>, gap: &Gap<'_>) {
    match voice {
        Voice::NativeText => framed(out, |out| encode::write_gap(out, gap)),
        Voice::EventStream => stream::write_gap(out, gap),
    }
}

/// Appends what asks for a sign of life, or at least shows one.
pub(crate) fn write_ping(voice: Voice, out: &mut Vec<u8>) {
    match voice {
        Voice::NativeText => frame::write_frame(out, Opcode::Ping, &[]),
        Voice::EventStream => out.extend_from_slice(event_stream::HEARTBEAT),
    }
}

/// Appends the last message of a connection: the code that it is closed with, and the reason for people.
pub(crate) fn write_close(voice: Voice, out: &mut Vec<u8>, code: u16, reason: &str) {
    match voice {
        Voice::NativeText => frame::write_close(out, code, reason),
        Voice::EventStream => stream::write_close(out, code, reason),
    }
}

/// The smallest boundary between messages at or after `at` in a stretch of whole ones.
pub(crate) fn first_boundary(voice: Voice, messages: &[u8], at: usize) -> usize {
    match voice {
        Voice::NativeText => frame::first_boundary(messages, at),
        Voice::EventStream => event_stream::first_boundary(messages, at),
    }
}

fn framed(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let mark = frame::begin_text(out);
    write(out);
    frame::end_text(out, mark);
}
