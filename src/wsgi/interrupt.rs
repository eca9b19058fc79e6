//! The exception that interrupts the code of a request.
//!
//! *Owns*: the class `maypole.RequestTimeout`. *Runs on*: a thread that holds the GIL. *Invariants*: no later request
//! of the same thread gets an exception that was meant for an earlier one, because `forget` runs between the two.
#![allow(unsafe_code, reason = "pyo3 glue: PyThreadState_SetAsyncExc")]

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// The module in `sys.modules` in which the package `maypole` finds the class, and puts it if it is imported first.
const MODULE: &str = "_maypole_interrupt";

/// Raises an exception of this class in a thread, at its next step of Python code. It runs no Python code itself, so that
/// a caller may hold a lock.
pub(super) fn raise(class: &Bound<'_, PyAny>, ident: u64) {
    // SAFETY: the GIL is held, and the class is an exception's. An unknown thread is none of the function's business.
    unsafe { ffi::PyThreadState_SetAsyncExc(ident.cast_signed(), class.as_ptr()) };
}

/// Takes back an exception that a thread has not seen yet.
pub(super) fn forget(_: Python<'_>, ident: u64) {
    // SAFETY: the GIL is held. NULL clears the exception.
    unsafe { ffi::PyThreadState_SetAsyncExc(ident.cast_signed(), std::ptr::null_mut()) };
}

/// Returns whether an error is such an exception.
pub(super) fn is_own(py: Python<'_>, error: &PyErr) -> bool {
    CLASS.get(py).is_some_and(|class| error.matches(py, class.bind(py)).unwrap_or(false))
}

static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Returns the class.
///
/// # Errors
/// Python is out of memory.
pub(super) fn class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    let find = || -> PyResult<Py<PyAny>> {
        let modules = py.import("sys")?.getattr("modules")?;
        if let Ok(known) = modules.get_item(MODULE) {
            return Ok(known.getattr("RequestTimeout")?.unbind());
        }
        let code = pyo3::ffi::c_str!(include_str!("interrupt.py"));
        let module = PyModule::from_code(py, code, c"<maypole/interrupt.py>", c"_maypole_interrupt")?;
        modules.set_item(MODULE, &module)?;
        Ok(module.getattr("RequestTimeout")?.unbind())
    };
    Ok(CLASS.get_or_try_init(py, find)?.bind(py))
}
