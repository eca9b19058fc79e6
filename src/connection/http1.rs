//! Answering a request: the permit, the hand-over to the handler, and sending the response.

mod body;
mod exchange;
mod head;
mod response;
mod send;
mod store;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admission::{Admission, Delivery, Terms};
use crate::handler::{self, Handler, Request, RequestBody, Responder};
use crate::http::{Framing, Persistence, RequestHead};
use crate::pool::{Permit, Pool};

use self::exchange::Ended;
pub(super) use self::exchange::context;
pub(super) use self::response::Response;
pub(super) use self::send::SendQueue;
use super::account::Account;
use super::hijack::Unanswered;
use super::overload::Awaited;
use super::transport::{Ending, Until};
use super::{Connection, Failure, Next, Refusal};

/// The least time that a thread has to begin a request that holds a permit, even with `--queue-timeout 0`. A busy
/// machine needs this long to start a thread.
const THREAD_WAIT_MIN: Duration = Duration::from_secs(1);

impl Connection {
    /// Serves one request whose head has been received.
    pub(super) fn serve_request(
        &mut self,
        head: &Arc<RequestHead>,
        mut received: Instant,
        handler: &dyn Handler,
    ) -> Next {
        let mut account = Account { began: self.head_began, ..Account::default() };
        let terms = match handler.admit(head, &self.origin) {
            Admission::Serve(terms) => terms,
            Admission::Refuse { status, why } => {
                let failure = Failure::Refused(Refusal::ByHandler { status, why });
                return self.give_up(failure, head, &mut account, handler);
            }
        };
        let body = match self.receive_body_of(head, &terms, &mut received) {
            Ok(body) => body,
            Err(failure) => return self.give_up(failure, head, &mut account, handler),
        };
        account.received = Some(received);
        let permit = match self.acquire(terms.gate, received) {
            Ok(permit) => permit,
            Err(failure) => return self.give_up(failure, head, &mut account, handler),
        };
        let exchange = self.spare.exchange(self.transport.waker(), &self.shared.derived.bounds, permit);
        let mut streaming = body.is_none().then(|| self.start_streaming(head, terms.body_bytes_max));
        let body =
            body.unwrap_or_else(|| RequestBody::Streamed(handler::Input::new(Arc::clone(&exchange), head.framing())));
        let number = self.shared.requests.enter(received, head, &self.origin, &exchange);
        let request = Request {
            head: Arc::clone(head),
            body,
            origin: Arc::clone(&self.origin),
            received,
            begin_by: received + self.shared.config.queue_timeout.max(THREAD_WAIT_MIN),
            timed: self.shared.access_log.is_some(),
        };
        let responder = Responder::new(Arc::clone(&exchange)).with_buffers(self.spare.queue.renew());
        handler.call(request, responder);
        let ended = self.exchange(head, &exchange, streaming.as_mut(), &mut account);
        if matches!(ended, Ended::LetGo) {
            return Next::LetGo(Box::new(Unanswered::new(exchange, number, Arc::clone(head), account)));
        }
        self.shared.requests.leave(number);
        self.spare.exchange = Some(exchange);
        if matches!(ended, Ended::Late) {
            let failure = Failure::Refused(Refusal::Overload(Awaited::Thread));
            return self.give_up(failure, head, &mut account, handler);
        }
        account.complete = matches!(ended, Ended::Sent(_));
        account.log(head, &self.origin, &self.shared);
        let received = match &mut streaming {
            Some(streaming) if matches!(ended, Ended::Sent(Persistence::KeepAlive)) && !streaming.is_complete() => {
                self.discard_body(streaming)
            }
            Some(streaming) => streaming.is_complete(),
            None => true,
        };
        match ended {
            Ended::Sent(Persistence::KeepAlive) if received => Next::Again,
            Ended::Sent(_) => Next::Close { unread: !received || self.has_more() },
            // If the client sends more, a close makes the kernel reset the connection. Then responses that are still in
            // transit are lost, including complete earlier ones.
            Ended::Cut { reset: false } => Next::Close { unread: true },
            Ended::Cut { reset: true } => {
                self.await_acknowledgement();
                self.transport.end(Ending::Reset);
                Next::Close { unread: false }
            }
            Ended::TooSlow => {
                self.transport.end(Ending::Reset);
                Next::Close { unread: false }
            }
            Ended::LetGo | Ended::Late => Next::Close { unread: false },
        }
    }

    /// Receives the body. Returns `None` if the application reads the body while it arrives.
    fn receive_body_of(
        &mut self,
        head: &RequestHead,
        terms: &Terms<'_>,
        received: &mut Instant,
    ) -> Result<Option<RequestBody>, Failure> {
        let bytes_max = terms.body_bytes_max;
        // A declared length that is too long is refused before any byte of the body and before any `100 Continue`.
        if head.framing().exceeds(bytes_max) {
            return Err(Failure::Refused(Refusal::TooLong { bytes_max }));
        }
        match (head.framing(), terms.delivery) {
            (Framing::None, _) => Ok(Some(RequestBody::Empty)),
            (_, Delivery::Stream) => Ok(None),
            (_, Delivery::Buffer) => {
                let spool = self.read_body(head, bytes_max)?;
                *received = Instant::now();
                Ok(Some(RequestBody::Complete(spool)))
            }
        }
    }

    /// Ends a request without calling the application.
    fn give_up(
        &mut self,
        failure: Failure,
        head: &Arc<RequestHead>,
        account: &mut Account,
        handler: &dyn Handler,
    ) -> Next {
        let Failure::Refused(error) = failure else {
            account.log(head, &self.origin, &self.shared);
            return Next::Close { unread: false };
        };
        if let Refusal::Overload(awaited) = error {
            self.shared.note_overload(awaited, Some(handler));
        }
        self.refuse(error, Some((head, account.received)));
        Next::Close { unread: true }
    }

    /// Returns whether the client has sent something after the request. Only a read can tell: epoll also reports bytes
    /// that were already read, if the request arrived before the connection was registered.
    fn has_more(&mut self) -> bool {
        if self.buffer.is_empty() {
            self.transport.receive_little(&mut self.buffer);
        }
        !self.buffer.is_empty()
    }

    /// Takes a permit for a request received at `received`, at once or after waiting in line. Returns `None` if the
    /// request needs none.
    fn acquire(&mut self, gate: Option<&Arc<Pool>>, received: Instant) -> Result<Option<Permit>, Failure> {
        // A client that is known to have gone gets no permit.
        if self.transport.is_broken() {
            return Err(Failure::Gone);
        }
        let Some(pool) = gate else { return Ok(None) };
        if let Some(permit) = pool.try_acquire() {
            return Ok(Some(permit));
        }
        let mut waiting = pool.enter(self.transport.waker().clone());
        let deadline = received + self.shared.config.queue_timeout;
        loop {
            if let Some(permit) = waiting.claim() {
                return Ok(Some(permit));
            }
            if Instant::now() >= deadline {
                return Err(Failure::Refused(Refusal::Overload(Awaited::Permit)));
            }
            self.transport.wait(Until::at(deadline));
            if self.transport.is_broken() {
                return Err(Failure::Gone);
            }
        }
    }
}
