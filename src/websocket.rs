//! WebSockets (RFC 6455): the handshake, the protocol on bytes, and what an application and the server share.
//!
//! *Owns*: nothing; each socket belongs to its connection. *Runs on*: each file says. *Invariants*: nothing here calls
//! the system, Python or the runtime.

mod handshake;
mod session;
mod socket;
mod tally;

pub use self::handshake::Offer;
pub use self::session::{Fault, Incoming, Session, encode};
pub use self::socket::{Attendant, Closing, Event, Limits, Listener, NotSent, Place, Socket, Unopened};
pub use self::tally::Tally;

/// The two kinds of messages, and the server's own kind of frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text in UTF-8.
    Text,
    /// Bytes.
    Binary,
    /// A question to the client whether it is there. At most 125 bytes.
    Ping,
}

/// Returns whether an application may close a socket with this code (RFC 6455 §7.4).
pub fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// The status codes of a close (RFC 6455 §7.4.1, and IANA's registry of them).
pub mod code {
    /// The purpose of the connection is fulfilled.
    pub const NORMAL: u16 = 1000;
    /// The server stops, or the client has left the page.
    pub const GOING_AWAY: u16 = 1001;
    /// The other side broke the protocol.
    pub const PROTOCOL: u16 = 1002;
    /// The close had no code.
    pub const NONE: u16 = 1005;
    /// There was no close.
    pub const ABNORMAL: u16 = 1006;
    /// A text was not UTF-8.
    pub const NOT_TEXT: u16 = 1007;
    /// The other side broke a rule of this side.
    pub const POLICY: u16 = 1008;
    /// A message was too big.
    pub const TOO_BIG: u16 = 1009;
    /// The application failed.
    pub const ERROR: u16 = 1011;
}
