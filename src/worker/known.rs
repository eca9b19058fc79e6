//! What the application may know of its place: for `maypole.worker()`, as a variable, as a key of each environ, and in
//! the module `uwsgi` of `--uwsgi-module`.
//!
//! *Owns*: nothing. *Runs on*: the main thread, with the GIL held. *Invariants*: the place is known before the
//! application is imported, except with `--preload`.

use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyModule, PyTuple};

use super::place::Place;
use crate::config::Config;
use crate::scoreboard::Slot;
use crate::{stdlib, sys};

/// The module in `sys.modules` in which the package `maypole` finds the place.
const MODULE: &str = "_maypole_place";
/// The environment variable with the number of the worker.
const VARIABLE: &str = "MAYPOLE_WORKER";
/// The key of each environ with the number of the worker.
const KEY: &str = "maypole.worker";
/// What stands for the time of the start in the value of `--uwsgi-opt`.
const TIME: &str = "%t";

/// Tells the application its place. Returns the entries of each environ.
pub(super) fn tell(py: Python<'_>, config: &Config, place: Option<&Place>) -> PyResult<Vec<(String, Py<PyAny>)>> {
    if config.processes.uwsgi_module {
        install_uwsgi(py, config, place)?;
    }
    let Some(start) = place.map(Place::start).filter(|start| !start.is_template) else { return Ok(Vec::new()) };
    let fields = (
        start.number,
        start.workers,
        python_time(start.service_started_us),
        python_time(sys::unix_micros()),
        start.supervisor,
        start.generation,
    );
    let module = PyModule::new(py, MODULE)?;
    module.setattr("fields", fields)?;
    module.setattr("workers", number_of_workers(py, place)?)?;
    py.import("sys")?.getattr("modules")?.set_item(MODULE, module)?;
    stdlib::get(py)?.os.bind(py).getattr("environ")?.set_item(VARIABLE, start.number.to_string())?;
    Ok(vec![(KEY.to_owned(), start.number.into_pyobject(py)?.into_any().unbind())])
}

/// Makes the module `uwsgi`. Without a supervisor, the process is the only worker.
fn install_uwsgi(py: Python<'_>, config: &Config, place: Option<&Place>) -> PyResult<()> {
    let (number, supervisor, started_us) = match place.map(Place::start) {
        Some(start) => {
            let number = if start.is_template { 0 } else { start.number };
            (number, start.supervisor, start.service_started_us)
        }
        None => (1, 0, sys::unix_micros()),
    };
    let started = started_us / 1_000_000;
    let value = |value: &str| value.replace(TIME, &started.to_string());
    let options = config.processes.uwsgi_opt.iter().map(|option| (option.name.as_str(), value(&option.value)));
    let code = pyo3::ffi::c_str!(include_str!("uwsgi.py"));
    let module = PyModule::from_code(py, code, c"<maypole/uwsgi.py>", c"maypole_uwsgi")?;
    let workers = number_of_workers(py, place)?;
    module.call_method1("install", (number, workers, supervisor, started, options.collect::<Vec<_>>())).map(drop)
}

/// Returns a function of Python that returns how many workers the service has now.
fn number_of_workers<'py>(py: Python<'py>, place: Option<&Place>) -> PyResult<Bound<'py, PyCFunction>> {
    let at_start = place.map_or(1, |place| place.start().workers);
    let slot = place.map(|place| place.slot().clone());
    let workers = move |_: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| {
        slot.as_ref().and_then(Slot::workers).unwrap_or(at_start)
    };
    PyCFunction::new_closure(py, None, None, workers)
}

/// Returns microseconds as Python counts time.
#[allow(clippy::cast_precision_loss, reason = "a double has room for the microseconds of some 285 years")]
fn python_time(micros: u64) -> f64 {
    micros as f64 / 1e6
}
