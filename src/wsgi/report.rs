//! The report on all requests and all Python threads of the process, as one text.
//!
//! *Owns*: which thread runs which request. *Runs on*: a thread changes its own slot; `report` runs on any thread that
//! holds the GIL. *Invariants*: a thread holds a slot's lock only briefly, and does not wait for the GIL meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyList;

use crate::handler::Origin;
use crate::http::RequestHead;
use crate::phrase::count;
use crate::requests::{Frame, Snapshot, Stage};
use crate::sys::Lock;

use super::overdue::Due;

/// The names of a thread that calls applications.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// The name of the thread.
    pub name: String,
    /// `threading.Thread.ident`
    pub ident: Option<u64>,
    /// The system's number of the thread.
    pub native: Option<u64>,
}

/// One thread that calls applications, and the request that it runs.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) caller: Caller,
    /// The number of the thread's executor.
    pub(super) executor: u64,
    pub(super) running: Lock<Option<Running>>,
}

/// A request that a thread runs.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) head: Arc<RequestHead>,
    pub(super) origin: Arc<Origin>,
    pub(super) received: Instant,
    /// Its deadline, if it has one.
    pub(super) due: Option<Due>,
}

/// The slots of all threads.
static SLOTS: Lock<Vec<Arc<Slot>>> = Lock::new(Vec::new());

impl Slot {
    /// Makes the slot of a new thread.
    pub(super) fn register(caller: Caller, executor: u64) -> Arc<Self> {
        let slot = Arc::new(Self { caller, executor, running: Lock::default() });
        SLOTS.lock().push(Arc::clone(&slot));
        slot
    }

    /// Removes the slot of a thread that ends.
    pub(super) fn unregister(self: &Arc<Self>) {
        SLOTS.lock().retain(|slot| !Arc::ptr_eq(slot, self));
    }

    /// Records that the thread begins a request.
    #[allow(clippy::inline_always, reason = "a call would cost each request")]
    #[inline(always)]
    pub(super) fn begin(&self, head: &Arc<RequestHead>, origin: &Arc<Origin>, received: Instant, due: Option<Due>) {
        let (head, origin) = (Arc::clone(head), Arc::clone(origin));
        *self.running.lock() = Some(Running { head, origin, received, due });
    }

    /// Records that the request has ended, and returns it.
    pub(super) fn end(&self) -> Option<Running> {
        self.running.lock().take()
    }

    /// Returns the slots of all threads.
    pub(super) fn all() -> Vec<Arc<Self>> {
        SLOTS.lock().clone()
    }
}

/// Returns the lines of the stack of a thread, the innermost call last.
///
/// # Errors
/// Python is out of memory.
pub(super) fn stack(frames: &Bound<'_, PyAny>, ident: u64) -> PyResult<Vec<String>> {
    let frame = frames.call_method1("get", (ident,))?;
    module(frames.py())?.call_method1("stack", (frame,))?.extract()
}

/// A request, and the thread that runs it.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The request.
    pub request: Snapshot,
    /// `None`: no thread runs it.
    pub caller: Option<Caller>,
}

impl Placed {
    /// Returns the line of the request in a report.
    pub fn line(&self) -> String {
        match &self.caller {
            Some(caller) => format!("{}  thread {}", self.request, caller.name),
            None => self.request.to_string(),
        }
    }
}

/// The frames of threads by their identifiers, the innermost frame first.
pub type Stacks = BTreeMap<u64, Vec<Frame>>;

/// Returns the requests in `served` with their threads, and the requests that threads run although their clients have
/// left. The oldest is first. It needs no GIL.
pub fn placed(served: Vec<Snapshot>) -> Vec<Placed> {
    let slots: Vec<_> =
        SLOTS.lock().iter().filter_map(|slot| Some((Arc::clone(slot), slot.running.lock().clone()?))).collect();
    let mut rows: Vec<Placed> = Vec::new();
    for request in served {
        let slot = slots.iter().find(|(_, running)| Arc::ptr_eq(&running.head, &request.head));
        rows.push(Placed { request, caller: slot.map(|(slot, _)| slot.caller.clone()) });
    }
    for (slot, Running { head, origin, received, due }) in &slots {
        if !rows.iter().any(|row| Arc::ptr_eq(head, &row.request.head)) {
            let (head, origin) = (Arc::clone(head), Arc::clone(origin));
            let is_overdue = due.as_ref().is_some_and(Due::is_overdue);
            let stage = if is_overdue { Stage::Overdue } else { Stage::Abandoned };
            let request =
                Snapshot { received: *received, head, origin, stage, is_taken_over: false, was_suspended: false };
            rows.push(Placed { request, caller: Some(slot.caller.clone()) });
        }
    }
    rows.sort_by_key(|row| row.request.received);
    rows
}

/// Returns the requests as `placed` does, and up to `frames_max` frames of each of their threads, the innermost first.
///
/// # Errors
/// Python is out of memory.
pub fn placed_with_frames(py: Python<'_>, served: Vec<Snapshot>, frames_max: usize) -> PyResult<(Vec<Placed>, Stacks)> {
    // No Python code runs between reading the frames and the slots, so they fit together.
    let current = py.import("sys")?.call_method0("_current_frames")?;
    let rows = placed(served);
    let mut stacks = Stacks::new();
    for ident in rows.iter().filter_map(|row| row.caller.as_ref()?.ident) {
        let mut next = current.call_method1("get", (ident,))?;
        let mut frames = Vec::new();
        while !next.is_none() && frames.len() < frames_max {
            let code = next.getattr("f_code")?;
            frames.push(Frame {
                file: code.getattr("co_filename")?.to_string(),
                // The line is None while the first instructions of a function run.
                line: next.getattr("f_lineno")?.extract().unwrap_or(0),
                function: code.getattr("co_name")?.to_string(),
            });
            next = next.getattr("f_back")?;
        }
        stacks.insert(ident, frames);
    }
    Ok((rows, stacks))
}

/// Returns the requests that are being served, the oldest first, each with the stack of its thread; then all other
/// Python threads, as `grouped` does. `own` leaves the calling thread out.
///
/// # Errors
/// Python is out of memory.
pub fn report(py: Python<'_>, served: Vec<Snapshot>, own: bool) -> PyResult<String> {
    // As in `placed_with_frames`.
    let frames = py.import("sys")?.call_method0("_current_frames")?;
    let rows = placed(served);
    let lines = rows.iter().map(|row| (row.line(), row.caller.as_ref().and_then(|caller| caller.ident)));
    let lines = PyList::new(py, lines.collect::<Vec<_>>())?;
    let (requests, others) = module(py)?.call_method1("stacks", (frames, lines, own))?.extract()?;
    Ok(grouped(requests, others))
}

/// A line about a thread, and the lines of its stack.
pub type Described = (String, Vec<String>);

/// Returns the text of a report: first the threads of requests, then the others. Threads with the same stack are a
/// group, which has the stack once. The groups are in the order of their first threads.
pub fn grouped(requests: Vec<Described>, others: Vec<Described>) -> String {
    let mut lines = Vec::new();
    for (stack, names) in groups(requests) {
        if names.len() > 1 {
            lines.push(format!("  {} are here, with the stack below them:", count(names.len(), "request")));
        }
        lines.extend(names.iter().map(|name| format!("  {name}")));
        lines.extend(stack);
    }
    if !others.is_empty() {
        lines.push("other Python threads:".to_owned());
    }
    for (stack, names) in groups(others) {
        let number = if names.len() > 1 { format!("{}: ", count(names.len(), "thread")) } else { String::new() };
        lines.push(format!("  {number}{}", names.join("; ")));
        lines.extend(stack);
    }
    lines.join("\n")
}

/// Returns each stack with the lines of its threads. A thread without a stack is alone.
fn groups(threads: Vec<Described>) -> Vec<(Vec<String>, Vec<String>)> {
    let mut groups: Vec<(Vec<String>, Vec<String>)> = Vec::new();
    for (name, stack) in threads {
        match groups.iter_mut().find(|(known, _)| !known.is_empty() && *known == stack) {
            Some((_, names)) => names.push(name),
            None => groups.push((stack, vec![name])),
        }
    }
    groups
}

/// The module that formats stacks.
fn module(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let code = pyo3::ffi::c_str!(include_str!("report.py"));
    let make = || PyModule::from_code(py, code, c"<maypole/report.py>", c"maypole_report").map(Bound::unbind);
    Ok(MODULE.get_or_try_init(py, make)?.bind(py))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_with_the_same_stack_are_a_group() {
        let thread = |name: &str, stack: &str| {
            (name.to_owned(), if stack.is_empty() { Vec::new() } else { vec![format!("    File \"{stack}\"")] })
        };
        let requests =
            vec![thread("a", "1"), thread("b", "2"), thread("queued", ""), thread("c", "1"), thread("d", "")];
        let others = vec![thread("MainThread", "3"), thread("t1", "4"), thread("t2", "4")];
        let expected = "  2 requests are here, with the stack below them:\n  a\n  c\n    File \"1\"\n  b\n    File \"2\"\n  \
                        queued\n  d\nother Python threads:\n  MainThread\n    File \"3\"\n  2 threads: t1; t2\n    File \"4\"";
        assert_eq!(grouped(requests, others), expected);
        assert_eq!(grouped(Vec::new(), Vec::new()), "");
    }
}
