//! One serving process: connects listeners, connections, the idle set and the handler, and drains them.
//!
//! *Owns*: the parts of a server, one file each: `accept` (listeners), `registry` (open connections), `dispatch`
//! (coroutines), `takeover`, `drain`, `handover`. *Runs on*: `start` and the methods on plain threads, everything else on
//! coroutines. *Invariants*: nothing runs before `start`.

mod accept;
mod descriptors;
mod dispatch;
mod drain;
mod handover;
mod kept;
mod registry;
mod stop;
mod takeover;
mod tick;
mod turnover;
mod websockets;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context;

use crate::config::{Config, SuspendedOnStop};
use crate::connection::Shared;
use crate::drain::Drain;
use crate::handler::Handler;
use crate::idle::IdleSet;
use crate::listener::{BoundAddress, Listener};
use crate::logs::{self, AccessLog};
use crate::metrics::{Count, Meters, Numbers};
use crate::requests::{SlowRequests, Snapshot};
use crate::scoreboard::{Slot, State};
use crate::spool::Storage;
use crate::sys;
use crate::timer;
use crate::tls::{Certificates, Handshakes};

use self::accept::Listeners;
use self::dispatch::{COROUTINES_MAX, Coroutines};
use self::handover::Handover;
use self::registry::{Limit, Registry};
use self::takeover::Takeovers;
use self::websockets::WebSockets;

pub use self::accept::Lost;
pub use self::descriptors::Descriptors;
pub use self::handover::Given;
pub use self::kept::Kept;
pub use self::stop::Stop;

/// The error context if the process has no descriptor left.
const DESCRIPTORS: &str = "cannot open the descriptors that the server needs for itself";
/// The least number of free descriptors when a server starts: for other files of the process, and for some clients.
const DESCRIPTORS_MIN: usize = 12;

/// The parts from which a server is made.
pub struct Setup {
    /// Its settings.
    pub config: Arc<Config>,
    /// The sockets on which the server accepts connections.
    pub listeners: Vec<Listener>,
    /// The handler that produces the responses.
    pub handler: Arc<dyn Handler>,
    /// `None`: no access log is written.
    pub access_log: Option<AccessLog>,
    /// The place of temporary files. `None`: the place that the settings name.
    pub storage: Option<Arc<Storage>>,
    /// The most connections that have a coroutine at the same time.
    pub coroutines_max: usize,
    /// The certificates of TLS. `None`: no listener speaks TLS.
    pub certificates: Option<Arc<Certificates>>,
    /// The slot in which the server shows what it does and counts. `None`: it shows nothing.
    pub slot: Option<Slot>,
    /// Whether other workers accept from the listeners. Then clients are left to those that have fewer.
    pub is_worker: bool,
}

/// A running server.
pub struct Server {
    inner: Arc<Inner>,
    /// The addresses that the server listens on, and whether clients speak TLS there.
    addresses: (Vec<BoundAddress>, Vec<bool>),
}

/// State that the coroutines of a server share.
struct Inner {
    shared: Arc<Shared>,
    handler: Arc<dyn Handler>,
    listeners: Listeners,
    registry: Registry,
    coroutines: Coroutines,
    /// The connections that calls have taken over.
    takeovers: Arc<Takeovers>,
    websockets: Arc<WebSockets>,
    slot: Option<Slot>,
    is_worker: bool,
    handover: Handover,
    /// Whether responses that are suspended end once the server stops.
    suspended_end: AtomicBool,
}

impl Setup {
    /// Returns the parts of a server without an access log. The other parts follow from the settings.
    pub fn new(config: Arc<Config>, listeners: Vec<Listener>, handler: Arc<dyn Handler>) -> Self {
        let coroutines_max = COROUTINES_MAX;
        Self {
            config,
            listeners,
            handler,
            access_log: None,
            storage: None,
            coroutines_max,
            certificates: None,
            slot: None,
            is_worker: false,
        }
    }
}

impl Server {
    /// Starts serving.
    ///
    /// # Errors
    /// The kernel has no descriptor left for the idle set, or `--spool-dir` was given and cannot be used.
    pub fn start(setup: Setup) -> anyhow::Result<Self> {
        let Setup { config, listeners, handler, access_log, storage, coroutines_max, certificates, slot, is_worker } =
            setup;
        let pool = handler.pool().cloned();
        let total = config.spool_total.map(|size| size.0);
        let storage = storage.map_or_else(|| Storage::open(&config.spool_dir, config.spool_dir_given, total), Ok)?;
        let descriptors = Descriptors::of_process();
        if let Some(sentence) = descriptors.warning(config.max_connections, pool.as_ref().map_or(0, |pool| pool.size()))
        {
            log::warn!("{sentence}");
        }
        storage.limit_open(descriptors.files);
        descriptors.make_room();
        let meters = slot.as_ref().map(Slot::meters).map_or_else(Meters::create, Ok).context(DESCRIPTORS)?;
        let handshakes = certificates.map(Handshakes::start).transpose();
        let handshakes = handshakes.context("cannot start the threads for the handshakes of TLS")?;
        let shared = Arc::new(Shared::new(Arc::clone(&config), &storage, pool, access_log, meters, handshakes));
        handler.join_drain(shared.drain());
        handler.limit_suspended(config.suspending.suspended_max(descriptors.connections_max(config.max_connections)));
        let inner = Arc::new(Inner {
            listeners: Listeners::new(),
            registry: Registry::new(Limit::new(config.max_connections, descriptors)),
            coroutines: Coroutines::new(coroutines_max),
            takeovers: Takeovers::new(shared.drain()),
            websockets: Arc::new(WebSockets::new(shared.meters().clone())),
            handover: Handover::default(),
            suspended_end: AtomicBool::new(config.suspending.suspended_on_stop == SuspendedOnStop::Close),
            shared,
            handler,
            slot,
            is_worker,
        });
        timer::start().context(DESCRIPTORS)?;
        let leaving = Arc::clone(&inner);
        let idle = IdleSet::new(move |member, reason| leaving.leave(member, reason)).context(DESCRIPTORS)?;
        inner.registry.set_idle(idle);
        websockets::start(&inner).context(DESCRIPTORS)?;
        let addresses = listeners.iter().map(|listener| (listener.address().clone(), listener.is_tls())).unzip();
        // Register all listeners before the first one accepts, so that a failed start has served no client.
        let watched =
            listeners.into_iter().map(|listener| listener.watch(inner.is_worker)).collect::<std::io::Result<Vec<_>>>();
        let watched = watched.context(DESCRIPTORS)?;
        sys::try_descriptors(DESCRIPTORS_MIN).context("there is no descriptor left for clients")?;
        tick::start(&inner).context(DESCRIPTORS)?;
        if let Some(slot) = &inner.slot {
            slot.set_state(State::Serving);
        }
        Listeners::start(&inner, watched);
        Ok(Self { inner, addresses })
    }

    /// Returns the addresses that the server listens on.
    pub fn addresses(&self) -> &[BoundAddress] {
        &self.addresses.0
    }

    /// Returns the addresses as clients and operators write them.
    pub fn urls(&self) -> impl Iterator<Item = String> {
        self.addresses.0.iter().zip(&self.addresses.1).map(|(address, is_tls)| address.url(*is_tls))
    }

    /// Returns why the server no longer accepts connections on one of its addresses although no stop was requested.
    pub fn lost(&self) -> Option<&Lost> {
        self.inner.listeners.lost()
    }

    /// Registers a function to call when the server loses a listener. If one is already lost, calls it at once. Only
    /// the first call has an effect.
    pub fn on_lost(&self, told: impl Fn() + Send + Sync + 'static) {
        self.inner.listeners.on_lost(told);
    }

    /// Returns the requests being served, the oldest first.
    pub fn requests(&self) -> Vec<Snapshot> {
        self.inner.shared.requests().all()
    }

    /// Returns the current numbers.
    pub fn numbers(&self) -> Numbers {
        let inner = &self.inner;
        let connections = inner.registry.len();
        let mut numbers = Numbers {
            connections,
            idle: (inner.registry.idle().len() + inner.websockets.len()).min(connections),
            requests: inner.shared.requests().len(),
            calls: inner.handler.running(),
            suspended: inner.handler.suspended(),
            hijacked: inner.takeovers.current(),
            hijacked_total: inner.takeovers.total(),
            http2_connections: inner.shared.http2_connections(),
            http2_streams: inner.shared.http2_streams(),
            coroutines: inner.coroutines.len(),
            permits: inner.shared.permits(),
            moved_away: inner.handover.moved(),
            moved_here: inner.handover.received(),
            spooled: inner.shared.spooled(),
            ..Numbers::default()
        };
        inner.websockets.numbers().show(&mut numbers);
        inner.handler.measure(&mut numbers);
        numbers
    }

    /// Shows the current numbers in the meters, and returns them.
    pub fn show(&self) -> Numbers {
        let (numbers, meters) = (self.numbers(), self.meters());
        meters.show(&numbers);
        let logged = logs::line_counts();
        meters.set(Count::LoggedErrors, logged.errors);
        meters.set(Count::LoggedExceptions, logged.exceptions);
        meters.set(Count::LoggedWarnings, logged.warnings);
        self.inner.handler.show(meters);
        self.slow().turn(Instant::now());
        numbers
    }

    /// Returns the slow requests.
    pub fn slow(&self) -> &SlowRequests {
        self.inner.shared.slow()
    }

    /// Returns what the server has counted.
    pub fn meters(&self) -> &Meters {
        self.inner.shared.meters()
    }

    /// Frees everything that a stopped server still holds.
    pub fn close(&self) {
        self.inner.registry.idle().close();
        self.inner.websockets.close();
    }
}

impl Inner {
    /// Shows the other workers how many connections are open. (The runtime's thread.)
    fn show_connections(&self) {
        if let Some(slot) = &self.slot {
            slot.set_connections(self.registry.len() + self.takeovers.current());
        }
    }

    /// Shows the other workers how busy this one is. (The runtime's thread.)
    fn show_load(&self, slot: &Slot) {
        self.show_connections();
        // A suspended response is no work.
        slot.set_requests(self.shared.requests().len().saturating_sub(self.handler.suspended()));
        slot.set_full(self.listeners.are_starved() || !self.registry.has_room(self.takeovers.current()));
    }

    fn drain(&self) -> &Arc<Drain> {
        self.shared.drain()
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("addresses", &self.addresses.0).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
