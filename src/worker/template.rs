//! The process that has imported the application for `--preload`, and forks workers.
//!
//! *Owns*: the imported application. *Runs on*: the main thread, which waits for the supervisor's commands without the
//! GIL. *Invariants*: the process has no thread of Maypole's and nothing of the coroutine runtime. A worker is the
//! supervisor's child. It starts once its first message has arrived, which the supervisor sends when it knows the
//! process.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::Context;
use pyo3::prelude::*;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2};

use super::faults::Faults;
use super::place::Place;
use super::{
    Imported, ServeOptions, capture_output, ending, hooks, import, known, report_failure, serve_in_place, start_python,
    system,
};
use crate::cli::Exit;
use crate::config::Config;
use crate::hooks::{Hook, Worker};
use crate::interpreter;
use crate::link::{Command, Event, Link};
use crate::phrase::count;
use crate::sys::{self, EndAtOnce, Forked, SignalAction};
use crate::{logs, stdlib};

/// The signals that the template ignores.
const NOT_FOR_TEMPLATE: [i32; 7] = [SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGTTIN, SIGTTOU];

/// Imports the application, and forks workers until the supervisor ends or wants no more of them. Returns the exit status
/// of the process: of the template, or of a worker.
pub(super) fn run(config: &Config, place: Arc<Place>, application: Option<Py<PyAny>>) -> Exit {
    place.let_go_of_sockets();
    let opened = system::enter(config, Some(&place)).and_then(|()| {
        logs::init_without_thread(config).map_err(|error| (Exit::NotStarted, sys::plain(error.as_ref())))?;
        capture_output(config)
    });
    if let Err((exit, sentence)) = opened {
        eprintln!("error: {sentence}");
        place.say_failed(exit, sentence);
        return exit;
    }
    let imported = match import(config, &place, application) {
        Ok(imported) => imported,
        Err(error) => {
            let (exit, sentence) = report_failure(&error);
            place.say_failed(exit, sentence.unwrap_or_default());
            return exit;
        }
    };
    // A terminal, or an operator who signals each process of the service, means the supervisor. A worker has the earlier
    // actions again.
    let before = NOT_FOR_TEMPLATE.map(SignalAction::current);
    NOT_FOR_TEMPLATE.map(SignalAction::ignored).iter().for_each(SignalAction::restore);
    place.say_ready(Python::attach(interpreter::description));
    let Some(end) = obey(&place, &imported) else {
        // The exit functions belong to the workers.
        sys::exit_now(Exit::Ok as i32);
    };
    // The link of the template is not the worker's.
    drop(place);
    before.iter().for_each(SignalAction::restore);
    let place = match Place::first_of(Link::from(end)) {
        Ok(place) if sys::end_with_parent(place.start().supervisor) => place,
        // The supervisor has ended.
        Ok(_) | Err(_) => sys::exit_now(Exit::NotStarted as i32),
    };
    system::show_title(config, Some(&place));
    let options = ServeOptions { imported: Some(imported), place: Some(Arc::new(place)), ..ServeOptions::default() };
    serve_in_place(config, options)
}

/// Imports the hooks and the application, and prepares the process for forks.
fn import(config: &Config, place: &Place, application: Option<Py<PyAny>>) -> anyhow::Result<Imported> {
    system::settle(config, Some(place))?;
    let started = start_python(config, application.is_some())?;
    let starting = EndAtOnce::begin();
    let imported = Python::attach(|py| {
        stdlib::prepare(py).map_err(|error| import::python_failure(py, &error))?;
        system::prepare_python(py, config).map_err(|error| import::python_failure(py, &error))?;
        known::tell(py, config, Some(place)).map_err(|error| import::python_failure(py, &error))?;
        let faults = Faults::enable(py, config).map_err(|error| import::python_failure(py, &error))?;
        if application.is_none() {
            import::prepare_path(py, config)?;
        }
        let addresses = config.bind.iter().map(ToString::to_string).collect();
        let hooks = import::hooks(py, config, &hooks::service(place, addresses))?.map(|loaded| loaded.hooks);
        let application = application.map_or_else(|| import::application(py, config), Ok)?;
        // Each worker writes the stacks into its own log.
        faults.iter().try_for_each(|faults| faults.end(py)).map_err(|error| import::python_failure(py, &error))?;
        warn_of_threads(py).and_then(|()| freeze(py)).map_err(|error| import::python_failure(py, &error))?;
        Ok::<_, anyhow::Error>(Imported { started, application, hooks })
    });
    drop(starting);
    imported
}

/// Logs which threads the import has started. A forked worker does not have them.
fn warn_of_threads(py: Python<'_>) -> PyResult<()> {
    let mut names = ending::names(&ending::app_threads(py)?);
    let others = sys::threads().saturating_sub(1 + names.len());
    if others > 0 {
        names.push(format!("{others} outside Python"));
    }
    if !names.is_empty() {
        let (threads, names) = (count(names.len() - usize::from(others > 0) + others, "thread"), names.join(", "));
        log::warn!(
            "the import has started {threads}, which the workers do not have ({names}): start threads in the hook \
             post_fork, or leave --preload out"
        );
    }
    Ok(())
}

/// Collects garbage, and takes what was imported out of later collections. These would write to memory that the workers
/// share.
fn freeze(py: Python<'_>) -> PyResult<()> {
    let gc = py.import("gc")?;
    gc.call_method0("collect")?;
    gc.call_method0("freeze").map(drop)
}

/// Forks workers. Returns the worker's end of its link in a worker, and `None` at the end of the template.
fn obey(place: &Place, imported: &Imported) -> Option<OwnedFd> {
    while let Ok(Some((command, descriptors))) = place.next() {
        match command {
            Command::Fork { number, generation } => {
                let Some(end) = descriptors.into_iter().next() else { continue };
                match fork(imported, number, generation) {
                    Ok(Forked::There) => return Some(end),
                    Ok(Forked::Here(pid)) => place.say(&Event::Forked { pid, number, generation }),
                    Err(reason) => {
                        let reason = format!("{reason:#}");
                        place.say(&Event::NotForked { number, generation, reason });
                    }
                }
            }
            Command::ReopenLogs => logs::reopen("SIGUSR1"),
            Command::Report { cause } => {
                log::info!("{cause}: the template has imported the application, and waits for orders to fork workers");
            }
            Command::Stop { .. } | Command::StopNow { .. } => break,
            _ => log::debug!("the supervisor sent a command that is not for a template"),
        }
    }
    None
}

/// Forks a worker.
fn fork(imported: &Imported, number: usize, generation: u64) -> anyhow::Result<Forked> {
    Python::attach(|py| {
        if let Some(hooks) = &imported.hooks {
            let worker = Worker { pid: 0, number, generation };
            hooks::outcome(py, Hook::PreFork, hooks.call(py, Hook::PreFork, Some(&worker)))?;
        }
        // Otherwise, each worker would write what the import has left in the buffers.
        stdlib::flush_output(py);
        let os = stdlib::get(py).map_err(|error| import::python_failure(py, &error))?.os.bind(py);
        let fork = || os.call_method0("fork").and_then(|pid| pid.extract::<i32>()).map_err(|error| error.to_string());
        sys::fork_twice(fork).map_err(anyhow::Error::msg).context("fork(2)")
    })
}
