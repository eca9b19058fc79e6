//! Connections that come: from the listener to the idle set or to a coroutine, while there is room.
//!
//! *Runs on*: the coroutine of one listener.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Inner, Member, Open};
use crate::connection::{Found, Resting};
use crate::handler::Local;
use crate::listener::{self, Acceptor};
use crate::sys::HeldFd;

/// What one listener's coroutine knows.
pub(super) struct Accepting {
    pub(super) inner: Arc<Inner>,
    pub(super) local: Arc<Local>,
}

impl Accepting {
    fn local(&self, fd: &HeldFd) -> Arc<Local> {
        match &*self.local {
            // The listener has no address of its own: each connection came to another one.
            Local::Tcp(address) if address.ip().is_unspecified() => {
                listener::local_address(fd).map_or_else(|| Arc::clone(&self.local), |local| Arc::new(Local::Tcp(local)))
            }
            _ => Arc::clone(&self.local),
        }
    }
}

impl Acceptor for Accepting {
    fn accepted(&self, fd: HeldFd, remote: Option<SocketAddr>) {
        let inner = &self.inner;
        let local = self.local(&fd);
        let connection = match Resting::new(fd, remote, local, inner.shared.opening(remote)) {
            Ok(connection) => connection,
            Err(error) => {
                log::error!("cannot watch a connection: {error}");
                return;
            }
        };
        let open = inner.connections.fetch_add(1, Ordering::SeqCst) + 1;
        if open > inner.crest.load(Ordering::Relaxed) {
            inner.crest.store(open, Ordering::Relaxed);
        }
        let open = Open { place: inner.idle().place(), inner: Arc::clone(inner) };
        inner.note_open(&open.place, connection.as_raw_fd());
        let mut member = Box::new(Member { connection, open });
        match member.connection.look(&inner.shared) {
            Found::Something => inner.run(member),
            Found::Nothing => inner.rest(member),
            Found::End => drop(member),
        }
    }

    fn has_room(&self) -> bool {
        let open = self.inner.connections.load(Ordering::Relaxed);
        let hijacked = self.inner.takeovers.current();
        // Each of these has two descriptors.
        open + hijacked < self.inner.connections_max && open + 2 * hijacked < self.inner.descriptors_max
    }

    fn make_room(&self) -> bool {
        let evicted = self.inner.idle().evict_oldest();
        if evicted.is_none() {
            self.inner.starved.store(true, Ordering::SeqCst);
        }
        evicted.is_some()
    }

    fn is_closed(&self) -> bool {
        self.inner.draining.load(Ordering::SeqCst)
    }
}
