//! The threads and the child processes of the application, which may keep a process from ending. A template warns of its
//! threads, too.
//!
//! *Owns*: nothing. *Runs on*: the main thread, with the GIL held, lists the threads. The guard looks, without the GIL,
//! which of them still run.

use pyo3::prelude::*;

use super::Ending;
use crate::phrase::count;
use crate::{stdlib, sys};

/// A thread of the application.
pub(in super::super) struct AppThread {
    name: String,
    /// The system's thread ID.
    id: u32,
    /// Whether Python ends without waiting for it.
    is_daemon: bool,
}

impl Ending {
    /// Returns a phrase that names what keeps Python from ending.
    pub(super) fn left(&self) -> String {
        let lives = |thread: &&AppThread| sys::thread_lives(thread.id);
        let Some(threads) = &self.threads else { return "threads of the server are still about to end".to_owned() };
        let threads = names(threads.iter().filter(lives));
        let children: Vec<_> = sys::children().into_iter().map(|(pid, command)| format!("{pid} ({command})")).collect();
        let mut left = Vec::new();
        for (kind, which) in [("thread", threads), ("child process", children)] {
            if !which.is_empty() {
                left.push(listed(kind, &which));
            }
        }
        if left.is_empty() {
            return "no thread and no child process is left: an exit function or a destructor still runs".to_owned();
        }
        format!("left: {}", left.join("; "))
    }
}

/// `2 threads: 'a', 'b'`
pub(super) fn listed(kind: &str, which: &[String]) -> String {
    format!("{}: {}", count(which.len(), kind), which.join(", "))
}

/// Returns the names of threads, in quotes.
pub(in super::super) fn names<'a>(threads: impl IntoIterator<Item = &'a AppThread>) -> Vec<String> {
    threads.into_iter().map(|thread| format!("'{}'", thread.name)).collect()
}

/// Returns the threads that Python waits for when it ends: all but daemon threads and the main thread.
pub(super) fn threads_that_stay(py: Python<'_>) -> PyResult<Vec<AppThread>> {
    Ok(app_threads(py)?.into_iter().filter(|thread| !thread.is_daemon).collect())
}

/// Returns the threads that Python knows, all but the main thread.
pub(in super::super) fn app_threads(py: Python<'_>) -> PyResult<Vec<AppThread>> {
    let threading = stdlib::get(py)?.threading.bind(py);
    let main = threading.call_method0("main_thread")?;
    let mut found = Vec::new();
    for thread in threading.call_method0("enumerate")?.try_iter()? {
        let thread = thread?;
        if thread.is(&main) {
            continue;
        }
        let name = thread.getattr("name")?.str()?.to_string_lossy().into_owned();
        let is_daemon = thread.getattr("daemon")?.is_truthy()?;
        // A thread that is only about to run has no ID yet.
        let id = thread.getattr("native_id")?.extract::<Option<u32>>()?.unwrap_or_default();
        found.push(AppThread { name, id, is_daemon });
    }
    Ok(found)
}
