//! Finds the application: `MODULE[:CALLABLE]`, `dir/file.py:app`, `module:factory("argument")`.
//!
//! *Runs on*: the main thread, once, with the GIL held. *Invariants*: an error is one message, with the traceback if
//! the application's own code raised.

use std::fmt;
use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyModule, PyTuple};

use super::{asynchronous, module, patched};
use crate::stdlib;

/// The attributes to try if the specification does not name one.
const DEFAULT_NAMES: [&str; 2] = ["application", "app"];
/// The maximum number of names in a message.
const OFFERED_MAX: usize = 8;

/// Why the application could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadError {
    /// The specification has a syntax error.
    Malformed(String),
    /// There is no such module or attribute.
    NotFound(String),
    /// The object cannot be called, or not with WSGI's arguments.
    NotCallable(String),
    /// The application has replaced the standard library's threads.
    Patched(String),
    /// Code of the application raised an exception.
    Failed {
        /// The step that failed.
        message: String,
        /// The exception, as Python prints it.
        traceback: String,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(message)
            | Self::NotFound(message)
            | Self::NotCallable(message)
            | Self::Patched(message) => f.write_str(message),
            Self::Failed { message, traceback } => write!(f, "{message}\n{traceback}"),
        }
    }
}

impl std::error::Error for LoadError {}

/// Puts the working directory first on `sys.path`, and the further entries behind it.
///
/// # Errors
/// `sys.path` is not a list, or an entry is not text.
pub fn prepare_path(py: Python<'_>, working_dir: &Path, further: &[PathBuf]) -> PyResult<()> {
    for dir in further.iter().rev().map(PathBuf::as_path).chain([working_dir]) {
        put_first(py, dir)?;
    }
    Ok(())
}

pub(super) fn put_first(py: Python<'_>, dir: &Path) -> PyResult<()> {
    let path = py.import("sys")?.getattr("path")?.cast_into::<PyList>()?;
    if path.get_item(0).and_then(|first| first.eq(dir.as_os_str())).unwrap_or(false) {
        return Ok(());
    }
    path.insert(0, dir.as_os_str())
}

/// Imports the application that `spec` names. With `factory`, calls it and takes the result.
///
/// # Errors
/// See `LoadError`.
pub fn load(py: Python<'_>, spec: &str, factory: bool) -> Result<Py<PyAny>, LoadError> {
    let (module_name, expression) = split(spec);
    if module_name.is_empty() {
        return Err(LoadError::Malformed(format!("'{spec}' names no module: it should be MODULE or MODULE:CALLABLE")));
    }
    let module = module::import(py, module_name)?;
    let found = match expression {
        Some(expression) => evaluate(&module, spec, expression)?,
        None => match module::directory_of(&module, module_name) {
            Some(why) => return Err(LoadError::NotFound(why)),
            None => default(&module, module_name)?,
        },
    };
    let found = if factory {
        if !found.is_callable() {
            return Err(LoadError::NotCallable(format!(
                "'{spec}' is not a factory: {} cannot be called",
                described(&found)
            )));
        }
        found.call0().map_err(|error| failed(py, format!("the factory '{spec}' failed:"), &error))?
    } else {
        found
    };
    usable(spec, &found)?;
    Ok(found.unbind())
}

/// Refuses a callable that is not a WSGI application, and patched threads.
pub(super) fn usable(spec: &str, found: &Bound<'_, PyAny>) -> Result<(), LoadError> {
    if !found.is_callable() {
        let what = described(found);
        return Err(LoadError::NotCallable(format!("'{spec}' is not an application: {what} cannot be called")));
    }
    if let Some(why) = asynchronous::unfit(found) {
        return Err(LoadError::NotCallable(format!("'{spec}' {why}")));
    }
    match patched::patched_by(found.py()) {
        Some(library) => Err(LoadError::Patched(format!("'{spec}' cannot be served: {}", patched::sentence(library)))),
        None => Ok(()),
    }
}

/// Splits a specification into module and expression at the first colon. Names of modules and paths have no colon.
fn split(spec: &str) -> (&str, Option<&str>) {
    match spec.split_once(':') {
        Some((module, expression)) if !expression.trim().is_empty() => (module.trim(), Some(expression.trim())),
        Some((module, _)) => (module.trim(), None),
        None => (spec.trim(), None),
    }
}

fn default<'py>(module: &Bound<'py, PyModule>, name: &str) -> Result<Bound<'py, PyAny>, LoadError> {
    for attribute in DEFAULT_NAMES {
        match module.getattr_opt(attribute) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(error) => return Err(failed(module.py(), format!("reading '{name}:{attribute}' failed:"), &error)),
        }
    }
    let message = format!("module '{name}' has neither 'application' nor 'app'; name the callable: {name}:NAME");
    Err(LoadError::NotFound(message + &offer(module)))
}

/// Evaluates a dotted name, or a call of one with literal arguments.
fn evaluate<'py>(module: &Bound<'py, PyModule>, spec: &str, expression: &str) -> Result<Bound<'py, PyAny>, LoadError> {
    let py = module.py();
    let Some((name, _)) = expression.split_once('(') else { return attribute(module, spec, expression) };
    let callable = attribute(module, spec, name.trim())?;
    let (args, kwargs) = arguments(py, expression).map_err(|_| {
        LoadError::Malformed(format!(
            "'{expression}' is not a call whose arguments are literals, such as {name}('text', debug=True)"
        ))
    })?;
    callable.call(args, Some(&kwargs)).map_err(|error| failed(py, format!("calling '{spec}' failed:"), &error))
}

fn attribute<'py>(module: &Bound<'py, PyModule>, spec: &str, name: &str) -> Result<Bound<'py, PyAny>, LoadError> {
    let py = module.py();
    let mut found = module.clone().into_any();
    for part in name.split('.') {
        found = match found.getattr_opt(part) {
            Ok(Some(found)) => found,
            Ok(None) => {
                let message = format!("{} has no '{part}'", described(&found));
                let offered = if found.is(module) { offer(module) } else { String::new() };
                return Err(LoadError::NotFound(message + &offered));
            }
            Err(error) => return Err(failed(py, format!("reading '{spec}' failed:"), &error)),
        };
    }
    Ok(found)
}

/// Returns the literal arguments of a call.
fn arguments<'py>(py: Python<'py>, call: &str) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
    let ast = stdlib::get(py)?.ast.bind(py);
    let mode = PyDict::new(py);
    mode.set_item("mode", "eval")?;
    let body = ast.call_method("parse", (call,), Some(&mode))?.getattr("body")?;
    let literal = |node: Bound<'py, PyAny>| ast.call_method1("literal_eval", (node,));
    let args = body.getattr("args")?.try_iter()?.map(|node| literal(node?)).collect::<PyResult<Vec<_>>>()?;
    let kwargs = PyDict::new(py);
    for keyword in body.getattr("keywords")?.try_iter()? {
        let keyword = keyword?;
        kwargs.set_item(keyword.getattr("arg")?, literal(keyword.getattr("value")?)?)?;
    }
    Ok((PyTuple::new(py, args)?, kwargs))
}

/// Returns the module's public names that could be the application, as the end of a message.
fn offer(module: &Bound<'_, PyModule>) -> String {
    let own = module.name().ok();
    let mut names: Vec<String> = Vec::new();
    for (name, value) in module.dict().iter() {
        let Ok(name) = name.extract::<String>() else { continue };
        let defined_in = value.getattr_opt("__module__").ok().flatten();
        let is_foreign_type = value.is_instance_of::<pyo3::types::PyType>()
            && !matches!((&defined_in, &own), (Some(there), Some(own)) if there.eq(own).unwrap_or(false));
        if !name.starts_with('_') && !is_foreign_type && value.is_callable() {
            names.push(name);
        }
    }
    names.sort();
    match names.len() {
        0 => "; nothing in it can be called".to_owned(),
        len => {
            let more = if len > OFFERED_MAX { ", …" } else { "" };
            names.truncate(OFFERED_MAX);
            format!("; it has: {}{more}", names.join(", "))
        }
    }
}

fn described(object: &Bound<'_, PyAny>) -> String {
    match object.cast::<PyModule>().ok().and_then(|module| module.name().ok()) {
        Some(name) => format!("module '{name}'"),
        None => format!("an object of type {}", super::start_response::type_name(object)),
    }
}

pub(super) fn failed(py: Python<'_>, message: String, error: &PyErr) -> LoadError {
    LoadError::Failed { message, traceback: super::traceback(py, error) }
}
