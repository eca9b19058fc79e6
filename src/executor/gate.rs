//! The way into Python for all threads of ours, which can be closed before the interpreter goes down.
//!
//! *Owns*: the count of threads that are inside. *Runs on*: any thread. *Invariants*: no thread of ours attaches to the
//! interpreter but through `attach`, except the thread that takes the interpreter down; once the gate is closed no thread
//! comes in any more. *Source*: a thread that attaches while `Py_FinalizeEx` runs makes a thread state of an interpreter
//! that is being freed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pyo3::Python;

use crate::sys::Stays;

/// The gate is closed; the other bits count the threads that are inside.
const CLOSED: usize = 1 << (usize::BITS - 1);

static GATE: AtomicUsize = AtomicUsize::new(0);

/// One thread that is inside.
struct Inside;

impl Inside {
    fn enter() -> Option<Self> {
        if GATE.fetch_add(1, Ordering::SeqCst) & CLOSED != 0 {
            GATE.fetch_sub(1, Ordering::SeqCst);
            return None;
        }
        Some(Self)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        GATE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Runs `work` with the GIL held. `None`: Python is going down, or is not there.
///
/// Should the interpreter go down while `work` runs, the calling thread stays where it is.
pub fn attach<R>(work: impl FnOnce(Python<'_>) -> R) -> Option<R> {
    let _inside = Inside::enter()?;
    let _stays = Stays::here();
    Python::try_attach(work)
}

/// Lets no further thread in, and waits at most `timeout` until all are out; returns whether they are. Call it without
/// the GIL: the threads need it in order to leave.
pub fn close(timeout: Duration) -> bool {
    let end = Instant::now() + timeout;
    GATE.fetch_or(CLOSED, Ordering::SeqCst);
    while GATE.load(Ordering::SeqCst) != CLOSED {
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Lets threads in again: Python did not go down.
pub fn open() {
    GATE.fetch_and(!CLOSED, Ordering::SeqCst);
}
