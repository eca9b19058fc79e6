//! What can be wrong with the bytes of a message: one variant per violated rule, each with its status.

use thiserror::Error;

/// A request that cannot be read. After it the connection is closed (RFC 9112 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParseError {
    /// placeholder
    #[error("malformed request line")]
    RequestLine,
}

impl ParseError {
    /// The status code of the answer.
    pub fn status(self) -> u16 {
        todo!()
    }
}

/// A response head that the application may not send (PEP 3333 "The start_response() Callable").
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HeadError {
    /// placeholder
    #[error("invalid status {0:?}")]
    Status(String),
}
