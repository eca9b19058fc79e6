//! Loads the application from a `PasteDeploy` file: `FILE.ini` or `FILE.ini#NAME`.
//!
//! *Runs on*: the main thread, once, with the GIL held. *Invariants*: the file's logging is set up before the
//! application is imported, so that its log lines appear. *Source*: `PasteDeploy`'s `loadapp`;
//! `logging.config.fileConfig` of the Python library.

use std::path::{Path, absolute};

use pyo3::exceptions::PyModuleNotFoundError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::load::{LoadError, failed, usable};
use crate::stdlib;

/// Loads the application that `spec` names, or `main` if `spec` has no name.
///
/// # Errors
/// See `LoadError`.
pub fn load(py: Python<'_>, spec: &str) -> Result<Py<PyAny>, LoadError> {
    let (file, name) = split(spec);
    let path = absolute(file).ok().filter(|path| path.is_file());
    let path = path.ok_or_else(|| LoadError::NotFound(format!("there is no file '{file}'")))?;
    set_up_logging(py, &path).map_err(|error| failed(py, format!("the logging of '{file}' is wrong:"), &error))?;
    let deploy = py.import("paste.deploy").map_err(|error| {
        if is_missing(py, &error) {
            let needs = "--paste needs PasteDeploy: pip install PasteDeploy";
            return LoadError::NotFound(needs.to_owned());
        }
        failed(py, "importing PasteDeploy failed:".to_owned(), &error)
    })?;
    let found = uri(py, &path).and_then(|uri| {
        let options = PyDict::new(py);
        options.set_item("name", name)?;
        deploy.call_method("loadapp", (uri,), Some(&options))
    });
    let found = found.map_err(|error| failed(py, format!("loading '{spec}' failed:"), &error))?;
    usable(spec, &found)?;
    Ok(found.unbind())
}

/// Splits `spec` into file and name at the last `#`, because a name has no `#`.
fn split(spec: &str) -> (&str, Option<&str>) {
    match spec.rsplit_once('#') {
        Some((file, "")) => (file, None),
        Some((file, name)) => (file, Some(name)),
        None => (spec, None),
    }
}

/// Returns whether `PasteDeploy` is not installed. A missing module that it imports is a different error.
fn is_missing(py: Python<'_>, error: &PyErr) -> bool {
    let name = error.value(py).getattr("name").and_then(|name| name.extract::<String>());
    error.is_instance_of::<PyModuleNotFoundError>(py)
        && name.is_ok_and(|name| name == "paste" || name == "paste.deploy")
}

/// Returns the path as a quoted `config:` URI, which `PasteDeploy` unquotes.
fn uri(py: Python<'_>, path: &Path) -> PyResult<String> {
    let quoted = stdlib::get(py)?.urllib_parse.bind(py).call_method1("quote", (path.as_os_str(),))?;
    Ok(format!("config:{}", quoted.extract::<String>()?))
}

/// Sets up logging if the file has a section `loggers`, as pserve does. Existing loggers stay enabled.
fn set_up_logging(py: Python<'_>, path: &Path) -> PyResult<()> {
    let lenient = PyDict::new(py);
    lenient.set_item("strict", false)?;
    let parser = stdlib::get(py)?.configparser.bind(py).call_method("RawConfigParser", (), Some(&lenient))?;
    parser.call_method1("read", (path.as_os_str(), "utf-8"))?;
    if !parser.call_method1("has_section", ("loggers",))?.is_truthy()? {
        return Ok(());
    }
    let defaults = PyDict::new(py);
    defaults.set_item("__file__", path.as_os_str())?;
    defaults.set_item("here", path.parent().unwrap_or(Path::new("/")).as_os_str())?;
    let options = PyDict::new(py);
    options.set_item("defaults", defaults)?;
    options.set_item("disable_existing_loggers", false)?;
    options.set_item("encoding", "utf-8")?;
    stdlib::get(py)?.logging_config.bind(py).call_method("fileConfig", (path.as_os_str(),), Some(&options)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec_is_parted_at_the_last_mark() {
        assert_eq!(split("site.ini"), ("site.ini", None));
        assert_eq!(split("site.ini#admin"), ("site.ini", Some("admin")));
        assert_eq!(split("a#b/site.ini#admin"), ("a#b/site.ini", Some("admin")));
        assert_eq!(split("site.ini#"), ("site.ini", None));
    }
}
