//! SIGQUIT: what every request and every Python thread is doing.
//!
//! *Owns*: the handler of Python's module `faulthandler`, for when Python cannot be asked. *Runs on*: a thread for each report,
//! which never has the GIL; the question to Python has a thread of its own, which may wait for it. *Invariants*: a
//! report is written within `PYTHON_MAX` and the time that the disk takes, whatever the application does.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use signal_hook::consts::SIGQUIT;

use crate::config::{Config, LogTarget};
use crate::executor::gate;
use crate::log as logs;
use crate::phrase::seconds;
use crate::server::Server;
use crate::sys::{self, SignalAction};
use crate::{stdlib, wsgi};

/// How long Python may take to answer.
const PYTHON_MAX: Duration = Duration::from_secs(3);

/// Writes reports, one after the other.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    /// A report is being written.
    writing: Mutex<()>,
    /// What writes the stacks without the GIL, unless there is no file for it.
    stacks: Option<SignalAction>,
    /// A thread still waits for Python.
    asking: Arc<AtomicBool>,
}

impl Reporter {
    /// Has `faulthandler` prepare its handler. SIGQUIT does what it did before.
    pub(super) fn prepare(py: Python<'_>, config: &Config) -> PyResult<Self> {
        let file = match &config.error_logfile {
            LogTarget::File(path) => open_for_append(py, path)?,
            LogTarget::Standard | LogTarget::None => py.import("sys")?.getattr("__stderr__")?,
        };
        if file.is_none() {
            return Ok(Self::default());
        }
        let options = PyDict::new(py);
        options.set_item("file", file)?;
        options.set_item("all_threads", true)?;
        let before = sys::signal_action(SIGQUIT);
        stdlib::get(py)?.faulthandler.bind(py).call_method("register", (SIGQUIT,), Some(&options))?;
        let stacks = sys::signal_action(SIGQUIT);
        sys::restore_signal_action(SIGQUIT, &before);
        Ok(Self { stacks: Some(stacks), ..Self::default() })
    }

    /// Lets go of the file.
    pub(super) fn unregister(py: Python<'_>) -> PyResult<()> {
        stdlib::get(py)?.faulthandler.bind(py).call_method1("unregister", (SIGQUIT,)).map(drop)
    }

    /// Has a thread write what the server and the process's Python threads are doing. The caller does not wait: the next
    /// signal may be one to stop.
    pub(super) fn report(self: &Arc<Self>, server: &Arc<Server>) {
        let (reporter, its) = (Arc::clone(self), Arc::clone(server));
        if thread::Builder::new().name("maypole-report".to_owned()).spawn(move || reporter.write(&its)).is_err() {
            self.write(server);
        }
    }

    fn write(&self, server: &Arc<Server>) {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let summary = server.summary();
        match self.ask_python(server) {
            Ok(stacks) => log::info!("SIGQUIT: {summary}\n{stacks}"),
            Err(why) => {
                let table = server.serving_table();
                log::warn!("SIGQUIT: {summary}{table}\n{why}; its fault handler writes the stacks, without names");
                logs::flush();
                if let Some(stacks) = &self.stacks {
                    sys::run_signal_handler(SIGQUIT, stacks);
                }
            }
        }
    }

    /// The requests with their stacks, or a sentence that says why there are none.
    fn ask_python(&self, server: &Arc<Server>) -> Result<String, String> {
        if self.asking.swap(true, Ordering::SeqCst) {
            return Err("Python has not answered the last SIGQUIT yet".to_owned());
        }
        let (tell, told) = mpsc::channel();
        let (server, asking) = (Arc::clone(server), Arc::clone(&self.asking));
        let ask = move || {
            let report = gate::attach(|py| {
                wsgi::report(py, server.serving(), true).map_err(|error| wsgi::traceback(py, &error))
            });
            asking.store(false, Ordering::SeqCst);
            let _ = tell.send(report.unwrap_or_else(|| Err("Python is going down".to_owned())));
        };
        if let Err(error) = thread::Builder::new().name("maypole-ask".to_owned()).spawn(ask) {
            self.asking.store(false, Ordering::SeqCst);
            return Err(format!("no thread can be started that asks Python: {}", error.kind()));
        }
        let late = || format!("Python did not answer within {}: some thread keeps the GIL", seconds(PYTHON_MAX));
        told.recv_timeout(PYTHON_MAX).unwrap_or_else(|_| Err(late()))
    }
}

fn open_for_append<'py>(py: Python<'py>, path: &Path) -> PyResult<Bound<'py, PyAny>> {
    py.import("builtins")?.call_method1("open", (path, "ab", 0))
}
