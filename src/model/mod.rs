//! The nouns of the server, without behaviour and without a wire format: what shards pass to each other, what a
//! channel's namespace allows, who a user is. Every layer may use them.

pub(crate) mod channel_name;
pub mod command;
pub mod engine;
pub mod errand;
pub mod namespace;
pub mod notice;
pub mod parcel;
pub mod position;
pub mod presence;
pub mod publication;
pub(crate) mod refusal;
pub mod text;
pub mod user;
pub mod voice;
