//! One connection (RFC 9112 §9): receive a request, have the handler respond, send the response, keep or close.
//!
//! *Owns*: the transport, the received bytes that are not used yet, and the memory for the next request. *Runs on*: one
//! coroutine for each connection that has work to do; it waits in `Transport`. *Invariants*: only `serve` decides what
//! happens to the connection; the steps in `connection/` only report how they ended. Nothing is parsed after a framing
//! error. The connection holds no permit while it waits for a request or receives a body as a whole. Every wait for the
//! client has a deadline.

mod access_record;
mod bridge;
mod date;
mod handshake;
mod http1;
mod http2;
mod moved;
mod opening;
mod origin;
mod overload;
mod proxy_queue;
mod refusal;
mod request_id;
mod resting;
mod shared;
mod suspended;
mod takeover;
mod transport;
mod turn;
mod upgraded;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::handler::{Bounds, Exchange, Handler, Origin, Outbox, Upgrade};
use crate::http::{HeadScanner, ParseError, Persistence, RequestHead};
use crate::http2::HeadReader;
use crate::metrics::End;
use crate::pool::Permit;
use crate::sys::Waker;

use self::access_record::AccessRecord;
use self::handshake::Failure;
use self::http1::{Pace, SendQueue};
use self::refusal::Refusal;
use self::suspended::{Parts, Suspended};
use self::takeover::TakenRequest;
use self::transport::{Close, Received, Transport, Until};

pub use self::moved::Moved;
pub use self::opening::Opening;
pub use self::resting::{Look, Resting};
pub use self::shared::Shared;
pub use self::takeover::TakenConnection;
pub use self::upgraded::{Next, Upgraded};

/// Limits on the bytes that the server reads and discards after an early response: total time, time without a byte, and
/// number of bytes. Without this reading, a reset could destroy the response before the client reads it (RFC 9112
/// §9.6).
const LINGERING_CLOSE: Duration = Duration::from_secs(10);
const LINGERING_CLOSE_QUIET: Duration = Duration::from_secs(2);
const LINGERING_CLOSE_BYTES: u64 = 256 << 20;
const LINGERING_CLOSE_READ_BYTES: usize = 64 * 1024;
/// How often a connection that will be reset checks for acknowledgements, which cause no epoll event.
const ACKNOWLEDGED_LOOK: Duration = Duration::from_millis(10);

/// What happens to a connection next.
pub enum Outcome {
    /// The connection waits for the client: park it until it is readable or this deadline passes.
    Idle(Resting, Instant),
    /// The response is suspended: let the connection sleep until it is roused.
    Suspended(Resting),
    /// The connection has ended in this way.
    Closed(End),
    /// A call takes it over: `TakenConnection::give`.
    TakenOver(Box<TakenConnection>),
    /// It is a WebSocket.
    Upgraded(Box<Upgraded>),
}

/// One accepted stream while it has a coroutine; `Resting` while it has none.
pub struct Connection {
    transport: Transport,
    /// The origin by the connection alone.
    connected: Arc<Origin>,
    /// The origin of the current request, if its fields change it.
    told: Option<Arc<Origin>>,
    shared: Arc<Shared>,
    opening: Opening,
    /// Received bytes that are not used yet.
    buffer: Vec<u8>,
    scanner: HeadScanner,
    /// When the first byte of the current head arrived.
    head_began: Option<Instant>,
    /// When the connection was accepted, or when its last response was sent.
    rested: Instant,
    /// Whether a response has been sent.
    has_served: bool,
    /// The response that goes on, or that will be suspended.
    suspended: Option<Suspended>,
    reused: Reused,
}

/// Memory that a connection reuses from request to request while it has a coroutine.
#[derive(Default)]
struct Reused {
    head: Option<Arc<RequestHead>>,
    exchange: Option<Arc<Exchange>>,
    outbox: Outbox,
    /// The queue of the last response, between two of them.
    queue: Option<SendQueue>,
    /// Fields of the last responses in HTTP/2.
    heads: HeadReader,
}

/// How a step of a connection ended. The step only reports this; `serve` decides what follows.
enum Ended {
    /// The client has sent nothing for a while. The connection may rest until this moment.
    Quiet(Instant),
    /// The client has disconnected, so no response can reach it.
    Gone,
    /// The request is not served. The client gets an error response.
    Refused(Refusal),
    /// The whole response was sent.
    Sent {
        /// Whether both sides keep the connection open.
        persistence: Persistence,
        /// Whether the whole body of the request was received.
        body_received: bool,
    },
    /// The response broke off. With `reset`, the client would take a plain close for the end of the body.
    Cut { reset: bool },
    /// The response broke off because the client does not read.
    TooSlow,
    /// The response is suspended.
    Suspended(Box<Parts>),
    /// The call of this request takes the connection over.
    TakenOver(Box<TakenRequest>),
    /// The connection is a WebSocket from now on.
    Upgraded(Box<Upgrade>),
    /// The connection should speak TLS, and does not.
    NotSecured(Failure),
    /// The client speaks HTTP/2, and has sent its preface.
    Http2,
}

impl From<ParseError> for Ended {
    fn from(error: ParseError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Reused {
    /// Returns an exchange for the next request: the previous one if it is free, otherwise a new one. Empties the queue.
    fn exchange(&mut self, waker: &Waker, bounds: &Arc<Bounds>, mut permit: Option<Permit>) -> Arc<Exchange> {
        let buffers = self.queue.as_mut().map(SendQueue::renew).unwrap_or_default();
        if let Some(mut old) = self.exchange.take() {
            permit = match old.renew(permit, buffers) {
                Ok(()) => return old,
                Err(permit) => permit,
            };
        }
        Exchange::with_permit(waker.clone(), Arc::clone(bounds), permit)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("origin", &self.connected).finish_non_exhaustive()
    }
}

impl Connection {
    /// Returns whether a part of a request has arrived.
    fn has_begun(&self) -> bool {
        self.head_began.is_some()
    }

    /// Returns the time until which the connection may rest.
    fn rest_deadline(&self) -> Instant {
        self.shared.rest_deadline(self.head_began, self.rested, self.has_served)
    }

    /// Serves requests until the connection rests or ends. Only this function decides what happens to a connection.
    /// (Coroutine.)
    fn serve(mut self, handler: &dyn Handler) -> Outcome {
        loop {
            self.transport.take_turn();
            let mut record = AccessRecord::default();
            let (head, ended) = self.serve_one(&mut record, handler);
            match self.settled(ended) {
                Ended::Suspended(parts) => {
                    self.suspended = Some(Suspended::new(parts));
                    return Outcome::Suspended(self.rest());
                }
                Ended::Sent { persistence: Persistence::KeepAlive, body_received: true } => {
                    self.reused.head = head;
                    self.has_served = true;
                    self.head_began = (!self.buffer.is_empty()).then(Instant::now);
                    if self.shared.hands_over() && moved::may_move(&self.buffer) && !self.transport.is_secured() {
                        // The bytes of a further request move with the connection.
                        let until = self.rest_deadline();
                        return Outcome::Idle(self.rest(), until);
                    }
                }
                Ended::Sent { body_received, .. } => {
                    if !body_received || self.has_more() {
                        self.close_lingering(Close::Whole);
                    }
                    self.transport.end();
                    return Outcome::Closed(if self.shared.is_draining() { End::Stopped } else { End::Response });
                }
                // If the client sends more, closing the socket makes the kernel send a reset. The reset destroys
                // responses in transit, including complete earlier ones.
                Ended::Cut { reset: false } => {
                    self.close_lingering(Close::Output);
                    return Outcome::Closed(End::Aborted);
                }
                Ended::Cut { reset: true } => {
                    self.await_acknowledgement();
                    self.transport.close(Close::Reset);
                    return Outcome::Closed(End::Aborted);
                }
                Ended::TooSlow => {
                    self.transport.close(Close::Reset);
                    return Outcome::Closed(End::Aborted);
                }
                Ended::TakenOver(request) => return self.give_up_stream(request, record),
                Ended::Http2 => return self.begin_http2(handler),
                Ended::Refused(refusal) if self.begins_http2(refusal) => self.opening = Opening::Http2,
                Ended::Upgraded(upgrade) => return self.upgrade(*upgrade),
                Ended::Refused(refusal) => {
                    if let Refusal::Overload(awaited) = refusal {
                        self.shared.note_overload(awaited, Some(handler));
                    }
                    self.refuse(refusal, head.as_deref().map(|head| (head, record.received)));
                    self.close_lingering(Close::Whole);
                    return Outcome::Closed(End::Refused);
                }
                Ended::NotSecured(failure) => return Outcome::Closed(self.end_unsecured(&failure)),
                Ended::Gone => {
                    self.log_gone(head.as_deref(), record);
                    return Outcome::Closed(End::Client);
                }
                Ended::Quiet(until) if until <= Instant::now() => return Outcome::Closed(self.expire()),
                Ended::Quiet(_) if self.shared.is_draining() && self.has_served && !self.has_begun() => {
                    self.transport.end();
                    return Outcome::Closed(End::Stopped);
                }
                Ended::Quiet(until) => return Outcome::Idle(self.rest(), until),
            }
        }
    }

    /// Serves the next request, or goes on with a response that was suspended. Returns the head of the request, if one
    /// was received, and how this ended.
    #[inline]
    fn serve_one(&mut self, record: &mut AccessRecord, handler: &dyn Handler) -> (Option<Arc<RequestHead>>, Ended) {
        if let Some(suspended) = self.suspended.take() {
            return self.resume_response(suspended, record);
        }
        match self.receive_opening().and_then(|()| self.receive_head()) {
            Err(ended) => (None, ended),
            Ok((head, received)) => {
                let (Ok(ended) | Err(ended)) = self.serve_request(&head, received, record, handler);
                (Some(head), ended)
            }
        }
    }

    /// Ends a connection whose idle time is over. If the client has begun a request, sends it a 408. Returns the end.
    /// (Coroutine.)
    fn expire(&mut self) -> End {
        if self.has_begun() && self.opening == Opening::Handshake {
            return self.end_late_handshake();
        }
        if self.has_begun() {
            self.refuse(Refusal::SlowHead, None);
            self.transport.end();
            return End::Refused;
        }
        self.transport.end();
        End::KeepAlive
    }

    /// Writes the access log's line for a client that has disconnected, if it had begun a request.
    fn log_gone(&self, head: Option<&RequestHead>, record: AccessRecord) {
        if let Some(head) = head {
            record.end(head, self.origin(), &self.shared, Instant::now());
        } else if self.has_begun() && self.opening == Opening::Request {
            // The client reset the connection in the middle of a head. nginx logs 400 for this, too.
            let record = AccessRecord { began: self.head_began, status: 400, ..record };
            record.log_refused(&self.buffer, self.origin(), &self.shared);
        }
    }

    /// Returns whether the client has sent more after the request. Only a read can show this: if the request arrived
    /// before the connection was registered, epoll also reports bytes that were already read.
    fn has_more(&mut self) -> bool {
        if self.buffer.is_empty() {
            self.transport.receive_little(&mut self.buffer);
        }
        !self.buffer.is_empty()
    }

    /// Waits until the client's kernel has acknowledged everything sent. A reset discards unacknowledged bytes,
    /// including those of earlier responses.
    fn await_acknowledgement(&mut self) {
        let end = Instant::now() + LINGERING_CLOSE;
        while self.transport.unacknowledged() > 0 && !self.transport.is_broken() {
            let now = Instant::now();
            if now >= end {
                return;
            }
            self.transport.take_turn();
            self.transport.wait(Until::at(now + ACKNOWLEDGED_LOOK));
        }
    }

    /// Waits until nothing of a response is lost if the socket is closed, which only the kernel's TLS makes necessary.
    #[inline]
    fn settled(&mut self, ended: Ended) -> Ended {
        if !self.transport.is_secured() || !matches!(ended, Ended::Sent { .. }) || self.settle_kernel() {
            ended
        } else {
            Ended::TooSlow
        }
    }

    /// Returns `false` if the client takes the response too slowly.
    #[cold]
    fn settle_kernel(&mut self) -> bool {
        let mut pace = Pace::new();
        while !self.transport.has_room() && !self.transport.is_broken() {
            let Some(deadline) = self.send_deadline(&mut pace) else { return false };
            self.transport.take_turn();
            // Room causes no event.
            self.transport.wait(Until::at(deadline.min(Instant::now() + ACKNOWLEDGED_LOOK)));
        }
        true
    }

    /// Closes the server's side, then reads and discards until the client closes its side. This lets the client receive
    /// the whole response.
    fn close_lingering(&mut self, how: Close) {
        self.transport.close(how);
        let end = Instant::now() + LINGERING_CLOSE;
        let mut bytes_left = LINGERING_CLOSE_BYTES;
        let mut until = Until::at(Instant::now() + LINGERING_CLOSE_QUIET).or(end);
        loop {
            self.buffer.clear();
            self.transport.take_turn();
            match self.transport.receive(&mut self.buffer, LINGERING_CLOSE_READ_BYTES) {
                Received::End | Received::Broken => return,
                Received::Part => {}
                Received::Bytes(bytes) => {
                    until = Until::at(Instant::now() + LINGERING_CLOSE_QUIET).or(end);
                    bytes_left = bytes_left.saturating_sub(bytes as u64);
                    if bytes_left == 0 {
                        return;
                    }
                }
                Received::Nothing => self.transport.wait(until),
            }
            if until.has_passed(Instant::now()) {
                return;
            }
        }
    }
}
