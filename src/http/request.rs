//! Request heads: where one ends, and what it says (RFC 9112 §2, §3, §5, §6).

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `HTTP/1.0`
    Http10,
    /// `HTTP/1.1`, or a higher minor version, which is answered as 1.1 (RFC 9110 §2.5).
    Http11,
}

/// Finds the end of a head in a buffer that grows; every byte is looked at once.
#[derive(Debug, Default, Clone)]
pub struct HeadScanner {}

impl HeadScanner {
    /// Looks at what came since the last call. `buffer` always begins with the head's first byte. Answers the head's
    /// length, its final empty line included, when it is complete; leading empty lines (RFC 9112 §2.2) belong to it.
    pub fn scan(&mut self, _buffer: &[u8], _limits: &Limits) -> Result<Option<usize>, ParseError> {
        todo!()
    }
}

/// One complete, checked request head; owns its bytes.
#[derive(Debug)]
pub struct RequestHead {}

impl RequestHead {
    /// Reads and checks a complete head: `bytes` is exactly what `HeadScanner` delimited.
    pub fn parse(_bytes: &[u8], _limits: &Limits) -> Result<Self, ParseError> {
        todo!()
    }
    /// The method, as sent (case-sensitive, RFC 9110 §9.1).
    pub fn method(&self) -> &[u8] {
        todo!()
    }
    /// The request target as sent (RFC 9112 §3.2).
    pub fn target(&self) -> &[u8] {
        todo!()
    }
    /// The target's path, percent-encoded as sent; `/` for an absolute form without path; `*` for the asterisk form.
    pub fn path(&self) -> &[u8] {
        todo!()
    }
    /// The target's query without `?`, as sent; empty if there is none.
    pub fn query(&self) -> &[u8] {
        todo!()
    }
    /// The request line without its CRLF, for the logs.
    pub fn request_line(&self) -> &[u8] {
        todo!()
    }
    /// The version.
    pub fn version(&self) -> Version {
        todo!()
    }
    /// The authority: the absolute form's, else `Host`'s value; `None` when neither is there (RFC 9112 §3.2.2).
    pub fn host(&self) -> Option<&[u8]> {
        todo!()
    }
    /// How many fields there are.
    pub fn field_count(&self) -> usize {
        todo!()
    }
    /// All fields in the order received: name as sent, value without surrounding white space.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        std::iter::empty()
    }
    /// The first field of that name (ASCII case ignored).
    pub fn field(&self, _name: &[u8]) -> Option<&[u8]> {
        todo!()
    }
    /// How the body is delimited (RFC 9112 §6.3).
    pub fn framing(&self) -> Framing {
        todo!()
    }
    /// What the client asks for the connection (RFC 9112 §9.3).
    pub fn persistence(&self) -> Persistence {
        todo!()
    }
    /// Whether the client waits for `100 Continue` before it sends the body (RFC 9110 §10.1.1); false for HTTP/1.0 and
    /// where there is no body.
    pub fn expects_continue(&self) -> bool {
        todo!()
    }
    /// Whether the method is HEAD.
    pub fn is_head(&self) -> bool {
        todo!()
    }
}
