//! Tokens to sign in to uringcast with: given, made here with the server's secret, or fetched from a
//! server in dev mode before the run.
//!
//! Knows nothing of connections. Called by `protocol` when one signs in.

use std::borrow::Cow;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde::{Deserialize, Serialize};

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
        // The first signature of a process takes some milliseconds longer, which would count as the first sign-in's.
        let first = tokens.mint(0)?;
        Ok(if same { Self::Given(first) } else { tokens })
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

    /// The token of connection `user`.
    pub fn token(&self, user: usize) -> Result<Cow<'_, str>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minted_tokens_differ_by_user() {
        let secret = b"0123456789abcdef0123456789abcdef";
        let tokens = Tokens::minted(secret, false).unwrap();
        assert_ne!(tokens.token(0).unwrap(), tokens.token(1).unwrap());
        let same = Tokens::minted(secret, true).unwrap();
        assert_eq!(same.token(0).unwrap(), same.token(1).unwrap());
    }
}
