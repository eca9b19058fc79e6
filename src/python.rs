//! The extension module `maypole._native`: what Python sees of a server that is part of a program.
//!
//! *Owns*: the servers that run in this process. *Runs on*: whichever thread calls; whatever waits does so without the GIL.
//! *Invariants*: importing it, and making a server, starts nothing; no signal handler is installed but by `main` and
//! `serve`; a process that was forked from one with servers never touches what they had.

mod embedded;
mod logging;
mod pool;
mod server;

use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::config::{Config, Keyword, Offer};
use crate::executor::gate;
use crate::standalone::Given;
use crate::{cli, standalone, stdlib, sys};

use self::embedded::Embedded;

/// How long threads that are about to leave Python may take at the interpreter's exit.
const END_OF_THREADS: Duration = Duration::from_millis(100);

/// What the Python part of the package is made from.
///
/// It needs no GIL: what threads share has locks of its own or is atomic, and what an executor's thread uses again from call
/// to call is that thread's alone. (Untested: no free-threaded `CPython` was to be had.)
#[pymodule(gil_used = false)]
#[pyo3(name = "_native")]
mod native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::pool::Pool;
    #[pymodule_export]
    use super::server::{AccessEntry, Server};
    #[pymodule_export]
    use super::{
        check_application, check_settings, main, on_executor, patched_by, remove_stale_socket, serve, settings,
        shut_down,
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        // The modules of the package import more of it: what they find is the standard library.
        crate::stdlib::prepare(module.py())
    }

    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "the name that Python packages use")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}

/// Runs the command line, whose first word is the program's name, as the program `maypole` does; answers the exit status.
#[pyfunction]
fn main(py: Python<'_>, argv: Vec<std::ffi::OsString>) -> u8 {
    let run = |config: Config| {
        standalone::run_behind_init(&config, fork);
        standalone::serve(&config, Given::default())
    };
    py.detach(|| cli::run(argv, run)) as u8
}

/// `os.fork`, which keeps Python usable in the child. A thread would be lost there, and what it has locked with it.
fn fork() -> Result<i32, String> {
    let threads = sys::threads();
    if threads != 1 {
        return Err(format!(
            "the process has {threads} threads already; start it with an init such as `docker run --init`"
        ));
    }
    Python::attach(|py| -> PyResult<i32> { stdlib::get(py)?.os.bind(py).call_method0("fork")?.extract() })
        .map_err(|error| error.to_string())
}

/// Serves `application`, or the one that `name` says, until a signal says stop; answers the exit status.
#[pyfunction]
#[pyo3(signature = (application, name, settings, environ=None))]
#[allow(clippy::needless_pass_by_value, reason = "what Python gives is made for this call")]
fn serve(
    py: Python<'_>,
    application: Option<Py<PyAny>>,
    name: Option<&str>,
    settings: Vec<Keyword>,
    environ: Option<&Bound<'_, PyDict>>,
) -> PyResult<u8> {
    if let Some(application) = &application {
        crate::wsgi::check_callable(application.bind(py))?;
    }
    let config = Config::from_all_keywords(name, &settings).map_err(|error| server::setting_error(&error))?;
    let given = Given { application, environ: server::entries(environ)?, goes_on: true };
    Ok(py.detach(|| standalone::serve(&config, given)) as u8)
}

/// The settings that a server takes as keywords, with what stands for the value (nothing where there is none) and the
/// help, for the commands of frameworks.
#[pyfunction]
fn settings() -> Vec<Offer> {
    Config::offered_keywords()
}

/// Raises what a server would raise that is made with these settings.
#[pyfunction]
#[allow(clippy::needless_pass_by_value, reason = "what Python gives is made for this call")]
fn check_settings(settings: Vec<Keyword>) -> PyResult<()> {
    Config::from_keywords(&settings).map(drop).map_err(|error| server::setting_error(&error))
}

/// Raises `TypeError` for an application that can never be called as WSGI does: an asynchronous one, for instance.
#[pyfunction]
fn check_application(application: &Bound<'_, PyAny>) -> PyResult<()> {
    crate::wsgi::check_callable(application)
}

/// The name of the library that has replaced the standard library's threads, and a sentence about it, if one has.
#[pyfunction]
fn patched_by(py: Python<'_>) -> Option<(&'static str, String)> {
    crate::wsgi::patched_by(py).map(|library| (library, crate::wsgi::patched_sentence(library)))
}

/// Stops all servers of this process, as far as they can be before `seconds` are over, and lets no thread of ours into
/// Python any more. For the interpreter's exit.
#[pyfunction]
fn shut_down(py: Python<'_>, seconds: f64) {
    let end = Instant::now() + server::duration(seconds);
    for server in Embedded::all() {
        let timeout = server.graceful_timeout().min(end.saturating_duration_since(Instant::now()));
        py.detach(|| server.stop(timeout, || false));
    }
    logging::flush(py);
    // Threads whose calls still run stay where they are as soon as they want the GIL.
    py.detach(|| gate::close(END_OF_THREADS));
}

/// Whether this is a thread that calls applications, which cannot wait until they have all ended.
#[pyfunction]
fn on_executor() -> bool {
    crate::wsgi::on_executor()
}

/// Takes away the file of a unix socket that no process has any more; every other file stays.
#[pyfunction]
#[allow(clippy::needless_pass_by_value, reason = "what Python gives is made for this call")]
fn remove_stale_socket(path: std::path::PathBuf) -> PyResult<()> {
    crate::listener::remove_stale(&path).map_err(|error| server::os_error(&error.into()))
}
