//! Requests that the server refuses without calling the application: the reason, the status, and the error log's line.
//!
//! *Runs on*: the connection's coroutine. *Invariants*: a line names the client, the status, the offending size or
//! time, the limit with its setting, and the part of the request that was read. Bytes from the client are escaped and
//! cut.

use std::time::{Duration, Instant};

use super::access_record::{AccessRecord, Unparsed};
use super::handshake::without_tls;
use super::http1::{Response, SendQueue, context};
use super::overload::Awaited;
use super::transport::Close;
use super::{Connection, Opening};
use crate::config::{ByteSize, duration_text};
use crate::handler::{Block, End, Outbox};
use crate::http::{Framing, ParseError, RequestHead, ResponseHead, Version};
use crate::metrics::Reason;
use crate::phrase::{count, excerpt, seconds};
use crate::proxy::ProxyHeaderError;
use crate::throttle::Throttle;

/// The log reports clients that speak another protocol at most this often, because such clients usually try again and
/// again.
const FOREIGN_EVERY: Duration = Duration::from_secs(10);
static TLS: Throttle = Throttle::new(FOREIGN_EVERY);
static HTTP2: Throttle = Throttle::new(FOREIGN_EVERY);

/// Why the server refuses a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The request is malformed, or a part of it is too large.
    Malformed(ParseError),
    /// The head did not arrive in time (RFC 9110 §15.5.9).
    SlowHead,
    /// The client closed its side in the middle of the head (RFC 9112 §8).
    CutHead,
    /// The connection does not begin with the required PROXY header (PROXY protocol §2).
    ProxyHeader(ProxyHeaderError),
    /// The client is not a proxy, and only proxies may connect.
    NotAProxy,
    /// The client has not sent the preface of HTTP/2, which is expected here.
    NotHttp2,
    /// The client speaks no TLS, which is expected here.
    WithoutTls {
        /// Whether the client is redirected.
        redirects: bool,
    },
    /// The handler refused the request because of its head.
    ByHandler {
        /// The response's status.
        status: u16,
        /// The reason, as a part of a log sentence.
        why: &'static str,
    },
    /// The body is longer than the handler allows.
    TooLong {
        /// The longest body that is allowed.
        bytes_max: u64,
    },
    /// The request's turn did not come in time: the application is overloaded.
    Overload(Awaited),
    /// The request's body did not arrive in time.
    SlowBody {
        /// Bytes that arrived.
        received: u64,
        /// Whether the average rate was too low. Otherwise, a pause was too long.
        below_rate: bool,
    },
    /// The client closed its side in the middle of the body.
    CutBody {
        /// Bytes that arrived.
        received: u64,
    },
    /// The body is larger than all space that bodies may use.
    NeverRoom,
    /// The memory and disk space for bodies stayed full for too long.
    NoRoom,
    /// The disk is full.
    DiskFull,
    /// The body could not be written to its temporary file.
    NotStored,
}

impl From<ParseError> for Refusal {
    fn from(error: ParseError) -> Self {
        Self::Malformed(error)
    }
}

impl From<ProxyHeaderError> for Refusal {
    fn from(error: ProxyHeaderError) -> Self {
        Self::ProxyHeader(error)
    }
}

impl Refusal {
    /// Returns the refusal of a body of which at most `bytes_max` bytes are allowed.
    pub(super) fn of_body(error: ParseError, bytes_max: u64) -> Self {
        if error == ParseError::BodyTooLarge { Self::TooLong { bytes_max } } else { Self::Malformed(error) }
    }

    pub(super) fn status(self) -> u16 {
        match self {
            Self::Malformed(error) => error.status(),
            Self::ByHandler { status, .. } => status,
            Self::WithoutTls { redirects } => {
                if redirects {
                    308
                } else {
                    400
                }
            }
            Self::ProxyHeader(_) | Self::CutHead | Self::CutBody { .. } => 400,
            Self::NotAProxy => 403,
            Self::SlowHead | Self::SlowBody { .. } => 408,
            Self::TooLong { .. } | Self::NeverRoom => 413,
            Self::NotStored => 500,
            Self::NotHttp2 => 505,
            Self::Overload(_) | Self::NoRoom | Self::DiskFull => 503,
        }
    }

    /// Returns the reason under which the refusal is counted.
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::Malformed(ParseError::UriTooLong) => Reason::RequestLine,
            Self::Malformed(ParseError::FieldTooLarge) => Reason::FieldSize,
            Self::Malformed(ParseError::TooManyFields) => Reason::Fields,
            Self::Malformed(ParseError::HeadTooLarge) => Reason::Head,
            Self::Malformed(ParseError::ContentLengthTooLarge) | Self::TooLong { .. } => Reason::BodySize,
            Self::Malformed(_) | Self::NotHttp2 => Reason::Malformed,
            Self::SlowHead => Reason::HeaderTimeout,
            Self::CutHead | Self::CutBody { .. } => Reason::ClientClosed,
            Self::ProxyHeader(_) | Self::NotAProxy => Reason::Proxy,
            Self::ByHandler { .. } => Reason::Application,
            Self::WithoutTls { .. } => Reason::Tls,
            Self::Overload(_) => Reason::QueueTimeout,
            Self::SlowBody { below_rate: false, .. } | Self::NoRoom => Reason::BodyTimeout,
            Self::SlowBody { below_rate: true, .. } => Reason::MinRate,
            Self::NeverRoom => Reason::SpoolTotal,
            Self::DiskFull | Self::NotStored => Reason::SpoolDir,
        }
    }

    /// Returns whether the bytes that arrived may belong to another protocol.
    fn may_be_foreign(self) -> bool {
        matches!(self, Self::Malformed(_) | Self::SlowHead | Self::CutHead)
    }

    /// Returns the error response, in the form of a handler's output.
    pub(super) fn output(self, request: Option<&RequestHead>) -> Outbox {
        let (mut head, body) = match (self, request) {
            (Self::WithoutTls { redirects }, Some(request)) => without_tls(request, redirects),
            _ => ResponseHead::plain_error(self.status()),
        };
        if self.status() == 503 {
            // The field is well-formed, so this cannot fail.
            let _ = head.push_field(b"Retry-After", b"1");
        }
        let body_bytes = Some(body.len() as u64);
        let blocks = [Block::Owned(body)].into();
        Outbox { head: Some(head), body_bytes, blocks, end: Some(End::Complete), ..Outbox::default() }
    }
}

/// Protocols that clients speak by mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Foreign {
    Tls,
    Http2,
}

impl Foreign {
    /// Recognizes the record of a TLS handshake (RFC 8446 §5.1) and the preface of HTTP/2 (RFC 9113 §3.4). The first
    /// byte of the record is enough, so that it does not matter how many bytes arrive together.
    fn of(received: &[u8]) -> Option<Self> {
        match received {
            [0x16, ..] => Some(Self::Tls),
            _ if received.starts_with(b"PRI * HTTP/2.0\r\n") => Some(Self::Http2),
            _ => None,
        }
    }
}

impl Connection {
    /// Sends an error response for a request that cannot be served. `request` is its head and the time at which the
    /// request was received, if the head was read. A client that speaks another protocol may get no response.
    pub(super) fn refuse(&mut self, refusal: Refusal, request: Option<(&RequestHead, Option<Instant>)>) {
        let head = request.map(|(head, _)| head);
        if self.foreign(refusal, head) == Some(Foreign::Tls) {
            self.note_tls();
            return;
        }
        self.shared.meters().refused(refusal.reason());
        self.log_refusal(refusal, refusal.status(), head);
        if self.opening == Opening::Handshake {
            // No client gets HTTP in the middle of a handshake.
            return;
        }
        let mut response = match head {
            Some(head) => Response::new(head, SendQueue::default()),
            None => Response::to_unread(self.begins_with_head(), Version::Http11),
        };
        response.close();
        let received = request.and_then(|(_, received)| received);
        let proxy_queue = head.and_then(|head| self.proxy_queue(head));
        let mut record = AccessRecord { began: self.head_began, received, proxy_queue, ..AccessRecord::default() };
        response
            .take(&mut refusal.output(head), &mut record, || context(&self.shared, head, Instant::now(), false, false));
        record.complete = self.send_queue(&mut response.queue);
        record.note_sent(&response.queue);
        if !record.complete {
            record.body_bytes = response.body_bytes_sent();
        }
        if let Some(head) = head {
            record.end(head, self.origin(), &self.shared, Instant::now());
        } else if self.opening.is_request() {
            record.log_refused(&self.buffer, self.origin(), &self.shared);
        }
    }

    /// Sends a 503 for a request that got no coroutine in time, as for a request that got no permit.
    pub(super) fn turn_away(&mut self) {
        let head = match self.scanner.scan(&self.buffer, &self.shared.derived.limits) {
            Ok(Some(bytes)) => {
                let bytes = self.buffer.get(..bytes).unwrap_or_default();
                let mut head = RequestHead::unread();
                self.shared.parse_head(&mut head, bytes, &self.connected).ok().map(|()| head)
            }
            _ => None,
        };
        self.shared.note_overload(Awaited::Coroutine, None);
        self.refuse(Refusal::Overload(Awaited::Coroutine), head.as_ref().map(|head| (head, self.head_began)));
        self.transport.close(Close::Whole);
    }

    /// Returns whether a request that could not be read is a HEAD request (RFC 9110 §9.3.2). Only empty lines may
    /// precede a request line (RFC 9112 §2.2). A request begins only after a proxy's header has ended.
    fn begins_with_head(&self) -> bool {
        if !self.opening.is_request() {
            return false;
        }
        let mut rest = &*self.buffer;
        while let [b'\r', b'\n', after @ ..] = rest {
            rest = after;
        }
        rest.starts_with(b"HEAD ")
    }

    /// Returns the protocol that the client speaks in place of HTTP/1.1, if its bytes show it.
    fn foreign(&self, error: Refusal, head: Option<&RequestHead>) -> Option<Foreign> {
        if head.is_some() || self.opening != Opening::Request || !error.may_be_foreign() {
            return None;
        }
        // Inside a session of TLS, another one is only a malformed request.
        Foreign::of(&self.buffer).filter(|foreign| *foreign != Foreign::Tls || !self.transport.is_secured())
    }

    /// Counts and logs a client that speaks TLS where plain HTTP is expected. It gets no response, because it could read
    /// none.
    fn note_tls(&self) {
        self.shared.meters().refused(Reason::Tls);
        if let Some(more) = TLS.pass() {
            let client = self.origin().client_name();
            log::info!(
                "{client}: this looks like TLS; Maypole serves plain HTTP here: use http://, or set --certfile, or let a \
                 proxy in front of Maypole speak TLS{more}"
            );
        }
    }

    pub(super) fn log_refusal(&self, error: Refusal, status: u16, head: Option<&RequestHead>) {
        let client = self.origin().client_name();
        if self.foreign(error, head) == Some(Foreign::Http2) {
            if let Some(more) = HTTP2.pass() {
                log::info!("{client}: this is HTTP/2; Maypole serves HTTP/1.1 here{more}");
            }
            return;
        }
        if matches!(error, Refusal::Overload(_)) && !log::log_enabled!(log::Level::Debug) {
            return;
        }
        let (sentence, request) = (self.sentence(error, head), self.request_text(head));
        if matches!(error, Refusal::Overload(_)) {
            // An overload refuses many requests at once. `note_overload` writes one line for all of them.
            log::debug!("{client}: {status}: {sentence}{request}");
        } else if status < 500 || status == 501 || status == 505 {
            log::info!("{client}: {status}: {sentence}{request}");
        } else {
            log::warn!("{client}: {status}: {sentence}{request}");
        }
    }

    /// Logs why the application cannot read all of a body that it reads while the body arrives.
    pub(super) fn log_broken_body(&self, error: Refusal, head: &RequestHead) {
        let (client, sentence, request) =
            (self.origin().client_name(), self.sentence(error, Some(head)), self.request_text(Some(head)));
        log::info!("{client}: the application cannot read all of the request body: {sentence}{request}");
    }

    /// Describes the request: `, POST /upload`, or the bytes that arrived instead of a request line.
    fn request_text(&self, head: Option<&RequestHead>) -> String {
        if let Some(head) = head {
            return format!(", {} {}{}", excerpt(head.method()), excerpt(head.path()), head.id_text());
        }
        match Unparsed::of(&self.buffer, self.shared.derived.limits.request_line_bytes_max) {
            Some(Unparsed { line, .. }) if !line.is_empty() => format!(", \"{}\"", excerpt(line)),
            _ => String::new(),
        }
    }

    /// Describes the fault, with the limit and its setting.
    fn sentence(&self, error: Refusal, head: Option<&RequestHead>) -> String {
        let shared = &self.shared;
        let (body, total) = (body_text(head), ByteSize(shared.derived.bounds.storage.total()));
        match error {
            Refusal::Malformed(error) => self.malformed(error),
            Refusal::SlowHead => {
                let (received, limit) = (count(self.buffer.len(), "byte"), duration_text(shared.config.header_timeout));
                let age = seconds(self.head_began.map(|began| began.elapsed()).unwrap_or_default());
                format!("a request head of which {received} came in {age}, --header-timeout is {limit}")
            }
            Refusal::CutHead => "connection closed in the middle of the request".to_owned(),
            Refusal::ProxyHeader(error) => format!("{error}, which --proxy-protocol asks for"),
            Refusal::NotAProxy => "connections are taken from proxies only, and --proxy-allow-from does not have this \
                                   address"
                .to_owned(),
            Refusal::ByHandler { why, .. } => why.to_owned(),
            Refusal::NotHttp2 => "HTTP/2 is expected here, and the client has not sent its preface".to_owned(),
            Refusal::WithoutTls { .. } => "plain HTTP on an address that speaks TLS".to_owned(),
            Refusal::TooLong { bytes_max } => self.too_long(bytes_max, head),
            Refusal::Overload(awaited) => {
                format!("no {awaited} within {}", shared.queue_limit())
            }
            Refusal::SlowBody { received, below_rate: false } => {
                let limit = duration_text(shared.config.body_timeout);
                format!("{body} of which {received} came and then nothing more, --body-timeout is {limit}")
            }
            Refusal::SlowBody { received, below_rate: true } => {
                format!("{body} of which {received} came too slowly, --min-rate is {} bytes/s", shared.config.min_rate)
            }
            Refusal::CutBody { received } => {
                format!("{body} of which {received} came before the client closed the connection")
            }
            Refusal::NeverRoom if total.0 == 0 => {
                let limit = shared.config.request_buffer;
                format!("{body}, --request-buffer is {limit} and no temporary files are made")
            }
            Refusal::NeverRoom => format!("{body}, --spool-total is {total}"),
            Refusal::NoRoom => {
                let time = duration_text(shared.config.body_timeout);
                format!("{body} found no room within {time} (--body-timeout), --spool-total is {total}")
            }
            Refusal::DiskFull => format!("{body} could not be stored: --spool-dir has no room"),
            Refusal::NotStored => format!("{body} could not be stored in --spool-dir"),
        }
    }

    /// Names the setting if it is the limit. Otherwise, the limit is the handler's.
    fn too_long(&self, bytes_max: u64, head: Option<&RequestHead>) -> String {
        let body = match head.map(RequestHead::framing) {
            Some(Framing::Length(_)) => body_text(head),
            _ => format!("a chunked body of more than {}", count(bytes_max, "byte")),
        };
        let limit = ByteSize(bytes_max);
        if limit == self.shared.config.max_body_size {
            format!("{body}, --max-body-size is {limit}")
        } else {
            format!("{body}, and this resource takes at most {limit}")
        }
    }

    fn malformed(&self, error: ParseError) -> String {
        let (shared, limits) = (&self.shared, &self.shared.derived.limits);
        match error {
            ParseError::ContentLengthTooLarge => {
                format!("a Content-Length of more than 64 bits, --max-body-size is {}", shared.config.max_body_size)
            }
            ParseError::UriTooLong => {
                let limit = limits.request_line_bytes_max;
                format!("a request line of more than {limit} bytes, --limit-request-line is {limit}")
            }
            ParseError::FieldTooLarge => {
                let limit = limits.field_bytes_max;
                let name = self.long_field().map(|name| format!(" {name}")).unwrap_or_default();
                format!("a header field{name} of more than {limit} bytes, --limit-request-field-size is {limit}")
            }
            ParseError::TooManyFields => {
                let limit = limits.fields_max;
                format!("more than {}, --limit-request-fields is {limit}", count(limit, "header field"))
            }
            ParseError::HeadTooLarge => {
                let limit = ByteSize(limits.head_bytes_max as u64);
                format!("a request head of more than {} bytes, --limit-request-head is {limit}", limit.0)
            }
            _ => error.to_string(),
        }
    }

    /// Returns the name of the first header field that exceeds its limit.
    fn long_field(&self) -> Option<String> {
        let is_long = |line: &&[u8]| line.len() > self.shared.derived.limits.field_bytes_max;
        let mut lines =
            self.buffer.split(|&byte| byte == b'\n').skip_while(|line| line.trim_ascii().is_empty()).skip(1);
        let line = lines.find(is_long)?;
        let colon = line.iter().position(|&byte| byte == b':')?;
        Some(excerpt(line.get(..colon)?))
    }
}

/// `a body of 2000000000 bytes`
fn body_text(head: Option<&RequestHead>) -> String {
    match head.map(RequestHead::framing) {
        Some(Framing::Length(bytes)) => format!("a body of {}", count(bytes, "byte")),
        Some(Framing::Chunked) if head.is_some_and(|head| head.version() != Version::Http2) => {
            "a chunked body".to_owned()
        }
        _ => "a body".to_owned(),
    }
}
