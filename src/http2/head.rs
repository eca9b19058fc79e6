//! Heads of HTTP/2 in the form of HTTP/1, and back (RFC 9113 §8.2, §8.3).
//!
//! *Runs on*: the calling thread. *Invariants*: `h2` has checked that no part of a request has a CR, an LF or a NUL, that
//! names are in lower case, and that no field concerns the connection. So no part can pass for another one here.

use http_types::header::{COOKIE, HOST, HeaderName, HeaderValue};
use http_types::request::Parts;
use http_types::uri::{Authority, PathAndQuery};
use http_types::{Method, Response, StatusCode};
use octets::Bytes;

use crate::http::{Limits, ParseError, find};

/// Where the status code is in a status line of HTTP/1.
const STATUS: std::ops::Range<usize> = 9..12;

/// Fields are remembered of heads up to this size, which stay in memory with them.
const REMEMBERED_BYTES_MAX: usize = 1024;
/// How many fields are remembered.
const REMEMBERED_FIELDS_MAX: usize = 16;

/// A head that HTTP/2 cannot carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("HTTP/2 cannot carry this head")]
pub struct Unsendable;

/// Writes the head of a request in the form of HTTP/1 in place of the text, with `Host` first. Crumbs of a cookie are
/// joined (RFC 9113 §8.2.3). After an error the text is a part of the head, or empty.
///
/// # Errors
/// The request asks for a tunnel or has no target. A line or the head is too long, as in HTTP/1. `HostRepeated`: it has
/// two different hosts. `FieldValue`: a value begins or ends with white space. A request with one of the last two is
/// malformed (RFC 9113 §8.1.1).
pub fn request_text(parts: &Parts, text: &mut Vec<u8>, limits: &Limits) -> Result<(), ParseError> {
    text.clear();
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if parts.headers.values().any(|value| is_space(value.as_bytes().first()) || is_space(value.as_bytes().last())) {
        return Err(ParseError::FieldValue);
    }
    if parts.method == Method::CONNECT {
        return Err(ParseError::MethodNotImplemented);
    }
    let target = parts.uri.path_and_query().map(PathAndQuery::as_str).ok_or(ParseError::TargetForm)?;
    let mut text = Text { head: text, line_start: 0, limits };
    text.push(&[parts.method.as_str().as_bytes(), b" ", target.as_bytes(), b" HTTP/2.0"]);
    text.end_line(limits.request_line_bytes_max, ParseError::UriTooLong)?;
    let authority = parts.uri.authority().map(Authority::as_str).map(str::as_bytes);
    if let Some(authority) = authority {
        let is_other = |host: &HeaderValue| !host.as_bytes().eq_ignore_ascii_case(authority);
        if parts.headers.get_all(HOST).iter().any(is_other) {
            return Err(ParseError::HostRepeated);
        }
        text.push(&[b"host: ", authority]);
        text.end_field()?;
    }
    let mut is_in_cookie = false;
    // The values of a name come together.
    for (name, value) in &parts.headers {
        let is_cookie = name == COOKIE;
        if is_cookie && is_in_cookie {
            text.push(&[b"; ", value.as_bytes()]);
            continue;
        }
        if is_in_cookie {
            text.end_field()?;
        }
        is_in_cookie = is_cookie;
        if name != HOST || authority.is_none() {
            text.push(&[name.as_str().as_bytes(), b": ", value.as_bytes()]);
            if !is_cookie {
                text.end_field()?;
            }
        }
    }
    if is_in_cookie {
        text.end_field()?;
    }
    text.end_field()
}

/// A head that is being written, within the limits.
struct Text<'a> {
    head: &'a mut Vec<u8>,
    line_start: usize,
    limits: &'a Limits,
}

impl Text<'_> {
    fn push(&mut self, pieces: &[&[u8]]) {
        for piece in pieces {
            self.head.extend_from_slice(piece);
        }
    }

    fn end_field(&mut self) -> Result<(), ParseError> {
        self.end_line(self.limits.field_bytes_max, ParseError::FieldTooLarge)
    }

    /// Ends a line. It must not be longer than `line_max` bytes, and the head must not be longer than a head may be.
    fn end_line(&mut self, line_max: usize, error: ParseError) -> Result<(), ParseError> {
        let line_bytes = self.head.len().saturating_sub(self.line_start);
        self.head.extend_from_slice(b"\r\n");
        self.line_start = self.head.len();
        if line_bytes > line_max {
            return Err(error);
        }
        if self.head.len() > self.limits.head_bytes_max { Err(ParseError::HeadTooLarge) } else { Ok(()) }
    }
}

/// Reads the heads of responses. It remembers their fields, because the next response often has the same ones.
#[derive(Debug, Default)]
pub struct HeadReader {
    /// By their places in the head.
    known: Vec<KnownField>,
    /// The last head, if it was short enough.
    last: Bytes,
    /// The last head as it was read, once it has come twice.
    repeated: Option<Response<()>>,
}

/// A field that has been read.
#[derive(Debug)]
struct KnownField {
    line: Bytes,
    name: HeaderName,
    value: HeaderValue,
}

impl HeadReader {
    /// Reads the head of a response in the form of HTTP/1.
    ///
    /// # Errors
    /// The status is below 100 or above 999, or there are too many fields.
    pub fn read(&mut self, head: Vec<u8>) -> Result<Response<()>, Unsendable> {
        let is_repeated = self.last == head;
        if let Some(response) = self.repeated.as_ref().filter(|_| is_repeated) {
            return Ok(response.clone());
        }
        let head = Bytes::from(head);
        let response = self.read_new(&head)?;
        self.repeated = is_repeated.then(|| response.clone());
        self.last = if head.len() <= REMEMBERED_BYTES_MAX { head } else { Bytes::new() };
        Ok(response)
    }

    fn read_new(&mut self, head: &Bytes) -> Result<Response<()>, Unsendable> {
        let mut response = Response::new(());
        let (mut begin, mut place): (usize, usize) = (0, 0);
        while let Some(length) = head.get(begin..).and_then(|rest| find(b'\r', rest)) {
            let end = begin.saturating_add(length);
            let line = head.get(begin..end).unwrap_or_default();
            if line.is_empty() {
                break;
            }
            if begin == 0 {
                let status = line.get(STATUS).unwrap_or_default();
                *response.status_mut() = StatusCode::from_bytes(status).map_err(|_| Unsendable)?;
            } else {
                let (name, value) = self.read_field(head, line, place)?;
                response.headers_mut().try_append(name, value).map_err(|_| Unsendable)?;
                place = place.saturating_add(1);
            }
            begin = end.saturating_add(2);
        }
        Ok(response)
    }

    /// Reads the field at this place of the head.
    fn read_field(&mut self, head: &Bytes, line: &[u8], place: usize) -> Result<(HeaderName, HeaderValue), Unsendable> {
        let known = self.known.get_mut(place);
        if let Some(KnownField { name, value, .. }) = known.as_ref().filter(|known| known.line == line) {
            return Ok((name.clone(), value.clone()));
        }
        let colon = find(b':', line).ok_or(Unsendable)?;
        let (name, value) = line.split_at_checked(colon).ok_or(Unsendable)?;
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let name = HeaderName::from_bytes(name).map_err(|_| Unsendable)?;
        // The values share the head.
        let value = HeaderValue::from_maybe_shared(head.slice_ref(value)).map_err(|_| Unsendable)?;
        if head.len() <= REMEMBERED_BYTES_MAX && place < REMEMBERED_FIELDS_MAX {
            let field = KnownField { line: head.slice_ref(line), name: name.clone(), value: value.clone() };
            match known {
                Some(known) => *known = field,
                None => self.known.push(field),
            }
        }
        Ok((name, value))
    }
}

/// Reads the heads of interim responses, one behind the other.
pub fn interims(heads: &[u8]) -> impl Iterator<Item = Result<Response<()>, Unsendable>> {
    let mut rest = heads;
    std::iter::from_fn(move || {
        let end = memchr::memmem::find(rest, b"\r\n\r\n")?.saturating_add(4);
        let (head, after) = rest.split_at_checked(end)?;
        rest = after;
        Some(HeadReader::default().read(head.to_vec()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(build: impl FnOnce(http_types::request::Builder) -> http_types::request::Builder) -> Parts {
        build(http_types::Request::builder()).body(()).expect("a request").into_parts().0
    }

    const LIMITS: Limits =
        Limits { request_line_bytes_max: 40, fields_max: 10, field_bytes_max: 60, head_bytes_max: 150 };

    fn text_of(parts: &Parts) -> Result<Vec<u8>, ParseError> {
        let mut text = b"an earlier one".to_vec();
        request_text(parts, &mut text, &LIMITS).map(|()| text)
    }

    #[test]
    fn request_has_the_form_of_http1() {
        let parts = parts(|request| {
            let request = request.method("POST").uri("https://example.com:8443/a?b=c");
            request.header("cookie", "a=1").header("x-y", "1").header("cookie", "b=2").header("x-y", "2")
        });
        let text = text_of(&parts).expect("a request");
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(text.starts_with("POST /a?b=c HTTP/2.0\r\nhost: example.com:8443\r\n"), "{text}");
        assert!(text.contains("\r\ncookie: a=1; b=2\r\n") && text.contains("\r\nx-y: 1\r\nx-y: 2\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\n") && text.matches("cookie").count() == 1, "{text}");
    }

    #[test]
    fn host_is_taken_once_and_two_are_refused() {
        let same = parts(|request| request.uri("http://example.com/").header("host", "Example.com"));
        let text = text_of(&same).expect("a request");
        assert_eq!(text, b"GET / HTTP/2.0\r\nhost: example.com\r\n\r\n");
        let alone = parts(|request| request.uri("/").header("host", "h"));
        assert_eq!(text_of(&alone).expect("a request"), b"GET / HTTP/2.0\r\nhost: h\r\n\r\n");
        let other = parts(|request| request.uri("http://example.com/").header("host", "example.org"));
        assert_eq!(text_of(&other), Err(ParseError::HostRepeated));
        let spaced = parts(|request| request.uri("http://h/").header("x", " 1"));
        assert_eq!(text_of(&spaced), Err(ParseError::FieldValue));
        let tunnel = parts(|request| request.method("CONNECT").uri("example.com:80"));
        assert_eq!(text_of(&tunnel), Err(ParseError::MethodNotImplemented));
    }

    #[test]
    fn limits_are_those_of_http1() {
        let result = |path: usize, values: &[usize]| {
            let parts = parts(|request| {
                let request = request.uri(format!("http://h/{}", "p".repeat(path)));
                values.iter().fold(request, |request, bytes| request.header("x", "v".repeat(*bytes)))
            });
            text_of(&parts).map(|text| text.len())
        };
        assert_eq!(result(26, &[57, 30]), Ok(150));
        assert_eq!(result(27, &[]), Err(ParseError::UriTooLong));
        assert_eq!(result(26, &[58]), Err(ParseError::FieldTooLarge));
        assert_eq!(result(26, &[57, 31]), Err(ParseError::HeadTooLarge));
    }

    #[test]
    fn response_is_read_back() {
        let head =
            b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nX:\r\n\r\n";
        let response = HeadReader::default().read(head.to_vec()).expect("a head");
        assert_eq!(response.status(), 404);
        assert_eq!(response.headers().get("content-type").map(HeaderValue::as_bytes), Some(&b"text/plain"[..]));
        assert_eq!(response.headers().get_all("set-cookie").iter().count(), 2);
        assert_eq!(response.headers().get("x").map(HeaderValue::as_bytes), Some(&b""[..]));
        assert_eq!(HeadReader::default().read(b"HTTP/1.1 99 X\r\n\r\n".to_vec()).err(), Some(Unsendable));
    }

    #[test]
    fn response_does_not_depend_on_earlier_ones() {
        let fields = |count: usize, value: &str| -> String {
            let lines = (0..count).map(|number| format!("Name-{number}: {value}{number}\r\n"));
            lines.collect::<Vec<_>>().concat()
        };
        let heads = [
            fields(3, "a"),
            fields(3, "a"),
            fields(3, "a"),
            fields(3, "ab"),
            fields(1, "a"),
            fields(REMEMBERED_FIELDS_MAX + 3, "a"),
            fields(REMEMBERED_FIELDS_MAX + 3, "a"),
            fields(REMEMBERED_FIELDS_MAX, "a"),
            fields(REMEMBERED_FIELDS_MAX, "a"),
            "Name-1: a1\r\nName-1: a1\r\nName-2: a2\r\n".to_owned(),
            fields(2, &"long".repeat(REMEMBERED_BYTES_MAX)),
            String::new(),
            fields(3, "a"),
        ];
        let mut reader = HeadReader::default();
        for fields in heads {
            let head = format!("HTTP/1.1 {} OK\r\n{fields}\r\n", 200 + fields.len() % 7).into_bytes();
            let alone = HeadReader::default().read(head.clone()).expect("a head");
            let after_others = reader.read(head).expect("a head");
            assert_eq!((after_others.status(), after_others.headers()), (alone.status(), alone.headers()));
            assert!(reader.known.len() <= REMEMBERED_FIELDS_MAX);
        }
    }

    #[test]
    fn interim_responses_are_read_one_by_one() {
        let heads = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        let statuses: Vec<_> = interims(heads).map(|head| head.map(|head| head.status().as_u16())).collect();
        assert_eq!(statuses, [Ok(100), Ok(103)]);
        assert_eq!(interims(b"").count(), 0);
    }
}
