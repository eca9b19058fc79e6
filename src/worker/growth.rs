//! When the process has grown, and what in it has.
//!
//! *Owns*: the next size that is logged. *Runs on*: the thread of the alarms, which never waits for the GIL.
//! *Invariants*: each size is logged once, and is twice the one before.

use std::env;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::asker::{Asker, Silence};
use crate::instance::Instance;
use crate::phrase::{count, seconds};
use crate::{stdlib, sys};

/// One MiB, in bytes.
const MIB: u64 = 1 << 20;
/// The first size that is logged, unless the process is more than half as large when it begins to serve.
const FIRST: u64 = 256 * MIB;
/// The most time between two looks at the memory.
const EVERY_MAX: Duration = Duration::from_secs(10);
/// How long Python may take to count its objects, and as long again to find the code that has allocated most.
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

/// A line of code, and the bytes that it has allocated.
type Line = (String, u64);

/// What is known of the code that has allocated most.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Code {
    Found(Vec<Line>),
    /// `tracemalloc` does not run. `asked` says whether the environment asks for it.
    Untraced {
        asked: bool,
    },
    /// Why Python has not named it.
    Unknown(String),
}

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
            self.began = Some(held(instance, bytes, self.blocks().ok()));
            return;
        };
        if bytes < self.next_size {
            return;
        }
        while self.next_size <= bytes {
            self.next_size *= 2;
        }
        let blocks = self.blocks();
        let code = match &blocks {
            Ok(_) => self.code(),
            Err(reason) => Code::Unknown(reason.clone()),
        };
        let held = held(instance, bytes, blocks.ok());
        let (size, before, next) = (held.bytes / MIB, began.bytes / MIB, self.next_size / MIB);
        let (more, code) = (difference(&began, &held), code.sentence());
        log::warn!(
            "the process has grown to {size} MiB, from {before} MiB when it began to serve: {more}; {code}; the next such \
             line comes at {next} MiB"
        );
    }

    /// Returns the number of blocks of memory that Python has allocated, or why it is not known.
    fn blocks(&mut self) -> Result<u64, String> {
        match self.asker.ask(PYTHON_MAX, |py| blocks_in(py).map_err(|error| error.to_string())) {
            Ok(answer) => answer,
            Err(silence) => Err(silence.sentence(PYTHON_MAX)),
        }
    }

    fn code(&mut self) -> Code {
        match self.asker.ask(PYTHON_MAX, |py| code_in(py).map_err(|error| error.to_string())) {
            Ok(Ok(code)) => code,
            Ok(Err(error)) => Code::Unknown(format!("Python could not find the code that has allocated most: {error}")),
            // Python has just answered a shorter question. So the search itself may be what takes long.
            Err(Silence::Busy) => Code::Unknown(format!(
                "Python has not found the code that has allocated most within {}",
                seconds(PYTHON_MAX)
            )),
            Err(silence) => Code::Unknown(silence.sentence(PYTHON_MAX)),
        }
    }
}

impl Code {
    fn sentence(self) -> String {
        match self {
            Self::Found(lines) => {
                let lines: Vec<_> = lines.iter().map(|(line, bytes)| format!("{line} ({} MiB)", bytes / MIB)).collect();
                format!("most was allocated at {}", lines.join(", "))
            }
            Self::Untraced { asked: false } => {
                "with PYTHONTRACEMALLOC=1 in the environment, this line names the code that has allocated most"
                    .to_owned()
            }
            Self::Untraced { asked: true } => {
                "PYTHONTRACEMALLOC is set, but tracemalloc does not run: the program has stopped it, or its Python \
                 ignores the environment"
                    .to_owned()
            }
            Self::Unknown(reason) => reason,
        }
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

fn blocks_in(py: Python<'_>) -> PyResult<u64> {
    py.import("sys")?.call_method0("getallocatedblocks")?.extract()
}

fn code_in(py: Python<'_>) -> PyResult<Code> {
    if !py.import("_tracemalloc")?.call_method0("is_tracing")?.is_truthy()? {
        // CPython takes an empty value and 0 as "no".
        let asked = env::var_os("PYTHONTRACEMALLOC").is_some_and(|value| !value.is_empty() && value != "0");
        return Ok(Code::Untraced { asked });
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
    Ok(Code::Found(lines))
}
