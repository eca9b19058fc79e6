//! The socket of a connection that the application takes over: `maypole.socket` and `werkzeug.socket`.
//!
//! *Owns*: the Python module with the socket's classes. *Runs on*: the application's thread that takes the connection,
//! with the GIL held except while it waits for the connection's coroutine. *Invariants*: `werkzeug.socket` has no
//! effect before its first use.

use std::os::fd::{IntoRawFd, RawFd};

use pyo3::exceptions::{PyBrokenPipeError, PyOSError, PyRuntimeError, PyTimeoutError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyBytes;

use crate::handler::{Hold, NotGiven, TakenStream};
use crate::sys::errno;

/// The arguments of the module's functions: descriptor, received bytes, the server's hold.
pub(super) type Parts = (RawFd, Py<PyBytes>, ServersHold);

/// The server's hold on a connection, released with the last reference.
#[pyclass(frozen, module = "maypole", name = "Hold")]
pub(super) struct ServersHold(#[allow(dead_code, reason = "kept until it is dropped")] Hold);

/// The module with the socket's classes.
fn module(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let code = pyo3::ffi::c_str!(include_str!("taken.py"));
    let make = || PyModule::from_code(py, code, c"<maypole/taken.py>", c"maypole_taken").map(Bound::unbind);
    Ok(MODULE.get_or_try_init(py, make)?.bind(py))
}

/// Returns the parts from which Python makes a socket.
pub(super) fn parts(py: Python<'_>, taken: TakenStream) -> Parts {
    let TakenStream { fd, received, hold } = taken;
    (fd.into_raw_fd(), PyBytes::new(py, &received).unbind(), ServersHold(hold))
}

/// Makes the socket.
pub(super) fn socket(py: Python<'_>, parts: Parts) -> PyResult<Py<PyAny>> {
    Ok(module(py)?.call_method1("connection", parts)?.unbind())
}

/// Makes a socket that calls `take` at its first use.
pub(super) fn unused<'py>(take: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    module(take.py())?.call_method1("unused", (take,))
}

/// Loads the Python module for `unused`, so that no request waits for that.
pub(super) fn prepare(py: Python<'_>) -> PyResult<()> {
    module(py).map(drop)
}

/// Makes the exception that says why there is no socket.
pub(super) fn error(why: NotGiven) -> PyErr {
    let sentence = format!("the connection cannot be taken over: {why}");
    match why {
        NotGiven::Gone => PyBrokenPipeError::new_err(sentence),
        NotGiven::TimedOut => PyTimeoutError::new_err(sentence),
        NotGiven::NoDescriptor => PyOSError::new_err((errno::EMFILE, sentence)),
        NotGiven::Begun | NotGiven::BodyUnread | NotGiven::Taken | NotGiven::Http2 => PyRuntimeError::new_err(sentence),
    }
}
