//! What a service shows as JSON, as the commands of the command line read it.
//!
//! *Owns*: the parts of `/stats.json` and `/requests.json` that are shown to people. *Runs on*: any thread of a command.
//! *Invariants*: a name that the service does not send counts as zero or as nothing, because the service may run another
//! version.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::phrase::count;

/// Reads a document.
///
/// # Errors
/// A sentence: it is no JSON, or a value has another type.
pub fn parse<T: DeserializeOwned>(document: &[u8]) -> Result<T, String> {
    serde_json::from_slice(document)
        .map_err(|error| format!("what the service shows cannot be read, so it may run another version: {error}"))
}

/// `/stats.json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Stats {
    pub name: String,
    pub version: String,
    pub pid: u32,
    pub started: f64,
    pub uptime_seconds: f64,
    pub stage: String,
    pub wanted: usize,
    pub saturation: f64,
    pub total: Total,
    pub recent: Recent,
    pub processes: Vec<Process>,
}

/// What has been counted since the start.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Total {
    pub requests: u64,
    pub classes: BTreeMap<String, u64>,
    pub phases: BTreeMap<String, Sum>,
}

/// How long all of something took.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Sum {
    pub seconds: f64,
}

/// What has been counted in about the last ten seconds.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Recent {
    pub requests_per_second: f64,
    pub duration: Option<Times>,
}

/// Times of requests, in seconds.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Times {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
}

/// A process that serves.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Process {
    pub number: usize,
    pub pid: u32,
    pub state: String,
    pub served_seconds: Option<f64>,
    pub stuck_seconds: Option<f64>,
    pub served: u64,
    pub connections: u64,
    pub idle: u64,
    pub requests: u64,
    pub threads: u64,
    pub threads_running: u64,
    pub queued: u64,
    pub pool_taken: u64,
    pub pool_size: u64,
    pub suspended: u64,
    pub websockets: u64,
    pub websockets_slow: u64,
}

impl Stats {
    /// Returns how many clients wait for an event without a thread: `3 suspended responses, 2 WebSockets (1 slow)`.
    /// `None`: there are none.
    pub fn waiting(&self) -> Option<String> {
        let sum = |number: fn(&Process) -> u64| self.processes.iter().map(number).sum();
        let (suspended, websockets, slow): (u64, u64, u64) =
            (sum(|one| one.suspended), sum(|one| one.websockets), sum(|one| one.websockets_slow));
        let counted =
            |number: u64, what| (number > 0).then(|| count(usize::try_from(number).unwrap_or(usize::MAX), what));
        let slow = if slow > 0 { format!(" ({slow} slow)") } else { String::new() };
        let websockets = counted(websockets, "WebSocket").map(|text| text + &slow);
        let parts: Vec<_> = counted(suspended, "suspended response").into_iter().chain(websockets).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// `/requests.json`.
#[allow(clippy::struct_field_names, reason = "the fields have the names of the document")]
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Requests {
    pub processes: Vec<Asked>,
    pub requests: Vec<Row>,
    pub left_out: usize,
}

/// A process that has been asked for its requests.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    pub worker: usize,
    pub pid: u32,
    pub python: String,
}

/// A request that is being served.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Row {
    pub age_seconds: f64,
    pub phase: String,
    pub client: Option<String>,
    pub worker: usize,
    pub pid: u32,
    pub request: String,
    pub thread: Option<String>,
    pub thread_id: Option<u64>,
    pub python: String,
    pub frame: Option<Frame>,
    pub stack: Vec<Frame>,
}

/// A place in Python code.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Frame {
    pub file: String,
    pub line: u32,
    pub function: String,
}
