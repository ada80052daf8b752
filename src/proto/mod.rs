//! Bytes in, events out: everything that is defined by a wire format, with no socket, clock or state of the
//! server behind it. `handshake` and `websocket` are RFC 6455; `envelope` is the project's own JSON protocol
//! (docs/protocol.md); `codes` is the one table of close codes.

pub mod codes;
pub mod frame;
pub mod handshake;
pub mod mask;
pub mod utf8;
pub mod websocket;
