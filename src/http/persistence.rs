//! Decides whether the connection can be used for another request (RFC 9112 §9.3).

use super::Version;
use super::chars::list;

/// The state of the connection after the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// The next request may follow on the same connection.
    KeepAlive,
    /// The connection is closed after the response.
    Close,
}

/// The relevant options in the `Connection` fields of one message (RFC 9110 §7.6.1).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ConnectionOptions {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
}

impl ConnectionOptions {
    /// Reads one more `Connection` value.
    pub(super) fn add(&mut self, value: &[u8]) {
        for option in list(value) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            self.upgrade |= option.eq_ignore_ascii_case(b"upgrade");
        }
    }

    /// Returns `Close` for the option `close`. Without it, HTTP/1.1 persists, and HTTP/1.0 persists with `keep-alive`
    /// (RFC 9112 §9.3).
    pub(super) fn persistence(self, version: Version) -> Persistence {
        match version {
            _ if self.close => Persistence::Close,
            Version::Http10 if !self.keep_alive => Persistence::Close,
            Version::Http10 | Version::Http11 | Version::Http2 => Persistence::KeepAlive,
        }
    }
}
