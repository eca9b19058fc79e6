//! Accepts connections within their limit, and passes them to the idle set or to a coroutine.
//!
//! *Owns*: the set of open listeners, and why one was lost. *Runs on*: one coroutine for each listener; any thread may
//! wake them. *Invariants*: a listener's socket is closed before the listener counts as ended.

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::registry::Registry;
use super::turnover::Turnover;
use super::{Inner, Server};
use crate::connection::{Look, Resting};
use crate::handler::{Local, Scheme};
use crate::listener::{self, Acceptor, BoundAddress, Listener, Watched};
use crate::metrics::{Count, End, Gauge};
use crate::sys::{self, HeldFd, Waker};
use crate::throttle::Throttle;

/// Limits how often the log says that connections cannot be watched.
static COMPLAINTS: Throttle = Throttle::new(Duration::from_secs(10));

/// Why a server no longer accepts connections on one of its addresses.
#[derive(Debug, Clone)]
pub struct Lost {
    /// A sentence for the log: the event, with the address.
    pub sentence: String,
    /// The system's error number. `None` if the server itself failed.
    pub os_error: Option<i32>,
}

/// The listeners of a server.
pub(super) struct Listeners {
    /// The number of listeners that have not ended.
    open: Gauge,
    /// The wakers of the listeners' coroutines.
    wakers: OnceLock<Vec<Waker>>,
    /// Whether a listener waits for room for one more connection.
    starved: AtomicBool,
    /// Why a listener ended although no stop was requested. `on_lost` is called then.
    lost: OnceLock<Lost>,
    on_lost: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// The state of one listener's coroutine.
struct Accepting {
    inner: Arc<Inner>,
    local: Arc<Local>,
    /// What the listener speaks.
    scheme: Scheme,
    turnover: Turnover,
}

impl Listeners {
    pub(super) fn new() -> Self {
        Self {
            open: Gauge::default(),
            wakers: OnceLock::new(),
            starved: AtomicBool::new(false),
            lost: OnceLock::new(),
            on_lost: OnceLock::new(),
        }
    }

    /// Starts the listeners of a server. Called once.
    pub(super) fn start(inner: &Arc<Inner>, listeners: Vec<Watched>) {
        let wakers = listeners.iter().map(|listener| listener.waker().clone()).collect();
        inner.listeners.wakers.set(wakers).expect("a server starts once");
        // Count all listeners before the first one runs, because it may end at once.
        for _ in &listeners {
            inner.listeners.open.rise();
        }
        for listener in listeners {
            Accepting::spawn(inner, listener);
        }
    }

    /// Returns whether every listener has ended.
    pub(super) fn have_ended(&self) -> bool {
        self.open.value() == 0
    }

    /// Wakes every listener.
    pub(super) fn wake(&self) {
        self.wakers.get().into_iter().flatten().for_each(Waker::wake_later);
        sys::flush_wakes();
    }

    /// Wakes listeners that wait for room, because a connection has closed or can now be evicted.
    pub(super) fn feed(&self) {
        if self.starved.load(Ordering::Relaxed) && self.starved.swap(false, Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Returns whether a listener waits for room.
    pub(super) fn are_starved(&self) -> bool {
        self.starved.load(Ordering::Relaxed)
    }

    /// Returns why a listener ended although no stop was requested.
    pub(super) fn lost(&self) -> Option<&Lost> {
        self.lost.get()
    }

    /// Registers a function to call when a listener is lost. If one is already lost, calls it at once. Only the first
    /// call has an effect.
    pub(super) fn on_lost(&self, told: impl Fn() + Send + Sync + 'static) {
        if self.on_lost.set(Box::new(told)).is_ok() && self.lost().is_some() {
            self.tell_lost();
        }
    }

    fn tell_lost(&self) {
        if let Some(told) = self.on_lost.get() {
            told();
        }
    }
}

/// Accepts only the connections in a listener's queue.
struct Rest(Accepting);

impl Server {
    /// Accepts the connections in the queue of a listener, which is then closed. (Plain thread; returns at once.)
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn accept_rest(&self, listener: Listener) -> io::Result<()> {
        let listener = listener.watch(false)?;
        let acceptor = Rest(Accepting::new(&self.inner, &listener));
        sys::spawn(move || {
            if let Err(error) = listener.accept_all(&acceptor) {
                log::error!("cannot accept on {}: {}", listener.address(), sys::plain(&error));
            }
        });
        Ok(())
    }
}

impl Accepting {
    fn new(inner: &Arc<Inner>, listener: &Watched) -> Self {
        let scheme = if listener.is_tls() { Scheme::Https } else { Scheme::Http };
        let local = match listener.address() {
            BoundAddress::Tcp(address) => Local::Tcp(*address),
            BoundAddress::Unix(path) => Local::Unix(path.clone()),
            BoundAddress::Abstract(name) => Local::Unix(format!("@{name}").into()),
        };
        Self { inner: Arc::clone(inner), local: Arc::new(local), scheme, turnover: Turnover::default() }
    }

    /// Starts a coroutine that accepts from a listener until the server drains. If accepting ends earlier, the server
    /// has lost the listener (`Server::lost`).
    fn spawn(inner: &Arc<Inner>, listener: Watched) {
        let acceptor = Self::new(inner, &listener);
        sys::spawn(move || {
            let address = listener.address().clone();
            let accept = AssertUnwindSafe(|| listener.accept_all(&acceptor));
            let ended = match catch_unwind(accept) {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some((sys::plain(&error), error.raw_os_error())),
                Err(_) => Some(("a panic, which is a defect of the server".to_owned(), None)),
            };
            let inner = &acceptor.inner;
            // Close or keep the socket before telling a drain that this listener accepts no more connections.
            inner.handover.keep_listener(listener.into_listener());
            let is_last = inner.listeners.open.fall() == 0;
            if let Some((why, os_error)) = ended.filter(|_| !acceptor.is_closed()) {
                let sentence = format!("the server can no longer accept on {address}: {why}");
                log::error!("{sentence}");
                if inner.listeners.lost.set(Lost { sentence, os_error }).is_ok() {
                    inner.listeners.tell_lost();
                }
            }
            if is_last && inner.drain().has_begun() {
                inner.close_idle();
            }
        });
    }

    fn local(&self, fd: &HeldFd) -> Arc<Local> {
        match &*self.local {
            // The listener is bound to all addresses of the machine, so each connection may have a different local
            // address.
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
        let shared = &inner.shared;
        let (scheme, opening) = (shared.scheme(self.scheme), shared.opening(remote, self.scheme));
        let connection = match Resting::new(fd, remote, scheme, local, opening) {
            Ok(connection) => connection,
            Err(error) => {
                if let Some(more) = COMPLAINTS.pass() {
                    log::error!("cannot watch a connection, which is closed: {}{more}", sys::plain(&error));
                }
                return;
            }
        };
        inner.shared.meters().count(Count::Accepted, 1);
        let mut member = Box::new(Registry::enter(inner, connection));
        if inner.is_worker {
            self.turnover.accepted(inner.registry.len());
        }
        match member.connection.look(&inner.shared) {
            Look::Something => inner.run(member),
            Look::Nothing => inner.rest(member),
            Look::End => member.end(End::Client),
        }
    }

    fn has_room(&self) -> bool {
        self.inner.registry.has_room(self.inner.takeovers.current())
    }

    fn limit(&self) -> (usize, String) {
        let limit = self.inner.registry.limit();
        (limit.connections_max, limit.cause.clone())
    }

    fn make_room(&self) -> bool {
        let Some(oldest) = self.inner.registry.idle().evict_oldest() else {
            self.inner.listeners.starved.store(true, Ordering::SeqCst);
            return false;
        };
        oldest.end(End::Evicted);
        true
    }

    fn is_closed(&self) -> bool {
        self.inner.drain().has_begun()
    }

    fn patience(&self) -> Duration {
        let inner = &self.inner;
        inner.slot.as_ref().map_or(Duration::ZERO, |slot| {
            inner.show_load(slot);
            if self.turnover.allows(inner.registry.len()) && !slot.is_stuck() {
                return Duration::ZERO;
            }
            slot.patience()
        })
    }

    fn leaves_queue(&self) -> bool {
        self.inner.drain().hands_over()
    }
}

impl Acceptor for Rest {
    fn accepted(&self, fd: HeldFd, remote: Option<SocketAddr>) {
        self.0.accepted(fd, remote);
    }

    fn has_room(&self) -> bool {
        self.0.has_room()
    }

    fn limit(&self) -> (usize, String) {
        self.0.limit()
    }

    fn make_room(&self) -> bool {
        self.0.make_room()
    }

    fn is_closed(&self) -> bool {
        true
    }

    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    fn leaves_queue(&self) -> bool {
        false
    }
}
