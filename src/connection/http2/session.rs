//! The HTTP/2 of one connection: the state of `h2`, and what the server adds to it.
//!
//! *Owns*: the state of `h2`, its pipe, the budgets, and the calls whose streams have gone. *Runs on*: the connection's
//! coroutine. *Invariants*: a stream counts until its call has ended, even if the client has reset it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake as _, Waker};
use std::time::Instant;

use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use octets::Buf;

use super::budget::Budget;
use super::outflow::Outflow;
use super::pipe::{News, Pipe};
use crate::connection::Shared;
use crate::handler::Exchange;
use crate::http2::{FrameMeter, PREFACE};

/// How many bytes of a body a client may send before the server has taken them, for one stream and for all.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// The most bytes of one response that `h2` holds.
const SEND_BYTES_MAX: usize = 64 * 1024;
/// The most streams that the server resets because of a fault of the client, before it ends the connection.
const FAULTY_STREAMS_MAX: usize = 100;

/// A part of a response's body.
pub(super) struct Chunk {
    bytes: Vec<u8>,
    sent: usize,
}

impl From<Vec<u8>> for Chunk {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, sent: 0 }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.sent
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    fn advance(&mut self, bytes: usize) {
        self.sent = self.bytes.len().min(self.sent + bytes);
    }
}

/// What `Session::accept` has found.
#[expect(clippy::large_enum_variant, reason = "moving a request costs less than memory for it")]
pub(super) enum Accepted {
    /// A request.
    Request((http_types::Request<RecvStream>, SendResponse<Chunk>)),
    /// Nothing for now.
    Nothing,
    /// The connection has ended: everything to say is in the pipe. The error is the client's or the transport's.
    End(Option<h2::Error>),
}

/// How far a connection is on the way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Open,
    /// The client has been told, at this time, to use another connection.
    Leaving(Instant),
    /// Nothing more comes from `h2`.
    Ended,
}

/// The HTTP/2 of one connection.
pub(in crate::connection) struct Session {
    h2: h2::server::Connection<Pipe, Chunk>,
    pub(super) pipe: Pipe,
    /// Set if `h2` has something to do.
    pub(super) news: Arc<News>,
    waker: Waker,
    /// Set if a stream has something to do.
    pub(super) stream_news: Arc<News>,
    /// The news of a stream that has ended, for the next one.
    spare_news: Option<(Arc<News>, Waker)>,
    pub(super) meter: FrameMeter,
    pub(super) outflow: Outflow,
    /// How many heads the client may have sent that `h2` has not passed on. Never less than there are.
    pub(super) heads_due: u32,
    /// Whether the client sends no more.
    has_input_ended: bool,
    /// Since when the client owes the rest of a head or of a short frame.
    pub(super) owes_since: Option<Instant>,
    pub(super) budget: Budget,
    pub(super) stage: Stage,
    /// Since when no stream is open.
    pub(super) quiet_since: Instant,
    /// Whether the client has broken a rule or a limit.
    pub(super) is_at_fault: bool,
    /// Whether the client has got a response.
    pub(super) has_served: bool,
    /// Calls that run on after their streams have gone.
    ghosts: Vec<Arc<Exchange>>,
    _counted: Counted,
}

/// Counts a connection while it speaks HTTP/2.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.http2_connections.rise();
        Self(Arc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.http2_connections.fall();
    }
}

impl Session {
    /// Begins with the bytes that have arrived, of which the preface is the beginning.
    pub(super) fn begin(shared: &Arc<Shared>, received: &[u8], now: Instant) -> Result<Box<Self>, h2::Error> {
        let limit = u32::try_from(shared.derived.limits.head_bytes_max).unwrap_or(u32::MAX);
        let pipe = Pipe::default();
        let mut meter = FrameMeter::default();
        let heads_due = meter.take(received.get(PREFACE.len()..).unwrap_or_default()).heads;
        pipe.receive(|memory| memory.extend_from_slice(received));
        let (news, waker) = News::begin();
        let mut handshake = Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(shared.config.http2.http2_max_concurrent_streams)
            .max_header_list_size(limit)
            .max_send_buffer_size(SEND_BYTES_MAX)
            .max_local_error_reset_streams(Some(FAULTY_STREAMS_MAX))
            .handshake::<_, Chunk>(pipe.clone());
        let h2 = match Pin::new(&mut handshake).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => result?,
            // The preface is there, and the pipe takes the settings.
            Poll::Pending => return Err(Reason::PROTOCOL_ERROR.into()),
        };
        Ok(Box::new(Self {
            h2,
            pipe,
            news,
            waker,
            stream_news: News::begin().0,
            spare_news: None,
            meter,
            outflow: Outflow::default(),
            heads_due,
            has_input_ended: false,
            owes_since: None,
            budget: Budget::new(now),
            stage: Stage::Open,
            quiet_since: now,
            is_at_fault: false,
            has_served: false,
            ghosts: Vec::new(),
            _counted: Counted::new(shared),
        }))
    }

    /// Lets `h2` work, and returns the next request.
    pub(super) fn accept(&mut self) -> Accepted {
        if self.stage == Stage::Ended {
            return Accepted::Nothing;
        }
        let error = match self.h2.poll_accept(&mut Context::from_waker(&self.waker)) {
            Poll::Pending => {
                if self.pipe.is_read() && !self.meter.is_inside() {
                    // The other heads were trailers, or were refused.
                    self.heads_due = 0;
                }
                return Accepted::Nothing;
            }
            Poll::Ready(Some(Ok(request))) => {
                self.heads_due = self.heads_due.saturating_sub(1);
                return Accepted::Request(request);
            }
            Poll::Ready(Some(Err(error))) => Some(error),
            Poll::Ready(None) => None,
        };
        self.stage = Stage::Ended;
        self.is_at_fault |= error.as_ref().is_some_and(|error| !error.is_io() && !error.is_remote());
        Accepted::End(error)
    }

    /// Returns whether `accept` would find nothing, since `h2` has read everything and has no news.
    pub(super) fn has_no_more_heads(&self) -> bool {
        self.heads_due == 0 && !self.news.is_set() && self.pipe.is_read()
    }

    /// Returns whether there is room for more bytes of the client, and whether more may come.
    pub(super) fn may_receive(&self) -> bool {
        !self.has_input_ended && self.stage != Stage::Ended && self.pipe.is_read()
    }

    /// Notes that the client sends no more.
    pub(super) fn end_input(&mut self) {
        self.has_input_ended = true;
        self.pipe.end();
    }

    /// Returns the news of a new stream, which are set, and their waker.
    pub(super) fn begin_news(&mut self) -> (Arc<News>, Waker) {
        match self.spare_news.take() {
            Some((news, waker)) => {
                news.set();
                (news, waker)
            }
            None => News::of(&self.stream_news),
        }
    }

    /// Keeps the news of a stream that has ended, unless `h2` still has their waker.
    pub(super) fn end_news(&mut self, news: Arc<News>, waker: Waker) {
        if Arc::strong_count(&news) == 2 {
            self.spare_news = Some((news, waker));
        }
    }

    /// Tells the client to open no more streams. Those that are open go on (RFC 9113 §6.8).
    pub(super) fn leave(&mut self, now: Instant) {
        if self.stage == Stage::Open {
            self.h2.graceful_shutdown();
            self.stage = Stage::Leaving(now);
            self.news.wake_by_ref();
        }
    }

    /// Ends the connection with this reason once what is in the pipe has been sent.
    pub(super) fn abort(&mut self, reason: Reason) {
        if self.stage != Stage::Ended {
            self.is_at_fault |= reason != Reason::NO_ERROR;
            self.h2.abrupt_shutdown(reason);
            self.news.wake_by_ref();
        }
    }

    /// Returns whether a stream is open or a part of its response is still to be sent.
    pub(super) fn has_streams(&self) -> bool {
        self.h2.has_streams()
    }

    /// Returns by when the next request must come.
    pub(in crate::connection) fn rest_deadline(&self, shared: &Shared) -> Instant {
        let keep_alive = shared.config.http2.http2_keep_alive;
        let first = if self.has_served { keep_alive } else { keep_alive.max(shared.config.header_timeout) };
        self.quiet_since + first
    }

    /// Returns whether nothing happens until the client sends something, if no stream is open.
    pub(super) fn may_rest(&mut self) -> bool {
        self.stage == Stage::Open
            && !self.has_input_ended
            && self.owes_since.is_none()
            && self.pipe.is_read()
            && !self.has_streams()
            && self.ghosts() == 0
    }

    /// Frees the memory that is not needed at rest.
    pub(super) fn rest(&mut self) {
        self.pipe.rest();
        self.ghosts = Vec::new();
        self.spare_news = None;
    }

    /// Returns how many calls run on after their streams have gone.
    pub(super) fn ghosts(&mut self) -> usize {
        self.ghosts.retain(|exchange| exchange.begun_at().is_some() && !exchange.has_ended());
        self.ghosts.len()
    }

    /// Notes that the stream of a call has gone.
    pub(super) fn haunt(&mut self, exchange: Arc<Exchange>) {
        if exchange.begun_at().is_some() && !exchange.has_ended() {
            self.ghosts.push(exchange);
        }
    }
}
