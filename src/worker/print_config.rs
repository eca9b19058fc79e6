//! The output of `--print-config` and `--check-config`.
//!
//! *Owns*: nothing. *Runs on*: the main thread. *Invariants*: each line of `--print-config` is `name = value # source`.
//! A name with a dot is not a setting. `--print-config` does not import the application and creates no file.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use anyhow::{Context, anyhow};
use pyo3::prelude::*;

use crate::cli::Exit;
use crate::config::{ByteSize, Config};
use crate::interpreter::{self, Started};
use crate::server::Descriptors;
use crate::wsgi::load;
use crate::{spool, sys};

/// How the line begins that `--check-config` prints in the end.
pub(super) const CHECKED: &str = "OK: ";

/// Prints every setting with its value and source, and describes the Python that runs.
pub(super) fn print(config: &Config) -> Exit {
    let mut text = settings(config, Descriptors::of_process());
    let python = python(config).map(|lines| text.push_str(&lines));
    let written = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
    let failed = match (python, written) {
        (Err(error), _) => Some((sys::plain(error.as_ref()), Exit::NotStarted)),
        // A reader that has closed the pipe is not a failure.
        (Ok(()), Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
            Some((format!("cannot write to the standard output: {}", sys::plain(&error)), Exit::Failure))
        }
        (Ok(()), _) => None,
    };
    let Some((sentence, exit)) = failed else { return Exit::Ok };
    eprintln!("error: {sentence}");
    exit
}

/// Returns the settings as text, with the limits in effect.
fn settings(config: &Config, descriptors: Descriptors) -> String {
    let mut text = String::new();
    for (name, mut value) in config.settings() {
        let mut source = config.origins.of(name).to_string();
        match name {
            "max_connections" => {
                let most = descriptors.connections_max(config.max_connections);
                if value != most.to_string() {
                    let _ = write!(source, ", what a limit of {} open files leaves", descriptors.limit);
                    value = most.to_string();
                }
            }
            "max_suspended" if config.suspending.max_suspended.is_none() => {
                let connections = descriptors.connections_max(config.max_connections);
                value = config.suspending.suspended_max(connections).to_string();
                source.push_str(", 9/10 of max_connections");
            }
            "spool_dir" if !config.spool_dir_given && std::env::var_os("TMPDIR").is_some() => {
                "variable TMPDIR".clone_into(&mut source);
            }
            "spool_total" if config.spool_total.is_none() => {
                value = ByteSize(spool::default_total(&config.spool_dir)).to_string();
                let _ = write!(source, ", a part of what is free in {}", config.spool_dir.display());
            }
            _ => {}
        }
        line(&mut text, name, &value, &source);
    }
    line(&mut text, "system.open_files", &descriptors.limit.to_string(), "ulimit -n, the hard limit");
    text
}

/// Returns the version of Python, its environment and its module search path as text.
fn python(config: &Config) -> anyhow::Result<String> {
    let started = interpreter::start(&[config.application_name().to_owned()]).map_err(anyhow::Error::msg)?;
    let here = std::env::current_dir().context("there is no working directory")?;
    let (environment, path) = Python::attach(|py| -> PyResult<_> {
        load::prepare_path(py, &here, &config.pythonpath)?;
        let path: Vec<String> = py.import("sys")?.getattr("path")?.extract()?;
        Ok((interpreter::environment(py)?, path.join(":")))
    })
    .map_err(|error| anyhow!("{error}"))?;
    let source = match started {
        Started::Before => "the Python that runs Maypole",
        Started::Here if interpreter::environment_variable().is_some() => "variable VIRTUAL_ENV",
        Started::Here => "found beside the program",
    };
    let mut text = String::new();
    line(&mut text, "python.version", &interpreter::version(), "built in");
    line(&mut text, "python.environment", environment.as_deref().unwrap_or("none"), source);
    line(&mut text, "python.path", &path, "sys.path");
    Ok(text)
}

fn line(text: &mut String, name: &str, value: &str, source: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{name} = {value}  # {source}");
}

/// Prints that all checks have succeeded, and what was checked.
pub(super) fn checked(config: &Config) {
    let files = match spool::check(&config.spool_dir) {
        Ok(()) => "the settings, the log files and the directory of temporary files are usable".to_owned(),
        // The default directory cannot be used. If `--spool-dir` named an unusable directory, the start would have
        // failed.
        Err(_) => format!(
            "the settings and the log files are usable, no temporary file can be made in {}",
            config.spool_dir.display()
        ),
    };
    let names: Vec<_> = config.sites().map(|site| site.application().unwrap_or(config.application_name())).collect();
    let sentence = format!(
        "{CHECKED}{files}, and {} {} imported by {}\n",
        names.join(", "),
        if names.len() == 1 { "was" } else { "were" },
        Python::attach(interpreter::description)
    );
    // A reader that has closed the pipe is not a failure.
    let _ = io::stdout().write_all(sentence.as_bytes());
}
