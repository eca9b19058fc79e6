//! One serving process, from its settings to its exit: interpreter, application, listeners, server, signals, drain.
//!
//! *Owns*: the process. *Runs on*: the main thread, which waits for signals without the GIL. *Invariants*: only here are
//! signal handlers installed; once the line that says where it listens is out, requests are answered.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use pyo3::exceptions::PySystemExit;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM};

use crate::cli::Exit;
use crate::config::{Config, LogTarget};
use crate::interpreter::{self, Started};
use crate::listener::Listener;
use crate::log as logs;
use crate::pool::Pool;
use crate::server::Server;
use crate::stdlib;
use crate::sys::{self, SignalAction};
use crate::wsgi::load::{self, LoadError};
use crate::wsgi::{Application, Options, Service, leave_forked_child, paste};

/// What stops the server, and what has it say what it does.
const SIGNALS: [i32; 3] = [SIGTERM, SIGINT, SIGQUIT];
/// How long threads without a call may take to end.
const END_OF_THREADS: Duration = Duration::from_secs(1);

/// What a program has at hand that serves; a command line has nothing.
#[derive(Default)]
pub struct Given {
    /// The application, instead of the one that the settings name.
    pub application: Option<Py<PyAny>>,
    /// What is in every request's environ.
    pub environ: Vec<(String, Py<PyAny>)>,
}

/// Serves until a signal says stop: the application that is given, or the one that the settings name. Never returns
/// while it serves well.
pub fn serve(config: &Config, given: Given) -> Exit {
    // Paths in the settings are meant from there.
    if let Some(dir) = &config.chdir
        && let Err(error) = std::env::set_current_dir(dir)
    {
        eprintln!("error: cannot change to {}: {error}", dir.display());
        return Exit::NotStarted;
    }
    if let Some(mask) = config.umask {
        sys::set_umask(mask);
    }
    let opened = match logs::init(config) {
        Ok(opened) => opened,
        Err(error) => {
            eprintln!("error: {error:#}");
            return if error.is::<logs::FormatError>() { Exit::Usage } else { Exit::NotStarted };
        }
    };
    let exit = match run(config, given, opened) {
        Ok(exit) => exit,
        Err(error) => {
            let exit = if error.is::<LoadError>() { Exit::NotImportable } else { Exit::NotStarted };
            log::error!("{error:#}");
            exit
        }
    };
    logs::flush();
    exit
}

fn run(config: &Config, given: Given, opened: logs::Logs) -> anyhow::Result<Exit> {
    let mut listeners = Vec::new();
    if !config.check_config {
        listeners = Listener::bind_all(&config.bind, config.backlog)?;
        // The application may start processes while it is imported, which must not keep the addresses in use.
        sys::watch_forks();
        listeners.iter().for_each(Listener::hold);
    }
    let started = interpreter::start(&[config.application_name().to_owned()]).map_err(anyhow::Error::msg)?;
    let application = Python::attach(|py| {
        // Before the application's directories are searched.
        stdlib::prepare(py).map_err(|error| python_failure(py, &error))?;
        let callable = find(py, config, given.application)?;
        let options = Options {
            access_log_environ: opened.access.as_ref().map(|log| log.environ_names().to_vec()).unwrap_or_default(),
            multithread: config.threads > 1,
            multiprocess: listeners.iter().any(Listener::is_shared),
            werkzeug_socket: config.werkzeug_socket,
            environ: given.environ,
            ..Options::default()
        };
        Application::new(py, callable, options).map_err(|error| python_failure(py, &error))
    })?;
    if config.check_config {
        return Ok(Exit::Ok);
    }
    let before = Python::attach(|py| kept_handlers(py, started)).map_err(|error| anyhow!("{error}"))?;
    let signals = Signals::install(config)?;
    sys::keep_freed_memory();
    sys::start_runtime(config.stack_size.as_usize())?;
    let service = Arc::new(Service::start(application, config.threads)?);
    let server = Server::start(config, listeners, service.clone(), opened.access, Pool::new(config.pool_size))?;
    announce(config, &server);
    let exit = signals.wait(config, &server);
    log::info!("stopped");
    logs::flush();
    server.close();
    // Every call has ended, so Python may be taken down; where it was there before, by whoever started it.
    match started {
        Started::Here => interpreter::finalize(),
        Started::Before => {
            service.stop(END_OF_THREADS);
            Python::attach(|py| restore_handlers(py, before)).map_err(|error| anyhow!("{error}"))?;
        }
    }
    Ok(exit)
}

/// What the program did on our signals, where it goes on after us.
fn kept_handlers(py: Python<'_>, started: Started) -> PyResult<Vec<(i32, Py<PyAny>)>> {
    if started == Started::Here {
        return Ok(Vec::new());
    }
    let signal = stdlib::get(py)?.signal.bind(py);
    let handler = |number| Ok((number, signal.call_method1("getsignal", (number,))?.unbind()));
    SIGNALS.into_iter().map(handler).collect()
}

fn restore_handlers(py: Python<'_>, handlers: Vec<(i32, Py<PyAny>)>) -> PyResult<()> {
    stdlib::get(py)?.faulthandler.bind(py).call_method1("unregister", (SIGQUIT,))?;
    let signal = stdlib::get(py)?.signal.bind(py);
    // `None` is a handler that Python knows nothing of.
    for (number, handler) in handlers.into_iter().filter(|(_, handler)| !handler.is_none(py)) {
        signal.call_method1("signal", (number, handler))?;
    }
    Ok(())
}

/// The application that the program gave, or else the one that the settings name, imported.
fn find(py: Python<'_>, config: &Config, application: Option<Py<PyAny>>) -> anyhow::Result<Py<PyAny>> {
    if let Some(application) = application {
        return Ok(application);
    }
    let here = std::env::current_dir().context("there is no working directory")?;
    let prepared = load::prepare_path(py, &here, &config.pythonpath)
        // The application does not see our command line; where we started the interpreter it has this already.
        .and_then(|()| py.import("sys")?.setattr("argv", [config.application_name()]));
    prepared.map_err(|error| python_failure(py, &error))?;
    let forks = sys::forks();
    let found = match &config.paste {
        Some(file) => paste::load(py, file),
        None => load::load(py, config.application_name(), config.factory),
    };
    if sys::forks() != forks {
        log::error!("a process that the application forked while it was imported does not serve: it ends");
        leave_forked_child(py, Some(PySystemExit::new_err(Exit::NotImportable as i32)));
    }
    Ok(found?)
}

fn python_failure(py: Python<'_>, error: &PyErr) -> anyhow::Error {
    anyhow::Error::msg(crate::wsgi::traceback(py, error))
}

/// Says that requests are answered from now on.
pub fn announce(config: &Config, server: &Server) {
    let python = Python::version_str().split_whitespace().next().unwrap_or_default();
    let addresses: Vec<_> = server.addresses().iter().map(ToString::to_string).collect();
    log::info!(
        "maypole {} (CPython {python}), pid {}, listening on {}, pool size {}",
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
        addresses.join(", "),
        config.pool_size,
    );
}

/// The signals that the process understands.
struct Signals {
    /// A byte for each signal, and one when draining is over.
    wake: UnixStream,
    wake_write: UnixStream,
    terminate: Arc<AtomicBool>,
    quit: Arc<AtomicBool>,
    drained: Arc<AtomicBool>,
    registrations: Vec<SigId>,
}

/// What catches our signals: `signal-hook` installs it once in the life of a process, and a program may have put its own
/// handlers in its place since.
static CATCHING: OnceLock<[SignalAction; 3]> = OnceLock::new();

impl Signals {
    fn install(config: &Config) -> anyhow::Result<Self> {
        let (wake, wake_write) = UnixStream::pair().context("cannot make a socket pair")?;
        wake_write.set_nonblocking(true)?;
        let mut signals = Self {
            wake,
            wake_write,
            terminate: Arc::default(),
            quit: Arc::default(),
            drained: Arc::default(),
            registrations: Vec::new(),
        };
        Python::attach(|py| -> PyResult<()> {
            // Python's own handler would raise KeyboardInterrupt somewhere.
            let signal = stdlib::get(py)?.signal.bind(py);
            signal.call_method1("signal", (SIGINT, signal.getattr("SIG_DFL")?))?;
            Ok(())
        })?;
        for signal in SIGNALS {
            let flag = if signal == SIGQUIT { &signals.quit } else { &signals.terminate };
            let flagged = signal_hook::flag::register(signal, Arc::clone(flag))?;
            let woken = signal_hook::low_level::pipe::register(signal, signals.wake_write.try_clone()?)?;
            signals.registrations.extend([flagged, woken]);
        }
        let catching = CATCHING.get_or_init(|| SIGNALS.map(sys::signal_action));
        for (signal, action) in SIGNALS.into_iter().zip(catching) {
            sys::restore_signal_action(signal, action);
        }
        Python::attach(|py| dump_stacks_on_quit(py, config))?;
        Ok(signals)
    }

    /// Waits for the signal to stop, drains the server, and answers how the process ends.
    fn wait(mut self, config: &Config, server: &Server) -> Exit {
        thread::scope(|scope| {
            let mut draining = false;
            loop {
                let mut byte = [0];
                match self.wake.read(&mut byte) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                        // The application has a signal handler of its own; it runs on this thread.
                        Python::attach(|py| {
                            if let Err(error) = py.check_signals() {
                                log::error!("a signal handler failed:\n{}", crate::wsgi::traceback(py, &error));
                            }
                        });
                    }
                    Ok(1..) => {}
                    Ok(_) | Err(_) => return Exit::Failure,
                }
                if self.quit.swap(false, Ordering::SeqCst) {
                    log::info!("{}", server.serving());
                }
                if self.drained.load(Ordering::SeqCst) {
                    return Exit::Ok;
                }
                if self.terminate.swap(false, Ordering::SeqCst) {
                    if draining {
                        log::warn!("stopping at once: a second signal came");
                        leave_now(Exit::Ok);
                    }
                    draining = true;
                    log::info!("stopping: what runs may take {:?} more", config.graceful_timeout);
                    let (drained, mut wake) = (Arc::clone(&self.drained), &self.wake_write);
                    scope.spawn(move || {
                        if !server.drain(config.graceful_timeout) {
                            log::warn!("stopping although not everything has ended:\n{}", server.serving());
                            leave_now(Exit::Ok);
                        }
                        drained.store(true, Ordering::SeqCst);
                        // A full pipe wakes as well.
                        let _ = wake.write(&[0]);
                    });
                }
            }
        })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for registration in self.registrations.drain(..) {
            signal_hook::low_level::unregister(registration);
        }
    }
}

/// SIGQUIT writes what every Python thread is doing to the error log, in the signal handler itself: it works while the
/// application holds the GIL.
fn dump_stacks_on_quit(py: Python<'_>, config: &Config) -> PyResult<()> {
    let file = match &config.error_logfile {
        LogTarget::File(path) => open_for_append(py, path)?,
        LogTarget::Standard | LogTarget::None => py.import("sys")?.getattr("__stderr__")?,
    };
    if file.is_none() {
        return Ok(());
    }
    let options = PyDict::new(py);
    options.set_item("file", file)?;
    options.set_item("all_threads", true)?;
    options.set_item("chain", true)?;
    stdlib::get(py)?.faulthandler.bind(py).call_method("register", (SIGQUIT,), Some(&options)).map(drop)
}

fn open_for_append<'py>(py: Python<'py>, path: &Path) -> PyResult<Bound<'py, PyAny>> {
    py.import("builtins")?.call_method1("open", (path, "ab", 0))
}

/// Ends the process although calls may still run: the application's exit functions run, its threads do not matter.
fn leave_now(exit: Exit) -> ! {
    logs::flush();
    let (done, wait) = std::sync::mpsc::channel();
    thread::spawn(move || {
        Python::attach(|py| {
            let _ = py.run(c"import atexit; atexit._run_exitfuncs()", None, None);
            let _ = py.run(c"import sys; sys.stdout.flush(); sys.stderr.flush()", None, None);
        });
        let _ = done.send(());
    });
    // A call that computes without letting go of the GIL cannot keep the process alive.
    let _ = wait.recv_timeout(Duration::from_secs(2));
    sys::exit_now(exit as i32)
}
