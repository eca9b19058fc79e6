//! Error lines and access lines.
//!
//! *Owns*: the process's log writer, a background thread that alone writes to the files; the crate `log`'s backend.
//! *Runs on*: any thread and any coroutine: a line is formatted where it arises and queued, never written there.
//! *Invariants*: nobody waits for a log file but `flush`; the queue is bounded, what does not fit is dropped and counted;
//! nothing that a client sends can break a line, begin one or reach a terminal unescaped.

mod access;
mod errors;
mod escape;
mod format;
mod time;
mod writer;

use std::sync::{Arc, PoisonError, RwLock};

use ::log::{LevelFilter, Log, Metadata, Record};
use anyhow::Context as _;

pub use self::access::{AccessLog, Entry, LineSink, Observer};
use self::errors::ErrorLog;
pub use self::format::FormatError;
use self::writer::Sink;
use crate::config::{Config, LogTarget};

/// The logs that a server writes to by hand; error lines go through the macros of the crate `log`.
#[derive(Debug)]
pub struct Logs {
    /// The access log, unless it is off.
    pub access: Option<AccessLog>,
}

/// Where error lines go: the crate `log` takes one answer for the life of a process, and a program may serve more than
/// once, in more than one way.
struct Router;

static BACKEND: RwLock<Option<Arc<dyn Log>>> = RwLock::new(None);

fn backend() -> Option<Arc<dyn Log>> {
    BACKEND.read().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Log for Router {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        backend().is_some_and(|backend| backend.enabled(metadata))
    }

    fn log(&self, record: &Record<'_>) {
        if let Some(backend) = backend() {
            backend.log(record);
        }
    }

    fn flush(&self) {
        if let Some(backend) = backend() {
            backend.flush();
        }
    }
}

/// From now on error lines up to that level go to `backend`.
///
/// # Errors
/// Somebody else in this process has taken over the crate `log`.
pub fn route_to(backend: Arc<dyn Log>, level: LevelFilter) -> anyhow::Result<()> {
    static ROUTER: Router = Router;
    let mut current = BACKEND.write().unwrap_or_else(PoisonError::into_inner);
    if current.is_none() {
        ::log::set_logger(&ROUTER).context("logging is set up already")?;
    }
    *current = Some(backend);
    ::log::set_max_level(level);
    Ok(())
}

/// Opens the logs and takes over error lines. Starts the writer's thread, so it comes after the last fork.
///
/// For the stand-alone server; one in somebody else's process, whose logging is not ours, says `route_to`.
///
/// # Errors
/// The access log's format is wrong (a `FormatError`), a file cannot be opened, or logging is set up already.
pub fn init(config: &Config) -> anyhow::Result<Logs> {
    let access = AccessLog::new(&config.access_logfile, &config.access_logformat)?;
    let sink = match &config.error_logfile {
        LogTarget::None => None,
        LogTarget::Standard => Some(Sink::stderr().context("cannot open the error log on the standard error")?),
        LogTarget::File(path) => {
            let sink = Sink::open(path).with_context(|| format!("cannot open the error log {}", path.display()))?;
            Some(sink)
        }
    };
    let Some(sink) = sink.map(Arc::new) else {
        return Ok(Logs { access });
    };
    let writer = writer::of_process()?;
    writer.report_to(&sink);
    route_to(Arc::new(ErrorLog::new(writer, sink, config.log_level)), config.log_level)?;
    Ok(Logs { access })
}

/// Whether a target's lines of that level are of any interest to a user: the coroutine runtime has an info line for every
/// descriptor.
pub fn is_wanted(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let runtime = target == "may" || target.starts_with("may::");
    !runtime || metadata.level() <= ::log::Level::Warn
}

/// Whether a record tells a user anything. When a stopped process goes on (SIGCONT), `epoll_wait(2)` returns `EINTR`, and the
/// runtime calls that an error.
pub fn is_news(record: &Record<'_>) -> bool {
    record.target() != "may::io::event_loop" || !record.args().to_string().contains("kind: Interrupted")
}

/// Waits until everything queued so far has been written, 5 s at most; whether it has. For the end of a process: it
/// blocks the thread, so no coroutine may call it.
pub fn flush() -> bool {
    writer::flush_process()
}
