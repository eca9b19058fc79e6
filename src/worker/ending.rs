//! The end of a serving process: the guard thread acts on signals, and ends the process if Python does not.
//!
//! *Owns*: the signals and the deadline of the end. *Runs on*: the guard on its own thread; `Guard`'s methods on the
//! main thread. The guard never takes the GIL, so the application cannot keep it from ending the process. *Invariants*:
//! after the first signal to stop, the process lasts at most the graceful timeout plus `END_MIN` for the end of Python;
//! a second signal ends it at once.

mod exits;
mod guard;
mod threads;

use std::io::Read;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use pyo3::prelude::*;

pub(super) use self::exits::end_python;
use self::exits::leave_now;
use self::guard::GuardThread;
use self::threads::{AppThread, listed, threads_that_stay};
pub(super) use self::threads::{app_threads, names};
use super::notified::Notified;
use super::reexec::Restart;
use super::reporter::Reporter;
use crate::cli::Exit;
use crate::instance::{Drained, Instance};
use crate::phrase::seconds;
use crate::server::Stop;
use crate::signals::{self, CommandSender, SignalWaker, Signals};
use crate::stdlib;
use crate::sys::{self, Lock};

/// The end of Python may take at least this long, even if less of the graceful timeout is left.
const END_MIN: Duration = Duration::from_secs(5);

/// The stage that the process is in.
enum Stage {
    Serving,
    /// Running requests may finish.
    Draining(Stop),
    /// The application's exit functions run, then the process ends without finalizing Python.
    Leaving,
    /// Python is being finalized.
    Ending(Ending),
    /// The server has ended, and the program continues.
    Over,
}

/// The end of Python.
struct Ending {
    end: Instant,
    /// How long the end of Python may take in total.
    limit: Duration,
    exit: Exit,
    /// The threads that Python waits for. `None` while threads of the server are still ending.
    threads: Option<Vec<AppThread>>,
}

/// The main thread's side of the guard.
pub(super) struct Guard {
    instance: Arc<Instance>,
    stage: Arc<Lock<Stage>>,
    waker: SignalWaker,
    /// Gives commands to the guard, until `take_sender`.
    sender: Option<CommandSender>,
    /// Receives a byte at the first signal to stop, and one for each signal that has a handler in Python.
    wake: UnixStream,
    /// The descriptor that Python writes to. `None` if Python does not wake the main thread.
    python: Option<OwnedFd>,
    thread: JoinHandle<()>,
}

impl Guard {
    /// Starts the thread that acts on signals.
    pub(super) fn start(
        signals: Signals,
        reporter: Reporter,
        instance: &Arc<Instance>,
        restart: Option<Arc<Restart>>,
        graceful_timeout: Duration,
        systemd: Option<Notified>,
    ) -> anyhow::Result<Self> {
        let (wake, wake_write) = UnixStream::pair().context("cannot make a socket pair")?;
        wake_write.set_nonblocking(true)?;
        let python = OwnedFd::from(wake_write.try_clone()?);
        let python = Python::attach(|py| signals::wake_on_signals(py, &python))
            .map_err(|error| anyhow!("{error}"))?
            .then_some(python);
        let stage = Arc::new(Lock::new(Stage::Serving));
        let (waker, sender) = (signals.waker()?, signals.sender()?);
        instance.server().on_lost(signals.stopper()?);
        let guard = GuardThread {
            signals,
            reporter: Arc::new(reporter),
            stage: Arc::clone(&stage),
            instance: Arc::clone(instance),
            main: SignalWaker::new(wake_write),
            restart,
            graceful_timeout,
            systemd,
        };
        let thread = sys::start_thread_without_signals("maypole-signals", move || guard.run());
        let thread = thread.context("cannot start the thread that acts on signals")?;
        Ok(Self { instance: Arc::clone(instance), stage, waker, sender: Some(sender), wake, python, thread })
    }

    /// Waits for the signal to stop, and runs the application's own signal handlers meanwhile. Calls `left` once the
    /// listeners have closed and no idle connection is left. Returns once the server is drained. Ends the process if the
    /// server does not drain in time.
    pub(super) fn drain(&self, left: impl FnOnce()) -> Exit {
        loop {
            match (&self.wake).read(&mut [0; 64]) {
                Ok(1..) => {}
                // The application has a handler for the signal that arrived, and its own wake-up descriptor.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return Exit::Failure,
            }
            if !matches!(*self.stage.lock(), Stage::Serving) {
                break;
            }
            run_signal_handlers();
        }
        let Some(stop) = self.stop() else { return Exit::Failure };
        let look = || {
            run_signal_handlers();
            ControlFlow::Continue(())
        };
        if self.instance.leave(&stop, look) == Drained::Wholly {
            left();
        }
        let drained = self.instance.drain(&stop, look) == Drained::Wholly;
        self.instance.say_end(&stop, drained);
        if !drained {
            self.leave(Exit::Ok);
        }
        if self.instance.server().lost().is_some() { Exit::Failure } else { Exit::Ok }
    }

    /// Returns the sender of commands to the guard. Only the first call may ask for it.
    pub(super) fn take_sender(&mut self) -> CommandSender {
        self.sender.take().expect("only one thread besides the guard gives commands")
    }

    /// Returns the current stop, if the server is draining.
    fn stop(&self) -> Option<Stop> {
        match &*self.stage.lock() {
            Stage::Draining(stop) => Some(stop.clone()),
            _ => None,
        }
    }

    /// Notes that the server is drained and that Python ends next. If that takes too long, or if another signal
    /// arrives, the guard ends the process with `exit`.
    pub(super) fn begin_end(&self, exit: Exit) {
        let now = Instant::now();
        let end = self.stop().map_or(now, |stop| stop.end()).max(now + END_MIN);
        self.enter(Stage::Ending(Ending { end, limit: end - now, exit, threads: None }));
        self.waker.wake();
    }

    /// Ends the process because calls or threads of the server are still inside Python.
    pub(super) fn leave(&self, exit: Exit) -> ! {
        self.enter(Stage::Leaving);
        leave_now(exit)
    }

    /// Logs which threads of the application Python waits for, and passes them to the guard. (Main thread, after
    /// `begin_end`.)
    pub(super) fn look_at_threads(&mut self, py: Python<'_>) {
        self.let_go(py);
        let threads = threads_that_stay(py).unwrap_or_else(|error| {
            log::warn!("the application's threads cannot be listed:\n{}", crate::wsgi::traceback(py, &error));
            Vec::new()
        });
        if let Stage::Ending(ending) = &mut *self.stage.lock() {
            if !threads.is_empty() {
                let left = seconds(ending.end.saturating_duration_since(Instant::now()));
                let threads = listed("thread", &names(&threads));
                log::info!("waiting for the application: {threads} may run for {left} more");
            }
            ending.threads = Some(threads);
        }
        // Flush, so that the application's output is not lost if the guard ends the process.
        stdlib::flush_output(py);
    }

    /// Moves to another stage. If the guard is ending the process, waits for that end instead.
    fn enter(&self, next: Stage) {
        let mut stage = self.stage.lock();
        if matches!(*stage, Stage::Leaving) {
            drop(stage);
            loop {
                thread::park();
            }
        }
        *stage = next;
    }

    /// Stops Python from waking the main thread at signals.
    pub(super) fn let_go(&mut self, py: Python<'_>) {
        // The descriptor is closed on return, after Python has let go of it.
        let ours = self.python.take();
        if ours.is_some()
            && let Err(error) = signals::wake_no_more(py)
        {
            log::warn!(
                "Python cannot be stopped from waking the server at signals:\n{}",
                crate::wsgi::traceback(py, &error)
            );
        }
    }

    /// Ends the guard, so that the program continues with its own signal handlers.
    pub(super) fn end(mut self) {
        Python::attach(|py| self.let_go(py));
        self.enter(Stage::Over);
        self.waker.wake();
        // The join is short: the thread waits only for signals and wakes.
        drop(self.thread.join());
    }
}

/// Runs the application's handlers for the signals that Python has noted. Logs an exception. (Main thread.)
pub fn run_signal_handlers() {
    Python::attach(|py| {
        if let Err(error) = py.check_signals() {
            log::error!("a signal handler failed:\n{}", crate::wsgi::traceback(py, &error));
        }
    });
}
