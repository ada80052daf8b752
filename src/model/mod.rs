//! The nouns of the server, without behaviour and without a wire format: what shards pass to each other, what a
//! channel's namespace allows, who a user is. Every layer may use them.

pub mod channel_name;
pub mod engine;
pub mod namespace;
pub mod parcel;
pub mod publication;
pub mod text;
pub mod user;
