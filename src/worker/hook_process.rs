//! The process that calls the hooks of the whole service: the supervisor runs no code of the operator.
//!
//! *Owns*: the process. *Runs on*: the main thread calls the hooks; the thread `maypole-link` reads the supervisor's
//! calls, and queues them while a hook runs. It writes the stacks at SIGQUIT. *Invariants*: the hooks run one after another, in the order of the calls.
//! Neither a hook that fails nor one that does not return stops the service. If the supervisor ends without a stop, the
//! process ends even if a hook still runs.
//!
//! The process is not the template of `--preload`: a hook may start threads, which a process that forks must not have.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use pyo3::prelude::*;

use super::faults::{Faults, Stacks};
use super::place::Place;
use super::{hooks, import, open, report_failure, start_python, system};
use crate::cli::Exit;
use crate::config::Config;
use crate::hooks::{Hook, Hooks, Service, Worker};
use crate::interpreter::{self, Started};
use crate::link::{Command, HookCall};
use crate::sys;
use crate::{logs, stdlib};

/// If the supervisor has ended, a hook that still runs has this long.
const LAST_MOMENT: Duration = Duration::from_secs(2);

/// Calls `on_starting`, then the hooks that the supervisor names, and `on_exit` when the supervisor stops. Returns the
/// exit status of the process.
pub(super) fn run(config: &Config, place: &Arc<Place>) -> Exit {
    place.let_go_of_sockets();
    let opened = system::enter(config, Some(place)).and_then(|()| open(config));
    if let Err((exit, sentence)) = opened {
        eprintln!("error: {sentence}");
        place.say_failed(exit, sentence);
        return exit;
    }
    let exit = start(config, place).and_then(|(started, hooks)| call_all(config, place, started, hooks));
    let exit = exit.unwrap_or_else(|error| {
        let (exit, sentence) = report_failure(&error);
        place.say_failed(exit, sentence.unwrap_or_default());
        exit
    });
    logs::flush();
    exit
}

/// Starts Python, loads the hooks, and calls `on_starting`.
fn start(config: &Config, place: &Place) -> anyhow::Result<(Started, Hooks)> {
    system::settle(config, Some(place))?;
    let started = start_python(config, false)?;
    let addresses = config.bind.iter().map(ToString::to_string).collect();
    let hooks = Python::attach(|py| {
        stdlib::prepare(py).map_err(|error| import::python_failure(py, &error))?;
        system::prepare_python(py, config).map_err(|error| import::python_failure(py, &error))?;
        leave_signals_to_the_supervisor(py).map_err(|error| import::python_failure(py, &error))?;
        import::prepare_path(py, config)?;
        let loaded = import::hooks(py, config, &hooks::service(place, addresses))?.context("there is no --hooks")?;
        // The remarks on a configuration file name its functions that are never called.
        for sentence in loaded.warnings.iter().filter(|_| !place.start().hooks_are_settings) {
            log::warn!("{sentence}");
        }
        call(py, &loaded.hooks, Hook::OnStarting, None)?;
        Ok::<_, anyhow::Error>(loaded.hooks)
    })?;
    Ok((started, hooks))
}

/// Gives the signals that the supervisor acts on handlers that do nothing. A terminal and systemd send some to the whole
/// process group, and operators signal each process of the service. A handler, unlike an ignored signal, is not passed on
/// to the programs that a hook starts.
fn leave_signals_to_the_supervisor(py: Python<'_>) -> PyResult<()> {
    let signal = stdlib::get(py)?.signal.bind(py);
    let nothing = py.eval(c"lambda number, frame: None", None, None)?;
    for name in ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGTTIN", "SIGTTOU"] {
        signal.call_method1("signal", (signal.getattr(name)?, &nothing))?;
    }
    Ok(())
}

/// Calls hooks until the supervisor stops or has ended.
fn call_all(config: &Config, place: &Arc<Place>, started: Started, mut hooks: Hooks) -> anyhow::Result<Exit> {
    let (sender, commands) = mpsc::channel();
    let reader = Arc::clone(place);
    let stacks = Python::attach(|py| {
        let faults = Faults::enable(py, config)?;
        faults.as_ref().map(|faults| faults.prepare_report(py)).transpose()
    });
    let stacks = stacks.map_err(|error| anyhow!("{error}"))?;
    let read = move || read(&reader, sender, stacks.as_ref());
    let thread = sys::start_thread_without_signals("maypole-link", read);
    thread.context("cannot start the thread that reads the supervisor's calls")?;
    place.say_ready(Python::attach(interpreter::description));
    if obey(config, place, &mut hooks, &commands) {
        log_failure(|py| call(py, &hooks, Hook::OnExit, None));
    }
    logs::flush();
    // Threads that a hook has started may still run, and the exit functions may wait for them: the supervisor limits the
    // time.
    if started == Started::Here {
        interpreter::finalize();
    }
    Ok(Exit::Ok)
}

/// Queues the supervisor's commands until the supervisor ends, or wants the process to end at once.
fn read(place: &Place, commands: Sender<Command>, stacks: Option<&Stacks>) {
    while let Ok(Some((command, _))) = place.next() {
        match command {
            Command::StopNow { .. } => break,
            // A hook may run that does not return.
            Command::Report { cause } => report(&cause, stacks),
            command => {
                if commands.send(command).is_err() {
                    break;
                }
            }
        }
    }
    // The main thread ends with its queue, unless a hook runs.
    drop(commands);
    thread::sleep(LAST_MOMENT);
    sys::exit_now(Exit::Ok as i32);
}

/// Writes to the log what the threads of Python do.
fn report(cause: &str, stacks: Option<&Stacks>) {
    log::info!("{cause}: the stacks of the process of the hooks follow");
    logs::flush();
    stacks.into_iter().for_each(Stacks::write);
}

/// Calls hooks until the supervisor stops. Returns whether it stops: otherwise it has ended, or wants the end at once.
fn obey(config: &Config, place: &Place, hooks: &mut Hooks, commands: &Receiver<Command>) -> bool {
    while let Ok(command) = commands.recv() {
        match command {
            Command::Stop { .. } => return true,
            Command::Hook(wanted) => call_named(config, place, hooks, &wanted),
            Command::ReopenLogs => logs::reopen("SIGUSR1"),
            _ => log::debug!("the supervisor sent a command that is not for the process of the hooks"),
        }
    }
    false
}

/// Calls the hook that the supervisor names. After `on_reload`, loads the file again.
fn call_named(config: &Config, place: &Place, hooks: &mut Hooks, wanted: &HookCall) {
    let Some(hook) = Hook::named(&wanted.name) else {
        log::debug!("this version does not know the hook {}", wanted.name);
        return;
    };
    let &HookCall { workers, workers_before, pid, number, generation, .. } = wanted;
    let service = Service { supervisor: place.start().supervisor, workers, addresses: wanted.addresses.clone() };
    let worker = Worker { pid, number, generation };
    log_failure(|py| {
        hooks.set_service(py, &service).map_err(|error| import::python_failure(py, &error))?;
        if hook == Hook::NworkersChanged {
            return hooks::outcome(py, hook, hooks.call_with_numbers(py, workers, workers_before));
        }
        call(py, hooks, hook, (number > 0).then_some(&worker))
    });
    if hook == Hook::OnReload {
        log_failure(|py| {
            if let Some(loaded) = import::hooks(py, config, &service)? {
                *hooks = loaded.hooks.with_server_of(py, hooks);
            }
            Ok(())
        });
    }
}

fn call(py: Python<'_>, hooks: &Hooks, hook: Hook, worker: Option<&Worker>) -> anyhow::Result<()> {
    hooks::outcome(py, hook, hooks.call(py, hook, worker))
}

/// Runs `action` with the GIL, and logs its failure.
fn log_failure(action: impl FnOnce(Python<'_>) -> anyhow::Result<()>) {
    if let Err(error) = Python::attach(action) {
        log::error!("{error}");
    }
}
