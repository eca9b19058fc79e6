//! Finds and starts Python for the stand-alone binary.
//!
//! *Runs on*: the main thread, once, before any other use of Python. *Invariants*: the interpreter has the minor
//! version that the binary was built for; a virtual environment of another version is refused. *Source*: PEP 587, PEP
//! 405.
#![allow(unsafe_code, reason = "pyo3 glue: PyConfig")]

use std::ffi::{CStr, CString, OsStr, c_char};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use pyo3::ffi;
use pyo3::prelude::*;

use crate::sys;

/// The interpreter of the build. It is used if no other is found.
const BUILD_PYTHON: Option<&str> = option_env!("MAYPOLE_PYTHON");

/// Who started the interpreter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// Maypole started it, and finalizes it.
    Here,
    /// It was already running: Maypole is a module in it.
    Before,
}

/// Starts the interpreter with `argv` as `sys.argv`, and leaves the GIL released. Does nothing if it is already
/// running.
///
/// # Errors
/// One sentence for the user: the virtual environment is of another version, or Python says why it cannot start.
pub fn start(argv: &[String]) -> Result<Started, String> {
    // SAFETY: may be called at any time.
    if unsafe { ffi::Py_IsInitialized() } != 0 {
        return Ok(Started::Before);
    }
    // Python's handler runs on the thread's stack for handlers, and a second signal may interrupt it.
    sys::enlarge_signal_stack();
    let program =
        find_program(environment_variable().as_deref(), std::env::current_exe().ok().as_deref(), library_version())?;
    let argv = argv.iter().map(|argument| c_string(argument.as_ref())).collect::<Result<Vec<_>, _>>()?;
    let program = program.map(|program| c_string(program.as_os_str())).transpose()?;
    let mut pointers: Vec<*const c_char> = argv.iter().map(|argument| argument.as_ptr()).collect();
    // SAFETY: the structure is initialised before it is used and cleared on every way out; all strings live throughout.
    unsafe {
        let mut config = std::mem::MaybeUninit::<ffi::PyConfig>::zeroed();
        let config = config.as_mut_ptr();
        ffi::PyConfig_InitPythonConfig(config);
        (*config).parse_argv = 0;
        (*config).install_signal_handlers = 1;
        let mut status = ffi::PyStatus_Ok();
        if let Some(program) = &program {
            status = ffi::PyConfig_SetBytesString(config, &raw mut (*config).program_name, program.as_ptr());
        }
        if ffi::PyStatus_Exception(status) == 0 {
            status = ffi::PyConfig_SetBytesArgv(config, pointers.len().cast_signed(), pointers.as_mut_ptr());
        }
        if ffi::PyStatus_Exception(status) == 0 {
            status = ffi::Py_InitializeFromConfig(config);
        }
        ffi::PyConfig_Clear(config);
        if ffi::PyStatus_Exception(status) != 0 {
            return Err(format!("cannot start Python: {}", message(status)));
        }
        ffi::PyEval_SaveThread();
    }
    Ok(Started::Here)
}

/// Returns the virtual environment in the variable `VIRTUAL_ENV`, which an activated environment sets.
pub fn environment_variable() -> Option<PathBuf> {
    std::env::var_os("VIRTUAL_ENV").filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// Returns the virtual environment of the running Python. `None` if it has none.
///
/// # Errors
/// The application has removed or replaced attributes of `sys`.
pub fn environment(py: Python<'_>) -> PyResult<Option<String>> {
    let sys = py.import("sys")?;
    let prefix: String = sys.getattr("prefix")?.extract()?;
    let base: String = sys.getattr("base_prefix")?.extract()?;
    Ok((prefix != base).then_some(prefix))
}

/// Returns the version of the running Python: `3.11.7`.
pub fn version() -> String {
    Python::version_str().split_whitespace().next().unwrap_or_default().to_owned()
}

/// Describes the running Python and its virtual environment: `CPython 3.11.7, /srv/shop/venv`.
pub fn description(py: Python<'_>) -> String {
    let environment = environment(py).ok().flatten();
    format!("CPython {}{}", version(), environment.map(|dir| format!(", {dir}")).unwrap_or_default())
}

/// Returns a warning if Python was already running and `VIRTUAL_ENV` names another environment than its own.
pub fn other_environment() -> Option<String> {
    let named = environment_variable()?;
    let own = Python::attach(|py| py.import("sys")?.getattr("prefix")?.extract::<PathBuf>()).ok()?;
    let is_own = named.canonicalize().is_ok_and(|named| own.canonicalize().is_ok_and(|own| own == named));
    (!is_own).then(|| {
        let (named, own) = (named.display(), own.display());
        format!("VIRTUAL_ENV is {named}, but this Maypole is installed in {own} and imports the packages there")
    })
}

fn message(status: ffi::PyStatus) -> String {
    if status.err_msg.is_null() {
        return format!("it wants to exit with status {}", status.exitcode);
    }
    // SAFETY: CPython gives a static string.
    unsafe { CStr::from_ptr(status.err_msg) }.to_string_lossy().into_owned()
}

fn c_string(text: &OsStr) -> Result<CString, String> {
    CString::new(text.as_bytes()).map_err(|_| format!("{} has a NUL character", text.display()))
}

/// Returns the minor version of the Python that this binary is linked to.
fn library_version() -> u8 {
    // SAFETY: a static string; may be called before the interpreter starts.
    let text = unsafe { CStr::from_ptr(ffi::Py_GetVersion()) }.to_string_lossy();
    minor_version(&text).unwrap_or_default()
}

/// Returns the minor version in a version: 11 of `3.11.7 (main, …)`.
fn minor_version(text: &str) -> Option<u8> {
    text.trim().strip_prefix("3.")?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Returns the program whose environment Python will use: the Python of the active virtual environment, else the Python
/// in the directory of Maypole's executable, else the Python of the build.
fn find_program(virtual_env: Option<&Path>, own: Option<&Path>, minor: u8) -> Result<Option<PathBuf>, String> {
    if let Some(dir) = virtual_env {
        return checked(dir, minor).map(Some);
    }
    let beside = own.and_then(Path::parent).and_then(|bin| {
        let fits = bin.parent().is_some_and(|prefix| environment_version(prefix) == Some(minor));
        fits.then(|| ["python3", "python"].map(|name| bin.join(name)).into_iter().find(|path| path.is_file())).flatten()
    });
    Ok(beside.or_else(|| BUILD_PYTHON.map(PathBuf::from).filter(|path| path.is_file())))
}

/// Returns the Python of the virtual environment in `VIRTUAL_ENV`, if its version is right.
fn checked(dir: &Path, minor: u8) -> Result<PathBuf, String> {
    let name = dir.display();
    if !dir.is_dir() {
        let why = if dir.exists() { "is not a directory" } else { "does not exist" };
        return Err(format!("the virtual environment {name} {why} (variable VIRTUAL_ENV)"));
    }
    let version = environment_version(dir);
    if version.is_none() && !dir.join("pyvenv.cfg").is_file() {
        return Err(format!("{name} is not a virtual environment: it has no pyvenv.cfg (variable VIRTUAL_ENV)"));
    }
    if let Some(found) = version.filter(|found| *found != minor) {
        return Err(format!(
            "the virtual environment {name} is for Python 3.{found}, but this maypole is for Python 3.{minor}: \
             build one with PYO3_PYTHON naming that environment's Python"
        ));
    }
    let program = ["bin/python", "bin/python3"].map(|python| dir.join(python)).into_iter().find(|path| path.exists());
    program.ok_or_else(|| {
        format!(
            "the virtual environment {name} has no bin/python, or the Python that it was made from is gone \
             (variable VIRTUAL_ENV)"
        )
    })
}

/// Returns the minor version of the environment in `dir`, if it can be found: in `pyvenv.cfg` (`version` by venv,
/// `version_info` by virtualenv), or from its only directory `lib/python3.*`.
fn environment_version(dir: &Path) -> Option<u8> {
    let config = fs::read_to_string(dir.join("pyvenv.cfg")).unwrap_or_default();
    let said = config.lines().filter_map(|line| line.split_once('=')).find_map(|(key, value)| {
        matches!(key.trim(), "version" | "version_info").then(|| minor_version(value)).flatten()
    });
    said.or_else(|| {
        let mut found = fs::read_dir(dir.join("lib"))
            .ok()?
            .filter_map(|entry| minor_version(entry.ok()?.file_name().to_str()?.strip_prefix("python")?));
        let first = found.next()?;
        found.all(|other| other == first).then_some(first)
    })
}

/// Finalizes Python: runs exit functions and flushes buffers. No thread may use Python afterwards. (Main thread.)
pub fn finalize() {
    // SAFETY: no call is running. The GIL is taken and not released, because no interpreter is left after the
    // finalization.
    unsafe {
        ffi::PyGILState_Ensure();
        ffi::Py_FinalizeEx();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn environment(config: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::write(dir.path().join("bin/python3"), "").unwrap();
        fs::write(dir.path().join("pyvenv.cfg"), config).unwrap();
        dir
    }

    #[test]
    fn virtual_env_of_the_same_version_gives_its_python() {
        let dir = environment("home = /usr/bin\nversion = 3.11.7\n");
        let program = find_program(Some(dir.path()), None, 11).unwrap();
        assert_eq!(program, Some(dir.path().join("bin/python3")));
    }

    #[test]
    fn virtual_env_of_another_version_is_refused_with_both_versions() {
        let dir = environment("version_info = 3.9.18.final.0\n");
        let error = find_program(Some(dir.path()), None, 11).unwrap_err();
        assert!(error.contains("3.9") && error.contains("3.11"), "{error}");
    }

    #[test]
    fn virtual_env_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = |dir: &Path| find_program(Some(dir), None, 11).unwrap_err();
        assert!(
            error(dir.path()).ends_with("is not a virtual environment: it has no pyvenv.cfg (variable VIRTUAL_ENV)")
        );
        assert!(error(&dir.path().join("none")).ends_with("does not exist (variable VIRTUAL_ENV)"));
        fs::write(dir.path().join("pyvenv.cfg"), "version = 3.11.7\n").unwrap();
        assert!(error(dir.path()).contains("has no bin/python"), "{}", error(dir.path()));
    }

    #[test]
    fn python_beside_the_executable_is_used_only_if_its_version_fits() {
        let dir = environment("version = 3.12.1\n");
        let own = dir.path().join("bin/maypole");
        assert_eq!(find_program(None, Some(&own), 12).unwrap(), Some(dir.path().join("bin/python3")));
        assert_ne!(find_program(None, Some(&own), 11).unwrap(), Some(dir.path().join("bin/python3")));
    }
}
