//! A response whose production is suspended: no thread works on it until an event, a time-out, or the client's leaving.
//!
//! *Owns*: who is woken. *Runs on*: both sides; each method says which. *Invariants*: a producer that has suspended is
//! woken if the client leaves, the connection is given up, or the server ends suspended responses.

use std::fmt;
use std::sync::Arc;

use super::{Exchange, Responder};
use crate::http::ResponseHead;

/// The side that produces a suspended response.
pub trait Producer: Send + Sync {
    /// Makes the producer go on. Does not wait, and may be called several times. (Any thread.)
    fn wake(&self);
}

/// What an exchange knows of its suspensions.
#[derive(Default)]
pub(super) struct Suspensions {
    /// The producer, while it is suspended.
    producer: Option<Arc<dyn Producer>>,
    /// Whether the server ends the response at its next suspension, or now if it is suspended.
    is_ending: bool,
}

impl fmt::Debug for Suspensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suspensions").field("is_suspended", &self.producer.is_some()).finish_non_exhaustive()
    }
}

impl Suspensions {
    /// Takes the producer, to wake it without the exchange's lock.
    pub(super) fn take(&mut self) -> Option<Arc<dyn Producer>> {
        self.producer.take()
    }
}

impl Exchange {
    /// Returns whether the response is suspended. (Any thread.)
    pub fn is_suspended(&self) -> bool {
        self.lock().suspensions.producer.is_some()
    }

    /// Ends the response at its next suspension, or now if it is suspended, because the server stops. (Any thread.)
    pub fn end_suspended(&self) {
        let mut state = self.lock();
        state.suspensions.is_ending = true;
        let producer = state.suspensions.take();
        drop(state);
        if let Some(producer) = producer {
            producer.wake();
        }
    }
}

impl Responder {
    /// Records that the response is suspended. Returns false if it must end instead: the client has gone, or the server
    /// ends suspended responses.
    pub fn suspend(&mut self, producer: Arc<dyn Producer>) -> bool {
        let mut state = self.exchange.lock();
        if state.gone || state.suspensions.is_ending {
            return false;
        }
        state.suspensions.producer = Some(producer);
        true
    }

    /// Records that the response goes on. Returns false if it must end instead.
    pub fn resume(&mut self) -> bool {
        let mut state = self.exchange.lock();
        state.suspensions.producer = None;
        !state.gone && !state.suspensions.is_ending
    }

    /// Returns whether the server ends the response because it is suspended and the server stops.
    pub fn is_ended_by_server(&self) -> bool {
        let state = self.exchange.lock();
        state.suspensions.is_ending && !state.gone
    }

    /// Sends the head now, before the first block.
    pub fn send_head(&mut self, head: ResponseHead) {
        let mut state = self.exchange.lock();
        if state.is_overdue {
            return;
        }
        state.head_given = true;
        state.outbox.head = Some(head);
        state.outbox.head_now = true;
        drop(state);
        self.exchange.waker.wake_now();
    }
}
