//! The slowest requests of the last minutes, as JSON: `/requests.json?slowest`.
//!
//! *Owns*: the shape of the document, which docs/howto/status.md describes. *Runs on*: the connection's thread.
//! *Invariants*: the requests of a process that has ended are not shown.

use serde::{Deserialize, Serialize};

use super::CodeFrame;

/// The most requests that are shown.
const SHOWN_MAX: usize = 20;

/// The document.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Slowest {
    /// The requests, the slowest first.
    pub slowest: Vec<SlowRow>,
}

/// A request that has ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SlowRow {
    /// When it ended, in seconds since 1970.
    pub ended: f64,
    /// From its first byte to the last byte of its response.
    pub duration_seconds: f64,
    /// The part in which it arrived.
    pub receive_seconds: f64,
    /// The part in which it waited for a place in the pool and for a thread.
    pub queue_seconds: f64,
    /// The part inside the application.
    pub application_seconds: f64,
    /// The part in which its response was sent after the application had ended.
    pub send_seconds: f64,
    /// The status of its response; 499 if its client left before.
    pub status: u16,
    /// The client.
    pub client: String,
    /// The number of the worker.
    pub worker: usize,
    /// The process.
    pub pid: u32,
    /// The beginning of its first line.
    pub request: String,
    /// The code in which it was seen most often. `None`: it was not looked at (`--slow-request`).
    pub frame: Option<CodeFrame>,
    /// How often it was seen there.
    pub samples_in_frame: u32,
    /// How often it was looked at.
    pub samples: u32,
}

impl Slowest {
    /// Returns the document of a service.
    pub fn merge(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut slowest: Vec<_> = parts.into_iter().flat_map(|part| part.slowest).collect();
        slowest.sort_by(|one, other| other.duration_seconds.total_cmp(&one.duration_seconds));
        slowest.truncate(SHOWN_MAX);
        Self { slowest }
    }
}
