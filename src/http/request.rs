//! Request heads and their meaning (RFC 9112 §3, §5, §6).
//!
//! *Owns*: a copy of the head's bytes. All parts are offsets into it, which `RequestHead::parse` finds once.

pub use super::scanner::HeadScanner;

use super::fields::{self, Field};
use super::find::find;
use super::span::Span;
use super::target::RequestLine;
use super::{Framing, ParseError, Persistence};

/// The limits of a request head, in bytes and in fields.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The longest request line without its CRLF (over it: 414).
    pub request_line_bytes_max: usize,
    /// The most header fields (over it: 431).
    pub fields_max: usize,
    /// The longest single field line without its CRLF (over it: 431).
    pub field_bytes_max: usize,
    /// The whole head, CRLFs included (over it: 431).
    pub head_bytes_max: usize,
}

/// HTTP's version of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Version {
    /// `HTTP/1.0`
    #[default]
    Http10,
    /// `HTTP/1.1`, or a higher minor version, which counts as 1.1 (RFC 9110 §2.5).
    Http11,
    /// `HTTP/2.0`: the head came in frames (RFC 9113 §8.3), and `http2` has written it in the form of HTTP/1.
    Http2,
}

/// One complete, checked request head; owns its bytes.
#[derive(Debug)]
pub struct RequestHead {
    /// The head without the empty lines before it. It begins with the request line.
    bytes: Vec<u8>,
    fields: Vec<Field>,
    line: RequestLine,
    request_line: Span,
    host: Option<Span>,
    content_length: Option<u64>,
    framing: Framing,
    persistence: Persistence,
    asks_for_upgrade: bool,
    expects_continue: bool,
    tells_of_proxies: bool,
    request_start: Option<Span>,
    response_version: Version,
    /// Part of the field that had it, or bytes behind the head.
    id: Option<Span>,
}

/// The longest id that is taken from a field, in bytes.
const ID_BYTES_MAX: usize = 128;

impl RequestHead {
    /// Reads and checks a complete head. `bytes` has exactly the length that `HeadScanner` returned.
    ///
    /// # Errors
    /// The first broken rule of RFC 9112 §3, §5 or §6, in the order request line, fields, `Host`, framing,
    /// expectations.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, ParseError> {
        let mut head = Self::unread();
        head.parse_again(bytes, limits)?;
        Ok(head)
    }

    /// Does the same as `parse` in place of an earlier head, whose memory it reuses.
    ///
    /// # Errors
    /// As for `parse`. The head must not be used then.
    pub fn parse_again(&mut self, bytes: &[u8], limits: &Limits) -> Result<(), ParseError> {
        #[allow(
            clippy::redundant_closure_for_method_calls,
            reason = "the method is not general enough in its lifetime"
        )]
        let framing = |known: &fields::Known<'_>, version| known.framing(version);
        self.read(bytes, limits, RequestLine::set, framing)
    }

    /// Does the same with the head of an HTTP/2 request in the form of HTTP/1. `has_body` says whether a body follows,
    /// which may be an empty one.
    ///
    /// # Errors
    /// As for `parse`: both versions have the same rules. The head must not be used then.
    pub fn parse_http2_again(&mut self, bytes: &[u8], limits: &Limits, has_body: bool) -> Result<(), ParseError> {
        let framing = |known: &fields::Known<'_>, version| match known.framing(version)? {
            _ if !has_body => Ok(Framing::None),
            Framing::None if known.content_length.is_none() => Ok(Framing::Chunked),
            framing => Ok(framing),
        };
        self.read(bytes, limits, RequestLine::set_http2, framing)
    }

    /// Makes the value into which the first head of a connection is read.
    pub fn unread() -> Self {
        Self {
            bytes: Vec::new(),
            fields: Vec::new(),
            line: RequestLine::default(),
            request_line: Span::default(),
            host: None,
            content_length: None,
            framing: Framing::None,
            persistence: Persistence::Close,
            asks_for_upgrade: false,
            expects_continue: false,
            tells_of_proxies: false,
            request_start: None,
            response_version: Version::default(),
            id: None,
        }
    }

    /// Sets every part.
    #[allow(clippy::inline_always, reason = "a call would cost each request")]
    #[inline(always)]
    fn read(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
        set_line: impl FnOnce(&mut RequestLine, &[u8]) -> Result<(), ParseError>,
        framing_of: impl FnOnce(&fields::Known<'_>, Version) -> Result<Framing, ParseError>,
    ) -> Result<(), ParseError> {
        let mut head = bytes;
        while let [b'\r', b'\n', rest @ ..] = head {
            head = rest;
        }
        if u32::try_from(head.len()).is_err() {
            return Err(ParseError::HeadTooLarge);
        }
        let line_end = find(b'\r', head).ok_or(ParseError::RequestLine)?;
        set_line(&mut self.line, head.get(..line_end).unwrap_or_default())?;
        let version = self.line.version;
        let fields_start = line_end.saturating_add(2);
        let block = head.get(fields_start..).ok_or(ParseError::RequestLine)?;
        self.fields.clear();
        let mut known = fields::Known::default();
        fields::parse(block, fields_start, limits.fields_max, &mut self.fields, &mut known)?;
        known.check_host(version)?;
        let framing = framing_of(&known, version)?;
        known.check_expectations(version)?;
        self.bytes.clear();
        self.bytes.extend_from_slice(head);
        self.request_line = Span::new(0, line_end);
        self.host = self.line.authority.or(known.host.map(|(span, _)| span));
        self.content_length = known.content_length;
        self.framing = framing;
        self.persistence = known.connection.persistence(version);
        self.asks_for_upgrade = known.connection.upgrade && version == Version::Http11;
        self.expects_continue = known.expects_continue && version != Version::Http10 && framing != Framing::None;
        self.tells_of_proxies = known.proxies.is_some();
        self.request_start = known.request_start;
        self.response_version = version;
        self.id = None;
        Ok(())
    }

    /// Makes the server respond as to an HTTP/1.0 client without keep-alive: it sends no chunks and no interim
    /// responses, and closes the connection after the response.
    pub fn respond_as_http10(&mut self) {
        self.response_version = Version::Http10;
        self.persistence = Persistence::Close;
        self.expects_continue = false;
    }

    /// Takes the request's id from the first field of this name, if that has 1 to 128 visible characters of ASCII. Returns
    /// whether it has.
    pub fn take_id(&mut self, name: &[u8]) -> bool {
        let value = self.first(name).map(|field| field.value);
        let is_id = |span: &Span| {
            (1..=ID_BYTES_MAX).contains(&span.len()) && span.of(&self.bytes).iter().all(u8::is_ascii_graphic)
        };
        self.id = value.filter(is_id);
        self.id.is_some()
    }

    /// Sets the request's id.
    pub fn set_id(&mut self, id: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(id);
        self.id = Some(Span::new(start, self.bytes.len()));
    }

    /// Returns the request's id, if requests have one.
    pub fn id(&self) -> Option<&[u8]> {
        self.id.map(|span| span.of(&self.bytes))
    }

    /// Returns the id for a log line: ` (request 019ac21e-…)`, or nothing if requests have none.
    pub fn id_text(&self) -> String {
        self.id().map(|id| format!(" (request {})", id.escape_ascii())).unwrap_or_default()
    }

    /// Returns the method as sent (case-sensitive, RFC 9110 §9.1).
    pub fn method(&self) -> &[u8] {
        self.line.method.of(&self.bytes)
    }

    /// Returns the request target as sent (RFC 9112 §3.2).
    pub fn target(&self) -> &[u8] {
        self.line.target.of(&self.bytes)
    }

    /// Returns the target's path, percent-encoded as sent; `/` for an absolute form without path, `*` for the asterisk
    /// form.
    pub fn path(&self) -> &[u8] {
        match self.line.path.of(&self.bytes) {
            [] => b"/",
            path => path,
        }
    }

    /// Returns the target's query without `?`, as sent; empty if there is none.
    pub fn query(&self) -> &[u8] {
        self.line.query.of(&self.bytes)
    }

    /// Returns the request line without its CRLF, for the logs.
    pub fn request_line(&self) -> &[u8] {
        self.request_line.of(&self.bytes)
    }

    /// Returns the version of the request.
    pub fn version(&self) -> Version {
        self.line.version
    }

    /// Returns the highest version that the response may use.
    pub fn response_version(&self) -> Version {
        self.response_version
    }

    /// Returns the authority of the absolute form, otherwise the value of `Host`; `None` if there is neither
    /// (RFC 9112 §3.2.2).
    pub fn host(&self) -> Option<&[u8]> {
        self.host.map(|span| span.of(&self.bytes))
    }

    /// Returns the number of fields.
    pub fn field_count(&self) -> usize {
        self.fields.len()
    }

    /// Returns all fields in the order received: name as sent, value without surrounding white space.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|field| (field.name.of(&self.bytes), field.value.of(&self.bytes)))
    }

    /// Returns the first field of that name (ASCII case ignored).
    pub fn field(&self, name: &[u8]) -> Option<&[u8]> {
        self.first(name).map(|field| field.value.of(&self.bytes))
    }

    /// Returns the value of a field that the head has once. Two lines of a field that has one value contradict each
    /// other (RFC 9110 §5.3).
    pub fn only_field(&self, name: &[u8]) -> Option<&[u8]> {
        let mut values = self.fields().filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        values.next().filter(|_| values.next().is_none())
    }

    fn first(&self, name: &[u8]) -> Option<&Field> {
        self.fields
            .iter()
            .find(|field| field.name.len() == name.len() && field.name.of(&self.bytes).eq_ignore_ascii_case(name))
    }

    /// Returns the value of `Content-Length` if the client sent it, also if it is 0 (RFC 9110 §8.6).
    pub fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// Returns how the body is delimited (RFC 9112 §6.3).
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Returns whether the client wants to keep the connection open (RFC 9112 §9.3).
    pub fn persistence(&self) -> Persistence {
        self.persistence
    }

    /// Returns whether the client asks for another protocol on this connection; false for HTTP/1.0 (RFC 9110 §7.8).
    pub fn asks_for_upgrade(&self) -> bool {
        self.asks_for_upgrade
    }

    /// Returns whether the client waits for `100 Continue` before it sends the body (RFC 9110 §10.1.1). False for
    /// HTTP/1.0 and without a body.
    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// Returns whether a field is one in which proxies name the client or its URL: see `Family`.
    pub fn tells_of_proxies(&self) -> bool {
        self.tells_of_proxies
    }

    /// Returns the value of the first `X-Request-Start`.
    pub fn request_start(&self) -> Option<&[u8]> {
        self.request_start.map(|span| span.of(&self.bytes))
    }

    /// Returns whether the method is HEAD.
    pub fn is_head(&self) -> bool {
        self.method() == b"HEAD"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { request_line_bytes_max: 100, fields_max: 9, field_bytes_max: 500, head_bytes_max: 600 };

    fn head(id: &str) -> RequestHead {
        let text = format!("GET /a HTTP/1.0\r\nX-Request-ID: {id}\r\nx-request-id: second\r\n\r\n");
        RequestHead::parse(text.as_bytes(), &LIMITS).expect("a valid head")
    }

    #[test]
    fn id_comes_from_the_first_field_if_it_is_short_and_visible() {
        let longest = "x".repeat(ID_BYTES_MAX);
        for id in ["7", "a\"b", &longest] {
            let mut head = head(id);
            assert!(head.take_id(b"x-request-ID"));
            assert_eq!(head.id(), Some(id.as_bytes()));
        }
        for id in ["", "a b", "a\tb", "\u{e9}", &format!("{longest}x")] {
            let mut head = head(id);
            assert!(!head.take_id(b"X-Request-ID"), "{id}");
            head.set_id(b"made");
            assert_eq!((head.id(), head.path()), (Some(&b"made"[..]), &b"/a"[..]));
        }
    }

    #[test]
    fn head_in_place_of_an_earlier_one_is_like_a_new_one() {
        let heads = [
            "GET /a HTTP/1.0\r\n\r\n",
            "GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n",
            "GET http://b:1/c?d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nForwarded: for=a\r\n\r\n",
            "GET /w HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Request-Start: 1\r\n\r\n",
        ];
        let read = |text: &str| RequestHead::parse(text.as_bytes(), &LIMITS).expect("a valid head");
        for (earlier, later) in heads.iter().flat_map(|one| heads.iter().map(move |other| (one, other))) {
            let mut head = read(earlier);
            head.set_id(b"made");
            head.respond_as_http10();
            head.parse_again(later.as_bytes(), &LIMITS).expect("a valid head");
            assert_eq!(format!("{head:?}"), format!("{:?}", read(later)), "after {earlier:?}");
        }
    }
}
