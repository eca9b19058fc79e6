//! The end of a server: its drain, and cutting it off.
//!
//! *Owns*: nothing; the stage is in `Drain`. *Runs on*: the plain threads that stop the server; what is done to
//! connections runs on the runtime's thread. *Invariants*: listeners end before idle connections are closed, so that
//! every connection in a listen queue is accepted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::registry::Member;
use super::{Inner, Server};
use crate::connection::Look;
use crate::metrics::End;
use crate::scoreboard::State;
use crate::sys;

/// How long a draining server waits for the first request of a new connection.
pub(super) const DRAIN_FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Suspended responses end this long before the time of a stop is over.
const SUSPENDED_CLOSE: Duration = Duration::from_secs(1);

impl Server {
    /// Stops the server: accepts the connections in the listen queues, closes the listening sockets and idle
    /// connections, and lets running requests finish. A call that has taken over a connection reads the end of its
    /// input. Returns whether everything ended within `timeout`. (Plain thread.)
    pub fn drain(&self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        self.begin_drain();
        self.wait_drained(end)
    }

    /// Begins to stop: listeners accept the rest of their queues and close. From now on, responses announce that their
    /// connection closes. After `hand_over_at_stop`, listeners leave the rest of their queues to other processes, and
    /// responses announce nothing.
    pub fn begin_drain(&self) {
        let inner = &self.inner;
        let drain = inner.drain();
        let begun = if inner.handover.has_receiver() { drain.begin_handover() } else { drain.begin() };
        if !begun {
            return;
        }
        if let Some(slot) = &inner.slot {
            slot.set_state(State::Draining);
        }
        inner.takeovers.end_input();
        if inner.suspended_end.load(Ordering::SeqCst) {
            inner.shared.requests().end_suspended();
        }
        inner.on_runtime(Inner::go_away);
        inner.listeners.wake();
        if inner.listeners.have_ended() {
            inner.on_runtime(Inner::close_idle);
        }
    }

    /// Waits after `begin_drain` until everything has ended, at most until `end`. Returns whether it has. (Plain
    /// thread.)
    pub fn wait_drained(&self, end: Instant) -> bool {
        let inner = &self.inner;
        inner.drain().wait(end, || inner.has_closed() && inner.handler.running() == 0 && inner.takeovers.current() == 0)
    }

    /// Ends suspended responses if the time of the stop is nearly over, so that their iterables are closed in time. Call
    /// it every now and then while waiting for the end of a stop. (Plain thread.)
    pub fn end_suspended_before(&self, end: Instant) {
        let is_due = end.saturating_duration_since(Instant::now()) <= SUSPENDED_CLOSE;
        if is_due && !self.inner.suspended_end.swap(true, Ordering::SeqCst) {
            self.inner.shared.requests().end_suspended();
        }
    }

    /// Waits after `begin_drain` until the listeners have closed and each connection that was idle has closed or has
    /// moved, at most until `end`. Returns whether that is so. (Plain thread.)
    pub fn wait_left(&self, end: Instant) -> bool {
        let inner = &self.inner;
        // A connection whose response has just been sent keeps its coroutine for a moment, and moves after that.
        let rests = || inner.registry.len() > inner.shared.requests().len();
        inner.drain().wait(end, || inner.listeners.have_ended() && inner.handover.has_left() && !rests())
    }

    /// Ends all connections at once. Returns whether they are closed within `timeout`. Calls of the application
    /// continue, but their responses are dropped. (Plain thread.)
    pub fn cut(&self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        let inner = &self.inner;
        self.begin_drain();
        inner.drain().cut();
        inner.takeovers.cut();
        // From now on, a connection that leaves its coroutine or is about to get one is dropped.
        inner.on_runtime(|inner| {
            inner.registry.cut();
            inner.websockets.cut();
        });
        inner.drain().wait(end, || inner.has_closed())
    }
}

impl Inner {
    /// Returns whether every listener, connection and coroutine has ended, and no connection is on its way.
    fn has_closed(&self) -> bool {
        // Check the listeners first: a connection that one of them accepts at its end is counted before the listener
        // ends.
        self.handover
            .end_if_quiet(|| self.listeners.have_ended() && self.registry.len() == 0 && self.coroutines.len() == 0)
    }

    /// Runs `action` on the runtime's thread, which owns all connections.
    pub(super) fn on_runtime(self: &Arc<Self>, action: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let inner = Arc::clone(self);
        sys::spawn(move || action(&inner));
    }

    /// Closes or hands over the connections that are idle when the drain has begun and all listeners have closed. (The
    /// runtime's thread.)
    pub(super) fn close_idle(self: &Arc<Self>) {
        for member in self.registry.idle().take_idle() {
            self.park(member, Instant::now());
        }
        if self.listeners.have_ended() {
            self.handover.has_looked.store(true, Ordering::SeqCst);
            self.drain().note();
        }
    }

    /// Closes an idle connection of a server that drains. If a request has arrived, it is served. If the client has
    /// begun a request, it has the usual time for the rest. If the client has sent nothing yet, it has until
    /// `DRAIN_FIRST_REQUEST`.
    pub(super) fn drain_idle(self: &Arc<Self>, mut member: Box<Member>) {
        match member.connection.look(&self.shared) {
            Look::Something => self.run(member),
            Look::Nothing if !member.connection.is_at_rest() => {
                let mut until = member.connection.rest_deadline(&self.shared);
                if !member.connection.has_begun() {
                    let began = self.drain().began().unwrap_or_else(Instant::now);
                    until = until.min(began + DRAIN_FIRST_REQUEST);
                }
                self.keep(member, until);
            }
            Look::Nothing => {
                self.handover.note_closed();
                member.end(End::Stopped);
            }
            Look::End => member.end(End::Client),
        }
    }
}
