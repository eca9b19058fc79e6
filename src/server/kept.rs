//! The sockets that a stopped server leaves to the program that goes on in the same process.
//!
//! *Owns*: these sockets, from the stop on. *Runs on*: the runtime's thread adds to them; a plain thread takes them.
//! *Invariants*: a listener that is kept is not closed, so that clients wait in its queue meanwhile.

use super::Server;
use super::handover::{Handover, Leaving, Room};
use crate::connection::Moved;
use crate::listener::Listener;
use crate::sys::HeldFd;

/// The sockets of a stopped server.
#[derive(Debug, Default)]
pub struct Kept {
    /// The connections.
    pub connections: Vec<(HeldFd, Moved)>,
    /// The listeners.
    pub listeners: Vec<Listener>,
}

impl Server {
    /// Makes the next stop keep the listeners, and each connection when it is idle, for `take_kept`.
    pub fn keep_at_stop(&self) {
        self.inner.handover.kept.lock().get_or_insert_default();
    }

    /// Takes the sockets that the stop has kept. A connection that becomes idle from now on is closed.
    pub fn take_kept(&self) -> Kept {
        let kept = self.inner.handover.kept.lock().take();
        self.inner.on_runtime(|inner| {
            inner.close_from_now_on();
        });
        kept.unwrap_or_default()
    }

    /// Closes the sockets that the stop has kept, and continues the stop as any other.
    pub fn keep_no_more(&self) {
        drop(self.take_kept());
    }

    /// Enters connections that another program of this process has kept.
    pub fn enter_kept(&self, connections: Vec<(HeldFd, Moved)>) {
        self.inner.on_runtime(move |inner| inner.enter_all(connections.into_iter(), Room::New));
    }
}

impl Handover {
    /// Keeps a connection that was on its way. Returns it if the stop keeps nothing.
    pub(super) fn keep(&self, leaving: Leaving) -> Result<(), Leaving> {
        let kept = &mut *self.kept.lock();
        let Some(kept) = kept else { return Err(leaving) };
        kept.connections.push(leaving);
        self.has_kept();
        Ok(())
    }

    /// Keeps a listener, or closes it if the stop keeps nothing.
    pub(super) fn keep_listener(&self, listener: Listener) {
        if let Some(kept) = &mut *self.kept.lock() {
            kept.listeners.push(listener);
        }
    }
}
