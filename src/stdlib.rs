//! The modules of Python's standard library that the server uses, imported once and kept.
//!
//! *Owns*: references to these modules. *Runs on*: `prepare` on the thread that starts Python or imports the extension
//! module; `get` on any thread that holds the GIL. *Invariants*: the modules are imported before any directory of the
//! application is searched, so that a project may have files named `signal.py` or `threading.py`. *Source*: PEP 302,
//! PEP 451.

use pyo3::exceptions::{PyImportError, PyKeyError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyModule};

/// Names each module once: its field, and its name in Python.
macro_rules! modules {
    ($($field:ident: $name:literal),* $(,)?) => {
        /// Modules of the standard library.
        #[derive(Debug)]
        pub struct Stdlib {
            $(#[doc = $name] pub $field: Py<PyModule>,)*
        }

        impl Stdlib {
            fn import(py: Python<'_>) -> PyResult<Self> {
                Ok(Self { $($field: py.import($name)?.unbind(),)* })
            }
        }
    };
}

modules! {
    ast: "ast",
    atexit: "atexit",
    configparser: "configparser",
    faulthandler: "faulthandler",
    functools: "functools",
    importlib_machinery: "importlib.machinery",
    importlib_util: "importlib.util",
    io: "io",
    logging_config: "logging.config",
    os: "os",
    signal: "signal",
    threading: "threading",
    traceback: "traceback",
    types: "types",
    urllib_parse: "urllib.parse",
}

/// Further modules that Maypole's Python code imports: `taken.py`, and the package if it is installed.
const FURTHER: [&str; 13] = [
    "collections.abc",
    "contextlib",
    "copy",
    "errno",
    "importlib",
    "logging",
    "select",
    "socket",
    "threading",
    "time",
    "typing",
    "warnings",
    "weakref",
];

static STDLIB: PyOnceLock<Stdlib> = PyOnceLock::new();

/// The modules.
///
/// # Errors
/// One of them cannot be imported.
pub fn get(py: Python<'_>) -> PyResult<&Stdlib> {
    STDLIB.get_or_try_init(py, || import(py))
}

/// Imports the modules, so that a directory that is put on `sys.path` later hides none of them.
///
/// # Errors
/// One of them cannot be imported.
pub fn prepare(py: Python<'_>) -> PyResult<()> {
    get(py).map(drop)
}

fn import(py: Python<'_>) -> PyResult<Stdlib> {
    library_first(py, || {
        for name in FURTHER {
            // Python may be built without one of these modules. The server then works if the application does not need
            // the module.
            if let Err(error) = py.import(name)
                && !error.is_instance_of::<PyImportError>(py)
            {
                return Err(error);
            }
        }
        Stdlib::import(py)
    })
}

/// Writes what the application has printed and Python has buffered.
pub fn flush_output(py: Python<'_>) {
    for stream in ["stdout", "stderr"] {
        // A closed stream has nothing to flush.
        let _ = py.import("sys").and_then(|sys| sys.getattr(stream)?.call_method0("flush"));
    }
}

/// Loads the module of this name from the standard library, so that every later `import` of the name returns it.
///
/// # Errors
/// The library has no module of this name, or the module raises an exception.
pub fn load(py: Python<'_>, name: &str) -> PyResult<()> {
    library_first(py, || py.import(name).map(drop))
}

/// Runs `import` while names in the standard library refer to its modules, whatever is first on `sys.path`.
fn library_first<T>(py: Python<'_>, import: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    let helper = PyDict::new(py);
    py.run(pyo3::ffi::c_str!(include_str!("stdlib.py")), Some(&helper), None)?;
    let function = |name: &str| helper.get_item(name)?.ok_or_else(|| PyKeyError::new_err(name.to_owned()));
    let finder = function("begin")?.call0()?;
    let imported = import();
    function("end")?.call1((finder,))?;
    imported
}
