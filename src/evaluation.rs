//! A process that evaluates a configuration file in Python, and does nothing else.
//!
//! *Owns*: the process. *Runs on*: the main thread. *Invariants*: it ends inside Python, which writes the result.
//! `python/maypole/_evaluate.py` has the code, which a process of the package runs without this module.

use std::ffi::OsStr;

use pyo3::prelude::*;

use crate::cli::Exit;
use crate::config::EVALUATION_VARIABLE;
use crate::interpreter;

/// Evaluates the file, or the module `python:MODULE`. Returns only if Python cannot start.
pub fn run(file: &OsStr) -> Exit {
    let sentence = match interpreter::start(&[]) {
        Ok(_) => Python::attach(|py| evaluate(py, file)).err().map(|error| error.to_string()),
        Err(sentence) => Some(sentence),
    };
    if let Some(sentence) = sentence {
        eprintln!("error: {sentence}");
    }
    Exit::NotStarted
}

fn evaluate(py: Python<'_>, file: &OsStr) -> PyResult<()> {
    let environ = py.import("os")?.getattr("environ")?;
    environ.set_item(EVALUATION_VARIABLE, file)?;
    let code = pyo3::ffi::c_str!(include_str!("../python/maypole/_evaluate.py"));
    PyModule::from_code(py, code, c"<maypole/_evaluate.py>", c"maypole_evaluate")?.call_method0("main").map(drop)
}
