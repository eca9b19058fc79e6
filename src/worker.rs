//! A stand-alone process, from its settings to its exit: interpreter, application, listeners, instance, signals.
//!
//! *Owns*: the process. *Runs on*: the main thread, which waits without the GIL for the signal to stop. *Invariants*:
//! no other module starts the handling of signals. Once the "listening" line is logged, requests are served. A worker
//! tells its supervisor instead of logging that line.

mod alarms;
mod asker;
mod commands;
mod ending;
mod faults;
mod growth;
mod heartbeat;
mod holder;
mod hook_process;
mod hooks;
mod import;
mod inspector;
mod known;
mod logging;
mod notified;
mod operator;
mod place;
mod print_config;
mod recycling;
mod reexec;
mod reload;
mod reporter;
mod sampler;
mod shown;
mod sockets;
mod system;
mod template;

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use pyo3::prelude::*;

use self::ending::Guard;
pub use self::ending::run_signal_handlers;
use self::faults::Faults;
use self::hooks::WorkerHooks;
use self::import::{Object, python_failure};
use self::logging::Loggers;
use self::notified::Notified;
use self::operator::Operator;
use self::place::Place;
use self::reexec::{Again, Restart};
pub use self::reexec::{VARIABLE as KEPT, close_kept};
use self::reload::Reload;
use self::reporter::Reporter;
use self::shown::Shown;
use self::sockets::Sockets;
pub use self::template::other_threads;
use crate::cli::{self, Exit};
use crate::config::Config;
use crate::executor::gate;
use crate::hooks::Hooks;
use crate::instance::{self, Instance, Parts};
use crate::interpreter::{self, Started};
use crate::link::{Event, Link};
use crate::listener::Listener;
use crate::logs::{self, AccessLog};
use crate::server::{Descriptors, Given};
use crate::signals::{ProgramHandlers, Signals};
use crate::sys::{EndAtOnce, Program, SignalMask, errno};
use crate::tls::{CertificateError, Certificates};
use crate::wsgi::Application;
use crate::wsgi::load::LoadError;
use crate::{identity, spool, stdlib, sys};

/// How long idle threads of the server may take to end.
const END_OF_THREADS: Duration = Duration::from_secs(1);
/// A worker that stops, and whose idle clients wait for another worker, closes them this long before the end of
/// `--graceful-timeout`.
const LAST_SECOND: Duration = Duration::from_secs(1);

/// The objects that a Python program passes to the server that it runs. A command line passes none.
#[derive(Default)]
pub struct ServeOptions {
    /// The applications that are objects. The settings name the others.
    pub objects: Vec<Object>,
    /// Extra entries in the environ of every request.
    pub environ: Vec<(String, Py<PyAny>)>,
    /// Whether the program continues after the server has stopped. Otherwise, the process ends then.
    pub goes_on: bool,
    /// How the process can start again at SIGHUP. `None`: it cannot.
    pub(crate) again: Option<Again>,
    /// The place of this worker. `None` without a supervisor.
    pub(crate) place: Option<Arc<Place>>,
    /// What a template has imported before it forked this worker.
    pub(crate) imported: Option<Imported>,
}

/// What a process imports before it serves.
pub(crate) struct Imported {
    started: Started,
    /// In the order of `Config::sites`. `None`: each worker of a program imports those that the settings name.
    applications: Option<Vec<Py<PyAny>>>,
    hooks: Option<Hooks>,
    /// The certificates, from before the process has changed its user. `None`: each worker reads them.
    certificates: Option<Arc<Certificates>>,
    /// The loggers of `--log-config`. `None` also if each worker configures them.
    loggers: Option<Loggers>,
}

/// Runs a worker. `link` is the number of its end of the link to the supervisor (`link::VARIABLE`). Returns the exit
/// status of the process.
pub fn run_linked(link: &OsStr) -> Exit {
    let place = match Place::receive(link) {
        Ok(place) => Arc::new(place),
        Err(error) => {
            eprintln!("error: cannot start as a worker: {}", sys::plain(error.as_ref()));
            return Exit::NotStarted;
        }
    };
    if place.start().is_template {
        return cli::run_again(&place.words(), |config| template::run(&config, place, None));
    }
    run_in_place(&place, ServeOptions::default())
}

/// Does what the place says, with the settings that it gives.
fn run_in_place(place: &Arc<Place>, options: ServeOptions) -> Exit {
    let exit = cli::run_again(&place.words(), |config| {
        if place.start().runs_hooks {
            return hook_process::run(&config, place);
        }
        serve(&config, ServeOptions { place: Some(Arc::clone(place)), ..options })
    });
    if exit != Exit::Ok {
        place.say_failed(exit, "the line before this one says why".to_owned());
    }
    exit
}

/// Runs the template of a service inside a Python program, in a child of the program, and in each process that the
/// template forks a worker. `link` is the template's end of its link to the supervisor. Returns the exit status of a
/// process that is to end, after the exit functions that were registered in it.
pub fn run_template(link: Link, options: ServeOptions) -> Exit {
    let place = match Place::first_of(link) {
        Ok(place) => Arc::new(place),
        // The supervisor has logged why it has not started.
        Err(_) => return Exit::NotStarted,
    };
    let exit = cli::run_again(&place.words(), |config| template::run(&config, place, Some(options)));
    ending::end_python();
    logs::flush();
    exit
}

/// Forks if this is process 1 of a container: the child continues, and the parent stays as an init. `--init off`
/// prevents this. Only for a command line, before anything is started.
pub fn run_behind_init(config: &Config, fork: impl FnOnce() -> Result<i32, String>) {
    if !config.init || config.check_config || config.print_config || !sys::is_first_process() {
        return;
    }
    if let Err(error) = sys::run_behind_init(fork) {
        eprintln!("warning: process 1 serves without an init, so orphans stay as zombies (--init): {error}");
    }
}

/// Serves the application that the settings name. `program` starts this process again at SIGHUP. `kept` is the value of
/// `KEPT`, which the caller has removed from the environment. (At the start of the process.)
pub fn serve_command(config: &Config, program: io::Result<Program>, kept: Option<OsString>) -> Exit {
    let again = match program {
        Ok(program) => Some(Again::new(program, kept)),
        Err(error) => {
            eprintln!("warning: the process cannot start again at SIGHUP: {}", sys::plain(&error));
            close_kept(kept.as_ref());
            None
        }
    };
    serve(config, ServeOptions { again, ..ServeOptions::default() })
}

/// Serves the given application, or the application that the settings name, until a signal to stop arrives. Returns
/// only when the server has stopped or cannot start. If the settings ask for it, only prints or checks them.
pub fn serve(config: &Config, options: ServeOptions) -> Exit {
    let entered = system::enter(config, options.place.as_deref());
    if entered.is_ok() && config.print_config {
        for sentence in instance::unknown_variables().into_iter().chain(config.file_warnings()) {
            eprintln!("warning: {sentence}");
        }
        return print_config::print(config);
    }
    match entered {
        Ok(()) => serve_in_place(config, options),
        Err((exit, sentence)) => {
            eprintln!("error: {sentence}");
            if let Some(place) = options.place {
                place.say_failed(exit, sentence);
            }
            exit
        }
    }
}

/// Serves once the process is in its directory.
fn serve_in_place(config: &Config, options: ServeOptions) -> Exit {
    let place = options.place.clone();
    let (exit, sentence) = match open(config) {
        Ok(opened) => {
            if let Some(level) = place.as_ref().and_then(|place| place.start().log_level.as_deref()) {
                commands::set_log_level(level);
            }
            if place.is_none() {
                // The supervisor of a worker has said it.
                instance::warn_of_variables();
                instance::announce_file(config);
            }
            let ended = run(config, options, opened).map_or_else(|error| report_failure(&error), |exit| (exit, None));
            logs::stop_delivery();
            logs::flush();
            ended
        }
        Err((exit, sentence)) => {
            eprintln!("error: {sentence}");
            (exit, Some(sentence))
        }
    };
    identity::remove_pid_file();
    if let (Some(place), Some(sentence)) = (place, sentence) {
        place.say_failed(exit, sentence);
    }
    exit
}

/// Checks the limits of the process and the directory of temporary files, and opens the logs.
fn open(config: &Config) -> Result<logs::Logs, (Exit, String)> {
    let descriptors = Descriptors::of_process().check();
    let files = if config.spool_dir_given { spool::check(&config.spool_dir) } else { Ok(()) };
    descriptors
        .and_then(|()| files.map_err(|error| error.to_string()))
        .map_err(|sentence| (Exit::NotStarted, sentence))?;
    let opened = logs::init(config).map_err(|error| {
        let exit = if error.is::<logs::FormatError>() { Exit::Usage } else { Exit::NotStarted };
        (exit, sys::plain(error.as_ref()))
    })?;
    capture_output(config)?;
    Ok(opened)
}

/// Sends what the process prints to the error log, if the settings ask for it.
fn capture_output(config: &Config) -> Result<(), (Exit, String)> {
    let captured = if config.processes.capture_output { logs::capture_output() } else { Ok(()) };
    captured.map_err(|error| (Exit::NotStarted, format!("cannot capture the output: {}", sys::plain(&error))))
}

/// Logs why the process cannot start. Returns its exit status, and the reason.
fn report_failure(error: &anyhow::Error) -> (Exit, Option<String>) {
    let sentence = sys::plain(error.as_ref());
    let is_lack = |cause: &io::Error| matches!(cause.raw_os_error(), Some(errno::EMFILE));
    if error.chain().filter_map(|cause| cause.downcast_ref()).any(is_lack) {
        let limit = sys::descriptor_limit();
        log::error!("cannot start: {sentence}; the process may have {limit} open (`ulimit -n`)");
    } else {
        log::error!("{sentence}");
    }
    let exit = match error {
        _ if error.is::<LoadError>() => Exit::NotImportable,
        _ if error.is::<CertificateError>() => Exit::Usage,
        _ => Exit::NotStarted,
    };
    (exit, Some(in_one_line(&sentence)))
}

/// Returns the first line of a text. If a traceback follows, adds the line that names the exception, which comes after
/// the last indented line of a frame. The exception's message may have further lines.
fn in_one_line(text: &str) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let first = lines.first().copied().unwrap_or_default().trim_end_matches(':');
    let frame = lines.iter().rposition(|line| line.starts_with("  File \""));
    let exception = frame.and_then(|frame| lines[frame..].iter().find(|line| !line.starts_with(' ')));
    exception
        .or(lines.get(1..).and_then(<[_]>::last))
        .map_or_else(|| first.to_owned(), |line| format!("{first}: {line}"))
}

/// Runs the process once its logs are open: from binding the addresses to the end of Python.
fn run(config: &Config, mut options: ServeOptions, opened: logs::Logs) -> anyhow::Result<Exit> {
    // Until handlers are installed, the kernel drops signals to process 1. Blocked signals stay pending.
    let late = sys::is_first_process().then(SignalMask::block_all);
    let again = options.again.take();
    let late = again.as_ref().and_then(Again::mask).or(late);
    let read = options.imported.as_mut().and_then(|imported| imported.certificates.take());
    let Sockets { listeners, addresses, connections, certificates, shown: known, mut callers } =
        Sockets::open(config, options.place.as_deref(), again.as_ref(), read)?;
    let is_shown = !config.check_config;
    let shown = is_shown.then(|| Shown::start(config, options.place.as_deref(), known, options.goes_on));
    let (_status, shown) = shown.transpose()?.unzip();
    system::settle(config, options.place.as_deref())?;
    let started = match &options.imported {
        Some(imported) => imported.started,
        None => start_python(config, options.goes_on)?,
    };
    // A program's own handlers stay in place until the server handles signals.
    let starting = (!options.goes_on).then(EndAtOnce::begin);
    late.iter().for_each(SignalMask::restore);
    let faults = Python::attach(|py| Faults::enable(py, config)).map_err(|error| anyhow!("{error}"))?;
    if let Some(shown) = &shown {
        Python::attach(|py| shown.prepare(py));
    }
    let (applications, hooks) = prepare(config, &mut options, opened.access.as_ref(), &listeners)?;
    if config.check_config {
        print_config::checked(config);
        return Ok(Exit::Ok);
    }
    let handlers = options.goes_on.then(|| Python::attach(ProgramHandlers::current)).transpose();
    let handlers = handlers.map_err(|error| anyhow!("{error}"))?;
    let late = SignalMask::block_all();
    drop(starting);
    // At the end of Python, its fault handler restores the actions of signals that it has found. Those are the server's,
    // so that SIGQUIT does not end a process that ends. A program that goes on gets its own back.
    let prepare = || Python::attach(|py| Reporter::prepare(py, faults.as_ref()));
    let early = options.goes_on.then(&prepare);
    let signals = Signals::install(options.place.is_some(), options.goes_on);
    let reporter = early.unwrap_or_else(&prepare);
    late.restore();
    let (reporter, signals) = (reporter?, signals?);
    let (config, access_log) = (Arc::new(config.clone()), opened.access);
    let settings = Arc::clone(&config);
    let slot = shown.as_ref().map(|shown| shown.slot().clone());
    let systemd = slot.as_ref().filter(|_| options.place.is_none()).and_then(Notified::find);
    let (limit, is_worker) = (config.graceful_timeout, options.place.is_some());
    let shown_in = slot.clone();
    let parts =
        Parts { config, listeners, applications, access_log, pool: None, slot: shown_in, certificates, is_worker };
    let instance = Arc::new(Instance::start(parts)?);
    slot.map_or(Ok(()), |slot| heartbeat::start(slot, options.place.as_ref(), &settings, &instance))?;
    let sender = signals.sender()?;
    let restart = again.map(|again| {
        Restart::prepare(again, addresses, shown.as_ref().map(Arc::downgrade).unwrap_or_default(), &settings, sender)
    });
    if let Some(shown) = &shown {
        let operator = Operator::new(signals.sender()?, &instance, restart.clone(), limit);
        shown.serves(&instance, settings.status.alarm_after, operator)?;
    }
    instance.server().enter_kept(connections);
    let mut guard = Guard::start(signals, reporter, &instance, restart, limit, systemd)?;
    let python = Python::attach(interpreter::description);
    if let Some(place) = &options.place {
        obey(place, &instance, &mut guard, limit, python)?;
    } else {
        instance.announce(&python);
        callers.respond(&operator::reloaded());
    }
    let exit = drain(&guard, &instance, options.place.as_deref());
    end(guard, &instance, exit, started, hooks.as_deref(), handlers.map(|handlers| (handlers, faults)))
}

/// Begins to obey the supervisor, and tells it that the worker serves. `limit` is the longest time of a stop.
fn obey(
    place: &Arc<Place>,
    instance: &Arc<Instance>,
    guard: &mut Guard,
    limit: Duration,
    python: String,
) -> anyhow::Result<()> {
    instance.server().promise_receivers(limit.saturating_sub(LAST_SECOND));
    commands::obey(place, instance, guard.take_sender())?;
    let start = place.start();
    log::debug!("worker {} of {} serves", start.number, start.workers);
    place.say_ready(python);
    Ok(())
}

/// Waits for a stop, and until the server has drained. Returns the exit status of the process.
fn drain(guard: &Guard, instance: &Instance, place: Option<&Place>) -> Exit {
    let exit = guard.drain(|| place.iter().for_each(|place| place.say(&Event::Left)));
    // The heartbeat may have looked a second ago, and the sum keeps what the meters show now.
    instance.server().show();
    let given = instance.server().given();
    if let Some(place) = place.filter(|_| given != Given::default()) {
        place.say_given_at_stop(given);
    }
    exit
}

/// Ends the drained server, and Python if it was started here. `program` has what a program that continues gets back.
fn end(
    mut guard: Guard,
    instance: &Instance,
    exit: Exit,
    started: Started,
    hooks: Option<&WorkerHooks>,
    program: Option<(ProgramHandlers, Option<Faults>)>,
) -> anyhow::Result<Exit> {
    if program.is_none() {
        guard.begin_end(exit);
    }
    logs::flush();
    instance.close(true);
    if let Some(hooks) = hooks {
        let served = instance.server().numbers().served;
        Python::attach(|py| hooks.end(py, served));
    }
    if let Some((handlers, faults)) = program {
        guard.end();
        let restored = Python::attach(|py| {
            faults.iter().try_for_each(|faults| faults.end(py))?;
            handlers.restore(py)
        });
        restored.map_err(|error| anyhow!("{error}"))?;
        return Ok(exit);
    }
    // Every call has ended. When Python ends, no thread of the server may be inside Python.
    // The thread of the log does not leave Python if a handler has not returned by now.
    let limit = if logs::is_delivery_stuck() { Duration::ZERO } else { END_OF_THREADS };
    if !gate::close(limit) {
        log::warn!("a thread of the server is still inside Python: the process ends without Python's own end");
        guard.leave(exit);
    }
    Python::attach(|py| guard.look_at_threads(py));
    if started == Started::Here {
        interpreter::finalize();
    } else if reexec::is_due() {
        ending::end_python();
    }
    if reexec::is_due() {
        identity::remove_pid_file();
        reexec::go_on();
    }
    Ok(exit)
}

/// Starts Python, unless it runs already.
fn start_python(config: &Config, goes_on: bool) -> anyhow::Result<Started> {
    let started = interpreter::start(&[config.application_name().to_owned()]).map_err(anyhow::Error::msg)?;
    if started == Started::Before
        && !goes_on
        && let Some(sentence) = interpreter::other_environment()
    {
        log::warn!("{sentence}");
    }
    Ok(started)
}

/// The applications with their calls, and the hooks of the worker.
type Prepared = (Vec<Arc<Application>>, Option<Arc<WorkerHooks>>);

/// Imports the hooks and the applications, unless the program passed them, and prepares the calls.
fn prepare(
    config: &Config,
    options: &mut ServeOptions,
    access_log: Option<&AccessLog>,
    listeners: &[Listener],
) -> anyhow::Result<Prepared> {
    let addresses = listeners.iter().map(Listener::url).collect();
    let is_shared = listeners.iter().any(Listener::is_shared);
    Python::attach(|py| {
        // Import these modules before the application's directories are searched.
        stdlib::prepare(py).map_err(|error| python_failure(py, &error))?;
        system::prepare_python(py, config).map_err(|error| python_failure(py, &error))?;
        let mut environ =
            known::tell(py, config, options.place.as_deref()).map_err(|error| python_failure(py, &error))?;
        environ.append(&mut options.environ);
        let place = options.place.as_ref().filter(|_| config.processes.reload);
        let reload = place.map(|place| Reload::start(py, config, place)).transpose()?;
        let (imported, loaded, configured) = match options.imported.take() {
            Some(imported) => (imported.applications, imported.hooks, imported.loggers),
            None => (None, None, None),
        };
        let objects = std::mem::take(&mut options.objects);
        // A program that passes its applications finds its modules itself.
        if imported.is_none() && config.sites().count() > objects.len() {
            import::prepare_path(py, config)?;
        }
        let loggers = configured.map_or_else(|| Loggers::configure(py, config), |loggers| Ok(Some(loggers)))?;
        let mut hooks = None;
        if let Some(place) = &options.place {
            let service = hooks::service(place, addresses);
            let loaded = match loaded {
                None => import::hooks(py, config, &service)?.map(|loaded| loaded.hooks),
                Some(hooks) => Some(hooks),
            };
            hooks = loaded.map(|loaded| WorkerHooks::begin(py, loaded, place, &service)).transpose()?;
        }
        let found = imported.map_or_else(|| import::applications(py, config, &objects), Ok);
        if let (Some(hooks), Ok(callables)) = (&hooks, &found) {
            hooks.initialized(py, config, callables)?;
        }
        let callables = match reload {
            Some(reload) => reload.applications(py, found, config.sites().count())?,
            None => found?,
        };
        let applications = instance::applications(py, callables, config, access_log, is_shared, &environ, false);
        let applications = applications.map_err(|error| python_failure(py, &error))?;
        loggers.filter(|_| !config.check_config).map_or(Ok(()), |loggers| loggers.begin(config))?;
        Ok((applications, hooks))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_of_a_failed_import_names_the_exception() {
        let traceback = "importing 'shop' failed:\nTraceback (most recent call last):\n  File \"shop.py\", line 1, in <module>\n    \
                         query()\n    ^^^^^^^\nDatabaseError: no such table\n [SQL: SELECT 1]\n(Background at a page)\n";
        assert_eq!(in_one_line(traceback), "importing 'shop' failed: DatabaseError: no such table");
        assert_eq!(in_one_line("there is no module 'shop'"), "there is no module 'shop'");
        assert_eq!(in_one_line("two\nlines\n"), "two: lines");
    }
}
