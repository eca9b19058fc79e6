//! Ends the response to a request that is past its deadline.
//!
//! *Runs on*: any thread; the connection's coroutine sends what follows. *Invariants*: nothing that the application
//! gives after this moment is sent. A connection that a call has taken over has no deadline.

use std::io;
use std::sync::atomic::Ordering;

use super::{ApplicationTimes, End, Exchange, Outbox, Progress};

/// What a client gets whose request is past its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// A 504.
    Answered,
    /// A part of its response: the response has begun.
    Cut,
    /// Nothing: the client has left.
    Left,
}

impl Exchange {
    /// Ends the response because the request is past its deadline, and frees its place in the pool. A thread that waits
    /// for the client continues. Returns what the client gets. `None`: no thread has begun the request, its response has
    /// ended, or its call has taken the connection over.
    pub fn end_overdue(&self) -> Option<Overdue> {
        let started = Some(self.beginning.begun_at()?);
        let mut state = self.lock();
        if state.outbox.end.is_some() || state.takeover.is_some() {
            return None;
        }
        let overdue = match (state.gone, state.head_given) {
            (true, _) => Overdue::Left,
            (false, true) => Overdue::Cut,
            (false, false) => Overdue::Answered,
        };
        (state.gone, state.is_overdue, state.waiting_bytes) = (true, true, 0);
        state.outbox =
            Outbox { end: Some(End::Overdue), times: ApplicationTimes { started, ended: None }, ..Outbox::default() };
        state.input.closed = true;
        if matches!(state.input.progress, Progress::Coming | Progress::Again) {
            state.input.progress = Progress::Failed(io::ErrorKind::TimedOut);
        }
        let (permit, spooled) = (state.permit.take(), state.spooled.take());
        drop(state);
        drop((permit, spooled));
        self.disconnected.store(true, Ordering::Release);
        self.change.notify_all();
        self.wake_now();
        Some(overdue)
    }
}
