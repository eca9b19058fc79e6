//! The last lines of the error log at WARNING or above, and how many there have been, for people who look at the status.
//!
//! *Owns*: both, for the process. *Runs on*: any thread and any coroutine. *Invariants*: a line below WARNING costs
//! nothing. At most `KEPT` lines of each level are kept, so warnings do not drive errors out, and of each line at most two
//! lines of its message. A forked child begins anew.

use std::collections::VecDeque;
use std::process;
use std::time::SystemTime;

use log::{Level, Record};

use crate::sys::Lock;

/// The most lines of each level that are kept.
const KEPT: usize = 20;
/// The most characters of a line of a message.
const CHARACTERS_MAX: usize = 300;
/// What a traceback of Python has.
const TRACEBACK: &str = "Traceback (most recent call last)";

/// A line of the error log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorLine {
    /// When it was logged.
    pub created: SystemTime,
    /// Whether it is an error, and no warning.
    pub is_error: bool,
    /// The first line of its message.
    pub message: String,
    /// The last line of a message that has several: the exception, if the message has a traceback.
    pub end: Option<String>,
}

/// How many lines this process has logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LineCounts {
    /// Errors without a traceback.
    pub errors: u64,
    /// Errors with a traceback.
    pub exceptions: u64,
    /// Warnings.
    pub warnings: u64,
}

struct Kept {
    /// The process that has logged them.
    owner: u32,
    counts: LineCounts,
    /// The newest is the last.
    lines: VecDeque<ErrorLine>,
}

static KEPT_LINES: Lock<Kept> = Lock::new(Kept::of(0));

/// Returns the last lines, the newest one last.
pub fn last_errors() -> Vec<ErrorLine> {
    let kept = KEPT_LINES.lock();
    if kept.owner == process::id() { kept.lines.iter().cloned().collect() } else { Vec::new() }
}

/// Returns how many lines this process has logged.
pub fn line_counts() -> LineCounts {
    let kept = KEPT_LINES.lock();
    if kept.owner == process::id() { kept.counts } else { LineCounts::default() }
}

/// Keeps a record, if it is serious enough.
#[inline]
pub(super) fn note(record: &Record<'_>) {
    if record.level() <= Level::Warn && super::is_wanted(record.metadata()) && super::is_news(record) {
        keep(record.level(), &record.args().to_string());
    }
}

#[cold]
fn keep(level: Level, message: &str) {
    let line = ErrorLine::of(level, message);
    let mut kept = KEPT_LINES.lock();
    if kept.owner != process::id() {
        *kept = Kept::of(process::id());
    }
    let counts = &mut kept.counts;
    *match (level, message.contains(TRACEBACK)) {
        (Level::Error, true) => &mut counts.exceptions,
        (Level::Error, false) => &mut counts.errors,
        _ => &mut counts.warnings,
    } += 1;
    let is_same = |other: &ErrorLine| other.is_error == line.is_error;
    if kept.lines.iter().filter(|other| is_same(other)).count() >= KEPT
        && let Some(oldest) = kept.lines.iter().position(is_same)
    {
        kept.lines.remove(oldest);
    }
    kept.lines.push_back(line);
}

impl Kept {
    const fn of(owner: u32) -> Self {
        let counts = LineCounts { errors: 0, exceptions: 0, warnings: 0 };
        Self { owner, counts, lines: VecDeque::new() }
    }
}

impl ErrorLine {
    fn of(level: Level, message: &str) -> Self {
        let mut lines = message.lines().map(str::trim_end).filter(|line| !line.is_empty());
        let first = cut(lines.next().unwrap_or_default());
        let end = lines.next_back().map(|line| cut(line.trim_start()));
        Self { created: SystemTime::now(), is_error: level == Level::Error, message: first, end }
    }
}

/// Returns the beginning of a line.
fn cut(line: &str) -> String {
    match line.char_indices().nth(CHARACTERS_MAX) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_has_the_beginning_and_the_end_of_its_message() {
        let line =
            ErrorLine::of(Level::Error, "GET / of 1.2.3.4\nTraceback (most recent call last):\n  x\nKeyError: 'a'\n");
        assert_eq!((line.message.as_str(), line.end.as_deref()), ("GET / of 1.2.3.4", Some("KeyError: 'a'")));
        let line = ErrorLine::of(Level::Warn, "ä".repeat(400).as_str());
        assert_eq!((line.message.chars().count(), line.end, line.is_error), (301, None, false));
        assert_eq!(ErrorLine::of(Level::Warn, "").message, "");
    }

    #[test]
    fn only_the_last_lines_are_kept_and_all_are_counted() {
        // Tests of other modules may log at the same time.
        let before = line_counts();
        (0..30).for_each(|number| keep(Level::Error, &format!("number {number}")));
        keep(Level::Error, "it failed\nTraceback (most recent call last):\nValueError");
        keep(Level::Warn, "beware");
        keep(Level::Error, "the last one");
        let (after, lines) = (line_counts(), last_errors());
        assert!(after.errors - before.errors >= 30 && after.exceptions > before.exceptions);
        assert!(after.warnings > before.warnings && lines.iter().filter(|line| line.is_error).count() == KEPT);
        assert!(lines.iter().any(|line| line.message == "beware"));
        assert!(lines.iter().all(|line| line.message != "number 0"));
    }
}
