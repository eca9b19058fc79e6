//! `Server`, the native class behind the Python class `maypole.Server`, which passes it descriptors and settings.

use std::sync::Arc;

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::access::access_log;
use super::convert::{duration, entries, os_error, setting_error, wait_in_slices};
use super::logging;
use super::pool::Pool;
use crate::config::{Config, Keyword};
use crate::embedded::{self, Embedded};
use crate::executor::gate;
use crate::interpreter;
use crate::listener::{BoundAddress, Listener};
use crate::server::Lost;
use crate::spool;
use crate::sys::{self, Lock, Stays};
use crate::tls::Certificates;
use crate::{instance, wsgi};

/// One server. Its constructor binds the address.
#[pyclass(frozen, module = "maypole._native", weakref)]
pub(super) struct Server {
    server: Arc<Embedded>,
    /// The program's objects for each start; `None` after the garbage collector has cleared them.
    parts: Lock<Option<Parts>>,
}

/// The program's objects.
struct Parts {
    /// In the order of `Config::sites`.
    applications: Vec<Py<PyAny>>,
    environ: Option<Py<PyDict>>,
    on_access: Option<Py<PyAny>>,
    headers_raw: bool,
}

impl Server {
    /// Waits, without the GIL, until a start has ended. A request may ask about the server before `start` has returned.
    fn settle(&self, py: Python<'_>) {
        if self.server.is_starting() {
            py.detach(|| self.server.settle());
        }
    }

    /// Returns the program's objects, unless they have been cleared.
    fn parts(&self, py: Python<'_>) -> Option<Parts> {
        let parts = self.parts.lock();
        parts.as_ref().map(|parts| Parts {
            applications: parts.applications.iter().map(|application| application.clone_ref(py)).collect(),
            environ: parts.environ.as_ref().map(|environ| environ.clone_ref(py)),
            on_access: parts.on_access.as_ref().map(|on_access| on_access.clone_ref(py)),
            headers_raw: parts.headers_raw,
        })
    }
}

#[pymethods]
impl Server {
    /// Makes a server. `sockets` are descriptors of listening sockets, which the server duplicates. Without them it
    /// binds the addresses of the setting `bind`.
    #[new]
    #[pyo3(signature = (
        application, sockets, settings, pool=None, environ=None, on_access=None, headers_raw=false, mounts=Vec::new()
    ))]
    #[allow(clippy::needless_pass_by_value, reason = "what Python gives is made for this call")]
    #[allow(clippy::too_many_arguments, reason = "only the class in Python calls it")]
    fn new(
        application: Py<PyAny>,
        sockets: Vec<i32>,
        settings: Vec<Keyword>,
        pool: Option<PyRef<'_, Pool>>,
        environ: Option<Py<PyDict>>,
        on_access: Option<Py<PyAny>>,
        headers_raw: bool,
        mounts: Vec<(String, Py<PyAny>)>,
    ) -> PyResult<Self> {
        let (paths, mounted): (Vec<_>, Vec<_>) = mounts.into_iter().unzip();
        let config = Config::from_keywords(&settings).and_then(|config| config.with_mounts(&paths));
        let config = config.map_err(|error| setting_error(&error))?;
        let applications = std::iter::once(application).chain(mounted).collect();
        if config.spool_dir_given {
            spool::check(&config.spool_dir).map_err(|error| PyValueError::new_err(error.as_keyword()))?;
        }
        let certificates =
            Certificates::load(&config.tls, None).map_err(|error| PyValueError::new_err(error.as_keywords()))?;
        let mut listeners = Vec::new();
        if sockets.is_empty() {
            listeners = Listener::bind_configured(&config).map_err(|error| os_error(&error))?;
        }
        for fd in sockets {
            #[allow(unsafe_code, reason = "pyo3 glue: a descriptor that Python owns")]
            // SAFETY: the program has a socket with this number, and waits for the end of this call.
            let copy = unsafe { sys::duplicate_descriptor(fd) };
            let bound = copy
                .map_err(anyhow::Error::from)
                .and_then(Listener::adopt)
                .map(|bound| bound.with_tls(config.tls.is_used()));
            listeners.push(bound.map_err(|error| os_error(&error.context(format!("cannot use descriptor {fd}"))))?);
        }
        let server = Embedded::new(config, listeners, pool.map(|pool| Arc::clone(pool.pool())), certificates);
        Ok(Self { server, parts: Lock::new(Some(Parts { applications, environ, on_access, headers_raw })) })
    }

    /// Starts the server and returns.
    fn start(&self, py: Python<'_>) -> PyResult<()> {
        let _stays = Stays::here();
        let config = self.server.config();
        logging::install(py, config.log_level).map_err(|error| PyRuntimeError::new_err(sys::plain(error.as_ref())))?;
        embedded::warn_of_variables();
        // Hold no lock from here on: while Python code runs, another thread with the GIL could wait for that lock.
        let Some(parts) = self.parts(py) else { return Err(PyRuntimeError::new_err("the server is closed")) };
        let access_log = access_log(config, parts.on_access)?;
        let environ = entries(parts.environ.as_ref().map(|environ| environ.bind(py)))?;
        let (is_shared, callables) = (self.server.is_shared(), parts.applications);
        let log = access_log.as_ref();
        let applications = instance::applications(py, callables, config, log, is_shared, &environ, parts.headers_raw)?;
        let python = interpreter::description(py);
        let started = py.detach(|| self.server.start(applications, access_log, &python));
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
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.server.close());
    }

    /// Sets the pool's size back to the size at the construction of the server.
    fn reset(&self) {
        self.server.reset_pool();
    }

    /// The state of the server, as one word.
    #[getter]
    fn state(&self, py: Python<'_>) -> &'static str {
        self.settle(py);
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
        self.server.urls()
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

    /// Every setting of the server with its value, as text.
    #[getter]
    fn settings(&self) -> Vec<(&'static str, String)> {
        self.server.config().keyword_settings()
    }

    /// Returns the server's counters; docs/reference/stats.md describes them.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = PyDict::new(py);
        stats.set_item("state", self.state(py))?;
        for (name, number) in self.server.numbers().published() {
            stats.set_item(name, number)?;
        }
        Ok(stats)
    }

    /// Returns a report: the server's load, the requests of all servers of this process, and the stacks of all threads.
    fn report(&self, py: Python<'_>) -> PyResult<String> {
        let (summary, served) = py.detach(|| {
            self.server.settle();
            let served = Embedded::all().iter().flat_map(|server| server.requests()).collect();
            (self.server.summary(), served)
        });
        Ok(format!("{summary}\n{}", wsgi::report(py, served, false)?))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(parts) = self.parts.try_lock() else { return Ok(()) };
        if let Some(parts) = &*parts {
            parts.applications.iter().try_for_each(|application| visit.call(application))?;
            visit.call(&parts.environ)?;
            visit.call(&parts.on_access)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        if let Some(mut parts) = self.parts.try_lock() {
            *parts = None;
        }
    }
}
