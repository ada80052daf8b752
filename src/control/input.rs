//! What requests to the API carry: JSON or a query in, checked values out. It checks types, sizes and the syntax of
//! channel names; which namespaces there are, and what a channel says to it, is not known here.
//! Data is kept as it was written, once it is sure that a browser can read it. Called by `api`.

use super::fault::Fault;
use super::fields::{Fields, Parameters};
use crate::auth::{Lifted, MAX_ID_BYTES, MAX_TOKEN_ID_BYTES, Revocation, Revoked, UserId};
use crate::dialect::native::decode::{MAX_EPOCH_BYTES, MAX_IDEMPOTENCY_KEY_BYTES, MAX_KEY_BYTES};
use crate::model::parcel::{Content, Publish, Since};
use crate::model::text::{Language, Text, trim};

/// Data nested deeper than this is refused.
const MAX_DEPTH: usize = 64;
/// The earliest `issued_before`: before it there were no JWTs, and a time in seconds is earlier.
const CUTOFF_LEAST_MS: u64 = 1_000_000_000_000;
/// How far ahead `issued_before` may be: for issuers whose clocks are ahead.
const CUTOFF_AHEAD_MS: u64 = 86_400_000;
/// Channels in one broadcast.
pub const MAX_CHANNELS: usize = 1000;
/// Most members or publications in a page, and how many come if no limit is named.
const PAGE_MAX: u32 = 1000;
const PAGE_DEFAULT: u32 = 100;

/// What `publish` and `broadcast` know; a field of the other one is refused and not ignored.
const PUBLICATION: &[&str] = &["data", "text", "key", "idempotency_key", "epoch", "channel", "channels"];
const REVOCATION: &[&str] = &["user", "token_id", "issued_before", "expires_at"];
const PRESENCE: &[&str] = &["channel", "cursor", "limit"];
const HISTORY: &[&str] = &["channel", "since", "limit", "reverse"];
const POSITION: &[&str] = &["epoch", "offset"];

const LIMIT: &str = "a whole number from 1 up";
const TIME: &str = "a time in Unix milliseconds, a whole number from 0 up";

/// One publication, for any number of channels.
#[derive(Debug)]
pub struct Publication {
    content: Content,
    key: Option<Box<str>>,
    idempotency_key: Option<Box<str>>,
    epoch: Option<Box<str>>,
}

impl Publication {
    /// The publication on its way to one channel.
    pub fn to(&self, channel: &str) -> Box<Publish> {
        let content = match &self.content {
            Content::Text(text) => Content::Text(text.clone()),
            Content::Json(json) => Content::Json(json.clone()),
        };
        Box::new(Publish {
            channel: channel.into(),
            sender: None,
            content,
            key: self.key.clone(),
            idempotency_key: self.idempotency_key.clone(),
            epoch: self.epoch.clone(),
        })
    }
}

/// `POST /api/publish`. `header` is the `Idempotency-Key`.
pub fn publish(body: &[u8], header: Option<&str>) -> Result<(String, Publication), Fault> {
    let fields = Fields::of_body(body, PUBLICATION)?;
    if fields.has("channels") {
        return Err(Fault::malformed("channels is for /api/broadcast"));
    }
    let channel = fields.required("channel", fields.text("channel")?)?;
    Ok((channel, publication(&fields, header)?))
}

/// `POST /api/broadcast`.
pub fn broadcast(body: &[u8], header: Option<&str>) -> Result<(Vec<String>, Publication), Fault> {
    let fields = Fields::of_body(body, PUBLICATION)?;
    if fields.has("channel") || fields.has("epoch") {
        return Err(Fault::malformed("channel and epoch are for /api/publish"));
    }
    let channels = fields.required("channels", fields.texts("channels")?)?;
    if !(1..=MAX_CHANNELS).contains(&channels.len()) {
        return Err(Fault::malformed(format!("channels has {}, and may have 1 to {MAX_CHANNELS}", channels.len())));
    }
    Ok((channels, publication(&fields, header)?))
}

fn publication(fields: &Fields<'_>, header: Option<&str>) -> Result<Publication, Fault> {
    // `null` is data like any other.
    let content = match (fields.raw("data"), fields.text("text")?) {
        (Some(data), None) => {
            check(data.get())?;
            Content::Json(data.get().as_bytes().into())
        }
        (None, Some(text)) => {
            let text = trim(&text);
            if text.is_empty() {
                return Err(Fault::malformed(Text::EmptyText.in_language(Language::En)));
            }
            Content::Text(text.into())
        }
        _ => return Err(Fault::malformed("exactly one of data and text is needed")),
    };
    let field = fields.text("idempotency_key")?;
    let idempotency_key = match (field.as_deref(), header) {
        (Some(field), Some(header)) if field != header => {
            return Err(Fault::malformed("the Idempotency-Key header and idempotency_key differ"));
        }
        (field, header) => field.or(header),
    };
    Ok(Publication {
        content,
        key: short("key", fields.text("key")?.as_deref(), 0, MAX_KEY_BYTES)?,
        idempotency_key: short("idempotency_key", idempotency_key, 1, MAX_IDEMPOTENCY_KEY_BYTES)?,
        epoch: short("epoch", fields.text("epoch")?.as_deref(), 0, MAX_EPOCH_BYTES)?,
    })
}

fn short(name: &str, text: Option<&str>, least: usize, most: usize) -> Result<Option<Box<str>>, Fault> {
    match text {
        Some(text) if !(least..=most).contains(&text.len()) => {
            Err(Fault::malformed(format!("{name} has {} bytes, and may have {least} to {most}", text.len())))
        }
        text => Ok(text.map(Into::into)),
    }
}

/// `POST /api/revoke`: what is revoked, for `kept_ms` from now on unless the request says until when. Times are in
/// Unix milliseconds.
pub fn revocation(body: &[u8], now_ms: u64, kept_ms: u64) -> Result<Revocation, Fault> {
    let fields = Fields::of_body(body, REVOCATION)?;
    let issued_before = fields.whole("issued_before", TIME)?;
    let revoked = match (fields.value("user"), fields.text("token_id")?, issued_before) {
        (None, Some(id), None) if (1..=MAX_TOKEN_ID_BYTES).contains(&id.len()) => Revoked::TokenId(id.into()),
        (None, Some(_), None) => {
            return Err(Fault::malformed(format!("token_id must have 1 to {MAX_TOKEN_ID_BYTES} bytes")));
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
        return Err(Fault::malformed("expires_at has passed: such tokens are refused anyway"));
    }
    Ok(Revocation { revoked, until_ms })
}

/// A time in seconds, or in microseconds, would revoke what nobody meant: the tokens without `iat`, or all of the future.
fn check_cutoff(before_ms: u64, now_ms: u64) -> Result<(), Fault> {
    if !(CUTOFF_LEAST_MS..=now_ms.saturating_add(CUTOFF_AHEAD_MS)).contains(&before_ms) {
        return Err(Fault::malformed(format!(
            "issued_before is in Unix milliseconds: {CUTOFF_LEAST_MS} (in 2001) at least and a day from now at most"
        )));
    }
    Ok(())
}

/// A user's key.
fn user_key(user: &serde_json::Value) -> Result<Box<str>, Fault> {
    let id = UserId::from_json(user).ok_or_else(|| {
        Fault::malformed(format!("user must be an integer within ±(2^53−1) or a text of 1 to {MAX_ID_BYTES} bytes"))
    })?;
    Ok((&*id.key()).into())
}

/// A request that doesn't say which tokens it is about.
fn which_tokens() -> Fault {
    Fault::malformed("one of these is needed: token_id; user; user and issued_before; issued_before")
}

/// `POST /api/unrevoke`: the fields of `/api/revoke` that say which tokens.
pub fn lifted(body: &[u8]) -> Result<Lifted, Fault> {
    let fields = Fields::of_body(body, REVOCATION)?;
    match (fields.value("user"), fields.text("token_id")?, fields.whole("issued_before", TIME)?) {
        (None, Some(id), None) => Ok(Lifted::TokenId(id.into())),
        (Some(user), None, issued_before_ms) => Ok(Lifted::User { key: user_key(&user)?, issued_before_ms }),
        (None, None, Some(before_ms)) => Ok(Lifted::IssuedBefore(before_ms)),
        _ => Err(which_tokens()),
    }
}

/// `GET /api/revocations`: a query that was taken apart.
#[derive(Debug)]
pub struct RevocationsPage {
    /// Where the page before ended.
    pub cursor: Option<String>,
    /// Most revocations in the page.
    pub limit: u32,
}

impl RevocationsPage {
    /// By a query that was taken apart.
    pub fn of_query(pairs: &[(String, String)]) -> Result<Self, Fault> {
        let parameters = Parameters::new(pairs, &["cursor", "limit"])?;
        Ok(Self { cursor: parameters.text("cursor"), limit: page(parameters.whole("limit", LIMIT)?)? })
    }
}

/// `/api/presence`.
#[derive(Debug)]
pub struct Presence {
    /// Whose members.
    pub channel: String,
    /// Where the page before ended.
    pub cursor: Option<String>,
    /// Most members in the page.
    pub limit: u32,
}

impl Presence {
    /// By a body.
    pub fn of_body(body: &[u8]) -> Result<Self, Fault> {
        let fields = Fields::of_body(body, PRESENCE)?;
        Ok(Self {
            channel: fields.required("channel", fields.text("channel")?)?,
            cursor: fields.text("cursor")?,
            limit: page(fields.whole("limit", LIMIT)?)?,
        })
    }

    /// By a query that was taken apart.
    pub fn of_query(pairs: &[(String, String)]) -> Result<Self, Fault> {
        let parameters = Parameters::new(pairs, PRESENCE)?;
        let channel = parameters.text("channel").ok_or_else(|| Fault::malformed("channel is missing"))?;
        let limit = page(parameters.whole("limit", LIMIT)?)?;
        Ok(Self { channel, cursor: parameters.text("cursor"), limit })
    }
}

/// `POST /api/history`.
#[derive(Debug)]
pub struct History {
    /// Whose publications.
    pub channel: String,
    /// Only those after it.
    pub since: Option<Box<Since>>,
    /// Most publications in the page.
    pub limit: u32,
    /// Newest first.
    pub reverse: bool,
}

impl History {
    /// By a body.
    pub fn of_body(body: &[u8]) -> Result<Self, Fault> {
        let fields = Fields::of_body(body, HISTORY)?;
        let since = fields.object("since", "since.", POSITION)?.map(|since| position(&since)).transpose()?;
        Ok(Self {
            channel: fields.required("channel", fields.text("channel")?)?,
            since: since.map(Box::new),
            limit: page(fields.whole("limit", LIMIT)?)?,
            reverse: fields.flag("reverse")?.unwrap_or(false),
        })
    }
}

fn position(fields: &Fields<'_>) -> Result<Since, Fault> {
    let epoch = fields.required("epoch", fields.text("epoch")?)?;
    let epoch = short("since.epoch", Some(&epoch), 0, MAX_EPOCH_BYTES)?.unwrap_or_default();
    let offset = fields.required("offset", fields.whole("offset", "a whole number from 0 up")?)?;
    Ok(Since { epoch, offset })
}

fn page(limit: Option<u64>) -> Result<u32, Fault> {
    match limit {
        Some(0) => Err(Fault::malformed(format!("limit must be {LIMIT}"))),
        Some(limit) => Ok(u32::try_from(limit).unwrap_or(PAGE_MAX).min(PAGE_MAX)),
        None => Ok(PAGE_DEFAULT),
    }
}

/// What serde_json lets pass in a value that it doesn't decode, and browsers would stumble over.
fn check(json: &str) -> Result<(), Fault> {
    let (mut depth, mut in_string, mut high) = (0_usize, false, false);
    let mut bytes = json.as_bytes();
    let lone = || Fault::malformed("data has half of a surrogate pair");
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
            // The digits have no quote or backslash among them: they are passed over one by one, but not as what
            // follows the first half of a pair.
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
            return Err(Fault::malformed(format!("data is nested more than {MAX_DEPTH} deep")));
        }
    }
    Ok(())
}

/// The four digits of an escape: it has them, or the text would be no JSON.
fn unit(bytes: &[u8]) -> u32 {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap_or(0);
    bytes.iter().take(4).fold(0, |unit, byte| unit * 16 + digit(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json_of(body: &str) -> Option<String> {
        let (_, publication) = publish(body.as_bytes(), None).ok()?;
        match publication.content {
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
            assert!(publish(body.as_bytes(), None).is_err(), "{body}");
        }
        assert!(publish(br#"{"channel":"a","data":1,"idempotency_key":"x"}"#, Some("y")).is_err());
        let (_, both) = publish(br#"{"channel":"a","text":" 0 ","idempotency_key":"x"}"#, Some("x")).unwrap();
        assert!(matches!(&both.content, Content::Text(text) if **text == *"0"));
        assert_eq!(both.idempotency_key.as_deref(), Some("x"));
        let (_, header) = publish(br#"{"channel":"a","data":1}"#, Some("y")).unwrap();
        assert_eq!(header.idempotency_key.as_deref(), Some("y"));
    }

    #[test]
    fn pages_are_bounded() {
        assert!(page(Some(0)).is_err());
        assert_eq!(page(None).unwrap(), 100);
        assert_eq!(page(Some(u64::MAX)).unwrap(), 1000);
    }
}
