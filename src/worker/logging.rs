//! Python's logging as the log of a stand-alone server (`--log-config`).
//!
//! *Owns*: the names of the loggers. *Runs on*: the main thread configures Python's logging. The thread of the log
//! delivers the lines, and may wait for the GIL and for handlers. *Invariants*: no other thread waits for either.

use std::time::UNIX_EPOCH;

use log::Level;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::config::Config;
use crate::executor::gate;
use crate::logs::{self, Line};
use crate::wsgi::load::LoadError;
use crate::{stdlib, wsgi};

/// The module that delivers the lines, once it is loaded.
static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

/// The loggers that the lines go to.
pub(super) struct Loggers {
    deliver: Py<PyAny>,
    error: String,
    access: String,
    /// The format of an access line, for Python.
    format: String,
}

impl Loggers {
    /// Configures Python's logging from the file that the settings name. (After `prepare_path`: handlers may be classes
    /// of the application.)
    ///
    /// # Errors
    /// The file cannot be read, or it is wrong.
    pub(super) fn configure(py: Python<'_>, config: &Config) -> anyhow::Result<Option<Self>> {
        let Some(file) = &config.logs.log_config else { return Ok(None) };
        let format = logs::format_for_python(config)?;
        let configured = || -> PyResult<Self> {
            stdlib::load(py, "json")?;
            let load = || {
                let code = pyo3::ffi::c_str!(include_str!("../../python/maypole/_logging.py"));
                PyModule::from_code(py, code, c"<maypole/_logging.py>", c"maypole_logging").map(Bound::unbind)
            };
            let module = MODULE.get_or_try_init(py, load)?.bind(py);
            let (error, access) = module.call_method1("configure", (file.as_os_str(),))?.extract()?;
            Ok(Self { deliver: module.getattr("deliver")?.unbind(), error, access, format: format.clone() })
        };
        let loggers = configured().map_err(|error| LoadError::Failed {
            message: format!("--log-config {}: Python's logging cannot be configured:", file.display()),
            traceback: wsgi::traceback(py, &error),
        })?;
        Ok(Some(loggers))
    }

    /// Logs through Python from now on.
    ///
    /// # Errors
    /// There is no thread left.
    pub(super) fn begin(self, config: &Config) -> anyhow::Result<()> {
        let take = move |lines: &mut dyn Iterator<Item = Line>| {
            let take_all = |py: Python<'_>| lines.for_each(|line| self.deliver(py, line));
            gate::attach(take_all).is_some()
        };
        logs::deliver_to(Box::new(take), config)
    }

    fn deliver(&self, py: Python<'_>, line: Line) {
        let (logger, format) = if line.is_access { (&self.access, Some(&self.format)) } else { (&self.error, None) };
        let level = match line.level {
            Level::Error => 40,
            Level::Warn => 30,
            Level::Info => 20,
            Level::Debug | Level::Trace => 10,
        };
        let created = line.created.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        if let Err(error) = self.deliver.call1(py, ((logger, level, line.message, created), format, line.atoms)) {
            // A handler of the file has failed, so this error cannot be logged.
            error.write_unraisable(py, None);
        }
    }
}

/// Takes the handlers that do not return out of Python's logging, which would wait for them at its end.
pub(super) fn leave_blocked_handlers(py: Python<'_>) {
    if let Some(module) = MODULE.get(py)
        && let Err(error) = module.bind(py).call_method0("leave_blocked_handlers")
    {
        error.write_unraisable(py, None);
    }
}
