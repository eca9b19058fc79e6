//! The requests that are being served, as JSON: `/requests.json`.
//!
//! *Owns*: the shape of the document, which docs/howto/status.md describes. *Runs on*: the connection's thread.
//! *Invariants*: a supervisor and its workers have the same version of the document, or the worker counts as silent.

use serde::{Deserialize, Serialize};

/// The most requests that are shown.
const SHOWN_MAX: usize = 1000;

/// The document.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Requests {
    /// What the processes have responded.
    pub processes: Vec<Inspected>,
    /// The requests, the oldest first, and behind them those that are suspended.
    pub requests: Vec<Row>,
    /// How many further requests there are.
    pub left_out: usize,
}

/// A process that was asked for its requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Inspected {
    /// The number of the worker.
    pub worker: usize,
    /// The process.
    pub pid: u32,
    /// Whether its frames could be read.
    pub python: Python,
    /// How many WebSockets are open. They are no requests.
    #[serde(default)]
    pub websockets: usize,
}

/// How the frames were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Python {
    /// A thread got the GIL.
    Read,
    /// No thread got the GIL in time. The frames were read without it.
    Busy,
    /// Python does not run yet, or is going down.
    Absent,
    /// The process has not responded.
    Silent,
}

/// A request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// The time since its last byte arrived.
    pub age_seconds: f64,
    /// `queue`, `application`, `send`, `suspended`, `abandoned` (its client has left) or `overdue`.
    pub phase: String,
    /// `None`: only the process knows it, which has not responded.
    pub client: Option<String>,
    /// The number of the worker.
    pub worker: usize,
    /// The process.
    pub pid: u32,
    /// The beginning of its first line.
    pub request: String,
    /// Its id, if requests have one.
    pub request_id: Option<String>,
    /// The name of the thread that runs it.
    pub thread: Option<String>,
    /// The system's number of the thread.
    pub thread_id: Option<u64>,
    /// Whether its frames could be read.
    pub python: Python,
    /// The innermost frame of the application, not of a library.
    pub frame: Option<CodeFrame>,
    /// The innermost frames, the last call first. Only with `?stacks`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stack: Vec<CodeFrame>,
}

/// A place in Python code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeFrame {
    /// The file of the code.
    pub file: String,
    /// The line that runs.
    pub line: u32,
    /// The name of the function.
    pub function: String,
}

impl Requests {
    /// Returns the document of one process.
    pub fn of_process(process: Inspected, requests: Vec<Row>) -> Self {
        Self { processes: vec![process], requests, left_out: 0 }.sorted()
    }

    /// Returns the document of a service.
    pub fn merge(parts: Vec<Self>) -> Self {
        let mut whole = Self::default();
        for part in parts {
            whole.processes.extend(part.processes);
            whole.requests.extend(part.requests);
            whole.left_out += part.left_out;
        }
        whole.sorted()
    }

    fn sorted(mut self) -> Self {
        // There may be very many suspended ones, which take no time.
        let is_suspended = |row: &Row| row.phase == "suspended";
        self.requests.sort_by(|one, other| {
            let by_age = other.age_seconds.total_cmp(&one.age_seconds);
            is_suspended(one).cmp(&is_suspended(other)).then(by_age)
        });
        self.left_out += self.requests.len().saturating_sub(SHOWN_MAX);
        self.requests.truncate(SHOWN_MAX);
        self
    }
}
