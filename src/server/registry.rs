//! The open connections of a server: their number, their limit, their sockets, and the set of connections without a
//! coroutine.
//!
//! *Owns*: each connection without a coroutine; the slot of every connection. *Runs on*: coroutines; any thread may
//! read the numbers. *Invariants*: an open connection is counted exactly once, from `enter` until its `Open` is
//! dropped, however it ends. At most `connections_max` are open.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

use super::Inner;
use crate::connection::Resting;
use crate::drain::Stage;
use crate::handler::Rouse;
use crate::idle::{IdleSet, Slot};
use crate::memory::{self, Peak};
use crate::metrics::{End, Gauge};
use crate::sys::{HeldNumber, Lock};

use super::descriptors::Descriptors;

/// The open connections.
pub(super) struct Registry {
    idle: OnceLock<Arc<Bed>>,
    connections: Gauge,
    peak: Peak,
    limit: Limit,
    /// The descriptors of open connections, indexed by slot in the idle set; `NONE` if the slot is free. Only the
    /// runtime's thread reads and changes them. No coroutine waits between opening or closing a descriptor and changing
    /// its entry.
    sockets: Lock<Vec<HeldNumber>>,
}

/// The set of connections without a coroutine, as the responses of those that sleep know it.
pub(super) struct Bed(Arc<IdleSet<Box<Member>>>);

impl Rouse for Bed {
    fn rouse(&self, place: u64) {
        self.0.rouse(place);
    }
}

/// The limits of the number of open connections.
pub(super) struct Limit {
    pub(super) connections_max: usize,
    /// The most descriptors that connections may use.
    descriptors_max: usize,
    /// The cause of the value of `connections_max`, for the log.
    pub(super) cause: String,
}

/// A connection and its slot in the idle set, dropped in this order.
pub(super) struct Member {
    pub(super) connection: Resting,
    pub(super) open: Open,
}

/// Counts an open connection and keeps its slot in the idle set. Dropping it undoes both, however the connection ends.
pub(super) struct Open {
    pub(super) slot: Slot,
    /// What is counted once the connection ends. `None`: it is counted elsewhere.
    end: Cell<Option<End>>,
    inner: Arc<Inner>,
}

impl AsFd for Member {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl Member {
    /// Ends the connection, and counts this end.
    pub(super) fn end(mut self, end: End) {
        if matches!(end, End::KeepAlive | End::Evicted | End::Stopped) {
            self.connection.end();
        }
        self.open.set_end(end);
    }
}

impl Open {
    /// Counts this end once the connection has ended.
    pub(super) fn set_end(&self, end: End) {
        self.end.set(Some(end));
    }

    /// Takes the connection out of the server. Its end is not counted.
    pub(super) fn detach(self) {
        self.end.set(None);
    }
}

impl Limit {
    /// Computes the limit from the setting and from the descriptors that connections may use.
    pub(super) fn new(wanted: Option<usize>, descriptors: Descriptors) -> Self {
        Self {
            connections_max: descriptors.connections_max(wanted),
            descriptors_max: descriptors.connections,
            cause: descriptors.cause(wanted),
        }
    }
}

impl Registry {
    /// Makes an empty registry. `set_idle` must be called before the first connection.
    pub(super) fn new(limit: Limit) -> Self {
        Self {
            idle: OnceLock::new(),
            connections: Gauge::default(),
            peak: Peak::default(),
            limit,
            sockets: Lock::default(),
        }
    }

    /// Sets the set of connections without a coroutine. Only the first call has an effect.
    pub(super) fn set_idle(&self, idle: Arc<IdleSet<Box<Member>>>) {
        let _ = self.idle.set(Arc::new(Bed(idle)));
    }

    pub(super) fn idle(&self) -> &Arc<IdleSet<Box<Member>>> {
        &self.bed().0
    }

    /// Returns the same set for `Rouse`.
    pub(super) fn bed(&self) -> &Arc<Bed> {
        self.idle.get().expect("set before the first listener runs")
    }

    /// Returns the number of open connections.
    pub(super) fn len(&self) -> usize {
        self.connections.value()
    }

    pub(super) fn limit(&self) -> &Limit {
        &self.limit
    }

    /// Returns how many more connections may be opened, if calls have taken over `taken_over` connections.
    pub(super) fn room(&self, taken_over: usize) -> usize {
        let Limit { connections_max, descriptors_max, .. } = self.limit;
        let open = self.len();
        connections_max.saturating_sub(open + taken_over).min(descriptors_max.saturating_sub(open + 2 * taken_over))
    }

    /// Returns whether one more connection may be opened, if calls have taken over `taken_over` connections.
    pub(super) fn has_room(&self, taken_over: usize) -> bool {
        let open = self.len();
        // A connection that a call has taken over uses two descriptors.
        open + taken_over < self.limit.connections_max && open + 2 * taken_over < self.limit.descriptors_max
    }

    /// Counts a new connection of a server, and gives it a slot. (The runtime's thread, as for all methods below.)
    pub(super) fn enter(inner: &Arc<Inner>, connection: Resting) -> Member {
        let registry = &inner.registry;
        registry.connections.rise();
        registry.peak.rise(registry.len());
        let (slot, end) = (registry.idle().slot(), Cell::new(Some(End::Error)));
        let open = Open { slot, end, inner: Arc::clone(inner) };
        registry.set_socket(&open.slot, connection.number());
        inner.show_connections();
        Member { connection, open }
    }

    /// Sets the socket of the connection at a slot; `NONE` frees the entry.
    fn set_socket(&self, slot: &Slot, number: HeldNumber) {
        let index = slot.index() as usize;
        let mut sockets = self.sockets.lock();
        if sockets.len() <= index {
            sockets.resize(index + 1, HeldNumber::NONE);
        }
        sockets[index] = number;
    }

    /// Closes every connection without a coroutine, and shuts down the sockets of the others.
    pub(super) fn cut(&self) {
        drop(self.idle().take_idle());
        drop(self.idle().take_waiting());
        drop(self.idle().take_asleep());
        self.sockets.lock().iter().filter(|number| !number.is_none()).for_each(|number| number.shut_down());
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Self { slot, end, inner } = self;
        let registry = &inner.registry;
        if let Some(end) = end.get() {
            let is_cut = inner.drain().stage() == Stage::Cut;
            inner.shared.meters().ended(if is_cut { End::Stopped } else { end }, 1);
        }
        registry.set_socket(slot, HeldNumber::NONE);
        registry.idle().give_back(slot);
        let left = registry.connections.fall();
        if registry.peak.fall(left) {
            memory::freed_much();
        }
        inner.listeners.feed();
        inner.show_connections();
        if left == 0 {
            inner.drain().note();
        }
    }
}
