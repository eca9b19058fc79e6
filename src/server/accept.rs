//! Takes new connections from the listener to the idle set or to a coroutine, within the limit of connections.
//!
//! *Runs on*: the coroutine of one listener.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Inner, Lost, Member, Open};
use crate::connection::{Found, Resting};
use crate::handler::Local;
use crate::listener::{self, Acceptor, BoundAddress, Watched};
use crate::sys::{self, HeldFd};
use crate::throttle::Throttle;

/// Limits how often the log says that connections cannot be watched.
static COMPLAINTS: Throttle = Throttle::new(Duration::from_secs(10));

/// The state of one listener's coroutine.
pub(super) struct Accepting {
    pub(super) inner: Arc<Inner>,
    pub(super) local: Arc<Local>,
}

impl Accepting {
    /// Accepts from a listener, on a coroutine, until the server drains. If accepting ends earlier, the server has lost
    /// the listener (`Server::lost`).
    pub(super) fn spawn(inner: &Arc<Inner>, listener: Watched) {
        let local = match listener.address() {
            BoundAddress::Tcp(address) => Local::Tcp(*address),
            BoundAddress::Unix(path) => Local::Unix(path.clone()),
            BoundAddress::Abstract(name) => Local::Unix(format!("@{name}").into()),
        };
        let acceptor = Self { inner: Arc::clone(inner), local: Arc::new(local) };
        sys::spawn(move || {
            let address = listener.address().clone();
            let accept = AssertUnwindSafe(|| listener.accept_all(&acceptor));
            let ended = match catch_unwind(accept) {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some((sys::plain(&error), error.raw_os_error())),
                Err(_) => Some(("a panic, which is a defect of the server".to_owned(), None)),
            };
            let inner = &acceptor.inner;
            // Close the socket before telling a drain that this listener accepts no more connections.
            drop(listener);
            let is_last = inner.listening.fetch_sub(1, Ordering::SeqCst) == 1;
            if let Some((why, os_error)) = ended.filter(|_| !acceptor.is_closed()) {
                let sentence = format!("the server can no longer accept on {address}: {why}");
                log::error!("{sentence}");
                if inner.lost.set(Lost { sentence, os_error }).is_ok() {
                    inner.tell_lost();
                }
            }
            if is_last && inner.drain().has_begun() {
                inner.close_idle();
                inner.drain().note();
            }
        });
    }

    fn local(&self, fd: &HeldFd) -> Arc<Local> {
        match &*self.local {
            // The listener is bound to all addresses of the machine, so each connection may have another local address.
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
                if let Some(more) = COMPLAINTS.pass() {
                    log::error!("cannot watch a connection, which is closed: {}{more}", sys::plain(&error));
                }
                return;
            }
        };
        let open = inner.connections.fetch_add(1, Ordering::SeqCst) + 1;
        inner.peak.rise(open);
        let open = Open { place: inner.idle().place(), inner: Arc::clone(inner) };
        inner.note_open(&open.place, connection.number());
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
        // A connection that a call has taken over uses two descriptors.
        open + hijacked < self.inner.connections_max && open + 2 * hijacked < self.inner.descriptors_max
    }

    fn limit(&self) -> (usize, String) {
        (self.inner.connections_max, self.inner.limit_cause.clone())
    }

    fn make_room(&self) -> bool {
        let evicted = self.inner.idle().evict_oldest();
        if evicted.is_none() {
            self.inner.starved.store(true, Ordering::SeqCst);
        }
        evicted.is_some()
    }

    fn is_closed(&self) -> bool {
        self.inner.drain().has_begun()
    }
}
