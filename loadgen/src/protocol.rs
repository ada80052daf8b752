//! What is said over a connection: uringcast's own protocol, or nothing at all (an echo endpoint).
//!
//! The one place that knows message shapes; other servers' protocols become further dialects here.
//! Pure but for fetching tokens at the start. Called by `engine` (signing in) and `fanout` (publishing).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde::{Deserialize, Serialize};

use crate::client::Outgoing;
use crate::frame::Opcode;
use crate::random::Random;
use crate::target::Target;

/// How long minted tokens live, in seconds.
const TOKEN_LIFE: u64 = 24 * 3600;

/// Where tokens come from.
pub enum Tokens {
    /// One, given.
    Given(String),
    /// Fetched from the server before the run; one for all or one for each connection.
    Fetched(Vec<String>),
    /// Made here, for a user each.
    Minted(Box<EncodingKey>),
}

#[derive(Serialize)]
struct Claims<'a> {
    user_id: u64,
    username: &'a str,
    exp: u64,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: String,
}

impl Tokens {
    /// Tokens signed with `secret` (HS256): one for all connections if `same`.
    pub fn minted(secret: &[u8], same: bool) -> Result<Self> {
        let tokens = Self::Minted(Box::new(EncodingKey::from_secret(secret)));
        if same {
            return Ok(Self::Given(tokens.mint(0)?));
        }
        Ok(tokens)
    }

    /// Tokens that the server's dev mode gives away.
    pub fn fetched(target: &Target, count: usize, timeout: Duration) -> Result<Self> {
        let mut tokens = Vec::with_capacity(count);
        for user in 0..count {
            tokens.push(
                fetch(target, &format!("load-{user}"), timeout).context(
                    "no token from the server's /token; is it in dev mode? Otherwise give --secret or --token",
                )?,
            );
        }
        Ok(Self::Fetched(tokens))
    }

    fn mint(&self, user: usize) -> Result<String> {
        let Self::Minted(key) = self else {
            bail!("no key to make tokens with");
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let claims =
            Claims { user_id: 1_000_000 + user as u64, username: &format!("load-{user}"), exp: now + TOKEN_LIFE };
        Ok(encode(&Header::default(), &claims, key)?)
    }

    fn token(&self, user: usize) -> Result<std::borrow::Cow<'_, str>> {
        Ok(match self {
            Self::Given(token) => token.as_str().into(),
            Self::Fetched(tokens) => tokens[user % tokens.len()].as_str().into(),
            Self::Minted(_) => self.mint(user)?.into(),
        })
    }
}

fn fetch(target: &Target, name: &str, timeout: Duration) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&target.address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    let request = format!("GET /token?name={name} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", target.host);
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(64 << 10).read_to_string(&mut answer)?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("the answer is no HTTP");
    };
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("{status}");
    }
    // Chunked or not, the object is what stands between the outer braces.
    let object = body.find('{').zip(body.rfind('}'));
    let (start, end) = object.context("the answer is no JSON object")?;
    let answer: TokenAnswer = serde_json::from_str(&body[start..=end])?;
    Ok(answer.token)
}

/// What a connection speaks.
pub enum Dialect {
    /// Nothing before the payload: an echo endpoint.
    Raw,
    /// uringcast's protocol; without tokens a connection stops at the welcome.
    Uringcast(Option<Tokens>),
}

/// How far a connection is with signing in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignIn {
    /// Waits for `system`.
    Welcome,
    /// Waits for `auth_success`.
    Answer,
    /// Done.
    Done,
}

impl SignIn {
    /// What it waits for, for people.
    pub fn waits_for(self) -> &'static str {
        match self {
            Self::Welcome => "system message",
            Self::Answer => "answer to auth",
            Self::Done => "message",
        }
    }
}

impl Dialect {
    /// Where a connection stands after the upgrade.
    pub fn first(&self) -> SignIn {
        match self {
            Self::Raw => SignIn::Done,
            Self::Uringcast(_) => SignIn::Welcome,
        }
    }

    /// Takes a message that came before the sign-in was done.
    pub fn step(
        &self,
        state: SignIn,
        user: usize,
        payload: &[u8],
        out: &mut Outgoing,
        random: &mut Random,
    ) -> Result<SignIn, String> {
        let Self::Uringcast(tokens) = self else {
            return Ok(SignIn::Done);
        };
        let told = || String::from_utf8_lossy(&payload[..payload.len().min(200)]).into_owned();
        match (state, kind(payload)) {
            (SignIn::Welcome, b"system") => {
                let Some(tokens) = tokens else {
                    return Ok(SignIn::Done);
                };
                let token = tokens.token(user).map_err(|error| error.to_string())?;
                // A JWT is base64url and dots; --token may hold anything.
                let token = serde_json::to_string(&token).map_err(|error| error.to_string())?;
                let auth = format!(r#"{{"type":"auth","data":{{"token":{token}}}}}"#);
                out.frame(Opcode::Text, auth.as_bytes(), random.key());
                Ok(SignIn::Answer)
            }
            (SignIn::Answer, b"auth_success") => Ok(SignIn::Done),
            (_, b"auth_failed" | b"error" | b"kicked") => Err(told()),
            _ => Ok(state),
        }
    }
}

/// Appends a publication to the lobby; `text` appends its text, which needs no escapes.
pub fn publication(scratch: &mut Vec<u8>, text: impl FnOnce(&mut Vec<u8>)) {
    scratch.clear();
    scratch.extend_from_slice(br#"{"type":"message","data":{"text":""#);
    text(scratch);
    scratch.extend_from_slice(br#""}}"#);
}

/// A message's `type`, empty if it can't be told.
pub fn kind(payload: &[u8]) -> &[u8] {
    const START: &[u8] = br#"{"type":""#;
    if let Some(rest) = payload.strip_prefix(START) {
        let end = memchr::memchr(b'"', rest).unwrap_or(0);
        return &rest[..end];
    }
    // Other servers may put it elsewhere or use spaces.
    let Some(at) = memchr::memmem::find(payload, b"\"type\"") else {
        return b"";
    };
    let rest = payload[at + 6..].trim_ascii_start();
    let rest = rest.strip_prefix(b":").unwrap_or_default();
    let rest = rest.trim_ascii_start();
    let rest = rest.strip_prefix(b"\"").unwrap_or_default();
    &rest[..memchr::memchr(b'"', rest).unwrap_or(0)]
}

/// Reads the lobby's `offset` field out of pushes, trying first where it was last.
#[derive(Default)]
pub struct Offsets {
    place: usize,
}

impl Offsets {
    /// The offset that `head` carries.
    #[inline]
    pub fn find(&mut self, head: &[u8]) -> Option<u64> {
        const FIELD: &[u8] = b"\"offset\":";
        let here = head.get(self.place..);
        let rest = match here.and_then(|rest| rest.strip_prefix(FIELD)) {
            Some(rest) => rest,
            None => {
                self.place = memchr::memmem::find(head, FIELD)?;
                &head[self.place + FIELD.len()..]
            }
        };
        let mut offset = 0u64;
        for digit in rest.iter().take_while(|byte| byte.is_ascii_digit()) {
            offset = offset.wrapping_mul(10) + u64::from(digit - b'0');
        }
        Some(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read() {
        assert_eq!(kind(br#"{"type":"system","code":200}"#), b"system");
        assert_eq!(kind(br#"{ "code":200, "type" : "message" }"#), b"message");
        for odd in [&b""[..], b"{}", b"\"type\"", b"{\"type\":\"x"] {
            assert_eq!(kind(odd), b"");
        }
    }

    #[test]
    fn signing_in_follows_the_protocol() {
        let dialect = Dialect::Uringcast(Some(Tokens::Given("a.b.c".into())));
        let (mut out, mut random) = (Outgoing::default(), Random::new(1));
        let mut step = |state, text: &str| dialect.step(state, 0, text.as_bytes(), &mut out, &mut random);
        assert_eq!(dialect.first(), SignIn::Welcome);
        assert_eq!(step(SignIn::Welcome, r#"{"type":"system"}"#), Ok(SignIn::Answer));
        assert_eq!(step(SignIn::Answer, r#"{"type":"user_online"}"#), Ok(SignIn::Answer));
        assert_eq!(step(SignIn::Answer, r#"{"type":"auth_success"}"#), Ok(SignIn::Done));
        assert!(step(SignIn::Answer, r#"{"type":"auth_failed"}"#).is_err());
        assert!(!out.is_empty());
        let no_auth = Dialect::Uringcast(None);
        let done = no_auth.step(SignIn::Welcome, 0, br#"{"type":"system"}"#, &mut out, &mut random);
        assert_eq!(done, Ok(SignIn::Done));
    }

    #[test]
    fn offsets_are_found_where_they_move() {
        let mut offsets = Offsets::default();
        for (head, expected) in [
            (r#"{"id":"a","offset":9,"text":""#, Some(9)),
            (r#"{"id":"a","offset":10,"text":""#, Some(10)),
            (r#"{"id":"bcd","offset":4294967296,""#, Some(4_294_967_296)),
            (r#"{"id":"bcd"}"#, None),
        ] {
            assert_eq!(offsets.find(head.as_bytes()), expected);
        }
    }

    #[test]
    fn minted_tokens_differ_by_user() {
        let secret = b"0123456789abcdef0123456789abcdef";
        let tokens = Tokens::minted(secret, false).unwrap();
        assert_ne!(tokens.token(0).unwrap(), tokens.token(1).unwrap());
        let same = Tokens::minted(secret, true).unwrap();
        assert_eq!(same.token(0).unwrap(), same.token(1).unwrap());
    }
}
