//! A connection whose response is suspended: it rests without a coroutine until the application has output.
//!
//! *Owns*: the request and its response meanwhile. *Runs on*: the connection's coroutine, and the idle set's.
//! *Invariants*: a request that is suspended when its connection ends is given up, leaves the table of requests, and has
//! its line in the access log. Bytes that the client sends meanwhile stay in the kernel.

use std::sync::Arc;
use std::time::Instant;

use super::access_record::AccessRecord;
use super::http1::Response;
use super::{Connection, Ended, Resting, Shared};
use crate::handler::{Exchange, Origin, Rouse};
use crate::http::RequestHead;

/// A suspended response.
pub(super) struct Suspended(Option<Box<Parts>>);

/// What a connection keeps of a request while its response is suspended.
pub(super) struct Parts {
    pub(super) head: Arc<RequestHead>,
    pub(super) exchange: Arc<Exchange>,
    /// The request's row in the table of requests.
    pub(super) row: usize,
    pub(super) response: Response,
    pub(super) record: AccessRecord,
    /// Where the request comes from.
    pub(super) origin: Arc<Origin>,
    pub(super) shared: Arc<Shared>,
}

impl Suspended {
    pub(super) fn new(parts: Box<Parts>) -> Self {
        Self(Some(parts))
    }

    /// Returns its parts. The response goes on.
    fn take(mut self) -> Option<Box<Parts>> {
        self.0.take()
    }
}

impl Drop for Suspended {
    fn drop(&mut self) {
        let Some(parts) = self.0.take() else { return };
        let Parts { head, exchange, row, response, mut record, origin, shared } = *parts;
        exchange.set_gone();
        exchange.get_up();
        shared.requests.leave(row);
        record.note_exchange(&response.queue, &exchange);
        record.end(&head, &origin, &shared, Instant::now());
    }
}

impl Connection {
    /// Goes on with a response that was suspended. Returns the head of its request, and how the step ended.
    #[cold]
    pub(super) fn resume_response(
        &mut self,
        suspended: Suspended,
        record: &mut AccessRecord,
    ) -> (Option<Arc<RequestHead>>, Ended) {
        let Some(parts) = suspended.take() else { return (None, Ended::Gone) };
        let Parts { head, exchange, row, response, record: noted, origin, shared: _ } = *parts;
        exchange.get_up();
        *record = noted;
        if !Arc::ptr_eq(&origin, &self.connected) {
            self.told = Some(origin);
        }
        let ended = self.exchange(&head, &exchange, row, None, record, response);
        let ended = self.end_exchange(&head, exchange, row, None, ended, record);
        (Some(head), ended)
    }
}

impl Resting {
    fn suspended(&self) -> Option<&Parts> {
        self.begun.as_ref()?.suspended.as_ref()?.0.as_deref()
    }

    /// Returns whether the response is suspended.
    pub fn is_suspended(&self) -> bool {
        self.suspended().is_some()
    }

    /// Lets a connection with a suspended response sleep: output of the application rouses it at `place`. Returns false
    /// if there is output already.
    pub fn sleeps(&self, rouse: Arc<dyn Rouse>, place: u64) -> bool {
        self.suspended().is_some_and(|parts| parts.exchange.rest(rouse, place))
    }

    /// Ends the suspended response, because the server stops. What follows of it is output of the application.
    pub fn end_suspended(&self) {
        if let Some(parts) = self.suspended() {
            parts.exchange.end_suspended();
        }
    }
}
