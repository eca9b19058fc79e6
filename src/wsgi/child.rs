//! Ends a process that the application forked, when it returns into the server's frames.
//!
//! *Runs on*: the only thread of that process, with the GIL held. *Invariants*: the process sends nothing to a client.

use pyo3::exceptions::PySystemExit;
use pyo3::prelude::*;

use crate::sys;

/// Ends a process that the application forked. If it went on, it would write into the parent's connections. The exit
/// status is the one that Python would exit with.
pub fn leave(py: Python<'_>, error: Option<PyErr>) -> ! {
    let status = error.map_or(0, |error| status_of(py, &error));
    for name in ["stdout", "stderr"] {
        // The process ends whether or not the flush succeeds.
        let _ = py.import("sys").and_then(|sys| sys.getattr(name)?.call_method0("flush"));
    }
    sys::exit_now(status)
}

/// Returns the exit status of a program that ends by this exception. Prints the exception as Python does.
fn status_of(py: Python<'_>, error: &PyErr) -> i32 {
    if !error.is_instance_of::<PySystemExit>(py) {
        error.print(py);
        return 1;
    }
    match error.value(py).getattr("code") {
        Ok(code) if code.is_none() => 0,
        Ok(code) => code.extract().unwrap_or_else(|_| {
            // `sys.exit("a sentence")`.
            let stderr = py.import("sys").and_then(|sys| sys.getattr("stderr"));
            let _ = stderr.and_then(|stderr| stderr.call_method1("write", (format!("{code}\n"),)));
            1
        }),
        Err(_) => 1,
    }
}
