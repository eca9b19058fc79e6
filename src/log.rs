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

use std::sync::Arc;

use anyhow::Context as _;

pub use self::access::{AccessLog, Entry};
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

/// Opens the logs and takes over the crate `log`. Starts the writer's thread, so it comes after the last fork.
///
/// Once per process, that is, for the stand-alone server; a server in somebody else's process, whose logging is not
/// ours, opens its own `AccessLog`.
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
    let log = ErrorLog::new(writer.clone(), Arc::clone(&sink), config.log_level);
    ::log::set_boxed_logger(Box::new(log)).context("logging is set up already")?;
    writer.report_to(&sink);
    ::log::set_max_level(config.log_level);
    Ok(Logs { access })
}

/// Waits until everything queued so far has been written, 5 s at most; whether it has. For the end of a process: it
/// blocks the thread, so no coroutine may call it.
pub fn flush() -> bool {
    writer::flush_process()
}
