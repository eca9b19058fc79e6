//! The kinds of what a server counts: counts, the phases of requests, their methods, and the classes of their statuses.
//!
//! *Invariants*: the numbers of a kind's members follow each other from 0, and are places in memory.

/// Something that is counted one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Count {
    /// Connections that were accepted.
    Accepted,
    /// Microseconds in which calls waited although the server could start no more of them.
    SaturatedMicros,
    /// Bytes that clients have sent, before a call took their connection over.
    ReceivedBytes,
    /// Bytes that were sent to clients, before a call took their connection over.
    SentBytes,
    /// Requests handed over to the application's threads.
    Begun,
    /// The requests among them whose client left before a thread was free.
    Abandoned,
    /// The requests among them that no thread began in time.
    Late,
    /// Connections that have come from other processes.
    MovedHere,
    /// Lines of the error log at ERROR, without a traceback.
    LoggedErrors,
    /// Lines of the error log at ERROR, with a traceback.
    LoggedExceptions,
    /// Lines of the error log at WARNING.
    LoggedWarnings,
    /// WebSockets that were opened.
    WebSocketsOpened,
    /// Valid handshakes of WebSockets to which the response was a redirection or an error.
    WebSocketsRefused,
    /// Messages that the clients of WebSockets have sent.
    MessagesReceived,
    /// Messages that the application has sent through WebSockets.
    MessagesSent,
    /// Messages that the application could not send, because the client was slow.
    MessagesUnsent,
    /// Bytes that the clients of WebSockets have sent.
    WebSocketReceivedBytes,
    /// Bytes that were sent through WebSockets.
    WebSocketSentBytes,
    /// Requests of HTTP/2 that have ended.
    Http2Requests,
    /// Messages of the clients of WebSockets that came too slowly, so that the sockets were closed.
    MessagesSlow,
}

impl Count {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Accepted,
        Self::SaturatedMicros,
        Self::ReceivedBytes,
        Self::SentBytes,
        Self::Begun,
        Self::Abandoned,
        Self::Late,
        Self::MovedHere,
        Self::LoggedErrors,
        Self::LoggedExceptions,
        Self::LoggedWarnings,
        Self::WebSocketsOpened,
        Self::WebSocketsRefused,
        Self::MessagesReceived,
        Self::MessagesSent,
        Self::MessagesUnsent,
        Self::WebSocketReceivedBytes,
        Self::WebSocketSentBytes,
        Self::Http2Requests,
        Self::MessagesSlow,
    ];
}

/// A part of a request's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Phase {
    /// From its first byte until all of it has arrived that the application does not read itself.
    Receive,
    /// From then until a thread begins it: the wait for a place in the pool, for a thread and for the GIL.
    Queue,
    /// Inside the application.
    Application,
    /// From the end of the application until the kernel has the last byte.
    Send,
    /// A thread's wait for the GIL, once it has been told to run calls. It is a part of `Queue` for its first call.
    Gil,
}

impl Phase {
    /// All phases.
    pub const ALL: [Self; 5] = [Self::Receive, Self::Queue, Self::Application, Self::Send, Self::Gil];

    /// Returns the phase's name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Queue => "queue",
            Self::Application => "application",
            Self::Send => "send",
            Self::Gil => "gil",
        }
    }
}

/// What a response's status begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Class {
    /// The connection was taken over.
    Taken,
    /// 2xx
    Success,
    /// 3xx
    Redirection,
    /// 4xx
    ClientError,
    /// 5xx
    ServerError,
    /// The client disconnected before its response began.
    Left,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 6] =
        [Self::Taken, Self::Success, Self::Redirection, Self::ClientError, Self::ServerError, Self::Left];

    /// Returns the class of a status; 0 is none.
    #[inline]
    pub fn of(status: u16) -> Self {
        match status {
            0 => Self::Left,
            1..=199 => Self::Taken,
            200..=299 => Self::Success,
            300..=399 => Self::Redirection,
            400..=499 => Self::ClientError,
            _ => Self::ServerError,
        }
    }

    /// Returns the class's name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Taken => "1xx",
            Self::Success => "2xx",
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
            Self::Left => "client_left",
        }
    }
}

/// A request's method (RFC 9110 §9.3, RFC 5789).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs, reason = "the names say all")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    Other,
}

impl Method {
    /// All methods.
    pub const ALL: [Self; 10] = [
        Self::Get,
        Self::Head,
        Self::Post,
        Self::Put,
        Self::Delete,
        Self::Connect,
        Self::Options,
        Self::Trace,
        Self::Patch,
        Self::Other,
    ];

    /// Returns the method of this name.
    #[inline]
    pub fn of(name: &[u8]) -> Self {
        // Most requests have this one.
        if name == b"GET" { Self::Get } else { Self::other(name) }
    }

    fn other(name: &[u8]) -> Self {
        match name {
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"CONNECT" => Self::Connect,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }

    /// Returns the method's name in metrics. (OpenTelemetry's semantic conventions for HTTP: `_OTHER`.)
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            Self::Other => "_OTHER",
        }
    }
}
