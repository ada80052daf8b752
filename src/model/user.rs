//! Who a user is, without a format: the id that a token names, the key by which two tokens are the same user, and the
//! name that is shown. `session` makes a [`User`] at the sign-in; shards share it by `Arc`.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use crate::model::text::escape_growth;

/// The longest user id that is a text, in bytes.
pub const MAX_ID_BYTES: usize = 128;
/// Integers beyond this don't survive a JavaScript client.
pub(crate) const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// What a second sign-in of a user does (`auth.duplicate_login`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DuplicateLogin {
    /// The new connection takes over, and the old one is closed.
    #[default]
    KickOld,
    /// The new connection is refused.
    RejectNew,
    /// Both connections stay open.
    Allow,
}

/// A user's id. The number 1 and the text "1" name the same user and are equal. Clients see the type that the user's
/// present token has.
#[derive(Clone, Debug)]
pub enum UserId {
    /// A number within ±(2^53−1).
    Int(i64),
    /// A text of 1 to [`MAX_ID_BYTES`] bytes.
    Text(Box<str>),
}

impl UserId {
    /// A number as an id, if it is within bounds.
    pub fn int(number: i64) -> Option<UserId> {
        (number.unsigned_abs() <= MAX_SAFE_INTEGER).then_some(UserId::Int(number))
    }

    /// A text as an id, if it is within bounds.
    pub fn text(text: &str) -> Option<UserId> {
        (1..=MAX_ID_BYTES).contains(&text.len()).then(|| UserId::Text(text.into()))
    }

    /// What tells users apart, and finds them in a table.
    pub(crate) fn key(&self) -> Cow<'_, str> {
        match self {
            UserId::Int(number) => Cow::Owned(number.to_string()),
            UserId::Text(text) => Cow::Borrowed(text),
        }
    }
}

impl PartialEq for UserId {
    fn eq(&self, other: &UserId) -> bool {
        match (self, other) {
            (UserId::Int(a), UserId::Int(b)) => a == b,
            _ => self.key() == other.key(),
        }
    }
}

impl Eq for UserId {}

impl Hash for UserId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UserId::Int(number) => write!(f, "{number}"),
            UserId::Text(text) => f.write_str(text),
        }
    }
}

impl Serialize for UserId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            UserId::Int(number) => serializer.serialize_i64(*number),
            UserId::Text(text) => serializer.serialize_str(text),
        }
    }
}

/// A user. Immutable, so that shards may share it.
#[derive(Debug)]
pub struct User {
    key: Arc<str>,
    /// The name that is shown, not escaped.
    name: Box<str>,
    /// The token's id is a number; the key is its digits.
    is_number: bool,
}

impl User {
    /// The user with this id, under this name.
    pub fn new(id: &UserId, name: &str) -> Self {
        Self { key: Arc::from(&*id.key()), name: name.into(), is_number: matches!(id, UserId::Int(_)) }
    }

    /// The key by which the user is known: the same for the ids 1 and "1".
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// Whether the id is shown as a number. The key is its digits then.
    pub(crate) fn has_number(&self) -> bool {
        self.is_number
    }

    /// The name that is shown, not escaped.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// About how many bytes the user takes in a message.
    pub(crate) fn shown_bytes(&self) -> usize {
        self.key.len() + self.name.len() + escape_growth(&self.name) + 26
    }

    /// The bytes of memory that the user holds.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>() + 4 * size_of::<usize>() + self.key.len() + self.name.len()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A user whose id and name are `id`: for the tests of modules that hold users.
    pub(crate) fn user(id: &str) -> Arc<User> {
        Arc::new(User::new(&UserId::text(id).expect("an id"), id))
    }

    #[test]
    fn a_number_and_its_digits_are_one_user() {
        let (number, text) = (UserId::int(1).expect("an id"), UserId::text("1").expect("an id"));
        assert_eq!(number, text);
        let users = [User::new(&number, "Ann"), User::new(&text, "Ann")];
        assert_eq!(users[0].key(), users[1].key());
        assert_eq!(users.map(|user| user.has_number()), [true, false]);
    }
}
