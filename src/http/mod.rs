//! HTTP/1.x on bytes (RFC 9110, RFC 9112): sans-I/O, no clock, no coroutine, no Python.
//!
//! *Runs on*: whoever calls; nothing here waits. *Invariants*: the same bytes give the same answer at every split
//! point; after an error nothing more is parsed; no input makes anything here panic or take more than linear time.

pub mod body;
pub mod date;
pub mod error;
pub mod persistence;
pub mod request;
pub mod response;

pub use body::{BodyDecoder, Framing};
pub use error::{HeadError, ParseError};
pub use persistence::Persistence;
pub use request::{HeadScanner, Limits, RequestHead, Version};
pub use response::{BodyEncoder, ResponseHead};
