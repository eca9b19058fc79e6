//! The process in its system: working directory, umask, title, PID file, user, and environment variables.
//!
//! *Owns*: nothing. *Runs on*: the main thread, each function once. *Invariants*: the process changes its user after it
//! has opened the logs and bound the addresses, and before the application is imported.

use anyhow::Context as _;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::place::Place;
use crate::cli::Exit;
use crate::config::Config;
use crate::identity::{self, Identity, Role};
use crate::{logs, spool, stdlib, sys};

/// Shows the process under its title, and changes to the directory and the umask in the settings. Paths in the settings
/// are relative to that directory. (Before any other thread starts, and before the process opens a file.)
pub(super) fn enter(config: &Config, place: Option<&Place>) -> Result<(), (Exit, String)> {
    sys::open_standard_descriptors();
    show_title(config, place);
    if let Some(dir) = &config.chdir
        && let Err(error) = std::env::set_current_dir(dir)
    {
        return Err((Exit::NotStarted, format!("cannot change to {}: {}", dir.display(), sys::plain(&error))));
    }
    if let Some(mask) = config.umask {
        sys::set_umask(mask);
    }
    Ok(())
}

/// Shows the part of the process in the service.
pub(super) fn show_title(config: &Config, place: Option<&Place>) {
    let role = place.map_or(Role::Alone, |place| match place.start() {
        start if start.is_template => Role::Template,
        start if start.runs_hooks => Role::Hooks,
        start => Role::Worker(start.number),
    });
    identity::show_title(config, role);
}

/// Writes the PID file, and changes to the user and the group in the settings. A supervisor writes the PID file for its
/// workers. `--check-config` only looks the names up.
pub(super) fn settle(config: &Config, place: Option<&Place>) -> anyhow::Result<()> {
    let identity = Identity::of(config)?;
    if config.check_config {
        return Ok(());
    }
    if place.is_none()
        && let Some(path) = &config.processes.pid
    {
        identity::write_pid_file(path, None)?;
    }
    if let Some(identity) = identity {
        let (user, group) = identity.owner();
        logs::give_to(user, group);
        identity.assume()?;
        if config.spool_dir_given {
            spool::check(&config.spool_dir).with_context(|| format!("as user {user}"))?;
        }
    }
    Ok(())
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
