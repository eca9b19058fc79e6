//! `suspend`: the application announces that its next empty block waits for an event.
//!
//! *Runs on*: the thread that runs the application. *Invariants*: a suspension that middleware swallows is waited for at
//! the next announcement, so that an application without its event does not run in circles.

use std::sync::Arc;
use std::time::Instant;

use pyo3::exceptions::{PyBrokenPipeError, PyRuntimeError};
use pyo3::prelude::*;

use super::StartResponse;
use crate::handler::{Pause, Producer, Responder};
use crate::http::ResponseHead;
use crate::sys::forks;
use crate::wsgi::lapses::Lapse;
use crate::wsgi::suspend::{Reached, Resume, Suspension};

/// What follows an empty block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::wsgi) enum Empty {
    /// The next block.
    Next,
    /// Nothing: the response ends.
    End,
    /// `start_response` has not been called.
    NotStarted,
    /// An event: the response is suspended.
    Suspended,
}

impl StartResponse {
    /// Announces a suspension.
    pub(super) fn announce(&self, py: Python<'_>, until: Option<Instant>, flush: bool) -> PyResult<Resume> {
        let refused = |why: &str| Err(PyRuntimeError::new_err(format!("a response cannot be suspended {why}")));
        let mut state = self.settled(py);
        if state.forks != forks() {
            return refused("in a child process");
        }
        if state.taken_over {
            return refused("after its connection was taken over");
        }
        if state.responder.is_none() || state.ending {
            return refused("after it has ended");
        }
        let suspension = Arc::clone(state.suspension.get_or_insert_with(Arc::default));
        drop(state);
        if suspension.is_announced() {
            self.lapses.say(
                Lapse::Suspension,
                format_args!(
                    "the application suspends a response again before its empty block has arrived: middleware keeps \
                     the block, or the application has not yielded it. The thread waits for the event instead"
                ),
            );
            if !self.hold(py, &suspension) {
                return Err(PyBrokenPipeError::new_err("the response ends: its client has gone, or the server stops"));
            }
        }
        let round = suspension.announce(until, flush);
        Ok(Resume::new(suspension, round))
    }

    /// Records that the response is suspended. Returns false if it must end instead.
    pub(in crate::wsgi) fn pause(&self, py: Python<'_>, producer: Arc<dyn Producer>, pause: Pause) -> bool {
        let mut state = self.settled(py);
        !state.ending && state.responder.as_mut().is_some_and(|responder| responder.suspend(producer, pause))
    }

    /// Records that the response goes on. Returns false if it must end instead.
    pub(in crate::wsgi) fn goes_on(&self, py: Python<'_>) -> bool {
        let mut state = self.settled(py);
        let goes_on = !state.ending && state.responder.as_mut().is_some_and(Responder::resume);
        let is_gone = state.find_gone();
        goes_on && !is_gone
    }

    /// Waits on this thread until a suspension that was announced is over. Returns whether the response goes on.
    pub(in crate::wsgi) fn hold(&self, py: Python<'_>, suspension: &Arc<Suspension>) -> bool {
        let producer: Arc<dyn Producer> = Arc::<Suspension>::clone(suspension);
        if !self.pause(py, producer, Pause::Held) {
            suspension.forget();
            return false;
        }
        py.detach(|| suspension.hold());
        self.goes_on(py)
    }

    /// Decides what follows an empty block. It sends nothing, except the head if the suspension asks for it.
    pub(in crate::wsgi) fn empty_block(&self, py: Python<'_>) -> Empty {
        let mut state = self.settled(py);
        let reached = state.suspension.as_ref().and_then(|suspension| suspension.reach());
        let has_head = state.head.is_some() || state.head_sent;
        // PEP 3333: an empty block, too, must come after start_response. A suspended one may come before it.
        if !has_head && reached.is_none_or(|reached| reached.flush) {
            return Empty::NotStarted;
        }
        // An empty block sends nothing, so no failed send reports that the client has left: ask.
        if state.find_gone() {
            return Empty::End;
        }
        let Some(Reached { flush, waits }) = reached else { return Empty::Next };
        if flush && state.is_bodyless() {
            return Empty::End;
        }
        if flush
            && let Some(head) = state.head.take()
            && let Some(responder) = state.responder.as_mut()
        {
            let is_events = is_event_stream(&head);
            responder.send_head(head);
            state.is_events = is_events;
            state.head_sent = true;
        }
        if waits { Empty::Suspended } else { Empty::Next }
    }

    /// Returns the suspensions of the request. `None`: none was announced.
    pub(in crate::wsgi) fn suspension(&self) -> Option<Arc<Suspension>> {
        self.lock().suspension.clone()
    }
}

/// Returns whether a response is a stream of events, which has no end of its own.
pub(super) fn is_event_stream(head: &ResponseHead) -> bool {
    const KIND: &[u8] = b"text/event-stream";
    let value = head.field(b"content-type").unwrap_or_default();
    value.get(..KIND.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(KIND))
}
