//! One connection (RFC 9112 §9): read a request, let the handler answer it, write the response, keep or close.
//!
//! *Owns*: the transport and its buffer. *Runs on*: one coroutine for each connection that has work to do. Every wait is
//! in `Transport::wait`. `serve` holds the whole control flow; its steps are in `connection/`. *Invariants*: nothing is
//! parsed after a framing error. The connection holds no permit while it waits for the client. Every wait has a
//! deadline.

mod account;
mod date;
mod hijack;
mod http1;
mod opening;
mod overload;
mod refusal;
mod resting;
mod shared;
mod transport;
mod turn;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::handler::{Bounds, Exchange, Handler, Origin, Outbox};
use crate::http::{HeadScanner, ParseError, RequestHead};
use crate::pool::Permit;
use crate::sys::Waker;

use self::account::Account;
use self::http1::SendQueue;
use self::refusal::Refusal;
use self::transport::{Ending, Received, Transport, Until};

pub use self::hijack::Hijacked;
pub use self::opening::Opening;
pub use self::resting::{Found, Resting};
pub use self::shared::Shared;

/// How long, and how many bytes, the server still reads and discards after an early response. Without this, a reset
/// could destroy the response before the client reads it (RFC 9112 §9.6).
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
    /// The connection has ended.
    Closed,
    /// The answering thread takes it over: `Hijacked::give`.
    Hijacked(Box<Hijacked>),
}

/// One accepted stream while it has a coroutine; `Resting` while it has none.
pub struct Connection {
    transport: Transport,
    origin: Arc<Origin>,
    shared: Arc<Shared>,
    opening: Opening,
    /// Bytes received and not yet used.
    buffer: Vec<u8>,
    scanner: HeadScanner,
    /// When the first byte of the current head arrived.
    head_began: Option<Instant>,
    /// When the connection was accepted, or when its last response was sent.
    rested: Instant,
    /// Whether a request has been answered.
    has_served: bool,
    spare: Spare,
}

/// Memory that a connection reuses from request to request while it has a coroutine.
#[derive(Default)]
struct Spare {
    head: Option<Arc<RequestHead>>,
    exchange: Option<Arc<Exchange>>,
    outbox: Outbox,
    queue: SendQueue,
}

/// What `serve` does next.
enum Next {
    /// Another request may follow.
    Again,
    /// The client is quiet. Rest until this deadline at the latest.
    Rest(Instant),
    /// Close the connection; `unread` says whether input may be left unread.
    Close { unread: bool },
    /// The answering thread takes the connection over.
    LetGo(Box<hijack::Unanswered>),
}

/// Why reading a request ended without one.
#[derive(Debug, Clone, Copy)]
enum Failure {
    /// The client has gone, or left before its request began: there is nothing to respond to.
    Gone,
    /// Quiet until that moment at the latest.
    Quiet(Instant),
    /// The client gets this error response.
    Refused(Refusal),
}

impl From<ParseError> for Failure {
    fn from(error: ParseError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Spare {
    /// Returns an exchange for the next request: the last one if it is free, or a new one.
    fn exchange(&mut self, waker: &Waker, bounds: &Arc<Bounds>, mut permit: Option<Permit>) -> Arc<Exchange> {
        if let Some(mut old) = self.exchange.take() {
            permit = match old.renew(permit) {
                Ok(()) => return old,
                Err(permit) => permit,
            };
        }
        Exchange::with_permit(waker.clone(), Arc::clone(bounds), permit)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Connection {
    /// Returns whether a part of a request has arrived.
    fn has_begun(&self) -> bool {
        self.head_began.is_some()
    }

    /// Returns until when the connection may rest.
    fn rest_deadline(&self) -> Instant {
        self.shared.rest_deadline(self.head_began, self.rested, self.has_served)
    }

    /// Serves requests until the connection rests or ends. (Coroutine.)
    fn serve(mut self, handler: &dyn Handler) -> Outcome {
        let mut next = if self.opening == Opening::Request { Next::Again } else { self.open() };
        loop {
            self.transport.take_turn();
            match next {
                Next::Again => next = self.serve_one(handler),
                Next::Rest(until) => return Outcome::Idle(self.rest(), until),
                Next::Close { unread } => {
                    if unread {
                        self.close_lingering();
                    }
                    return Outcome::Closed;
                }
                Next::LetGo(request) => return Outcome::Hijacked(Box::new(self.let_go(request))),
            }
        }
    }

    /// Ends a connection whose idle time is over. A client that has begun a request gets a 408. (Coroutine.)
    fn expire(&mut self) {
        if self.has_begun() {
            self.refuse(ParseError::HeadTimeout.into(), None);
        }
    }

    fn serve_one(&mut self, handler: &dyn Handler) -> Next {
        let (head, received) = match self.read_head() {
            Ok(read) => read,
            Err(failure) => return self.end_without_request(failure),
        };
        let next = self.serve_request(&head, received, handler);
        self.spare.head = Some(head);
        self.has_served = true;
        self.head_began = (!self.buffer.is_empty()).then(Instant::now);
        next
    }

    /// Decides what happens to a connection whose next request did not arrive.
    fn end_without_request(&mut self, failure: Failure) -> Next {
        match failure {
            Failure::Quiet(_) if self.shared.is_draining() && self.has_served && !self.has_begun() => {
                Next::Close { unread: false }
            }
            Failure::Quiet(until) if until <= Instant::now() => {
                if self.has_begun() {
                    self.refuse(ParseError::HeadTimeout.into(), None);
                }
                Next::Close { unread: false }
            }
            Failure::Quiet(until) => Next::Rest(until),
            Failure::Gone => {
                if self.has_begun() && self.opening == Opening::Request {
                    // The client reset the connection in the middle of a head. nginx logs 400 for this, too.
                    let account = Account { began: self.head_began, status: 400, ..Account::default() };
                    account.log_refused(&self.buffer, &self.origin, &self.shared);
                }
                Next::Close { unread: false }
            }
            Failure::Refused(error) => {
                self.refuse(error, None);
                Next::Close { unread: true }
            }
        }
    }

    /// Waits until the client's kernel has acknowledged everything sent. A reset discards the rest, including earlier
    /// responses.
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

    /// Closes the server's side, then reads and discards until the client closes its side. So the client gets the
    /// response.
    fn close_lingering(&mut self) {
        self.transport.end(Ending::Output);
        let end = Instant::now() + LINGERING_CLOSE;
        let mut bytes_left = LINGERING_CLOSE_BYTES;
        let mut until = Until::at(Instant::now() + LINGERING_CLOSE_QUIET).or(end);
        loop {
            self.buffer.clear();
            self.transport.take_turn();
            match self.transport.receive(&mut self.buffer, LINGERING_CLOSE_READ_BYTES) {
                Received::End | Received::Broken => return,
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
