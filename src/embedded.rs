//! A server inside a program. Its constructor binds the address; the program starts it, stops it, and may start it
//! again.
//!
//! *Owns*: the listeners, which stay open from one start to the next; while it runs, also the server with its service.
//! *Runs on*: any plain thread, without the GIL. *Invariants*: nothing starts before `start`. Every method may be
//! called at any time, in any order, from several threads at once. No thread asks for the GIL while it holds a lock of
//! this file, because a thread with the GIL may wait for that lock. A server is inert in a child of the process that
//! started it.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::config::Config;
use crate::listener::{BoundAddress, Listener};
use crate::logs::AccessLog;
use crate::metrics;
use crate::pool::Pool;
use crate::requests::Snapshot;
use crate::server::{self, Lost, Server, Setup, Stop};
use crate::sys::{self, Event};
use crate::wsgi::{Application, Service};

/// The time for cut connections to close, and for threads without a call to end.
const LAST_MOMENT: Duration = Duration::from_secs(1);
/// The interval at which `stop` calls its `interrupted`.
const LOOK: Duration = Duration::from_millis(100);

/// One server.
pub(crate) struct Embedded {
    config: Arc<Config>,
    pool: Arc<Pool>,
    /// The pool's size when the server was made.
    pool_size: usize,
    /// The process that started the server; 0 before the first start.
    owner: AtomicU32,
    listeners: Mutex<Vec<Listener>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    run: Option<Arc<Run>>,
}

/// The phase of a server's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Phase {
    /// The server is bound and was never started.
    #[default]
    Created,
    /// The server accepts connections.
    Running,
    /// The server lets running requests finish.
    Stopping,
    /// The server has stopped, and may be started again.
    Stopped,
    /// The server's sockets are closed.
    Closed,
    /// The server belongs to the parent process.
    Inert,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Closed => "closed",
            Self::Inert => "inert",
        }
    }
}

/// One run of a server, from a start to the next stop.
struct Run {
    server: Server,
    service: Arc<Service>,
    /// Whether a caller of `stop` has begun to close the server.
    ending: AtomicBool,
    /// Happens when the server has stopped.
    stopped: Event,
}

/// All servers between start and stop. This keeps a server alive even if the program has dropped it.
static RUNNING: Mutex<Vec<Arc<Embedded>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Embedded {
    /// Makes a server for these listeners.
    pub(crate) fn new(config: Config, listeners: Vec<Listener>, pool: Option<Arc<Pool>>) -> Arc<Self> {
        let pool = pool.unwrap_or_else(|| Pool::new(config.pool_size));
        Arc::new(Self {
            config: Arc::new(config),
            pool_size: pool.size(),
            pool,
            owner: AtomicU32::new(0),
            listeners: Mutex::new(listeners),
            state: Mutex::default(),
        })
    }

    /// Returns the running servers. (Not for a forked child, in which the lock may stay locked forever.)
    pub(crate) fn all() -> Vec<Arc<Self>> {
        lock(&RUNNING).clone()
    }

    fn is_inert(&self) -> bool {
        let owner = self.owner.load(Ordering::SeqCst);
        owner != 0 && owner != std::process::id()
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Sets the pool's size to that at the construction of the server.
    pub(crate) fn reset_pool(&self) {
        self.pool.resize(self.pool_size);
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn graceful_timeout(&self) -> Duration {
        self.config.graceful_timeout
    }

    pub(crate) fn phase(&self) -> Phase {
        if self.is_inert() { Phase::Inert } else { lock(&self.state).phase }
    }

    /// Returns the descriptors and addresses of the listeners.
    pub(crate) fn listeners(&self) -> Vec<(RawFd, BoundAddress)> {
        if self.is_inert() {
            return Vec::new();
        }
        lock(&self.listeners).iter().map(|listener| (listener.as_raw_fd(), listener.address().clone())).collect()
    }

    /// Returns whether other processes may serve on the same listeners.
    pub(crate) fn is_shared(&self) -> bool {
        lock(&self.listeners).iter().any(Listener::is_shared)
    }

    fn run(&self) -> Option<Arc<Run>> {
        if self.is_inert() { None } else { lock(&self.state).run.clone() }
    }

    /// Starts the server, unless it runs already. `python` describes the interpreter for the log.
    ///
    /// # Errors
    /// It is closed, the process is a child of one that had a server, or there are no descriptors or threads left.
    pub(crate) fn start(
        self: &Arc<Self>,
        application: Arc<Application>,
        access_log: Option<AccessLog>,
        python: &str,
    ) -> anyhow::Result<()> {
        sys::start_runtime(self.config.stack_size.as_usize())?;
        let mut state = lock(&self.state);
        match state.phase {
            Phase::Running => return Ok(()),
            Phase::Stopping => bail!("the server is stopping: wait until it has stopped"),
            Phase::Closed | Phase::Inert => bail!("the server is closed"),
            Phase::Created | Phase::Stopped => {}
        }
        let ours = lock(&self.listeners);
        let listeners = ours.iter().map(Listener::try_clone).collect::<std::io::Result<Vec<_>>>()?;
        sys::keep_freed_memory();
        let stopped = Event::new()?;
        let service = Arc::new(Service::start(application, self.config.threads)?);
        let setup = Setup::new(Arc::clone(&self.config), listeners, service.clone());
        let server = Server::start(Setup { access_log, pool: Some(Arc::clone(&self.pool)), ..setup })?;
        ours.iter().for_each(Listener::hold);
        self.owner.store(std::process::id(), Ordering::SeqCst);
        crate::worker::announce(&server, python);
        state.phase = Phase::Running;
        state.run = Some(Arc::new(Run { server, service, ending: AtomicBool::new(false), stopped }));
        lock(&RUNNING).push(Arc::clone(self));
        Ok(())
    }

    /// Stops the server. The log names `who` as the reason. Running requests may take `timeout` more (by default the
    /// setting `graceful_timeout`), then they are cut off. If `interrupted` returns true, this returns early while the
    /// server is still stopping. Returns whether every request finished by itself.
    pub(crate) fn stop(
        self: &Arc<Self>,
        timeout: Option<Duration>,
        who: &str,
        mut interrupted: impl FnMut() -> bool,
    ) -> bool {
        let Some(run) = self.run() else { return true };
        let stop = match timeout {
            Some(timeout) => Stop::new(who, timeout, "the timeout"),
            None => Stop::new(who, self.graceful_timeout(), "graceful_timeout"),
        };
        let end = stop.end();
        if self.set_stopping() {
            run.server.say_stopping(&stop);
        }
        run.server.begin_drain();
        let mut next_look = Instant::now() + LOOK;
        let mut drained = run.server.wait_drained(Instant::now());
        while !drained && Instant::now() < end && !run.stopped.wait(Duration::ZERO) {
            if Instant::now() >= next_look {
                if interrupted() {
                    return false;
                }
                next_look = Instant::now() + LOOK;
            }
            drained = run.server.wait_drained(end.min(next_look));
        }
        if run.ending.swap(true, Ordering::SeqCst) {
            // Another caller closes the server, which takes at most a few seconds.
            run.stopped.wait(LAST_MOMENT * 3);
            return drained;
        }
        if drained {
            run.server.say_stopped(&stop);
        } else {
            run.server.say_cut_off(&stop);
            run.server.cut(LAST_MOMENT);
        }
        run.server.close();
        let ended = run.service.stop(if drained { LAST_MOMENT } else { LAST_MOMENT / 10 });
        lock(&self.listeners).iter().for_each(Listener::let_go);
        {
            let mut state = lock(&self.state);
            state.run = None;
            state.phase = Phase::Stopped;
        }
        lock(&RUNNING).retain(|server| !Arc::ptr_eq(server, self));
        crate::logs::flush();
        run.stopped.happen();
        drained && ended
    }

    /// Changes the phase from running to stopping. Returns false if the server was not running.
    fn set_stopping(&self) -> bool {
        let mut state = lock(&self.state);
        let runs = state.phase == Phase::Running;
        if runs {
            state.phase = Phase::Stopping;
        }
        runs
    }

    /// Returns why a running server no longer accepts connections, if it does not.
    pub(crate) fn lost(&self) -> Option<Lost> {
        self.run().and_then(|run| run.server.lost().cloned())
    }

    /// Waits until the server has stopped, a signal arrives, or `timeout` is over. Returns whether it has stopped.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        self.run().is_none_or(|run| run.stopped.wait(timeout))
    }

    /// Closes the listeners of a server that does not run.
    pub(crate) fn close(&self) {
        if self.is_inert() {
            return;
        }
        let closed = {
            let mut state = lock(&self.state);
            if state.run.is_some() {
                return;
            }
            state.phase = Phase::Closed;
            std::mem::take(&mut *lock(&self.listeners))
        };
        drop(closed);
    }

    /// Returns the requests in progress.
    pub(crate) fn requests(&self) -> Vec<Snapshot> {
        self.run().map(|run| run.server.requests()).unwrap_or_default()
    }

    /// Returns a sentence with the state and the load of the server.
    pub(crate) fn summary(&self) -> String {
        let name = self.phase().name();
        self.run().map_or_else(|| format!("the server is {name}: it serves no request"), |run| run.server.summary().0)
    }

    /// Returns the server's counters.
    pub(crate) fn numbers(&self) -> Numbers {
        let Some(run) = self.run() else { return Numbers::default() };
        let mut numbers = Numbers { server: run.server.stats(), service: metrics::Numbers::default() };
        run.service.measure(&mut numbers.service);
        numbers
    }
}

/// The counters of a running server; zeros if it does not run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Numbers {
    pub(crate) server: server::Stats,
    pub(crate) service: metrics::Numbers,
}
