//! A signed-in user as the shards pass it around: the key by which two tokens are the same user, and the JSON
//! by which it is shown, encoded once at sign-in. Made by `session` from a verified token; shared by `Arc`.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::auth::{Identity, UserId};
use crate::proto::text::escape_html;

/// A user: immutable, so that shards may share it.
#[derive(Debug)]
pub struct User {
    key: Arc<str>,
    json: Box<RawValue>,
}

impl User {
    /// Takes what a token says. `escape`: the name is HTML-escaped wherever it is shown.
    pub fn new(identity: &Identity, escape: bool) -> Self {
        #[derive(Serialize)]
        struct Shown<'a> {
            id: &'a UserId,
            username: &'a str,
        }
        let escaped = escape_html(&identity.name);
        let username = if escape { &*escaped } else { &identity.name };
        let json = serde_json::value::to_raw_value(&Shown { id: &identity.id, username })
            .expect("an id and a string are always JSON");
        Self { key: Arc::from(&*identity.id.key()), json }
    }

    /// The same for 1 and "1": who this is, whatever the token's type of id.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// `{"id":…,"username":"…"}`, ready to be put into a message.
    pub fn json(&self) -> &RawValue {
        &self.json
    }
}
