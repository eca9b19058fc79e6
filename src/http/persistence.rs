//! Whether the connection lives on after this exchange (RFC 9112 §9.3).

/// What happens to the connection after the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// The next request may follow on the same connection.
    KeepAlive,
    /// The connection is closed after the response.
    Close,
}
