//! Response heads and the framing of response bodies (RFC 9112 §4, §6, §7.1; RFC 9110 §6.6.1, §8.6).

use super::{HeadError, Persistence, Version};

/// A response head as the application gave it, checked and kept as bytes ready to send: the status line and the field
/// lines stand in one buffer that `encode` completes.
#[derive(Debug)]
pub struct ResponseHead {}

/// What `encode` has to know besides the head.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The version of the request.
    pub version: Version,
    /// Whether the request's method was HEAD: the response has no body whatever the head says.
    pub is_head: bool,
    /// What the server has decided so far; the head can still turn `KeepAlive` into `Close`.
    pub persistence: Persistence,
    /// The body's length where the server knows it although the application did not say it.
    pub body_bytes: Option<u64>,
    /// The `Date` field's value, used where the application gave none.
    pub date: &'a [u8; 29],
    /// The `Server` field's value, used where the application gave none; `None`: no such field.
    pub server: Option<&'a [u8]>,
}

impl ResponseHead {
    /// Begins a head from a status as PEP 3333 has it: `200 OK` (three digits; a space and a reason, latin-1).
    pub fn new(_status: &[u8]) -> Result<Self, HeadError> {
        todo!()
    }
    /// Adds a field. CR, LF, NUL and other controls, an empty name and a name that is not a token are errors, and so is
    /// a `Content-Length` that is not digits or contradicts one before it. Hop-by-hop fields are the server's:
    /// `Connection: close` is understood, every other hop-by-hop field is dropped.
    pub fn push_field(&mut self, _name: &[u8], _value: &[u8]) -> Result<(), HeadError> {
        todo!()
    }
    /// The status code.
    pub fn status(&self) -> u16 {
        todo!()
    }
    /// The `Content-Length` that the application gave, if it did.
    pub fn content_length(&self) -> Option<u64> {
        todo!()
    }
    /// The first field of that name (ASCII case ignored), for the access log.
    pub fn field(&self, _name: &[u8]) -> Option<&[u8]> {
        todo!()
    }
    /// A whole small response that the server itself gives: `text/plain`, `Connection: close`, the body a short line.
    pub fn plain_error(_status: u16) -> (Self, Vec<u8>) {
        todo!()
    }
    /// Completes the head and decides the body's framing and the connection's fate. The returned bytes end with the
    /// empty line.
    pub fn encode(self, _context: &Context<'_>) -> (Vec<u8>, BodyEncoder, Persistence) {
        todo!()
    }
}

/// The standard reason phrase of a status code (RFC 9110 §15), or `Unknown`.
pub fn reason_phrase(_status: u16) -> &'static str {
    todo!()
}

/// How the response body is put on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEncoder {
    /// No body goes out, whatever is given (HEAD, 204, 304).
    None,
    /// Exactly so many bytes are still to come; what is over is cut off.
    Length {
        /// The bytes still missing.
        remaining: u64,
    },
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Until the connection is closed (HTTP/1.0).
    UntilClose,
}

impl BodyEncoder {
    /// Announces a block of `bytes` bytes: how many of them to send, and the chunk's head line to send before them
    /// (empty unless chunked). After the block of a chunk comes CRLF: `Self::block_end`.
    pub fn block(&mut self, _bytes: u64) -> (u64, ChunkHead) {
        todo!()
    }
    /// What follows each block: CRLF for chunked, else nothing.
    pub fn block_end(&self) -> &'static [u8] {
        todo!()
    }
    /// Ends the body: the bytes to send last (`0 CRLF CRLF` for chunked), or `None` when the body fell short of its
    /// Content-Length, so that the connection must be cut.
    pub fn finish(&self) -> Option<&'static [u8]> {
        todo!()
    }
    /// Whether any further block would be dropped.
    pub fn is_full(&self) -> bool {
        todo!()
    }
}

/// The line before a chunk's data: hexadecimal size and CRLF, on the stack.
#[derive(Debug, Clone, Copy)]
pub struct ChunkHead {}

impl ChunkHead {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        todo!()
    }
}
