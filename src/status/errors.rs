//! The last errors and warnings of the service, as JSON: `/errors.json`.
//!
//! *Owns*: the shape of the document, which docs/howto/status.md describes. *Runs on*: the connection's thread.

use std::collections::HashMap;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::logs::{self, ErrorLine};

/// The most lines of each level that are shown.
const SHOWN_MAX: usize = 20;

/// The document.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Errors {
    /// The lines, the newest first.
    pub errors: Vec<ErrorRow>,
}

/// A line of the error log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorRow {
    /// In seconds since 1970.
    pub time: f64,
    /// `ERROR` or `WARNING`.
    pub level: String,
    /// The number of the worker. `None`: the supervisor has logged it.
    pub worker: Option<usize>,
    /// The process.
    pub pid: u32,
    /// The first line of the message.
    pub message: String,
    /// The last line of a message that has several, such as the exception of a traceback.
    pub end: Option<String>,
}

impl Errors {
    /// Returns the document of this process.
    pub fn of_process(worker: Option<usize>) -> Self {
        let row = |line: ErrorLine| ErrorRow {
            time: line.created.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            level: if line.is_error { "ERROR" } else { "WARNING" }.to_owned(),
            worker,
            pid: std::process::id(),
            message: line.message,
            end: line.end,
        };
        Self::merge([Self { errors: logs::last_errors().into_iter().map(row).collect() }])
    }

    /// Returns the document of a service. A line that several parts have is in it once.
    pub fn merge(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut errors: Vec<_> = parts.into_iter().flat_map(|part| part.errors).collect();
        errors.sort_by(|one, other| other.time.total_cmp(&one.time).then_with(|| one.pid.cmp(&other.pid)));
        errors.dedup();
        let mut shown = HashMap::<String, usize>::new();
        errors.retain(|row| {
            let shown = shown.entry(row.level.clone()).or_default();
            *shown += 1;
            *shown <= SHOWN_MAX
        });
        Self { errors }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_lines_come_first_and_each_once() {
        let row = |time: u32| ErrorRow {
            time: f64::from(time),
            level: if time == 0 { "WARNING" } else { "ERROR" }.to_owned(),
            worker: Some(1),
            pid: 7,
            message: time.to_string(),
            end: None,
        };
        let (known, asked) = ((0..15).map(row).collect(), (10..25).map(row).collect());
        let merged = Errors::merge([Errors { errors: known }, Errors { errors: asked }]);
        let messages: Vec<_> = merged.errors.iter().map(|row| row.message.as_str()).collect();
        let expected = (5..25).rev().chain([0]).map(|time| time.to_string());
        assert_eq!(messages, expected.collect::<Vec<_>>());
    }
}
