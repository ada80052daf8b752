//! The addresses to listen on, as values of the configuration: an IP address and a port, or the path of a unix socket. A
//! setting takes one of them or a list. Also the permissions of a unix socket's file.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::DeValue;

use super::setting::{Setting, SettingError, ShownValue, show_plain};

/// What precedes the path of a unix socket in the configuration.
const UNIX: &str = "unix:";
/// The longest path of a unix socket that the kernel accepts (unix(7), `sun_path`), in bytes.
const PATH_MAX: usize = 107;

/// One address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ListenAddr {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl ListenAddr {
    /// Whether only processes of this machine can connect to it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(addr) => addr.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// The IP address and port; `None` for a unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(addr) => Some(*addr),
            Self::Unix(_) => None,
        }
    }

    /// The URL of `path` on this address. For a unix socket it is written as Node's `ws` package takes it.
    pub fn url(&self, scheme: &str, path: &str) -> String {
        match self {
            Self::Tcp(addr) => format!("{scheme}://{addr}{path}"),
            Self::Unix(socket) => format!("{scheme}+unix:{}:{path}", socket.display()),
        }
    }
}

impl From<SocketAddr> for ListenAddr {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr)
    }
}

impl FromStr for ListenAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let Some(path) = text.strip_prefix(UNIX) else {
            let addr = text.parse().map(Self::Tcp);
            return addr.map_err(|_| format!("must be {}, and {text:?} is not", Listeners::WANTED));
        };
        if !Path::new(path).is_absolute() || path.ends_with('/') {
            return Err(format!(
                "{text:?} is no unix socket: write unix: and an absolute path, as unix:/run/push.sock"
            ));
        }
        if path.len() > PATH_MAX || path.contains('\0') {
            return Err(format!("the path of a unix socket has at most {PATH_MAX} bytes, and no NUL: {text:?}"));
        }
        Ok(Self::Unix(path.into()))
    }
}

impl TryFrom<String> for ListenAddr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ListenAddr> for String {
    fn from(addr: ListenAddr) -> Self {
        addr.to_string()
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// The addresses of one setting. If there is none, the listener is switched off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listeners(pub Vec<ListenAddr>);

impl Listeners {
    /// A list of one IP address and port.
    pub(crate) fn at(addr: impl Into<SocketAddr>) -> Self {
        Self(vec![ListenAddr::Tcp(addr.into())])
    }

    fn of_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        words.into_iter().map(str::parse).collect::<Result<Vec<_>, _>>().map(Self)
    }
}

impl fmt::Display for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&words.join(", "))
    }
}

impl<'de> Deserialize<'de> for Listeners {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self)
    }
}

impl Setting for Listeners {
    const WANTED: &'static str = "an address and a port such as 127.0.0.1:2345 or [::]:2345, a unix socket such as unix:/run/push.sock, or a \
         list of these";

    fn from_toml(value: Spanned<DeValue<'_>>) -> Result<Self, SettingError> {
        let at = value.span().start;
        let invalid = |problem| SettingError::Invalid { problem, at: Some(at) };
        let wrong = || invalid(format!("must be {}", Self::WANTED));
        match value.get_ref() {
            DeValue::String(text) if text.trim().is_empty() => Ok(Self(Vec::new())),
            DeValue::String(text) => Self::of_words([text.as_ref()]).map_err(invalid),
            DeValue::Array(list) => {
                let words = list.iter().map(|word| word.get_ref().as_str().ok_or_else(wrong));
                Self::of_words(words.collect::<Result<Vec<_>, _>>()?).map_err(invalid)
            }
            _ => Err(wrong()),
        }
    }

    fn from_text(text: &str) -> Result<Self, SettingError> {
        let text = text.trim();
        if text.starts_with("[\"") {
            let words: Vec<String> =
                serde_json::from_str(text).map_err(|_| SettingError::invalid(format!("must be {}", Self::WANTED)))?;
            return Self::of_words(words.iter().map(String::as_str)).map_err(SettingError::invalid);
        }
        Self::of_words(text.split(',').filter(|word| !word.trim().is_empty())).map_err(SettingError::invalid)
    }

    fn show(&self) -> ShownValue {
        match &self.0[..] {
            [] => show_plain(&""),
            [one] => show_plain(one),
            several => show_plain(&several),
        }
    }
}

/// The permissions of a file, in octal as chmod(1) takes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileMode(pub u32);

impl TryFrom<String> for FileMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
        mode.map(Self).ok_or_else(|| format!("{text:?} is not a mode in octal"))
    }
}

impl From<FileMode> for String {
    fn from(mode: FileMode) -> Self {
        format!("{:04o}", mode.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listeners(text: &str) -> Listeners {
        Listeners::from_text(text).unwrap_or_else(|fault| panic!("{text}: {fault:?}"))
    }

    #[test]
    fn one_place_or_several_are_read_and_shown() {
        for (text, shown) in [
            ("127.0.0.1:2345", "\"127.0.0.1:2345\""),
            ("[::1]:0", "\"[::1]:0\""),
            ("unix:/run/push.sock", "\"unix:/run/push.sock\""),
            ("127.0.0.1:1, unix:/a b", "[\"127.0.0.1:1\", \"unix:/a b\"]"),
            ("[\"unix:/a,b\", \"[::]:1\"]", "[\"unix:/a,b\", \"[::]:1\"]"),
            ("", "\"\""),
        ] {
            let read = listeners(text);
            let ShownValue::Plain(toml) = read.show() else { panic!("{read:?}") };
            assert_eq!(toml, shown);
            let document = format!("x = {toml}");
            let mut table = toml::de::DeTable::parse(&document).unwrap().into_inner();
            assert_eq!(Listeners::from_toml(table.remove("x").unwrap()).unwrap(), read);
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        let long = format!("unix:/{}", "x".repeat(107));
        for text in
            ["localhost", "2345", "unix:", "unix:push.sock", "unix:/run/", "unix:\0", &long, "[\"1.2.3.4:1\", 5]"]
        {
            assert!(Listeners::from_text(text).is_err(), "{text}");
        }
        assert!(Listeners::from_text(&long[..long.len() - 1]).is_ok());
    }

    #[test]
    fn urls_name_the_socket_or_the_address() {
        assert_eq!(listeners("127.0.0.1:80").0[0].url("ws", "/ws"), "ws://127.0.0.1:80/ws");
        assert_eq!(listeners("unix:/run/s").0[0].url("ws", "/ws"), "ws+unix:/run/s:/ws");
    }

    #[test]
    fn modes_are_octal() {
        let mode = |text: &str| FileMode::try_from(text.to_owned()).map(|mode| mode.0);
        assert_eq!((mode("0660"), mode("600")), (Ok(0o660), Ok(0o600)));
        assert_eq!(String::from(FileMode(0o660)), "0660");
        for wrong in ["", "66", "1777", "0680", "+660", "0o660", "06600"] {
            assert!(mode(wrong).is_err(), "{wrong}");
        }
    }
}
