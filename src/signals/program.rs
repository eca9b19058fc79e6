//! The program's own signal handlers, in Python.
//!
//! *Owns*: the handlers from before the server's, and Python's wake-up descriptor. *Runs on*: the main thread, because
//! Python handles signals there.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::stdlib;
use crate::sys::SIGNALS;

/// The program's handlers for `SIGNALS`, from before it served.
pub(crate) struct ProgramHandlers(Vec<(i32, Py<PyAny>)>);

impl ProgramHandlers {
    /// Returns the current handlers.
    ///
    /// # Errors
    /// Python is out of memory.
    pub(crate) fn current(py: Python<'_>) -> PyResult<Self> {
        let signal = stdlib::get(py)?.signal.bind(py);
        let handler = |number| Ok((number, signal.call_method1("getsignal", (number,))?.unbind()));
        SIGNALS.into_iter().map(handler).collect::<PyResult<_>>().map(Self)
    }

    /// Installs the handlers again.
    ///
    /// # Errors
    /// This is not the main thread.
    pub(crate) fn restore(self, py: Python<'_>) -> PyResult<()> {
        let signal = stdlib::get(py)?.signal.bind(py);
        // `None` stands for a handler that was not installed from Python.
        for (number, handler) in self.0.into_iter().filter(|(_, handler)| !handler.is_none(py)) {
            signal.call_method1("signal", (number, handler))?;
        }
        Ok(())
    }
}

/// Makes Python write a byte for each signal that it handles, whichever thread the kernel interrupts. If the
/// application has set its own wake-up descriptor, returns `false` and changes nothing.
pub(crate) fn wake_on_signals(py: Python<'_>, descriptor: &OwnedFd) -> PyResult<bool> {
    let set = |number: RawFd| -> PyResult<RawFd> {
        let options = PyDict::new(py);
        options.set_item("warn_on_full_buffer", false)?;
        stdlib::get(py)?.signal.bind(py).call_method("set_wakeup_fd", (number,), Some(&options))?.extract()
    };
    let before = set(descriptor.as_raw_fd())?;
    if before < 0 {
        return Ok(true);
    }
    set(before)?;
    Ok(false)
}

/// Makes Python write no more bytes for signals.
pub(crate) fn wake_no_more(py: Python<'_>) -> PyResult<()> {
    stdlib::get(py)?.signal.bind(py).call_method1("set_wakeup_fd", (-1,)).map(drop)
}
