//! The project's own JSON protocol (docs/protocol.md): `decode` reads the messages of clients, `encode` writes the
//! messages of the server, and `stream` frames them as server-sent events. `event_stream` reads the request for these.

pub mod decode;
pub mod encode;
pub mod event_stream;
pub(crate) mod stream;
