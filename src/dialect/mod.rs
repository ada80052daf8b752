//! What the protocols of clients look like on the wire, one folder for each protocol. A dialect turns a client's bytes
//! into commands, and replies and pushes into bytes. It decides nothing. The functions here write a message for a
//! *voice*: the dialect writes it, and it is framed as the connection is.

pub mod native;

use self::native::encode;
use crate::model::namespace::LOBBY;
use crate::model::notice::{Gap, Reply};
use crate::model::presence::PresenceNews;
use crate::model::publication::Publication;
use crate::model::text::Language;
use crate::model::voice::Voice;
use crate::wire::frame;

/// Appends a reply. `id` is the id of the request that it answers.
pub fn write_reply(voice: Voice, out: &mut Vec<u8>, reply: &Reply<'_>, id: Option<&str>, language: Language) {
    framed(voice, out, |out| encode::write_reply(out, reply, id, language));
}

/// Appends a publication as its subscribers get it.
pub fn write_publication(voice: Voice, out: &mut Vec<u8>, publication: &Publication) {
    framed(voice, out, |out| encode::write_publication(out, publication));
}

/// Appends news of a channel's members.
pub fn write_presence(voice: Voice, out: &mut Vec<u8>, news: &PresenceNews, language: Language) {
    framed(voice, out, |out| encode::write_presence(out, news, *news.channel == *LOBBY, language));
}

/// Appends a gap in a channel.
pub fn write_gap(voice: Voice, out: &mut Vec<u8>, gap: &Gap<'_>) {
    framed(voice, out, |out| encode::write_gap(out, gap));
}

fn framed(voice: Voice, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    match voice {
        Voice::NativeText => {
            let mark = frame::begin_text(out);
            write(out);
            frame::end_text(out, mark);
        }
    }
}
