//! What a service shows of itself over HTTP: probes, metrics, numbers, requests, stacks, and a page for people.
//!
//! *Owns*: the sockets of `--status-bind` and of the commands, and a thread for each connection to them. *Runs on*: the
//! thread `maypole-status`, which accepts, and a short-lived thread for each connection; `maypole-statsd` sends numbers.
//! None of them ever waits for the GIL. *Invariants*: a connection takes at most `EXCHANGE_MAX`, and at most `CONNECTIONS_MAX` are open. Only the
//! sockets of commands can change anything. What is shown comes from memory, or from a `Source` that responds within a
//! limit of its own.

mod callers;
mod errors;
mod exchange;
mod health;
mod history;
mod metrics;
mod page;
mod processes;
mod requests;
mod routes;
mod slowest;
mod sockets;
mod stats;
mod statsd;

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;

pub use self::callers::Callers;
pub use self::errors::Errors;
use self::history::History;
pub use self::processes::Processes;
pub use self::requests::{CodeFrame, Inspected, Python, Requests, Row};
pub use self::slowest::{SlowRow, Slowest};
pub use self::sockets::{SocketRecord, Sockets};
use self::statsd::Statsd;
use crate::config::{Network, StatsdSettings};
use crate::control::{self, Door, Request, Response};
use crate::scoreboard::State;
use crate::sys::{self, Event, HeldFd, Io, Lock};

/// The most connections that are served at once. Further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 32;
/// How long a connection may take, from its accept to its last byte. A command that waits for an outcome may take
/// longer.
const EXCHANGE_MAX: Duration = Duration::from_secs(10);
/// How long a connection's thread waits for a free place.
const PLACE_LOOK: Duration = Duration::from_millis(20);
/// How often the numbers are kept, for rates.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// The time over which saturation is measured.
const SATURATION_TIME: Duration = Duration::from_secs(5);
const BACKLOG: u32 = 64;
/// The stack of a connection's thread.
const STACK_BYTES: usize = 512 << 10;

/// What the service is, for everything that shows it.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name: that of the application, or `--proc-name`.
    pub name: String,
    /// The process that shows it.
    pub pid: u32,
    /// When it started.
    pub started: SystemTime,
    /// Whether workers serve, which this process watches.
    pub has_workers: bool,
    /// Whether the process goes on when the service has ended.
    pub goes_on: bool,
    /// How long a process may be stuck until it counts as dead. Zero: for ever.
    pub stuck_max: Duration,
}

/// The stage of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The application is being imported, for the first time.
    Starting,
    /// Requests are served.
    Serving,
    /// No process accepts requests, until an operator says so.
    Draining,
    /// The service stops.
    Stopping,
}

/// What only the processes themselves know. Each method responds within a second, whatever the application does.
pub trait Source: Send + Sync + 'static {
    /// Shows the current numbers in the scoreboard.
    fn refresh(&self) {}

    /// Returns the stage of the service.
    fn stage(&self) -> Stage;

    /// Returns how many processes are to serve.
    fn wanted(&self) -> usize {
        1
    }

    /// Returns the requests that are being served. `with_stacks` adds the stack of each.
    fn requests(&self, with_stacks: bool) -> Requests;

    /// Returns the slowest requests of the last minutes.
    fn slowest(&self) -> Slowest;

    /// Returns the last errors and warnings.
    fn errors(&self) -> Errors;

    /// Returns the stacks of all Python threads of every process, as text.
    fn stacks(&self) -> String;

    /// Acts on a command, and returns what has come of it. If another program goes on in this process, that one responds
    /// on a copy of the command's `connection`.
    fn command(&self, request: Request, connection: BorrowedFd<'_>) -> Response;
}

/// What a status server is made of.
pub struct Setup {
    /// What it shows.
    pub service: Service,
    /// The processes whose numbers it shows.
    pub processes: Processes,
    /// What only the processes know.
    pub source: Arc<dyn Source>,
    /// The sockets on which the status is shown.
    pub sockets: Sockets,
    /// Who may read it.
    pub allowed: Vec<Network>,
    /// The socket for commands that name this process.
    pub door: Option<Door>,
    /// Where its numbers are sent.
    pub statsd: StatsdSettings,
    /// Whether no other process shows the same service.
    pub leads: bool,
}

/// State that the threads share.
struct Shared {
    service: Service,
    processes: Processes,
    source: Arc<dyn Source>,
    sockets: Lock<Sockets>,
    allowed: Lock<Vec<Network>>,
    /// The sockets are others, or the server ends.
    changed: Event,
    history: Lock<History>,
    open: AtomicUsize,
    ends: AtomicBool,
}

/// A status server that runs until it is dropped.
#[derive(Debug)]
pub struct Status {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// `None` without `--statsd-host`.
    statsd: Lock<Option<Statsd>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("service", &self.service).finish_non_exhaustive()
    }
}

impl Status {
    /// Starts the thread that accepts, and logs where the status is shown.
    ///
    /// # Errors
    /// There is no thread or descriptor left.
    pub fn start(setup: Setup) -> anyhow::Result<Self> {
        let Setup { service, processes, source, sockets, allowed, door, statsd, leads } = setup;
        door.iter().for_each(Door::hold);
        let history = Lock::new(History::begin(&processes.sums(), Instant::now()));
        let (open, ends) = (AtomicUsize::new(0), AtomicBool::new(false));
        let changed = Event::new().context("cannot make an event")?;
        let none = Lock::new(Sockets::default());
        let readers = Lock::new(Vec::new());
        let shared =
            Shared { service, processes, source, sockets: none, allowed: readers, changed, history, open, ends };
        let shared = Arc::new(shared);
        let statsd = Lock::new(Statsd::start(&statsd, &shared, leads, true)?);
        let mut status = Self { shared, thread: None, statsd };
        status.show_on(sockets, allowed);
        let serving = Arc::clone(&status.shared);
        let thread = sys::start_thread_without_signals("maypole-status", move || serve(&serving, door.as_ref()))
            .context("cannot start the thread that shows the status")?;
        status.thread = Some(thread);
        Ok(status)
    }

    /// Shows the status on these sockets from now on, to `allowed` networks.
    pub fn show_on(&self, sockets: Sockets, allowed: Vec<Network>) {
        *self.shared.allowed.lock() = allowed;
        let mut shown = self.shared.sockets.lock();
        let added = || sockets.iter().filter(|socket| !shown.has(socket));
        added().for_each(|socket| socket.listener.hold());
        let addresses = |what: &str, is_door: bool| {
            let those = added().filter(|socket| socket.is_door == is_door);
            let those: Vec<_> = those.map(|socket| socket.listener.address().to_string()).collect();
            (!those.is_empty()).then(|| format!("{what} {}", those.join(", ")))
        };
        let sentence: Vec<_> =
            [addresses("status and metrics on", false), addresses("commands on", true)].into_iter().flatten().collect();
        if !sentence.is_empty() {
            log::info!("{}", sentence.join("; "));
        }
        *shown = sockets;
        self.shared.changed.happen();
    }

    /// Sends the numbers as the settings say from now on, and the gauges, too.
    pub fn send_to(&self, settings: &StatsdSettings) {
        let mut statsd = self.statsd.lock();
        if statsd.as_ref().is_some_and(|statsd| statsd.follows(settings)) {
            statsd.iter().for_each(|statsd| statsd.lead(true));
            return;
        }
        *statsd = None;
        match Statsd::start(settings, &self.shared, true, false) {
            Ok(started) => *statsd = started,
            Err(error) => log::error!("no numbers go to StatsD: {}", sys::plain(error.as_ref())),
        }
    }

    /// Accepts on no socket any more, and sends no gauges: another process has them. Clients that are connected still get their responses.
    pub fn leave_sockets(&self) {
        *self.shared.sockets.lock() = Sockets::default();
        self.shared.changed.happen();
        self.statsd.lock().iter().for_each(|statsd| statsd.lead(false));
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        *self.statsd.lock() = None;
        self.shared.ends.store(true, Ordering::Relaxed);
        self.shared.changed.happen();
        // The thread lets go of the sockets, so that their files can be removed.
        self.thread.take().map(JoinHandle::join);
        *self.shared.sockets.lock() = Sockets::default();
    }
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entrance {
    /// An address of `--status-bind`. `None`: the client uses a unix socket.
    Public(Option<SocketAddr>),
    /// The socket for commands.
    Door,
}

/// Accepts until the server is dropped.
fn serve(shared: &Arc<Shared>, door: Option<&Door>) {
    let mut next_sample = Instant::now() + SAMPLE_EVERY;
    while !shared.ends.load(Ordering::Relaxed) {
        // The sockets of this turn: a change comes with the event.
        let sockets = shared.sockets.lock().clone();
        let mut descriptors = vec![shared.changed.as_fd()];
        descriptors.extend(sockets.descriptors());
        descriptors.extend(door.map(Door::as_fd));
        let ready = sys::wait_for_any(&descriptors, Some(next_sample.saturating_duration_since(Instant::now())));
        let now = Instant::now();
        if now >= next_sample {
            shared.source.refresh();
            shared.history.lock().sample(&shared.processes.sums(), now);
            next_sample = now + SAMPLE_EVERY;
        }
        let [has_changed, ready @ ..] = ready.as_slice() else { continue };
        if *has_changed {
            shared.changed.forget();
            continue;
        }
        for (socket, _) in sockets.iter().zip(ready).filter(|(_, is_ready)| **is_ready) {
            if socket.is_door {
                shared.admit(&*socket.listener);
            } else if let Io::Done((connection, remote)) = sys::accept(&*socket.listener) {
                shared.take(connection, Entrance::Public(remote));
            }
        }
        if let (Some(door), [.., true]) = (door, ready) {
            shared.admit(door);
        }
    }
}

impl Shared {
    /// Returns the share of the last seconds in which calls waited although no more could be started.
    fn saturation(&self) -> f64 {
        let processes = self.processes.slots().filter(|slot| slot.state() == State::Serving).count();
        let sums = self.processes.sums();
        self.history.lock().recent(SATURATION_TIME, &sums, Instant::now()).saturation(processes)
    }

    /// Serves a connection from a socket of commands, if its client may enter.
    fn admit(self: &Arc<Self>, door: &impl AsFd) {
        if let Some(connection) = control::accept(door) {
            self.take(connection, Entrance::Door);
        }
    }

    /// Serves a connection on a thread of its own, once there is a place for it.
    fn take(self: &Arc<Self>, connection: HeldFd, entrance: Entrance) {
        while self.open.load(Ordering::Relaxed) >= CONNECTIONS_MAX && !self.ends.load(Ordering::Relaxed) {
            thread::sleep(PLACE_LOOK);
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(self);
        let run = move || {
            exchange::run(&shared, &connection, entrance);
            drop(connection);
            shared.open.fetch_sub(1, Ordering::Relaxed);
        };
        let thread = thread::Builder::new().name("maypole-shows".to_owned()).stack_size(STACK_BYTES);
        if thread.spawn(run).is_err() {
            // The connection is closed. A probe tries again.
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
