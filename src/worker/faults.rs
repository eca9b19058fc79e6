//! Python's module `faulthandler`, which writes the stacks of all Python threads into the error log.
//!
//! *Owns*: the file that it writes to, and whether it is enabled for the server. *Runs on*: the main thread. The module's
//! handlers run on any thread, and need no GIL. *Invariants*: a signal that ends the process still ends it, with the
//! same status. A program or an application that has enabled the module itself keeps its own settings.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use signal_hook::consts::SIGQUIT;

use crate::config::{Config, LogTarget};
use crate::sys::SignalAction;
use crate::{logs, stdlib, sys};

/// Writes the stacks of all Python threads, without the GIL: the module's handler of SIGQUIT.
#[derive(Debug)]
pub(super) struct Stacks(SignalAction);

impl Stacks {
    /// Writes the stacks. (Any thread.)
    #[allow(unsafe_code, reason = "calls a function of Python")]
    pub(super) fn write(&self) {
        // SAFETY: a module that is written in C is never unloaded.
        unsafe { self.0.run_handler() };
    }
}

/// The fault handler, with the file that it writes to.
pub(super) struct Faults {
    file: Py<PyAny>,
    /// Whether the server has enabled it. Otherwise, the program or the environment has.
    is_ours: bool,
}

impl Faults {
    /// Makes a signal that ends the process, such as SIGSEGV, write the stacks first. `None` if there is no file to write
    /// to. Call it before the application is imported, and before the runtime starts.
    ///
    /// # Errors
    /// Python is out of memory.
    pub(super) fn enable(py: Python<'_>, config: &Config) -> PyResult<Option<Self>> {
        // The log's own descriptor stays the same when the log is opened again.
        let file = match (&config.error_logfile, logs::error_descriptor()) {
            (LogTarget::File(_), Some(number)) => number.into_pyobject(py)?.into_any(),
            _ => py.import("sys")?.getattr("__stderr__")?,
        };
        if file.is_none() {
            return Ok(None);
        }
        let module = stdlib::get(py)?.faulthandler.bind(py);
        let is_ours = !module.call_method0("is_enabled")?.is_truthy()?;
        let faults = Self { file: file.unbind(), is_ours };
        if is_ours {
            module.call_method("enable", (), Some(&faults.options(py)?))?;
            // The module has given the thread a stack for handlers that has room for few of them.
            sys::enlarge_signal_stack();
        }
        Ok(Some(faults))
    }

    /// Returns what writes the stacks and lets the process go on. The action of SIGQUIT stays as it was.
    pub(super) fn prepare_report(&self, py: Python<'_>) -> PyResult<Stacks> {
        let before = SignalAction::current(SIGQUIT);
        let module = stdlib::get(py)?.faulthandler.bind(py);
        module.call_method("register", (SIGQUIT,), Some(&self.options(py)?))?;
        let stacks = SignalAction::current(SIGQUIT);
        before.restore();
        Ok(Stacks(stacks))
    }

    /// Makes the module release the file. The program continues without the server.
    pub(super) fn end(&self, py: Python<'_>) -> PyResult<()> {
        let module = stdlib::get(py)?.faulthandler.bind(py);
        module.call_method1("unregister", (SIGQUIT,))?;
        if self.is_ours {
            module.call_method0("disable")?;
        }
        Ok(())
    }

    fn options<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let options = PyDict::new(py);
        options.set_item("file", &self.file)?;
        options.set_item("all_threads", true)?;
        Ok(options)
    }
}
