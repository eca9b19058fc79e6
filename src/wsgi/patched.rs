//! Refuses to serve if gevent or eventlet has replaced Python's threads: calls on real threads would then wait for each
//! other forever.
//!
//! *Owns*: whether threads have been replaced since the start. *Runs on*: the thread that starts a server; `look` also
//! runs after a call that has imported a module, and about once a second while calls run. *Invariants*: this module
//! imports neither library, because a library that is not loaded has replaced nothing.
#![allow(unsafe_code, reason = "pyo3 glue: the number of modules")]

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;

use super::TARGET;

/// Library, module, function that returns whether it has patched, and that function's argument.
const LIBRARIES: [(&str, &str, &str, &str); 2] = [
    ("eventlet", "eventlet.patcher", "is_monkey_patched", "thread"),
    ("gevent", "gevent.monkey", "is_module_patched", "threading"),
];

/// Whether threads have been patched while requests were served.
static PATCHED: AtomicBool = AtomicBool::new(false);

/// Returns the library that has replaced the standard library's threads, if there is one.
pub fn patched_by(py: Python<'_>) -> Option<&'static str> {
    let modules = py.import("sys").and_then(|sys| sys.getattr("modules")).ok()?;
    LIBRARIES.into_iter().find_map(|(library, module, function, what)| {
        let module = modules.get_item(module).ok()?;
        // A module that is still being imported may not have the function yet.
        let said = module.getattr_opt(function).ok()??.call1((what,)).ok()?;
        said.is_truthy().unwrap_or(false).then_some(library)
    })
}

/// Returns the message for the operator: the problem and its remedy.
pub fn sentence(library: &str) -> String {
    format!(
        "{library} has monkey-patched `thread` in this process, so that the threads of the server would not be real ones: \
         do not patch it (maypole needs nothing patched), or patch everything but it"
    )
}

/// Checks whether threads have been patched. If so, the server makes no further calls.
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

/// Returns the number of loaded modules. A new number means an import, after which `look` must run; an import costs far
/// more than that check.
#[inline]
pub(super) fn module_count(_py: Python<'_>) -> isize {
    // SAFETY: the GIL is held; the dictionary is the interpreter's, which only lends it, and lives as long as that.
    unsafe { ffi::PyDict_Size(ffi::PyImport_GetModuleDict()) }
}

/// Returns whether calls are refused.
#[inline]
pub(super) fn is_refused() -> bool {
    PATCHED.load(Ordering::Relaxed)
}
