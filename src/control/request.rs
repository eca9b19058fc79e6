//! What a command asks of a service, and what the service responds.
//!
//! *Owns*: the paths of the requests. *Invariants*: a request travels as the target of `POST`, such as
//! `/scale?workers=4`. Both sides read it here.

use log::LevelFilter;
use serde::{Deserialize, Serialize};

use crate::config::{LEVELS, WORKERS_MAX, level_name, level_named};

/// The sentence of a service that begins to end.
pub const ENDS: &str = "the service ends; this connection closes after its end";

/// What a command asks of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Read the settings and the application anew.
    Reload,
    /// Let this many workers serve.
    Scale(usize),
    /// Accept no more requests, and stay.
    Drain,
    /// Stop gracefully.
    Stop,
    /// End at once.
    Quit,
    /// Log lines up to this level.
    LogLevel(LevelFilter),
}

/// Why a request cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such request.
    Unknown,
    /// Its value is wrong, which the sentence says.
    Wrong(String),
}

impl Request {
    /// Reads a request from its path and its query: `/scale` and `workers=4`.
    ///
    /// # Errors
    /// There is no such request, or its value is wrong.
    pub fn of(path: &[u8], query: &[u8]) -> Result<Self, Refusal> {
        let query = String::from_utf8_lossy(query);
        let value = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let value = pairs.filter(|(known, _)| *known == name).map(|(_, value)| value).next();
            value.ok_or_else(|| Refusal::Wrong(format!("the request needs '{name}' in its query")))
        };
        match path {
            b"/reload" => Ok(Self::Reload),
            b"/scale" => Self::scale(value("workers")?).map_err(Refusal::Wrong),
            b"/drain" => Ok(Self::Drain),
            b"/stop" => Ok(Self::Stop),
            b"/quit" => Ok(Self::Quit),
            b"/log-level" => Self::log_level(value("level")?).map_err(Refusal::Wrong),
            _ => Err(Refusal::Unknown),
        }
    }

    /// Reads the number of workers.
    ///
    /// # Errors
    /// A sentence: it is no number, or too large.
    pub fn scale(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(workers) if (1..=WORKERS_MAX).contains(&workers) => Ok(Self::Scale(workers)),
            _ => Err(format!("'{text}' is no number of workers: expected a whole number from 1 to {WORKERS_MAX}")),
        }
    }

    /// Reads the level.
    ///
    /// # Errors
    /// A sentence: there is no such level.
    pub fn log_level(text: &str) -> Result<Self, String> {
        let level = level_named(text).map(Self::LogLevel);
        level.ok_or_else(|| {
            let order = if text.parse::<u32>().is_ok() { "; the level comes before the PID" } else { "" };
            format!("'{text}' is no level: expected one of {}{order}", LEVELS.join(", "))
        })
    }

    /// Returns whether the request ends the service. The connection stays open until then.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Stop | Self::Quit)
    }

    /// Returns the target of the HTTP request.
    pub fn target(&self) -> String {
        match self {
            Self::Reload => "/reload".to_owned(),
            Self::Scale(workers) => format!("/scale?workers={workers}"),
            Self::Drain => "/drain".to_owned(),
            Self::Stop => "/stop".to_owned(),
            Self::Quit => "/quit".to_owned(),
            Self::LogLevel(level) => format!("/log-level?level={}", level_name(*level)),
        }
    }
}

/// What a service responds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Whether the request had its effect.
    pub is_ok: bool,
    /// A sentence for the operator.
    pub sentence: String,
}

impl Response {
    /// Returns that a request had its effect.
    pub fn success(sentence: impl Into<String>) -> Self {
        Self { is_ok: true, sentence: sentence.into() }
    }

    /// Returns that a request had no effect.
    pub fn failure(sentence: impl Into<String>) -> Self {
        Self { is_ok: false, sentence: sentence.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_is_read_as_it_was_sent() {
        use Request::{Drain, LogLevel, Quit, Reload, Scale, Stop};
        for request in [Reload, Scale(4), Drain, Stop, Quit, LogLevel(LevelFilter::Warn)] {
            let target = request.target();
            let (path, query) = target.split_once('?').unwrap_or((&target, ""));
            assert_eq!(Request::of(path.as_bytes(), query.as_bytes()), Ok(request));
        }
    }

    #[test]
    fn request_with_a_wrong_value_is_refused() {
        for query in ["", "workers", "workers=0", "workers=many", "workers=-1", "workers=100000"] {
            assert!(matches!(Request::of(b"/scale", query.as_bytes()), Err(Refusal::Wrong(_))), "{query}");
        }
        assert!(matches!(Request::of(b"/log-level", b"level=loud"), Err(Refusal::Wrong(_))));
        assert_eq!(Request::of(b"/nothing", b"workers=1"), Err(Refusal::Unknown));
    }
}
