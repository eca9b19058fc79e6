//! Whether Python's threads share a GIL, and how many of them start calls without a standby.
//!
//! *Owns*: the last result of `look`. *Runs on*: any thread; `look` on one that is attached to the interpreter.
//! *Invariants*: if `CPython` was built with a GIL, the result is a constant, and no call pays for the check. *Source*:
//! PEP 703, `sys._is_gil_enabled()`.

#[cfg(Py_GIL_DISABLED)]
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(Py_GIL_DISABLED)]
use pyo3::prelude::*;

use super::{Shared, Task, policy};

#[cfg(Py_GIL_DISABLED)]
static IS_ON: AtomicBool = AtomicBool::new(false);

/// Returns whether the threads share a GIL.
#[inline]
pub(super) fn is_on() -> bool {
    #[cfg(Py_GIL_DISABLED)]
    return IS_ON.load(Ordering::Relaxed);
    #[cfg(not(Py_GIL_DISABLED))]
    true
}

/// Checks whether the GIL is on. In a free-threaded `CPython`, importing an extension module that needs the GIL turns
/// it on for the rest of the process, at any time.
#[cfg(Py_GIL_DISABLED)]
pub fn look(py: Python<'_>) {
    let asked = py.import("sys").and_then(|sys| sys.call_method0("_is_gil_enabled")?.extract());
    let is_on = asked.unwrap_or(true);
    if IS_ON.swap(is_on, Ordering::Relaxed) != is_on {
        let state = if is_on { "on: an imported module needs it, so calls take turns" } else { "off" };
        log::info!("this is a free-threaded CPython, and the GIL is {state}");
    }
}

impl<C: Task> Shared<C> {
    /// Returns how many threads start calls without a standby.
    #[inline]
    pub(super) fn started_at_once(&self) -> usize {
        policy::started_at_once(is_on(), self.processors, self.threads_max)
    }
}
