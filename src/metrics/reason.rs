//! Why a server refuses requests, for their counts.

/// Why a request was refused before the application was called, or instead of its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// It breaks a rule of HTTP.
    Malformed,
    /// Its request line is too long.
    RequestLine,
    /// A header field is too long.
    FieldSize,
    /// It has too many header fields.
    Fields,
    /// Its head is too large.
    Head,
    /// Its head did not arrive in time.
    HeaderTimeout,
    /// The client closed its side in the middle of the request.
    ClientClosed,
    /// The connection does not begin with the header of a proxy, or its client is no proxy.
    Proxy,
    /// Its handshake of TLS has failed, or it comes without TLS.
    Tls,
    /// The application does not take requests with such a head.
    Application,
    /// Its body is longer than allowed.
    BodySize,
    /// Its body made a pause that was too long, or found no room in time.
    BodyTimeout,
    /// Its body came too slowly.
    MinRate,
    /// Its turn did not come in time.
    QueueTimeout,
    /// The application took too long.
    RequestTimeout,
    /// Its body is larger than all space for bodies.
    SpoolTotal,
    /// Its body could not be stored on the disk.
    SpoolDir,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 17] = [
        Self::Malformed,
        Self::RequestLine,
        Self::FieldSize,
        Self::Fields,
        Self::Head,
        Self::HeaderTimeout,
        Self::ClientClosed,
        Self::Proxy,
        Self::Tls,
        Self::Application,
        Self::BodySize,
        Self::BodyTimeout,
        Self::MinRate,
        Self::QueueTimeout,
        Self::RequestTimeout,
        Self::SpoolTotal,
        Self::SpoolDir,
    ];

    /// Returns the reason's name in metrics: that of the setting, if there is one.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::RequestLine => "limit_request_line",
            Self::FieldSize => "limit_request_field_size",
            Self::Fields => "limit_request_fields",
            Self::Head => "limit_request_head",
            Self::HeaderTimeout => "header_timeout",
            Self::ClientClosed => "client_closed",
            Self::Proxy => "proxy_protocol",
            Self::Tls => "tls",
            Self::Application => "application",
            Self::BodySize => "max_body_size",
            Self::BodyTimeout => "body_timeout",
            Self::MinRate => "min_rate",
            Self::QueueTimeout => "queue_timeout",
            Self::RequestTimeout => "request_timeout",
            Self::SpoolTotal => "spool_total",
            Self::SpoolDir => "spool_dir",
        }
    }
}
