//! The process in its system: working directory, umask, title, PID file, user, and environment variables.
//!
//! *Owns*: nothing. *Runs on*: the main thread, each function once. *Invariants*: the process changes its user after it
//! has opened the logs and bound the addresses, and before the application is imported.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::place::Place;
use crate::cli::Exit;
use crate::config::Config;
use crate::identity::{self, Role};
use crate::stdlib;

/// Makes the process what the settings say before it opens a file. (Before any other thread starts.)
pub(super) fn enter(config: &Config, place: Option<&Place>) -> Result<(), (Exit, String)> {
    identity::enter(config, role(place)).map_err(|sentence| (Exit::NotStarted, sentence))
}

/// Shows the part of the process in the service.
pub(super) fn show_title(config: &Config, place: Option<&Place>) {
    identity::show_title(config, role(place));
}

fn role(place: Option<&Place>) -> Role {
    place.map_or(Role::Alone, |place| match place.start() {
        start if start.is_template => Role::Template,
        start if start.runs_hooks => Role::Hooks,
        start => Role::Worker(start.number),
    })
}

/// Writes the PID file, and changes to the user and the group in the settings. A supervisor writes the PID file for its
/// workers. `--check-config` only looks the names up.
pub(super) fn settle(config: &Config, place: Option<&Place>) -> anyhow::Result<()> {
    identity::settle(config, place.is_none())
}

/// Sets the variables of `--raw-env`, and writes what the application prints line by line if it goes to the error log.
pub(super) fn prepare_python(py: Python<'_>, config: &Config) -> PyResult<()> {
    let environ = stdlib::get(py)?.os.bind(py).getattr("environ")?;
    for variable in &config.processes.raw_env {
        environ.set_item(&variable.name, &variable.value)?;
    }
    if config.processes.capture_output {
        let options = PyDict::new(py);
        options.set_item("line_buffering", true)?;
        let stdout = py.import("sys")?.getattr("stdout")?;
        // A program may have put another object in its place.
        if stdout.hasattr("reconfigure")? {
            stdout.call_method("reconfigure", (), Some(&options))?;
        }
    }
    Ok(())
}
