//! What requests to the API say: JSON or a query goes in, checked values come out. This file checks types and sizes; it
//! knows no namespace and no channel. `data` is kept as it was written, once it is certain that a browser can parse it.

use std::borrow::Cow;
use std::sync::Arc;

use super::ask::ApiAsk;
use super::error::ApiError;
use super::fields::{JsonFields, QueryFields};
use super::rules::ApiRules;
use crate::auth::{Lifted, MAX_ID_BYTES, MAX_TOKEN_ID_BYTES, Revocation, Revoked, user_id_from_json};
use crate::model::command::{MAX_EPOCH_BYTES, MAX_IDEMPOTENCY_KEY_BYTES, MAX_KEY_BYTES};
use crate::model::namespace::{LOBBY, PresenceMode};
use crate::model::parcel::Ask;
use crate::model::position::Since;
use crate::model::publication::{Content, Publish};
use crate::model::text::{Language, Text, trim};

/// Data nested deeper than this is refused.
const MAX_DEPTH: usize = 64;
/// The earliest `issued_before`, in Unix milliseconds (in 2001). A time in seconds is earlier, and so it is refused.
const CUTOFF_LEAST_MS: u64 = 1_000_000_000_000;
/// How far in the future `issued_before` may be, in milliseconds: issuers' clocks may be ahead.
const CUTOFF_AHEAD_MS: u64 = 86_400_000;
/// The most channels in one broadcast.
const MAX_CHANNELS: usize = 1000;
/// The most members or publications in one page.
const PAGE_MAX: u32 = 1000;
/// The members or publications in one page if the request names no limit.
const PAGE_DEFAULT: u32 = 100;

/// The fields of `publish` and `broadcast`. Each of the two refuses a field that belongs to the other one.
const PUBLICATION: &[&str] = &["data", "text", "key", "idempotency_key", "epoch", "channel", "channels"];
const REVOCATION: &[&str] = &["user", "token_id", "issued_before", "expires_at"];
const PRESENCE: &[&str] = &["channel", "cursor", "limit"];
const HISTORY: &[&str] = &["channel", "since", "limit", "reverse"];
const POSITION: &[&str] = &["epoch", "offset"];

const LIMIT: &str = "a whole number from 1 up";
const TIME: &str = "a time in Unix milliseconds, a whole number from 0 up";

/// A publication as the backend wrote it, for any number of channels.
#[derive(Debug)]
pub(crate) struct PublicationInput {
    content: Content,
    key: Option<Box<str>>,
    idempotency_key: Option<Box<str>>,
    epoch: Option<Box<str>>,
}

impl PublicationInput {
    /// The publication for one of many channels.
    pub(super) fn to(&self, channel: Arc<str>) -> Box<Publish> {
        let Self { content, key, idempotency_key, epoch } = self;
        let (content, key) = (content.clone(), key.clone());
        let (idempotency_key, epoch) = (idempotency_key.clone(), epoch.clone());
        Box::new(Publish { channel, sender: None, content, key, idempotency_key, epoch })
    }

    /// The publication for its only channel.
    fn into_publish(self, channel: Arc<str>) -> Box<Publish> {
        let Self { content, key, idempotency_key, epoch } = self;
        Box::new(Publish { channel, sender: None, content, key, idempotency_key, epoch })
    }

    /// The bytes that it holds on the heap, about.
    pub(super) fn held_bytes(&self) -> usize {
        self.content.len()
    }
}

/// Reads the body of `POST /api/publish`. `header` is the value of `Idempotency-Key`.
pub(super) fn publish_ask(body: &[u8], header: Option<&str>, rules: &ApiRules) -> Result<ApiAsk, ApiError> {
    let publish = publish(&JsonFields::of_body(body, PUBLICATION)?, header)?;
    rules.check_channel(&publish.channel)?;
    Ok(ApiAsk { ask: Ask::Publish(publish), escape: false })
}

/// Reads one of many publications, which are a line each.
pub(super) fn publish_line(line: &[u8]) -> Result<Box<Publish>, ApiError> {
    publish(&JsonFields::of_line(line, PUBLICATION)?, None)
}

fn publish(fields: &JsonFields<'_>, header: Option<&str>) -> Result<Box<Publish>, ApiError> {
    if fields.has("channels") {
        return Err(ApiError::malformed("channels is a field of /api/broadcast; /api/publish takes channel"));
    }
    let channel = fields.required("channel", fields.text("channel")?)?;
    Ok(publication(fields, header)?.into_publish((*channel).into()))
}

/// The names and values of a query.
pub(super) fn query_pairs(query: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// Reads the body of `POST /api/broadcast`. `header` is the value of `Idempotency-Key`.
pub(super) fn broadcast(body: &[u8], header: Option<&str>) -> Result<(Vec<Arc<str>>, PublicationInput), ApiError> {
    let fields = JsonFields::of_body(body, PUBLICATION)?;
    if fields.has("channel") || fields.has("epoch") {
        return Err(ApiError::malformed("channel and epoch are fields of /api/publish; /api/broadcast takes channels"));
    }
    let channels = fields.required("channels", fields.texts("channels")?)?;
    if !(1..=MAX_CHANNELS).contains(&channels.len()) {
        return Err(ApiError::malformed(format!(
            "channels has {} channels and may have 1 to {MAX_CHANNELS}",
            channels.len()
        )));
    }
    let publication = publication(&fields, header)?;
    Ok((channels.into_iter().map(|channel| (*channel).into()).collect(), publication))
}

fn publication(fields: &JsonFields<'_>, header: Option<&str>) -> Result<PublicationInput, ApiError> {
    // `"data":null` publishes the value `null`.
    let content = match (fields.raw("data"), fields.text("text")?) {
        (Some(data), None) => {
            check(data.get())?;
            Content::Json(data.get().as_bytes().into())
        }
        (None, Some(text)) => {
            let text = trim(&text);
            if text.is_empty() {
                return Err(ApiError::malformed(Text::EmptyText.in_language(Language::En)));
            }
            Content::Text(text.into())
        }
        _ => return Err(ApiError::malformed("exactly one of data and text is needed")),
    };
    let field = fields.text("idempotency_key")?;
    let idempotency_key = match (field.as_deref(), header) {
        (Some(field), Some(header)) if field != header => {
            return Err(ApiError::malformed("the Idempotency-Key header and idempotency_key differ"));
        }
        (field, header) => field.or(header),
    };
    Ok(PublicationInput {
        content,
        key: short("key", fields.text("key")?.as_deref(), 0, MAX_KEY_BYTES)?,
        idempotency_key: short("idempotency_key", idempotency_key, 1, MAX_IDEMPOTENCY_KEY_BYTES)?,
        epoch: short("epoch", fields.text("epoch")?.as_deref(), 0, MAX_EPOCH_BYTES)?,
    })
}

fn short(name: &str, text: Option<&str>, least: usize, most: usize) -> Result<Option<Box<str>>, ApiError> {
    match text {
        Some(text) if !(least..=most).contains(&text.len()) => {
            Err(ApiError::malformed(format!("{name} has {} bytes and may have {least} to {most}", text.len())))
        }
        text => Ok(text.map(Into::into)),
    }
}

/// Reads the body of `POST /api/revoke`. A request without `expires_at` revokes for `kept_ms` from now on. Times are in
/// Unix milliseconds.
pub(crate) fn revocation(body: &[u8], now_ms: u64, kept_ms: u64) -> Result<Revocation, ApiError> {
    let fields = JsonFields::of_body(body, REVOCATION)?;
    let issued_before = fields.whole("issued_before", TIME)?;
    let revoked = match (fields.value("user"), fields.text("token_id")?, issued_before) {
        (None, Some(id), None) if (1..=MAX_TOKEN_ID_BYTES).contains(&id.len()) => Revoked::TokenId((*id).into()),
        (None, Some(_), None) => {
            return Err(ApiError::malformed(format!("token_id must have 1 to {MAX_TOKEN_ID_BYTES} bytes")));
        }
        (Some(user), None, before) => {
            before.map_or(Ok(()), |before_ms| check_cutoff(before_ms, now_ms))?;
            Revoked::User { key: user_key(&user)?, issued_before_ms: before.unwrap_or(now_ms) }
        }
        (None, None, Some(before_ms)) => {
            check_cutoff(before_ms, now_ms)?;
            Revoked::IssuedBefore(before_ms)
        }
        _ => return Err(which_tokens()),
    };
    let until_ms = fields.whole("expires_at", TIME)?.unwrap_or(now_ms.saturating_add(kept_ms));
    if until_ms <= now_ms {
        return Err(ApiError::malformed("expires_at is in the past: such tokens are refused anyway"));
    }
    Ok(Revocation { revoked, until_ms })
}

/// Refuses an `issued_before` in seconds, which would revoke the tokens without `iat` only, and one in microseconds, which
/// would revoke all future tokens.
fn check_cutoff(before_ms: u64, now_ms: u64) -> Result<(), ApiError> {
    if !(CUTOFF_LEAST_MS..=now_ms.saturating_add(CUTOFF_AHEAD_MS)).contains(&before_ms) {
        return Err(ApiError::malformed(format!(
            "issued_before must be in Unix milliseconds: {CUTOFF_LEAST_MS} (in 2001) at least and a day from now at most"
        )));
    }
    Ok(())
}

/// The key of the user that the JSON value `user` names.
fn user_key(user: &serde_json::Value) -> Result<Box<str>, ApiError> {
    let id = user_id_from_json(user).ok_or_else(|| {
        ApiError::malformed(format!("user must be an integer within ±(2^53−1) or a text of 1 to {MAX_ID_BYTES} bytes"))
    })?;
    Ok((&*id.key()).into())
}

/// The error of a request that does not say which tokens it means.
fn which_tokens() -> ApiError {
    ApiError::malformed("exactly one of these is needed: token_id; user; user and issued_before; issued_before")
}

/// Reads the body of `POST /api/unrevoke`, which names tokens as `/api/revoke` does.
pub(crate) fn lifted(body: &[u8]) -> Result<Lifted, ApiError> {
    let fields = JsonFields::of_body(body, REVOCATION)?;
    match (fields.value("user"), fields.text("token_id")?, fields.whole("issued_before", TIME)?) {
        (None, Some(id), None) => Ok(Lifted::TokenId((*id).into())),
        (Some(user), None, issued_before_ms) => Ok(Lifted::User { key: user_key(&user)?, issued_before_ms }),
        (None, None, Some(before_ms)) => Ok(Lifted::IssuedBefore(before_ms)),
        _ => Err(which_tokens()),
    }
}

/// The query of `GET /api/revocations`.
#[derive(Debug)]
pub(crate) struct RevocationsRequest {
    /// The cursor that the page before ended with; `None` asks for the first page.
    pub(crate) cursor: Option<String>,
    /// The most revocations in the page.
    pub(crate) limit: u32,
}

impl RevocationsRequest {
    /// Reads the request from the parameters of a query.
    pub(crate) fn of_query(pairs: &[(String, String)]) -> Result<Self, ApiError> {
        let parameters = QueryFields::new(pairs, &["cursor", "limit"])?;
        Ok(Self { cursor: parameters.text("cursor"), limit: page(parameters.whole("limit", LIMIT)?)? })
    }
}

/// A request for `/api/presence`.
#[derive(Debug)]
pub(crate) struct PresenceRequest {
    /// The channel whose members are asked for.
    pub(crate) channel: String,
    /// The cursor that the page before ended with; `None` asks for the first page.
    pub(crate) cursor: Option<String>,
    /// The most members in the page.
    pub(crate) limit: u32,
}

impl PresenceRequest {
    /// Reads the request from a body.
    pub(crate) fn of_body(body: &[u8]) -> Result<Self, ApiError> {
        let fields = JsonFields::of_body(body, PRESENCE)?;
        Ok(Self {
            channel: fields.required("channel", fields.text("channel")?)?.into_owned(),
            cursor: fields.text("cursor")?.map(Cow::into_owned),
            limit: page(fields.whole("limit", LIMIT)?)?,
        })
    }

    /// Reads the request from the parameters of a query.
    pub(crate) fn of_query(pairs: &[(String, String)]) -> Result<Self, ApiError> {
        let parameters = QueryFields::new(pairs, PRESENCE)?;
        let channel = parameters.text("channel").ok_or_else(|| ApiError::malformed("channel is missing"))?;
        let limit = page(parameters.whole("limit", LIMIT)?)?;
        Ok(Self { channel, cursor: parameters.text("cursor"), limit })
    }
}

impl PresenceRequest {
    /// The ask to the channel's owner.
    ///
    /// # Errors
    /// There is no such channel, or its presence is off.
    pub(super) fn into_ask(self, rules: &ApiRules) -> Result<ApiAsk, ApiError> {
        let Self { channel, cursor, limit } = self;
        let namespace = rules.check_channel(&channel)?;
        if namespace.presence == PresenceMode::Off {
            return Err(ApiError::new(403, "presence is off in this channel's namespace"));
        }
        let cursor = cursor.map(Into::into);
        let ask = match channel == LOBBY {
            true => Ask::Users { cursor, limit },
            false => Ask::Presence { channel: channel.into(), cursor, limit },
        };
        Ok(ApiAsk { ask, escape: namespace.escape })
    }
}

/// A request for `POST /api/history`.
#[derive(Debug)]
pub(crate) struct HistoryRequest {
    /// The channel whose publications are asked for.
    pub(crate) channel: String,
    /// Only publications after this position; `None` asks for all that are kept.
    pub(crate) since: Option<Box<Since>>,
    /// The most publications in the page.
    pub(crate) limit: u32,
    /// Whether the newest publication comes first.
    pub(crate) reverse: bool,
}

impl HistoryRequest {
    /// Reads the request from a body.
    pub(crate) fn of_body(body: &[u8]) -> Result<Self, ApiError> {
        let fields = JsonFields::of_body(body, HISTORY)?;
        let since = fields.object("since", "since.", POSITION)?.map(|since| position(&since)).transpose()?;
        Ok(Self {
            channel: fields.required("channel", fields.text("channel")?)?.into_owned(),
            since: since.map(Box::new),
            limit: page(fields.whole("limit", LIMIT)?)?,
            reverse: fields.flag("reverse")?.unwrap_or(false),
        })
    }
}

impl HistoryRequest {
    /// The ask to the channel's owner.
    ///
    /// # Errors
    /// There is no such channel.
    pub(super) fn into_ask(self, rules: &ApiRules) -> Result<ApiAsk, ApiError> {
        let Self { channel, since, limit, reverse } = self;
        rules.check_channel(&channel)?;
        let ask = Ask::History { channel: channel.into(), since, limit, reverse };
        Ok(ApiAsk { ask, escape: false })
    }
}

fn position(fields: &JsonFields<'_>) -> Result<Since, ApiError> {
    let epoch = fields.required("epoch", fields.text("epoch")?)?;
    let epoch = short("since.epoch", Some(&epoch), 0, MAX_EPOCH_BYTES)?.unwrap_or_default();
    let offset = fields.required("offset", fields.whole("offset", "a whole number from 0 up")?)?;
    Ok(Since { epoch, offset })
}

fn page(limit: Option<u64>) -> Result<u32, ApiError> {
    match limit {
        Some(0) => Err(ApiError::malformed(format!("limit must be {LIMIT}"))),
        Some(limit) => Ok(u32::try_from(limit).unwrap_or(PAGE_MAX).min(PAGE_MAX)),
        None => Ok(PAGE_DEFAULT),
    }
}

/// Refuses what serde_json lets pass in a value that it does not decode, and `JSON.parse` in a browser refuses: half of a
/// surrogate pair. Also bounds the nesting.
fn check(json: &str) -> Result<(), ApiError> {
    // Without an escape there is no half of a pair, and few brackets cannot be nested deep.
    let has_escapes = memchr::memchr(b'\\', json.as_bytes()).is_some();
    if !has_escapes && memchr::memchr2_iter(b'{', b'[', json.as_bytes()).nth(MAX_DEPTH).is_none() {
        return Ok(());
    }
    let (mut depth, mut in_string, mut high) = (0_usize, false, false);
    let mut bytes = json.as_bytes();
    let lone = || ApiError::malformed("data has half of a surrogate pair, which browsers cannot parse");
    while let [byte, rest @ ..] = bytes {
        bytes = rest;
        let was_high = std::mem::take(&mut high);
        if in_string && *byte == b'\\' {
            let [escaped, rest @ ..] = bytes else { break };
            bytes = rest;
            let unit = if *escaped == b'u' { unit(rest) } else { 0 };
            match (was_high, unit) {
                (false, 0xd800..=0xdbff) => high = true,
                (true, 0xdc00..=0xdfff) => {}
                (false, 0xdc00..=0xdfff) | (true, _) => return Err(lone()),
                (false, _) => {}
            }
            // Skips the four digits here: they must not count as what follows the first half of a pair.
            bytes = if *escaped == b'u' { bytes.get(4..).unwrap_or_default() } else { bytes };
            continue;
        }
        if was_high {
            return Err(lone());
        }
        match byte {
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth -= 1,
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(ApiError::malformed(format!("data is nested more than {MAX_DEPTH} deep")));
        }
    }
    Ok(())
}

/// The value of an escape's four hexadecimal digits, which `bytes` begins with: the text is known to be JSON.
fn unit(bytes: &[u8]) -> u32 {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap_or(0);
    bytes.iter().take(4).fold(0, |unit, byte| unit * 16 + digit(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(body: &str, header: Option<&str>) -> Result<Box<Publish>, ApiError> {
        publish(&JsonFields::of_body(body.as_bytes(), PUBLICATION)?, header)
    }

    fn json_of(body: &str) -> Option<String> {
        match published(body, None).ok()?.content {
            Content::Json(json) => Some(String::from_utf8(json.into()).unwrap()),
            Content::Text(_) => None,
        }
    }

    #[test]
    fn data_stays_as_it_was_written() {
        for data in [
            "null",
            "0",
            "-1.50E+400",
            "123456789012345678901234567890",
            r#"{"b": 1,"a" :[ true ],"b":2}"#,
            r#""\u00e9\/\ud83d\ude00 é""#,
            r#""\\ud800 \\\\""#,
            r#"["\"", "[[[["]"#,
            "{\n \"x\":\t1 }",
        ] {
            let body = format!("{{\"channel\":\"a\",\"data\": {data} }}");
            assert_eq!(json_of(&body).as_deref(), Some(data));
        }
    }

    #[test]
    fn what_a_browser_could_not_read_is_refused() {
        for data in [r#""\ud800""#, r#""\udc00""#, r#""\ud800x""#, r#""\ud800\n""#, r#""\ud800\ud800\udc00""#] {
            assert_eq!(json_of(&format!("{{\"channel\":\"a\",\"data\":{data}}}")), None, "{data}");
        }
        let nested =
            |depth: usize| format!("{{\"channel\":\"a\",\"data\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(json_of(&nested(64)).is_some());
        assert!(json_of(&nested(65)).is_none());
        assert!(json_of(&nested(100_000)).is_none());
    }

    #[test]
    fn exactly_one_content() {
        for body in [
            r#"{"channel":"a"}"#,
            r#"{"channel":"a","data":null,"text":"x"}"#,
            r#"{"channel":"a","text":" \u0000 "}"#,
            r#"{"channel":"a","text":5}"#,
            r#"{"data":1}"#,
            r#"{"channel":"a","data":1,"idempotency_key":""}"#,
            r#"{"channel":"a","data":1"#,
            "[]",
            "",
        ] {
            assert!(published(body, None).is_err(), "{body}");
        }
        assert!(published(r#"{"channel":"a","data":1,"idempotency_key":"x"}"#, Some("y")).is_err());
        let both = published(r#"{"channel":"a","text":" 0 ","idempotency_key":"x"}"#, Some("x")).unwrap();
        assert!(matches!(&both.content, Content::Text(text) if **text == *"0"));
        assert_eq!(both.idempotency_key.as_deref(), Some("x"));
        let header = published(r#"{"channel":"a","data":1}"#, Some("y")).unwrap();
        assert_eq!(header.idempotency_key.as_deref(), Some("y"));
    }

    #[test]
    fn pages_are_bounded() {
        assert!(page(Some(0)).is_err());
        assert_eq!(page(None).unwrap(), 100);
        assert_eq!(page(Some(u64::MAX)).unwrap(), 1000);
    }
}
