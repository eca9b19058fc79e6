//! Contexts of `contextvars` for the code of requests.
//!
//! *Owns*: nothing; a thread keeps the context in which it calls applications, and a suspended response keeps the one in
//! which it began. *Runs on*: executor threads, with the GIL held. *Invariants*: a response is continued in the very
//! object in which it began, not in a copy: a `contextvars.Token` can be reset only in the context that made it, and
//! frameworks reset tokens at the end of a stream. *Source*: PEP 567.
#![allow(unsafe_code, reason = "pyo3 glue: contexts")]

use pyo3::ffi;
use pyo3::prelude::*;

/// A context.
pub(super) struct Context(Py<PyAny>);

impl Context {
    /// Makes an empty context, and enters it.
    ///
    /// # Errors
    /// Python is out of memory.
    pub(super) fn enter_new(py: Python<'_>) -> PyResult<Self> {
        // SAFETY: the GIL is held; the result is a new reference, or NULL with an exception.
        let made = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_New()) }?;
        let context = Self(made.unbind());
        context.enter(py)?;
        Ok(context)
    }

    /// Enters the context, which no thread has entered.
    ///
    /// # Errors
    /// A thread has entered it.
    pub(super) fn enter(&self, py: Python<'_>) -> PyResult<()> {
        // SAFETY: the GIL is held, and the object is a context.
        check(py, unsafe { ffi::PyContext_Enter(self.0.as_ptr()) })
    }

    /// Leaves the context, which this thread has entered last.
    ///
    /// # Errors
    /// The thread has entered another one since.
    pub(super) fn exit(&self, py: Python<'_>) -> PyResult<()> {
        // SAFETY: as above.
        check(py, unsafe { ffi::PyContext_Exit(self.0.as_ptr()) })
    }
}

fn check(py: Python<'_>, result: std::ffi::c_int) -> PyResult<()> {
    if result < 0 { Err(PyErr::fetch(py)) } else { Ok(()) }
}
