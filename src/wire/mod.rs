//! Formats that standards define, with no socket, clock or state of the server behind them: WebSocket (RFC 6455) in
//! `frame`, `handshake` and `websocket`, HTTP/1.1 (RFC 9112) in `http`, permessage-deflate (RFC 7692) in `deflate`, the PROXY protocol in `proxy`,
//! `Forwarded` (RFC 7239) in `forwarded`, origins (RFC 6454) in `origin`. `codes` is the table of close codes.

pub mod codes;
pub mod deflate;
pub(crate) mod event_stream;
pub(crate) mod forwarded;
pub mod frame;
pub mod handshake;
pub mod http;
pub mod mask;
pub(crate) mod origin;
pub mod proxy;
pub mod utf8;
pub mod websocket;
