//! Request bodies: finds their end and removes their framing (RFC 9112 §6, §7.1).
//!
//! *Invariants*: the same bytes give the same body and the same error at every split point. The work is linear in the
//! input. After an error the decoder always returns the same error.

use std::ops::Range;

use super::ParseError;
use super::chunk::{ChunkReader, Step};

/// How a body is delimited (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// `Content-Length`: this many bytes, more than zero.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

impl Framing {
    /// Returns whether the head announces more than `body_bytes_max` bytes. The server then refuses the request with
    /// 413 before the client sends the body (RFC 9110 §15.5.14).
    pub fn exceeds(self, body_bytes_max: u64) -> bool {
        matches!(self, Self::Length(bytes) if bytes > body_bytes_max)
    }
}

/// Removes the framing of a request body that arrives in pieces. Trailers are read, checked and dropped.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    decoded_bytes: u64,
    body_bytes_max: u64,
}

#[derive(Debug)]
enum State {
    /// The number of missing bytes, more than zero.
    Length(u64),
    /// The number of missing bytes of the current chunk's data, more than zero.
    ChunkData(u64, ChunkReader),
    /// Between the data of two chunks.
    ChunkFraming(ChunkReader),
    Complete,
    Failed(ParseError),
}

/// One step of decoding.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The number of consumed bytes of the input. 0 means that the decoder needs more input, or that the body is
    /// complete.
    pub consumed: usize,
    /// The body's bytes among the consumed ones, without framing; a part of the input.
    pub data: &'a [u8],
}

/// The result of `BodyDecoder::decode_run`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Run {
    /// The number of consumed bytes of the input.
    pub consumed: usize,
    /// The range of the consumed input that now has the body's bytes, without gaps.
    pub data: Range<usize>,
}

impl Run {
    /// Returns the number of framing bytes.
    pub fn framing_bytes(&self) -> usize {
        self.consumed.saturating_sub(self.data.len())
    }
}

impl BodyDecoder {
    /// Makes a decoder for one body of at most `body_bytes_max` bytes. A longer body is an error (413): at the first
    /// `decode` if `framing.exceeds(body_bytes_max)`.
    pub fn new(framing: Framing, body_bytes_max: u64) -> Self {
        let state = match framing {
            _ if framing.exceeds(body_bytes_max) => State::Failed(ParseError::BodyTooLarge),
            Framing::None | Framing::Length(0) => State::Complete,
            Framing::Length(bytes) => State::Length(bytes),
            Framing::Chunked => State::ChunkFraming(ChunkReader::default()),
        };
        Self { state, decoded_bytes: 0, body_bytes_max }
    }

    /// Decodes the next piece. Call it again with the rest until it consumes nothing or the body is complete. Never
    /// consumes bytes after the message.
    ///
    /// # Errors
    /// The body is over its maximum (returned as soon as its length is announced), or its framing breaks RFC 9112 §7.1.
    pub fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<'a>, ParseError> {
        let mut framing_bytes = 0;
        if let State::ChunkFraming(reader) = &mut self.state {
            let room = self.body_bytes_max.saturating_sub(self.decoded_bytes);
            let (consumed, step) = reader.read(input, room, self.decoded_bytes);
            framing_bytes = consumed;
            match step {
                Step::More => {}
                Step::Data(bytes) => self.state = State::ChunkData(bytes, *reader),
                Step::End => self.state = State::Complete,
                Step::Wrong(error) => self.state = State::Failed(error),
            }
        }
        let rest = input.get(framing_bytes..).unwrap_or_default();
        let data = match &mut self.state {
            State::Length(remaining) | State::ChunkData(remaining, _) => {
                let (bytes, data) = at_most(rest, *remaining);
                *remaining = remaining.saturating_sub(bytes);
                self.decoded_bytes = self.decoded_bytes.saturating_add(bytes);
                data
            }
            State::Failed(error) => return Err(*error),
            State::ChunkFraming(_) | State::Complete => &[],
        };
        match &self.state {
            State::Length(0) => self.state = State::Complete,
            State::ChunkData(0, reader) => self.state = State::ChunkFraming(reader.after_data()),
            _ => {}
        }
        Ok(Decoded { consumed: framing_bytes.saturating_add(data.len()), data })
    }

    /// Decodes the part of `input` that belongs to the message, and moves the data of all chunks together. The caller
    /// can then pass the data on in one piece. If data precedes an error, this call returns the data and the next call
    /// the error.
    ///
    /// # Errors
    /// The errors of `decode`.
    pub fn decode_run(&mut self, input: &mut [u8]) -> Result<Run, ParseError> {
        let mut run = Run::default();
        while !self.is_complete() {
            let decoded = match self.decode(input.get(run.consumed..).unwrap_or_default()) {
                Ok(decoded) => decoded,
                Err(error) if run.consumed == 0 => return Err(error),
                Err(_) => break,
            };
            if decoded.consumed == 0 {
                break;
            }
            let bytes = decoded.data.len();
            run.consumed = run.consumed.saturating_add(decoded.consumed);
            if bytes == 0 {
                continue;
            }
            let piece = run.consumed.saturating_sub(bytes)..run.consumed;
            if run.data.is_empty() {
                run.data = piece;
            } else {
                // Overwrite framing that has been read, directly after the earlier data.
                input.copy_within(piece, run.data.end);
                run.data.end = run.data.end.saturating_add(bytes);
            }
        }
        Ok(run)
    }

    /// Returns whether the last byte of the message has been consumed.
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete)
    }

    /// Returns how many bytes of the body have been decoded so far.
    pub fn decoded_bytes(&self) -> u64 {
        self.decoded_bytes
    }
}

/// Returns the first `limit` bytes of `input`, or all of it if it is shorter, and their number.
fn at_most(input: &[u8], limit: u64) -> (u64, &[u8]) {
    let bytes = u64::try_from(input.len()).unwrap_or(u64::MAX).min(limit);
    (bytes, usize::try_from(bytes).ok().and_then(|bytes| input.get(..bytes)).unwrap_or(input))
}
