//! The project's own JSON protocol (docs/protocol.md): `decode` reads the messages of clients, `encode` writes the
//! messages of the server.

pub mod decode;
pub mod encode;
