//! The error log and the access log.
//!
//! *Owns*: the log writer of the process, a background thread that alone writes to the files; the backend of the crate
//! `log`. *Runs on*: any thread and any coroutine. They format a line and queue it; they never write it. *Invariants*:
//! only `flush` waits for a log file. The queue is bounded; a line that does not fit is dropped and counted. Data from
//! a client cannot break a line, begin a line or reach a terminal unescaped.

mod access;
mod delivery;
mod errors;
mod escape;
mod format;
mod recent;
mod selection;
mod sink;
mod syslog;
mod time;
mod writer;

use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use log::{LevelFilter, Log, Metadata, Record};

pub use self::access::{AccessLog, Entry, Field, LineSink, Observer};
use self::delivery::{Delivery, ToFunction};
pub use self::delivery::{Line, Take};
use self::errors::ErrorLog;
pub use self::format::FormatError;
pub use self::recent::{ErrorLine, LineCounts, last_errors, line_counts};
use self::sink::Sink;
use self::syslog::Syslog;
use crate::config::{Config, LogTarget, level_name};
use crate::sys::{self, Lock};

/// The logs that a server writes to directly. Error lines go through the macros of the crate `log`.
#[derive(Debug)]
pub struct Logs {
    /// The access log. `None` if it is off.
    pub access: Option<AccessLog>,
}

/// Passes error lines to the current backend. The crate `log` accepts one logger for the life of a process, but a
/// program may serve more than once, with different backends.
struct Router;

/// The error log of the stand-alone server. It stays open until the next one is opened.
static ERROR_FILE: Lock<Option<Arc<Sink>>> = Lock::new(None);

/// The same log's way to syslog.
static ERROR_SYSLOG: Lock<Option<Syslog>> = Lock::new(None);

/// The longest wait for the function that takes lines.
const DELIVERY_FLUSH_MAX: Duration = Duration::from_secs(2);

static BACKEND: Lock<Option<Arc<dyn Log>>> = Lock::new(None);

fn backend() -> Option<Arc<dyn Log>> {
    BACKEND.lock().clone()
}

impl Log for Router {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        backend().is_some_and(|backend| backend.enabled(metadata))
    }

    fn log(&self, record: &Record<'_>) {
        if let Some(backend) = backend() {
            recent::note(record);
            backend.log(record);
        }
    }

    fn flush(&self) {
        if let Some(backend) = backend() {
            backend.flush();
        }
    }
}

/// Sends error lines up to `level` to `backend` from now on.
///
/// # Errors
/// Other code in this process has already set the logger of the crate `log`.
pub fn route_to(backend: Arc<dyn Log>, level: LevelFilter) -> anyhow::Result<()> {
    static ROUTER: Router = Router;
    let mut current = BACKEND.lock();
    if current.is_none() {
        log::set_logger(&ROUTER).context("logging is set up already")?;
    }
    *current = Some(backend);
    log::set_max_level(level);
    Ok(())
}

/// Opens the logs and takes over error lines. Starts the writer's thread, so call it after the last fork.
///
/// For the stand-alone server. A server inside a program uses the program's logging and calls `route_to` instead.
///
/// # Errors
/// The access log's format is wrong (a `FormatError`), a file cannot be opened, or logging is set up already.
pub fn init(config: &Config) -> anyhow::Result<Logs> {
    let access = match &config.logs.log_config {
        Some(_) => Some(AccessLog::delivered(config)?),
        None => AccessLog::new(config)?,
    };
    open_error_log(config, true)?;
    set_level(config.log_level)?;
    Ok(Logs { access })
}

/// Opens the error log that new settings of the process name, and takes over error lines. Lines that are queued go to the
/// log of before.
///
/// # Errors
/// The file cannot be opened: the log of before stays.
pub fn change(config: &Config) -> anyhow::Result<()> {
    open_error_log(config, true)?;
    if !is_on() {
        log::set_max_level(LevelFilter::Off);
    }
    set_level(config.log_level)
}

/// Logs error lines up to `level` from now on. A log that is off stays off.
///
/// # Errors
/// There is no thread left for the writer.
pub fn set_level(level: LevelFilter) -> anyhow::Result<()> {
    if let Some(delivery) = delivery::current() {
        return route_to(Arc::new(ToFunction(delivery, level)), level);
    }
    if !is_on() {
        return Ok(());
    }
    let writer = writer::of_process()?;
    let (sink, syslog) = (ERROR_FILE.lock().clone(), ERROR_SYSLOG.lock().clone());
    if let Some(sink) = &sink {
        writer.report_to(sink);
        if let Some(syslog) = &syslog {
            syslog.report_to(sink);
        }
    }
    route_to(Arc::new(ErrorLog::new(Some(writer), sink, syslog, level)), level)
}

/// Returns whether error lines go anywhere.
fn is_on() -> bool {
    ERROR_FILE.lock().is_some() || ERROR_SYSLOG.lock().is_some()
}

/// Does the same at a command of an operator, and logs it.
///
/// # Errors
/// Those of `set_level`.
pub fn change_level(cause: &str, level: LevelFilter) -> anyhow::Result<()> {
    let before = log::max_level();
    let say = || log::info!("{cause}: the log level is {} instead of {}", level_name(level), level_name(before));
    // The line needs the wider one of the two levels.
    if level < before {
        say();
    }
    set_level(level)?;
    if level > before {
        say();
    }
    Ok(())
}

/// Passes the lines of both logs to `take` from now on, on a thread of its own, until `stop_delivery`. (After `init`, with
/// the setting `log_config`.)
///
/// # Errors
/// There is no thread left.
pub fn deliver_to(take: Take, config: &Config) -> anyhow::Result<()> {
    let level = config.log_level;
    let (sink, syslog) = (ERROR_FILE.lock().clone(), ERROR_SYSLOG.lock().clone());
    let errors = Arc::new(ErrorLog::new(Some(writer::of_process()?), sink, syslog, level));
    let delivery = Delivery::start(take, errors).context("cannot start the thread of --log-config")?;
    delivery::replace(Some(Arc::clone(&delivery)));
    route_to(Arc::new(ToFunction(delivery, level)), level)
}

/// Returns the format of the access log for Python's operator `%` with a mapping of the atoms.
///
/// # Errors
/// The format is wrong.
pub fn format_for_python(config: &Config) -> Result<String, FormatError> {
    format::Format::parse(&config.access_logformat).map(|format| format.for_python())
}

/// Writes error lines to the error log again, after `deliver_to`. Waits at most 2 s for the lines that are queued. (Without
/// the GIL.)
pub fn stop_delivery() {
    if let Some(delivery) = delivery::replace(None) {
        delivery.flush(DELIVERY_FLUSH_MAX);
        *BACKEND.lock() = Some(delivery.log());
    }
}

/// Returns whether `flush` has waited in vain for the function of `deliver_to`, which has taken no line since.
pub fn is_delivery_stuck() -> bool {
    delivery::current().is_some_and(|delivery| delivery.is_stuck())
}

/// Opens the error log and takes over error lines. Starts no thread: the thread that logs writes the line itself. For a
/// process that forks others, which call `init`.
///
/// # Errors
/// The file cannot be opened, or logging is set up already.
pub fn init_without_thread(config: &Config) -> anyhow::Result<()> {
    open_error_log(config, false)?;
    if !is_on() {
        return Ok(());
    }
    let (sink, syslog) = (ERROR_FILE.lock().clone(), ERROR_SYSLOG.lock().clone());
    route_to(Arc::new(ErrorLog::new(None, sink, syslog, config.log_level)), config.log_level)
}

/// Opens the error log's file and its way to syslog. With a thread, syslog has a writer.
fn open_error_log(config: &Config, with_thread: bool) -> anyhow::Result<()> {
    let sink = match &config.error_logfile {
        LogTarget::None => None,
        LogTarget::Standard => {
            Some(Arc::new(Sink::stderr().context("cannot open the error log on the standard error")?))
        }
        LogTarget::File(path) => {
            let sink = Sink::open(path).with_context(|| format!("cannot open the error log {}", path.display()))?;
            Some(sink)
        }
    };
    *ERROR_SYSLOG.lock() = Syslog::new(&config.logs.syslog, "error", with_thread)?;
    *ERROR_FILE.lock() = sink;
    Ok(())
}

/// Opens the log files again, after a program such as logrotate has renamed them. No line is lost: until then lines go
/// to the old files. A file that cannot be opened is logged, and its lines go on to the old file. `cause` begins the log
/// line. (Plain thread.)
pub fn reopen(cause: &str) {
    let failed = sink::reopen_all();
    for (path, error) in &failed {
        let (path, error) = (path.display(), sys::plain(error));
        log::error!("{cause}: cannot open the log {path} again: {error}; its lines go on to the old file");
    }
    if failed.is_empty() {
        log::info!("{cause}: the log files are open again");
    }
}

/// Gives the log files to a user and a group, now and after each `reopen`. Only root can do so; a process of another user
/// opens files of its own.
pub fn give_to(user: u32, group: u32) {
    for (path, error) in sink::give_all_to(user, group) {
        log::warn!("cannot give the log {} to user {user}: {}", path.display(), sys::plain(&error));
    }
}

/// Writes what the process prints to the error log, if that is a file. Lines of the access log still go to the standard
/// output, if the setting says so.
///
/// # Errors
/// Not expected.
pub fn capture_output() -> io::Result<()> {
    ERROR_FILE.lock().as_ref().map_or(Ok(()), |sink| sink.capture_output())
}

/// Returns the number of the error log's descriptor, if the error log of the stand-alone server is a file. `reopen` keeps
/// the number. It is valid until the next `init`.
pub fn error_descriptor() -> Option<RawFd> {
    ERROR_FILE.lock().as_ref()?.descriptor().map(|descriptor| descriptor.as_raw_fd())
}

/// Returns whether lines of this target and level are logged. The coroutine runtime writes an info line for every
/// descriptor, which no operator needs.
pub fn is_wanted(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let runtime = target == "may" || target.starts_with("may::");
    !runtime || metadata.level() <= log::Level::Warn
}

/// Returns whether a record matters to an operator. When a stopped process continues (SIGCONT), `epoll_wait(2)` returns
/// `EINTR`, and the runtime logs that as an error.
pub fn is_news(record: &Record<'_>) -> bool {
    record.target() != "may::io::event_loop" || !record.args().to_string().contains("kind: Interrupted")
}

/// Waits until all lines queued so far have been written: at most 5 s for files, and 2 s each for syslog and for
/// Python's logging (`--log-config`). If an earlier wait for Python's logging was in vain, does not wait for it again.
/// Returns whether the lines have been written. Call it at the end of a process, and without the GIL. It blocks the
/// thread, so a coroutine must not call it.
pub fn flush() -> bool {
    let delivered = delivery::current().is_none_or(|delivery| delivery.flush(DELIVERY_FLUSH_MAX));
    writer::flush_process() && delivered
}
