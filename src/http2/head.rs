//! Heads of HTTP/2 in the form of HTTP/1, and back (RFC 9113 §8.2, §8.3).
//!
//! *Runs on*: the calling thread. *Invariants*: `h2` has checked that no part of a request has a CR, an LF or a NUL, that
//! names are in lower case, and that no field concerns the connection. So no part can pass for another one here.

use http_types::header::{COOKIE, HOST, HeaderName, HeaderValue};
use http_types::request::Parts;
use http_types::uri::{Authority, PathAndQuery};
use http_types::{Method, Response, StatusCode};
use octets::Bytes;

use crate::http::ParseError;

/// A head that HTTP/2 cannot carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("HTTP/2 cannot carry this head")]
pub struct Unsendable;

/// Writes the head of a request in the form of HTTP/1, with `Host` first. Crumbs of a cookie are joined (RFC 9113
/// §8.2.3).
///
/// # Errors
/// The request asks for a tunnel or has no target. `HostRepeated`: it has two different hosts. `FieldValue`: a value
/// begins or ends with white space. A request with one of the last two is malformed (RFC 9113 §8.1.1).
pub fn request_text(parts: &Parts) -> Result<Vec<u8>, ParseError> {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if parts.headers.values().any(|value| is_space(value.as_bytes().first()) || is_space(value.as_bytes().last())) {
        return Err(ParseError::FieldValue);
    }
    if parts.method == Method::CONNECT {
        return Err(ParseError::MethodNotImplemented);
    }
    let target = parts.uri.path_and_query().map(PathAndQuery::as_str).ok_or(ParseError::TargetForm)?;
    let mut text = Vec::with_capacity(512);
    let mut push = |pieces: &[&[u8]]| pieces.iter().for_each(|piece| text.extend_from_slice(piece));
    push(&[parts.method.as_str().as_bytes(), b" ", target.as_bytes(), b" HTTP/2.0\r\n"]);
    let authority = parts.uri.authority().map(Authority::as_str).map(str::as_bytes);
    if let Some(authority) = authority {
        let is_other = |host: &HeaderValue| !host.as_bytes().eq_ignore_ascii_case(authority);
        if parts.headers.get_all(HOST).iter().any(is_other) {
            return Err(ParseError::HostRepeated);
        }
        push(&[b"host: ", authority, b"\r\n"]);
    }
    for name in parts.headers.keys() {
        let values = parts.headers.get_all(name);
        if name == COOKIE {
            push(&[b"cookie: "]);
            for (index, crumb) in values.iter().enumerate() {
                push(&[if index > 0 { b"; " } else { b"" }, crumb.as_bytes()]);
            }
            push(&[b"\r\n"]);
        } else if name != HOST || authority.is_none() {
            values.iter().for_each(|value| push(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]));
        }
    }
    push(&[b"\r\n"]);
    Ok(text)
}

/// Reads the head of a response in the form of HTTP/1.
///
/// # Errors
/// The status is below 100 or above 999, or there are too many fields.
pub fn response_of(head: &[u8]) -> Result<Response<()>, Unsendable> {
    // The values share one copy of the head.
    let head = Bytes::copy_from_slice(head);
    let mut response = Response::new(());
    let mut begin = 0;
    for end in memchr::memchr_iter(b'\n', &head) {
        let line = head.get(begin..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        if begin == 0 {
            let status = line.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
            *response.status_mut() = StatusCode::from_bytes(status).map_err(|_| Unsendable)?;
        } else {
            let colon = memchr::memchr(b':', line).ok_or(Unsendable)?;
            let (name, value) = line.split_at_checked(colon).ok_or(Unsendable)?;
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            let name = HeaderName::from_bytes(name).map_err(|_| Unsendable)?;
            let value = HeaderValue::from_maybe_shared(head.slice_ref(value)).map_err(|_| Unsendable)?;
            response.headers_mut().try_append(name, value).map_err(|_| Unsendable)?;
        }
        begin = end.saturating_add(1);
    }
    Ok(response)
}

/// Reads the heads of interim responses, one behind the other.
pub fn interims(heads: &[u8]) -> impl Iterator<Item = Result<Response<()>, Unsendable>> {
    let mut rest = heads;
    std::iter::from_fn(move || {
        let end = memchr::memmem::find(rest, b"\r\n\r\n")?.saturating_add(4);
        let (head, after) = rest.split_at_checked(end)?;
        rest = after;
        Some(response_of(head))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(build: impl FnOnce(http_types::request::Builder) -> http_types::request::Builder) -> Parts {
        build(http_types::Request::builder()).body(()).expect("a request").into_parts().0
    }

    #[test]
    fn request_has_the_form_of_http1() {
        let parts = parts(|request| {
            let request = request.method("POST").uri("https://example.com:8443/a?b=c");
            request.header("cookie", "a=1").header("x-y", "1").header("cookie", "b=2").header("x-y", "2")
        });
        let text = request_text(&parts).expect("a request");
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(text.starts_with("POST /a?b=c HTTP/2.0\r\nhost: example.com:8443\r\n"), "{text}");
        assert!(text.contains("\r\ncookie: a=1; b=2\r\n") && text.contains("\r\nx-y: 1\r\nx-y: 2\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\n") && text.matches("cookie").count() == 1, "{text}");
    }

    #[test]
    fn host_is_taken_once_and_two_are_refused() {
        let same = parts(|request| request.uri("http://example.com/").header("host", "Example.com"));
        let text = request_text(&same).expect("a request");
        assert_eq!(text, b"GET / HTTP/2.0\r\nhost: example.com\r\n\r\n");
        let alone = parts(|request| request.uri("/").header("host", "h"));
        assert_eq!(request_text(&alone).expect("a request"), b"GET / HTTP/2.0\r\nhost: h\r\n\r\n");
        let other = parts(|request| request.uri("http://example.com/").header("host", "example.org"));
        assert_eq!(request_text(&other), Err(ParseError::HostRepeated));
        let spaced = parts(|request| request.uri("http://h/").header("x", " 1"));
        assert_eq!(request_text(&spaced), Err(ParseError::FieldValue));
        let tunnel = parts(|request| request.method("CONNECT").uri("example.com:80"));
        assert_eq!(request_text(&tunnel), Err(ParseError::MethodNotImplemented));
    }

    #[test]
    fn response_is_read_back() {
        let head =
            b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nX:\r\n\r\n";
        let response = response_of(head).expect("a head");
        assert_eq!(response.status(), 404);
        assert_eq!(response.headers().get("content-type").map(HeaderValue::as_bytes), Some(&b"text/plain"[..]));
        assert_eq!(response.headers().get_all("set-cookie").iter().count(), 2);
        assert_eq!(response.headers().get("x").map(HeaderValue::as_bytes), Some(&b""[..]));
        assert_eq!(response_of(b"HTTP/1.1 99 X\r\n\r\n").err(), Some(Unsendable));
    }

    #[test]
    fn interim_responses_are_read_one_by_one() {
        let heads = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        let statuses: Vec<_> = interims(heads).map(|head| head.map(|head| head.status().as_u16())).collect();
        assert_eq!(statuses, [Ok(100), Ok(103)]);
        assert_eq!(interims(b"").count(), 0);
    }
}
