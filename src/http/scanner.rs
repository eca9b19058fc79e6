//! Finds the end of a request head while it arrives (RFC 9112 §2.1, §2.2, §3).
//!
//! *Invariants*: each byte is scanned once, at every split of the input. A wrong line or an exceeded limit is an error
//! as soon as the byte that causes it has arrived, so that no caller waits for the rest.

use super::chars::is_token_byte;
use super::find::find_line_end;
use super::target::RequestLine;
use super::{Limits, ParseError};

/// The number of empty lines that are ignored before a request line; RFC 9112 §2.2 asks for at least one.
const EMPTY_LINES_MAX: u8 = 4;

/// Finds the end of a head in a growing buffer, and scans every byte once.
#[derive(Debug, Default, Clone)]
pub struct HeadScanner {
    /// The number of bytes that have been scanned.
    scanned: usize,
    line_start: usize,
    empty_lines: u8,
    fields: usize,
    stage: Stage,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    RequestLine,
    Fields,
}

impl HeadScanner {
    /// Scans the bytes that are new since the last call. `buffer` always begins with the head's first byte. When the
    /// head is complete, returns its length, including leading empty lines and the final one (RFC 9112 §2.2).
    ///
    /// # Errors
    /// A bare CR or LF, an exceeded limit, or a complete and wrong request line. After an error and after a complete
    /// head, use a new scanner for the next head.
    pub fn scan(&mut self, buffer: &[u8], limits: &Limits) -> Result<Option<usize>, ParseError> {
        loop {
            if self.stage == Stage::RequestLine {
                self.check_first_byte(buffer)?;
            }
            let rest = buffer.get(self.scanned..).unwrap_or_default();
            let Some(found) = find_line_end(rest) else {
                self.scanned = buffer.len();
                self.check_limits(buffer.len(), buffer.len(), limits)?;
                return Ok(None);
            };
            // Places in a buffer do not overflow.
            let at = self.scanned.wrapping_add(found);
            let (after, end) = (at.wrapping_add(1), at.wrapping_add(2));
            match rest.get(found..).unwrap_or_default() {
                [b'\r', b'\n', ..] => {
                    if at.wrapping_sub(self.line_start) > self.line_limit(limits).0 || end > limits.head_bytes_max {
                        self.check_limits(after, end, limits)?;
                    }
                }
                [b'\n', ..] => {
                    self.check_limits(at, after, limits)?;
                    return Err(ParseError::BareLf);
                }
                [_, _, ..] => {
                    self.check_limits(end, end, limits)?;
                    return Err(ParseError::BareCr);
                }
                [_] | [] => {
                    // The buffer ends in a CR. Only the next byte tells whether the CR is bare.
                    self.scanned = at;
                    self.check_limits(after, after, limits)?;
                    return Ok(None);
                }
            }
            let line = buffer.get(self.line_start..at).unwrap_or_default();
            self.scanned = end;
            self.line_start = end;
            if self.take_line(line, limits)? {
                return Ok(Some(end));
            }
        }
    }

    /// Returns whether `line` ends the head.
    fn take_line(&mut self, line: &[u8], limits: &Limits) -> Result<bool, ParseError> {
        match (self.stage, line.is_empty()) {
            (Stage::RequestLine, true) => {
                self.empty_lines = self.empty_lines.saturating_add(1);
                if self.empty_lines > EMPTY_LINES_MAX { Err(ParseError::EmptyLines) } else { Ok(false) }
            }
            (Stage::RequestLine, false) => {
                // `RequestHead::parse` checks the whole line later. Check a line of another version now: its client
                // sends no fields and waits for the response (HTTP/0.9, the preface of HTTP/2).
                if !line.ends_with(b" HTTP/1.1") && !line.ends_with(b" HTTP/1.0") {
                    RequestLine::parse(line)?;
                }
                self.stage = Stage::Fields;
                Ok(false)
            }
            (Stage::Fields, true) => Ok(true),
            (Stage::Fields, false) => {
                self.fields = self.fields.saturating_add(1);
                if self.fields > limits.fields_max { Err(ParseError::TooManyFields) } else { Ok(false) }
            }
        }
    }

    /// Refuses a first byte that cannot begin a method, because the message is not HTTP. TLS, for example, begins with
    /// 0x16.
    fn check_first_byte(&self, buffer: &[u8]) -> Result<(), ParseError> {
        match buffer.get(self.line_start) {
            Some(&byte) if !is_token_byte(byte) && !matches!(byte, b'\r' | b'\n') => Err(ParseError::Method),
            _ => Ok(()),
        }
    }

    /// Returns the most bytes of a line in this stage, and the error for a longer one.
    #[inline]
    fn line_limit(&self, limits: &Limits) -> (usize, ParseError) {
        match self.stage {
            Stage::RequestLine => (limits.request_line_bytes_max, ParseError::UriTooLong),
            Stage::Fields => (limits.field_bytes_max, ParseError::FieldTooLarge),
        }
    }

    /// Checks the limits. `line_end` is the end of the current line so far, without an LF; `seen` is the number of
    /// scanned bytes. The limit in the error depends only on the bytes and the limits, not on the split points.
    fn check_limits(&self, line_end: usize, seen: usize, limits: &Limits) -> Result<(), ParseError> {
        let (line_max, error) = self.line_limit(limits);
        // The CR of a line of maximum length is one byte beyond the limit.
        let line_end_max = self.line_start.saturating_add(line_max).saturating_add(1);
        let line_is_over = line_end > line_end_max;
        let head_is_over = seen > limits.head_bytes_max;
        if line_is_over && (!head_is_over || line_end_max <= limits.head_bytes_max) {
            return Err(error);
        }
        if head_is_over { Err(ParseError::HeadTooLarge) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { request_line_bytes_max: 40, fields_max: 3, field_bytes_max: 30, head_bytes_max: 120 };

    fn scan(bytes: &[u8]) -> Result<Option<usize>, ParseError> {
        HeadScanner::default().scan(bytes, &LIMITS)
    }

    #[test]
    fn scan_complete_head_gives_its_length() {
        assert_eq!(scan(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest"), Ok(Some(27)));
        assert_eq!(scan(b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"), Ok(Some(22)));
    }

    #[test]
    fn scan_incomplete_head_is_no_error() {
        for bytes in [&b""[..], b"\r", b"GET / HTTP/1.1\r\n\r", b"GET / HTTP/1.1\r\nHost"] {
            assert_eq!(scan(bytes), Ok(None));
        }
    }

    #[test]
    fn scan_bare_line_end_is_refused_at_once() {
        assert_eq!(scan(b"GET / HTTP/1.1\n"), Err(ParseError::BareLf));
        assert_eq!(scan(b"\n"), Err(ParseError::BareLf));
        assert_eq!(scan(b"GET / HTTP/1.1\r\nA: b\n"), Err(ParseError::BareLf));
        assert_eq!(scan(b"GET / HTTP/1.1\rA"), Err(ParseError::BareCr));
        assert_eq!(scan(b"\r\r"), Err(ParseError::BareCr));
    }

    #[test]
    fn scan_not_http_refused_at_its_first_byte() {
        for byte in [0x16, 0, b' ', b'\t', 0x80, b'{', b'"', 0x7F] {
            assert_eq!(scan(&[byte]), Err(ParseError::Method));
        }
    }

    #[test]
    fn scan_complete_wrong_request_line_refused_before_the_fields() {
        assert_eq!(scan(b"GET /x\r\n"), Err(ParseError::RequestLine));
        assert_eq!(scan(b"PRI * HTTP/2.0\r\n"), Err(ParseError::VersionNotSupported));
    }

    #[test]
    fn scan_empty_lines_bounded() {
        assert_eq!(scan(b"\r\n\r\n\r\n\r\n"), Ok(None));
        assert_eq!(scan(b"\r\n\r\n\r\n\r\n\r\n"), Err(ParseError::EmptyLines));
    }

    #[test]
    fn scan_request_line_at_the_limit_accepted_and_over_it_414() {
        let line = |bytes: usize| format!("GET /{} HTTP/1.1\r\n", "a".repeat(bytes.saturating_sub(14)));
        assert_eq!(scan(line(40).as_bytes()), Ok(None));
        assert_eq!(scan(line(41).as_bytes()), Err(ParseError::UriTooLong));
        assert_eq!(scan("A".repeat(42).as_bytes()), Err(ParseError::UriTooLong));
    }

    #[test]
    fn scan_field_at_the_limit_accepted_and_over_it_431() {
        let head = |bytes: usize| format!("GET / HTTP/1.1\r\nA:{}\r\n", "a".repeat(bytes.saturating_sub(2)));
        assert_eq!(scan(head(30).as_bytes()), Ok(None));
        assert_eq!(scan(head(31).as_bytes()), Err(ParseError::FieldTooLarge));
    }

    #[test]
    fn scan_fields_at_the_limit_accepted_and_over_it_431() {
        assert_eq!(scan(b"GET / HTTP/1.1\r\nA:\r\nB:\r\nC:\r\n"), Ok(None));
        assert_eq!(scan(b"GET / HTTP/1.1\r\nA:\r\nB:\r\nC:\r\nD:\r\n"), Err(ParseError::TooManyFields));
    }

    #[test]
    fn scan_head_over_its_limit_431() {
        let head = format!("GET /{} HTTP/1.1\r\n{}", "a".repeat(20), format!("A:{}\r\n", "a".repeat(28)).repeat(3));
        assert_eq!(scan(head.as_bytes()), Err(ParseError::HeadTooLarge));
    }
}
