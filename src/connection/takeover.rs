//! Passing a connection to the thread of a call that takes it over.
//!
//! *Owns*: the stream from the end of its coroutine's work until the thread has it, and the request's entry for the
//! access log. *Runs on*: the connection's coroutine until `give`; the closure that `give` passes on runs on the thread
//! of the call. *Invariants*: the waiting thread always gets a reply, from `give` or from `Drop`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::access_record::AccessRecord;
use super::bridge::Bridge;
use super::{Connection, Outcome, Shared};
use crate::handler::{Exchange, Hold, KeptBy, NotGiven, Origin, TakenStream};
use crate::http::RequestHead;
use crate::metrics::End;
use crate::sys;

/// The access log's status for a connection that was taken over. The server sent no other status (RFC 9110 §15.2.2).
const STATUS: u16 = 101;

/// A connection without its coroutine, for the thread that waits for it.
pub struct TakenConnection {
    /// The socket and the received bytes; `None` once they are given.
    stream: Option<(OwnedFd, Vec<u8>)>,
    /// What passes the bytes on between that socket and a client that speaks TLS.
    bridge: Option<Bridge>,
    request: Box<TakenRequest>,
    record: AccessRecord,
    origin: Arc<Origin>,
    shared: Arc<Shared>,
    refusal: NotGiven,
}

/// The request whose call takes the connection over.
pub(super) struct TakenRequest {
    pub(super) exchange: Arc<Exchange>,
    /// Its row in the table of requests.
    pub(super) row: usize,
    pub(super) head: Arc<RequestHead>,
}

impl Connection {
    /// Releases the stream. Without TLS, the coroutine's part ends with it.
    pub(super) fn give_up_stream(mut self, request: Box<TakenRequest>, record: AccessRecord) -> Outcome {
        let (origin, shared) = (Arc::clone(self.origin()), Arc::clone(&self.shared));
        let (stream, bridge) = if self.transport.is_secured() {
            let received = std::mem::take(&mut self.buffer);
            match Bridge::new(self) {
                Ok((bridge, theirs)) => ((theirs, received), Some(bridge)),
                Err(error) => {
                    log::error!("a connection cannot be taken over: {}", sys::plain(&error));
                    request.exchange.refuse_stream(NotGiven::NoDescriptor);
                    request.exchange.set_gone();
                    shared.requests.leave(request.row);
                    return Outcome::Closed(End::Error);
                }
            }
        } else {
            ((self.transport.into_fd(), self.buffer), None)
        };
        Outcome::TakenOver(Box::new(TakenConnection {
            stream: Some(stream),
            bridge,
            request,
            record: AccessRecord { status: STATUS, complete: true, ..record },
            origin,
            shared,
            refusal: NotGiven::Gone,
        }))
    }
}

impl AsFd for TakenConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_ref().expect("it is there until it is given").0.as_fd()
    }
}

impl TakenConnection {
    /// Passes the stream and a hold on it to the waiting thread. When the call ends, its thread logs the request and
    /// tells `at_end` who owns the stream from then on.
    pub fn give(mut self, hold: Hold, at_end: impl FnOnce(KeptBy) + Send + 'static) {
        let Some((fd, received)) = self.stream.take() else { return };
        let exchange = Arc::clone(&self.request.exchange);
        let stream = TakenStream { fd, received, hold };
        exchange.give_stream(
            stream,
            Box::new(move |end| {
                self.record.times = end.times;
                self.record.environ = end.environ;
                self.record.end_taken(&self.request.head, &self.origin, &self.shared);
                self.shared.requests.leave(self.request.row);
                at_end(end.kept_by);
            }),
        );
    }

    /// Takes what passes the bytes on to a client that speaks TLS. Run it once the stream is given.
    pub fn take_bridge(&mut self) -> Option<Bridge> {
        self.bridge.take()
    }

    /// Closes the connection, and tells the waiting thread why.
    pub fn refuse(mut self, why: NotGiven) {
        self.refusal = why;
    }
}

impl Drop for TakenConnection {
    fn drop(&mut self) {
        // After the stream was given, no thread waits. Otherwise, the request's row is removed with the connection.
        if self.stream.is_some() {
            self.request.exchange.refuse_stream(self.refusal);
            self.request.exchange.set_gone();
            self.shared.requests.leave(self.request.row);
        }
    }
}
