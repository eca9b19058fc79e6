//! One HTTP/1.x request: admission, body, permit, the call of the handler, the response.
//!
//! *Owns*: the order of these steps. *Runs on*: the connection's coroutine. *Invariants*: the handler admits or refuses
//! a request before any byte of the body is read. A request holds no permit while its body is received as a whole. A
//! step that ends early reports why, and `Connection::serve` decides what follows.

pub(super) mod body;
mod exchange;
mod head;
mod response;
mod send;
mod store;

use std::sync::Arc;
use std::time::Instant;

use crate::admission::{Admission, Delivery, Terms};
use crate::handler::{self, Exchange, Handler, Request, RequestBody, Responder};
use crate::http::{Framing, Persistence, RequestHead};
use crate::pool::{Permit, Pool};

use self::body::Streaming;
pub(super) use self::exchange::context;
pub(super) use self::head::{LINGER, Patience};
pub(super) use self::response::{Ending, Response};
pub(super) use self::send::{Pace, SendQueue};
use super::access_record::AccessRecord;
use super::overload::Awaited;
use super::transport::Until;
use super::{Connection, Ended, Refusal};

impl Connection {
    /// Serves a request whose head was received at `received`.
    pub(super) fn serve_request(
        &mut self,
        head: &Arc<RequestHead>,
        mut received: Instant,
        record: &mut AccessRecord,
        handler: &dyn Handler,
    ) -> Result<Ended, Ended> {
        record.began = self.head_began;
        record.proxy_queue = self.proxy_queue(head);
        let terms = match handler.admit(head, self.origin()) {
            Admission::Serve(terms) => terms,
            Admission::Refuse { status, why } => return Err(Refusal::ByHandler { status, why }.into()),
        };
        let body = self.receive_body_of(head, &terms, &mut received)?;
        record.received = Some(received);
        let permit = self.acquire(terms.gate, received)?;
        let exchange = self.reused.exchange(self.transport.waker(), &self.shared.derived.bounds, permit);
        let mut streaming = body.is_none().then(|| self.start_streaming(head, terms.body_bytes_max));
        let body =
            body.unwrap_or_else(|| RequestBody::Streamed(handler::Input::new(Arc::clone(&exchange), head.framing())));
        let row = self.shared.requests.enter(received, head, self.origin(), &exchange);
        let derived = &self.shared.derived;
        let request = Request {
            head: Arc::clone(head),
            body,
            origin: Arc::clone(self.origin()),
            received,
            begin_by: received + derived.thread_wait,
            deadline: derived.request_timeout.map(|time| received + time),
            route: terms.route,
        };
        let responder = Responder::new(Arc::clone(&exchange));
        handler.call(request, responder);
        let response = Response::new(head, self.reused.queue.take().unwrap_or_default());
        let ended = self.exchange(head, &exchange, row, streaming.as_mut(), record, response);
        Ok(self.end_exchange(head, exchange, row, streaming.as_mut(), ended, record))
    }

    /// Does what follows an exchange, unless the request goes on. Returns how the request ended.
    #[allow(clippy::inline_always, reason = "a call would cost each request; suspended ones have a copy")]
    #[inline(always)]
    pub(in crate::connection) fn end_exchange(
        &mut self,
        head: &Arc<RequestHead>,
        exchange: Arc<Exchange>,
        row: usize,
        streaming: Option<&mut Streaming>,
        mut ended: Ended,
        record: &mut AccessRecord,
    ) -> Ended {
        if matches!(ended, Ended::TakenOver(_) | Ended::Suspended(_)) {
            return ended;
        }
        self.shared.requests.leave(row);
        self.reused.exchange = Some(exchange);
        if matches!(ended, Ended::Refused(_)) {
            return ended;
        }
        record.complete = matches!(ended, Ended::Sent { .. } | Ended::Upgraded(_));
        record.end(head, self.origin(), &self.shared, self.rested);
        if let Ended::Sent { persistence: Persistence::KeepAlive, body_received } = &mut ended
            && let Some(streaming) = streaming.filter(|_| !*body_received)
        {
            *body_received = self.discard_body(streaming);
        }
        ended
    }

    /// Receives the body. Returns `None` if the application reads the body while it arrives.
    fn receive_body_of(
        &mut self,
        head: &RequestHead,
        terms: &Terms<'_>,
        received: &mut Instant,
    ) -> Result<Option<RequestBody>, Ended> {
        let bytes_max = terms.body_bytes_max;
        // A declared length that is too long is refused before any byte of the body and before any `100 Continue`.
        if head.framing().exceeds(bytes_max) {
            return Err(Ended::Refused(Refusal::TooLong { bytes_max }));
        }
        match (head.framing(), terms.delivery) {
            (Framing::None, _) => Ok(Some(RequestBody::Empty)),
            (_, Delivery::Stream) => Ok(None),
            (_, Delivery::Buffer) => {
                let spool = self.read_body(head, bytes_max)?;
                *received = Instant::now();
                Ok(Some(RequestBody::Complete(Box::new(spool))))
            }
        }
    }

    /// Takes a permit for a request received at `received`, waiting for one if necessary. Returns `None` if the request
    /// needs no permit.
    fn acquire(&mut self, gate: Option<&Arc<Pool>>, received: Instant) -> Result<Option<Permit>, Ended> {
        // A client that is known to have disconnected gets no permit.
        if self.transport.is_broken() {
            return Err(Ended::Gone);
        }
        let Some(pool) = gate else { return Ok(None) };
        if let Some(permit) = pool.try_acquire() {
            return Ok(Some(permit));
        }
        let mut wait = pool.enter(self.transport.waker().clone());
        let deadline = received + self.shared.queue_timeout();
        loop {
            if let Some(permit) = wait.claim() {
                return Ok(Some(permit));
            }
            if Instant::now() >= deadline {
                return Err(Ended::Refused(Refusal::Overload(Awaited::Permit)));
            }
            self.transport.wait(Until::at(deadline));
            if self.transport.is_broken() {
                return Err(Ended::Gone);
            }
        }
    }
}
