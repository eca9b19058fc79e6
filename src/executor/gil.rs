//! Whether Python's threads share a GIL, and how many of them start calls without a standby.
//!
//! *Owns*: the last result of `look`, and the count of releases of the GIL. *Runs on*: any thread; `look` on one that
//! is attached to the interpreter. *Invariants*: if `CPython` was built with a GIL, the result is a constant, and no
//! call pays for the check. *Source*: PEP 703, `sys._is_gil_enabled()`.

#[cfg(Py_GIL_DISABLED)]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

#[cfg(Py_GIL_DISABLED)]
use pyo3::prelude::*;

use super::{Shared, Task, policy};

#[cfg(Py_GIL_DISABLED)]
static IS_ON: AtomicBool = AtomicBool::new(false);

/// Returns whether the threads share a GIL.
#[inline]
pub(super) fn is_on() -> bool {
    #[cfg(Py_GIL_DISABLED)]
    return IS_ON.load(Ordering::Relaxed);
    #[cfg(not(Py_GIL_DISABLED))]
    true
}

/// Checks whether the GIL is on. In a free-threaded `CPython`, importing an extension module that needs the GIL turns
/// it on for the rest of the process, at any time.
#[cfg(Py_GIL_DISABLED)]
pub fn look(py: Python<'_>) {
    let asked = py.import("sys").and_then(|sys| sys.call_method0("_is_gil_enabled")?.extract());
    let is_on = asked.unwrap_or(true);
    if IS_ON.swap(is_on, Ordering::Relaxed) != is_on {
        let state = if is_on { "on: an imported module needs it, so calls take turns" } else { "off" };
        log::info!("this is a free-threaded CPython, and the GIL is {state}");
    }
}

/// How often threads have released the GIL by themselves, between calls.
#[derive(Debug, Default)]
pub(super) struct Releases {
    begun: AtomicU64,
    /// How many threads are about to release the GIL.
    pending: AtomicUsize,
}

impl Releases {
    /// Announces that the calling thread releases the GIL next. It counts while it holds the GIL, so that the next
    /// holder sees the count.
    pub(super) fn begin(&self) {
        self.pending.fetch_add(1, Ordering::SeqCst);
        self.begun.fetch_add(1, Ordering::SeqCst);
    }

    /// Records that the calling thread has released the GIL.
    pub(super) fn end(&self) {
        self.pending.fetch_sub(1, Ordering::SeqCst);
    }

    /// Returns the number of releases. `None` while a thread is about to release the GIL.
    pub(super) fn seen(&self) -> Option<u64> {
        let begun = self.begun.load(Ordering::SeqCst);
        (self.pending.load(Ordering::SeqCst) == 0).then_some(begun)
    }

    /// Returns whether a thread may have released the GIL since `seen` returned this.
    pub(super) fn has_changed(&self, seen: Option<u64>) -> bool {
        seen.is_none_or(|before| self.begun.load(Ordering::SeqCst) != before)
    }
}

impl<C: Task> Shared<C> {
    /// Returns how many threads start calls without a standby.
    #[inline]
    pub(super) fn started_at_once(&self) -> usize {
        policy::started_at_once(is_on(), self.processors, self.threads_max)
    }
}
