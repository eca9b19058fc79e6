//! Imports the module that the operator named, by its name or by its file.
//!
//! *Runs on*: the main thread, once, with the GIL held. *Invariants*: a named file runs even if another module has its
//! name. No module of the standard library is replaced. *Source*: the Python library's `importlib`; for files inside
//! packages, the behaviour of `flask --app`.

use std::path::{Path, PathBuf};

use pyo3::exceptions::PyModuleNotFoundError;
use pyo3::prelude::*;
use pyo3::types::{PyModule, PyString};

use super::load::{LoadError, failed, put_first};
use crate::config::command_for;
use crate::{stdlib, sys};

/// The prefix for the module name of a file if another module has the file's name.
const PREFIX: &str = "maypole_file_";

/// Frequent names of an application's file.
const LIKELY: [&str; 4] = ["wsgi.py", "app.py", "main.py", "application.py"];

/// Modules of the standard library whose import has a visible effect: they print text or open a browser.
const SPEAKING: [&str; 2] = ["antigravity", "this"];

/// Imports `module`, a dotted name or a path. A word with a slash is a path, and so is the name of an existing file
/// that ends with `.py`. Any other word is the name of a module or, if there is no such module, of a file.
pub(super) fn import<'py>(py: Python<'py>, module: &str) -> Result<Bound<'py, PyModule>, LoadError> {
    let path = Path::new(module);
    let is_python = path.extension().is_some_and(|extension| extension == "py") && path.is_file();
    if !is_python && !module.contains('/') && !matches!(module, "." | "..") {
        return match import_name(py, module) {
            Err(LoadError::NotFound(_)) if path.is_file() => import_file(py, path),
            result => result,
        };
    }
    match file_of(path) {
        Some(file) => import_file(py, &file),
        None if path.is_dir() => Err(LoadError::NotFound(directory(module, path))),
        None => Err(LoadError::NotFound(format!("there is no file '{module}'"))),
    }
}

/// Returns the file for a path: the path itself, the package's `__init__.py`, or the path with `.py` appended.
fn file_of(path: &Path) -> Option<PathBuf> {
    let mut with_extension = path.as_os_str().to_owned();
    with_extension.push(".py");
    [path.to_owned(), path.join("__init__.py"), with_extension.into()].into_iter().find(|file| file.is_file())
}

/// Returns a message that suggests a file instead of a directory that is not a package.
fn directory(named: &str, path: &Path) -> String {
    let likely = LIKELY.map(|name| path.join(name)).into_iter().find(|file| file.is_file());
    let example = likely.unwrap_or_else(|| path.join(LIKELY[0]));
    format!("'{named}' is a directory: name the file of the application in it, such as {}", example.display())
}

/// Returns that message if Python has imported a directory without `__init__.py` as a namespace package.
pub(super) fn directory_of(module: &Bound<'_, PyModule>, named: &str) -> Option<String> {
    let path = Path::new(named);
    let has_file = module.getattr_opt("__file__").ok().flatten().is_some_and(|file| !file.is_none());
    (!has_file && path.is_dir() && !path.join("__init__.py").exists()).then(|| directory(named, path))
}

fn import_file<'py>(py: Python<'py>, path: &Path) -> Result<Bound<'py, PyModule>, LoadError> {
    let file = path.canonicalize().map_err(|error| {
        LoadError::NotFound(format!("the file '{}' cannot be read: {}", path.display(), sys::plain(&error)))
    })?;
    let Named { place, package, own } = Named::of(&file);
    put_first(py, &place).map_err(|error| failed(py, "cannot change sys.path:".to_owned(), &error))?;
    let search = |error: PyErr| failed(py, format!("looking for '{}' failed:", file.display()), &error);
    let is_python = file.extension().is_some_and(|extension| extension == "py");
    if let Some(package) = package {
        let top = package.split('.').next().unwrap_or(&package);
        let init = place.join(top).join("__init__.py");
        if !finds(py, top, &init).map_err(search)? {
            return Err(LoadError::NotFound(format!(
                "'{}' is in the package '{top}' of {}, but Python finds another module of that name: give the package \
                 another name",
                file.display(),
                place.display(),
            )));
        }
        return match own {
            // The file is `__init__.py`.
            None => import_name(py, &package),
            Some(own) if is_python && !own.contains('.') => import_name(py, &format!("{package}.{own}")),
            Some(own) => {
                import_name(py, &package)?;
                run_file(py, &format!("{package}.{}", plain(&own, is_python)), &file)
            }
        };
    }
    let own = own.unwrap_or_default();
    let name = plain(&own, is_python);
    if is_python && name == own && finds(py, &name, &file).map_err(search)? {
        return import_name(py, &name);
    }
    let name = if is_taken(py, &name).map_err(search)? { format!("{PREFIX}{name}") } else { name };
    run_file(py, &name, &file)
}

/// The position of a file among Python's modules.
struct Named {
    /// The directory to put on `sys.path`.
    place: PathBuf,
    /// The dotted name of the package that contains the file.
    package: Option<String>,
    /// The file's name without `.py`; `None` for a package's `__init__.py`.
    own: Option<String>,
}

impl Named {
    /// Finds the package of a file: the chain of directories with `__init__.py` above it whose names have no dot.
    fn of(file: &Path) -> Self {
        let mut place = file.parent().unwrap_or(Path::new("/")).to_owned();
        let mut packages = Vec::new();
        while place.join("__init__.py").is_file()
            && let Some(name) = place.file_name().and_then(|name| name.to_str()).filter(|name| !name.contains('.'))
            && let Some(above) = place.parent()
        {
            packages.push(name.to_owned());
            place = PathBuf::from(above);
        }
        packages.reverse();
        let package = (!packages.is_empty()).then(|| packages.join("."));
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let own = name.strip_suffix(".py").unwrap_or(&name);
        let own = (package.is_none() || own != "__init__").then(|| own.to_owned());
        Self { place, package, own }
    }
}

/// Returns a module name for a file, without dots, which would mean a package. The name includes the extension, because
/// `shop.wsgi` often imports `shop`.
fn plain(own: &str, is_python: bool) -> String {
    let name = own.replace('.', "_");
    if name.is_empty() || (!is_python && name == own) { format!("{PREFIX}{name}") } else { name }
}

/// Returns whether importing `name` gives this file, and not another module that is found first or already loaded.
fn finds(py: Python<'_>, name: &str, file: &Path) -> PyResult<bool> {
    if is_standard(py, name)? && !is_loaded(py, name)? && !SPEAKING.contains(&name) {
        // Load the standard library's module first, so that its users get it and not the file. An error is ignored:
        // its users would fail as well.
        let _ = stdlib::load(py, name);
    }
    let stdlib = stdlib::get(py)?;
    let spec = match stdlib.importlib_util.bind(py).call_method1("find_spec", (name,)) {
        // The loaded module has no `__spec__`, so its file is unknown.
        Err(error) if error.is_instance_of::<pyo3::exceptions::PyValueError>(py) => return Ok(false),
        result => result?,
    };
    if spec.is_none() {
        return Ok(false);
    }
    let origin = spec.getattr("origin")?.extract::<PathBuf>().ok().and_then(|origin| origin.canonicalize().ok());
    Ok(origin.is_some_and(|origin| file.canonicalize().is_ok_and(|file| file == origin)))
}

fn is_taken(py: Python<'_>, name: &str) -> PyResult<bool> {
    if is_standard(py, name)? || is_loaded(py, name)? {
        return Ok(true);
    }
    let spec = stdlib::get(py)?.importlib_util.bind(py).call_method1("find_spec", (name,))?;
    Ok(!spec.is_none())
}

fn is_loaded(py: Python<'_>, name: &str) -> PyResult<bool> {
    py.import("sys")?.getattr("modules")?.contains(name)
}

fn is_standard(py: Python<'_>, name: &str) -> PyResult<bool> {
    py.import("sys")?.getattr("stdlib_module_names")?.contains(name)
}

/// Runs a file as the module `name`, like an import. Writes nothing to `__pycache__`, where `app.wsgi` and `app.py`
/// would share one file.
fn run_file<'py>(py: Python<'py>, name: &str, file: &Path) -> Result<Bound<'py, PyModule>, LoadError> {
    let run = || -> PyResult<Bound<'py, PyModule>> {
        let stdlib = stdlib::get(py)?;
        let path = PyString::new(py, &file.to_string_lossy());
        let loader = stdlib.importlib_machinery.bind(py).call_method1("SourceFileLoader", (name, &path))?;
        let util = stdlib.importlib_util.bind(py);
        let options = pyo3::types::PyDict::new(py);
        options.set_item("loader", &loader)?;
        let spec = util.call_method("spec_from_file_location", (name, &path), Some(&options))?;
        let module = util.call_method1("module_from_spec", (spec,))?.cast_into::<PyModule>()?;
        let source = loader.call_method1("get_data", (&path,))?;
        let code = loader.call_method1("source_to_code", (source, &path))?;
        let modules = py.import("sys")?.getattr("modules")?;
        modules.set_item(name, &module)?;
        let ran = py.import("builtins")?.call_method1("exec", (code, module.dict()));
        if ran.is_err() {
            // A failed import removes its module from `sys.modules`.
            let _ = modules.del_item(name);
        }
        ran.map(|_| module)
    };
    run().map_err(|error| failed(py, format!("importing '{}' failed:", file.display()), &error))
}

fn import_name<'py>(py: Python<'py>, name: &str) -> Result<Bound<'py, PyModule>, LoadError> {
    py.import(name).map_err(|error| {
        // If the missing module is one that the application imports, the message needs the traceback.
        let missing = error
            .is_instance_of::<PyModuleNotFoundError>(py)
            .then(|| error.value(py).getattr("name").and_then(|name| name.extract::<String>()).ok())
            .flatten();
        match missing {
            Some(missing) if missing == name || name.starts_with(&format!("{missing}.")) => {
                let path = py.import("sys").and_then(|sys| sys.getattr("path")?.extract::<Vec<String>>());
                let places = path.unwrap_or_default().join(", ");
                let whose = if missing == name { String::new() } else { format!(" (for '{name}')") };
                let meant = command_for(name).unwrap_or_default();
                LoadError::NotFound(format!("there is no module '{missing}'{whose} on sys.path: {places}{meant}"))
            }
            _ => failed(py, format!("importing '{name}' failed:"), &error),
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn file_in_a_chain_of_packages_has_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("shop/web");
        std::fs::create_dir_all(&inner).unwrap();
        for file in ["shop/__init__.py", "shop/web/__init__.py", "shop/web/wsgi.py", "app.py"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        let named = |file: &str| {
            let Named { place, package, own } = Named::of(&dir.path().join(file));
            assert_eq!(place, dir.path());
            (package, own)
        };
        assert_eq!(named("shop/web/wsgi.py"), (Some("shop.web".to_owned()), Some("wsgi".to_owned())));
        assert_eq!(named("shop/web/__init__.py"), (Some("shop.web".to_owned()), None));
        assert_eq!(named("app.py"), (None, Some("app".to_owned())));
    }

    #[test]
    fn plain_name_has_no_dots_and_keeps_what_says_the_kind() {
        assert_eq!(plain("app", true), "app");
        assert_eq!(plain("my.app", true), "my_app");
        assert_eq!(plain("app.wsgi", false), "app_wsgi");
        assert_eq!(plain("app", false), "maypole_file_app");
    }
}
