//! A signed-in user as the shards pass it around: the key by which two tokens are the same user, and the JSON
//! by which it is shown, encoded once at sign-in. Made by `session` from a verified token; shared by `Arc`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::auth::{Identity, UserId};
use crate::model::text::escape_html;

/// What a second sign-in of a user does (`auth.duplicate_login`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DuplicateLogin {
    /// The newcomer takes over, the older connection is kicked.
    #[default]
    KickOld,
    /// The newcomer is refused.
    RejectNew,
    /// Both stay.
    Allow,
}

/// A user: immutable, so that shards may share it.
#[derive(Debug)]
pub struct User {
    key: Arc<str>,
    escaped: Box<RawValue>,
    /// If it differs.
    plain: Option<Box<RawValue>>,
}

impl User {
    /// Takes what a token says.
    pub fn new(identity: &Identity) -> Self {
        #[derive(Serialize)]
        struct Shown<'a> {
            id: &'a UserId,
            username: &'a str,
        }
        let shown = |username| {
            serde_json::value::to_raw_value(&Shown { id: &identity.id, username })
                .expect("an id and a string are always JSON")
        };
        let escaped = escape_html(&identity.name);
        let plain = (*escaped != identity.name).then(|| shown(&identity.name));
        Self { key: Arc::from(&*identity.id.key()), escaped: shown(&escaped), plain }
    }

    /// The same for 1 and "1": who this is, whatever the token's type of id.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// `{"id":…,"username":"…"}`, ready to be put into a message; the name HTML-escaped or as it is.
    pub fn json(&self, escape: bool) -> &RawValue {
        match &self.plain {
            Some(plain) if !escape => plain,
            _ => &self.escaped,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::auth::GrantedChannels;

    /// A user whose id and name are `id`: for the tests of whoever holds users.
    pub(crate) fn user(id: &str) -> Arc<User> {
        let (name, channels) = (id.to_owned(), GrantedChannels::default());
        let id = UserId::text(id).expect("an id");
        let (expires_at_ms, issued_at_ms, token_id) = (None, None, None);
        Arc::new(User::new(&Identity { id, name, expires_at_ms, issued_at_ms, token_id, channels }))
    }

    #[test]
    fn a_name_is_shown_as_the_namespace_asks() {
        assert_eq!(user("<b>").json(true).get(), r#"{"id":"<b>","username":"&lt;b&gt;"}"#);
        assert_eq!(user("<b>").json(false).get(), r#"{"id":"<b>","username":"<b>"}"#);
        assert_eq!(user("ann").json(true).get(), user("ann").json(false).get());
    }
}
