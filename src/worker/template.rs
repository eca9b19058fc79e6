//! The process that has the application and forks workers: it has imported the application for `--preload`, or a Python
//! program has forked it.
//!
//! *Owns*: the application. *Runs on*: the main thread, which waits for the supervisor's commands without the
//! GIL. *Invariants*: the process has no thread of Maypole's and nothing of the coroutine runtime. A worker is the
//! supervisor's child. It starts once its first message has arrived, which the supervisor sends when it knows the
//! process.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::Context;
use pyo3::prelude::*;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2};

use super::faults::Faults;
use super::logging::Loggers;
use super::place::Place;
use super::{
    Imported, ServeOptions, capture_output, ending, hooks, import, known, report_failure, run_in_place, serve_in_place,
    start_python, system,
};
use crate::cli::Exit;
use crate::config::Config;
use crate::hooks::{Hook, Worker};
use crate::interpreter::{self, Started};
use crate::link::{Command, Event, Link};
use crate::phrase::count;
use crate::sys::{self, EndAtOnce, Forked, SignalAction};
use crate::tls::Certificates;
use crate::{logs, stdlib};

/// The signals that the template ignores.
const NOT_FOR_TEMPLATE: [i32; 7] = [SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGTTIN, SIGTTOU];

/// Imports the application, unless the program that has forked this process has passed it. Forks workers until the
/// supervisor ends or wants no more of them. Returns the exit status of the process: of the template, or of a worker.
pub(super) fn run(config: &Config, place: Arc<Place>, program: Option<ServeOptions>) -> Exit {
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
    let imported = match import(config, &place, program.as_ref()) {
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
    let place = Arc::new(place);
    if let Some(options) = program {
        // A reload may have changed the settings since this process was forked.
        return run_in_place(&place, ServeOptions { imported: Some(imported), ..options });
    }
    system::show_title(config, Some(&place));
    serve_in_place(config, ServeOptions { imported: Some(imported), place: Some(place), ..ServeOptions::default() })
}

/// Imports the hooks and the application, and prepares the process for forks. A program passes its application, or has
/// each worker import it unless `--preload` is given; each worker loads the hooks then.
fn import(config: &Config, place: &Place, program: Option<&ServeOptions>) -> anyhow::Result<Imported> {
    let is_of_program = program.is_some();
    let objects = program.map(|options| options.objects.as_slice()).unwrap_or_default();
    if is_of_program && (!config.processes.preload || objects.len() == config.sites().count()) {
        Python::attach(freeze).map_err(|error| anyhow::anyhow!("{error}"))?;
        let started = Started::Before;
        return Ok(Imported { started, applications: None, hooks: None, certificates: None, loggers: None });
    }
    // The workers have the user of the settings, who may have no right to read the keys.
    let certificates = Certificates::load(&config.tls, place.seed())?;
    system::settle(config, Some(place))?;
    let started = start_python(config, is_of_program)?;
    let starting = EndAtOnce::begin();
    let imported = Python::attach(|py| {
        stdlib::prepare(py).map_err(|error| import::python_failure(py, &error))?;
        system::prepare_python(py, config).map_err(|error| import::python_failure(py, &error))?;
        known::tell(py, config, Some(place)).map_err(|error| import::python_failure(py, &error))?;
        let faults = Faults::enable(py, config).map_err(|error| import::python_failure(py, &error))?;
        import::prepare_path(py, config)?;
        let loggers = Loggers::configure(py, config)?;
        let addresses = config.bind.iter().map(ToString::to_string).collect();
        // Each worker of a program loads the hooks itself.
        let hooks = if is_of_program { None } else { import::hooks(py, config, &hooks::service(place, addresses))? };
        let hooks = hooks.map(|loaded| loaded.hooks);
        let applications = Some(import::applications(py, config, objects)?);
        // Each worker writes the stacks into its own log.
        faults.iter().try_for_each(|faults| faults.end(py)).map_err(|error| import::python_failure(py, &error))?;
        warn_of_threads(py).and_then(|()| freeze(py)).map_err(|error| import::python_failure(py, &error))?;
        Ok::<_, anyhow::Error>(Imported { started, applications, hooks, certificates, loggers })
    });
    drop(starting);
    imported
}

/// Logs which threads the import has started. A forked worker does not have them.
fn warn_of_threads(py: Python<'_>) -> PyResult<()> {
    if let Some(threads) = other_threads(py)? {
        log::warn!("the import has started {threads}: start threads in the hook post_fork, or leave --preload out");
    }
    Ok(())
}

/// Returns a phrase for the threads of the process besides the main thread and those of Maypole: `2 threads, which the
/// workers do not have ('a', 1 outside Python)`. `None`: there are none.
///
/// # Errors
/// The application has replaced attributes of `threading`.
pub fn other_threads(py: Python<'_>) -> PyResult<Option<String>> {
    let mut names = ending::names(&ending::app_threads(py)?);
    let others = sys::foreign_threads().saturating_sub(1 + names.len());
    let threads = count(names.len() + others, "thread");
    if others > 0 {
        names.push(format!("{others} outside Python"));
    }
    Ok((!names.is_empty()).then(|| format!("{threads}, which the workers do not have ({})", names.join(", "))))
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
