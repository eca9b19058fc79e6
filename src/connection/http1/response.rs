//! A response between the handler's output and the pieces to send.
//!
//! *Owns*: the queue of pieces, and the state of the response. *Runs on*: the connection's coroutine. *Invariants*:
//! nothing here touches a socket, a clock or the exchange, so equal outputs give equal pieces. A response that cannot
//! be completed never looks complete.

use std::sync::Arc;

use super::send::{Piece, SendQueue};
use crate::connection::access_record::AccessRecord;
use crate::handler::{Block, End, Outbox};
use crate::http::response;
use crate::http::{BodyEncoder, Persistence, RequestHead, ResponseHead, Version};
use crate::spool::SpoolFile;

/// A response that is being sent.
pub(in crate::connection) struct Response {
    /// Output that was taken from the handler and is not sent yet.
    pub(in crate::connection) queue: SendQueue,
    state: State,
    version: Version,
    is_head: bool,
    persistence: Persistence,
    /// Whether it has been suspended before.
    was_suspended: bool,
}

/// The state of a response.
enum State {
    /// No part of the final response has been taken.
    Awaited,
    /// The responding thread gets the connection once the queue is sent.
    Takeover,
    /// The head was taken, and waits for a block or for the end. The number is the body's length, if it is known.
    Head(ResponseHead, Option<u64>),
    /// The head is in the queue or sent. The body follows.
    Body(BodyEncoder),
    /// Nothing follows what is in the queue.
    Ended(BodyEncoder, Ending),
}

/// How a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::connection) enum Ending {
    /// All of it is in the queue or sent.
    Complete,
    /// The body is shorter than its Content-Length.
    Short,
    /// The handler failed after the head.
    Failed,
    /// No thread began the request in time: the queue is empty.
    Late,
    /// The connection is a WebSocket.
    Upgraded,
}

/// The fields that the server adds to a head, and its decisions about the connection.
pub(in crate::connection) struct Context<'a> {
    /// The value of `Date`.
    pub(in crate::connection) date: [u8; 29],
    /// The value of `Server`; `None` sends no such field.
    pub(in crate::connection) server: Option<&'a [u8]>,
    /// The name and the value of the field that has the request's id.
    pub(in crate::connection) request_id: Option<(&'a [u8], &'a [u8])>,
    /// Whether the connection closes after this response.
    pub(in crate::connection) closes: bool,
    /// Whether responses are HTTP/1.0.
    pub(in crate::connection) speaks_http10: bool,
    /// Whether the access log needs the encoded head.
    pub(in crate::connection) logs_head: bool,
}

impl Response {
    /// Begins the response to a request. The queue is an empty one.
    pub(in crate::connection) fn new(request: &RequestHead, queue: SendQueue) -> Self {
        Self {
            queue,
            state: State::Awaited,
            version: request.response_version(),
            is_head: request.is_head(),
            persistence: request.persistence(),
            was_suspended: false,
        }
    }

    /// Begins the response to a request whose head was not read.
    pub(in crate::connection) fn to_unread(is_head: bool, version: Version) -> Self {
        Self {
            queue: SendQueue::default(),
            state: State::Awaited,
            version,
            is_head,
            persistence: Persistence::Close,
            was_suspended: false,
        }
    }

    /// Notes that the response is suspended. Returns whether it is for the first time.
    pub(super) fn suspend(&mut self) -> bool {
        self.queue.give_memory_back();
        !std::mem::replace(&mut self.was_suspended, true)
    }

    /// Returns whether the final response has begun.
    pub(in crate::connection) fn has_begun(&self) -> bool {
        matches!(self.state, State::Body(_) | State::Ended(..))
    }

    /// Returns whether no byte of the final response has been sent, and no other message is partly sent.
    pub(super) fn may_continue(&self) -> bool {
        !self.has_begun() && self.queue.is_empty()
    }

    /// Returns how the response ended, if nothing follows what is in the queue.
    pub(in crate::connection) fn ending(&self) -> Option<Ending> {
        if let State::Ended(_, ending) = self.state { Some(ending) } else { None }
    }

    /// Returns how many bytes of the body have been sent, also if the response has broken off.
    #[cold]
    pub(in crate::connection) fn body_bytes_sent(&self) -> u64 {
        match self.state {
            State::Ended(encoder, Ending::Complete) => {
                self.queue.body_bytes_sent(encoder, encoder.finish().map_or(0, <[u8]>::len))
            }
            State::Body(encoder) | State::Ended(encoder, _) => self.queue.body_bytes_sent(encoder, 0),
            State::Awaited | State::Takeover | State::Head(..) => 0,
        }
    }

    /// Returns whether a client would take the close of the connection for the end of the body.
    pub(super) fn ends_by_close(&self) -> bool {
        matches!(self.state, State::Body(BodyEncoder::UntilClose) | State::Ended(BodyEncoder::UntilClose, _))
    }

    /// Returns whether the connection stays open after this response. This is known once the head is encoded.
    pub(super) fn persistence(&self) -> Persistence {
        self.persistence
    }

    /// Makes the connection close after this response.
    pub(in crate::connection) fn close(&mut self) {
        self.persistence = Persistence::Close;
    }

    /// Returns whether the responding thread can take the connection over: no part of the final response has been
    /// taken.
    pub(super) fn may_be_taken_over(&self) -> bool {
        matches!(self.state, State::Awaited | State::Takeover)
    }

    /// Notes that the responding thread gets the connection once the queue is sent.
    pub(super) fn promise_takeover(&mut self) {
        self.state = State::Takeover;
    }

    /// Returns whether the responding thread gets the connection once the queue is sent.
    pub(super) fn is_takeover(&self) -> bool {
        matches!(self.state, State::Takeover)
    }

    /// Puts the response of a handshake into the queue, after which the connection is a WebSocket.
    pub(super) fn upgrade(&mut self, response: Vec<u8>) {
        self.queue.push(Piece::Owned(response));
        self.state = State::Ended(BodyEncoder::None, Ending::Upgraded);
    }

    /// Notes that the responding thread does not get the connection.
    pub(super) fn forget_takeover(&mut self) {
        if self.is_takeover() {
            self.state = State::Awaited;
        }
    }

    /// Moves the handler's output into the queue. Asks for the context once, when it encodes the head.
    pub(in crate::connection) fn take<'a>(
        &mut self,
        outbox: &mut Outbox,
        record: &mut AccessRecord,
        context: impl FnOnce() -> Context<'a>,
    ) {
        if !outbox.interim.is_empty() && !self.has_begun() {
            self.queue.push(Piece::Owned(std::mem::take(&mut outbox.interim)));
        }
        if let Some(head) = outbox.head.take() {
            self.state = State::Head(head, outbox.body_bytes);
        }
        let begins = !outbox.blocks.is_empty() || outbox.spooled || outbox.end.is_some() || outbox.head_now;
        if begins && !self.has_begun() {
            if outbox.end == Some(End::Overdue) {
                self.state = State::Awaited;
            }
            if outbox.end == Some(End::Late) {
                self.state = State::Ended(BodyEncoder::None, Ending::Late);
                return;
            }
            self.begin(outbox, record, &context());
        }
        let State::Body(encoder) = &mut self.state else { return };
        for block in outbox.blocks.drain(..) {
            let (bytes, line) = encoder.block(block.len());
            if bytes > 0 {
                self.queue.push_block(Piece::from_block(block, bytes), bytes, line, encoder.block_end());
            }
        }
        if let Some(end) = outbox.end {
            self.end(end);
        }
    }

    /// Puts the head into the queue. If the response failed before it had a head, puts a 500 or a 504 there instead.
    fn begin(&mut self, outbox: &mut Outbox, record: &mut AccessRecord, context: &Context<'_>) {
        let (mut head, body_bytes) = match std::mem::replace(&mut self.state, State::Awaited) {
            State::Head(head, body_bytes) => (head, body_bytes),
            State::Awaited | State::Takeover | State::Body(_) | State::Ended(..) => {
                let (head, body) = if outbox.end == Some(End::Overdue) {
                    ResponseHead::plain_response(504)
                } else {
                    ResponseHead::plain_error(500)
                };
                let bytes = body.len() as u64;
                outbox.blocks.clear();
                outbox.blocks.push(Block::Owned(body));
                outbox.end = Some(End::Complete);
                (head, Some(bytes))
            }
        };
        record.status = head.status();
        if self.version == Version::Http2 {
            return self.begin_http2(head, body_bytes, record, context);
        }
        if context.speaks_http10 {
            head.say_http10();
        }
        if context.closes {
            self.close();
        }
        let (bytes, encoder, persistence) = head.encode(&self.encoding(body_bytes, context));
        if context.logs_head {
            record.head.clone_from(&bytes);
        }
        self.queue.push(Piece::Owned(bytes));
        self.state = State::Body(encoder);
        self.persistence = persistence;
    }

    /// Puts the head of a response in HTTP/2 into the queue.
    #[cold]
    fn begin_http2(
        &mut self,
        head: ResponseHead,
        body_bytes: Option<u64>,
        record: &mut AccessRecord,
        context: &Context<'_>,
    ) {
        let (bytes, encoder) = head.encode_http2(&self.encoding(body_bytes, context));
        if context.logs_head {
            record.head.clone_from(&bytes);
        }
        self.queue.push(Piece::Head(bytes));
        self.state = State::Body(encoder);
    }

    /// Returns what the encoding of the head depends on.
    #[inline]
    fn encoding<'a>(&self, body_bytes: Option<u64>, context: &'a Context<'_>) -> response::Context<'a> {
        response::Context {
            version: self.version,
            is_head: self.is_head,
            persistence: self.persistence,
            body_bytes,
            date: &context.date,
            server: context.server,
            request_id: context.request_id,
        }
    }

    fn end(&mut self, end: End) {
        let State::Body(encoder) = self.state else { return };
        let ending = match (end, encoder.finish()) {
            (End::Complete, Some(last)) => {
                self.queue.push_static(last);
                Ending::Complete
            }
            (End::Complete, None) => Ending::Short,
            (End::Failed | End::Late | End::Overdue, _) => Ending::Failed,
        };
        self.state = State::Ended(encoder, ending);
    }

    /// Puts a part of the exchange's spool file into the queue. Bytes beyond the body's length count as sent.
    pub(in crate::connection) fn take_spooled(&mut self, file: Arc<SpoolFile>, offset: u64, bytes: u64) {
        let State::Body(encoder) = &mut self.state else { return };
        let (wanted, line) = encoder.block(bytes);
        if wanted == 0 {
            self.queue.spooled_sent += bytes;
        } else {
            self.queue.push_block(Piece::Spooled(file, offset, wanted), wanted, line, encoder.block_end());
        }
    }
}

#[cfg(test)]
mod tests;
