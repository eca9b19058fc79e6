//! The error log: the backend of the crate `log`.
//!
//! *Owns*: the level and the destination of error lines. *Runs on*: any thread and any coroutine; never waits.

use std::process;
use std::sync::Arc;
use std::time::SystemTime;

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::sink::Sink;
use super::syslog::Syslog;
use super::writer::Writer;
use super::{escape, time};
use crate::phrase::push_decimal;

/// Turns records into lines: `[2026-11-21 05:00:00.123 +0000] [pid] [INFO] message`.
pub(super) struct ErrorLog {
    /// `None`: the thread that logs writes the line itself.
    writer: Option<Writer>,
    sink: Option<Arc<Sink>>,
    syslog: Option<Syslog>,
    level: LevelFilter,
}

impl ErrorLog {
    pub(super) fn new(
        writer: Option<Writer>,
        sink: Option<Arc<Sink>>,
        syslog: Option<Syslog>,
        level: LevelFilter,
    ) -> Self {
        Self { writer, sink, syslog, level }
    }

    /// Writes a message as a line, whatever its level.
    pub(super) fn write(&self, now: SystemTime, level: Level, message: &str) {
        if let Some(sink) = &self.sink {
            let line = line(now, level, message);
            match &self.writer {
                Some(writer) => writer.send(sink, line),
                // There is no other place to report a failure.
                None => drop(sink.write_all(&line)),
            }
        }
        if let Some(syslog) = &self.syslog {
            syslog.send_error(level, message);
        }
    }
}

impl Log for ErrorLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level && super::is_wanted(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) && super::is_news(record) {
            let message = record.args();
            match message.as_str() {
                Some(message) => self.write(SystemTime::now(), record.level(), message),
                None => self.write(SystemTime::now(), record.level(), &message.to_string()),
            }
        }
    }

    fn flush(&self) {
        if let Some(writer) = &self.writer {
            writer.flush();
        }
    }
}

/// Formats one message as a line, with its line break.
pub(super) fn line(now: SystemTime, level: Level, message: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + message.len());
    time::push_error(&mut out, now, time::offset(now));
    out.extend_from_slice(b" [");
    push_decimal(&mut out, u64::from(process::id()));
    out.extend_from_slice(b"] [");
    out.extend_from_slice(name(level).as_bytes());
    out.extend_from_slice(b"] ");
    escape::push_message(&mut out, message);
    out.push(b'\n');
    out
}

/// Returns gunicorn's name of a level.
fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "ERROR",
        Level::Warn => "WARNING",
        Level::Info => "INFO",
        Level::Debug | Level::Trace => "DEBUG",
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn log_at(level: LevelFilter) -> (ErrorLog, std::io::PipeReader) {
        let (reader, pipe) = std::io::pipe().unwrap();
        let sink = Arc::new(Sink::from_fd(pipe.into()));
        (ErrorLog::new(Some(Writer::start().unwrap()), Some(sink), None, level), reader)
    }

    fn enabled(log: &ErrorLog, target: &str, level: Level) -> bool {
        log.enabled(&Metadata::builder().target(target).level(level).build())
    }

    #[test]
    fn line_has_time_process_and_level() {
        let text = String::from_utf8(line(UNIX_EPOCH + Duration::from_millis(5), Level::Warn, "hello\n")).unwrap();
        assert_eq!(text, format!("[1970-01-01 00:00:00.005 +0000] [{}] [WARNING] hello\n", process::id()));
    }

    #[test]
    fn runtime_below_warning_is_silent() {
        let (log, _reader) = log_at(LevelFilter::Debug);
        assert!(enabled(&log, "maypole::server", Level::Debug));
        assert!(!enabled(&log, "maypole::server", Level::Trace));
        assert!(!enabled(&log, "may::io", Level::Info) && !enabled(&log, "may", Level::Info));
        assert!(enabled(&log, "may::io", Level::Warn));
        let (log, _reader) = log_at(LevelFilter::Error);
        assert!(!enabled(&log, "may::io", Level::Warn));
    }

    #[test]
    fn record_becomes_a_line_of_the_file() {
        use std::io::Read as _;
        let (log, mut reader) = log_at(LevelFilter::Info);
        log.log(&Record::builder().level(Level::Debug).args(format_args!("quiet")).build());
        log.log(&Record::builder().level(Level::Info).args(format_args!("one\n{}", 2)).build());
        log.flush();
        drop(log);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(text.ends_with("] [INFO] one\n2\n"), "{text}");
        assert!(!text.contains("quiet"));
    }
}
