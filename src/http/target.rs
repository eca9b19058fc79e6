//! The request line: method, request target, version (RFC 9112 §3, §2.3).

use super::chars::{is_target, is_token};
use super::find::find;
use super::span::Span;
use super::{ParseError, Version, host};

/// The longest method that is accepted, in bytes. The longest registered one, UPDATEREDIRECTREF, has 17.
const METHOD_BYTES_MAX: usize = 32;

/// The parts of one request line, as offsets into it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RequestLine {
    pub(super) method: Span,
    pub(super) target: Span,
    /// Empty only for an absolute form without a path.
    pub(super) path: Span,
    pub(super) query: Span,
    /// The authority of an absolute form.
    pub(super) authority: Option<Span>,
    pub(super) version: Version,
}

impl RequestLine {
    /// Reads `line`, which has no CRLF.
    pub(super) fn parse(line: &[u8]) -> Result<Self, ParseError> {
        let mut parsed = Self::default();
        parsed.set(line)?;
        Ok(parsed)
    }

    /// Reads `line` in place of an earlier one.
    pub(super) fn set(&mut self, line: &[u8]) -> Result<(), ParseError> {
        self.read(line, parse_version)
    }

    /// Reads the line of an HTTP/2 request, which has no CRLF either.
    pub(super) fn set_http2(&mut self, line: &[u8]) -> Result<(), ParseError> {
        let version = |version: &[u8]| {
            if version == b"HTTP/2.0" { Ok(Version::Http2) } else { Err(ParseError::VersionNotSupported) }
        };
        self.read(line, version)
    }

    #[allow(clippy::inline_always, reason = "a call would cost each request")]
    #[inline(always)]
    fn read(
        &mut self,
        line: &[u8],
        parse_version: impl FnOnce(&[u8]) -> Result<Version, ParseError>,
    ) -> Result<(), ParseError> {
        // Check the method first, so that a message that is not HTTP gets the error for that.
        let (method, rest, method_end) = split_space(line);
        if !is_token(method) {
            return Err(ParseError::Method);
        }
        let (target, version, target_bytes) = split_space(rest.ok_or(ParseError::RequestLine)?);
        let version = version.ok_or(ParseError::RequestLine)?;
        if target.is_empty() {
            return Err(ParseError::RequestLine);
        }
        let version = parse_version(version).map_err(|error| {
            // A further space is the first mistake.
            if version.contains(&b' ') { ParseError::RequestLine } else { error }
        })?;
        if method.len() > METHOD_BYTES_MAX {
            return Err(ParseError::MethodTooLong);
        }
        if !is_target(target) {
            return Err(ParseError::TargetCharacter);
        }
        if method == b"CONNECT" {
            return Err(ParseError::MethodNotImplemented);
        }
        let start = method_end.saturating_add(1);
        let parts = Target::parse(method, target)?;
        let span = |from: usize, to: usize| Span::new(start.saturating_add(from), start.saturating_add(to));
        self.method = Span::new(0, method_end);
        self.target = span(0, target_bytes);
        self.path = span(parts.path.0, parts.path.1);
        self.query = span(parts.query.0, parts.query.1);
        self.authority = parts.authority.map(|(from, to)| span(from, to));
        self.version = version;
        Ok(())
    }
}

/// Splits at the first space. Returns the bytes before it, the bytes after it (`None` without a space), and the length
/// of the first part.
fn split_space(bytes: &[u8]) -> (&[u8], Option<&[u8]>, usize) {
    let at = find(b' ', bytes).unwrap_or(bytes.len());
    (bytes.get(..at).unwrap_or_default(), bytes.get(at.saturating_add(1)..), at)
}

/// Reads `HTTP/` DIGIT `.` DIGIT, case-sensitive (RFC 9112 §2.3). A higher minor version counts as 1.1 (RFC 9110 §2.5).
/// Another major version is refused; HTTP/2 and HTTP/3 have no minor version (RFC 9110 §15.6.6).
fn parse_version(version: &[u8]) -> Result<Version, ParseError> {
    match version {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor] if minor.is_ascii_digit() => Ok(Version::Http11),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Err(ParseError::VersionNotSupported)
        }
        b"HTTP/2" | b"HTTP/3" => Err(ParseError::VersionNotSupported),
        _ => Err(ParseError::Version),
    }
}

/// The parts of a request target, as offsets into it.
struct Target {
    authority: Option<(usize, usize)>,
    path: (usize, usize),
    query: (usize, usize),
}

impl Target {
    fn parse(method: &[u8], target: &[u8]) -> Result<Self, ParseError> {
        match target {
            [b'/', ..] => Ok(Self::from_path(target, 0, None)),
            b"*" if method == b"OPTIONS" => Ok(Self::from_path(target, 0, None)),
            _ => {
                let start = absolute_start(target).ok_or(ParseError::TargetForm)?;
                let rest = target.get(start..).unwrap_or_default();
                let authority = rest.split(|byte| matches!(byte, b'/' | b'?')).next().unwrap_or_default();
                if authority.is_empty() || !host::is_valid(authority) {
                    return Err(ParseError::Authority);
                }
                let end = start.saturating_add(authority.len());
                Ok(Self::from_path(target, end, Some((start, end))))
            }
        }
    }

    /// Divides the target from `start` on into path and query.
    fn from_path(target: &[u8], start: usize, authority: Option<(usize, usize)>) -> Self {
        let end = target.len();
        let question = find(b'?', target.get(start..).unwrap_or_default());
        let path_end = question.map_or(end, |at| start.saturating_add(at));
        Self { authority, path: (start, path_end), query: (path_end.saturating_add(1).min(end), end) }
    }
}

/// Returns the offset of the authority, if `target` is an `http` or `https` URI (RFC 9112 §3.2.2).
fn absolute_start(target: &[u8]) -> Option<usize> {
    let begins_with =
        |scheme: &[u8]| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    [&b"http://"[..], b"https://"].into_iter().find(|scheme| begins_with(scheme)).map(<[u8]>::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &[u8]) -> ParseError {
        RequestLine::parse(line).map(|_| ()).expect_err(&String::from_utf8_lossy(line))
    }

    fn parts(line: &[u8]) -> (&[u8], &[u8], Option<&[u8]>) {
        let read = RequestLine::parse(line).expect("a valid request line");
        (read.path.of(line), read.query.of(line), read.authority.map(|span| span.of(line)))
    }

    #[test]
    fn target_origin_form_kept_as_sent() {
        assert_eq!(parts(b"GET //a//b/../c?x=%zz?y HTTP/1.1"), (&b"//a//b/../c"[..], &b"x=%zz?y"[..], None));
        assert_eq!(parts(b"GET /? HTTP/1.1"), (&b"/"[..], &b""[..], None));
    }

    #[test]
    fn target_absolute_form_divided() {
        assert_eq!(parts(b"GET HTTP://h:80/p?q HTTP/1.1"), (&b"/p"[..], &b"q"[..], Some(&b"h:80"[..])));
        assert_eq!(parts(b"GET https://h HTTP/1.1"), (&b""[..], &b""[..], Some(&b"h"[..])));
        assert_eq!(parts(b"GET http://h?a=1/2 HTTP/1.1"), (&b""[..], &b"a=1/2"[..], Some(&b"h"[..])));
    }

    #[test]
    fn target_absolute_form_bad_authority_refused() {
        for line in [
            &b"GET http:///p HTTP/1.1"[..],
            b"GET http://u@h/ HTTP/1.1",
            b"GET http://h:x/ HTTP/1.1",
            b"GET http://:80/ HTTP/1.1",
        ] {
            assert_eq!(error(line), ParseError::Authority);
        }
    }

    #[test]
    fn target_of_no_form_refused() {
        for line in [
            &b"GET a/b HTTP/1.1"[..],
            b"GET * HTTP/1.1",
            b"GET h:80 HTTP/1.1",
            b"OPTIONS *? HTTP/1.1",
            b"GET ftp://h/ HTTP/1.1",
            b"GET http:/p HTTP/1.1",
            b"GET ?q HTTP/1.1",
        ] {
            assert_eq!(error(line), ParseError::TargetForm);
        }
    }

    #[test]
    fn request_line_parts_missing_or_over_refused() {
        for line in [
            &b"GET"[..],
            b"GET /",
            b"GET / ",
            b"GET  / HTTP/1.1",
            b"GET /  HTTP/1.1",
            b"GET / HTTP/1.1 ",
            b"GET /a b HTTP/1.1",
            b"GET HTTP/1.1",
        ] {
            let error = error(line);
            assert!(matches!(error, ParseError::RequestLine | ParseError::Version), "{error}");
            assert_eq!(error.status(), 400);
        }
        assert_eq!(error(b" / HTTP/1.1"), ParseError::Method);
        assert_eq!(error(b"GE(T / HTTP/1.1"), ParseError::Method);
        assert_eq!(error(b"GET\t/\tHTTP/1.1"), ParseError::Method);
    }

    #[test]
    fn version_of_another_major_number_not_supported() {
        for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/3", "HTTP/2", "HTTP/9.9"] {
            assert_eq!(error(format!("GET / {version}").as_bytes()), ParseError::VersionNotSupported);
        }
    }

    #[test]
    fn version_malformed_refused() {
        for version in
            ["HTTP/1.10", "http/1.1", "ICY/1.1", "HTTP/1", "HTTP/1.", "HTTP/+1.1", "HTTP/1,1", "HTTP/11", "HTTP/01.1"]
        {
            assert_eq!(error(format!("GET / {version}").as_bytes()), ParseError::Version);
        }
    }

    #[test]
    fn version_higher_minor_is_1_1() {
        let version = |line: &[u8]| RequestLine::parse(line).map(|line| line.version);
        assert_eq!(version(b"GET / HTTP/1.2"), Ok(Version::Http11));
        assert_eq!(version(b"GET / HTTP/1.0"), Ok(Version::Http10));
    }

    #[test]
    fn method_not_ours_not_implemented() {
        assert_eq!(error(b"CONNECT h:80 HTTP/1.1"), ParseError::MethodNotImplemented);
        assert_eq!(error(format!("{} / HTTP/1.1", "A".repeat(33)).as_bytes()), ParseError::MethodTooLong);
    }

    #[test]
    fn target_bad_character_refused() {
        for byte in (0_u8..=255).filter(|byte| !matches!(byte, b' ' | 0x21..=0x22 | 0x24..=0x7E)) {
            assert_eq!(error(&[b"GET /a", &[byte][..], b"b HTTP/1.1"].concat()), ParseError::TargetCharacter);
        }
    }
}
