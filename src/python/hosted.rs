//! A service with workers inside a Python program: `maypole.serve(app, workers=4)`.
//!
//! *Owns*: nothing. *Runs on*: the program's main thread, which becomes the supervisor's and waits without the GIL.
//! *Invariants*: the program is forked before anything of the supervisor exists. The child is the template of the
//! service: neither it nor a worker that it forks ever returns to the program's code.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{self, AssertUnwindSafe};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use super::convert;
use crate::cli::Exit;
use crate::config::{Config, Keyword};
use crate::link::Link;
use crate::supervisor::{self, Host};
use crate::sys::{self, Program};
use crate::worker::{self, ServeOptions};
use crate::{signals, stdlib};

/// Serves with workers until a signal stops the service. Returns the exit code.
pub(super) fn serve(py: Python<'_>, config: Config, given: &[Keyword], options: ServeOptions) -> PyResult<u8> {
    if let Some(sentence) = refusal(&config, given, !options.objects.is_empty()) {
        return Err(PyValueError::new_err(sentence));
    }
    if sys::has_runtime() {
        return Err(PyRuntimeError::new_err(
            "serve() cannot fork workers, because a server has started in this process; call it before any other server",
        ));
    }
    // Imported before the fork, so that an error is the program's.
    let forked = py.import("maypole._forked")?;
    let program = program(py)?;
    let threads = worker::other_threads(py)?;
    let (link, theirs) = Link::pair().map_err(|error| convert::os_error(&error.into()))?;
    let supervisor = std::process::id();
    forked.call_method0("flush")?;
    let template: i32 = stdlib::get(py)?.os.bind(py).call_method0("fork")?.extract()?;
    if template == 0 {
        drop(link);
        end_as_template(py, &forked, supervisor, theirs, options);
    }
    drop(theirs);
    let (wake, end) = UnixStream::pair()?;
    end.set_nonblocking(true)?;
    let python = OwnedFd::from(end);
    let wakes = signals::wake_on_signals(py, &python)?;
    let host = Host::new((template.cast_unsigned(), link), threads, wake, worker::run_signal_handlers)?;
    let exit = py.detach(|| supervisor::run_hosted(config, || Ok(program), host));
    if wakes {
        signals::wake_no_more(py)?;
    }
    Ok(exit as u8)
}

/// Returns why the settings do not suit a program. `None`: they do.
fn refusal(config: &Config, given: &[Keyword], is_object: bool) -> Option<String> {
    let is_off = |name: &str| given.iter().any(|(known, values)| known == name && values == &["false"]);
    if config.processes.reload {
        return Some(
            "reload=True cannot renew the code that the program has imported: use the command maypole --reload".into(),
        );
    }
    (is_object && is_off("preload")).then(|| {
        "preload=False needs the application's name, \"module:callable\": an object exists before the workers".into()
    })
}

/// Runs the template, or a worker that it has become, and ends the process.
fn end_as_template(
    py: Python<'_>,
    forked: &Bound<'_, PyModule>,
    supervisor: u32,
    link: Link,
    options: ServeOptions,
) -> ! {
    let run = || {
        if !sys::end_with_parent(supervisor) || forked.call_method0("begin").is_err() {
            return Exit::NotStarted;
        }
        py.detach(|| worker::run_template(link, options))
    };
    // A panic must not reach the program's code.
    let exit = panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or(Exit::Failure);
    sys::exit_now(exit as i32)
}

/// Returns the program that the process of the hooks is started with: a fresh interpreter that finds the same modules.
fn program(py: Python<'_>) -> PyResult<Program> {
    let (python, words) = py.import("maypole._forked")?.call_method0("command")?.extract()?;
    Ok(Program::new(python, words)?)
}
