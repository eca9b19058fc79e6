//! The extension module `maypole._native`: servers inside a Python program.
//!
//! *Owns*: the servers that run in this process. *Runs on*: the calling thread, which waits without the GIL.
//! *Invariants*: neither the import nor the constructor of a server starts threads. Only `main` and `serve` install
//! signal handlers. A forked child never uses the sockets and threads of its parent's servers.

mod access;
mod convert;
mod hosted;
mod logging;
mod pool;
mod server;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::config::{Config, Evaluator, Keyword, Offer, UrlPath};
use crate::embedded::Embedded;
use crate::executor::gate;
use crate::sys::Program;
use crate::worker::ServeOptions;
use crate::{cli, config, directory, link, stdlib, supervisor, worker};

/// At the interpreter's exit, threads have this long to leave Python.
const END_OF_THREADS: Duration = Duration::from_millis(100);

/// The names that the Python part of the package uses.
///
/// The module does not need the GIL. Shared state is atomic or has a lock, and only one executor thread uses the
/// objects that it keeps from call to call. (Untested: no free-threaded `CPython` was available.)
#[pymodule(gil_used = false)]
#[pyo3(name = "_native")]
mod native {
    use pyo3::prelude::*;

    use crate::config;

    #[pymodule_export]
    use super::access::AccessEntry;
    #[pymodule_export]
    use super::pool::Pool;
    #[pymodule_export]
    use super::server::Server;
    #[pymodule_export]
    use super::{
        check_application, check_settings, main, on_executor, patched_by, remove_stale_socket, serve, settings,
        shut_down,
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        // Load the modules of the standard library before the package imports more. Otherwise, a file of the program
        // with the same name could replace one of them.
        crate::stdlib::prepare(module.py())
    }

    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "the name that Python packages use")]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    // Defaults and limits of settings. Adapters use them to derive settings from the arguments of another server.

    /// What stands for an application that is an object in the settings.
    #[pymodule_export]
    const OBJECT: &str = config::OBJECT;
    #[pymodule_export]
    const HOST_DEFAULT: &str = config::HOST_DEFAULT;
    #[pymodule_export]
    const PORT_DEFAULT: u16 = config::PORT_DEFAULT;
    #[pymodule_export]
    const THREADS_DEFAULT: usize = config::SHARED_THREADS_MAX;
    #[pymodule_export]
    const THREADS_MAX: u64 = config::THREADS_MAX;
    #[pymodule_export]
    const HEAD_BYTES_MAX: u64 = config::HEAD_BYTES_MAX;
    #[pymodule_export]
    const DURATION_SECONDS_MAX: u64 = config::DURATION_MAX.as_secs();
}

/// Runs the command line like the program `maypole`. The first item of `argv` is the program's name. Returns the exit
/// code.
#[pyfunction]
fn main(py: Python<'_>, argv: Vec<OsString>) -> PyResult<u8> {
    if let Some(link) = take_variable(py, link::VARIABLE)? {
        return Ok(py.detach(|| worker::run_linked(&link)) as u8);
    }
    supervisor::prepare();
    let kept = take_variable(py, worker::KEPT)?;
    let run = |config: Config| {
        if supervisor::is_needed(&config) {
            let callers = worker::close_kept(kept.as_ref());
            return supervisor::run(config, program, callers);
        }
        worker::run_behind_init(&config, fork);
        if config.is_of_directory() {
            return directory::serve(config);
        }
        worker::serve_command(&config, program(), kept)
    };
    let evaluator = evaluator(py)?;
    Ok(py.detach(|| cli::run(argv, &evaluator, run)) as u8)
}

/// Returns the process that evaluates a configuration file in Python: the same interpreter, with the package's script.
fn evaluator(py: Python<'_>) -> PyResult<Evaluator> {
    let python = py.import("sys")?.getattr("executable")?.extract()?;
    let package: PathBuf = py.import("maypole")?.getattr("__file__")?.extract()?;
    Ok(Evaluator::of_python(python, package.with_file_name("_evaluate.py").into_os_string()))
}

/// Returns the program of this process: the interpreter, with its options and the script.
fn program() -> std::io::Result<Program> {
    let words = Python::attach(|py| -> PyResult<(PathBuf, Vec<OsString>)> {
        let sys = py.import("sys")?;
        Ok((sys.getattr("executable")?.extract()?, sys.getattr("orig_argv")?.extract()?))
    });
    let (interpreter, words) = words.map_err(std::io::Error::other)?;
    Program::new(interpreter, words)
}

/// Returns an environment variable that another process of this program has set, and removes it.
fn take_variable(py: Python<'_>, name: &str) -> PyResult<Option<OsString>> {
    let environ = stdlib::get(py)?.os.bind(py).getattr("environ")?;
    environ.call_method1("pop", (name, py.None()))?.extract()
}

/// Calls `os.fork`, after which Python works in the child.
fn fork() -> Result<i32, String> {
    Python::attach(|py| -> PyResult<i32> { stdlib::get(py)?.os.bind(py).call_method0("fork")?.extract() })
        .map_err(|error| error.to_string())
}

/// Serves `application`, or the application that `name` names, until a signal stops it. `mounts` are further
/// applications with the paths of the setting `mount`. Returns the exit code.
#[pyfunction]
#[pyo3(signature = (application, name, settings, environ=None, mounts=Vec::new()))]
#[allow(clippy::needless_pass_by_value, reason = "what Python gives is made for this call")]
fn serve(
    py: Python<'_>,
    application: Option<Py<PyAny>>,
    name: Option<&str>,
    settings: Vec<Keyword>,
    environ: Option<&Bound<'_, PyDict>>,
    mounts: Vec<(String, Py<PyAny>)>,
) -> PyResult<u8> {
    let mounts = mounts.into_iter().map(|(path, mounted)| {
        let path = UrlPath::parse(&path).map_err(PyValueError::new_err)?;
        Ok((Some(path.to_string()), mounted))
    });
    let main = application.map(|application| (None, application));
    let objects = main.into_iter().map(Ok).chain(mounts).collect::<PyResult<Vec<_>>>()?;
    objects.iter().try_for_each(|(_, object)| crate::wsgi::check_callable(object.bind(py)))?;
    let config =
        Config::from_all_keywords(name, &settings, &evaluator(py)?).map_err(|error| convert::setting_error(&error))?;
    let options =
        ServeOptions { objects, environ: convert::entries(environ)?, goes_on: true, ..ServeOptions::default() };
    if supervisor::is_needed(&config) {
        return hosted::serve(py, config, &settings, options);
    }
    Ok(py.detach(|| worker::serve(&config, options)) as u8)
}

/// Returns the settings of a server and of its workers, for the commands of frameworks. Each has a name, the placeholder of its value (empty if it takes no value), and its help.
#[pyfunction]
fn settings() -> Vec<Offer> {
    Config::offered_keywords()
}

/// Raises the exception that `serve` would raise for these settings. Returns whether they need worker processes.
#[pyfunction]
#[allow(clippy::needless_pass_by_value, reason = "what Python gives is made for this call")]
fn check_settings(settings: Vec<Keyword>) -> PyResult<bool> {
    let config = Config::from_all_keywords(None, &settings, &Evaluator::default());
    let config = config.map_err(|error| convert::setting_error(&error))?;
    // A variable for a hosting platform's server is not for a framework's command.
    Ok(config.needs_supervisor() && settings.iter().any(|(name, _)| config::is_of_workers(name)))
}

/// Raises `TypeError` for an object that is not a WSGI application, such as an asynchronous one.
#[pyfunction]
fn check_application(application: &Bound<'_, PyAny>) -> PyResult<()> {
    crate::wsgi::check_callable(application)
}

/// Returns the name of the library that has replaced Python's threads, and a sentence about it. `None` if there is no
/// such library.
#[pyfunction]
fn patched_by(py: Python<'_>) -> Option<(&'static str, String)> {
    crate::wsgi::patched_by(py).map(|library| (library, crate::wsgi::patched_sentence(library)))
}

/// Stops all servers of this process within `seconds`, and then keeps their threads out of Python. For the
/// interpreter's exit.
#[pyfunction]
fn shut_down(py: Python<'_>, seconds: f64) {
    let end = Instant::now() + convert::duration(seconds);
    for server in Embedded::all() {
        let timeout = server.graceful_timeout().min(end.saturating_duration_since(Instant::now()));
        py.detach(|| server.stop(Some(timeout), "the program's exit", || false));
    }
    logging::flush(py);
    // A thread whose call still runs blocks forever when it next asks for the GIL.
    py.detach(|| gate::close(END_OF_THREADS));
}

/// Returns whether this thread runs applications. Such a thread cannot wait for the end of all requests.
#[pyfunction]
fn on_executor() -> bool {
    crate::wsgi::on_executor()
}

/// Removes the file of a unix socket if no process uses that socket. Leaves every other file.
#[pyfunction]
#[allow(clippy::needless_pass_by_value, reason = "what Python gives is made for this call")]
fn remove_stale_socket(path: std::path::PathBuf) -> PyResult<()> {
    crate::listener::remove_stale(&path).map_err(|error| convert::os_error(&error.into()))
}
