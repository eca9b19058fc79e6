//! What a service shows of itself over HTTP: probes, metrics, numbers, requests, stacks, and a page for people.
//!
//! *Owns*: the sockets of `--status-bind` and of the commands, and a thread for each connection to them. *Runs on*: the
//! thread `maypole-status`, which accepts, and a short-lived thread for each connection. None of them ever waits for
//! the GIL. *Invariants*: a connection takes at most `EXCHANGE_MAX`, and at most `CONNECTIONS_MAX` are open. Only the
//! sockets of commands can change anything. What is shown comes from memory, or from a `Source` that responds within a
//! limit of its own.

mod exchange;
mod health;
mod history;
mod metrics;
mod page;
mod requests;
mod routes;
mod stats;

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;

use self::history::History;
pub use self::requests::{CodeFrame, Inspected, Python, Requests, Row};
use crate::config::{ListenAddress, Network};
use crate::control::{Door, Request, Response};
use crate::listener::Listener;
use crate::scoreboard::{Scoreboard, State};
use crate::sys::{self, HeldFd, Io, Lock};

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

    /// Returns the stacks of all Python threads of every process, as text.
    fn stacks(&self) -> String;

    /// Acts on a command, and returns what has come of it.
    fn command(&self, request: Request) -> Response;
}

/// What a status server is made of.
pub struct Setup {
    /// What it shows.
    pub service: Service,
    /// The numbers of the processes.
    pub scoreboard: Scoreboard,
    /// What only the processes know.
    pub source: Arc<dyn Source>,
    /// The bound addresses of `--status-bind`.
    pub listeners: Vec<Listener>,
    /// Who may read them.
    pub allowed: Vec<Network>,
    /// The sockets for commands.
    pub doors: Vec<Door>,
}

/// State that the threads share.
struct Shared {
    service: Service,
    scoreboard: Scoreboard,
    source: Arc<dyn Source>,
    allowed: Vec<Network>,
    history: Lock<History>,
    open: AtomicUsize,
    ends: AtomicBool,
}

/// A status server that runs until it is dropped.
#[derive(Debug)]
pub struct Status(Arc<Shared>);

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("service", &self.service).finish_non_exhaustive()
    }
}

/// Binds the addresses of `--status-bind`.
///
/// # Errors
/// As for `Listener::bind_all`.
pub fn bind(addresses: &[ListenAddress]) -> anyhow::Result<Vec<Listener>> {
    Listener::bind_all(addresses, BACKLOG)
}

impl Status {
    /// Starts the thread that accepts, and logs where the status is shown.
    ///
    /// # Errors
    /// There is no thread left.
    pub fn start(setup: Setup) -> anyhow::Result<Self> {
        let Setup { service, scoreboard, source, listeners, allowed, doors } = setup;
        for listener in &listeners {
            listener.hold();
            log::info!("status and metrics on {}", listener.address());
        }
        doors.iter().for_each(Door::hold);
        let history = Lock::new(History::begin(&scoreboard.sums(), Instant::now()));
        let (open, ends) = (AtomicUsize::new(0), AtomicBool::new(false));
        let shared = Arc::new(Shared { service, scoreboard, source, allowed, history, open, ends });
        let serving = Arc::clone(&shared);
        sys::start_thread_without_signals("maypole-status", move || serve(&serving, &listeners, &doors))
            .context("cannot start the thread that shows the status")?;
        Ok(Self(shared))
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        self.0.ends.store(true, Ordering::Relaxed);
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
fn serve(shared: &Arc<Shared>, listeners: &[Listener], doors: &[Door]) {
    let mut descriptors: Vec<BorrowedFd<'_>> = listeners.iter().map(|listener| listener.as_fd()).collect();
    descriptors.extend(doors.iter().map(Door::as_fd));
    let mut next_sample = Instant::now() + SAMPLE_EVERY;
    while !shared.ends.load(Ordering::Relaxed) {
        let ready = sys::wait_for_any(&descriptors, Some(next_sample.saturating_duration_since(Instant::now())));
        let now = Instant::now();
        if now >= next_sample {
            shared.source.refresh();
            shared.history.lock().sample(&shared.scoreboard.sums(), now);
            next_sample = now + SAMPLE_EVERY;
        }
        let (of_listeners, of_doors) = ready.split_at(listeners.len());
        for (listener, _) in listeners.iter().zip(of_listeners).filter(|(_, is_ready)| **is_ready) {
            if let Io::Done((connection, remote)) = sys::accept(listener) {
                shared.take(connection, Entrance::Public(remote));
            }
        }
        for (door, _) in doors.iter().zip(of_doors).filter(|(_, is_ready)| **is_ready) {
            if let Some(connection) = door.accept() {
                shared.take(connection, Entrance::Door);
            }
        }
    }
}

impl Shared {
    /// Returns the share of the last seconds in which calls waited although no more could be started.
    fn saturation(&self) -> f64 {
        let processes = self.scoreboard.slots().filter(|slot| slot.state() == State::Serving).count();
        let sums = self.scoreboard.sums();
        self.history.lock().recent(SATURATION_TIME, &sums, Instant::now()).saturation(processes)
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
