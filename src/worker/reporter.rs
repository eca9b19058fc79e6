//! Reports what every request and every Python thread is doing, at SIGQUIT.
//!
//! *Owns*: the reports. *Runs on*: one thread for each report, which never takes the GIL; a second thread asks Python
//! and may wait for the GIL. *Invariants*: a report is written within `PYTHON_MAX` plus the time of the disk, whatever
//! the application does. If it has to wait for an earlier report, it takes twice as long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::faults::{Faults, Stacks};
use crate::executor::gate;
use crate::instance::Instance;
use crate::logs;
use crate::phrase::seconds;
use crate::signals::Cause;
use crate::sys::Lock;
use crate::wsgi;

/// How long Python may take to respond.
const PYTHON_MAX: Duration = Duration::from_secs(3);

/// Writes reports, one at a time.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    /// Locked while a report is written. Holds the receiver of an answer that Python still owes to an earlier report.
    owed: Lock<Option<Receiver<Answer>>>,
    /// Whether a report waits for the one that is being written. Further signals share it.
    queued: AtomicBool,
    /// The handler that writes the stacks without the GIL. `None` if it has no file to write to.
    stacks: Option<Stacks>,
}

/// A report with the stack of each request, or the reason why Python could not give the stacks.
type Answer = Result<String, String>;

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
        let mut owed = self.owed.lock();
        self.queued.store(false, Ordering::SeqCst);
        match ask_python(&mut owed, instance) {
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

/// Returns the report with the stack of each request. If Python still owes an answer to an earlier report, first waits
/// for that answer.
fn ask_python(owed: &mut Option<Receiver<Answer>>, instance: &Arc<Instance>) -> Answer {
    let end = Instant::now() + PYTHON_MAX;
    if let Some(earlier) = owed.take() {
        await_python(earlier, end, owed)?.ok();
    }
    let (tell, told) = mpsc::channel();
    let instance = Arc::clone(instance);
    let ask = move || {
        let report = gate::attach(|py| {
            let (summary, serving) = instance.server().summary();
            let stacks = wsgi::report(py, serving, true).map_err(|error| wsgi::traceback(py, &error))?;
            Ok(format!("{summary}\n{stacks}"))
        });
        let _ = tell.send(report.unwrap_or_else(|| Err("Python is going down".to_owned())));
    };
    match thread::Builder::new().name("maypole-ask".to_owned()).spawn(ask) {
        Ok(_) => await_python(told, end, owed)?,
        Err(error) => Err(format!("no thread can be started that asks Python: {}", error.kind())),
    }
}

/// Waits for an answer until `end`. If none has arrived by then, stores its receiver in `owed`.
fn await_python(told: Receiver<Answer>, end: Instant, owed: &mut Option<Receiver<Answer>>) -> Result<Answer, String> {
    match told.recv_timeout(end.saturating_duration_since(Instant::now())) {
        Ok(answer) => Ok(answer),
        Err(RecvTimeoutError::Disconnected) => Ok(Err("the thread that asks Python failed".to_owned())),
        Err(RecvTimeoutError::Timeout) => {
            *owed = Some(told);
            Err(format!("Python did not answer within {}: some thread keeps the GIL", seconds(PYTHON_MAX)))
        }
    }
}
