//! Python's module `faulthandler`, which writes the stacks of all Python threads into the error log.
//!
//! *Owns*: the file that it writes to, and whether it is enabled for the server. *Runs on*: the main thread. The module's
//! handlers run on any thread, and need no GIL. *Invariants*: a signal that ends the process still ends it, with the
//! same status. A program or an application that has enabled the module itself keeps its own settings.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use signal_hook::consts::SIGQUIT;

use crate::config::{Config, LogTarget};
use crate::sys::{self, Lock, SignalAction};
use crate::{logs, stdlib};

/// The signal whose handler writes the stacks into memory. Its action stays as it was, so the signal itself has no part
/// in this: the module knows each file by a signal. Hardly any program uses the last signal of the system.
const SIGNAL_OF_MEMORY: i32 = 64;
/// How long writing the stacks may take.
const COPY_MAX: Duration = Duration::from_millis(100);
/// The same if they go to the error log, whose reader may be slow.
const WRITE_MAX: Duration = Duration::from_secs(5);

/// Writes the stacks of all Python threads, without the GIL: the module's handler of SIGQUIT.
///
/// It runs in a copy of the process, as that of `FrozenStacks` does. At the end of Python, the module also frees what its
/// handler reads.
#[derive(Debug)]
pub(super) struct Stacks(SignalAction);

impl Stacks {
    /// Writes the stacks. (Any thread.)
    #[allow(unsafe_code, reason = "calls a function of Python")]
    pub(super) fn write(&self) {
        // SAFETY: a module that is written in C is never unloaded, and its handler is one of a signal.
        let written = unsafe { sys::run_in_copy(WRITE_MAX, || self.0.run_handler()) };
        if let Err(error) = written {
            log::warn!("the stacks of Python's threads cannot be written: {}", sys::plain(&error));
        }
    }
}

/// Reads the stacks of all Python threads without the GIL: the module's handler, with a file in memory.
///
/// Python's threads may run meanwhile, and change what the handler reads. So the handler runs in a copy of the process,
/// in which no other thread runs and which may crash.
#[derive(Debug)]
pub(super) struct FrozenStacks {
    handler: SignalAction,
    file: Lock<File>,
}

impl FrozenStacks {
    /// Prepares the handler.
    ///
    /// # Errors
    /// There is no descriptor left, or Python is out of memory.
    pub(super) fn prepare(py: Python<'_>) -> PyResult<Self> {
        let file = sys::memory_file()?;
        let options = PyDict::new(py);
        options.set_item("file", file.as_raw_fd())?;
        options.set_item("all_threads", true)?;
        let handler = register(py, SIGNAL_OF_MEMORY, &options)?;
        Ok(Self { handler, file: Lock::new(file) })
    }

    /// Returns the stacks, as the module writes them. (Any thread.)
    ///
    /// # Errors
    /// There is no memory for a copy of the process, or the copy has crashed.
    #[allow(unsafe_code, reason = "calls a function of Python")]
    pub(super) fn read(&self) -> io::Result<String> {
        let mut file = self.file.lock();
        file.set_len(0)?;
        file.rewind()?;
        // SAFETY: a module that is written in C is never unloaded, and its handler is one of a signal.
        unsafe { sys::run_in_copy(COPY_MAX, || self.handler.run_handler())? };
        file.rewind()?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// Makes the module handle a signal, and returns the handler. The action of the signal stays as it was.
fn register(py: Python<'_>, signal: i32, options: &Bound<'_, PyDict>) -> PyResult<SignalAction> {
    let before = SignalAction::current(signal);
    stdlib::get(py)?.faulthandler.bind(py).call_method("register", (signal,), Some(options))?;
    let handler = SignalAction::current(signal);
    before.restore();
    Ok(handler)
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
        Ok(Stacks(register(py, SIGQUIT, &self.options(py)?)?))
    }

    /// Makes the module release the file. The program continues without the server.
    pub(super) fn end(&self, py: Python<'_>) -> PyResult<()> {
        let module = stdlib::get(py)?.faulthandler.bind(py);
        module.call_method1("unregister", (SIGQUIT,))?;
        module.call_method1("unregister", (SIGNAL_OF_MEMORY,))?;
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
