//! The import of the applications, and of the hooks before them.
//!
//! *Owns*: nothing. *Runs on*: the main thread, with the GIL held. *Invariants*: a process that the application forks
//! while it is imported does not serve.

use anyhow::Context;
use pyo3::exceptions::PySystemExit;
use pyo3::prelude::*;

use crate::cli::Exit;
use crate::config::{Config, OBJECT, Site};
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

/// An application of a program, and the path of its mount. `None`: it stands in the place of MODULE.
pub(crate) type Object = (Option<String>, Py<PyAny>);

/// Imports the applications that the settings name, in the order of `Config::sites`. `objects` are the applications that
/// the program passes. (After `prepare_path`.)
pub(super) fn applications(py: Python<'_>, config: &Config, objects: &[Object]) -> anyhow::Result<Vec<Py<PyAny>>> {
    let forks = sys::forks();
    let found = config.sites().map(|site| application(py, config, site, objects)).collect();
    if sys::forks() != forks {
        log::error!(
            "the import of the application has forked a process, which came back to Maypole: it ends instead of serving"
        );
        leave_forked_child(py, Some(PySystemExit::new_err(Exit::NotImportable as i32)));
    }
    found
}

fn application(py: Python<'_>, config: &Config, site: Site, objects: &[Object]) -> anyhow::Result<Py<PyAny>> {
    let path = if let Site::Mount(mount) = site { Some(mount.path.to_string()) } else { None };
    let is_object = site.application().is_none_or(|name| name == OBJECT);
    if let Some((_, object)) = objects.iter().find(|(of, _)| is_object && *of == path) {
        return Ok(object.clone_ref(py));
    }
    Ok(match (site.application(), &config.paste) {
        (Some(name), _) => load::load(py, name, false),
        (None, Some(file)) => paste::load(py, file),
        (None, None) => load::load(py, config.application_name(), config.factory),
    }?)
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
