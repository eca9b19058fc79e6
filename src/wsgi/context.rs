//! Contexts of `contextvars` for the code of requests.
//!
//! *Owns*: nothing; a thread keeps the context in which it calls applications, and a suspended response keeps the one in
//! which it began. *Runs on*: executor threads, with the GIL held. *Invariants*: a response is continued in the very
//! object in which it began, not in a copy: a `contextvars.Token` can be reset only in the context that made it, and
//! frameworks reset tokens at the end of a stream. *Source*: PEP 567; asgiref/sync.py, `_restore_context`.
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

/// Lets the calling thread see what asgiref's `Local` keeps in the current context, which another thread has used: for
/// Django, the language and the time zone. Each value has the number of its thread, and no other thread sees it.
///
/// # Errors
/// The parts of asgiref that do this for its own threads have failed.
pub(super) fn adopt_locals(py: Python<'_>) -> PyResult<()> {
    let modules = PyModule::import(py, pyo3::intern!(py, "sys"))?.getattr(pyo3::intern!(py, "modules"))?;
    let Ok(asgiref) = modules.get_item(pyo3::intern!(py, "asgiref.local")) else { return Ok(()) };
    // Before asgiref 3.12, values have no thread.
    let (Ok(kind), Ok(rehome)) = (asgiref.getattr("_Storage"), asgiref.getattr("_rehome")) else { return Ok(()) };
    // SAFETY: the GIL is held; the result is a new reference, or NULL with an exception.
    let context = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }?;
    for entry in context.call_method0(pyo3::intern!(py, "items"))?.try_iter()? {
        let (variable, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = entry?.extract()?;
        if value.is_instance(&kind)? {
            variable.call_method1(pyo3::intern!(py, "set"), (rehome.call1((value,))?,))?;
        }
    }
    Ok(())
}

fn check(py: Python<'_>, result: std::ffi::c_int) -> PyResult<()> {
    if result < 0 { Err(PyErr::fetch(py)) } else { Ok(()) }
}
