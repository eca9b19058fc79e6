//! One stream: a request, its call, and its response (RFC 9113 §5, §8.1).
//!
//! *Owns*: both directions of the stream, and the request's place in the table. *Runs on*: the connection's coroutine,
//! which never waits inside a stream. *Invariants*: a call whose stream goes is told so, also by a panic.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use h2::server::SendResponse;
use h2::{Reason, SendStream};

use super::body::{Feed, Intake};
use super::outflow::Fate;
use super::pipe::News;
use super::session::Chunk;
use crate::connection::Shared;
use crate::connection::access_record::AccessRecord;
use crate::connection::http1::Response;
use crate::handler::{Exchange, Origin, RequestBody};
use crate::http::RequestHead;
use crate::http2::Sent;
use crate::pool::Wait;

/// Counts a stream while there is one.
struct Counted(Arc<Shared>);

/// One stream.
pub(super) struct Stream {
    _counted: Counted,
    pub(super) respond: SendResponse<Chunk>,
    /// The direction to the client, once the response has begun.
    pub(super) send: Option<SendStream<Chunk>>,
    /// Set if `h2` has something new for this stream.
    pub(super) news: Arc<News>,
    pub(super) waker: Waker,
    pub(super) head: Arc<RequestHead>,
    /// The origin of the request, if its fields change that of the connection.
    pub(super) told: Option<Arc<Origin>>,
    pub(super) record: AccessRecord,
    pub(super) response: Response,
    pub(super) step: Step,
    /// Since the client takes nothing of what is to be sent.
    pub(super) stall: Option<Stall>,
    /// Whether `100 Continue` has been sent, or is not wanted.
    pub(super) has_continued: bool,
    /// Whether the stream is reset next.
    pub(super) is_cut: bool,
    /// Which of its applications the handler has chosen.
    pub(super) route: usize,
    /// Its number (RFC 9113 §5.1.1).
    pub(super) number: u32,
    /// What the socket has taken.
    pub(super) sent: Sent,
    /// Since when `h2` has the whole response, or when the socket last took a part of it.
    pub(super) leaving: Option<Instant>,
    /// How the stream has ended, if it has.
    pub(super) fate: Option<Fate>,
}

/// What a stream does.
pub(super) enum Step {
    /// The body comes.
    Intake(Box<Intake>),
    /// The request waits for a permit, at most until this moment.
    Queue(Wait, Waiting, Instant),
    /// The handler has the request.
    Call(Call),
    /// The server's own response is sent.
    Reply,
    /// Nothing follows.
    Over,
}

/// A request that waits for a permit.
pub(super) enum Waiting {
    /// With its whole body.
    Whole(RequestBody),
    /// With a body that the application reads as it comes.
    Streamed(Box<Feed>),
}

/// A request that the handler has.
pub(super) struct Call {
    pub(super) exchange: Arc<Exchange>,
    pub(super) feed: Option<Box<Feed>>,
    row: usize,
    shared: Arc<Shared>,
    has_ended: bool,
}

/// A pause in sending.
pub(super) struct Stall {
    pub(super) began: Instant,
    /// When the client last took something.
    pub(super) moved: Instant,
    /// How many bytes it has taken since the beginning.
    pub(super) bytes: u64,
}

impl Counted {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.http2_streams.rise();
        Self(Arc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.http2_streams.fall();
    }
}

impl Stream {
    pub(super) fn new(
        shared: &Arc<Shared>,
        respond: SendResponse<Chunk>,
        (news, waker): (Arc<News>, Waker),
        head: Arc<RequestHead>,
        told: Option<Arc<Origin>>,
        record: AccessRecord,
        response: Response,
    ) -> Self {
        let (send, step, stall, has_continued) = (None, Step::Over, None, !head.expects_continue());
        let number = respond.stream_id().as_u32();
        Self {
            _counted: Counted::new(shared),
            respond,
            send,
            news,
            waker,
            head,
            told,
            record,
            response,
            step,
            stall,
            has_continued,
            is_cut: false,
            route: 0,
            number,
            sent: Sent::default(),
            leaving: None,
            fate: None,
        }
    }

    /// Returns whether the client has reset the stream, or the connection has ended. Looks only if `h2` has news.
    pub(super) fn is_reset(&mut self) -> bool {
        if !self.news.take() {
            return false;
        }
        let context = &mut Context::from_waker(&self.waker);
        match &mut self.send {
            Some(send) => send.poll_reset(context).is_ready(),
            None => self.respond.poll_reset(context).is_ready(),
        }
    }

    /// Resets the stream.
    pub(super) fn reset(&mut self, reason: Reason) {
        match &mut self.send {
            Some(send) => send.send_reset(reason),
            None => self.respond.send_reset(reason),
        }
    }
}

impl Call {
    pub(super) fn new(shared: &Arc<Shared>, exchange: Arc<Exchange>, feed: Option<Box<Feed>>, row: usize) -> Self {
        Self { exchange, feed, row, shared: Arc::clone(shared), has_ended: false }
    }

    /// Notes that the whole output has been taken: no thread waits for the client any more.
    pub(super) fn end(mut self) -> Arc<Exchange> {
        self.has_ended = true;
        if self.feed.is_some() {
            self.exchange.close_input();
        }
        Arc::clone(&self.exchange)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.has_ended {
            self.exchange.set_gone();
        }
        self.shared.requests.leave(self.row);
    }
}
