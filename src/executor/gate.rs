//! The entry into Python for all threads of the server. It can be closed before the interpreter is finalized.
//!
//! *Owns*: the count of threads inside. *Runs on*: any thread. *Invariants*: threads of the server attach to the
//! interpreter only through `attach`, except the thread that finalizes the interpreter. Once the gate is closed, no
//! thread enters. *Source*: a thread that attaches while `Py_FinalizeEx` runs makes a thread state of an interpreter
//! that is being freed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pyo3::Python;

use crate::sys::{Condition, Lock, Stays};

/// The bit that says that the gate is closed. The other bits count the threads inside.
const CLOSED: usize = 1 << (usize::BITS - 1);

static GATE: AtomicUsize = AtomicUsize::new(0);

/// The last thread that leaves a closed gate takes this lock, and then notifies `LEFT`.
static LEAVING: Lock<()> = Lock::new(());
static LEFT: Condition = Condition::new();

/// One thread inside.
struct Inside;

impl Inside {
    fn enter() -> Option<Self> {
        if GATE.fetch_add(1, Ordering::SeqCst) & CLOSED != 0 {
            Self::leave();
            return None;
        }
        Some(Self)
    }

    fn leave() {
        if GATE.fetch_sub(1, Ordering::SeqCst) == CLOSED + 1 {
            drop(LEAVING.lock());
            LEFT.notify_all();
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        Self::leave();
    }
}

/// Runs `work` with the GIL held. Returns `None` if Python is being finalized or is not initialized.
///
/// If the interpreter is finalized while `work` runs, the calling thread stays where it is.
pub fn attach<R>(work: impl FnOnce(Python<'_>) -> R) -> Option<R> {
    let _inside = Inside::enter()?;
    let _stays = Stays::here();
    Python::try_attach(work)
}

/// Lets no further thread in, and waits at most `timeout` until all have left. Returns whether they have. Call it
/// without the GIL: the threads need it in order to leave.
pub fn close(timeout: Duration) -> bool {
    GATE.fetch_or(CLOSED, Ordering::SeqCst);
    let _leaving = LEFT.wait_timeout_while(LEAVING.lock(), timeout, |()| GATE.load(Ordering::SeqCst) != CLOSED);
    GATE.load(Ordering::SeqCst) == CLOSED
}

/// Lets threads in again, if Python was not finalized after all.
pub fn open() {
    GATE.fetch_and(!CLOSED, Ordering::SeqCst);
}
