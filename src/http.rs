//! HTTP/1.x on bytes (RFC 9110, RFC 9112): sans-I/O, no clock, no coroutine, no Python.
//!
//! A request passes `HeadScanner` (finds the end of the head), `RequestHead::parse` (reads and checks the head) and
//! `BodyDecoder` (removes the framing of the body). A response passes `ResponseHead`, `encode` and `BodyEncoder`.
//!
//! *Runs on*: the calling thread; no function here waits. *Invariants*: the same bytes give the same result at every
//! split point. After an error no more bytes are parsed. No input causes a panic or more than linear time.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub mod body;
mod chars;
mod chunk;
mod conditions;
pub mod date;
mod encoder;
pub mod error;
mod fields;
mod find;
mod host;
mod path;
pub mod persistence;
mod proxies;
mod quality;
mod ranges;
mod reason;
pub mod request;
pub mod response;
mod scanner;
mod span;
mod target;

pub use body::{BodyDecoder, Decoded, Framing, Run};
pub use conditions::{Validators, Verdict};
pub use error::{HeadError, ParseError};
pub(crate) use find::find;
pub use host::is_valid as is_host;
pub use path::{Character, below, characters, is_below, percent_decoded, strictly_decoded};
pub use persistence::Persistence;
pub use proxies::{Family, family_of};
pub use quality::quality_of;
pub use ranges::Ranges;
pub use request::{HeadScanner, Limits, RequestHead, Version};
pub use response::{BodyEncoder, Pushed, ResponseHead, status_has_body};
