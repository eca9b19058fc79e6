//! Errors in the bytes of a message: one variant for each violated rule, with its status.

use thiserror::Error;

/// A request that cannot be read. After it the connection is closed (RFC 9112 §2.2, §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Too many empty lines before the request line (RFC 9112 §2.2).
    #[error("too many empty lines before the request line")]
    EmptyLines,
    /// A line feed without a carriage return before it (RFC 9112 §2.2: a server MAY accept it; this one does not).
    #[error("a line ends in a bare LF")]
    BareLf,
    /// A carriage return without a line feed after it (RFC 9112 §2.2).
    #[error("bare CR")]
    BareCr,
    /// Not `method SP request-target SP HTTP-version` with exactly one space each (RFC 9112 §3).
    #[error("malformed request line")]
    RequestLine,
    /// The method is not a token, or the message is not HTTP at all, for example TLS (RFC 9110 §9.1).
    #[error("malformed method")]
    Method,
    /// The method is longer than any registered method (RFC 9112 §3: 501).
    #[error("method too long")]
    MethodTooLong,
    /// The method is CONNECT, which is for proxies (RFC 9110 §9.3.6, §15.6.2).
    #[error("method not implemented")]
    MethodNotImplemented,
    /// A control, a space, `#` or an octet over 0x7E in the request target (RFC 9112 §3.2, RFC 3986 §2).
    #[error("invalid character in the request target")]
    TargetCharacter,
    /// The target is neither an absolute path nor an `http(s)` URI, nor the `*` of OPTIONS (RFC 9112 §3.2).
    #[error("invalid request target")]
    TargetForm,
    /// The authority of an absolute form is empty or invalid, or has user information (RFC 9110 §4.2.1, §4.2.4).
    #[error("invalid authority in the request target")]
    Authority,
    /// The version is not `HTTP/` DIGIT `.` DIGIT (RFC 9112 §2.3).
    #[error("malformed HTTP version")]
    Version,
    /// A version whose major number is not 1 (RFC 9110 §15.6.6).
    #[error("HTTP version not supported")]
    VersionNotSupported,
    /// The request line is over its limit (RFC 9112 §3, RFC 9110 §15.5.15).
    #[error("request line too long")]
    UriTooLong,
    /// The whole head is over its limit (RFC 6585 §5).
    #[error("request head too large")]
    HeadTooLarge,
    /// One field line is over its limit (RFC 6585 §5).
    #[error("header field too large")]
    FieldTooLarge,
    /// More fields than the limit (RFC 6585 §5).
    #[error("too many header fields")]
    TooManyFields,
    /// A field line without a colon (RFC 9112 §5).
    #[error("header line without a colon")]
    FieldLine,
    /// A field name that is empty or not a token (RFC 9110 §5.1).
    #[error("invalid header name")]
    FieldName,
    /// White space between field name and colon (RFC 9112 §5.1).
    #[error("white space before the colon of a header")]
    SpaceBeforeColon,
    /// A line that begins with white space: a folded value, or white space before the first field
    /// (RFC 9112 §2.2, §5.2).
    #[error("folded header line")]
    ObsFold,
    /// A control other than HTAB in a field value (RFC 9110 §5.5).
    #[error("invalid character in a header value")]
    FieldValue,
    /// `Content_Length` or `Transfer_Encoding`. Some servers read `_` as `-`, and take this for a framing field
    /// (RFC 3875 §4.1.18).
    #[error("framing header with an underscore")]
    FramingUnderscore,
    /// HTTP/1.1 without `Host` (RFC 9112 §3.2).
    #[error("no Host header")]
    HostMissing,
    /// More than one `Host` (RFC 9112 §3.2).
    #[error("more than one Host header")]
    HostRepeated,
    /// The value of `Host` is not `uri-host [ ":" port ]` (RFC 9112 §3.2, RFC 9110 §7.2).
    #[error("invalid Host header")]
    Host,
    /// More than one `Content-Type`, which is not a list (RFC 9110 §5.3, §8.3).
    #[error("more than one Content-Type header")]
    ContentTypeRepeated,
    /// `Content-Length` is not `1*DIGIT` (RFC 9110 §8.6, RFC 9112 §6.3).
    #[error("invalid Content-Length")]
    ContentLength,
    /// `Content-Length` more than once, even with equal values (RFC 9110 §8.6: a recipient may reject it).
    #[error("more than one Content-Length header")]
    ContentLengthRepeated,
    /// `Content-Length` does not fit 64 bits (RFC 9110 §8.6, §15.5.14).
    #[error("Content-Length too large")]
    ContentLengthTooLarge,
    /// `Transfer-Encoding` is not a list of codings that contains `chunked` once, at its end (RFC 9112 §6.1, §6.3).
    #[error("invalid Transfer-Encoding")]
    TransferEncoding,
    /// `Transfer-Encoding` more than once (RFC 9112 §6.1: chunked must not be applied twice).
    #[error("more than one Transfer-Encoding header")]
    TransferEncodingRepeated,
    /// `Transfer-Encoding` in an HTTP/1.0 request; only HTTP/1.1 defines it (RFC 9112 §6.1).
    #[error("Transfer-Encoding in HTTP/1.0")]
    TransferEncodingVersion,
    /// `Transfer-Encoding` together with `Content-Length` (RFC 9112 §6.1, §6.3).
    #[error("both Transfer-Encoding and Content-Length")]
    FramingConflict,
    /// A transfer coding in addition to chunked (RFC 9112 §6.1: 501).
    #[error("transfer coding not implemented")]
    CodingNotImplemented,
    /// `Expect` with a value other than `100-continue` (RFC 9110 §10.1.1: 417).
    #[error("unknown expectation")]
    ExpectationFailed,
    /// A chunk size that is not `1*HEXDIG`, or has more than 16 digits (RFC 9112 §7.1).
    #[error("invalid chunk size")]
    ChunkSize,
    /// A chunk extension that breaks its grammar (RFC 9112 §7.1.1).
    #[error("invalid chunk extension")]
    ChunkExtension,
    /// Too many bytes of chunk extensions for the size of the body (RFC 9112 §7.1.1).
    #[error("too many chunk extensions")]
    ChunkExtensionsTooLarge,
    /// The data of a chunk is not followed by CRLF (RFC 9112 §7.1).
    #[error("chunk data not followed by CRLF")]
    ChunkEnd,
    /// A trailer line that is not a field line (RFC 9112 §7.1.2).
    #[error("invalid trailer")]
    Trailer,
    /// The trailer section is over its limit (RFC 6585 §5).
    #[error("trailers too large")]
    TrailersTooLarge,
    /// The body is over its limit (RFC 9110 §15.5.14).
    #[error("body too large")]
    BodyTooLarge,
}

impl ParseError {
    /// Returns the status code of the response.
    pub fn status(self) -> u16 {
        match self {
            Self::BodyTooLarge | Self::ContentLengthTooLarge => 413,
            Self::UriTooLong => 414,
            Self::ExpectationFailed => 417,
            Self::HeadTooLarge | Self::FieldTooLarge | Self::TooManyFields | Self::TrailersTooLarge => 431,
            Self::MethodTooLong | Self::MethodNotImplemented | Self::CodingNotImplemented => 501,
            Self::VersionNotSupported => 505,
            _ => 400,
        }
    }
}

/// A response head that the application may not send (PEP 3333 "The `start_response()` Callable").
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HeadError {
    /// The status is not a number from 200 to 999, or is not followed by a space and text (RFC 9112 §4, RFC 9110 §15).
    #[error("invalid status {0:?}")]
    Status(String),
    /// The field name is empty or not a token (RFC 9110 §5.1).
    #[error("invalid header name {0:?}")]
    FieldName(String),
    /// A control other than HTAB in the value of the field named (RFC 9110 §5.5).
    #[error("invalid character in the value of header {0:?}")]
    FieldValue(String),
    /// `Content-Length` is not digits that fit 64 bits (RFC 9110 §8.6).
    #[error("invalid Content-Length {0:?}")]
    ContentLength(String),
    /// A second `Content-Length` with another value (RFC 9110 §8.6).
    #[error("Content-Length is both {0} and {1}")]
    ContentLengthConflict(u64, u64),
}
