//! `--reload`: finds changed files of the application, and tells the supervisor, which restarts the workers.
//!
//! *Owns*: the watched files, and the page that takes the place of an application that cannot be loaded. *Runs on*: the
//! thread `maypole-watch` compares files and never takes the GIL; the thread `maypole-modules` asks Python for the files
//! and compiles changed ones. *Invariants*: a thread that keeps the GIL delays the report of a change by `CHECK_MAX` at
//! most. A file that cannot be compiled restarts nothing. Without `--reload` nothing here runs.

mod page;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList};

use self::page::Page;
use super::import::python_failure;
use super::place::Place;
use crate::config::Config;
use crate::executor::gate;
use crate::stdlib;
use crate::sys::{Lock, SignalMask};
use crate::watch::{Item, Watch};
use crate::wsgi::load::LoadError;

/// How long Python may take to compile the changed files.
const CHECK_MAX: Duration = Duration::from_secs(2);
/// How often Python is asked for new modules while the application is imported. A module that changes before it is
/// watched is not reloaded.
const SCAN_IMPORTING: Duration = Duration::from_millis(100);
/// How often Python is asked for new modules later: functions may import more.
const SCAN: Duration = Duration::from_secs(1);

/// The watch of the application's files.
pub(super) struct Reload {
    shared: Arc<Shared>,
    watch: Arc<Watch>,
}

/// What the threads know of the application.
#[derive(Default)]
struct Shared {
    /// The response to every request, if the present code cannot be loaded.
    page: Lock<Option<Arc<Page>>>,
    /// Whether the import has ended, well or not.
    is_imported: AtomicBool,
}

/// A question to the thread that may take the GIL: can these files be compiled? The answer is an error of Python.
struct Question {
    files: Vec<PathBuf>,
    answer: Sender<Option<String>>,
}

impl Reload {
    /// Starts to watch, before the application is imported.
    ///
    /// # Errors
    /// The process has no thread left, or no `inotify`.
    pub(super) fn start(py: Python<'_>, config: &Config, place: &Arc<Place>) -> anyhow::Result<Self> {
        stdlib::prepare(py).and_then(|()| files(py)).map_err(|error| python_failure(py, &error))?;
        let (ask, asked) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let mask = SignalMask::block_all();
        let started = start_threads(config, place, &shared, ask, asked);
        mask.restore();
        let watch = started.context("--reload cannot watch the application's files")?;
        watch.add(items_of_settings(config));
        watch.add(place.settings_files().into_iter().map(Item::File).collect());
        Ok(Self { shared, watch })
    }

    /// Returns what is served: the applications, or the traceback in the place of each if one could not be loaded.
    ///
    /// # Errors
    /// No change of a file can mend the error.
    pub(super) fn applications(
        &self,
        py: Python<'_>,
        found: anyhow::Result<Vec<Py<PyAny>>>,
        count: usize,
    ) -> anyhow::Result<Vec<Py<PyAny>>> {
        let applications = match found {
            Ok(applications) => applications.into_iter().map(Some).collect(),
            Err(error) => match error.downcast_ref::<LoadError>() {
                None | Some(LoadError::Malformed(_)) => return Err(error),
                Some(reason) => {
                    log::error!("requests get this error until a file changes (--reload): {reason}");
                    self.fail(py, &reason.to_string())?;
                    std::iter::repeat_with(|| None).take(count).collect::<Vec<_>>()
                }
            },
        };
        let items = scan(py, true).map_err(|error| python_failure(py, &error))?;
        self.shared.is_imported.store(true, Ordering::SeqCst);
        self.watch.add(items);
        py.detach(|| self.watch.wait_added(CHECK_MAX));
        let reloading = applications.into_iter().map(|application| {
            let reloading = Reloading { application, shared: Arc::clone(&self.shared) };
            Ok(Py::new(py, reloading).map_err(|error| anyhow!("{error}"))?.into_any())
        });
        reloading.collect()
    }

    /// Shows an error of the import, and watches what can mend it.
    fn fail(&self, py: Python<'_>, text: &str) -> anyhow::Result<()> {
        self.shared.show(text);
        let items = items(py, "around", (text,)).map_err(|error| python_failure(py, &error))?;
        self.watch.add(items);
        Ok(())
    }
}

impl Shared {
    fn show(&self, text: &str) {
        let title = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("The application cannot be loaded");
        *self.page.lock() = Some(Arc::new(Page::new(title.trim(), text)));
    }
}

/// Starts the thread that compares files, and the one that asks Python.
fn start_threads(
    config: &Config,
    place: &Arc<Place>,
    shared: &Arc<Shared>,
    ask: Sender<Question>,
    asked: Receiver<Question>,
) -> std::io::Result<Arc<Watch>> {
    let (place, its, settings) = (Arc::clone(place), Arc::clone(shared), place.settings_files());
    let mut pending = BTreeSet::new();
    let report = move |changed: &BTreeSet<PathBuf>| {
        pending.extend(changed.iter().cloned());
        if let Some(error) = check(&ask, &pending) {
            let files = described(&pending);
            // From the moment of the line on, every request gets the error.
            its.show(&error);
            log::error!("{files} cannot be compiled: requests get this error until it can (--reload)\n{error}");
        } else {
            place.say_changed(described(&pending), !settings.is_disjoint(&pending));
            // If the settings are wrong, this worker serves on.
            pending.clear();
        }
    };
    let watch = Arc::new(Watch::start(config.processes.reload_engine, report)?);
    let (its, watching) = (Arc::clone(shared), Arc::clone(&watch));
    thread::Builder::new().name("maypole-modules".to_owned()).spawn(move || answer(&asked, &its, &watching))?;
    Ok(watch)
}

/// Returns the error of a changed file that cannot be compiled. If Python does not answer in time, there is none.
fn check(ask: &Sender<Question>, changed: &BTreeSet<PathBuf>) -> Option<String> {
    let (answer, answered) = mpsc::channel();
    ask.send(Question { files: changed.iter().cloned().collect(), answer }).ok()?;
    answered.recv_timeout(CHECK_MAX).ok().flatten()
}

/// Asks Python for new modules at intervals, and answers questions, until Python is finalized.
fn answer(asked: &Receiver<Question>, shared: &Shared, watch: &Watch) {
    loop {
        let is_imported = shared.is_imported.load(Ordering::SeqCst);
        let done = match asked.recv_timeout(if is_imported { SCAN } else { SCAN_IMPORTING }) {
            Ok(Question { files, answer }) => gate::attach(|py| {
                let error = compile(py, files).unwrap_or_else(|error| Some(crate::wsgi::traceback(py, &error)));
                let _ = answer.send(error);
            }),
            Err(RecvTimeoutError::Timeout) => gate::attach(|py| match scan(py, is_imported) {
                Ok(items) => watch.add(items),
                Err(error) => log::error!("{}", crate::wsgi::traceback(py, &error)),
            }),
            Err(RecvTimeoutError::Disconnected) => None,
        };
        if done.is_none() {
            return;
        }
    }
}

/// Returns the files that the settings name.
fn items_of_settings(config: &Config) -> Vec<Item> {
    let paste =
        config.paste.as_ref().map(|spec| PathBuf::from(spec.rsplit_once('#').map_or(&**spec, |(file, _)| file)));
    let named = config.processes.reload_extra_file.iter().cloned().chain(paste);
    named
        .map(|path| absolute(&path).unwrap_or(path))
        .map(|path| if path.is_dir() { Item::Tree(path) } else { Item::File(path) })
        .collect()
}

/// Returns the changed files in a few words, as seen from the working directory.
fn described(changed: &BTreeSet<PathBuf>) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let first = changed.first().map_or(Path::new(""), |path| path.strip_prefix(&here).unwrap_or(path));
    match changed.len() {
        0 | 1 => first.display().to_string(),
        count => format!("{} and {}", first.display(), crate::phrase::count(count - 1, "other file")),
    }
}

/// Returns the items of the modules that were loaded since the last call.
fn scan(py: Python<'_>, loaders: bool) -> PyResult<Vec<Item>> {
    items(py, "scan", (loaders,))
}

fn compile(py: Python<'_>, changed: Vec<PathBuf>) -> PyResult<Option<String>> {
    let paths: Vec<_> = changed.into_iter().map(PathBuf::into_os_string).collect();
    files(py)?.call_method1("check", (paths,))?.extract()
}

/// Calls a function of `files.py` that returns items.
fn items<'py>(py: Python<'py>, function: &str, arguments: impl pyo3::call::PyCallArgs<'py>) -> PyResult<Vec<Item>> {
    let found: Vec<(String, PathBuf)> = files(py)?.call_method1(function, arguments)?.extract()?;
    Ok(found
        .into_iter()
        .map(|(kind, path)| match kind.as_str() {
            "tree" => Item::Tree(path),
            "sources" => Item::Sources(path),
            _ => Item::File(path),
        })
        .collect())
}

/// The module that knows where Python's files are.
fn files(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let code = pyo3::ffi::c_str!(include_str!("reload/files.py"));
    let make = || PyModule::from_code(py, code, c"<maypole/files.py>", c"maypole_files").map(Bound::unbind);
    Ok(MODULE.get_or_try_init(py, make)?.bind(py))
}

/// Calls the application, or returns the page while its code cannot be loaded.
#[pyclass(frozen, module = "maypole", name = "Reloading")]
struct Reloading {
    application: Option<Py<PyAny>>,
    shared: Arc<Shared>,
}

#[pymethods]
impl Reloading {
    fn __call__<'py>(
        &self,
        environ: &Bound<'py, PyDict>,
        start_response: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = environ.py();
        let Some(page) = self.shared.page.lock().clone() else {
            let application = self.application.as_ref().expect("an application that cannot be loaded has a page");
            return application.bind(py).call1((environ, start_response));
        };
        let accept = environ.get_item("HTTP_ACCEPT")?.and_then(|accept| accept.extract::<String>().ok());
        let (fields, body) = page.response(&accept.unwrap_or_default());
        start_response.call1(("500 Internal Server Error", fields))?;
        Ok(PyList::new(py, [PyBytes::new(py, &body)])?.into_any())
    }
}
