//! Header fields: parses their lines and reads the fields that concern the server (RFC 9112 §5, §6; RFC 9110 §5, §10).

use std::mem;

use httparse::{EMPTY_HEADER, Header, Status};

use super::chars::{DecimalError, decimal, is_field_value, is_name, is_token, list};
use super::persistence::ConnectionOptions;
use super::span::Span;
use super::{Family, Framing, ParseError, Version, family_of, host};

/// The number of fields that are parsed without an allocation, in 1 KiB of a coroutine's stack.
const FIELDS_ON_STACK: usize = 32;

/// The position of one field in its head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: Span,
    pub(super) value: Span,
}

/// The values of the fields that concern the server.
#[derive(Debug, Default)]
pub(super) struct Known<'a> {
    pub(super) host: Option<(Span, &'a [u8])>,
    pub(super) content_length: Option<u64>,
    pub(super) connection: ConnectionOptions,
    pub(super) expects_continue: bool,
    /// A family of fields in which proxies tell something, if there is such a field.
    pub(super) proxies: Option<Family>,
    /// The value of the first `X-Request-Start`, by which a proxy says when it got the request.
    pub(super) request_start: Option<Span>,
    transfer_encoding: Option<&'a [u8]>,
    has_content_type: bool,
    has_unknown_expectation: bool,
}

/// Reads the field lines and the empty line in `block`, which begins at `offset` of the head, into `fields` and `known`.
#[allow(clippy::inline_always, reason = "a call would cost each request")]
#[inline(always)]
pub(super) fn parse<'a>(
    block: &'a [u8],
    offset: usize,
    fields_max: usize,
    fields: &mut Vec<Field>,
    known: &mut Known<'a>,
) -> Result<(), ParseError> {
    match httparse::parse_headers(block, &mut [EMPTY_HEADER; FIELDS_ON_STACK]) {
        Ok(Status::Complete((consumed, headers))) if consumed == block.len() && headers.len() <= fields_max => {
            collect(block, offset, headers, fields, known)
        }
        _ => parse_unusual(block, offset, fields_max, fields, known),
    }
}

/// Reads fields that are more than have room on the stack, or wrong.
#[cold]
fn parse_unusual<'a>(
    block: &'a [u8],
    offset: usize,
    fields_max: usize,
    fields: &mut Vec<Field>,
    known: &mut Known<'a>,
) -> Result<(), ParseError> {
    // Count one line end per field, and one for the empty line.
    let lines = memchr::memchr_iter(b'\n', block).count();
    if lines > fields_max.saturating_add(1) {
        return Err(ParseError::TooManyFields);
    }
    match httparse::parse_headers(block, &mut vec![EMPTY_HEADER; lines]) {
        Ok(Status::Complete((consumed, headers))) if consumed == block.len() => {
            collect(block, offset, headers, fields, known)
        }
        _ => Err(diagnose(block)),
    }
}

fn collect<'a>(
    block: &'a [u8],
    offset: usize,
    headers: &[Header<'a>],
    fields: &mut Vec<Field>,
    known: &mut Known<'a>,
) -> Result<(), ParseError> {
    fields.reserve_exact(headers.len());
    let locate = |part: &[u8]| {
        let start = part.as_ptr().addr().wrapping_sub(block.as_ptr().addr()).wrapping_add(offset);
        if part.is_empty() { Span::default() } else { Span::new(start, start.wrapping_add(part.len())) }
    };
    for &Header { name, value } in headers {
        let field = Field { name: locate(name.as_bytes()), value: locate(value) };
        known.add(name.as_bytes(), value, field.value)?;
        fields.push(field);
    }
    Ok(())
}

/// Returns which rule the first wrong line breaks. httparse reports only that a line is wrong.
fn diagnose(block: &[u8]) -> ParseError {
    for line in block.split(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        if matches!(line, [b' ' | b'\t', ..]) {
            return ParseError::ObsFold;
        }
        let mut parts = line.splitn(2, |&byte| byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next());
        match value {
            _ if line.contains(&b'\r') => return ParseError::BareCr,
            None => return ParseError::FieldLine,
            Some(_) if matches!(name, [.., b' ' | b'\t']) => return ParseError::SpaceBeforeColon,
            Some(_) if !is_token(name) => return ParseError::FieldName,
            Some(value) if !is_field_value(value) => return ParseError::FieldValue,
            Some(_) => {}
        }
    }
    ParseError::FieldLine
}

impl<'a> Known<'a> {
    /// Reads one field if it concerns the server. The length of the name already rules out most fields.
    #[inline]
    fn add(&mut self, name: &[u8], value: &'a [u8], span: Span) -> Result<(), ParseError> {
        match name.len() {
            4 if is_name(name, b"Host") => {
                require(self.host.replace((span, value)).is_none(), ParseError::HostRepeated)?;
            }
            6 if is_name(name, b"Expect") => {
                for expectation in list(value) {
                    let is_continue = expectation.eq_ignore_ascii_case(b"100-continue");
                    self.expects_continue |= is_continue;
                    self.has_unknown_expectation |= !is_continue;
                }
            }
            10 if is_name(name, b"Connection") => self.connection.add(value),
            12 if is_name(name, b"Content-Type") => {
                require(!mem::replace(&mut self.has_content_type, true), ParseError::ContentTypeRepeated)?;
            }
            14 if is_name(name, b"Content-Length") => {
                let length = decimal(value).map_err(|error| match error {
                    DecimalError::NotDigits => ParseError::ContentLength,
                    DecimalError::TooLarge => ParseError::ContentLengthTooLarge,
                })?;
                require(self.content_length.replace(length).is_none(), ParseError::ContentLengthRepeated)?;
            }
            15 if is_name(name, b"X-Request-Start") => {
                self.request_start.get_or_insert(span);
            }
            17 if is_name(name, b"Transfer-Encoding") => {
                require(self.transfer_encoding.replace(value).is_none(), ParseError::TransferEncodingRepeated)?;
            }
            14 if name.eq_ignore_ascii_case(b"content_length") => return Err(ParseError::FramingUnderscore),
            17 if name.eq_ignore_ascii_case(b"transfer_encoding") => return Err(ParseError::FramingUnderscore),
            9.. if matches!(name, [b'X' | b'x' | b'F' | b'f', ..]) => {
                self.proxies = self.proxies.or_else(|| family_of(name));
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns how the body is delimited (RFC 9112 §6.3). Refuses ambiguous framing.
    pub(super) fn framing(&self, version: Version) -> Result<Framing, ParseError> {
        let Some(transfer_encoding) = self.transfer_encoding else {
            return Ok(match self.content_length {
                None | Some(0) => Framing::None,
                Some(length) => Framing::Length(length),
            });
        };
        if version == Version::Http10 {
            return Err(ParseError::TransferEncodingVersion);
        }
        if self.content_length.is_some() {
            return Err(ParseError::FramingConflict);
        }
        if transfer_encoding.eq_ignore_ascii_case(b"chunked") {
            return Ok(Framing::Chunked);
        }
        Err(diagnose_coding(transfer_encoding))
    }

    /// Checks that `Host` is present if the version requires it, and that it is valid (RFC 9112 §3.2).
    pub(super) fn check_host(&self, version: Version) -> Result<(), ParseError> {
        match self.host {
            None if version != Version::Http10 => Err(ParseError::HostMissing),
            Some((_, value)) if !host::is_valid(value) => Err(ParseError::Host),
            _ => Ok(()),
        }
    }

    /// Refuses an unknown expectation (RFC 9110 §10.1.1: MAY). HTTP/1.0 has no expectations.
    pub(super) fn check_expectations(&self, version: Version) -> Result<(), ParseError> {
        if self.has_unknown_expectation && version != Version::Http10 {
            return Err(ParseError::ExpectationFailed);
        }
        Ok(())
    }
}

fn require(holds: bool, error: ParseError) -> Result<(), ParseError> {
    if holds { Ok(()) } else { Err(error) }
}

/// Returns the error for a `Transfer-Encoding` other than `chunked`: a coding that the server does not have, or an
/// invalid list. Unless `chunked` is the last coding, and only the last, the body has no known end (RFC 9112 §6.1,
/// §6.3).
fn diagnose_coding(transfer_encoding: &[u8]) -> ParseError {
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let codings: Vec<&[u8]> = list(transfer_encoding).collect();
    match codings.split_last() {
        Some((last, others))
            if is_chunked(last)
                && !others.is_empty()
                && others.iter().all(|coding| is_token(coding) && !is_chunked(coding)) =>
        {
            ParseError::CodingNotImplemented
        }
        _ => ParseError::TransferEncoding,
    }
}
