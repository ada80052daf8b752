//! What a request for an event stream says (docs/sse.md): its channels, its token, and the positions to recover from.
//! `GET /sse?channel=a&channel=b`, with the token in `Authorization: Bearer` or `?token=`, and the positions in
//! `Last-Event-ID` or `?last_event_id=`.
//!
//! The id of an event holds the position of each channel of its stream, in the order of the URL: `EPOCH.OFFSET`, or `-`
//! for a channel that has none yet, joined by `_`. All of these characters may stand in a URL, a header and an id.
//! The last event of a stream that is not to come back has the id `!CODE`.

use std::fmt::Write as _;

use crate::model::channel_name::is_channel_name;
use crate::model::command::MAX_EPOCH_BYTES;

/// Most channels in one stream: each event's id holds a position for each.
pub const MAX_STREAM_CHANNELS: usize = 32;

/// Where one channel of a stream stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamPosition {
    /// The epoch of the offset.
    pub(crate) epoch: Box<str>,
    /// The offset of the last publication that was sent, or told lost.
    pub(crate) offset: u64,
}

/// What an id says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EventId {
    /// A position for each channel of the stream, in the order of the URL; `None` if the channel has none yet.
    Positions(Vec<Option<StreamPosition>>),
    /// The stream was closed with this code, and is not to come back.
    Closed(u16),
}

/// An id that the server did not make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MalformedEventId;

impl EventId {
    /// Reads an id. It is taken exactly as it is written: no other spelling of a number passes.
    ///
    /// # Errors
    /// It is none that [`write_positions`] or [`closed_id`] makes.
    pub fn parse(id: &str) -> Result<Self, MalformedEventId> {
        if let Some(code) = id.strip_prefix('!') {
            return number(code).and_then(|code| u16::try_from(code).ok()).map(Self::Closed).ok_or(MalformedEventId);
        }
        let mut positions = Vec::new();
        for position in id.split('_') {
            if positions.len() == MAX_STREAM_CHANNELS {
                return Err(MalformedEventId);
            }
            positions.push(if position == "-" {
                None
            } else {
                Some(parse_position(position).ok_or(MalformedEventId)?)
            });
        }
        Ok(Self::Positions(positions))
    }
}

fn parse_position(position: &str) -> Option<StreamPosition> {
    let (epoch, offset) = position.split_once('.')?;
    is_epoch(epoch).then_some(StreamPosition { epoch: epoch.into(), offset: number(offset)? })
}

fn is_epoch(epoch: &str) -> bool {
    (1..=MAX_EPOCH_BYTES).contains(&epoch.len()) && epoch.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// A decimal number without a sign or a leading zero.
fn number(digits: &str) -> Option<u64> {
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if is_plain { digits.parse().ok() } else { None }
}

/// Appends the line with the id that holds one position: that of a stream of one channel, which all streams of that
/// channel share.
pub(crate) fn write_position_id(out: &mut Vec<u8>, epoch: &str, offset: u64) {
    debug_assert!(is_epoch(epoch), "{epoch:?} can't stand in an id");
    let _ = std::io::Write::write_fmt(out, format_args!("id: {epoch}.{offset}\n"));
}

/// Appends the id that holds these positions.
pub fn write_positions(positions: &[Option<StreamPosition>], out: &mut String) {
    for (index, position) in positions.iter().enumerate() {
        let separator = if index == 0 { "" } else { "_" };
        let _ = match position {
            Some(StreamPosition { epoch, offset }) => write!(out, "{separator}{epoch}.{offset}"),
            None => write!(out, "{separator}-"),
        };
    }
}

/// The id of the last event of a stream that is not to come back.
pub fn closed_id(code: u16) -> String {
    format!("!{code}")
}

/// Whether a client that was closed with this code is not to come back by itself (docs/protocol.md, "Closing codes").
pub(crate) fn is_final(code: u16) -> bool {
    !matches!(code, 1001 | 1011 | 4500..=4599)
}

/// A well-formed request for a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamRequest {
    /// The channels, each with the position to recover from, if there is one.
    pub channels: Vec<(Box<str>, Option<StreamPosition>)>,
    /// Who asks.
    pub token: Box<str>,
}

/// Why a request for a stream is not one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamRequestError {
    /// The stream was closed for good, and its client asks to go on with it.
    Over,
    /// There is no token.
    NoToken,
    /// Something is missing or malformed: what.
    Malformed(&'static str),
}

impl StreamRequest {
    /// Reads the parts of a request: the query of its target, and the values of its Authorization and Last-Event-ID
    /// headers. A header counts more than the parameter that stands for it: a browser that comes back by itself asks
    /// for the URL that it was given, and knows better in the header.
    ///
    /// # Errors
    /// The first of these that holds: the id is malformed; the stream is over; a channel is missing, malformed or there
    /// twice; there are too many; the id is another stream's; there is no token.
    pub fn parse(
        query: &str,
        authorization: Option<&str>,
        last_event_id: Option<&str>,
    ) -> Result<Self, StreamRequestError> {
        use StreamRequestError::{Malformed, NoToken, Over};
        let (mut names, mut token, mut id_parameter) = (Vec::new(), None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "channel" => names.push(value),
                "token" => token = Some(value),
                "last_event_id" => id_parameter = Some(value),
                _ => {}
            }
        }
        // A browser that has seen no id yet sends no header; an empty one says the same.
        let id = last_event_id.or(id_parameter.as_deref()).filter(|id| !id.is_empty());
        let id = id.map(EventId::parse).transpose();
        let mut positions = match id.map_err(|_| Malformed("Last-Event-ID is none that this server made"))? {
            Some(EventId::Closed(_)) => return Err(Over),
            Some(EventId::Positions(positions)) => Some(positions),
            None => None,
        };
        if names.is_empty() {
            return Err(Malformed("a channel is needed: /sse?channel=NAME"));
        }
        if names.len() > MAX_STREAM_CHANNELS {
            return Err(Malformed("too many channels: a stream has at most 32"));
        }
        if positions.as_ref().is_some_and(|positions| positions.len() != names.len()) {
            return Err(Malformed("Last-Event-ID is of a stream with another number of channels"));
        }
        let mut channels: Vec<(Box<str>, Option<StreamPosition>)> = Vec::with_capacity(names.len());
        for (index, name) in names.iter().enumerate() {
            if !is_channel_name(name) {
                return Err(Malformed("a channel's name is malformed"));
            }
            if channels.iter().any(|(known, _)| **known == **name) {
                return Err(Malformed("a channel is named twice"));
            }
            let position = positions.as_mut().and_then(|positions| positions[index].take());
            channels.push((name.as_ref().into(), position));
        }
        let bearer = authorization.and_then(bearer);
        let token = bearer.or(token.as_deref()).filter(|token| !token.is_empty()).ok_or(NoToken)?;
        Ok(Self { channels, token: token.into() })
    }
}

/// The token of an Authorization header (RFC 6750, section 2.1). The scheme's case doesn't matter.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position() -> impl Strategy<Value = Option<StreamPosition>> {
        let position = ("[0-9a-f]{16}|[A-Za-z0-9]{1,64}", prop_oneof![0..100u64, any::<u64>()]);
        prop::option::weighted(0.8, position.prop_map(|(epoch, offset)| StreamPosition { epoch: epoch.into(), offset }))
    }

    fn written(positions: &[Option<StreamPosition>]) -> String {
        let mut id = String::new();
        write_positions(positions, &mut id);
        id
    }

    /// A reading of the format with nothing but the standard library's splitting.
    fn naive(id: &str) -> Option<Vec<Option<StreamPosition>>> {
        let parts: Vec<&str> = id.split('_').collect();
        let read = |part: &&str| {
            if *part == "-" {
                return Some(None);
            }
            let pieces: Vec<&str> = part.split('.').collect();
            let [epoch, offset] = pieces[..] else { return None };
            let offset: u64 = offset.parse().ok().filter(|number: &u64| number.to_string() == offset)?;
            let is_epoch = epoch.chars().all(|c| c.is_ascii_alphanumeric()) && !epoch.is_empty() && epoch.len() <= 64;
            is_epoch.then(|| Some(StreamPosition { epoch: epoch.into(), offset }))
        };
        let positions: Option<Vec<_>> = parts.iter().map(read).collect();
        positions.filter(|positions| positions.len() <= 32)
    }

    proptest! {
        #[test]
        fn positions_come_back_as_they_went(positions in prop::collection::vec(position(), 1..=32)) {
            let id = written(&positions);
            prop_assert!(crate::wire::event_stream::is_event_id(&id));
            let encoded: String = form_urlencoded::byte_serialize(id.as_bytes()).collect();
            prop_assert_eq!(&encoded, &id, "a URL needs no escape");
            if let [Some(StreamPosition { epoch, offset })] = &positions[..] {
                let mut line = Vec::new();
                write_position_id(&mut line, epoch, *offset);
                prop_assert_eq!(String::from_utf8(line).expect("text"), format!("id: {id}\n"));
            }
            prop_assert_eq!(EventId::parse(&id), Ok(EventId::Positions(positions)));
        }

        #[test]
        fn an_id_has_one_spelling(id in "[-0-9a-f._+A! ]{0,40}|(-_){0,40}-|([0-9a-f]{1,4}\\.[0-9]{1,21}_?){1,4}") {
            match (EventId::parse(&id), naive(&id)) {
                (Ok(EventId::Positions(positions)), expected) => {
                    prop_assert_eq!(written(&positions), id);
                    prop_assert_eq!(Some(positions), expected);
                }
                (Ok(EventId::Closed(code)), None) => prop_assert_eq!(closed_id(code), id),
                (Err(MalformedEventId), None) => {}
                (parsed, expected) => prop_assert!(false, "{:?} against {:?}", parsed, expected),
            }
        }

        #[test]
        fn any_query_and_header_is_judged(query in "\\PC{0,60}|(channel=[a-z%:]{0,6}&){0,3}token=[a-z]{0,3}", header in prop::option::of("\\PC{0,30}")) {
            if let Ok(request) = StreamRequest::parse(&query, header.as_deref(), header.as_deref()) {
                prop_assert!((1..=MAX_STREAM_CHANNELS).contains(&request.channels.len()));
                prop_assert!(request.channels.iter().all(|(name, _)| is_channel_name(name)));
                prop_assert!(!request.token.is_empty());
            }
        }
    }

    fn parse(query: &str) -> Result<StreamRequest, StreamRequestError> {
        StreamRequest::parse(query, None, None)
    }

    #[test]
    fn a_request_is_read() {
        let request = StreamRequest::parse("channel=news&channel=a%3Ab&x=y", Some("bearer  t.o.k"), Some("e1.7_-"));
        let request = request.expect("well-formed");
        assert_eq!(&*request.token, "t.o.k");
        let position = StreamPosition { epoch: "e1".into(), offset: 7 };
        assert_eq!(request.channels, [("news".into(), Some(position)), ("a:b".into(), None)]);
        assert_eq!(&*parse("token=u&channel=a").expect("well-formed").token, "u");
    }

    #[test]
    fn a_header_counts_more_than_its_parameter() {
        let query = "channel=a&token=parameter&last_event_id=e.1";
        let request = StreamRequest::parse(query, Some("Bearer header"), Some("e.2")).expect("well-formed");
        assert_eq!((&*request.token, request.channels[0].1.as_ref().expect("a position").offset), ("header", 2));
        let request = StreamRequest::parse(query, Some("Basic abc"), None).expect("well-formed");
        assert_eq!((&*request.token, request.channels[0].1.as_ref().expect("a position").offset), ("parameter", 1));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let too_many = (0..33).map(|n| format!("channel=c{n}&")).collect::<String>();
        for query in ["", "channel=", "channel=a%20b", "channel=a&channel=a", "channels=a", &too_many] {
            let parsed = parse(&format!("token=t&{query}"));
            assert!(matches!(parsed, Err(StreamRequestError::Malformed(_))), "{query}: {parsed:?}");
        }
        assert!(parse(&format!("{}token=t", &too_many[..too_many.len() - "channel=c32&".len()])).is_ok());
        for query in ["channel=a", "channel=a&token="] {
            assert_eq!(parse(query), Err(StreamRequestError::NoToken));
        }
        for id in ["e.1_e.2", "e.01", "e.", ".1", "e", "é.1", "!", "!4401x", "!99999", "_", "-_-"] {
            let parsed = StreamRequest::parse("channel=a&token=t", None, Some(id));
            assert!(matches!(parsed, Err(StreamRequestError::Malformed(_))), "{id}: {parsed:?}");
        }
        assert_eq!(StreamRequest::parse("", None, Some("!4401")), Err(StreamRequestError::Over));
        assert!(StreamRequest::parse("channel=a&token=t", None, Some("")).is_ok());
    }

    #[test]
    fn which_codes_are_final_is_as_in_the_contract() {
        for code in [1001, 1011, 4503, 4504, 4508, 4511] {
            assert!(!is_final(code), "{code}");
        }
        for code in [1000, 1002, 4401, 4403, 4408, 4409, 4429] {
            assert!(is_final(code), "{code}");
        }
    }
}
