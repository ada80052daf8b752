//! What the operator decides: one `Config`, read from a TOML file, the environment and the command line.
//! `schema` is the one place where a key is named, described, given its default and its bounds; `load` merges
//! the sources and blames the right one; `describe` prints it all back as TOML. It opens no socket and reads
//! nothing but the file it is given: whoever needs a key file opens that itself. Called by `cli` and at boot.

mod describe;
mod error;
mod load;
mod schema;
mod setting;

#[cfg(test)]
mod tests;

pub use describe::describe;
pub use error::{ConfigError, Origin};
pub use load::{Flags, is_our_variable, process_env};
pub use schema::{Auth, Config, Limits, Liveness, Lobby, Log, LogFormat, PublicKeyFile, StaticToken};
pub use setting::Secret;
