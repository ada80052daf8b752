//! The configuration: one [`Config`], read from a TOML file, the environment and the command line.
//!
//! - `schema` has every key with its description, default and bounds. `channels` has the keys of a channel's rules, which
//!   several sections share, and `namespaces` collects those rules.
//! - `setting`, `listen`, `key_set_url` are the types of keys.
//! - `environment` decides which variables are settings. `load` merges the sources and reports errors with their source.
//! - `describe` prints a configuration as TOML. `error` is the error of all of them.
//! - `files` is how every module reads a file.

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

pub use describe::describe;
pub use environment::{is_our_variable, process_env};
pub use error::{ConfigError, SettingOrigin};
pub(crate) use files::{FILE_BYTES_MAX, open_regular, read_bytes, read_text};
pub(crate) use key_set_url::KeySetUrl;
pub use listen::{FileMode, ListenAddr, Listeners};
pub use load::Flags;
pub use schema::{
    Auth, Config, DriverChoice, Http, Limits, Liveness, Log, LogFormat, PublicKeyFile, StaticToken, Tls, TlsVersion,
};
pub use setting::Secret;
