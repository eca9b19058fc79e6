//! `Server`, the native class below the Python part of the package. That part passes descriptors and settings.

use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::logging;
use super::pool::Pool;
use crate::config::{Config, DURATION_MAX, Keyword, KeywordError, LogTarget};
use crate::embedded::Embedded;
use crate::executor::gate;
use crate::interpreter;
use crate::listener::{BoundAddress, Listener};
use crate::logs::{AccessLog, Entry};
use crate::server::Lost;
use crate::spool;
use crate::sys::{self, Stays};
use crate::worker::warn_of_variables;
use crate::wsgi::{self, Application, Options};

/// Reports unknown environment variables at the first start in the process.
static UNKNOWN_VARIABLES: Once = Once::new();

/// The interval at which a wait checks for a signal that the kernel has delivered to another thread.
const SLICE: Duration = Duration::from_millis(250);

/// One server. Its constructor binds the address.
#[pyclass(frozen, module = "maypole._native", weakref)]
pub(super) struct Server {
    server: Arc<Embedded>,
    /// The program's objects for each start; `None` after the garbage collector has cleared them.
    parts: Mutex<Option<Parts>>,
}

/// The program's objects.
struct Parts {
    application: Py<PyAny>,
    environ: Option<Py<PyDict>>,
    on_access: Option<Py<PyAny>>,
    headers_raw: bool,
}

impl Server {
    /// Returns the program's objects, unless they have been cleared.
    fn parts(&self, py: Python<'_>) -> Option<Parts> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.as_ref().map(|parts| Parts {
            application: parts.application.clone_ref(py),
            environ: parts.environ.as_ref().map(|environ| environ.clone_ref(py)),
            on_access: parts.on_access.as_ref().map(|on_access| on_access.clone_ref(py)),
            headers_raw: parts.headers_raw,
        })
    }
}

/// One finished request, the argument of `on_access`.
#[pyclass(frozen, get_all, module = "maypole")]
pub(super) struct AccessEntry {
    /// The client's address; empty for a unix socket.
    client_ip: String,
    /// The client's port; 0 for a unix socket.
    client_port: u16,
    /// The request line as the client sent it: `GET /cart?page=2 HTTP/1.1`.
    request_line: String,
    /// The method: `GET`.
    method: String,
    /// The path as the client sent it: `/cart`.
    path: String,
    /// The query string without `?`: `page=2`.
    query: String,
    /// The client's version of HTTP: `HTTP/1.1`.
    protocol: &'static str,
    /// The status of the response.
    status: u16,
    /// Whether the whole response was sent.
    complete: bool,
    /// The number of sent bytes of the response's body, without framing.
    body_bytes: u64,
    /// The number of all sent bytes, head and framing included.
    wire_bytes: u64,
    /// Seconds from the request's first byte to the response's last.
    duration: f64,
    /// Seconds inside the application.
    application_seconds: f64,
    /// The time of its end, in seconds since 1970.
    ended: f64,
    /// The value of X-Forwarded-For, or None. Characters that are not printable ASCII are escaped.
    forwarded_for: Option<String>,
}

impl AccessEntry {
    pub(super) fn new(entry: &Entry<'_>) -> Self {
        let text = |bytes: &[u8]| bytes.iter().map(|&byte| char::from(byte)).collect::<String>();
        Self {
            client_ip: entry.remote.map(|remote| remote.ip().to_canonical().to_string()).unwrap_or_default(),
            client_port: entry.remote.map_or(0, |remote| remote.port()),
            request_line: text(entry.request_line),
            method: text(entry.method),
            path: text(entry.path),
            query: text(entry.query),
            protocol: entry.protocol,
            status: entry.status,
            complete: entry.complete,
            body_bytes: entry.body_bytes,
            wire_bytes: entry.wire_bytes,
            duration: entry.duration.as_secs_f64(),
            application_seconds: entry.application.as_secs_f64(),
            ended: entry.ended.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            // Only this value may have bytes beyond ASCII, so escape it for the log.
            forwarded_for: (entry.request_field)(b"x-forwarded-for").map(|field| field.escape_ascii().to_string()),
        }
    }
}

/// Converts a program's seconds to a duration. A negative number and NaN become zero.
pub(super) fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(DURATION_MAX).min(DURATION_MAX)
}

/// Waits without the GIL, in slices. Between two slices, on the main thread, Python's signal handlers run. Returns an
/// exception of a handler, otherwise the result of the last slice.
pub(super) fn wait_in_slices(
    py: Python<'_>,
    timeout: Option<Duration>,
    slice: impl Fn(Duration) -> bool + Send + Sync,
) -> PyResult<bool> {
    let end = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = end.map_or(SLICE, |end| end.saturating_duration_since(Instant::now()).min(SLICE));
        let done = py.detach(|| slice(left));
        py.check_signals()?;
        if done || end.is_some_and(|end| Instant::now() >= end) {
            return Ok(done);
        }
    }
}

/// Makes a `TypeError` for an unknown name, which is a mistake in the program, or a `ValueError` for a wrong value.
pub(super) fn setting_error(error: &KeywordError) -> PyErr {
    match error {
        KeywordError::Unknown { .. } | KeywordError::Foreign(_) | KeywordError::CommandLineOnly { .. } => {
            PyTypeError::new_err(error.to_string())
        }
        KeywordError::Invalid(_) => PyValueError::new_err(error.to_string()),
    }
}

/// Returns the entries that a program adds to every request's environ.
pub(super) fn entries(environ: Option<&Bound<'_, PyDict>>) -> PyResult<Vec<(String, Py<PyAny>)>> {
    let entries = environ.into_iter().flatten();
    entries.map(|(key, value)| Ok((key.extract()?, value.unbind()))).collect()
}

/// Converts an error of the system to Python's `OSError`, with its number.
pub(super) fn os_error(error: &anyhow::Error) -> PyErr {
    let number = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
    let sentence = sys::plain(error.as_ref());
    match number {
        Some(number) => PyOSError::new_err((number, sentence)),
        None => PyOSError::new_err(sentence),
    }
}

#[pymethods]
impl Server {
    /// Makes a server. `sockets` are descriptors of listening sockets, which the server duplicates. Without them it
    /// binds the addresses of the setting `bind`.
    #[new]
    #[pyo3(signature = (application, sockets, settings, pool=None, environ=None, on_access=None, headers_raw=false))]
    #[allow(clippy::needless_pass_by_value, reason = "what Python gives is made for this call")]
    fn new(
        application: Py<PyAny>,
        sockets: Vec<i32>,
        settings: Vec<Keyword>,
        pool: Option<PyRef<'_, Pool>>,
        environ: Option<Py<PyDict>>,
        on_access: Option<Py<PyAny>>,
        headers_raw: bool,
    ) -> PyResult<Self> {
        let config = Config::from_keywords(&settings).map_err(|error| setting_error(&error))?;
        if config.spool_dir_given {
            spool::check(&config.spool_dir).map_err(|error| PyValueError::new_err(error.as_keyword()))?;
        }
        let mut listeners = Vec::new();
        if sockets.is_empty() {
            listeners = Listener::bind_configured(&config).map_err(|error| os_error(&error))?;
        }
        for fd in sockets {
            let bound = sys::duplicate_descriptor(fd).map_err(anyhow::Error::from).and_then(Listener::adopt);
            listeners.push(bound.map_err(|error| os_error(&error.context(format!("cannot use descriptor {fd}"))))?);
        }
        let server = Embedded::new(config, listeners, pool.map(|pool| Arc::clone(pool.pool())));
        Ok(Self { server, parts: Mutex::new(Some(Parts { application, environ, on_access, headers_raw })) })
    }

    /// Starts the server and returns.
    fn start(&self, py: Python<'_>) -> PyResult<()> {
        let _stays = Stays::here();
        let config = self.server.config();
        logging::install(py, config.log_level).map_err(|error| PyRuntimeError::new_err(sys::plain(error.as_ref())))?;
        UNKNOWN_VARIABLES.call_once(warn_of_variables);
        // Hold no lock from here on: while Python code runs, another thread with the GIL could wait for that lock.
        let Some(parts) = self.parts(py) else { return Err(PyRuntimeError::new_err("the server is closed")) };
        let access_log = access_log(config, parts.on_access)?;
        let environ = entries(parts.environ.as_ref().map(|environ| environ.bind(py)))?;
        let options = Options {
            access_log_environ: access_log.as_ref().map(|log| log.environ_names().to_vec()).unwrap_or_default(),
            multithread: config.threads > 1,
            multiprocess: self.server.is_shared(),
            environ,
            headers_raw: parts.headers_raw,
            werkzeug_socket: config.werkzeug_socket,
            ..Options::default()
        };
        let application = Application::new(py, parts.application, options)?;
        let python = interpreter::description(py);
        let started = py.detach(|| self.server.start(application, access_log, &python));
        started.map_err(|error| match error.downcast_ref::<std::io::Error>() {
            Some(_) => os_error(&error),
            None => PyRuntimeError::new_err(sys::plain(error.as_ref())),
        })
    }

    /// Stops the server and waits until it has stopped. The log names `who` as the reason. Running requests may take
    /// `timeout` seconds more. Returns whether all of them finished by themselves.
    fn stop(&self, py: Python<'_>, timeout: Option<f64>, who: &str) -> PyResult<bool> {
        let _stays = Stays::here();
        let timeout = timeout.map(duration);
        let mut error = None;
        let stopped = py.detach(|| {
            self.server.stop(timeout, who, || {
                // During the interpreter's exit there are no loggers and no signal handlers.
                let looked = gate::attach(|py| {
                    logging::deliver(py);
                    error = py.check_signals().err();
                    error.is_some()
                });
                looked.unwrap_or(false)
            })
        });
        logging::flush(py);
        error.map_or(Ok(stopped), Err)
    }

    /// Waits until the server has stopped, at most `timeout` seconds. Returns whether it has stopped.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let done = |slice| self.server.wait(slice) || self.server.lost().is_some();
        let done = wait_in_slices(py, timeout.map(duration), done)?;
        match self.server.lost() {
            Some(Lost { sentence, os_error: Some(number) }) => Err(PyOSError::new_err((number, sentence))),
            Some(Lost { sentence, os_error: None }) => Err(PyOSError::new_err(sentence)),
            None => Ok(done),
        }
    }

    /// Closes the sockets of a server that does not run.
    fn close(&self) {
        self.server.close();
    }

    /// Sets the pool's size to that at the construction of the server.
    fn reset(&self) {
        self.server.reset_pool();
    }

    /// The state of the server, as one word.
    #[getter]
    fn state(&self) -> &'static str {
        self.server.phase().name()
    }

    /// The descriptors of the listening sockets.
    #[getter]
    fn filenos(&self) -> Vec<i32> {
        self.server.listeners().into_iter().map(|(fd, _)| fd).collect()
    }

    /// The addresses of the server: `http://127.0.0.1:8000`, `unix:/path`.
    #[getter]
    fn addresses(&self) -> Vec<String> {
        self.server.listeners().into_iter().map(|(_, address)| address.to_string()).collect()
    }

    /// The host and port of each address; the path and 0 for a unix socket.
    #[getter]
    fn hosts(&self) -> Vec<(String, u16)> {
        let hosts = self.server.listeners().into_iter().map(|(_, address)| match address {
            BoundAddress::Tcp(address) => (address.ip().to_string(), address.port()),
            BoundAddress::Unix(path) => (path.display().to_string(), 0),
            BoundAddress::Abstract(name) => (format!("@{name}"), 0),
        });
        hosts.collect()
    }

    /// Every setting with its value, as text.
    #[getter]
    fn settings(&self) -> Vec<(&'static str, String)> {
        self.server.config().settings()
    }

    /// Returns the server's counters; docs/reference/stats.md describes them.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = PyDict::new(py);
        let pool = self.server.pool();
        let numbers = self.server.numbers();
        stats.set_item("state", self.state())?;
        for (name, number) in [
            ("connections", numbers.server.connections),
            ("idle", numbers.server.idle),
            ("requests", numbers.server.requests),
            ("hijacked", numbers.server.hijacked),
            ("coroutines", numbers.server.coroutines),
            ("threads", numbers.executor.threads),
            ("threads_running", numbers.executor.running),
            ("queued", numbers.executor.queued),
            ("pool_size", pool.size()),
            ("pool_taken", pool.taken()),
        ] {
            stats.set_item(name, number)?;
        }
        stats.set_item("served", numbers.served)?;
        stats.set_item("abandoned", numbers.abandoned)?;
        stats.set_item("late", numbers.late)?;
        stats.set_item("hijacked_total", numbers.server.hijacked_total)?;
        Ok(stats)
    }

    /// Returns a report: the server's load, the requests of all servers of this process, and the stacks of all threads.
    fn report(&self, py: Python<'_>) -> PyResult<String> {
        let (summary, served) = py.detach(|| {
            let served = Embedded::all().iter().flat_map(|server| server.serving()).collect();
            (self.server.summary(), served)
        });
        Ok(format!("{summary}\n{}", wsgi::report(py, served, false)?))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Ok(parts) = self.parts.try_lock() else { return Ok(()) };
        if let Some(parts) = &*parts {
            visit.call(&parts.application)?;
            visit.call(&parts.environ)?;
            visit.call(&parts.on_access)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        if let Ok(mut parts) = self.parts.try_lock() {
            *parts = None;
        }
    }
}

/// Makes the access log for the settings and the program's `on_access`. `-` means the logger `maypole.access`.
fn access_log(config: &Config, on_access: Option<Py<PyAny>>) -> PyResult<Option<AccessLog>> {
    let failed = |error: anyhow::Error| PyValueError::new_err(sys::plain(error.as_ref()));
    let lines = match &config.access_logfile {
        LogTarget::Standard => {
            let log = AccessLog::taken_by(Arc::new(logging::access_line), &config.access_logformat);
            Some(log.map_err(|error| failed(error.into()))?)
        }
        target => AccessLog::new(target, &config.access_logformat).map_err(failed)?,
    };
    let Some(on_access) = on_access.map(Arc::new) else { return Ok(lines) };
    let observer = Arc::new(move |entry: &Entry<'_>| logging::access_entry(&on_access, AccessEntry::new(entry)));
    Ok(Some(lines.unwrap_or_default().observed_by(observer)))
}
