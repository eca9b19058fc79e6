//! The ways in which a process ends: with Python, or although calls still run.
//!
//! *Owns*: nothing. *Runs on*: the main thread, or the guard. *Invariants*: the exit functions of the application have a
//! limit of time unless Python itself runs them. A process that starts again at SIGHUP goes on instead of ending.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use pyo3::prelude::*;

use crate::cli::Exit;
use crate::worker::{logging, reexec};
use crate::{identity, logs, stdlib, sys};

/// If the process ends while calls still run, the application's exit functions may take this long.
const EXIT_FUNCTIONS_MAX: Duration = Duration::from_secs(2);

/// Waits for the application's threads and runs its exit functions, as Python does at its end. For a process whose
/// interpreter was started by another program. (Main thread.)
pub(in super::super) fn end_python() {
    Python::attach(|py| {
        let ended = stdlib::get(py).and_then(|modules| {
            modules.threading.bind(py).call_method0("_shutdown")?;
            modules.atexit.bind(py).call_method0("_run_exitfuncs")
        });
        if let Err(error) = ended {
            log::warn!("the end of Python has failed:\n{}", crate::wsgi::traceback(py, &error));
        }
        stdlib::flush_output(py);
    });
}

/// Ends the process although calls may still run. Runs the application's exit functions, but does not wait for its
/// threads.
pub(super) fn leave_now(exit: Exit) -> ! {
    logs::flush();
    let (done, wait) = mpsc::channel();
    let run = move || {
        Python::attach(|py| {
            if logs::is_delivery_stuck() {
                logging::leave_blocked_handlers(py);
            }
            let _ = stdlib::get(py).and_then(|modules| modules.atexit.bind(py).call_method0("_run_exitfuncs"));
            stdlib::flush_output(py);
        });
        let _ = done.send(());
    };
    // The wait has a limit: a call that computes without releasing the GIL cannot keep the process alive.
    match thread::Builder::new().name("maypole-exit".to_owned()).spawn(run) {
        Ok(_) => drop(wait.recv_timeout(EXIT_FUNCTIONS_MAX)),
        Err(error) => {
            let error = sys::plain(&error);
            log::warn!("the application's exit functions do not run: cannot start a thread: {error}");
        }
    }
    end_process(exit)
}

/// Ends the process at once.
pub(super) fn end_process(exit: Exit) -> ! {
    /// Set by the first thread that ends the process. A second thread must not wait for the log as well.
    static ENDING: AtomicBool = AtomicBool::new(false);
    if !ENDING.swap(true, Ordering::SeqCst) {
        identity::remove_pid_file();
        logs::flush();
    }
    reexec::go_on();
    sys::exit_now(exit as i32)
}
