//! Reports what every request and every Python thread is doing, at SIGQUIT.
//!
//! *Owns*: the reports. *Runs on*: one thread for each report, which never takes the GIL; a second thread asks Python
//! and may wait for the GIL. *Invariants*: a report is written within `PYTHON_MAX` plus the time of the disk, whatever
//! the application does. If it has to wait for an earlier report, it takes twice as long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use pyo3::prelude::*;

use super::asker::Asker;
use super::faults::{Faults, Stacks};
use crate::instance::Instance;
use crate::logs;
use crate::signals::Cause;
use crate::sys::Lock;
use crate::wsgi;

/// How long Python may take to respond.
const PYTHON_MAX: Duration = Duration::from_secs(3);

/// Writes reports, one at a time.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    /// Locked while a report is written.
    asker: Lock<Asker>,
    /// Whether a report waits for the one that is being written. Further signals share it.
    queued: AtomicBool,
    /// The handler that writes the stacks without the GIL. `None` if it has no file to write to.
    stacks: Option<Stacks>,
}

impl Reporter {
    /// Returns a reporter that uses `faulthandler` if Python does not respond.
    pub(super) fn prepare(py: Python<'_>, faults: Option<&Faults>) -> PyResult<Self> {
        let stacks = faults.map(|faults| faults.prepare_report(py)).transpose()?;
        Ok(Self { stacks, ..Self::default() })
    }

    /// Starts a thread that reports what the server and the Python threads of the process are doing. The caller does
    /// not wait, because the next signal may be one to stop.
    pub(super) fn report(self: &Arc<Self>, instance: &Arc<Instance>, cause: &Cause) {
        if self.queued.swap(true, Ordering::SeqCst) {
            return;
        }
        let (reporter, its, why) = (Arc::clone(self), Arc::clone(instance), cause.clone());
        if thread::Builder::new().name("maypole-report".to_owned()).spawn(move || reporter.write(&its, &why)).is_err() {
            self.write(instance, cause);
        }
    }

    fn write(&self, instance: &Arc<Instance>, cause: &Cause) {
        let mut asker = self.asker.lock();
        self.queued.store(false, Ordering::SeqCst);
        match ask_python(&mut asker, instance) {
            Ok(report) => log::info!("{cause}: {report}"),
            Err(why) => {
                let (summary, serving) = instance.server().summary();
                let table: String = serving.iter().flat_map(|served| ["\n  ".to_owned(), served.to_string()]).collect();
                log::warn!("{cause}: {summary}{table}\n{why}; its fault handler writes the stacks, without names");
                logs::flush();
                if let Some(stacks) = &self.stacks {
                    stacks.write();
                }
            }
        }
    }
}

/// Returns the report with the stack of each request, or the reason why Python could not give the stacks.
fn ask_python(asker: &mut Asker, instance: &Arc<Instance>) -> Result<String, String> {
    let instance = Arc::clone(instance);
    let answer = asker.ask(PYTHON_MAX, move |py| {
        let (summary, serving) = instance.server().summary();
        let stacks = wsgi::report(py, serving, true).map_err(|error| wsgi::traceback(py, &error))?;
        Ok(format!("{summary}\n{stacks}"))
    });
    answer.unwrap_or_else(|silence| Err(silence.sentence(PYTHON_MAX)))
}
