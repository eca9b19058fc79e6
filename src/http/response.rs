//! Response heads, and the framing of their bodies (RFC 9112 §4, §6; RFC 9110 §6.6.1, §8.6).

mod change;

pub use super::encoder::{BodyEncoder, ChunkHead};
use super::reason::reason_phrase;

use super::chars::{decimal, is_field_value, is_name, is_token, trim_white_space};
use super::persistence::ConnectionOptions;
use super::{HeadError, Persistence, Version};
use crate::phrase::{characters, push_decimal};

/// The interim response that a client asks for with `Expect: 100-continue` (RFC 9110 §10.1.1, §15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The initial capacity of a response head, in bytes. Few heads are longer.
const HEAD_BYTES: usize = 512;

/// A checked response head of the application, as bytes to send. The status line and the field lines are in one buffer,
/// which `encode` completes.
#[derive(Debug)]
pub struct ResponseHead {
    buffer: Vec<u8>,
    status: u16,
    content_length: Option<u64>,
    has_date: bool,
    has_server: bool,
    closes: bool,
}

/// The result of adding a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The field is sent, or the server acts on it.
    Understood,
    /// The field is dropped: only the server may set hop-by-hop fields.
    Dropped,
}

/// The arguments of `encode` besides the head.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The version of the response: that of the request, or a lower one.
    pub version: Version,
    /// Whether the request's method was HEAD. The response then has no body, even with a Content-Length.
    pub is_head: bool,
    /// The server's decision so far. The head can still change `KeepAlive` to `Close`.
    pub persistence: Persistence,
    /// The body's length in bytes, if the server knows it.
    pub body_bytes: Option<u64>,
    /// The value of `Date` if the application did not give one.
    pub date: &'a [u8; 29],
    /// The value of `Server` if the application did not give one; `None` sends no such field.
    pub server: Option<&'a [u8]>,
    /// The name and the value of the field with the request's id, which is sent if the application gave none.
    pub request_id: Option<(&'a [u8], &'a [u8])>,
}

/// Returns whether a response with this status may have a body (RFC 9110 §15.3.5, §15.3.6, §15.4.5).
pub fn status_has_body(status: u16) -> bool {
    !matches!(status, 204 | 205 | 304)
}

impl ResponseHead {
    /// Begins a head from a PEP 3333 status such as `200 OK`: three digits, a space and a reason, in latin-1.
    ///
    /// # Errors
    /// The text has another form, or the code is below 200, which is not the code of a final response. Codes from 600
    /// on have no meaning (RFC 9110 §15), and a client treats them as a server error. They are sent unchanged.
    pub fn new(status: &[u8]) -> Result<Self, HeadError> {
        Self::new_in(Vec::new(), status)
    }

    /// Does the same as `new`, in the memory of an empty buffer.
    pub fn new_in(buffer: Vec<u8>, status: &[u8]) -> Result<Self, HeadError> {
        let invalid = || HeadError::Status(characters(status));
        let (code, reason) = status.split_at_checked(3).ok_or_else(invalid)?;
        let reason = match reason {
            [] => reason,
            [b' ', reason @ ..] if is_field_value(reason) => reason,
            _ => return Err(invalid()),
        };
        let code = decimal(code).ok().and_then(|code| u16::try_from(code).ok()).ok_or_else(invalid)?;
        if code < 200 {
            return Err(invalid());
        }
        Ok(Self::begin(buffer, code, reason))
    }

    fn begin(mut buffer: Vec<u8>, status: u16, reason: &[u8]) -> Self {
        buffer.reserve(HEAD_BYTES);
        buffer.extend_from_slice(b"HTTP/1.1 ");
        push_decimal(&mut buffer, u64::from(status));
        buffer.push(b' ');
        buffer.extend_from_slice(reason);
        buffer.extend_from_slice(b"\r\n");
        Self { buffer, status, content_length: None, has_date: false, has_server: false, closes: false }
    }

    /// Adds a field. Returns an error if the value has a control such as CR, LF or NUL, if the name is not a token, or
    /// if a `Content-Length` is not digits or contradicts an earlier one. Hop-by-hop fields belong to the server: this
    /// function honours `Connection: close` and drops all others.
    pub fn push_field(&mut self, name: &[u8], value: &[u8]) -> Result<Pushed, HeadError> {
        if !is_token(name) {
            return Err(HeadError::FieldName(characters(name)));
        }
        if !is_field_value(value) {
            return Err(HeadError::FieldValue(characters(name)));
        }
        let is_sent = match Special::of(name) {
            None => true,
            Some(Special::ContentLength) => self.take_content_length(value)?,
            Some(Special::Connection) => {
                let mut options = ConnectionOptions::default();
                options.add(value);
                self.closes |= options.close;
                false
            }
            Some(Special::HopByHop) => return Ok(Pushed::Dropped),
            Some(Special::Date) => {
                self.has_date = true;
                true
            }
            Some(Special::Server) => {
                self.has_server = true;
                true
            }
        };
        if is_sent {
            self.write_field(name, value);
        }
        Ok(Pushed::Understood)
    }

    /// Returns whether to send the line: only the first one, and not if the status forbids it (RFC 9110 §8.6, §15.3.6).
    fn take_content_length(&mut self, value: &[u8]) -> Result<bool, HeadError> {
        let length = decimal(trim_white_space(value)).map_err(|_| HeadError::ContentLength(characters(value)))?;
        match self.content_length.replace(length) {
            Some(before) if before != length => Err(HeadError::ContentLengthConflict(before, length)),
            Some(_) => Ok(false),
            None => Ok(!matches!(self.status, 204 | 205)),
        }
    }

    fn write_field(&mut self, name: &[u8], value: &[u8]) {
        self.buffer.extend_from_slice(name);
        self.buffer.extend_from_slice(b": ");
        self.buffer.extend_from_slice(value);
        self.buffer.extend_from_slice(b"\r\n");
    }

    /// Writes a field, unless there is one of this name.
    #[cold]
    fn write_missing(&mut self, name: &[u8], value: &[u8]) {
        if self.field(name).is_none() {
            self.write_field(name, value);
        }
    }

    /// Changes the status line to HTTP/1.0. The framing must not need HTTP/1.1.
    pub fn say_http10(&mut self) {
        if let Some(minor) = self.buffer.get_mut(b"HTTP/1.".len()) {
            *minor = b'0';
        }
    }

    /// Returns the status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Returns the application's `Content-Length`, if it gave one.
    pub fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// Returns the first field of that name (ASCII case ignored), for the access log.
    pub fn field(&self, name: &[u8]) -> Option<&[u8]> {
        // No field has a CR or LF in it: each was checked when it was added.
        let mut last = None;
        memchr::memchr_iter(b'\n', &self.buffer).find_map(|end| {
            let line = self.buffer.get(last.replace(end)?..end)?.strip_prefix(b"\n")?;
            let (given, rest) = line.split_at_checked(name.len())?;
            let value = rest.strip_prefix(b": ")?.strip_suffix(b"\r")?;
            given.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// Makes the head of a response of the server itself. A status outside 200 to 599 becomes 500.
    pub fn of_status(status: u16) -> Self {
        let status = if (200..=599).contains(&status) { status } else { 500 };
        Self::begin(Vec::new(), status, reason_phrase(status).as_bytes())
    }

    /// Makes a short response of the server itself: `text/plain`, `Connection: close`, and one line as the body. A
    /// status outside 200 to 599 becomes 500.
    pub fn plain_error(status: u16) -> (Self, Vec<u8>) {
        let status = if (200..=599).contains(&status) { status } else { 500 };
        let reason = reason_phrase(status).as_bytes();
        let mut body = Vec::with_capacity(48);
        push_decimal(&mut body, u64::from(status));
        body.push(b' ');
        body.extend_from_slice(reason);
        body.push(b'\n');
        Self::plain_body(status, body)
    }

    /// Makes such a response with this line as its body.
    pub fn plain_text(status: u16, line: &str) -> (Self, Vec<u8>) {
        Self::plain_body(status, line.as_bytes().to_vec())
    }

    fn plain_body(status: u16, body: Vec<u8>) -> (Self, Vec<u8>) {
        let mut head = Self::begin(Vec::new(), status, reason_phrase(status).as_bytes());
        head.write_field(b"Content-Type", b"text/plain");
        head.closes = true;
        if status_has_body(status) {
            head.write_content_length(body.len() as u64);
        }
        (head, body)
    }

    /// Returns the head and the body of such a response that lets the connection stay open.
    pub fn plain_response(status: u16) -> (Self, Vec<u8>) {
        let (head, body) = Self::plain_error(status);
        (Self { closes: false, ..head }, body)
    }

    fn write_content_length(&mut self, bytes: u64) {
        self.content_length = Some(bytes);
        self.buffer.extend_from_slice(b"Content-Length: ");
        push_decimal(&mut self.buffer, bytes);
        self.buffer.extend_from_slice(b"\r\n");
    }

    /// Completes the head, and decides how the body is framed and whether the connection stays open. The returned bytes
    /// end with the empty line.
    ///
    /// The connection is closed if the context or the application says so, if only the close can mark the end of the
    /// body, and if the application's `Content-Length` is larger than the known body.
    // The status server encodes few heads, and connections encode many.
    #[allow(clippy::inline_always, reason = "a second caller would cost each response 80 instructions")]
    #[inline(always)]
    pub fn encode(mut self, context: &Context<'_>) -> (Vec<u8>, BodyEncoder, Persistence) {
        let body = self.frame(context);
        let falls_short =
            matches!((body, context.body_bytes), (BodyEncoder::Length { remaining }, Some(known)) if known < remaining);
        let closes =
            self.closes || falls_short || context.persistence == Persistence::Close || body == BodyEncoder::UntilClose;
        self.write_common(context);
        if closes {
            self.buffer.extend_from_slice(b"Connection: close\r\n");
        } else if context.version == Version::Http10 {
            self.buffer.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        self.buffer.extend_from_slice(b"\r\n");
        (self.buffer, body, if closes { Persistence::Close } else { Persistence::KeepAlive })
    }

    /// Completes the head of a response in HTTP/2, as `encode` does. The frames of HTTP/2 frame the body, and no field
    /// concerns the connection (RFC 9113 §8.2.2).
    pub fn encode_http2(mut self, context: &Context<'_>) -> (Vec<u8>, BodyEncoder) {
        // A body of HTTP/1.0 needs no framing of its own, either.
        let body = self.frame(&Context { version: Version::Http10, ..*context });
        self.write_common(context);
        self.buffer.extend_from_slice(b"\r\n");
        (self.buffer, body)
    }

    /// Writes the fields of the server that the application has not set.
    #[allow(clippy::inline_always, reason = "as for encode")]
    #[inline(always)]
    fn write_common(&mut self, context: &Context<'_>) {
        if !self.has_date {
            self.write_field(b"Date", context.date);
        }
        if let (false, Some(server)) = (self.has_server, context.server) {
            self.write_field(b"Server", server);
        }
        if let Some((name, value)) = context.request_id {
            self.write_missing(name, value);
        }
    }

    /// Decides the body's framing (RFC 9112 §6.3) and writes its field.
    #[allow(clippy::inline_always, reason = "as for encode")]
    #[inline(always)]
    fn frame(&mut self, context: &Context<'_>) -> BodyEncoder {
        match (self.status, self.content_length, context.body_bytes) {
            // RFC 9110 §8.6, §15.3.5, §15.4.5. A 304 may keep the length that the application gave it.
            (204 | 304, _, _) => BodyEncoder::None,
            // RFC 9110 §15.3.6: no content, and `Content-Length: 0`.
            (205, _, _) => {
                self.write_content_length(0);
                if context.is_head { BodyEncoder::None } else { BodyEncoder::Length { remaining: 0 } }
            }
            (_, Some(_), _) if context.is_head => BodyEncoder::None,
            (_, Some(given), _) => BodyEncoder::Length { remaining: given },
            (_, None, known) if context.is_head => {
                // An application without a body for HEAD may have one for GET (RFC 9110 §8.6). An unknown length is
                // left out (RFC 9110 §9.3.2).
                if let Some(bytes @ 1..) = known {
                    self.write_content_length(bytes);
                }
                BodyEncoder::None
            }
            (_, None, Some(known)) => {
                self.write_content_length(known);
                BodyEncoder::Length { remaining: known }
            }
            (_, None, None) if context.version == Version::Http10 => BodyEncoder::UntilClose,
            (_, None, None) => {
                self.buffer.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
                BodyEncoder::Chunked
            }
        }
    }
}

/// A field that the server has to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Special {
    ContentLength,
    Connection,
    Date,
    Server,
    /// RFC 9110 §7.6.1, and the list of PEP 3333's reference server: an application must not set these.
    HopByHop,
}

impl Special {
    #[inline]
    fn of(name: &[u8]) -> Option<Self> {
        match name.len() {
            2 if is_name(name, b"TE") => Some(Self::HopByHop),
            4 if is_name(name, b"Date") => Some(Self::Date),
            6 if is_name(name, b"Server") => Some(Self::Server),
            7 if is_name(name, b"Upgrade") || is_name(name, b"Trailer") => Some(Self::HopByHop),
            8 if is_name(name, b"Trailers") => Some(Self::HopByHop),
            10 if is_name(name, b"Connection") => Some(Self::Connection),
            10 if is_name(name, b"Keep-Alive") => Some(Self::HopByHop),
            14 if is_name(name, b"Content-Length") => Some(Self::ContentLength),
            16 if is_name(name, b"Proxy-Connection") => Some(Self::HopByHop),
            17 if is_name(name, b"Transfer-Encoding") => Some(Self::HopByHop),
            18 if is_name(name, b"Proxy-Authenticate") => Some(Self::HopByHop),
            19 if is_name(name, b"Proxy-Authorization") => Some(Self::HopByHop),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
