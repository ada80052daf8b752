//! Responses of the API: an answer goes in, the bytes of a whole response come out (docs/api.md). Users and publications
//! look here as they do to clients.

use super::calls::{BareAnswer, SlowAnswer};
use super::error::ApiError;
use super::many::ManyPublishes;
use super::reply::ApiReply;
use crate::dialect::native::encode::{ObjectWriter, write_members, write_position, write_publications};
use crate::model::namespace::LOBBY;
use crate::model::parcel::{Answer, UsersPage};
use crate::wire::http::response::{DateLine, ResponseHead};

/// The most bytes that a writer keeps between two responses.
const KEEP_BYTES: usize = 64 * 1024;
const JSON: &str = "application/json";

/// What a request is answered with.
#[derive(Debug)]
pub enum ApiAnswer {
    /// An owner's answer. A refusal is written as the error that it means.
    Owner {
        /// The answer.
        answer: Answer,
        /// Names are HTML-escaped.
        escape: bool,
    },
    /// Publications, all of which have their result.
    Many(Box<ManyPublishes>),
    /// The state of the server.
    Health {
        /// The number of clients' connections, on all shards.
        connections: usize,
        /// The number of shards.
        shards: usize,
        /// The server is about to end.
        is_draining: bool,
    },
    /// What the control thread has done.
    Slow(SlowAnswer),
    /// A response without a body.
    Bare(BareAnswer),
    /// A refusal.
    Refused(ApiError),
}

/// What was written, for the log.
#[derive(Debug)]
pub struct WrittenResponse {
    /// The status of the response.
    pub status: u16,
    /// The error, if the response is one.
    pub(crate) error: Option<ApiError>,
}

/// Writes responses. Each shard has one for all connections of its API.
#[derive(Debug, Default)]
pub struct ApiWriter {
    date: DateLine,
    /// The body, whose length comes before it.
    body: Vec<u8>,
}

impl ApiWriter {
    /// Appends one response. The moment is in Unix milliseconds.
    pub fn write(&mut self, out: &mut Vec<u8>, reply: &ApiReply, answer: ApiAnswer, unix_ms: u64) -> WrittenResponse {
        let Self { date, body } = self;
        body.clear();
        let mut is_last = reply.is_last();
        let (mut status, mut content_type, mut bare, mut error) = (200, JSON, None, None);
        match answer {
            ApiAnswer::Owner { answer, escape } => error = write_owner(body, answer, escape).err(),
            ApiAnswer::Many(many) => {
                content_type = many.content_type();
                many.write(body);
            }
            ApiAnswer::Health { connections, shards, is_draining } => {
                write_health(body, connections, shards, is_draining);
                if is_draining {
                    (status, is_last) = (503, true);
                }
            }
            ApiAnswer::Slow(answer) => {
                content_type = answer.content_type;
                body.extend_from_slice(&answer.bytes);
            }
            ApiAnswer::Bare(answer) => (status, bare) = (204, Some(answer)),
            ApiAnswer::Refused(refusal) => error = Some(refusal),
        }
        if let Some(error) = &error {
            status = error.status();
            let mut object = ObjectWriter::begin(body);
            error.write(&mut object);
            object.end();
        }
        let mut head = ResponseHead::begin(out, status, reply.is_http_1_0());
        match bare {
            // A response 204 has no length (RFC 9110 §8.6).
            Some(bare) => write_bare(&mut head, bare, reply),
            None => {
                head.header("Content-Type", content_type);
                head.content_length(body.len());
            }
        }
        if error.is_some() {
            write_error_headers(&mut head, status, reply);
        }
        if let Some(origin) = reply.origin() {
            head.header("Access-Control-Allow-Origin", origin);
            head.header("Vary", "Origin");
        }
        head.lines(date.at(unix_ms));
        if is_last {
            head.header("Connection", "close");
        } else if reply.is_http_1_0() {
            head.header("Connection", "keep-alive");
        }
        let out = head.end();
        if reply.has_body() {
            out.extend_from_slice(body);
        }
        if body.capacity() > KEEP_BYTES {
            *body = Vec::new();
        }
        WrittenResponse { status, error }
    }
}

/// Writes the body that an owner's answer makes.
///
/// # Errors
/// The answer is a refusal.
fn write_owner(body: &mut Vec<u8>, answer: Answer, escape: bool) -> Result<(), ApiError> {
    let mut object = ObjectWriter::begin(body);
    match answer {
        Answer::Published { placed, duplicate } => {
            write_position(&mut object, placed.position());
            object.flag_if_set("duplicate", duplicate);
        }
        Answer::History(attached) => {
            write_position(&mut object, attached.placed.position());
            write_publications(&mut object, &attached.publications);
        }
        Answer::Presence(channel, page) => write_page(&mut object, &channel, &page, escape),
        Answer::Users(page) => write_page(&mut object, LOBBY, &page, escape),
        refused => return Err(ApiError::from_answer(refused)),
    }
    object.end();
    Ok(())
}

fn write_page(object: &mut ObjectWriter<'_>, channel: &str, page: &UsersPage, escape: bool) {
    object.text("channel", channel);
    object.number("count", page.count);
    write_members(object, &page.members, escape);
    object.optional_text("cursor", page.cursor.as_deref());
}

fn write_health(body: &mut Vec<u8>, connections: usize, shards: usize, is_draining: bool) {
    let mut object = ObjectWriter::begin(body);
    object.text("status", if is_draining { "draining" } else { "ok" });
    object.number("connections", connections as u64);
    object.number("shards", shards as u64);
    object.end();
}

fn write_bare(head: &mut ResponseHead<'_>, bare: BareAnswer, reply: &ApiReply) {
    match bare {
        BareAnswer::Methods => head.header("Allow", reply.route().allowed()),
        BareAnswer::Preflight => {
            head.header("Access-Control-Allow-Methods", "GET, POST");
            let allowed = "Authorization, Content-Type, Idempotency-Key, X-API-Key";
            head.header("Access-Control-Allow-Headers", allowed);
            head.header("Access-Control-Max-Age", "600");
        }
    }
}

fn write_error_headers(head: &mut ResponseHead<'_>, status: u16, reply: &ApiReply) {
    match status {
        // RFC 9110 §15.5.2 asks for the challenge, §15.5.6 for the methods.
        401 => head.header("WWW-Authenticate", "Bearer"),
        405 => head.header("Allow", reply.route().allowed()),
        503 => head.header("Retry-After", "1"),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
