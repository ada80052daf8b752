//! What the protocols of clients look like on the wire, one folder for each protocol. A dialect turns a client's bytes
//! into commands, and replies and pushes into bytes. It decides nothing.

pub mod native;
