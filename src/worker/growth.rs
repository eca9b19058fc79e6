//! When the process has grown, and what in it has.
//!
//! *Owns*: the next size that is logged. *Runs on*: the thread of the alarms, which never waits for the GIL.
//! *Invariants*: each size is logged once, and is twice the one before.

use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::asker::Asker;
use crate::instance::Instance;
use crate::phrase::count;
use crate::{stdlib, sys};

/// One MiB, in bytes.
const MIB: u64 = 1 << 20;
/// The first size that is logged, unless the process is more than half as large when it begins to serve.
const FIRST: u64 = 256 * MIB;
/// The most time between two looks at the memory.
const EVERY_MAX: Duration = Duration::from_secs(10);
/// How long Python may take to count its objects, and to find the code that has allocated most.
const PYTHON_MAX: Duration = Duration::from_secs(3);
/// How many lines of code are named.
const LINES_MAX: usize = 3;

/// What the process holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    bytes: u64,
    connections: usize,
    requests: usize,
    /// The blocks of memory that Python has allocated for its objects.
    blocks: Option<u64>,
}

/// What Python says of its memory: its blocks, and the lines of code that have allocated most, with their bytes.
type Allocated = (u64, Option<Vec<(String, u64)>>);

/// The growth of the process.
pub(super) struct Growth {
    every: Duration,
    next_look: Instant,
    next_size: u64,
    began: Option<Held>,
    asker: Asker,
}

impl Growth {
    /// Begins. `every` is the time between two looks; it is at most `EVERY_MAX`.
    pub(super) fn begin(every: Duration, now: Instant) -> Self {
        Self { every: every.min(EVERY_MAX), next_look: now, next_size: FIRST, began: None, asker: Asker::default() }
    }

    /// Looks at the memory if it is time, and logs a new size.
    pub(super) fn look(&mut self, instance: &Instance, now: Instant) {
        if now < self.next_look {
            return;
        }
        self.next_look = now + self.every;
        let Some(bytes) = sys::own_memory(self.next_size) else { return };
        let Some(began) = self.began else {
            self.next_size = FIRST.max(bytes * 2);
            self.began = Some(held(instance, bytes, self.allocated(false).map(|(blocks, _)| blocks)));
            return;
        };
        if bytes < self.next_size {
            return;
        }
        while self.next_size <= bytes {
            self.next_size *= 2;
        }
        let python = self.allocated(true);
        let held = held(instance, bytes, python.as_ref().map(|(blocks, _)| *blocks));
        let (size, before, next) = (held.bytes / MIB, began.bytes / MIB, self.next_size / MIB);
        let (more, code) = (difference(&began, &held), code(python.and_then(|(_, lines)| lines)));
        log::warn!(
            "the process has grown to {size} MiB, from {before} MiB when it began to serve: {more}; {code}; the next such \
             line comes at {next} MiB"
        );
    }

    fn allocated(&mut self, with_lines: bool) -> Option<Allocated> {
        self.asker.ask(PYTHON_MAX, move |py| allocated_in(py, with_lines).ok()).ok()?
    }
}

fn held(instance: &Instance, bytes: u64, blocks: Option<u64>) -> Held {
    let numbers = instance.server().numbers();
    Held { bytes, connections: numbers.connections, requests: numbers.requests, blocks }
}

/// Returns what was held and what is held.
fn difference(began: &Held, held: &Held) -> String {
    let (connections, requests) = (count(held.connections, "connection"), count(held.requests, "request"));
    let python = match (began.blocks, held.blocks) {
        (Some(before), Some(now)) => format!("{now} blocks of Python's objects ({before} then)"),
        _ => "Python has not said how many objects it has".to_owned(),
    };
    format!("{connections} ({} then), {requests} ({} then), {python}", began.connections, began.requests)
}

/// Returns a sentence about the code that has allocated most.
fn code(lines: Option<Vec<(String, u64)>>) -> String {
    match lines {
        None => {
            "with PYTHONTRACEMALLOC=1 in the environment, this line names the code that has allocated most".to_owned()
        }
        Some(lines) => {
            let lines: Vec<_> = lines.iter().map(|(line, bytes)| format!("{line} ({} MiB)", bytes / MIB)).collect();
            format!("most was allocated at {}", lines.join(", "))
        }
    }
}

fn allocated_in(py: Python<'_>, with_lines: bool) -> PyResult<Allocated> {
    let blocks = py.import("sys")?.call_method0("getallocatedblocks")?.extract()?;
    if !with_lines || !py.import("_tracemalloc")?.call_method0("is_tracing")?.is_truthy()? {
        return Ok((blocks, None));
    }
    stdlib::load(py, "tracemalloc")?;
    let snapshot = py.import("tracemalloc")?.call_method0("take_snapshot")?;
    let mut lines = Vec::new();
    for entry in snapshot.call_method1("statistics", ("lineno",))?.try_iter()?.take(LINES_MAX) {
        let entry = entry?;
        let frame = entry.getattr("traceback")?.get_item(0)?;
        let (file, line): (String, u32) = (frame.getattr("filename")?.extract()?, frame.getattr("lineno")?.extract()?);
        lines.push((format!("{file}:{line}"), entry.getattr("size")?.extract()?));
    }
    Ok((blocks, Some(lines)))
}
