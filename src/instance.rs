//! A server with its applications, from start to end: the steps that every serving process takes in the same order.
//!
//! *Owns*: the server, and the service that passes its requests to the applications. *Runs on*: plain threads without
//! the GIL; any of them may begin the stop. *Invariants*: nothing here waits for the program or acts on a signal.
//! `close` ends everything that `start` has started.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::config::{Config, Site};
use crate::files::{Files, NamedFiles};
use crate::handler::Handler;
use crate::listener::Listener;
use crate::logs::AccessLog;
use crate::pool::Pool;
use crate::scoreboard::Slot;
use crate::server::{Server, Setup, Stop};
use crate::tls::{Certificates, Seed, Voice};
use crate::wsgi::{Application, Options, Service};
use crate::{config, memory, sites, sys, wsgi};

/// The target of the log lines that every launcher writes. In a program, it is their logger.
const TARGET: &str = "maypole::standalone";

/// Connections that are cut off may take this long to close. Threads may take this long to end if no call runs.
const LAST_MOMENT: Duration = Duration::from_secs(1);
/// If calls still run, the threads may take only this long to end, because threads with a call do not end in time
/// anyway.
const LAST_MOMENT_OF_CALLS: Duration = Duration::from_millis(100);
/// An upper bound of the time that `close` takes.
pub(crate) const CLOSE_MAX: Duration = Duration::from_secs(3);
/// The interval at which `drain` calls its `look`.
const LOOK: Duration = Duration::from_millis(100);

/// A running server with its applications.
pub(crate) struct Instance {
    server: Server,
    /// `None`: there is no application.
    service: Option<Arc<Service>>,
    certificates: Option<Arc<Certificates>>,
    /// Whether the stop has begun and was logged.
    stopping: AtomicBool,
}

/// The parts of an instance.
pub(crate) struct Parts {
    pub(crate) config: Arc<Config>,
    pub(crate) listeners: Vec<Listener>,
    /// In the order of `Config::sites`. Without one, only files are served.
    pub(crate) applications: Vec<Arc<Application>>,
    pub(crate) access_log: Option<AccessLog>,
    /// `None`: the instance makes its own pool, with as many permits as `--pool-size` says.
    pub(crate) pool: Option<Arc<Pool>>,
    /// The slot in which the process shows what it does. `None`: it shows nothing.
    pub(crate) slot: Option<Slot>,
    /// The certificates of TLS. `None`: no listener speaks TLS.
    pub(crate) certificates: Option<Arc<Certificates>>,
    /// Whether a supervisor watches the process.
    pub(crate) is_worker: bool,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drained {
    /// Every request has ended.
    Wholly,
    /// The time was over before every request had ended.
    Late,
    /// `look` ended the wait.
    Interrupted,
}

/// Returns the options of an application's calls. Options that follow from the settings replace those of `program`.
/// `is_shared` says whether other processes serve on the same listeners.
fn options(config: &Config, site: Site, access_log: Option<&AccessLog>, is_shared: bool, program: Options) -> Options {
    Options {
        access_log_environ: access_log.map(|log| log.environ_names().to_vec()).unwrap_or_default(),
        multithread: config.threads_max() > 1,
        multiprocess: is_shared,
        werkzeug_socket: config.werkzeug_socket,
        request_interrupt: config.request_interrupt,
        request_id_header: config.logs.request_id_header.clone(),
        prefix: sites::path(config, site),
        ..program
    }
}

/// Prepares the calls of the applications, which are in the order of `Config::sites`. `environ` has the program's
/// entries of every environ.
pub(crate) fn applications(
    py: Python<'_>,
    callables: Vec<Py<PyAny>>,
    config: &Config,
    access_log: Option<&AccessLog>,
    is_shared: bool,
    environ: &[(String, Py<PyAny>)],
    headers_raw: bool,
) -> PyResult<Vec<Arc<Application>>> {
    let named_files = NamedFiles::new(config);
    let prepared = config.sites().zip(callables).map(|(site, callable)| {
        let environ = environ.iter().map(|(key, value)| (key.clone(), value.clone_ref(py))).collect();
        let program = Options { environ, headers_raw, named_files: named_files.clone(), ..Options::default() };
        Application::new(py, callable, options(config, site, access_log, is_shared, program))
    });
    prepared.collect()
}

/// Returns a sentence for each environment variable that looks like a setting but is not one. No other thread may
/// change the environment meanwhile.
pub(crate) fn unknown_variables() -> Vec<String> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    config::unknown_variables(std::env::vars_os().map(|(name, value)| (text(name), text(value))))
}

/// Warns of the variables that `unknown_variables` finds.
pub(crate) fn warn_of_variables() {
    for sentence in unknown_variables() {
        log::warn!(target: TARGET, "{sentence}");
    }
}

/// Logs which configuration file the settings come from, and which of its lines have no effect. Names a file that users
/// of gunicorn expect to be read.
pub(crate) fn announce_file(config: &Config) {
    // The list of remarks names the file.
    if let Some(file) = config.file().filter(|file| file.remarks.is_empty()) {
        log::info!(target: TARGET, "settings from {}", file.name);
    }
    for sentence in config.file_warnings() {
        log::warn!(target: TARGET, "{sentence}");
    }
}

impl Instance {
    /// Starts to serve.
    ///
    /// # Errors
    /// There are no descriptors or threads left, or `--spool-dir` was given and cannot be used.
    pub(crate) fn start(parts: Parts) -> anyhow::Result<Self> {
        let Parts { config, listeners, applications, access_log, pool, slot, certificates, is_worker } = parts;
        memory::keep_freed();
        sys::start_runtime(config.stack_size.as_usize())?;
        slot.iter().filter(|_| is_worker).cloned().for_each(wsgi::note_requests);
        let service = if applications.is_empty() {
            None
        } else {
            let pool = pool.unwrap_or_else(|| Pool::new(config.pool_size));
            Some(Arc::new(Service::start(applications, Arc::clone(&config), pool)?))
        };
        if let Some(certificates) = &certificates {
            // Of several workers, the first writes to the log what it does with the certificates.
            let is_first = !is_worker || slot.as_ref().is_none_or(|slot| slot.number() == 1);
            certificates.watch(if is_first { Voice::Loud } else { Voice::Quiet })?;
        }
        let handler = Files::before(service.clone().map(|service| service as Arc<dyn Handler>), &config);
        let setup = Setup::new(config, listeners, handler);
        let server = Server::start(Setup { access_log, certificates: certificates.clone(), slot, is_worker, ..setup })?;
        Ok(Self { server, service, certificates, stopping: AtomicBool::new(false) })
    }

    /// Logs that the interpreter `python` serves requests from now on.
    pub(crate) fn announce(&self, python: &str) {
        let addresses: Vec<_> = self.server.urls().collect();
        log::info!(
            target: TARGET,
            "maypole {} ({}), pid {}, listening on {}, pool size {}",
            env!("CARGO_PKG_VERSION"),
            python,
            std::process::id(),
            addresses.join(", "),
            self.server.numbers().permits.map_or(0, |permits| permits.size),
        );
    }

    /// Returns the server.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Returns what the keys of tickets are derived from. `None`: no listener speaks TLS.
    pub(crate) fn seed(&self) -> Option<&Seed> {
        self.certificates.as_deref().map(Certificates::seed)
    }

    /// Returns whether the server begins to stop or has stopped.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Begins to stop: logs this, accepts no more connections, and lets running requests finish. Returns at once. Only
    /// the first call has an effect.
    pub(crate) fn begin_stop(&self, stop: &Stop) {
        if !self.stopping.swap(true, Ordering::SeqCst) {
            self.server.say_stopping(stop);
        }
        self.server.begin_drain();
    }

    /// Waits after `begin_stop` until the listeners have closed and no idle connection is left. Otherwise like `drain`.
    pub(crate) fn leave(&self, stop: &Stop, look: impl FnMut() -> ControlFlow<()>) -> Drained {
        Self::wait(stop, look, |end| self.server.wait_left(end))
    }

    /// Waits after `begin_stop` until every request has ended, at most until the end of `stop`. Calls `look` at once
    /// and then every 100 ms. If `look` returns a break, the wait ends.
    pub(crate) fn drain(&self, stop: &Stop, look: impl FnMut() -> ControlFlow<()>) -> Drained {
        Self::wait(stop, look, |end| {
            self.server.end_suspended_before(stop.end());
            self.server.wait_drained(end)
        })
    }

    fn wait(stop: &Stop, mut look: impl FnMut() -> ControlFlow<()>, is_over: impl Fn(Instant) -> bool) -> Drained {
        let end = stop.end();
        let mut next_look = Instant::now();
        while !is_over(end.min(next_look)) {
            if Instant::now() >= end {
                return Drained::Late;
            }
            if look().is_break() {
                return Drained::Interrupted;
            }
            next_look = Instant::now() + LOOK;
        }
        Drained::Wholly
    }

    /// Logs how the stop ended: every request has ended, or some requests are cut off.
    pub(crate) fn say_end(&self, stop: &Stop, drained: bool) {
        if drained {
            self.server.say_stopped(stop);
        } else {
            self.server.say_cut_off(stop);
        }
    }

    /// Ends the remaining connections, frees what the server holds, and releases the application's threads. Takes at
    /// most `CLOSE_MAX`. Returns whether every call has ended.
    pub(crate) fn close(&self, drained: bool) -> bool {
        if !drained {
            self.server.cut(LAST_MOMENT);
        }
        self.server.close();
        let limit = if drained { LAST_MOMENT } else { LAST_MOMENT_OF_CALLS };
        self.service.as_ref().is_none_or(|service| service.stop(limit))
    }
}
