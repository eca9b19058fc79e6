//! A server with its application, from the start to the end: what every process that serves does in the same order.
//!
//! *Owns*: the server, and the service that passes its requests to the application. *Runs on*: plain threads without
//! the GIL; any of them may begin the stop. *Invariants*: nothing here waits for the program or acts on a signal. What
//! is started here ends in `close`.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::listener::Listener;
use crate::logs::AccessLog;
use crate::pool::Pool;
use crate::server::{Server, Setup, Stop};
use crate::wsgi::{Application, Options, Service};
use crate::{config, memory, sys};

/// The target of the lines that every launcher logs. In a program it is their logger.
const TARGET: &str = "maypole::standalone";

/// How long connections that are cut off may take to close, and how long threads without a call may take to end.
const LAST_MOMENT: Duration = Duration::from_secs(1);
/// How long the threads may take to end if calls still run: their own threads do not end in time.
const LAST_MOMENT_OF_CALLS: Duration = Duration::from_millis(100);
/// `close` takes less than this.
pub(crate) const CLOSE_MAX: Duration = Duration::from_secs(3);
/// The interval at which `drain` calls its `look`.
const LOOK: Duration = Duration::from_millis(100);

/// A running server with its application.
pub(crate) struct Instance {
    server: Server,
    service: Arc<Service>,
    /// Whether the log says that it stops.
    stopping: AtomicBool,
}

/// What an instance is made of.
pub(crate) struct Parts {
    pub(crate) config: Arc<Config>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) application: Arc<Application>,
    pub(crate) access_log: Option<AccessLog>,
    /// `None`: a pool of its own, with as many permits as `--pool-size` says.
    pub(crate) pool: Option<Arc<Pool>>,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drained {
    /// Every request has ended.
    Wholly,
    /// The time was over before.
    Late,
    /// `look` ended the wait.
    Interrupted,
}

/// Returns the options of an application's calls: those that follow from the settings, and the rest of `program`.
/// `is_shared` says whether other processes serve on the same listeners.
pub(crate) fn options(config: &Config, access_log: Option<&AccessLog>, is_shared: bool, program: Options) -> Options {
    Options {
        access_log_environ: access_log.map(|log| log.environ_names().to_vec()).unwrap_or_default(),
        multithread: config.threads_max() > 1,
        multiprocess: is_shared,
        werkzeug_socket: config.werkzeug_socket,
        ..program
    }
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

impl Instance {
    /// Starts to serve.
    ///
    /// # Errors
    /// There are no descriptors or threads left, or `--spool-dir` was given and cannot be used.
    pub(crate) fn start(parts: Parts) -> anyhow::Result<Self> {
        let Parts { config, listeners, application, access_log, pool } = parts;
        memory::keep_freed();
        sys::start_runtime(config.stack_size.as_usize())?;
        let pool = pool.unwrap_or_else(|| Pool::new(config.pool_size));
        let service = Arc::new(Service::start(application, Arc::clone(&config), pool)?);
        let setup = Setup::new(config, listeners, service.clone());
        let server = Server::start(Setup { access_log, ..setup })?;
        Ok(Self { server, service, stopping: AtomicBool::new(false) })
    }

    /// Logs that requests are served from now on, by the interpreter `python`.
    pub(crate) fn announce(&self, python: &str) {
        let addresses: Vec<_> = self.server.addresses().iter().map(ToString::to_string).collect();
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

    /// Begins to stop: logs that, accepts no more connections, and lets running requests finish. Returns at once. Only
    /// the first call has an effect.
    pub(crate) fn begin_stop(&self, stop: &Stop) {
        if !self.stopping.swap(true, Ordering::SeqCst) {
            self.server.say_stopping(stop);
        }
        self.server.begin_drain();
    }

    /// Waits after `begin_stop` until every request has ended, at most until the end of `stop`. Calls `look` at once
    /// and then every 100 ms; a break ends the wait.
    pub(crate) fn drain(&self, stop: &Stop, mut look: impl FnMut() -> ControlFlow<()>) -> Drained {
        let end = stop.end();
        let mut next_look = Instant::now();
        while !self.server.wait_drained(end.min(next_look)) {
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

    /// Logs how the stop ended: that every request has ended, or which ones are cut off.
    pub(crate) fn say_end(&self, stop: &Stop, drained: bool) {
        if drained {
            self.server.say_stopped(stop);
        } else {
            self.server.say_cut_off(stop);
        }
    }

    /// Ends the connections that are left, frees what the server holds, and releases the application's threads. Takes
    /// at most `CLOSE_MAX`. Returns whether every call has ended.
    pub(crate) fn close(&self, drained: bool) -> bool {
        if !drained {
            self.server.cut(LAST_MOMENT);
        }
        self.server.close();
        self.service.stop(if drained { LAST_MOMENT } else { LAST_MOMENT_OF_CALLS })
    }
}
