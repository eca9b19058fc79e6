//! The end of a serving process: the guard thread acts on signals, and ends the process if Python does not.
//!
//! *Owns*: the signals and the deadline of the end. *Runs on*: the guard on its own thread; `Guard`'s methods on the
//! main thread. The guard never takes the GIL, so the application cannot keep it from ending the process. *Invariants*:
//! after the first signal to stop, the process lasts at most the graceful timeout plus `END_MIN` for the end of Python;
//! a second signal ends it at once.

use std::io::Read;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use pyo3::prelude::*;

use super::notified::Notified;
use super::reexec::{self, Restart};
use super::reporter::Reporter;
use crate::cli::Exit;
use crate::instance::{Drained, Instance};
use crate::phrase::{count, seconds};
use crate::server::Stop;
use crate::signals::{self, Cause, Command, CommandSender, SignalWaker, Signals};
use crate::stdlib;
use crate::sys::{self, Lock};
use crate::{identity, logs};

/// The end of Python may take at least this long, even if less of the graceful timeout is left.
const END_MIN: Duration = Duration::from_secs(5);
/// If the process ends while calls still run, the application's exit functions may take this long.
const EXIT_FUNCTIONS_MAX: Duration = Duration::from_secs(2);
/// If the main thread has not acted this long after the graceful timeout, the guard ends the process.
const MAIN_LATE: Duration = Duration::from_secs(2);

/// Writes what Python has buffered.
const FLUSH: &std::ffi::CStr = c"import sys; sys.stdout.flush(); sys.stderr.flush()";

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

/// A thread of the application that Python waits for when it ends.
struct AppThread {
    name: String,
    /// The system's thread ID.
    id: u32,
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

/// The thread that acts on signals.
struct Watch {
    signals: Signals,
    /// Writes the report that SIGQUIT asks for.
    reporter: Arc<Reporter>,
    stage: Arc<Lock<Stage>>,
    instance: Arc<Instance>,
    main: SignalWaker,
    /// `None`: SIGHUP has no effect.
    restart: Option<Arc<Restart>>,
    graceful_timeout: Duration,
    /// systemd, if it wants to be told how the process is.
    systemd: Option<Notified>,
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
        let watch = Watch {
            signals,
            reporter: Arc::new(reporter),
            stage: Arc::clone(&stage),
            instance: Arc::clone(instance),
            main: SignalWaker::new(wake_write),
            restart,
            graceful_timeout,
            systemd,
        };
        let thread = sys::start_thread_without_signals("maypole-signals", move || watch.run());
        let thread = thread.context("cannot start the thread that acts on signals")?;
        Ok(Self { instance: Arc::clone(instance), stage, waker, sender: Some(sender), wake, python, thread })
    }

    /// Waits for the signal to stop, and runs the application's own signal handlers meanwhile. Returns once the server
    /// is drained. Ends the process if the server does not drain in time.
    pub(super) fn drain(&self) -> Exit {
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
        for stream in ["stdout", "stderr"] {
            // A closed stream has nothing to flush.
            let _ = py.import("sys").and_then(|sys| sys.getattr(stream)?.call_method0("flush"));
        }
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
            log::warn!("Python's signals cannot be let go of:\n{}", crate::wsgi::traceback(py, &error));
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
fn run_signal_handlers() {
    Python::attach(|py| {
        if let Err(error) = py.check_signals() {
            log::error!("a signal handler failed:\n{}", crate::wsgi::traceback(py, &error));
        }
    });
}

impl Watch {
    fn run(mut self) {
        self.systemd.iter_mut().for_each(|systemd| systemd.ready(&self.instance));
        loop {
            let end = match &*self.stage.lock() {
                Stage::Serving | Stage::Leaving => None,
                Stage::Draining(stop) => Some(stop.end() + MAIN_LATE),
                Stage::Ending(ending) => Some(ending.end),
                Stage::Over => return,
            };
            let next_look = self.systemd.as_ref().map(Notified::next);
            match self.signals.next(end.into_iter().chain(next_look).min()) {
                Ok(Some(Command::Report(cause))) => self.reporter.report(&self.instance, &cause),
                Ok(Some(Command::ReopenLogs(cause))) => logs::reopen(&cause.to_string()),
                Ok(Some(Command::Reload)) => self.reload(),
                Ok(Some(Command::Restart(cause))) => self.restart(&cause),
                Ok(Some(Command::Stop(cause))) => self.stop(&cause),
                Ok(Some(Command::StopNow(cause))) => self.stop_now(&cause),
                Ok(None) if end.is_some_and(|end| Instant::now() >= end) => self.late(),
                Ok(None) => {}
                Err(error) => {
                    log::error!("signals cannot be read: {}", sys::plain(&error));
                    leave_now(Exit::Failure);
                }
            }
            self.systemd.iter_mut().for_each(|systemd| systemd.look(&self.instance));
        }
    }

    fn is_serving(&self) -> bool {
        matches!(*self.stage.lock(), Stage::Serving)
    }

    /// Begins to reload, or stops the server because its terminal has gone.
    fn reload(&mut self) {
        let Some(restart) = &self.restart else { return };
        if restart.has_lost_terminal() {
            self.stop(&Cause::Hangup);
        } else if self.is_serving() {
            restart.begin();
        }
    }

    /// Begins to stop the server, and starts the process again then.
    fn restart(&mut self, cause: &Cause) {
        if let Some(restart) = self.restart.as_ref().filter(|_| self.is_serving()) {
            restart.keep(&self.instance);
            self.systemd.iter_mut().for_each(Notified::reloading);
            self.begin_stop(cause);
        }
    }

    /// Begins to stop the server. If the server is stopping for another reason, ends the process.
    fn stop(&mut self, cause: &Cause) {
        if self.is_serving() {
            self.systemd.iter_mut().for_each(Notified::stopping);
            self.begin_stop(cause);
        } else if self.restart.as_ref().is_some_and(|restart| restart.cancel()) {
            self.systemd.iter_mut().for_each(Notified::stopping);
            log::info!("{cause}: the process ends, and does not start again");
        } else {
            self.stop_now(cause);
        }
    }

    fn begin_stop(&self, cause: &Cause) {
        let mut stage = self.stage.lock();
        let stop = Stop::new(cause.to_string(), self.graceful_timeout, "--graceful-timeout");
        // Hold the stage's lock until the log says that the server stops. Only after that may the main thread log that
        // it has stopped.
        self.instance.begin_stop(&stop);
        *stage = Stage::Draining(stop);
        self.main.wake();
    }

    /// Ends the process, even if requests or threads still run.
    fn stop_now(&self, cause: &Cause) {
        // A supervisor says by itself that a second signal came.
        let why = if matches!(cause, Cause::Supervisor(_)) { "" } else { ", because a second signal came" };
        let mut stage = self.stage.lock();
        match &*stage {
            Stage::Serving | Stage::Draining(_) => {
                *stage = Stage::Leaving;
                drop(stage);
                let unended = self.instance.server().unended().unwrap_or_else(|| "nothing".to_owned());
                log::warn!("{cause}: stopping at once{why}; it cuts off {unended}");
                leave_now(Exit::Ok);
            }
            Stage::Leaving => end_process(Exit::Ok),
            Stage::Ending(ending) => {
                let left = ending.left();
                log::warn!("{cause}: stopping at once{why}, and Python has not ended; {left}");
                end_process(ending.exit);
            }
            Stage::Over => {}
        }
    }

    /// Ends the process if the deadline of the current stage has passed.
    fn late(&self) {
        let mut stage = self.stage.lock();
        match &*stage {
            Stage::Draining(stop) => {
                // The main thread is waiting for the GIL, which it needs to run signal handlers.
                let stop = stop.clone();
                *stage = Stage::Leaving;
                drop(stage);
                self.instance.say_end(&stop, false);
                leave_now(Exit::Ok);
            }
            Stage::Ending(ending) => {
                let (limit, min, left) = (seconds(ending.limit), seconds(END_MIN), ending.left());
                log::warn!(
                    "stopping although Python has not ended within {limit} (the rest of --graceful-timeout, at least \
                     {min}); {left}"
                );
                end_process(ending.exit);
            }
            Stage::Serving | Stage::Leaving | Stage::Over => {}
        }
    }
}

impl Ending {
    /// Returns a phrase that names what keeps Python from ending.
    fn left(&self) -> String {
        let lives = |thread: &&AppThread| sys::thread_lives(thread.id);
        let Some(threads) = &self.threads else { return "threads of the server are still about to end".to_owned() };
        let threads: Vec<_> = threads.iter().filter(lives).map(|thread| format!("'{}'", thread.name)).collect();
        let children: Vec<_> = sys::children().into_iter().map(|(pid, command)| format!("{pid} ({command})")).collect();
        let mut left = Vec::new();
        for (kind, which) in [("thread", threads), ("child process", children)] {
            if !which.is_empty() {
                left.push(listed(kind, &which));
            }
        }
        if left.is_empty() {
            return "no thread and no child process is left: an exit function or a destructor still runs".to_owned();
        }
        format!("left: {}", left.join("; "))
    }
}

/// `2 threads: 'a', 'b'`
fn listed(kind: &str, which: &[String]) -> String {
    format!("{}: {}", count(which.len(), kind), which.join(", "))
}

fn names(threads: &[AppThread]) -> Vec<String> {
    threads.iter().map(|thread| format!("'{}'", thread.name)).collect()
}

/// Returns the threads that Python waits for when it ends: all but daemon threads and the main thread.
fn threads_that_stay(py: Python<'_>) -> PyResult<Vec<AppThread>> {
    let threading = stdlib::get(py)?.threading.bind(py);
    let main = threading.call_method0("main_thread")?;
    let mut found = Vec::new();
    for thread in threading.call_method0("enumerate")?.try_iter()? {
        let thread = thread?;
        if thread.is(&main) || thread.getattr("daemon")?.is_truthy()? {
            continue;
        }
        let name = thread.getattr("name")?.str()?.to_string_lossy().into_owned();
        found.push(AppThread { name, id: thread.getattr("native_id")?.extract()? });
    }
    Ok(found)
}

/// Waits for the application's threads and runs its exit functions, as Python does at its end. For a process whose
/// interpreter was started by another program. (Main thread.)
pub(super) fn end_python() {
    Python::attach(|py| {
        let ended = stdlib::get(py).and_then(|modules| {
            modules.threading.bind(py).call_method0("_shutdown")?;
            modules.atexit.bind(py).call_method0("_run_exitfuncs")
        });
        if let Err(error) = ended.and_then(|_| py.run(FLUSH, None, None)) {
            log::warn!("the end of Python has failed:\n{}", crate::wsgi::traceback(py, &error));
        }
    });
}

/// Ends the process although calls may still run. Runs the application's exit functions, but does not wait for its
/// threads.
fn leave_now(exit: Exit) -> ! {
    logs::flush();
    let (done, wait) = mpsc::channel();
    let run = move || {
        Python::attach(|py| {
            let _ = stdlib::get(py).and_then(|modules| modules.atexit.bind(py).call_method0("_run_exitfuncs"));
            let _ = py.run(FLUSH, None, None);
        });
        let _ = done.send(());
    };
    // The wait has a limit: a call that computes without releasing the GIL cannot keep the process alive.
    match thread::Builder::new().name("maypole-exit".to_owned()).spawn(run) {
        Ok(_) => drop(wait.recv_timeout(EXIT_FUNCTIONS_MAX)),
        Err(error) => {
            let error = sys::plain(&error);
            log::warn!("the application's exit functions do not run: cannot start a thread: {error}");
        }
    }
    end_process(exit)
}

/// Ends the process at once.
fn end_process(exit: Exit) -> ! {
    /// Set by the first thread that ends the process. A second thread must not wait for the log as well.
    static ENDING: AtomicBool = AtomicBool::new(false);
    if !ENDING.swap(true, Ordering::SeqCst) {
        identity::remove_pid_file();
        logs::flush();
    }
    reexec::go_on();
    sys::exit_now(exit as i32)
}
