//! Bytes in, events out: everything that is defined by a wire format, with no socket, clock or state of the
//! server behind it. `handshake`, `frame` and `websocket` are RFC 6455; `channel`, `decode`, `encode` and
//! `text` are the project's own JSON protocol (docs/protocol.md); `codes` is the one table of close codes.

pub mod channel;
pub mod codes;
pub mod decode;
pub mod deflate;
pub mod encode;
pub mod forwarded;
pub mod frame;
pub mod handshake;
pub mod mask;
pub mod origin;
pub mod proxy;
pub mod text;
pub mod utf8;
pub mod websocket;
