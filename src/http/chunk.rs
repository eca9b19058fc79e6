//! The framing between the data of chunks: sizes, extensions, line ends, and the trailer section (RFC 9112 §7.1).
//!
//! A small state machine reads one byte at a time, so that the input may be split anywhere and no byte is read twice.

use super::ParseError;
use super::chars::{is_field_value_byte, is_quoted_text_byte, is_token_byte};

/// The maximum number of hexadecimal digits of a size, leading zeros included: 64 bits.
const SIZE_DIGITS_MAX: u8 = 16;
/// The longest line of size and extensions, in bytes, without CRLF. A signature or checksum needs much less.
const LINE_BYTES_MAX: u16 = 4096;
/// The maximum bytes of all extensions of one body, in addition to one for each byte of data (CVE-2024-21647).
const EXTENSION_BYTES_MAX: u64 = 64 * 1024;
/// The maximum number of trailer fields.
const TRAILERS_MAX: u8 = 64;
/// The longest trailer section, in bytes, line ends included.
const TRAILER_BYTES_MAX: u16 = 8192;

/// Reads the framing of a chunked body, from the end of one chunk's data to the start of the next's.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ChunkReader {
    state: State,
    size: u64,
    size_digits: u8,
    /// Bytes of the current chunk line.
    line_bytes: u16,
    /// Bytes of all extensions so far.
    extension_bytes: u64,
    trailers: u8,
    trailer_bytes: u16,
}

/// The state of the reader. Each state is named after the part that has just been read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    LineStart,
    SizeDigit,
    SizeSpace,
    Semicolon,
    ExtensionName,
    ExtensionNameSpace,
    Equals,
    ExtensionToken,
    ExtensionQuoted,
    ExtensionBackslash,
    ExtensionQuoteEnd,
    ExtensionValueSpace,
    LineCr,
    Data,
    DataCr,
    TrailerLineStart,
    TrailerName,
    TrailerValue,
    TrailerCr,
    EndCr,
    End,
}

/// Why the reader stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// All input has been read.
    More,
    /// This many bytes of data follow, more than zero.
    Data(u64),
    /// The message is complete.
    End,
    /// The message is wrong.
    Wrong(ParseError),
}

impl ChunkReader {
    /// Returns the reader for the framing after the data of `Step::Data`.
    pub(super) fn after_data(self) -> Self {
        Self { state: State::Data, size: 0, size_digits: 0, line_bytes: 0, ..self }
    }

    /// Reads until data begins or the message ends. Returns how many bytes it read. `room` is the number of bytes that
    /// the body may still have. `decoded_bytes` is the number of bytes decoded so far.
    pub(super) fn read(&mut self, input: &[u8], room: u64, decoded_bytes: u64) -> (usize, Step) {
        for (index, &byte) in input.iter().enumerate() {
            let consumed = index.saturating_add(1);
            match self.take(byte, room, decoded_bytes) {
                Ok(State::End) => return (consumed, Step::End),
                Ok(State::Data) => return (consumed, Step::Data(self.size)),
                Ok(state) => self.state = state,
                Err(error) => return (consumed, Step::Wrong(error)),
            }
        }
        (input.len(), Step::More)
    }

    fn take(&mut self, byte: u8, room: u64, decoded_bytes: u64) -> Result<State, ParseError> {
        match self.state {
            State::LineStart | State::SizeDigit => self.take_size(byte, room),
            State::SizeSpace
            | State::Semicolon
            | State::ExtensionName
            | State::ExtensionNameSpace
            | State::Equals
            | State::ExtensionToken
            | State::ExtensionQuoted
            | State::ExtensionBackslash
            | State::ExtensionQuoteEnd
            | State::ExtensionValueSpace => self.take_extension(byte, decoded_bytes),
            State::LineCr => match byte {
                b'\n' if self.size == 0 => Ok(State::TrailerLineStart),
                b'\n' => Ok(State::Data),
                _ => Err(ParseError::BareCr),
            },
            State::Data => (byte == b'\r').then_some(State::DataCr).ok_or(ParseError::ChunkEnd),
            State::DataCr => (byte == b'\n').then_some(State::LineStart).ok_or(ParseError::ChunkEnd),
            State::TrailerLineStart | State::TrailerName | State::TrailerValue | State::TrailerCr | State::EndCr => {
                self.take_trailer(byte)
            }
            State::End => Ok(State::End),
        }
    }

    /// Reads `1*HEXDIG`. Refuses a size as soon as it exceeds `room`.
    fn take_size(&mut self, byte: u8, room: u64) -> Result<State, ParseError> {
        if let Some(digit) = hex_digit(byte) {
            self.size_digits = self.size_digits.saturating_add(1);
            if self.size_digits > SIZE_DIGITS_MAX {
                return Err(ParseError::ChunkSize);
            }
            self.size = self.size.wrapping_shl(4) | u64::from(digit);
            return if self.size > room { Err(ParseError::BodyTooLarge) } else { Ok(State::SizeDigit) };
        }
        match (self.state, byte) {
            (State::SizeDigit, b'\r') => Ok(State::LineCr),
            (State::SizeDigit, b';') => Ok(State::Semicolon),
            (State::SizeDigit, b' ' | b'\t') => Ok(State::SizeSpace),
            _ => Err(ParseError::ChunkSize),
        }
    }

    /// Reads `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )` (RFC 9112 §7.1.1).
    fn take_extension(&mut self, byte: u8, decoded_bytes: u64) -> Result<State, ParseError> {
        self.line_bytes = self.line_bytes.saturating_add(1);
        self.extension_bytes = self.extension_bytes.saturating_add(1);
        if self.line_bytes > LINE_BYTES_MAX || self.extension_bytes > decoded_bytes.saturating_add(EXTENSION_BYTES_MAX)
        {
            return Err(ParseError::ChunkExtensionsTooLarge);
        }
        let is_space = matches!(byte, b' ' | b'\t');
        let next = match self.state {
            State::SizeSpace if is_space => State::SizeSpace,
            State::SizeSpace if byte != b';' => return Err(ParseError::ChunkSize),
            State::Semicolon if is_space => State::Semicolon,
            State::Semicolon | State::ExtensionName if is_token_byte(byte) => State::ExtensionName,
            State::ExtensionName | State::ExtensionNameSpace if is_space => State::ExtensionNameSpace,
            State::ExtensionName | State::ExtensionNameSpace if byte == b'=' => State::Equals,
            State::Equals if is_space => State::Equals,
            State::Equals if byte == b'"' => State::ExtensionQuoted,
            State::Equals | State::ExtensionToken if is_token_byte(byte) => State::ExtensionToken,
            State::ExtensionQuoted if byte == b'"' => State::ExtensionQuoteEnd,
            State::ExtensionQuoted if byte == b'\\' => State::ExtensionBackslash,
            State::ExtensionQuoted if is_quoted_text_byte(byte) => State::ExtensionQuoted,
            State::ExtensionBackslash if is_field_value_byte(byte) => State::ExtensionQuoted,
            State::ExtensionToken | State::ExtensionQuoteEnd | State::ExtensionValueSpace if is_space => {
                State::ExtensionValueSpace
            }
            State::ExtensionName | State::ExtensionToken | State::ExtensionQuoteEnd if byte == b'\r' => State::LineCr,
            State::SizeSpace
            | State::ExtensionName
            | State::ExtensionNameSpace
            | State::ExtensionToken
            | State::ExtensionQuoteEnd
            | State::ExtensionValueSpace
                if byte == b';' =>
            {
                State::Semicolon
            }
            _ => return Err(ParseError::ChunkExtension),
        };
        Ok(next)
    }

    /// Reads `*( field-line CRLF ) CRLF`. Trailers are checked as in a head, then dropped (RFC 9112 §7.1.2).
    fn take_trailer(&mut self, byte: u8) -> Result<State, ParseError> {
        self.trailer_bytes = self.trailer_bytes.saturating_add(1);
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(ParseError::TrailersTooLarge);
        }
        let next = match (self.state, byte) {
            (State::TrailerLineStart, b'\r') => State::EndCr,
            (State::EndCr, b'\n') => State::End,
            (State::TrailerLineStart, _) if is_token_byte(byte) => {
                self.trailers = self.trailers.saturating_add(1);
                if self.trailers > TRAILERS_MAX {
                    return Err(ParseError::TrailersTooLarge);
                }
                State::TrailerName
            }
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerName, _) if is_token_byte(byte) => State::TrailerName,
            (State::TrailerValue, b'\r') => State::TrailerCr,
            (State::TrailerValue, _) if is_field_value_byte(byte) => State::TrailerValue,
            (State::TrailerCr, b'\n') => State::TrailerLineStart,
            _ => return Err(ParseError::Trailer),
        };
        Ok(next)
    }
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte.wrapping_sub(b'0')),
        b'a'..=b'f' => Some(byte.wrapping_sub(b'a').wrapping_add(10)),
        b'A'..=b'F' => Some(byte.wrapping_sub(b'A').wrapping_add(10)),
        _ => None,
    }
}
