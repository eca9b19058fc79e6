//! Tests of response heads: refused fields, written bytes, and the framing of the body.

#![allow(clippy::indexing_slicing, reason = "a test that panics has failed")]

use super::*;

const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

fn context() -> Context<'static> {
    Context {
        version: Version::Http11,
        is_head: false,
        persistence: Persistence::KeepAlive,
        body_bytes: None,
        date: DATE,
        server: None,
        request_id: None,
    }
}

fn head(status: &str, fields: &[(&str, &str)]) -> ResponseHead {
    let mut head = ResponseHead::new(status.as_bytes()).expect("a valid status");
    for (name, value) in fields {
        head.push_field(name.as_bytes(), value.as_bytes()).expect("a valid field");
    }
    head
}

/// Returns the lines without Date, the framing, and whether the connection persists.
fn encode(head: ResponseHead, context: &Context<'_>) -> (Vec<String>, BodyEncoder, Persistence) {
    let (bytes, body, persistence) = head.encode(context);
    let text = String::from_utf8(bytes).expect("ASCII");
    let lines = text.strip_suffix("\r\n\r\n").expect("an empty line at the end").split("\r\n");
    (lines.filter(|line| !line.starts_with("Date: ")).map(str::to_owned).collect(), body, persistence)
}

#[test]
fn status_valid_sent_as_given() {
    for (status, line) in [("200 OK", "200 OK"), ("299", "299 "), ("299 ", "299 "), ("404 Not  here", "404 Not  here")]
    {
        assert_eq!(encode(head(status, &[]), &context()).0[0], format!("HTTP/1.1 {line}"));
    }
}

#[test]
fn status_invalid_refused_cve_2020_5247() {
    for status in [
        "",
        "20",
        "2000",
        "200OK",
        "abc OK",
        "+20 OK",
        " 200 OK",
        "099 x",
        "100 Continue",
        "199 x",
        "200 OK\r\nX: y",
        "200 OK\n",
        "200 O\0K",
        "200\tOK",
        "200 \x7f",
    ] {
        assert_eq!(ResponseHead::new(status.as_bytes()).err(), Some(HeadError::Status(status.to_owned())));
    }
}

#[test]
fn field_invalid_refused_cve_2018_1000164() {
    let mut head = head("200 OK", &[]);
    for name in ["", " ", "X Y", "X:", "X\r\nY", "X\n", "X\0", "\u{e9}"] {
        assert!(matches!(head.push_field(name.as_bytes(), b"v"), Err(HeadError::FieldName(_))), "{name:?}");
    }
    for value in ["a\r\nSet-Cookie: b", "a\nb", "a\rb", "\0", "\x1b[0m", "\x7f", "\x0b"] {
        assert!(matches!(head.push_field(b"X", value.as_bytes()), Err(HeadError::FieldValue(_))), "{value:?}");
    }
    assert_eq!(head.encode(&context()).0.windows(4).filter(|&window| window == b"\r\n\r\n").count(), 1);
}

#[test]
fn fields_order_case_and_repetition_kept() {
    let fields = [("set-Cookie", "a=1"), ("X-A", ""), ("Set-Cookie", "b=2"), ("SET-COOKIE", "c=\t3"), ("X-B", " x ")];
    let (lines, ..) = encode(head("200 OK", &fields), &Context { body_bytes: Some(0), ..context() });
    let expected =
        ["set-Cookie: a=1", "X-A: ", "Set-Cookie: b=2", "SET-COOKIE: c=\t3", "X-B:  x ", "Content-Length: 0"];
    assert_eq!(lines[1..], expected);
}

#[test]
fn field_value_latin_1_kept() {
    let mut head = head("200 OK", &[]);
    head.push_field(b"X", b"\xe9").expect("obs-text is allowed");
    assert_eq!(head.field(b"x"), Some(&b"\xe9"[..]));
}

#[test]
fn field_found_whatever_its_case() {
    let head = head("200 OK", &[("Content-Type", "text/html"), ("Content-Length", "5"), ("Content-Type", "second")]);
    assert_eq!(head.field(b"content-type"), Some(&b"text/html"[..]));
    assert_eq!(head.field(b"CONTENT-LENGTH"), Some(&b"5"[..]));
    assert_eq!(head.field(b"content"), None);
    assert_eq!(head.field(b"HTTP/1.1 200 OK"), None);
    assert_eq!(head.field(b""), None);
}

#[test]
fn date_and_server_added_only_where_missing() {
    let with_server = Context { server: Some(b"maypole"), ..context() };
    let bytes = head("200 OK", &[]).encode(&with_server).0;
    assert_eq!(
        bytes,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: maypole\r\n\r\n"
    );
    let bytes = head("200 OK", &[("date", "D"), ("SERVER", "S")]).encode(&with_server).0;
    assert_eq!(bytes, b"HTTP/1.1 200 OK\r\ndate: D\r\nSERVER: S\r\nTransfer-Encoding: chunked\r\n\r\n");
}

#[test]
fn request_id_added_only_where_missing() {
    let with_id = Context { request_id: Some((b"X-Request-ID", b"7")), body_bytes: Some(0), ..context() };
    let lines = |fields: &[(&str, &str)]| encode(head("200 OK", fields), &with_id).0;
    assert_eq!(lines(&[]), ["HTTP/1.1 200 OK", "Content-Length: 0", "X-Request-ID: 7"]);
    let own = ["HTTP/1.1 200 OK", "x-request-id: own", "Content-Length: 0"];
    assert_eq!(lines(&[("x-request-id", "own")]), own);
}

#[test]
fn content_length_invalid_refused() {
    for value in ["", "+5", "-1", "5.0", "0x5", "5, 5", "5 5", "99999999999999999999", "\u{b2}"] {
        let result = head("200 OK", &[]).push_field(b"content-length", value.as_bytes());
        assert!(matches!(result, Err(HeadError::ContentLength(_))), "{value:?}");
    }
}

#[test]
fn content_length_repeated_kept_once_or_refused() {
    let mut head = head("200 OK", &[("Content-Length", "5"), ("content-length", "05")]);
    assert_eq!(head.push_field(b"Content-Length", b"6"), Err(HeadError::ContentLengthConflict(5, 6)));
    assert_eq!(encode(head, &context()).0, ["HTTP/1.1 200 OK", "Content-Length: 5"]);
}

#[test]
fn hop_by_hop_dropped_but_close_understood() {
    let fields = [
        ("Connection", "keep-alive"),
        ("Keep-Alive", "timeout=5"),
        ("Transfer-Encoding", "chunked"),
        ("TE", "x"),
        ("Trailer", "x"),
        ("Upgrade", "h2c"),
        ("Proxy-Connection", "x"),
        ("Proxy-Authenticate", "x"),
    ];
    let known = Context { body_bytes: Some(3), ..context() };
    let (lines, _, persistence) = encode(head("200 OK", &fields), &known);
    assert_eq!((lines.len(), persistence), (2, Persistence::KeepAlive));
    let (lines, _, persistence) = encode(head("200 OK", &[("connection", "foo, CLOSE")]), &known);
    assert_eq!(lines, ["HTTP/1.1 200 OK", "Content-Length: 3", "Connection: close"]);
    assert_eq!(persistence, Persistence::Close);
}

#[test]
fn framing_given_length_is_used() {
    let (lines, body, persistence) = encode(head("200 OK", &[("Content-Length", "7")]), &context());
    assert_eq!(lines, ["HTTP/1.1 200 OK", "Content-Length: 7"]);
    assert_eq!((body, persistence), (BodyEncoder::Length { remaining: 7 }, Persistence::KeepAlive));
}

#[test]
fn framing_given_length_over_the_known_one_closes() {
    let known = Context { body_bytes: Some(5), ..context() };
    let (_, body, persistence) = encode(head("200 OK", &[("Content-Length", "7")]), &known);
    assert_eq!((body, persistence), (BodyEncoder::Length { remaining: 7 }, Persistence::Close));
}

#[test]
fn framing_given_length_under_the_known_one_cuts_the_body() {
    let known = Context { body_bytes: Some(9), ..context() };
    let (_, body, persistence) = encode(head("200 OK", &[("Content-Length", "7")]), &known);
    assert_eq!((body, persistence), (BodyEncoder::Length { remaining: 7 }, Persistence::KeepAlive));
}

#[test]
fn framing_unknown_length_chunked_or_until_close() {
    let (lines, body, persistence) = encode(head("200 OK", &[]), &context());
    assert_eq!(lines, ["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"]);
    assert_eq!((body, persistence), (BodyEncoder::Chunked, Persistence::KeepAlive));
    let (lines, body, persistence) = encode(head("200 OK", &[]), &Context { version: Version::Http10, ..context() });
    assert_eq!(lines, ["HTTP/1.1 200 OK", "Connection: close"]);
    assert_eq!((body, persistence), (BodyEncoder::UntilClose, Persistence::Close));
}

#[test]
fn framing_no_content_has_no_length_and_no_body() {
    for context in [context(), Context { body_bytes: Some(5), ..context() }] {
        let (lines, body, persistence) = encode(head("204 No Content", &[("Content-Length", "5")]), &context);
        assert_eq!(lines, ["HTTP/1.1 204 No Content"]);
        assert_eq!((body, persistence), (BodyEncoder::None, Persistence::KeepAlive));
    }
}

#[test]
fn framing_reset_content_is_empty() {
    let (lines, body, _) = encode(head("205 Reset Content", &[("Content-Length", "5")]), &context());
    assert_eq!(lines, ["HTTP/1.1 205 Reset Content", "Content-Length: 0"]);
    assert!(body.is_full());
}

#[test]
fn framing_not_modified_keeps_a_given_length_only() {
    let (lines, body, _) = encode(head("304 Not Modified", &[("Content-Length", "5")]), &context());
    assert_eq!((lines.len(), body), (2, BodyEncoder::None));
    let (lines, body, _) = encode(head("304 Not Modified", &[]), &Context { body_bytes: Some(5), ..context() });
    assert_eq!((lines.len(), body), (1, BodyEncoder::None));
}

#[test]
fn framing_head_says_what_get_would() {
    let is_head = Context { is_head: true, ..context() };
    let (lines, body, _) =
        encode(head("200 OK", &[("Content-Length", "5")]), &Context { body_bytes: Some(0), ..is_head });
    assert_eq!(lines, ["HTTP/1.1 200 OK", "Content-Length: 5"]);
    assert_eq!(body, BodyEncoder::None);
    let (lines, body, _) = encode(head("200 OK", &[]), &Context { body_bytes: Some(5), ..is_head });
    assert_eq!(lines, ["HTTP/1.1 200 OK", "Content-Length: 5"]);
    assert_eq!(body, BodyEncoder::None);
    for unknown in [None, Some(0)] {
        let (lines, body, persistence) = encode(head("200 OK", &[]), &Context { body_bytes: unknown, ..is_head });
        assert_eq!(lines, ["HTTP/1.1 200 OK"]);
        assert_eq!((body, persistence), (BodyEncoder::None, Persistence::KeepAlive));
    }
}

#[test]
fn connection_said_where_the_version_needs_it() {
    let known = Context { body_bytes: Some(0), ..context() };
    let line = |context: &Context<'_>| encode(head("200 OK", &[]), context).0.get(2).cloned();
    assert_eq!(line(&known), None);
    assert_eq!(line(&Context { version: Version::Http10, ..known }), Some("Connection: keep-alive".to_owned()));
    let closing = Context { persistence: Persistence::Close, ..known };
    assert_eq!(line(&closing), Some("Connection: close".to_owned()));
    assert_eq!(line(&Context { version: Version::Http10, ..closing }), Some("Connection: close".to_owned()));
}

#[test]
fn plain_error_is_complete_and_closes() {
    let (head, body) = ResponseHead::plain_error(431);
    assert_eq!(body, b"431 Request Header Fields Too Large\n");
    let (lines, encoder, persistence) = encode(head, &context());
    assert_eq!(
        lines,
        [
            "HTTP/1.1 431 Request Header Fields Too Large",
            "Content-Type: text/plain",
            "Content-Length: 36",
            "Connection: close"
        ]
    );
    assert_eq!((encoder, persistence), (BodyEncoder::Length { remaining: 36 }, Persistence::Close));
}

#[test]
fn field_is_taken_and_the_others_stay() {
    let fields = [("X-Sendfile", "/a"), ("Content-Length", "0"), ("x-sendfile", "/b"), ("X-Sendfile-Not", "c")];
    let mut changed = head("404 Gone away", &fields);
    assert_eq!(changed.take_field(b"x-sendfile"), Some(b"/a".to_vec()));
    assert_eq!(changed.take_field(b"x-sendfile"), None);
    assert_eq!(changed.take_field(b"content-length"), Some(b"0".to_vec()));
    assert_eq!((changed.content_length(), changed.field(b"x-sendfile-not")), (None, Some(&b"c"[..])));
    changed.set_status(206);
    let (lines, body, _) = encode(changed, &Context { body_bytes: Some(3), ..context() });
    assert_eq!(lines, ["HTTP/1.1 206 Partial Content", "X-Sendfile-Not: c", "Content-Length: 3"]);
    assert_eq!(body, BodyEncoder::Length { remaining: 3 });
}
