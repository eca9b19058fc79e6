//! Settings of suspended responses: how many there may be, and what becomes of them at a stop.
//!
//! *Owns*: these settings. *Runs on*: the main thread, before anything is started.

use std::fmt;

use clap::Args;

use super::units::number;
use super::{LIMITS, TIMES};

/// The most suspended responses that a setting may allow.
const SUSPENDED_MAX: u64 = 10_000_000;

/// The settings of suspended responses.
#[derive(Debug, Clone, Args)]
pub struct SuspendSettings {
    /// Set at most this many suspended responses aside. More hold their threads. Default: 9/10 of `--max-connections`
    ///
    /// A suspended response that is set aside has neither a thread nor a place in the pool. One beyond the limit waits
    /// for its event on its thread and keeps its place in the pool, as a response that is not suspended would. A line in
    /// the log says so. See [events](../howto/suspend.md).
    #[arg(long, value_name = "N", value_parser = number::<usize>(0..=SUSPENDED_MAX), help_heading = LIMITS)]
    pub max_suspended: Option<usize>,

    /// Close suspended responses at a stop: at once with `close`, when `--graceful-timeout` is nearly over with `finish`
    ///
    /// To close one is to close the application's iterable: a generator ends by `GeneratorExit`. A client whose response
    /// has not begun gets 503. A stream of `text/event-stream` ends as a whole one, because it has no end of its own.
    /// Any other response is cut off, so that the client cannot take it for a whole one. The same holds for a reload.
    #[arg(long, value_name = "HOW", value_parser = SuspendedOnStop::parse, default_value = "close")]
    #[arg(help_heading = TIMES)]
    pub suspended_on_stop: SuspendedOnStop,
}

/// What becomes of suspended responses when the server stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuspendedOnStop {
    /// They end at once.
    Close,
    /// They may go on until the time of the stop is nearly over.
    Finish,
}

impl SuspendedOnStop {
    /// Reads `close` or `finish`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "close" => Ok(Self::Close),
            "finish" => Ok(Self::Finish),
            _ => Err("expected close or finish".to_owned()),
        }
    }
}

impl fmt::Display for SuspendedOnStop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Close => "close",
            Self::Finish => "finish",
        })
    }
}

impl SuspendSettings {
    /// Returns how many suspended responses are set aside at most, if the server holds at most this many connections.
    pub fn suspended_max(&self, connections_max: usize) -> usize {
        self.max_suspended.unwrap_or(connections_max - connections_max / 10)
    }

    /// Returns the settings with their values.
    pub(super) fn settings(&self) -> [(&'static str, String); 2] {
        let max_suspended = self.max_suspended.map_or_else(|| "none".to_owned(), |n| n.to_string());
        [("max_suspended", max_suspended), ("suspended_on_stop", self.suspended_on_stop.to_string())]
    }
}
