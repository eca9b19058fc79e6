//! One serving process: connects listeners, connections, the idle set and the handler, and drains them.
//!
//! *Owns*: the counts of connections and coroutines. *Runs on*: `start` and `drain` on a plain thread, everything else
//! on coroutines. *Invariants*: nothing runs before `start`. Each connection has one owner: its coroutine, the idle set
//! (idle or in line for a coroutine), or the call that has taken it over.

mod accept;
mod descriptors;
mod stop;
mod takeover;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::config::Config;
use crate::connection::{Found, Hijacked, Outcome, Resting, Shared};
use crate::drain::{Drain, Stage};
use crate::handler::{Handler, Keeps, NotGiven};
use crate::idle::{Eviction, IdleSet, Place, Reason};
use crate::listener::{BoundAddress, Listener};
use crate::logs::AccessLog;
use crate::memory::{self, Peak};
use crate::requests::Snapshot;
use crate::spool::Storage;
use crate::sys::{self, HeldNumber, Waker};
use crate::timer;

use self::accept::Accepting;
pub use self::descriptors::Room;
pub use self::stop::Stop;
use self::takeover::Takeovers;

/// The most connections that have a coroutine at the same time. A stack takes two memory mappings, and a process may
/// have 65,530 (`vm.max_map_count`), enough for 32,765 stacks. The server uses half of that, because the application
/// needs mappings too.
const COROUTINES_MAX: usize = 16_000;
/// Extra coroutines above `COROUTINES_MAX`, used only to send a client the response to a timeout. If none of these is
/// free either, the connection is closed without a response.
const COROUTINES_SPARE: usize = 256;
/// The error context if the process has no descriptor left.
const DESCRIPTORS: &str = "cannot open the descriptors that the server needs for itself";
/// Descriptors that must be free when a server starts: for other files that the process opens, and for some clients.
const DESCRIPTORS_MIN: usize = 12;
/// How long a draining server waits for the first request of a new connection.
const DRAIN_FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Why a server no longer accepts connections on one of its addresses.
#[derive(Debug, Clone)]
pub struct Lost {
    /// A sentence for the log that says what happened, with the address.
    pub sentence: String,
    /// The system's error number. `None` if the server itself failed.
    pub os_error: Option<i32>,
}

/// What a server is made of.
pub struct Setup {
    /// Its settings.
    pub config: Arc<Config>,
    /// The sockets that it accepts connections from.
    pub listeners: Vec<Listener>,
    /// What produces its responses.
    pub handler: Arc<dyn Handler>,
    /// `None`: no access log is written.
    pub access_log: Option<AccessLog>,
    /// Where temporary files are made. `None`: where the settings say.
    pub storage: Option<Arc<Storage>>,
    /// The most connections that have a coroutine at the same time.
    pub coroutines_max: usize,
}

/// A running server.
pub struct Server {
    inner: Arc<Inner>,
    addresses: Vec<BoundAddress>,
}

/// A connection and its place in the idle set. They are dropped in that order.
struct Member {
    connection: Resting,
    open: Open,
}

/// Counts an open connection and keeps its place in the idle set. Dropping it undoes both, however the connection ends.
struct Open {
    place: Place,
    inner: Arc<Inner>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.inner.note_open(&self.place, HeldNumber::NONE);
        self.inner.idle().give_back(&self.place);
        let left = self.inner.connections.fetch_sub(1, Ordering::SeqCst) - 1;
        if self.inner.peak.fall(left) {
            memory::freed_much();
        }
        self.inner.feed();
        if left == 0 {
            self.inner.drain().note();
        }
    }
}

impl AsFd for Member {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

struct Inner {
    shared: Arc<Shared>,
    handler: Arc<dyn Handler>,
    idle: OnceLock<Arc<IdleSet<Box<Member>>>>,
    connections: AtomicUsize,
    connections_max: usize,
    /// The most descriptors that connections may use.
    descriptors_max: usize,
    /// What sets `connections_max`, for the log.
    limit_cause: String,
    /// The connections that calls have taken over.
    takeovers: Arc<Takeovers>,
    /// The peak number of connections.
    peak: Peak,
    coroutines: AtomicUsize,
    coroutines_max: usize,
    /// Whether a listener waits for room for one more connection.
    starved: AtomicBool,
    listening: AtomicUsize,
    wakers: Mutex<Vec<Waker>>,
    /// The descriptors of open connections, indexed by place in the idle set; `NONE` if the place is free. They are changed
    /// and read on the runtime's thread only. No coroutine waits between opening or closing a descriptor and changing
    /// its entry.
    open: Mutex<Vec<HeldNumber>>,
    /// Why a listener ended without being asked to. `on_lost` is called then.
    lost: OnceLock<Lost>,
    on_lost: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Setup {
    /// Returns the parts of a server without an access log. The rest is as the settings say.
    pub fn new(config: Arc<Config>, listeners: Vec<Listener>, handler: Arc<dyn Handler>) -> Self {
        let coroutines_max = COROUTINES_MAX;
        Self { config, listeners, handler, access_log: None, storage: None, coroutines_max }
    }
}

impl Server {
    /// Starts serving.
    ///
    /// # Errors
    /// The kernel has no descriptor left for the idle set, or `--spool-dir` was given and cannot be used.
    pub fn start(setup: Setup) -> anyhow::Result<Self> {
        let Setup { config, listeners, handler, access_log, storage, coroutines_max } = setup;
        let pool = handler.pool().cloned();
        let total = config.spool_total.map(|size| size.0);
        let storage = storage.map_or_else(|| Storage::open(&config.spool_dir, config.spool_dir_given, total), Ok)?;
        let room = Room::of_process();
        if let Some(sentence) = room.warning(config.max_connections, pool.as_ref().map_or(0, |pool| pool.size())) {
            log::warn!("{sentence}");
        }
        storage.limit_open(room.files);
        let connections_max = room.connections_max(config.max_connections);
        let shared = Arc::new(Shared::new(Arc::clone(&config), &storage, pool, access_log));
        handler.join_drain(shared.drain());
        let inner = Arc::new(Inner {
            takeovers: Takeovers::new(shared.drain()),
            shared,
            handler,
            idle: OnceLock::new(),
            connections: AtomicUsize::new(0),
            connections_max,
            descriptors_max: room.connections,
            limit_cause: room.cause(config.max_connections),
            peak: Peak::default(),
            coroutines: AtomicUsize::new(0),
            coroutines_max,
            starved: AtomicBool::new(false),
            listening: AtomicUsize::new(listeners.len()),
            wakers: Mutex::default(),
            open: Mutex::default(),
            lost: OnceLock::new(),
            on_lost: OnceLock::new(),
        });
        timer::start().context(DESCRIPTORS)?;
        let leaving = Arc::clone(&inner);
        let idle = IdleSet::new(move |member, reason| leaving.leave(member, reason)).context(DESCRIPTORS)?;
        let _ = inner.idle.set(idle);
        let addresses = listeners.iter().map(|listener| listener.address().clone()).collect();
        // All listeners are registered before the first one accepts, so that a failed start has served no client.
        let watched = listeners.into_iter().map(Listener::watch).collect::<std::io::Result<Vec<_>>>();
        let watched = watched.context(DESCRIPTORS)?;
        sys::try_descriptors(DESCRIPTORS_MIN).context("there is no descriptor left for clients")?;
        for listener in watched {
            lock(&inner.wakers).push(listener.waker().clone());
            Accepting::spawn(&inner, listener);
        }
        Ok(Self { inner, addresses })
    }

    /// Returns the addresses that the server listens on.
    pub fn addresses(&self) -> &[BoundAddress] {
        &self.addresses
    }

    /// Returns why the server no longer accepts connections on one of its addresses although it was not asked to stop.
    pub fn lost(&self) -> Option<&Lost> {
        self.inner.lost.get()
    }

    /// Has `told` called when the server loses a listener, or at once if it has lost one. Only the first call has an
    /// effect.
    pub fn on_lost(&self, told: impl Fn() + Send + Sync + 'static) {
        if self.inner.on_lost.set(Box::new(told)).is_ok() && self.lost().is_some() {
            self.inner.tell_lost();
        }
    }

    /// Returns the requests being served, the oldest first.
    pub fn requests(&self) -> Vec<Snapshot> {
        self.inner.shared.requests().all()
    }

    /// Returns the number of all permits, free and taken; 0 if requests need none.
    pub fn pool_size(&self) -> usize {
        self.inner.shared.pool_size()
    }

    /// Returns the current counts of connections, coroutines and requests.
    pub fn stats(&self) -> Stats {
        let inner = &self.inner;
        let connections = inner.connections.load(Ordering::SeqCst);
        Stats {
            connections,
            idle: inner.idle().len().min(connections),
            coroutines: inner.coroutines.load(Ordering::SeqCst),
            requests: inner.shared.requests().len(),
            hijacked: inner.takeovers.current(),
            hijacked_total: inner.takeovers.total(),
        }
    }

    /// Stops: accepts the connections in the listen queues, closes the listening sockets and idle connections, and lets
    /// running requests finish. A call that has taken over a connection reads the end of its input. Returns whether
    /// everything ended within `timeout`. (Plain thread.)
    pub fn drain(&self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        self.begin_drain();
        self.wait_drained(end)
    }

    /// Begins to stop: listeners empty their queues and close, and from now on responses announce that their connection
    /// closes.
    pub fn begin_drain(&self) {
        let inner = &self.inner;
        if !inner.drain().begin() {
            return;
        }
        inner.takeovers.end_input();
        for waker in lock(&inner.wakers).iter() {
            waker.wake_now();
        }
        if inner.listening.load(Ordering::SeqCst) == 0 {
            inner.on_runtime(Inner::close_idle);
        }
    }

    /// Waits until everything has ended after `begin_drain`, at most until `end`. Returns whether it has. (Plain
    /// thread.)
    pub fn wait_drained(&self, end: Instant) -> bool {
        let inner = &self.inner;
        inner.drain().wait(end, || inner.has_closed() && inner.handler.running() == 0 && inner.takeovers.current() == 0)
    }

    /// Ends all connections at once. Returns whether they are closed within `timeout`. Calls of the application
    /// continue, but their responses are dropped. (Plain thread.)
    pub fn cut(&self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        let inner = &self.inner;
        self.begin_drain();
        inner.drain().cut();
        inner.takeovers.cut();
        // A connection that leaves its coroutine, or gets one, after this is dropped.
        inner.on_runtime(|inner| {
            drop(inner.idle().take_all());
            drop(inner.idle().take_line());
            inner.shut_down_connections();
        });
        inner.drain().wait(end, || inner.has_closed())
    }

    /// Frees what a stopped server still holds.
    pub fn close(&self) {
        self.inner.idle().close();
    }
}

/// The counts of a server at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Connections that are open.
    pub connections: usize,
    /// Open connections in the idle set.
    pub idle: usize,
    /// Running coroutines, most of them serving a connection.
    pub coroutines: usize,
    /// Requests being served, from their permit to the last byte of their response.
    pub requests: usize,
    /// Connections that running calls have taken over. They do not count as open connections.
    pub hijacked: usize,
    /// All connections that calls have taken over since the start.
    pub hijacked_total: u64,
}

impl Inner {
    fn tell_lost(&self) {
        if let Some(told) = self.on_lost.get() {
            told();
        }
    }

    fn idle(&self) -> &Arc<IdleSet<Box<Member>>> {
        self.idle.get().expect("set before the first listener runs")
    }

    /// Notes the descriptor of the connection at a place; `NONE` frees the entry.
    fn note_open(&self, place: &Place, number: HeldNumber) {
        let index = place.index() as usize;
        let mut open = lock(&self.open);
        if open.len() <= index {
            open.resize(index + 1, HeldNumber::NONE);
        }
        open[index] = number;
    }

    /// Shuts down the socket of every open connection. (The runtime's thread.)
    fn shut_down_connections(&self) {
        lock(&self.open).iter().filter(|number| !number.is_none()).for_each(|number| number.shut_down());
    }

    fn drain(&self) -> &Arc<Drain> {
        self.shared.drain()
    }

    /// Returns whether every listener, connection and coroutine has ended.
    fn has_closed(&self) -> bool {
        // The listeners come first: a connection that one of them accepts at the end is counted before it ends.
        self.listening.load(Ordering::SeqCst) == 0
            && self.connections.load(Ordering::SeqCst) == 0
            && self.coroutines.load(Ordering::SeqCst) == 0
    }

    /// Runs `action` on the runtime's thread, which owns all connections.
    fn on_runtime(self: &Arc<Self>, action: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let inner = Arc::clone(self);
        sys::spawn(move || action(&inner));
    }

    /// Decides what happens to a connection that the idle set releases. (Idle set's coroutine.)
    fn leave(self: &Arc<Self>, mut member: Box<Member>, reason: Reason) {
        match reason {
            Reason::Broken => return drop(member),
            Reason::Unserved => return self.tell(member, Resting::turn_away),
            Reason::Expired if member.connection.has_begun() => return self.tell(member, Resting::expire),
            Reason::Expired | Reason::Readable => {}
        }
        match member.connection.look(&self.shared) {
            // A request that arrived at the last moment is still served.
            Found::Something => self.run(member),
            Found::Nothing if reason == Reason::Readable || member.connection.has_begun() => self.rest(member),
            // A client that has left, or that was idle for too long, is closed without a coroutine.
            Found::Nothing | Found::End => drop(member),
        }
    }

    /// Gives a connection a coroutine, or a place in the line for one.
    fn run(self: &Arc<Self>, member: Box<Member>) {
        if self.drain().stage() == Stage::Cut {
            return drop(member);
        }
        if self.coroutines.load(Ordering::Relaxed) >= self.coroutines_max {
            return self.wait_in_line(member);
        }
        let inner = Arc::clone(self);
        self.coroutine(move || inner.serve(*member));
    }

    /// Gives a connection a coroutine that sends its client the reason for the close. Without a free coroutine, only
    /// closes it.
    fn tell(self: &Arc<Self>, member: Box<Member>, tell: fn(Resting, &Arc<Shared>)) {
        if self.drain().stage() == Stage::Cut
            || self.coroutines.load(Ordering::Relaxed) >= self.coroutines_max + COROUTINES_SPARE
        {
            return drop(member);
        }
        let inner = Arc::clone(self);
        self.coroutine(move || {
            let Member { connection, open } = *member;
            tell(connection, &inner.shared);
            drop(open);
        });
    }

    /// Starts a coroutine and counts it. Before it ends, it serves the connections in line for a coroutine.
    fn coroutine(self: &Arc<Self>, code: impl FnOnce() + Send + 'static) {
        self.coroutines.fetch_add(1, Ordering::SeqCst);
        let counted = Counted(Arc::clone(self));
        let started = sys::spawn_here(move || {
            let inner = &counted.0;
            code();
            while inner.coroutines.load(Ordering::Relaxed) <= inner.coroutines_max
                && let Some(member) = inner.idle().next_in_line()
            {
                inner.serve(*member);
            }
        });
        if let Err(error) = started {
            log::error!("cannot start a coroutine: {}", sys::plain(&error));
        }
    }

    /// Serves a connection until it is idle or ends. (The connection's coroutine.)
    fn serve(self: &Arc<Self>, member: Member) {
        let Member { connection, open } = member;
        // A panic ends only this connection. It is caught so that the counts stay correct.
        let serve = std::panic::AssertUnwindSafe(|| connection.serve(&self.shared, &*self.handler));
        match std::panic::catch_unwind(serve) {
            Ok(Outcome::Idle(connection, until)) => self.park(Box::new(Member { connection, open }), until),
            Ok(Outcome::Closed) => {}
            Ok(Outcome::Hijacked(hijacked)) => self.give(*hijacked, open),
            Err(_) => log::error!("a connection ended by a panic; this is a defect of the server"),
        }
    }

    /// Gives a connection to the call that takes it over. It no longer counts as open. (The connection's coroutine.)
    fn give(&self, hijacked: Hijacked, open: Open) {
        self.idle().unwatch(&open.place, &hijacked);
        match self.takeovers.enter(hijacked.as_fd()) {
            Ok(takeover) => {
                drop(open);
                hijacked.give(takeover.hold(), move |keeps| {
                    if keeps == Keeps::Server {
                        takeover.shut_down();
                    }
                });
            }
            Err(error) => {
                log::error!("a connection cannot be taken over: {}", sys::plain(&error));
                hijacked.refuse(NotGiven::NoDescriptor);
            }
        }
    }

    /// Parks a connection that has no coroutine.
    fn rest(self: &Arc<Self>, member: Box<Member>) {
        let until = member.connection.rest_deadline(&self.shared);
        self.park(member, until);
    }

    /// Parks a connection until a deadline. A server that stops may close it instead.
    fn park(self: &Arc<Self>, member: Box<Member>, until: Instant) {
        match self.drain().stage() {
            Stage::Serving => self.keep(member, until),
            Stage::Draining => self.drain_idle(member),
            Stage::Cut => drop(member),
        }
    }

    fn keep(&self, member: Box<Member>, until: Instant) {
        let index = member.open.place.index();
        // A client that has begun a request is not evicted, because it would lose that request.
        let eviction = if member.connection.has_begun() { Eviction::Refused } else { Eviction::Allowed };
        if let Err((member, error)) = self.idle().park(index, member, until, eviction) {
            log::error!("cannot keep a connection at rest: {}", sys::plain(&error));
            drop(member);
        }
        if eviction == Eviction::Allowed {
            self.feed();
        }
    }

    /// Has a connection with a request wait for a free coroutine, at most for `--queue-timeout`, as for a permit.
    fn wait_in_line(&self, member: Box<Member>) {
        let index = member.open.place.index();
        let until = Instant::now() + self.shared.queue_timeout();
        if let Err((member, error)) = self.idle().wait_in_line(index, member, until) {
            log::error!("cannot keep a connection that waits for a coroutine: {}", sys::plain(&error));
            drop(member);
        }
    }

    /// Wakes listeners that wait for room: a connection has closed, or can now be evicted.
    fn feed(&self) {
        if self.starved.load(Ordering::Relaxed) && self.starved.swap(false, Ordering::SeqCst) {
            lock(&self.wakers).iter().for_each(Waker::wake_later);
            sys::flush_wakes();
        }
    }

    /// Closes the connections that are idle when the drain has begun and all listeners have closed. (The runtime's
    /// thread.)
    fn close_idle(self: &Arc<Self>) {
        for member in self.idle().take_all() {
            self.park(member, Instant::now());
        }
    }

    /// Closes an idle connection of a server that drains. A request that has arrived is served. A client that has begun
    /// a request has its usual time for the rest, and a client that has sent nothing yet has until
    /// `DRAIN_FIRST_REQUEST`.
    fn drain_idle(self: &Arc<Self>, mut member: Box<Member>) {
        match member.connection.look(&self.shared) {
            Found::Something => self.run(member),
            Found::Nothing if !member.connection.is_at_rest() => {
                let mut until = member.connection.rest_deadline(&self.shared);
                if !member.connection.has_begun() {
                    let began = self.drain().began().unwrap_or_else(Instant::now);
                    until = until.min(began + DRAIN_FIRST_REQUEST);
                }
                self.keep(member, until);
            }
            Found::Nothing | Found::End => drop(member),
        }
    }
}

/// Counts a coroutine for as long as it lives.
struct Counted(Arc<Inner>);

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0.coroutines.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.drain().note();
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
