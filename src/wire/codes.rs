//! The one table of codes that go over the wire: WebSocket close codes (RFC 6455 §7.4 and the project's own)
//! and the HTTP-like `code` of an envelope. Whether a client may come back follows from the number alone:
//! 4400–4499 are final, 4500–4599 temporary (docs/protocol.md, "Closing codes").

/// WebSocket close codes that this server sends.
pub mod close {
    /// The connection has served its purpose.
    pub(crate) const NORMAL: u16 = 1000;
    /// The server is going away.
    pub(crate) const GOING_AWAY: u16 = 1001;
    /// A violation of RFC 6455.
    pub(crate) const PROTOCOL_ERROR: u16 = 1002;
    /// Data of a kind that the endpoint does not take.
    pub(crate) const UNACCEPTABLE: u16 = 1003;
    /// Text that is not UTF-8.
    pub(crate) const INVALID_DATA: u16 = 1007;
    /// A frame or message over the limit.
    pub(crate) const TOO_BIG: u16 = 1009;
    /// A fault of the server.
    pub(crate) const INTERNAL: u16 = 1011;
    /// The token was refused.
    pub(crate) const UNAUTHORIZED: u16 = 4401;
    /// The user may not do this.
    pub(crate) const FORBIDDEN: u16 = 4403;
    /// No `auth` within the deadline.
    pub(crate) const AUTH_TIMEOUT: u16 = 4408;
    /// The same user signed in on another connection.
    pub(crate) const SIGNED_IN_ELSEWHERE: u16 = 4409;
    /// Too many sign-ins or messages.
    pub(crate) const RATE_LIMITED: u16 = 4429;
    /// The server is draining, or has no room for what the peer sends.
    pub(crate) const DRAINING: u16 = 4503;
    /// No sign of life from the peer.
    pub(crate) const NO_SIGN_OF_LIFE: u16 = 4504;
    /// The peer reads more slowly than it is sent to.
    pub const SLOW_CONSUMER: u16 = 4508;
    /// The server cannot say what the client missed.
    pub(crate) const INSUFFICIENT_STATE: u16 = 4511;
}
