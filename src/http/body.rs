//! Bodies of requests: how they are delimited, and taking the framing off (RFC 9112 §6, §7.1).

use super::ParseError;

/// How a body is delimited (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// `Content-Length`: so many bytes, more than zero.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Takes the framing off a request body, in whatever pieces it arrives. Trailers are read, checked and dropped.
#[derive(Debug)]
pub struct BodyDecoder {}

/// One step of decoding.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// How many bytes of the input were used up; 0 with empty `data`: more input is needed (or the body is complete).
    pub consumed: usize,
    /// The body's bytes among them, without any framing; a part of the input.
    pub data: &'a [u8],
}

impl BodyDecoder {
    /// A decoder of one body of at most `body_bytes_max` bytes (over it: 413).
    pub fn new(_framing: Framing, _body_bytes_max: u64) -> Self {
        todo!()
    }
    /// Decodes the next piece; call it again with the rest until it consumes nothing or the body is complete.
    pub fn decode<'a>(&mut self, _input: &'a [u8]) -> Result<Decoded<'a>, ParseError> {
        todo!()
    }
    /// Whether the last byte of the message has been consumed.
    pub fn is_complete(&self) -> bool {
        todo!()
    }
    /// How many bytes of the body have been decoded so far.
    pub fn decoded_bytes(&self) -> u64 {
        todo!()
    }
}
