//! The report on all requests and all Python threads of the process, as one text.
//!
//! *Owns*: which thread runs which request. *Runs on*: a thread changes its own slot; `report` runs on any thread that
//! holds the GIL. *Invariants*: a thread holds a slot's lock only briefly, and does not wait for the GIL meanwhile.

use std::sync::Arc;
use std::time::Instant;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyList;

use crate::handler::{Origin, Request};
use crate::http::RequestHead;
use crate::requests::{Snapshot, Stage};
use crate::sys::Lock;

/// One thread that calls applications, and the request that it runs.
#[derive(Debug, Default)]
pub(super) struct Slot {
    name: String,
    /// `threading.Thread.ident`
    ident: Option<u64>,
    running: Lock<Option<Running>>,
}

/// A request that a thread runs.
#[derive(Debug, Clone)]
struct Running {
    head: Arc<RequestHead>,
    origin: Arc<Origin>,
    received: Instant,
}

/// The slots of all threads.
static SLOTS: Lock<Vec<Arc<Slot>>> = Lock::new(Vec::new());

impl Slot {
    /// Makes the slot of a new thread.
    pub(super) fn register(name: &str, ident: Option<u64>) -> Arc<Self> {
        let slot = Arc::new(Self { name: name.to_owned(), ident, running: Lock::default() });
        SLOTS.lock().push(Arc::clone(&slot));
        slot
    }

    /// Removes the slot of a thread that ends.
    pub(super) fn unregister(self: &Arc<Self>) {
        SLOTS.lock().retain(|slot| !Arc::ptr_eq(slot, self));
    }

    /// Records that the thread begins a request.
    pub(super) fn begin(&self, request: &Request) {
        let (head, origin) = (Arc::clone(&request.head), Arc::clone(&request.origin));
        *self.running.lock() = Some(Running { head, origin, received: request.received });
    }

    /// Records that the request has ended, and returns its head.
    pub(super) fn end(&self) -> Option<Arc<RequestHead>> {
        self.running.lock().take().map(|running| running.head)
    }
}

/// Returns the requests that are being served, the oldest first, each with the stack of its thread; then all other
/// Python threads. Each begins on a new line. `own` leaves the calling thread out.
///
/// # Errors
/// Python is out of memory.
pub fn report(py: Python<'_>, served: Vec<Snapshot>, own: bool) -> PyResult<String> {
    // No Python code runs between reading the frames and the slots, so they fit together.
    let frames = py.import("sys")?.call_method0("_current_frames")?;
    let slots: Vec<_> =
        SLOTS.lock().iter().filter_map(|slot| Some((Arc::clone(slot), slot.running.lock().clone()?))).collect();
    let mut rows: Vec<(Snapshot, Option<&Slot>)> = Vec::new();
    for request in served {
        let slot = slots.iter().find(|(_, running)| Arc::ptr_eq(&running.head, &request.head));
        rows.push((request, slot.map(|(slot, _)| &**slot)));
    }
    for (slot, Running { head, origin, received }) in &slots {
        if !rows.iter().any(|(request, _)| Arc::ptr_eq(head, &request.head)) {
            let (head, origin) = (Arc::clone(head), Arc::clone(origin));
            rows.push((Snapshot { received: *received, head, origin, stage: Stage::Abandoned }, Some(slot)));
        }
    }
    rows.sort_by_key(|(request, _)| request.received);
    let lines = rows.into_iter().map(|(request, slot)| match slot {
        Some(slot) => (format!("{request}  thread {}", slot.name), slot.ident),
        None => (request.to_string(), None),
    });
    let lines = PyList::new(py, lines.collect::<Vec<_>>())?;
    module(py)?.call_method1("text", (frames, lines, own))?.extract()
}

/// The module that formats stacks.
fn module(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let code = pyo3::ffi::c_str!(include_str!("report.py"));
    let make = || PyModule::from_code(py, code, c"<maypole/report.py>", c"maypole_report").map(Bound::unbind);
    Ok(MODULE.get_or_try_init(py, make)?.bind(py))
}
