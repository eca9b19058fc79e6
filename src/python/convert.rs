//! Conversions between Rust's types and Python's: durations, environ entries, waits and errors.
//!
//! *Runs on*: the calling thread, with the GIL held.

use std::time::{Duration, Instant};

use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::config::{DURATION_MAX, KeywordError};
use crate::sys;

/// The interval at which a wait checks for a signal that the kernel has delivered to another thread.
const SLICE: Duration = Duration::from_millis(250);

/// Converts a program's seconds to a duration. A negative number and NaN become zero.
pub(super) fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(DURATION_MAX).min(DURATION_MAX)
}

/// Waits without the GIL, in slices. On the main thread, Python's signal handlers run between two slices. Returns the
/// exception of a handler, or else the result of the last slice.
pub(super) fn wait_in_slices(
    py: Python<'_>,
    timeout: Option<Duration>,
    slice: impl Fn(Duration) -> bool + Send + Sync,
) -> PyResult<bool> {
    let end = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = end.map_or(SLICE, |end| end.saturating_duration_since(Instant::now()).min(SLICE));
        let done = py.detach(|| slice(left));
        py.check_signals()?;
        if done || end.is_some_and(|end| Instant::now() >= end) {
            return Ok(done);
        }
    }
}

/// Makes a `TypeError` for an unknown name, which is an error in the program, and a `ValueError` for a wrong value.
pub(super) fn setting_error(error: &KeywordError) -> PyErr {
    match error {
        KeywordError::Unknown { .. }
        | KeywordError::Foreign(_)
        | KeywordError::NeedsWorkers { .. }
        | KeywordError::CommandLineOnly { .. } => PyTypeError::new_err(error.to_string()),
        KeywordError::Invalid(_) => PyValueError::new_err(error.to_string()),
    }
}

/// Returns the entries that a program adds to every request's environ.
pub(super) fn entries(environ: Option<&Bound<'_, PyDict>>) -> PyResult<Vec<(String, Py<PyAny>)>> {
    let entries = environ.into_iter().flatten();
    entries.map(|(key, value)| Ok((key.extract()?, value.unbind()))).collect()
}

/// Converts an error of the system to Python's `OSError`, with its number.
pub(super) fn os_error(error: &anyhow::Error) -> PyErr {
    let number = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
    let sentence = sys::plain(error.as_ref());
    match number {
        Some(number) => PyOSError::new_err((number, sentence)),
        None => PyOSError::new_err(sentence),
    }
}
