//! The import of the application.
//!
//! *Owns*: nothing. *Runs on*: the main thread, with the GIL held. *Invariants*: a process that the application forks
//! while it is imported does not serve.

use anyhow::Context;
use pyo3::exceptions::PySystemExit;
use pyo3::prelude::*;

use crate::cli::Exit;
use crate::config::Config;
use crate::sys;
use crate::wsgi::{leave_forked_child, load, paste};

/// Returns the application that the program passed. Without one, imports the application that the settings name.
pub(super) fn find(py: Python<'_>, config: &Config, application: Option<Py<PyAny>>) -> anyhow::Result<Py<PyAny>> {
    if let Some(application) = application {
        return Ok(application);
    }
    let here = std::env::current_dir().context("there is no working directory")?;
    let prepared = load::prepare_path(py, &here, &config.pythonpath)
        // Hide the server's command line from the application. If the server started the interpreter, `sys.argv` has
        // this value already.
        .and_then(|()| py.import("sys")?.setattr("argv", [config.application_name()]));
    prepared.map_err(|error| python_failure(py, &error))?;
    let forks = sys::forks();
    let found = match &config.paste {
        Some(file) => paste::load(py, file),
        None => load::load(py, config.application_name(), config.factory),
    };
    if sys::forks() != forks {
        log::error!("a process that the application forked while it was imported does not serve: it ends");
        leave_forked_child(py, Some(PySystemExit::new_err(Exit::NotImportable as i32)));
    }
    Ok(found?)
}

/// Returns an exception with its traceback as an error.
pub(super) fn python_failure(py: Python<'_>, error: &PyErr) -> anyhow::Error {
    anyhow::Error::msg(crate::wsgi::traceback(py, error))
}
