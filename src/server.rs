//! One serving process: connects listeners, connections, the idle set and the handler, and drains them.
//!
//! *Owns*: the counts of connections and coroutines. *Runs on*: `start` and `drain` on a plain thread, everything else
//! on coroutines. *Invariants*: nothing runs before `start`. A connection is owned by its coroutine, by the idle set
//! (idle or in line for a coroutine), or by the call that has taken it over.

mod accepting;
mod hijacked;
mod room;
mod stopping;

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::config::Config;
use crate::connection::{Found, Hijacked, Outcome, Resting, Shared};
use crate::handler::{Handler, Keeps, NotGiven, Served};
use crate::idle::{Eviction, IdleSet, Place, Reason};
use crate::listener::{BoundAddress, Listener};
use crate::log::AccessLog;
use crate::pool::Pool;
use crate::spool::Storage;
use crate::sys::{self, Waker};
use crate::timer;

use self::accepting::Accepting;
use self::hijacked::Takeovers;
pub use self::room::Room;
pub use self::stopping::Stop;

/// The most connections that have a coroutine at the same time. A stack takes two memory mappings, and a process may
/// have 65,530 (`vm.max_map_count`): half of what that allows, since the application needs mappings too.
const COROUTINES_MAX: usize = 16_000;
/// Coroutines above that number, for nothing but telling a client that its time is over. One that cannot be told at
/// once, for want of these, is closed without a word.
const COROUTINES_SPARE: usize = 256;
/// What fails where the process has no descriptor left.
const DESCRIPTORS: &str = "cannot open the descriptors that the server needs for itself";
/// Descriptors that have to be left when a server starts: for what the process opens besides, and some clients.
const DESCRIPTORS_MIN: usize = 12;
/// Memory is given back to the system when half of this many connections, or of more, have gone.
const EBB_MIN: usize = 1024;
/// Wait before trimming: clients tend to disconnect in groups, and the runtime frees a connection's registration only
/// after the current batch of events.
const EBB_PAUSE: Duration = Duration::from_secs(1);
/// How long a drained server waits for the first request of a connection that has only just come.
const DRAIN_FIRST_REQUEST: Duration = Duration::from_secs(1);
/// How often a drain looks at what is left.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// Why a server accepts nothing more on one of its addresses.
#[derive(Debug, Clone)]
pub struct Lost {
    /// What happened, with the address.
    pub sentence: String,
    /// The system's error number, unless the server itself failed.
    pub os_error: Option<i32>,
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

/// Counts a connection and keeps its place for as long as it is open, however it ends.
struct Open {
    place: Place,
    inner: Arc<Inner>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.inner.note_open(&self.place, -1);
        self.inner.idle().give_back(&self.place);
        let before = self.inner.connections.fetch_sub(1, Ordering::SeqCst);
        self.inner.ebb(before - 1);
        self.inner.feed();
        self.inner.notify();
    }
}

impl AsRawFd for Member {
    fn as_raw_fd(&self) -> RawFd {
        self.connection.as_raw_fd()
    }
}

struct Inner {
    shared: Arc<Shared>,
    handler: Arc<dyn Handler>,
    pool: Arc<Pool>,
    idle: OnceLock<Arc<IdleSet<Box<Member>>>>,
    connections: AtomicUsize,
    connections_max: usize,
    /// The most descriptors of connections.
    descriptors_max: usize,
    /// What sets the first, for the log.
    limit_cause: String,
    /// Those that calls have taken over.
    takeovers: Arc<Takeovers>,
    /// The most connections since memory was given back last.
    crest: AtomicUsize,
    /// Memory is going to be given back.
    ebbing: AtomicBool,
    coroutines: AtomicUsize,
    coroutines_max: usize,
    /// A listener waits for room for one more connection.
    starved: AtomicBool,
    listening: AtomicUsize,
    draining: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
    /// The descriptors of open connections by their places, -1 where there is none. Changed and read on the runtime's
    /// thread, and no coroutine waits between a change and what it stands for.
    open: Mutex<Vec<RawFd>>,
    /// Why a listener ended unasked, and what is told then.
    lost: OnceLock<Lost>,
    on_lost: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// When the drain that goes on began.
    drain_began: OnceLock<Instant>,
    changed: Condvar,
    change: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// Starts to serve, with the permits of `pool`.
    ///
    /// # Errors
    /// The kernel has no descriptor left for the idle set, or `--spool-dir` was given and cannot be used.
    pub fn start(
        config: &Config,
        listeners: Vec<Listener>,
        handler: Arc<dyn Handler>,
        access_log: Option<AccessLog>,
        pool: Arc<Pool>,
    ) -> anyhow::Result<Self> {
        let total = config.spool_total.map(|size| size.0);
        let storage = Storage::open(&config.spool_dir, config.spool_dir_given, total)?;
        Self::start_with(config, listeners, handler, access_log, pool, &storage)
    }

    /// Starts to serve, with temporary files in `storage`.
    ///
    /// # Errors
    /// The kernel has no descriptor left for the idle set.
    pub fn start_with(
        config: &Config,
        listeners: Vec<Listener>,
        handler: Arc<dyn Handler>,
        access_log: Option<AccessLog>,
        pool: Arc<Pool>,
        storage: &Arc<Storage>,
    ) -> anyhow::Result<Self> {
        Self::start_within(config, listeners, handler, access_log, pool, storage, COROUTINES_MAX)
    }

    /// `start_with`, with another number of coroutines.
    fn start_within(
        config: &Config,
        listeners: Vec<Listener>,
        handler: Arc<dyn Handler>,
        access_log: Option<AccessLog>,
        pool: Arc<Pool>,
        storage: &Arc<Storage>,
        coroutines_max: usize,
    ) -> anyhow::Result<Self> {
        let room = Room::of_process();
        if let Some(sentence) = room.warning(config.max_connections, pool.size()) {
            log::warn!("{sentence}");
        }
        storage.limit_open(room.files);
        let connections_max = room.connections_max(config.max_connections);
        let inner = Arc::new(Inner {
            shared: Arc::new(Shared::new(config, storage, Arc::clone(&pool), access_log)),
            handler,
            pool,
            idle: OnceLock::new(),
            connections: AtomicUsize::new(0),
            connections_max,
            descriptors_max: room.connections,
            limit_cause: room.cause(config.max_connections),
            takeovers: Arc::default(),
            crest: AtomicUsize::new(0),
            ebbing: AtomicBool::new(false),
            coroutines: AtomicUsize::new(0),
            coroutines_max,
            starved: AtomicBool::new(false),
            listening: AtomicUsize::new(listeners.len()),
            draining: AtomicBool::new(false),
            wakers: Mutex::default(),
            open: Mutex::default(),
            lost: OnceLock::new(),
            on_lost: OnceLock::new(),
            drain_began: OnceLock::new(),
            changed: Condvar::new(),
            change: Mutex::new(()),
        });
        timer::start().context(DESCRIPTORS)?;
        let leaving = Arc::clone(&inner);
        let idle = IdleSet::new(move |member, reason| leaving.leave(member, reason)).context(DESCRIPTORS)?;
        let _ = inner.idle.set(idle);
        let addresses = listeners.iter().map(|listener| listener.address().clone()).collect();
        // All of them before the first accepts: a start that fails has served no client.
        let watched = listeners.into_iter().map(Listener::watch).collect::<std::io::Result<Vec<_>>>();
        let watched = watched.context(DESCRIPTORS)?;
        sys::try_descriptors(DESCRIPTORS_MIN).context("there is no descriptor left for clients")?;
        for listener in watched {
            lock(&inner.wakers).push(listener.waker().clone());
            Accepting::spawn(&inner, listener);
        }
        Ok(Self { inner, addresses })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[BoundAddress] {
        &self.addresses
    }

    /// Why it accepts nothing more on one of its addresses although it was not asked to stop.
    pub fn lost(&self) -> Option<&Lost> {
        self.inner.lost.get()
    }

    /// Has `told` called when that happens. Only the first call counts.
    pub fn on_lost(&self, told: impl Fn() + Send + Sync + 'static) {
        if self.inner.on_lost.set(Box::new(told)).is_ok() && self.lost().is_some() {
            self.inner.tell_lost();
        }
    }

    /// The requests being served, the oldest first, each on a line of its own after a line break.
    pub fn serving_table(&self) -> String {
        self.inner.shared.serving().to_string()
    }

    /// The requests being served, the oldest first.
    pub fn serving(&self) -> Vec<Served> {
        self.inner.shared.serving().all()
    }

    /// Numbers.
    pub fn stats(&self) -> Stats {
        let inner = &self.inner;
        let connections = inner.connections.load(Ordering::SeqCst);
        Stats {
            connections,
            idle: inner.idle().len().min(connections),
            coroutines: inner.coroutines.load(Ordering::SeqCst),
            requests: inner.shared.serving().len(),
            hijacked: inner.takeovers.current(),
            hijacked_total: inner.takeovers.total(),
            pool_taken: inner.pool.taken(),
            pool_size: inner.pool.size(),
        }
    }

    /// Stops: accepts the connections in the listen queues and closes these, closes idle connections, and lets running
    /// requests finish. A call that has taken a connection over reads its end. Returns whether everything ended in
    /// time. (Plain thread.)
    pub fn drain(&self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        self.begin_drain();
        while !self.drain_on(end) {
            if Instant::now() >= end {
                return false;
            }
        }
        true
    }

    /// Begins to stop: from now on nothing new is accepted, and responses announce the end of their connections.
    pub fn begin_drain(&self) {
        let inner = &self.inner;
        if inner.drain_began.set(Instant::now()).is_err() {
            return;
        }
        inner.shared.drain();
        inner.draining.store(true, Ordering::SeqCst);
        inner.takeovers.end_input();
        for waker in lock(&inner.wakers).iter() {
            waker.wake_now();
        }
    }

    /// Goes on stopping for a moment, at most until `end`; whether everything has ended. (Plain thread.)
    pub fn drain_on(&self, end: Instant) -> bool {
        let inner = &self.inner;
        // A client that is accepted while the queues are emptied is counted before the listener reports that it is
        // done.
        if inner.listening.load(Ordering::SeqCst) > 0 {
            inner.pause(end);
            return false;
        }
        let patient = inner.drain_began.get().is_some_and(|began| began.elapsed() < DRAIN_FIRST_REQUEST);
        inner.on_runtime(move |inner| inner.close_idle(patient));
        let busy =
            inner.coroutines.load(Ordering::SeqCst) > 0 || inner.handler.running() > 0 || inner.takeovers.current() > 0;
        if !busy && inner.connections.load(Ordering::SeqCst) == 0 {
            return true;
        }
        inner.pause(end);
        false
    }

    /// Ends all connections at once. Returns whether they are gone within `timeout`. Calls of the application go on,
    /// and their responses are dropped. (Plain thread.)
    pub fn cut(&self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        let inner = &self.inner;
        self.begin_drain();
        inner.takeovers.cut();
        loop {
            inner.on_runtime(|inner| {
                drop(inner.idle().take_all());
                drop(inner.idle().take_line());
                inner.shut_down_connections();
            });
            let left = inner.connections.load(Ordering::SeqCst) + inner.coroutines.load(Ordering::SeqCst);
            if left == 0 && inner.listening.load(Ordering::SeqCst) == 0 {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            inner.pause(end);
        }
    }

    /// Gives back what a server that has stopped still has.
    pub fn close(&self) {
        self.inner.idle().close();
    }
}

/// A look at a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Connections that are open.
    pub connections: usize,
    /// Those of them that are at rest.
    pub idle: usize,
    /// Coroutines, most of them for a connection that has something to do.
    pub coroutines: usize,
    /// Requests being served, from their permit to the last byte of their response.
    pub requests: usize,
    /// Connections that running calls have taken over. They do not count as open connections.
    pub hijacked: usize,
    /// All connections that calls have taken over since the start.
    pub hijacked_total: u64,
    /// Permits that are taken.
    pub pool_taken: usize,
    /// Permits that there are.
    pub pool_size: usize,
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

    /// So many connections are left: the allocator keeps what the others took until it is asked.
    fn ebb(self: &Arc<Self>, left: usize) {
        let crest = self.crest.load(Ordering::Relaxed);
        if crest < EBB_MIN || left > crest / 2 || self.ebbing.swap(true, Ordering::SeqCst) {
            return;
        }
        let inner = Arc::clone(self);
        // It takes some milliseconds, for which the connections need not wait. Without a thread it is not done.
        let _ = std::thread::Builder::new().name("maypole-ebb".to_owned()).spawn(move || {
            std::thread::sleep(EBB_PAUSE);
            inner.crest.store(inner.connections.load(Ordering::SeqCst), Ordering::Relaxed);
            inner.ebbing.store(false, Ordering::SeqCst);
            sys::give_memory_back();
        });
    }

    /// Keeps the descriptor of the connection at a place.
    fn note_open(&self, place: &Place, fd: RawFd) {
        let index = place.index() as usize;
        let mut open = lock(&self.open);
        if open.len() <= index {
            open.resize(index + 1, -1);
        }
        open[index] = fd;
    }

    /// Has every connection that is open find its end. (The runtime's thread.)
    fn shut_down_connections(&self) {
        for &fd in lock(&self.open).iter().filter(|&&fd| fd >= 0) {
            sys::shut_down(fd);
        }
    }

    fn notify(&self) {
        if self.draining.load(Ordering::Relaxed) {
            self.changed.notify_all();
        }
    }

    fn pause(&self, end: Instant) {
        let left = end.saturating_duration_since(Instant::now()).min(DRAIN_LOOK);
        drop(self.changed.wait_timeout(lock(&self.change), left));
    }

    /// Does something on the runtime's thread, which owns all connections.
    fn on_runtime(self: &Arc<Self>, action: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let inner = Arc::clone(self);
        sys::spawn(move || action(&inner));
    }

    /// A connection leaves the idle set by itself. (Idle set's coroutine.)
    fn leave(self: &Arc<Self>, mut member: Box<Member>, reason: Reason) {
        match reason {
            Reason::Broken => return drop(member),
            Reason::Unserved => return self.tell(member, Resting::turn_away),
            Reason::Expired if member.connection.has_begun() => return self.tell(member, Resting::expire),
            Reason::Expired | Reason::Readable => {}
        }
        match member.connection.look(&self.shared) {
            // What came at the very last moment is still served.
            Found::Something => self.run(member),
            Found::Nothing if reason == Reason::Readable || member.connection.has_begun() => self.rest(member),
            // Neither a client that leaves nor one that has rested long enough needs a coroutine for it.
            Found::Nothing | Found::End => drop(member),
        }
    }

    /// Gives a connection a coroutine, or a place in the line for one.
    fn run(self: &Arc<Self>, member: Box<Member>) {
        if self.coroutines.load(Ordering::Relaxed) >= self.coroutines_max {
            return self.wait_in_line(member);
        }
        let inner = Arc::clone(self);
        self.coroutine(move || inner.serve(*member));
    }

    /// Gives a connection a coroutine that tells its client why it is closed, if one is left.
    fn tell(self: &Arc<Self>, member: Box<Member>, tell: fn(Resting, &Arc<Shared>)) {
        if self.coroutines.load(Ordering::Relaxed) >= self.coroutines_max + COROUTINES_SPARE {
            return drop(member);
        }
        let inner = Arc::clone(self);
        self.coroutine(move || {
            let Member { connection, open } = *member;
            tell(connection, &inner.shared);
            drop(open);
        });
    }

    /// Starts a coroutine and counts it. Before it ends, it serves the connections in line for one.
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

    /// Serves a connection until it rests or ends. (Its coroutine.)
    fn serve(self: &Arc<Self>, member: Member) {
        let Member { connection, open } = member;
        // A panic ends this connection alone, and the count must stay right.
        let serve = std::panic::AssertUnwindSafe(|| connection.serve(&self.shared, &*self.handler));
        match std::panic::catch_unwind(serve) {
            Ok(Outcome::Idle(connection, until)) => self.park(Box::new(Member { connection, open }), until),
            Ok(Outcome::Closed) => {}
            Ok(Outcome::Hijacked(hijacked)) => self.give(*hijacked, open),
            Err(_) => log::error!("a connection ended by a panic; this is a defect of the server"),
        }
    }

    /// Gives a connection to the call that takes it over: it is no longer open here. (Its coroutine.)
    fn give(&self, hijacked: Hijacked, open: Open) {
        self.idle().unwatch(&open.place, hijacked.as_fd().as_raw_fd());
        match self.takeovers.enter(hijacked.as_fd()) {
            Ok(takeover) => {
                drop(open);
                hijacked.give(takeover.hold(), move |keeps| {
                    if keeps == Keeps::Nobody {
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
    fn rest(&self, member: Box<Member>) {
        let until = member.connection.rest_deadline(&self.shared);
        self.park(member, until);
    }

    fn park(&self, member: Box<Member>, until: Instant) {
        let index = member.open.place.index();
        // A client that has begun a request would lose it.
        let eviction = if member.connection.has_begun() { Eviction::Refused } else { Eviction::Allowed };
        if let Err((member, error)) = self.idle().park(index, member, until, eviction) {
            log::error!("cannot keep a connection at rest: {}", sys::plain(&error));
            drop(member);
        }
        if eviction == Eviction::Allowed {
            self.feed();
        }
    }

    /// Has a connection with a request wait until a coroutine is free, at most as long as for a permit.
    fn wait_in_line(&self, member: Box<Member>) {
        let index = member.open.place.index();
        let until = Instant::now() + self.shared.queue_timeout();
        if let Err((member, error)) = self.idle().wait_in_line(index, member, until) {
            log::error!("cannot keep a connection that waits for a coroutine: {}", sys::plain(&error));
            drop(member);
        }
    }

    /// Lets listeners know that there is room, or something that can be evicted.
    fn feed(&self) {
        if self.starved.load(Ordering::Relaxed) && self.starved.swap(false, Ordering::SeqCst) {
            lock(&self.wakers).iter().for_each(Waker::wake_later);
            sys::flush_wakes();
        }
    }

    /// Closes what rests while the server drains; those whose first request is on its way may have a little longer.
    fn close_idle(self: &Arc<Self>, patient: bool) {
        let resting = self.idle().take_all();
        for mut member in resting {
            match member.connection.look(&self.shared) {
                Found::Something => self.run(member),
                Found::Nothing if member.connection.has_begun() => self.rest(member),
                Found::Nothing if patient && !member.connection.is_at_rest() => self.rest(member),
                Found::Nothing | Found::End => drop(member),
            }
        }
    }
}

/// Counts a coroutine for as long as it lives.
struct Counted(Arc<Inner>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.coroutines.fetch_sub(1, Ordering::SeqCst);
        self.0.notify();
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
