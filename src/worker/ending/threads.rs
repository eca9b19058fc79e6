//! The threads and the child processes of the application, which may keep a process from ending.
//!
//! *Owns*: nothing. *Runs on*: the main thread, with the GIL held, lists the threads. The guard looks, without the GIL,
//! which of them still run.

use pyo3::prelude::*;

use super::Ending;
use crate::phrase::count;
use crate::{stdlib, sys};

/// A thread of the application that Python waits for when it ends.
pub(super) struct AppThread {
    name: String,
    /// The system's thread ID.
    id: u32,
}

impl Ending {
    /// Returns a phrase that names what keeps Python from ending.
    pub(super) fn left(&self) -> String {
        let lives = |thread: &&AppThread| sys::thread_lives(thread.id);
        let Some(threads) = &self.threads else { return "threads of the server are still about to end".to_owned() };
        let threads: Vec<_> = threads.iter().filter(lives).map(|thread| format!("'{}'", thread.name)).collect();
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

pub(super) fn names(threads: &[AppThread]) -> Vec<String> {
    threads.iter().map(|thread| format!("'{}'", thread.name)).collect()
}

/// Returns the threads that Python waits for when it ends: all but daemon threads and the main thread.
pub(super) fn threads_that_stay(py: Python<'_>) -> PyResult<Vec<AppThread>> {
    let threading = stdlib::get(py)?.threading.bind(py);
    let main = threading.call_method0("main_thread")?;
    let mut found = Vec::new();
    for thread in threading.call_method0("enumerate")?.try_iter()? {
        let thread = thread?;
        if thread.is(&main) || thread.getattr("daemon")?.is_truthy()? {
            continue;
        }
        let name = thread.getattr("name")?.str()?.to_string_lossy().into_owned();
        found.push(AppThread { name, id: thread.getattr("native_id")?.extract()? });
    }
    Ok(found)
}
