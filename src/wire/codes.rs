//! The one table of codes that go over the wire: WebSocket close codes (RFC 6455 §7.4 and the project's own)
//! and the HTTP-like `code` of an envelope. Whether a client may come back follows from the number alone:
//! 4400–4499 are final, 4500–4599 temporary (docs/protocol.md, "Closing codes").

/// WebSocket close codes that this server sends.
pub mod close {
    /// The connection has served its purpose.
    pub const NORMAL: u16 = 1000;
    /// The server is going away.
    pub const GOING_AWAY: u16 = 1001;
    /// A violation of RFC 6455.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// Data of a kind that the endpoint does not take.
    pub const UNACCEPTABLE: u16 = 1003;
    /// Text that is not UTF-8.
    pub const INVALID_DATA: u16 = 1007;
    /// A frame or message over the limit.
    pub const TOO_BIG: u16 = 1009;
    /// A fault of the server.
    pub const INTERNAL: u16 = 1011;
    /// The token was refused.
    pub const UNAUTHORIZED: u16 = 4401;
    /// The user may not do this.
    pub const FORBIDDEN: u16 = 4403;
    /// No `auth` within the deadline.
    pub const AUTH_TIMEOUT: u16 = 4408;
    /// The same user signed in on another connection.
    pub const SIGNED_IN_ELSEWHERE: u16 = 4409;
    /// Too many sign-ins or messages.
    pub const RATE_LIMITED: u16 = 4429;
    /// The server is draining, or has no room for what the peer sends.
    pub const DRAINING: u16 = 4503;
    /// No sign of life from the peer.
    pub const NO_SIGN_OF_LIFE: u16 = 4504;
    /// The peer reads more slowly than it is sent to.
    pub const SLOW_CONSUMER: u16 = 4508;
    /// The server cannot say what the client missed.
    pub const INSUFFICIENT_STATE: u16 = 4511;
}
