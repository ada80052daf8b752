//! The sentences for people in each language, and what is done to text that people send: trimming and HTML escaping.
//! Pure functions over strings, called by the dialects and by the hub.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The language of every `message` field (`language` in the configuration).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// The sentences are English.
    #[default]
    En,
    /// The sentences are Chinese, in the words of the tutorial that this server began with.
    Zh,
}

/// Every sentence that a client can show to people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Text {
    /// The greeting when a connection opens.
    Connected,
    /// The sign-in has succeeded.
    Authenticated,
    /// The token of the sign-in is refused.
    TokenInvalid,
    /// A sign-in or a refresh has no token.
    TokenMissing,
    /// A user has come online.
    UserOnline,
    /// A user has gone offline.
    UserOffline,
    /// The user has signed in on another connection.
    SignedInElsewhere,
    /// The request needs a signed-in user.
    AuthFirst,
    /// The connection is signed in already.
    AuthTwice,
    /// Nothing is left of a text after trimming.
    EmptyText,
    /// The message is not JSON, is not an object, or has a field of the wrong type.
    Malformed,
    /// A `type` that the protocol does not have.
    UnknownType,
    /// The channel named is not subscribed.
    NotSubscribed,
    /// The request was not done, and the client may try again.
    Busy,
    /// The encoded push would be over its limit.
    TooLarge,
    /// The request was not answered within its deadline.
    Timeout,
    /// The same user is connected and `duplicate_login = reject_new`.
    AlreadyOnline,
    /// More sign-ins of a user than `kick_old` allows.
    TooManySignIns,
    /// The text is not the name of a channel.
    BadChannel,
    /// The channel's namespace is not configured.
    UnknownNamespace,
    /// The rules of the channel do not allow this to the user.
    Forbidden,
    /// The token of a refresh is another user's.
    OtherUser,
    /// The channel is subscribed already, or about to be.
    AlreadySubscribed,
    /// The connection has as many subscriptions as it may have.
    TooManySubscriptions,
    /// An unsubscribe has cancelled the subscribe.
    Cancelled,
    /// The channel is in another epoch than the client named.
    EpochChanged,
    /// The idempotency key has been used for other content.
    KeyReused,
    /// The connection or the user sends more messages or bytes than allowed.
    TooManyMessages,
    /// The user has as many connections as a user may have.
    TooManyConnections,
    /// The connection or its address has shown too many tokens that were refused.
    TooManyAttempts,
}

impl Text {
    /// The sentence in `language`.
    pub fn in_language(self, language: Language) -> &'static str {
        let (en, zh) = self.both();
        match language {
            Language::En => en,
            Language::Zh => zh,
        }
    }

    fn both(self) -> (&'static str, &'static str) {
        match self {
            Self::Connected => ("connected, please authenticate", "连接成功,请发送认证信息"),
            Self::Authenticated => ("authenticated", "认证成功"),
            Self::TokenInvalid => ("token invalid or expired", "token失效或无效"),
            Self::TokenMissing => ("missing token", "缺少token参数"),
            Self::UserOnline => ("user online", "用户上线"),
            Self::UserOffline => ("user offline", "用户下线"),
            Self::SignedInElsewhere => ("signed in elsewhere", "您的账号在其他地方登录"),
            Self::AuthFirst => ("please authenticate first", "请先进行身份认证"),
            Self::AuthTwice => ("already authenticated", "已经认证,请勿重复认证"),
            Self::EmptyText => ("message text must not be empty", "消息内容不能为空"),
            Self::Malformed => ("malformed message", "消息格式错误"),
            Self::UnknownType => ("unknown message type", "未知消息类型"),
            Self::NotSubscribed => ("not subscribed to this channel", "未订阅该频道"),
            Self::Busy => ("server busy, not done, try again", "服务器繁忙,请稍后重试"),
            Self::TooLarge => ("message too large", "消息过大"),
            Self::Timeout => {
                ("outcome unknown, retry with the same idempotency_key", "结果未知,请使用相同的idempotency_key重试")
            }
            Self::AlreadyOnline => ("already signed in on another connection", "该账号已在其他地方登录"),
            Self::TooManySignIns => ("too many sign-ins", "登录过于频繁"),
            Self::BadChannel => ("not a channel name", "频道名称无效"),
            Self::UnknownNamespace => ("unknown namespace", "未知命名空间"),
            Self::Forbidden => ("not allowed in this channel", "无权在该频道执行此操作"),
            Self::OtherUser => ("the token is another user's", "token属于其他用户"),
            Self::AlreadySubscribed => ("already subscribed", "已订阅该频道"),
            Self::TooManySubscriptions => ("too many subscriptions", "订阅的频道过多"),
            Self::Cancelled => ("cancelled", "已取消"),
            Self::EpochChanged => ("the channel's epoch has changed", "频道的epoch已变更"),
            Self::TooManyMessages => ("too many messages, not done, slow down", "消息发送过于频繁,请稍后再试"),
            Self::TooManyConnections => ("too many connections of this user", "该账号的连接数过多"),
            Self::TooManyAttempts => ("too many failed sign-ins", "认证失败次数过多"),
            Self::KeyReused => ("idempotency_key was used with other content", "该idempotency_key已用于其他内容"),
        }
    }
}

/// Cuts Unicode White_Space and NUL from both ends.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\0')
}

/// Replaces `& < > " '` by their HTML entities, once; borrows when there is nothing to replace.
pub(crate) fn escape_html(text: &str) -> Cow<'_, str> {
    let growth = escape_growth(text);
    if growth == 0 {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + growth);
    for c in text.chars() {
        match entity(c) {
            Some(entity) => out.push_str(entity),
            None => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// How many bytes longer [`escape_html`] makes the text: up to five times its own.
pub(crate) fn escape_growth(text: &str) -> usize {
    let longer = |b: u8| entity(char::from(b)).map_or(0, |entity| entity.len() - 1);
    text.bytes().map(longer).sum()
}

/// What stands for a character that HTML reads as markup.
fn entity(c: char) -> Option<&'static str> {
    match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '"' => Some("&quot;"),
        '\'' => Some("&#039;"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trims_white_space_of_any_script_and_nul() {
        assert_eq!(trim(" \u{3000}\0\t hi \u{a0}\n\0"), "hi");
        assert_eq!(trim(" \u{2003}\0 "), "");
        assert_eq!(trim("0"), "0");
        assert_eq!(trim("\u{200b}x"), "\u{200b}x", "zero width space is not White_Space");
    }

    #[test]
    fn escapes_once_and_only_the_five() {
        assert_eq!(escape_html(r#"<a href="x">&'</a>"#), "&lt;a href=&quot;x&quot;&gt;&amp;&#039;&lt;/a&gt;");
        assert_eq!(escape_html("&amp;"), "&amp;amp;");
        assert!(matches!(escape_html("日本語 ok"), Cow::Borrowed(_)));
        for text in ["", "日本語 ok", "''", r#"<a href="x">&'</a> ä"#] {
            assert_eq!(escape_growth(text), escape_html(text).len() - text.len(), "{text}");
        }
    }
}
