//! Refuses to serve if gevent or eventlet has replaced Python's threads: calls on real threads would then wait for each
//! other without end.
//!
//! *Owns*: whether they have been replaced since the start. *Runs on*: the thread that starts a server; `look` after a
//! call that has imported something, and about once a second while calls run. *Invariants*: neither library is imported
//! here: a library that is not loaded has replaced nothing.
#![allow(unsafe_code, reason = "pyo3 glue: the number of modules")]

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;

use super::TARGET;

/// The modules that patch, the functions that tell, and their argument.
const LIBRARIES: [(&str, &str, &str, &str); 2] = [
    ("eventlet", "eventlet.patcher", "is_monkey_patched", "thread"),
    ("gevent", "gevent.monkey", "is_module_patched", "threading"),
];

/// Threads have been patched while requests were served.
static PATCHED: AtomicBool = AtomicBool::new(false);

/// The library that has replaced the standard library's threads, if one has.
pub fn patched_by(py: Python<'_>) -> Option<&'static str> {
    let modules = py.import("sys").and_then(|sys| sys.getattr("modules")).ok()?;
    LIBRARIES.into_iter().find_map(|(library, module, function, what)| {
        let module = modules.get_item(module).ok()?;
        // A module that is still being imported may not have the function yet.
        let said = module.getattr_opt(function).ok()??.call1((what,)).ok()?;
        said.is_truthy().unwrap_or(false).then_some(library)
    })
}

/// What is wrong, and what to do.
pub fn sentence(library: &str) -> String {
    format!(
        "{library} has monkey-patched `thread` in this process, so that the threads of the server would not be real ones: \
         do not patch it (maypole needs nothing patched), or patch everything but it"
    )
}

/// Looks whether threads have been patched meanwhile; from then on no more calls are made.
pub(super) fn look(py: Python<'_>) {
    if is_refused() {
        return;
    }
    if let Some(library) = patched_by(py)
        && !PATCHED.swap(true, Ordering::Relaxed)
    {
        log::error!(
            target: TARGET,
            "{}. It was patched while requests were served: running requests may never end, all others are answered 500 \
             until this process is started again",
            sentence(library)
        );
    }
}

/// How many modules are loaded: the library that patches is a new one, and its import costs far more than a look.
#[inline]
pub(super) fn module_count(_py: Python<'_>) -> isize {
    // SAFETY: the GIL is held; the dictionary is the interpreter's, which only lends it, and lives as long as that.
    unsafe { ffi::PyDict_Size(ffi::PyImport_GetModuleDict()) }
}

/// Whether calls are refused.
#[inline]
pub(super) fn is_refused() -> bool {
    PATCHED.load(Ordering::Relaxed)
}
