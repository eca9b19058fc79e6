//! A server inside a program. Its constructor binds the address; the program starts it, stops it, and may start it
//! again.
//!
//! *Owns*: the listeners, which stay open from one start to the next; while the server runs, also its instance. *Runs
//! on*: any plain thread. `start`, `stop`, `wait` and `close` may block, so they run without the GIL. *Invariants*:
//! nothing starts before `start`. Every method may be called at any time, in any order, from several threads at once. A
//! lock of this file is held only briefly: while a thread holds one, it does not start, log or wait for anything. It
//! does not ask for the GIL either, because a thread with the GIL may wait for that lock. A server is inert in a forked
//! child of the process that started it.

use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, MutexGuard, Once};
use std::time::Duration;

use anyhow::bail;

use crate::config::Config;
use crate::instance::{self, CLOSE_MAX, Drained, Instance, Parts};
use crate::listener::{BoundAddress, Listener};
use crate::logs::{self, AccessLog};
use crate::metrics::Numbers;
use crate::pool::Pool;
use crate::requests::Snapshot;
use crate::server::{Lost, Stop};
use crate::sys::{Condition, Event, Lock};
use crate::tls::Certificates;
use crate::wsgi::Application;

/// One server.
pub(crate) struct Embedded {
    config: Arc<Config>,
    pool: Arc<Pool>,
    /// The pool's size when the server was made.
    pool_size: usize,
    /// The process that started the server; 0 before the first start.
    owner: AtomicU32,
    listeners: Lock<Vec<Listener>>,
    /// The certificates of TLS. `None`: no listener speaks TLS.
    certificates: Option<Arc<Certificates>>,
    state: Lock<State>,
    /// Notified at the end of a start.
    settled: Condition,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// Whether a thread is starting the server. The phase changes when the start has succeeded.
    starting: bool,
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
    instance: Instance,
    /// Whether a caller of `stop` has begun to close the server.
    ending: AtomicBool,
    /// Happens when the server has stopped.
    stopped: Event,
}

/// All servers between start and stop. This keeps a server alive even if the program has dropped it.
static RUNNING: Lock<Vec<Arc<Embedded>>> = Lock::new(Vec::new());

/// Warns of environment variables that look like settings but are not. Only the first call in the process does so. No
/// other thread may change the environment meanwhile.
pub(crate) fn warn_of_variables() {
    static WARNED: Once = Once::new();
    WARNED.call_once(instance::warn_of_variables);
}

impl Embedded {
    /// Makes a server with these listeners.
    pub(crate) fn new(
        config: Config,
        listeners: Vec<Listener>,
        pool: Option<Arc<Pool>>,
        certificates: Option<Arc<Certificates>>,
    ) -> Arc<Self> {
        let pool = pool.unwrap_or_else(|| Pool::new(config.pool_size));
        Arc::new(Self {
            config: Arc::new(config),
            pool_size: pool.size(),
            pool,
            owner: AtomicU32::new(0),
            listeners: Lock::new(listeners),
            certificates,
            state: Lock::default(),
            settled: Condition::default(),
        })
    }

    /// Returns the running servers. (Not for a forked child, in which the lock may stay locked forever.)
    pub(crate) fn all() -> Vec<Arc<Self>> {
        RUNNING.lock().clone()
    }

    fn is_inert(&self) -> bool {
        let owner = self.owner.load(Ordering::SeqCst);
        owner != 0 && owner != std::process::id()
    }

    /// Sets the pool's size back to the size at the construction of the server.
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
        if self.is_inert() { Phase::Inert } else { self.state.lock().phase }
    }

    /// Returns the descriptors and addresses of the listeners.
    pub(crate) fn listeners(&self) -> Vec<(RawFd, BoundAddress)> {
        if self.is_inert() {
            return Vec::new();
        }
        self.listeners.lock().iter().map(|listener| (listener.as_raw_fd(), listener.address().clone())).collect()
    }

    /// Returns the addresses of the listeners as clients write them.
    pub(crate) fn urls(&self) -> Vec<String> {
        if self.is_inert() { Vec::new() } else { self.listeners.lock().iter().map(Listener::url).collect() }
    }

    /// Returns whether other processes serve on the same listeners.
    pub(crate) fn is_shared(&self) -> bool {
        self.listeners.lock().iter().any(Listener::is_shared)
    }

    /// Returns whether a thread is starting the server. The server may already serve requests although its phase does
    /// not say so yet: call `settle` first.
    pub(crate) fn is_starting(&self) -> bool {
        !self.is_inert() && self.state.lock().starting
    }

    /// Waits until no thread is starting the server. (Without the GIL.)
    pub(crate) fn settle(&self) {
        if self.is_starting() {
            drop(self.settled());
        }
    }

    /// Returns the state once no thread is starting the server.
    fn settled(&self) -> MutexGuard<'_, State> {
        let state = self.state.lock();
        self.settled.wait_while(state, |state| state.starting)
    }

    fn run(&self) -> Option<Arc<Run>> {
        if self.is_inert() { None } else { self.state.lock().run.clone() }
    }

    /// Starts the server, unless it runs already. `python` describes the interpreter for the log.
    ///
    /// # Errors
    /// It is closed, the process is a child of one that had a server, or there are no descriptors or threads left.
    pub(crate) fn start(
        self: &Arc<Self>,
        applications: Vec<Arc<Application>>,
        access_log: Option<AccessLog>,
        python: &str,
    ) -> anyhow::Result<()> {
        let Some(start) = self.begin_start()? else { return Ok(()) };
        let listeners = self.listeners.lock().iter().map(Listener::try_clone).collect::<std::io::Result<Vec<_>>>()?;
        let (config, pool) = (Arc::clone(&self.config), Some(Arc::clone(&self.pool)));
        let stopped = Event::new()?;
        let certificates = self.certificates.clone();
        let parts =
            Parts { config, listeners, applications, access_log, pool, slot: None, certificates, is_worker: false };
        let instance = Instance::start(parts)?;
        self.listeners.lock().iter().for_each(Listener::hold);
        instance.announce(python);
        start.succeed(Run { instance, ending: AtomicBool::new(false), stopped });
        Ok(())
    }

    /// Begins a start. Until the result is dropped, other callers of `start`, `stop`, `wait` and `close` wait. Returns
    /// `None` if the server runs already.
    fn begin_start(self: &Arc<Self>) -> anyhow::Result<Option<Starting<'_>>> {
        if self.is_inert() {
            bail!("the server belongs to the parent process");
        }
        let mut state = self.settled();
        match state.phase {
            Phase::Running => return Ok(None),
            Phase::Stopping => bail!("the server is stopping: wait until it has stopped"),
            Phase::Closed | Phase::Inert => bail!("the server is closed"),
            Phase::Created | Phase::Stopped => {}
        }
        state.starting = true;
        // A child that is forked during the start must not use the server either.
        let owner = self.owner.swap(std::process::id(), Ordering::SeqCst);
        Ok(Some(Starting { of: self, owner: Some(owner) }))
    }

    /// Stops the server. The log names `who` as the reason. Running requests may take `timeout` more, by default the
    /// setting `graceful_timeout`; then they are cut off. If `interrupted` returns true, this function returns early
    /// while the server is still stopping. Returns whether every request finished by itself.
    pub(crate) fn stop(
        self: &Arc<Self>,
        timeout: Option<Duration>,
        who: &str,
        mut interrupted: impl FnMut() -> bool,
    ) -> bool {
        let Some(run) = self.settled_run() else { return true };
        let stop = match timeout {
            Some(timeout) => Stop::new(who, timeout, "the timeout"),
            None => Stop::new(who, self.graceful_timeout(), "graceful_timeout"),
        };
        run.instance.begin_stop(&stop);
        self.set_stopping();
        let look = || {
            let breaks = run.stopped.wait(Duration::ZERO) || interrupted();
            if breaks { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let drained = match run.instance.drain(&stop, look) {
            Drained::Wholly => true,
            Drained::Late => false,
            // Another caller has stopped the server without waiting for every request.
            Drained::Interrupted if run.stopped.wait(Duration::ZERO) => false,
            Drained::Interrupted => return false,
        };
        if run.ending.swap(true, Ordering::SeqCst) {
            // Another caller is closing the server.
            run.stopped.wait(CLOSE_MAX);
            return drained;
        }
        run.instance.say_end(&stop, drained);
        let ended = run.instance.close(drained);
        self.listeners.lock().iter().for_each(Listener::let_go);
        {
            let mut state = self.state.lock();
            state.run = None;
            state.phase = Phase::Stopped;
        }
        RUNNING.lock().retain(|server| !Arc::ptr_eq(server, self));
        logs::flush();
        run.stopped.happen();
        drained && ended
    }

    /// Returns the current run. Waits until no thread is starting the server.
    fn settled_run(&self) -> Option<Arc<Run>> {
        if self.is_inert() { None } else { self.settled().run.clone() }
    }

    /// Changes the phase from running to stopping.
    fn set_stopping(&self) {
        let mut state = self.state.lock();
        if state.phase == Phase::Running {
            state.phase = Phase::Stopping;
        }
    }

    /// Returns why a running server no longer accepts connections. `None` if it still does.
    pub(crate) fn lost(&self) -> Option<Lost> {
        self.run().and_then(|run| run.instance.server().lost().cloned())
    }

    /// Waits until the server has stopped, a signal arrives, or `timeout` is over. Returns whether it has stopped.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        self.settled_run().is_none_or(|run| run.stopped.wait(timeout))
    }

    /// Closes the listeners of a server that does not run.
    pub(crate) fn close(&self) {
        if self.is_inert() {
            return;
        }
        let closed = {
            let mut state = self.settled();
            if state.run.is_some() {
                return;
            }
            state.phase = Phase::Closed;
            std::mem::take(&mut *self.listeners.lock())
        };
        drop(closed);
    }

    /// Returns the requests in progress.
    pub(crate) fn requests(&self) -> Vec<Snapshot> {
        self.run().map(|run| run.instance.server().requests()).unwrap_or_default()
    }

    /// Returns a sentence with the state and the load of the server.
    pub(crate) fn summary(&self) -> String {
        let name = self.phase().name();
        self.run().map_or_else(
            || format!("the server is {name}: it serves no request"),
            |run| run.instance.server().summary().0,
        )
    }

    /// Returns the numbers of the server. If it does not run, only the pool's numbers are set.
    pub(crate) fn numbers(&self) -> Numbers {
        let running = self.run().map(|run| run.instance.server().numbers());
        Numbers { permits: Some(self.pool.permits()), ..running.unwrap_or_default() }
    }
}

/// A start that has begun. Dropping it ends the start, whether it succeeded or failed.
struct Starting<'a> {
    of: &'a Arc<Embedded>,
    /// The owner before the start; `None` once the server runs.
    owner: Option<u32>,
}

impl Starting<'_> {
    /// Notes that the server runs.
    fn succeed(mut self, run: Run) {
        let mut state = self.of.state.lock();
        state.phase = Phase::Running;
        state.run = Some(Arc::new(run));
        RUNNING.lock().push(Arc::clone(self.of));
        self.owner = None;
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        if let Some(owner) = self.owner {
            self.of.owner.store(owner, Ordering::SeqCst);
        }
        self.of.state.lock().starting = false;
        self.of.settled.notify_all();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::mpsc::{self, TryRecvError};
    use std::thread;

    use super::*;

    /// Longer than any step of these tests takes on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn server() -> Arc<Embedded> {
        let config = Config::from_keywords(&[("bind".to_owned(), vec!["127.0.0.1:0".to_owned()])]).unwrap();
        let listeners = Listener::bind_configured(&config).unwrap();
        Embedded::new(config, listeners, None, None)
    }

    #[test]
    fn start_that_fails_leaves_the_server_as_it_was() {
        let server = server();
        for _ in 0..2 {
            let start = server.begin_start().unwrap().unwrap();
            assert_eq!((server.phase(), server.owner.load(Ordering::SeqCst)), (Phase::Created, std::process::id()));
            drop(start);
            assert_eq!((server.phase(), server.owner.load(Ordering::SeqCst)), (Phase::Created, 0));
        }
        server.close();
        assert_eq!(server.begin_start().err().unwrap().to_string(), "the server is closed");
    }

    #[test]
    fn calls_during_a_start_wait_for_its_end_and_do_not_hold_the_state() {
        let server = server();
        let start = server.begin_start().unwrap().unwrap();
        let (done, calls) = mpsc::channel();
        thread::scope(|scope| {
            let calling: [fn(&Arc<Embedded>); 4] = [
                |server| server.settle(),
                |server| server.close(),
                |server| assert!(server.stop(None, "a test", || false)),
                |server| assert!(server.wait(PATIENCE)),
            ];
            for call in calling {
                let (server, done) = (&server, done.clone());
                scope.spawn(move || {
                    call(server);
                    done.send(()).unwrap();
                });
            }
            assert_eq!((server.is_starting(), server.listeners().len()), (true, 1), "nothing is locked");
            assert_eq!(calls.try_recv(), Err(TryRecvError::Empty));
            drop(start);
            for _ in 0..calling.len() {
                calls.recv_timeout(PATIENCE).unwrap();
            }
        });
        assert_eq!((server.phase(), server.listeners().len()), (Phase::Closed, 0));
    }

    #[test]
    fn child_of_a_starting_server_has_an_inert_one() {
        let server = server();
        server.owner.store(std::process::id() + 1, Ordering::SeqCst);
        assert_eq!((server.phase(), server.listeners().len()), (Phase::Inert, 0));
        assert_eq!(server.begin_start().err().unwrap().to_string(), "the server belongs to the parent process");
    }
}
