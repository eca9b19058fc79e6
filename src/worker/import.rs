//! The import of the application, and of the hooks before it.
//!
//! *Owns*: nothing. *Runs on*: the main thread, with the GIL held. *Invariants*: a process that the application forks
//! while it is imported does not serve.

use anyhow::Context;
use pyo3::exceptions::PySystemExit;
use pyo3::prelude::*;

use crate::cli::Exit;
use crate::config::Config;
use crate::hooks::{Hooks, Loaded, Service};
use crate::sys;
use crate::wsgi::{leave_forked_child, load, paste};

/// Puts the application's directories first on `sys.path`, and hides the server's command line.
pub(super) fn prepare_path(py: Python<'_>, config: &Config) -> anyhow::Result<()> {
    let here = std::env::current_dir().context("there is no working directory")?;
    let prepared = load::prepare_path(py, &here, &config.pythonpath)
        // If the server started the interpreter, `sys.argv` has this value already.
        .and_then(|()| py.import("sys")?.setattr("argv", [config.application_name()]));
    prepared.map_err(|error| python_failure(py, &error))
}

/// Imports the application that the settings name. (After `prepare_path`.)
pub(super) fn application(py: Python<'_>, config: &Config) -> anyhow::Result<Py<PyAny>> {
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

/// Loads the file of `--hooks`, if the settings name one. (After `prepare_path`.)
pub(super) fn hooks(py: Python<'_>, config: &Config, service: &Service) -> anyhow::Result<Option<Loaded>> {
    let Some(file) = &config.processes.hooks else { return Ok(None) };
    Hooks::load(py, file, config, service).map(Some).map_err(anyhow::Error::msg)
}

/// Returns an exception with its traceback as an error.
pub(super) fn python_failure(py: Python<'_>, error: &PyErr) -> anyhow::Error {
    anyhow::Error::msg(crate::wsgi::traceback(py, error))
}
