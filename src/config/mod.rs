//! What the operator decides: one `Config`, read from a TOML file, the environment and the command line.
//! `schema` is the one place where a key is named, described, given its default and its bounds (those of a
//! channel's rules, of which there are many copies, in `channels`); `environment` knows which variables are settings;
//! `key_set_url` judges the address of a key set;
//! `load` merges the sources and blames the right one; `describe` prints it all back as TOML. It opens no socket and
//! reads nothing but the file it is given; `files` is how every module reads a file. Called by `cli` and at boot.

mod channels;
mod describe;
mod environment;
mod error;
mod files;
mod key_set_url;
mod listen;
mod load;
mod namespaces;
mod schema;
mod setting;

#[cfg(test)]
mod tests;

pub use channels::ChannelRules;
pub use describe::describe;
pub use environment::{is_our_variable, process_env};
pub use error::{ConfigError, SettingOrigin};
pub use files::{FILE_BYTES_MAX, open_regular, read_bytes, read_text};
pub use key_set_url::KeySetUrl;
pub use listen::{FileMode, ListenAddr, Listeners};
pub use load::Flags;
pub use schema::{
    Auth, Config, DriverChoice, Http, Limits, Liveness, Log, LogFormat, PublicKeyFile, StaticToken, Tls, TlsVersion,
};
pub use setting::Secret;
