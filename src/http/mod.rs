//! HTTP/1.x on bytes (RFC 9110, RFC 9112): sans-I/O, no clock, no coroutine, no Python.
//!
//! A request comes in as `HeadScanner` (where does the head end?) → `RequestHead::parse` (what does it say?) →
//! `BodyDecoder` (the body without its framing); a response goes out as `ResponseHead` → `encode` → `BodyEncoder`.
//!
//! `ProxyHeader` is what a proxy may have put before the first of them.
//!
//! *Runs on*: whoever calls; nothing here waits. *Invariants*: the same bytes give the same answer at every split
//! point; after an error nothing more is parsed; no input makes anything here panic or take more than linear time.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub mod body;
mod chars;
mod chunk;
pub mod date;
mod encoder;
pub mod error;
mod fields;
mod host;
pub mod persistence;
pub mod proxy;
mod reason;
pub mod request;
pub mod response;
mod scanner;
mod span;
mod target;

pub use body::{BodyDecoder, Decoded, Framing, Run};
pub use error::{HeadError, ParseError};
pub use persistence::Persistence;
pub use proxy::{ProxyHeader, ProxyVersions};
pub use request::{HeadScanner, Limits, RequestHead, Version};
pub use response::{BodyEncoder, Pushed, ResponseHead, reason_phrase};
